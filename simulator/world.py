"""Build the state of one run: role constants, workers, ranks, requests and what they share."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.recipe import EngineGroup
from simulator import loop_state as ls
from simulator.cost_tables import RoleTables, decode_tables, padded_batch, prefill_tables
from simulator.loop_costs import kernel_variant
from simulator.measured_tables import check_steps, measured_role, plain_page_tokens
from simulator.memory import PAGE_TOKENS, MemoryBudget, memory_budget
from simulator.rank_state import empty_ranks
from simulator.request_table import request_table
from simulator.rng import loop_seed
from simulator.setting import Relief as Relief
from simulator.setting import Setting as Setting
from simulator.step_cost import Scenario
from simulator.traffic import Traffic, traffic

ROLE_CODES = {"prefill": ls.PREFILL, "decode": ls.DECODE, "aggregated": ls.AGGREGATED}
POLICY_CODES = {"round_robin": 0, "load": 1, "random": 2, "kv": 3}
BALANCE_CODES = {"auto": 0, "round_robin": 0, "total_requests": 1, "total_tokens": 2}
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


def _class_rows(
    setting: Setting, role: str, group: EngineGroup, budget: MemoryBudget
) -> tuple[list[int], list[float]]:
    host, relief, model = setting.host, setting.relief, setting.model
    full, swa, running, slots = _relieved(budget, group, relief)
    speculative = group.mtp is not None
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
        ls.SWA_INTERVAL: 0 if setting.stack.has("swa_evict_per_request") else EVICTION_INTERVAL,
        ls.MIXED: int(group.mixed_chunk and not speculative),
        ls.BALANCE: BALANCE_CODES[group.load_balance],
        ls.RADIX: int(group.radix_cache and role != "decode" and setting.workload.shares_prefixes),
        ls.KEPT_WINDOW: int(not setting.keeps_tail_only(group)),
        ls.STAGES: group.pp,
        ls.OVERLAP: int(group.overlap_schedule),
        ls.SMS: setting.hardware.num_sms if setting.hardware else 1,
        ls.COMPILED_AT_START: _warm_variants(setting, group),
        ls.CHUNK_PAGE: PAGE_TOKENS if model else plain_page_tokens(group),
        ls.CRASHES: int(not setting.stack.has("swa_evict_per_request")),
    }.items():
        ints[column] = int(value)
    depth = model.num_layers if model else 0  # measured steps contain their launches
    layers = depth + (model.num_mtp_layers if model and speculative else 0)
    # Of a pipeline the fullest stage sets the pace; each stage has a process that launches its own layers.
    launch = layers * host.prefill_layer_s * _stage_share(setting, group)
    if group.prefill_graph and setting.stack.has("breakable_prefill_graph"):
        launch /= 4
    floats = [0.0] * ls.NUM_CLASS_FLOATS
    for column, quantity in {
        ls.FULL: full,
        ls.SWA: swa,
        ls.RATIO_INIT: 0.7 * group.schedule_conservativeness * (0.3 if group.attention_dp > 1 else 1.0),
        ls.GAP: host.step_gap_s * relief.decode_time,
        ls.SEQ_EXPOSED: host.decode_exposed_sequence_s * relief.decode_time,
        ls.HOST_BASE: host.decode_launch_s(group.draft_tokens - 1) * relief.decode_time,
        ls.HOST_SEQ: host.decode_sequence_s * relief.decode_time,
        ls.EAGER: depth * host.decode_eager_layer_s * relief.decode_time,
        ls.SWA_RESERVE: 0 if setting.stack.has("swa_budget") else group.reserved_decode_tokens,
        ls.JOIN: (host.join_stall_s if group.attention_dp > 1 else 0.0) * relief.decode_time,
        ls.EXTEND: host.draft_extend_s * relief.decode_time
        if speculative and not setting.stack.has("draft_extend_graph")
        else 0.0,
        ls.LAUNCH: launch * relief.prefill_time,
        ls.EXPOSED: host.prefill_exposed_fraction,
        ls.COMPILE: 0.0
        if setting.steps or setting.stack.has("mhc_prewarm")
        else setting.calibration.bucket_compile_s,
        ls.PREFILL_BASE: host.prefill_base_s * relief.prefill_time,
    }.items():
        floats[column] = float(quantity)
    return ints, floats


def _warm_variants(setting: Setting, group: EngineGroup) -> int:
    """Kernel variants that warm-up has compiled: those of lone prompts, in chunks, of any length drawn."""
    if setting.hardware is None:
        return 0
    workload = setting.workload
    shortest = max(1, int(workload.isl * workload.random_range_ratio))
    return _variants(setting.hardware.num_sms, shortest, workload.isl, group.chunk_tokens_per_rank)


@lru_cache(maxsize=1024)
def _variants(sms: int, shortest: int, longest: int, chunk: int) -> int:
    found = 0
    for length in range(shortest, longest + 1, 64):
        for tokens in {min(length, chunk), length % chunk}:
            found |= kernel_variant(sms, tokens) if tokens else 0
    return found


def _stage_share(setting: Setting, group: EngineGroup) -> float:
    """Layers of the fullest pipeline stage over all layers."""
    if setting.model is None or setting.steps is not None:
        return 1.0
    layers = setting.model.num_layers
    return -(-layers // group.pp) / layers


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
    layout = _layout_only(scn.group)
    shared = Scenario(scn.model, scn.hardware, layout, scn.stack, scn.calibration)
    prefill = prefill_tables(shared) if role != "decode" else None
    decode = decode_tables(shared) if role != "prefill" else None
    found = prefill or decode
    assert found is not None
    return RoleClass(budget, prefill or found, decode or found, padded_batch(scn, 2 * budget.slots + 1))


@lru_cache(maxsize=8192)
def _layout_only(group: EngineGroup) -> EngineGroup:
    """The group with every field at its default that step costs do not depend on, to share tables."""
    keep = {
        "tp", "attention_dp", "moe_ep", "pp", "moe_backend", "moe_activation", "expert_weights",
        "dp_lm_head", "mtp", "mem_fraction_static", "redundant_experts",
    }  # fmt: skip
    values = {name: getattr(group, name) for name in keep}
    values |= {"mem_fraction_static": 0.5, "max_running_per_rank": 1, "chunk_tokens_per_rank": 64}
    return EngineGroup.model_construct(**values)


class RolePart(NamedTuple):
    """One role of one setting: constants, tables and the share of the layers that paces its steps."""

    ints: list[int]
    floats: list[float]
    role: RoleClass
    stage: float


def role_part(setting: Setting, role: str, group: EngineGroup) -> RolePart:
    """Constants and tables of a role that runs `group`; the setting's own recipe is not looked at.

    Raises:
        Infeasible: the role does not fit its GPUs.
    """
    if setting.steps is None:
        found = _role_class(setting.scenario(group), role)
    else:
        found = RoleClass(*measured_role(setting.steps, group, setting.model is not None))
    return RolePart(*_class_rows(setting, role, group, found.budget), found, _stage_share(setting, group))


def stacked(parts: Sequence[RolePart], relief: Relief) -> ls.Classes:
    """Roles as classes of the loop, in their order."""
    stages = np.array([part.stage for part in parts])
    width = max(len(part.role.bucket) for part in parts)
    bucket = np.full((len(parts), width), -1, dtype=np.int64)
    for row, part in zip(bucket, parts, strict=True):
        row[: len(part.role.bucket)] = part.role.bucket
    return ls.Classes(
        i=np.array([part.ints for part in parts], dtype=np.int64),
        f=np.array([part.floats for part in parts]),
        decode_rank=np.stack([part.role.decode.rank for part in parts]) * relief.decode_time,
        decode_group=np.stack([part.role.decode.group for part in parts]) * relief.decode_time,
        prefill_rank=np.stack([part.role.prefill.rank for part in parts])
        * relief.prefill_time
        * stages[:, None, None],
        prefill_group=np.stack([part.role.prefill.group for part in parts])
        * relief.prefill_time
        * stages[:, None],
        bucket=bucket,
    )


def class_tables(setting: Setting) -> tuple[ls.Classes, list[str], list[MemoryBudget]]:
    """Constants, cost tables and memory budgets of all roles.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    if setting.steps is not None:
        check_steps(setting.steps, setting.recipe)
    groups = setting.recipe.groups
    parts = [role_part(setting, role, group) for role, group in groups.items()]
    return stacked(parts, setting.relief), list(groups), [part.role.budget for part in parts]


