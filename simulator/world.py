"""Build the state of one run: role constants, workers, ranks, requests and what they share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.recipe import EngineGroup
from search_spaces.step_profile import StepProfile
from simulator import loop_state as ls
from simulator.adaptive_tables import drafting
from simulator.cost_tables import RoleTables, decode_tables, padded_batch, prefill_tables
from simulator.draft_shapes import WHOLE, DraftShape, bare, shapes_of, trimmed
from simulator.measured_tables import check_steps, host_pipeline, interruption, measured_role
from simulator.memory import MemoryBudget, memory_budget
from simulator.rank_state import empty_ranks, keep_earlier
from simulator.request_table import request_table
from simulator.rng import loop_seed, stream
from simulator.role_constants import ROLE_CODES, Site, class_rows, stage_share
from simulator.setting import Relief as Relief
from simulator.setting import Setting as Setting
from simulator.step_cost import Scenario
from simulator.traffic import Traffic, traffic

POLICY_CODES = {"round_robin": 0, "load": 1, "random": 2, "kv": 3}


@dataclass(frozen=True)
class RoleClass:
    """Constants of one role, before relief, and where its tables are."""

    budget: MemoryBudget
    bucket: NDArray[np.int64]
    prefill: Callable[[], RoleTables]
    """Works them out when first called. One object for all roles that share tables."""
    decode: Callable[[], RoleTables]


@lru_cache(maxsize=8192)
def _tables(scn: Scenario, role: str) -> Callable[[], RoleTables]:
    return partial(prefill_tables if role == "prefill" else decode_tables, scn)


@lru_cache(maxsize=8192)
def _role_class(scn: Scenario, role: str) -> RoleClass:
    budget = memory_budget(scn.model, scn.group, scn.hardware, scn.stack, role)
    shared = replace(scn, group=bare(scn.group))
    prefill = _tables(shared, "decode" if role == "decode" else "prefill")
    decode = _tables(shared, "prefill" if role == "prefill" else "decode")
    return RoleClass(budget, padded_batch(scn, 2 * budget.slots + 1), prefill, decode)


@lru_cache(maxsize=8192)
def _given(tables: RoleTables) -> Callable[[], RoleTables]:
    return lambda: tables


def _measured_class(steps: StepProfile, group: EngineGroup, has_window: bool) -> RoleClass:
    budget, prefill, decode, bucket = measured_role(steps, group, has_window)
    return RoleClass(budget, bucket, _given(prefill), _given(decode))


@lru_cache(maxsize=8192)
def _known_rows(scn: Scenario, role: str, site: Site) -> tuple[list[int], list[float]]:
    """Rows of a role by the kernel model. Recipes share roles, so each is worked out once."""
    return class_rows(site, role, scn.group, _role_class(scn, role).budget, stage_share(scn.model, scn.group))


class RolePart(NamedTuple):
    """One role of one setting: constants, tables and what they are worth."""

    ints: list[int]
    floats: list[float]
    role: RoleClass
    stage: float
    """Share of the layers that paces its steps."""
    progress: NDArray[np.float64]
    """[batch] share of a step at the longest draft."""


def role_part(setting: Setting, role: str, group: EngineGroup) -> RolePart:
    """Constants and tables of a role that runs `group`; the setting's own recipe is not looked at.

    Raises:
        Infeasible: the role does not fit its GPUs.
    """
    site = Site.of(setting)
    if setting.steps is not None:
        found = _measured_class(setting.steps, group, setting.model is not None)
        pipeline, among = host_pipeline(setting.steps), interruption(setting.steps)
        return RolePart(*class_rows(site, role, group, found.budget, 1.0, pipeline, among), found, 1.0, WHOLE)
    scn = setting.scenario(group)
    found = _role_class(scn, role)
    shape = trimmed(setting, group) if role != "prefill" else None
    if shape is not None:
        return _shaped(setting, role, found, shape)
    ints, floats = _known_rows(scn, role, site)
    # Copies: an adaptive role edits its row, and the cached one serves other settings.
    return RolePart(list(ints), list(floats), found, stage_share(scn.model, group), WHOLE)


def _shaped(setting: Setting, role: str, found: RoleClass, shape: DraftShape) -> RolePart:
    """The row of a role at a draft length of its own; progress is in shares of a step at its longest."""
    share = stage_share(setting.scenario(shape.group).model, shape.group)
    ints, floats = class_rows(Site.of(setting), role, shape.group, found.budget, share)
    if ints[ls.PROGRESS_BY] == ls.ONE_UNIT:
        ints[ls.PROGRESS_BY] = ls.UNIT_SHARE
    return RolePart(ints, floats, replace(found, decode=_given(shape.tables)), share, shape.progress)


def stacked(parts: Sequence[RolePart], relief: Relief) -> ls.Classes:
    """Roles as classes of the loop, in their order."""
    stages = np.array([part.stage for part in parts])
    width = max(len(part.role.bucket) for part in parts)
    bucket = np.full((len(parts), width), -1, dtype=np.int64)
    for row, part in zip(bucket, parts, strict=True):
        row[: len(part.role.bucket)] = part.role.bucket
    prefill, decode = [part.role.prefill() for part in parts], [part.role.decode() for part in parts]
    return ls.Classes(
        i=np.array([part.ints for part in parts], dtype=np.int64),
        f=np.array([part.floats for part in parts]),
        decode_rank=np.stack([tables.rank for tables in decode]) * relief.decode_time,
        decode_group=np.stack([tables.group for tables in decode]) * relief.decode_time,
        prefill_rank=np.stack([tables.rank for tables in prefill])
        * relief.prefill_time
        * stages[:, None, None],
        prefill_group=np.stack([tables.group for tables in prefill]) * relief.prefill_time * stages[:, None],
        bucket=bucket,
        progress=np.stack([part.progress for part in parts]),
    )


class ClassTables(NamedTuple):
    """What a run's roles cost and hold."""

    classes: ls.Classes
    """One row per role, then one per draft length that an adaptive role may take."""
    roles: list[str]
    budgets: list[MemoryBudget]
    """By role."""
    shape_of: dict[int, int]
    """Draft steps to the row with their costs; empty without an adaptive role."""


