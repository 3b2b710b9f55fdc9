"""Build the state of one run: role constants, workers, ranks, requests and what they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup
from search_spaces.stack import StackVersion
from simulator import loop_state as ls
from simulator.acceptance import simulated_length
from simulator.adaptive_tables import drafting
from simulator.batch_overlap import launches_per_layer
from simulator.calibration import HostCosts
from simulator.cost_tables import RoleTables, decode_tables, padded_batch, prefill_tables
from simulator.draft_shapes import WHOLE, DraftShape, bare, shapes_of, trimmed
from simulator.loop_costs import kernel_variant
from simulator.measured_tables import check_steps, measured_role, plain_page_tokens
from simulator.memory import PAGE_TOKENS, MemoryBudget, memory_budget
from simulator.rank_state import empty_ranks
from simulator.request_table import request_table
from simulator.rng import loop_seed, stream
from simulator.setting import Relief as Relief
from simulator.setting import Setting as Setting
from simulator.setting import keeps_tail_only
from simulator.step_cost import Scenario, extends_prompts
from simulator.traffic import Traffic, traffic

ROLE_CODES = {"prefill": ls.PREFILL, "decode": ls.DECODE, "aggregated": ls.AGGREGATED}
POLICY_CODES = {"round_robin": 0, "load": 1, "random": 2, "kv": 3}
BALANCE_CODES = {"auto": 0, "round_robin": 0, "total_requests": 1, "total_tokens": 2}
DRAW_CODES = {"match-expected": ls.MATCH_EXPECTED, "multinomial": ls.MULTINOMIAL}
EVICTION_INTERVAL = 128
"""Decode iterations between window evictions without per-request eviction (SGLang 0.5.15 default)."""


def _relieved(budget: MemoryBudget, group: EngineGroup, relief: Relief) -> tuple[float, float, int, int]:
    """Full tokens, window tokens, running limit and slots after relief."""
    return (
        budget.full_tokens * relief.full_pool,
        budget.swa_tokens * relief.swa_pool,
        int(min(group.max_running_per_rank, budget.slots) * relief.slots),
        int(budget.slots * relief.slots),
    )


@dataclass(frozen=True)
class _Site:
    """What the constants of a role depend on besides its group and memory."""

    model: ModelSpec | None
    hardware: Hardware | None
    stack: StackVersion
    host: HostCosts
    compile_s: float
    """Of one kernel variant."""
    first_use_s: float
    """Standstill of a worker halfway through its prompts; zero in a server that is warm."""
    half_the_prompts: int
    """Half of the run's prompt tokens; zero in a server that is warm, where nothing asks for them."""
    relief: Relief
    lengths: tuple[int, int]
    """Shortest and longest prompt drawn."""
    shares_prefixes: bool

    @classmethod
    def of(cls, setting: Setting) -> _Site:
        load, steps = setting.workload, setting.steps
        fresh = load.fresh_server and steps is None
        return cls(
            setting.model,
            setting.hardware,
            setting.stack,
            setting.host,
            0.0 if steps or setting.stack.has("mhc_prewarm") else setting.calibration.bucket_compile_s,
            setting.calibration.first_use_s if fresh else 0.0,
            int(load.mean_isl * load.measured_requests / 2) if fresh else 0,
            setting.relief,
            (max(1, int(load.isl * load.random_range_ratio)), load.isl),
            load.shares_prefixes,
        )


@lru_cache(maxsize=8192)
def _known_rows(scn: Scenario, role: str, site: _Site) -> tuple[list[int], list[float]]:
    """Rows of a role by the kernel model. Recipes share roles, so each is worked out once."""
    return _class_rows(
        site, role, scn.group, _role_class(scn, role).budget, _stage_share(scn.model, scn.group)
    )