def fingerprint(setting: Setting) -> Hashable:
    """Alike for recipes that the loop cannot tell apart, such as those that differ in what is not simulated.

    Good within one process: tables are told apart by where they are kept.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    recipe = setting.recipe
    found: list[Hashable] = [recipe.frontend.policy, recipe.frontend.router_processes]
    found += [recipe.serving.tokenizer_workers, recipe.serving.context_length]
    for role, group in recipe.groups.items():
        ints, floats, part, stage = role_part(setting, role, group)
        found += [role, group.label, *ints, *floats, stage, part.bucket.tobytes()]
        found += [id(part.prefill), id(part.decode)]
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


def _world(setting: Setting, drawn: Traffic, num_classes: int, groups_of: NDArray[np.int64]) -> ls.World:
    recipe, workload = setting.recipe, setting.workload
    host = setting.host
    size = 2 * len(drawn.isl) + 16
    counters = np.zeros(ls.NUM_COUNTERS, dtype=np.int64)
    counters[ls.RNG] = loop_seed(setting.seed)
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
        totals=np.zeros((num_classes, ls.NUM_TOTALS)),
        groups_of=groups_of,
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
    classes, roles, budgets = class_tables(setting)
    serving = setting.recipe.serving
    drawn = traffic(
        setting.workload, setting.seed, serving.context_length, not setting.recipe.is_disaggregated
    )
    reqs = request_table(setting, drawn)
    groups, num_ranks, groups_of, counts = _groups(setting, roles)
    longest = int(reqs.i[:, ls.ITERS].max()) + 2
    tree = drawn.tree if classes.i[:, ls.RADIX].any() else None
    ranks = empty_ranks(num_ranks, 1 << longest.bit_length(), classes, groups, tree)
    world = _world(setting, drawn, len(roles), groups_of)
    return State(classes, groups, ranks, reqs, world, roles, budgets, counts)