def class_tables(setting: Setting) -> ClassTables:
    """Constants, cost tables and memory budgets of all roles.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    if setting.steps is not None:
        check_steps(setting.steps, setting.recipe)
    roles = list(setting.recipe.groups)
    own = [role_part(setting, role, group) for role, group in setting.recipe.groups.items()]
    serving = roles.index("decode") if setting.recipe.is_disaggregated else 0
    shapes = shapes_of(setting, setting.recipe.serving)
    shape_of = {steps: len(own) + k for k, steps in enumerate(shapes)}
    drafts = [_shaped(setting, roles[serving], own[serving].role, shape) for shape in shapes.values()]
    if drafts:
        own[serving].ints[ls.ADAPTS] = 1
        own[serving].ints[ls.PROGRESS_BY] = drafts[-1].ints[ls.PROGRESS_BY]
    budgets = [part.role.budget for part in own]
    return ClassTables(stacked([*own, *drafts], setting.relief), roles, budgets, shape_of)


def fingerprint(setting: Setting) -> Hashable:
    """Alike for recipes that the loop cannot tell apart, such as those that differ in what is not simulated.

    Good within one process, for steps by the kernel model: tables are told apart by what works them out.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    recipe = setting.recipe
    found: list[Hashable] = [recipe.frontend.policy, recipe.frontend.router_processes, recipe.mtp]
    found += [recipe.serving.tokenizer_workers, recipe.serving.context_length]
    for role, group in recipe.groups.items():
        ints, floats, part, stage, progress = role_part(setting, role, group)
        found += [role, group.label, *ints, *floats, stage, part.bucket.tobytes(), progress.tobytes()]
        found += [part.prefill, part.decode]
    return tuple(found)