def _class_rows(
    site: _Site, role: str, group: EngineGroup, budget: MemoryBudget, stage_share: float
) -> tuple[list[int], list[float]]:
    host, relief, model = site.host, site.relief, site.model
    full, swa, running, slots = _relieved(budget, group, relief)
    speculative, mtp = group.mtp is not None, group.mtp
    simulated = mtp.simulated_accept_length if mtp else None
    ints = [0] * ls.NUM_CLASS_INTS
    for column, value in {
        ls.ROLE: ROLE_CODES[role],
        ls.CHUNK: group.chunk_tokens_per_rank,
        ls.MAX_PREFILL: group.max_prefill_tokens,
        ls.MAX_RUNNING: running,
        ls.SLOTS: slots,
        ls.POLL: group.decode_polling_interval,
        ls.RESERVE: group.reserved_decode_tokens,
        ls.DRAFT: group.draft_tokens,
        ls.LOCAL_BUCKETS: int(group.local_graph_buckets),
        ls.DELAYER: int(group.prefill_delayer),
        ls.INTERVAL: group.prefill_decode_interval,
        ls.DP: group.attention_dp,
        ls.WORKERS: group.num_workers,
        ls.SPEC: int(speculative),
        ls.CLIP: group.clip_max_new_tokens,
        ls.SWA_INTERVAL: 0 if site.stack.has("swa_evict_per_request") else EVICTION_INTERVAL,
        ls.MIXED: int(group.mixed_chunk and not speculative),
        ls.BALANCE: BALANCE_CODES[group.load_balance],
        ls.RADIX: int(group.radix_cache and role != "decode" and site.shares_prefixes),
        ls.KEPT_WINDOW: int(not keeps_tail_only(site.stack, group)),
        ls.STAGES: group.pp,
        ls.OVERLAP: int(group.overlap_schedule),
        ls.SMS: site.hardware.num_sms if site.hardware else 1,
        ls.COMPILED_AT_START: _warm_variants(site, group),
        ls.FIRST_USE_AT: max(1, site.half_the_prompts // group.num_workers),
        ls.CHUNK_PAGE: PAGE_TOKENS if model else plain_page_tokens(group),
        ls.PROGRESS_BY: ls.DRAWN_UNITS if simulated else ls.ONE_UNIT,
        ls.DRAW_METHOD: DRAW_CODES[mtp.simulated_accept_method] if mtp else 0,
        ls.STEPS_DRAFTED: mtp.num_steps if mtp else 0,
        ls.CRASHES: int(not site.stack.has("swa_evict_per_request")),
    }.items():
        ints[column] = int(value)
    depth = model.num_layers if model else 0  # measured steps contain their launches
    layers = depth * launches_per_layer(group)
    layers += model.num_mtp_layers if model and extends_prompts(group) else 0
    # Of a pipeline the fullest stage sets the pace; each stage has a process that launches its own layers.
    launch = layers * host.prefill_layer_s * stage_share
    if model and speculative:
        launch += host.prefill_draft_s
    if group.prefill_graph and site.stack.has("breakable_prefill_graph"):
        launch /= 4
    floats = [0.0] * ls.NUM_CLASS_FLOATS
    for column, quantity in {
        ls.FULL: full,
        ls.SWA: swa,
        ls.RATIO_INIT: 0.7 * group.schedule_conservativeness * (0.3 if group.attention_dp > 1 else 1.0),
        ls.GAP: host.step_gap_s * relief.decode_time,
        ls.SEQ_EXPOSED: host.decode_exposed_sequence_s * relief.decode_time,
        ls.HOST_BASE: host.decode_launch_s(mtp.draft_passes if mtp else 0) * relief.decode_time,
        ls.HOST_SEQ: host.decode_sequence_s * relief.decode_time,
        ls.EAGER: depth * host.decode_eager_layer_s * relief.decode_time,
        ls.SWA_RESERVE: 0 if site.stack.has("swa_budget") else group.reserved_decode_tokens,
        ls.JOIN: (host.join_stall_s if group.attention_dp > 1 else 0.0) * relief.decode_time,
        ls.EXTEND: host.draft_extend_s * relief.decode_time
        if extends_prompts(group) and not site.stack.has("draft_extend_graph")
        else 0.0,
        ls.DRAW_MEAN: simulated or 0.0,
        ls.UNITS_PER_STEP: simulated_length(mtp) if mtp and simulated else 1.0,
        ls.LAUNCH: launch * relief.prefill_time,
        ls.EXPOSED: host.prefill_exposed_fraction,
        ls.COMPILE: site.compile_s,
        ls.FIRST_USE: site.first_use_s,
        ls.PREFILL_BASE: host.prefill_base_s * relief.prefill_time,
    }.items():
        floats[column] = float(quantity)
    return ints, floats


def _warm_variants(site: _Site, group: EngineGroup) -> int:
    """Kernel variants that warm-up has compiled: those of lone prompts, in chunks, of any length drawn."""
    if site.hardware is None:
        return 0
    return _variants_between(*site.lengths, group.chunk_tokens_per_rank, site.hardware.num_sms)


@lru_cache(maxsize=1024)
def _variants_between(shortest: int, longest: int, chunk: int, num_sms: int) -> int:
    """The same of prompt lengths from `shortest` to `longest`."""
    found = 0
    for length in range(shortest, longest + 1, 64):
        for tokens in {min(length, chunk), length % chunk}:
            found |= kernel_variant(num_sms, tokens) if tokens else 0
    return found


def _stage_share(model: ModelSpec, group: EngineGroup) -> float:
    """Layers of the fullest pipeline stage over all layers."""
    return -(-model.num_layers // group.pp) / model.num_layers


@dataclass(frozen=True)
class RoleClass:
    """Constants and tables of one role, before relief."""

    budget: MemoryBudget
    prefill: RoleTables
    decode: RoleTables
    bucket: NDArray[np.int64]


@lru_cache(maxsize=8192)
def _role_class(scn: Scenario, role: str) -> RoleClass:
    budget = memory_budget(scn.model, scn.group, scn.hardware, scn.stack, role)
    shared = replace(scn, group=bare(scn.group))
    prefill = prefill_tables(shared) if role != "decode" else None
    decode = decode_tables(shared) if role != "prefill" else None
    found = prefill or decode
    assert found is not None
    return RoleClass(budget, prefill or found, decode or found, padded_batch(scn, 2 * budget.slots + 1))


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
    roles, site = list(setting.recipe.groups), _Site.of(setting)
    if setting.steps is not None:
        check_steps(setting.steps, setting.recipe)
        group = setting.recipe.serving
        found = [RoleClass(*measured_role(setting.steps, group, setting.model is not None))]
    else:
        found = [_role_class(setting.scenario(g), role) for role, g in setting.recipe.groups.items()]
    rows = [_role_row(setting, site, role, part) for role, part in zip(roles, found, strict=True)]
    serving = roles.index("decode") if setting.recipe.is_disaggregated else 0
    shapes = shapes_of(setting, setting.recipe.serving)
    shape_of = {steps: len(rows) + k for k, steps in enumerate(shapes)}
    rows += [_shaped(setting, site, roles[serving], found[serving], shape) for shape in shapes.values()]
    if shapes:
        rows[serving].ints[ls.ADAPTS] = 1
        rows[serving].ints[ls.PROGRESS_BY] = rows[-1].ints[ls.PROGRESS_BY]
    return ClassTables(_classes(setting, rows), roles, [part.budget for part in found], shape_of)


@dataclass
class _Row:
    """One row of `Classes`, before relief."""

    ints: list[int]
    floats: list[float]
    part: RoleClass
    stage_share: float
    progress: NDArray[np.float64]


def _role_row(setting: Setting, site: _Site, role: str, part: RoleClass) -> _Row:
    group = setting.recipe.groups[role]
    shape = trimmed(setting, group) if role != "prefill" else None
    if shape is not None:
        return _shaped(setting, site, role, part, shape)
    if setting.steps is not None:
        return _Row(*_class_rows(site, role, group, part.budget, 1.0), part, 1.0, WHOLE)
    scn = setting.scenario(group)
    ints, floats = _known_rows(scn, role, site)
    # Copies: an adaptive role edits its row, and the cached one serves other settings.
    return _Row(list(ints), list(floats), part, _stage_share(scn.model, group), WHOLE)


def _shaped(setting: Setting, site: _Site, role: str, part: RoleClass, shape: DraftShape) -> _Row:
    """The row of a role at a draft length of its own; progress is in shares of a step at its longest."""
    share = _stage_share(setting.scenario(shape.group).model, shape.group)
    ints, floats = _class_rows(site, role, shape.group, part.budget, share)
    if ints[ls.PROGRESS_BY] == ls.ONE_UNIT:
        ints[ls.PROGRESS_BY] = ls.UNIT_SHARE
    part = replace(part, decode=shape.tables)
    return _Row(ints, floats, part, share, shape.progress)


def _classes(setting: Setting, rows: list[_Row]) -> ls.Classes:
    relief = setting.relief
    stages = np.array([row.stage_share for row in rows])
    width = max(len(row.part.bucket) for row in rows)
    bucket = np.full((len(rows), width), -1, dtype=np.int64)
    for line, row in zip(bucket, rows, strict=True):
        line[: len(row.part.bucket)] = row.part.bucket
    return ls.Classes(
        i=np.array([row.ints for row in rows], dtype=np.int64),
        f=np.array([row.floats for row in rows]),
        decode_rank=np.stack([row.part.decode.rank for row in rows]) * relief.decode_time,
        decode_group=np.stack([row.part.decode.group for row in rows]) * relief.decode_time,
        prefill_rank=np.stack([row.part.prefill.rank for row in rows])
        * relief.prefill_time
        * stages[:, None, None],
        prefill_group=np.stack([row.part.prefill.group for row in rows])
        * relief.prefill_time
        * stages[:, None],
        bucket=bucket,
        progress=np.stack([row.progress for row in rows]),
    )


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
    world = _world(setting, drawn, tables, groups_of, len(groups.next_s))
    return State(classes, groups, ranks, reqs, world, roles, tables.budgets, counts)