def _groups(setting: Setting, roles: list[str]) -> tuple[ls.Groups, int, NDArray[np.int64], list[int]]:
    groups_of = np.zeros((3, 2), dtype=np.int64)
    rows: list[list[int]] = []
    counts: list[int] = []
    rank = 0
    for index, role in enumerate(roles):
        group = setting.recipe.groups[role]
        groups_of[ROLE_CODES[role]] = (len(rows), group.num_workers)
        counts.append(group.num_workers)
        for _ in range(group.num_workers):
            row = [0] * ls.NUM_GROUP_INTS
            row[ls.CLASS], row[ls.RANK0], row[ls.RANKS] = index, rank, group.attention_dp
            row[ls.SHAPE] = index
            rank += group.attention_dp
            rows.append(row)
    count = len(rows)
    found = ls.Groups(
        i=np.array(rows, dtype=np.int64),
        next_s=np.full(count, np.inf),
        begun_s=np.zeros(count),
        polled_s=np.zeros(count),
        formed_s=np.zeros(count),
        formed_at_s=np.zeros(count),
        gpu_end_s=np.zeros(count),
    )
    return found, rank, groups_of, counts


def _world(
    setting: Setting, drawn: Traffic, tables: ClassTables, groups_of: NDArray[np.int64], num_groups: int
) -> ls.World:
    recipe, workload = setting.recipe, setting.workload
    host = setting.host
    size = 2 * len(drawn.isl) + 16
    counters = np.zeros(ls.NUM_COUNTERS, dtype=np.int64)
    counters[ls.RNG] = loop_seed(setting.seed)
    counters[ls.DRAW_SEED] = int(stream(setting.seed, "simulated acceptance").integers(1, 1 << 62))
    counters[ls.CAP] = drawn.cap
    counters[ls.P_POLICY] = POLICY_CODES[recipe.frontend.policy]
    counters[ls.ROOMS] = 0 if setting.stack.has("aligned_bootstrap_rooms") else 1
    clock = np.zeros(ls.NUM_CLOCKS)
    clock[ls.FRONT_REQUEST] = host.frontend_request_s * setting.relief.frontend_time
    clock[ls.FRONT_TOKEN] = host.frontend_token_s * setting.relief.frontend_time
    clock[ls.FRONT_LATENCY] = host.request_latency_s
    clock[ls.THINK] = workload.think_s
    processes = max(recipe.frontend.router_processes, recipe.serving.tokenizer_workers)
    return ls.World(
        heap_time=np.zeros(size),
        heap_kind=np.zeros(size, dtype=np.int64),
        heap_req=np.zeros(size, dtype=np.int64),
        heap_seq=np.zeros(size, dtype=np.int64),
        counters=counters,
        clock=clock,
        starts=drawn.starts,
        start_s=drawn.start_s,
        frontends=np.zeros(processes),
        totals=np.zeros((len(tables.roles), ls.NUM_TOTALS)),
        groups_of=groups_of,
        drafting=drafting(setting, num_groups, tables.shape_of),
    )


class State(NamedTuple):
    """All that the loop works on, before or after it ran."""

    classes: ls.Classes
    groups: ls.Groups
    ranks: ls.Ranks
    reqs: ls.Requests
    world: ls.World
    roles: list[str]
    budgets: list[MemoryBudget]
    groups_per_role: list[int]


def prepare(setting: Setting) -> State:
    """The state at time 0, with nothing sent yet.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    tables = class_tables(setting)
    classes, roles = tables.classes, tables.roles
    serving = setting.recipe.serving
    drawn = traffic(
        setting.workload, setting.seed, serving.context_length, not setting.recipe.is_disaggregated
    )
    reqs = request_table(setting, drawn)
    groups, num_ranks, groups_of, counts = _groups(setting, roles)
    longest = int(reqs.i[:, ls.ITERS].max()) + 2
    tree = drawn.tree if classes.i[:, ls.RADIX].any() else None
    ranks = empty_ranks(num_ranks, 1 << longest.bit_length(), classes, groups, tree)
    if tree and setting.workload.reused_prompts:
        keep_earlier(ranks, classes, groups, tree, setting.workload.reused_prompts)
    world = _world(setting, drawn, tables, groups_of, len(groups.next_s))
    return State(classes, groups, ranks, reqs, world, roles, tables.budgets, counts)
