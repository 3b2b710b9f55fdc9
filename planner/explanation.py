"""What a recipe means on one rank: memory, limits, silent overrides, broken laws and what runs out first.

Bytes and token counts come from `simulator.memory`; this module arranges them and adds the batch limits
of a steady load. Quantities are per rank (one attention-DP rank of one worker) unless they say otherwise.
"""

from __future__ import annotations

from typing import Literal

from planner.engine_overrides import Override, decode_graphs_disabled, overrides_of
from planner.expert_use import ExpertUse, expert_use
from search_spaces.base import Noun
from search_spaces.hardware import Hardware
from search_spaces.law_case import RoleCase, release
from search_spaces.laws import violations
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.stack import StackVersion
from search_spaces.workload import Workload
from simulator.acceptance import mean_length
from simulator.calibration import Calibration
from simulator.memory import (
    PAGE_TOKENS,
    ROPE_TABLE_BYTES,
    RUNTIME_BYTES,
    MemoryBudget,
    graph_buckets,
    memory_budget,
    pool_parts,
    slot_state_bytes,
    transfer_bytes,
)
from simulator.role_constants import EVICTION_INTERVAL

TROUGH_PAGES = 1.5
"""Mean window pages of a request just after eviction: 129 to 383 tokens, whole pages."""
SHIPPED_PROMPT_TOKENS = (8192, 8191)
"""A prompt that ends with a 128-token block, and one that does not and ships compressor state too."""


class MemoryTable(Noun):
    """Where the bytes of one rank go; all parts add up to `hbm_bytes`."""

    hbm_bytes: float
    runtime_bytes: float
    """CUDA context and communication buffers that exist before weights load."""
    weights_bytes: dict[str, float]
    """By component."""
    rope_tables_bytes: float
    slot_state_bytes: float
    """128:1 compressor state of all request slots."""
    pools_bytes: dict[str, float]
    """Token pools by part; each is the full-pool tokens times its bytes per token."""
    headroom_bytes: float
    """For graphs, buffers and activations: what mem_fraction_static leaves, and what no pool takes."""

    @property
    def total_bytes(self) -> float:
        """The sum of all parts."""
        return (
            self.runtime_bytes
            + sum(self.weights_bytes.values())
            + self.rope_tables_bytes
            + self.slot_state_bytes
            + sum(self.pools_bytes.values())
            + self.headroom_bytes
        )


class RankLimits(Noun):
    """What follows from the memory and the settings of one rank."""

    bytes_per_full_token: float
    bytes_per_full_token_parts: dict[str, float]
    """By pool; they add up to `bytes_per_full_token`."""
    full_tokens: int
    """Capacity of the full pool; the engine prints it as max_total_num_tokens."""
    swa_tokens: int
    """Capacity of the sliding-window pool."""
    max_running: int
    """Requests that may run at once."""
    slots: int
    """Request slots."""
    extra_slots: int
    """Slots of these that a small decode worker adds for requests in transfer."""
    slot_state_bytes: float
    """Compressor state per request slot."""
    graph_buckets: tuple[int, ...]
    """Decode batches captured in CUDA graphs; empty without graphs."""
    chunk_tokens: int
    """Prefill tokens of a step; without effect on a decode worker."""
    max_prefill_tokens: int
    """Prompt tokens after which a step takes no further prompt; without effect on a decode worker."""
    longest_request_tokens: int
    """Prompt and output together."""
    shipped_bytes: dict[int, float]
    """Prompt tokens to KV bytes a prefill worker ships for it; empty for other roles."""


class BatchLimit(Noun):
    """The largest batch of a rank before one resource runs out."""

    resource: Literal["request slots", "full pool", "window pool", "window pool at its crest", "CUDA graph"]
    batch: int
    """Requests."""
    tokens_per_request: float | None = None
    """Pool tokens that one request holds, reservation included; None where requests are counted."""
    beyond: str
    """What happens to the next request."""


class WindowUse(Noun):
    """Window-pool pages per request, and the ratio below which that pool runs out before the full one."""

    trough_pages: float
    """Just after eviction."""
    mean_pages: float
    crest_pages: float
    """Just before eviction."""
    crossover_ratio_mean: float
    """Smallest swa_full_tokens_ratio at which the full pool runs out first, at the mean."""
    crossover_ratio_crest: float
    """The same at the crest."""


class RoleExplanation(Noun):
    """One role; all its workers and ranks are alike."""

    role: str
    label: str
    num_workers: int
    ranks_per_worker: int
    gpus_per_rank: int
    requests_per_rank: int
    """The concurrency over all ranks of the role, rounded up."""
    memory: MemoryTable
    limits: RankLimits
    overrides: tuple[Override, ...]
    batch_limits: tuple[BatchLimit, ...]
    binds_first: str
    """Resource of the smallest batch limit."""
    window: WindowUse | None
    """None for a prefill role."""
    experts: ExpertUse | None = None
    """None without expert parallelism."""


class BrokenLaw(Noun):
    """A law of recipes that this one breaks."""

    rule: str
    severity: Literal["hard", "soft"]
    message: str


class Explanation(Noun):
    """Everything that follows from a recipe before a request is sent."""

    recipe: str
    topology: str
    num_gpus: int
    model: str
    hardware: str
    stack: str
    engine_version: str
    isl: int
    osl: int
    concurrency: int
    accepted_tokens_per_step: float
    """Mean tokens a request gains per decode step; 1 without MTP."""
    roles: tuple[RoleExplanation, ...]
    laws: tuple[BrokenLaw, ...]


def memory_table(budget: MemoryBudget, parts: dict[str, float]) -> MemoryTable:
    """The budget of a rank with its token pools split by `parts`, bytes per full-pool token."""
    return MemoryTable(
        hbm_bytes=budget.hbm_bytes,
        runtime_bytes=RUNTIME_BYTES,
        weights_bytes=budget.weights,
        rope_tables_bytes=ROPE_TABLE_BYTES,
        slot_state_bytes=budget.slot_state_bytes,
        pools_bytes={name: budget.full_tokens * size for name, size in parts.items()},
        headroom_bytes=budget.headroom_bytes,
    )


def rank_limits(
    case: RoleCase, budget: MemoryBudget, parts: dict[str, float], stack: StackVersion
) -> RankLimits:
    """Derived limits of one rank."""
    group, model = case.group, case.model
    ships = SHIPPED_PROMPT_TOKENS if case.role == "prefill" else ()
    return RankLimits(
        bytes_per_full_token=budget.bytes_per_token,
        bytes_per_full_token_parts=parts,
        full_tokens=budget.full_tokens,
        swa_tokens=budget.swa_tokens,
        max_running=min(group.max_running_per_rank, budget.slots),
        slots=budget.slots,
        extra_slots=max(0, budget.slots - group.max_running_per_rank),
        slot_state_bytes=slot_state_bytes(model, group, stack),
        graph_buckets=() if decode_graphs_disabled(case) else graph_buckets(group),
        chunk_tokens=group.chunk_tokens_per_rank,
        max_prefill_tokens=group.max_prefill_tokens,
        longest_request_tokens=min(group.context_length or model.max_context, budget.full_tokens) - 1,
        shipped_bytes={tokens: float(transfer_bytes(model, tokens, group)) for tokens in ships},
    )


def resident_tokens(case: RoleCase, isl: int, osl: int) -> float:
    """Full-pool tokens that one request of a steady load takes from admission, reservation included.

    A decoding request has half its output on average, and the engine keeps `reserved_decode_tokens` for
    it as long as it lives (SGLang 0.5.15, decode admission of disaggregated workers).
    """
    if not case.decodes:
        return float(isl)
    return isl + osl / 2 + case.group.reserved_decode_tokens


def window_use(group: EngineGroup, stack: StackVersion, accepted: float, held_tokens: float) -> WindowUse:
    """Window pages per request over the eviction cycle, and the crossover of the two pools.

    Eviction every `EVICTION_INTERVAL` steps lets all requests of a rank grow together by `accepted` tokens
    a step; with eviction per request there is no cycle. The window pool holds `ratio` tokens per token of
    the full pool, so it runs out first where ratio < pages x 256 / held_tokens.
    """
    growth = 0.0 if stack.has("swa_evict_per_request") else accepted * EVICTION_INTERVAL / PAGE_TOKENS
    mean, crest = TROUGH_PAGES + growth / 2, TROUGH_PAGES + growth
    return WindowUse(
        trough_pages=TROUGH_PAGES,
        mean_pages=mean,
        crest_pages=crest,
        crossover_ratio_mean=PAGE_TOKENS * mean / held_tokens,
        crossover_ratio_crest=PAGE_TOKENS * crest / held_tokens,
    )


def batch_limits(
    case: RoleCase, limits: RankLimits, held_tokens: float, window: WindowUse | None
) -> tuple[BatchLimit, ...]:
    """Largest batch before each resource of a rank runs out.

    A prefill worker has neither a window limit (its pool does not bound admission) nor decode graphs.
    """
    waits = "waits for admission"
    found = [
        BatchLimit(resource="request slots", batch=limits.max_running, beyond=waits),
        _pool_limit("full pool", limits.full_tokens, held_tokens, waits),
    ]
    if window is not None:
        trough, crest = (PAGE_TOKENS * pages for pages in (window.trough_pages, window.crest_pages))
        found.append(_pool_limit("window pool", limits.swa_tokens, trough, waits))
        if crest > trough:
            fate = "the worker crashes on it" if case.role == "decode" else "its KV is computed again"
            beyond = f"is admitted, then retracted; {fate}"
            found.append(_pool_limit("window pool at its crest", limits.swa_tokens, crest, beyond))
    if limits.graph_buckets:
        found.append(BatchLimit(resource="CUDA graph", batch=limits.graph_buckets[-1], beyond="runs eagerly"))
    return tuple(found)


def _pool_limit(
    resource: Literal["full pool", "window pool", "window pool at its crest"],
    capacity_tokens: int,
    tokens_per_request: float,
    beyond: str,
) -> BatchLimit:
    return BatchLimit(
        resource=resource,
        batch=int(capacity_tokens / tokens_per_request),
        tokens_per_request=tokens_per_request,
        beyond=beyond,
    )


def _explain_role(
    case: RoleCase, stack: StackVersion, load: Workload, accepted: float, calibration: Calibration
) -> RoleExplanation:
    group = case.group
    budget = memory_budget(case.model, group, case.hardware, stack, case.role)
    parts = pool_parts(case.model, group, stack)
    limits = rank_limits(case, budget, parts, stack)
    held = resident_tokens(case, load.isl, load.osl)
    window = window_use(group, stack, accepted, held) if case.decodes else None
    batches = batch_limits(case, limits, held, window)
    return RoleExplanation(
        role=case.role,
        label=group.label,
        num_workers=group.num_workers,
        ranks_per_worker=group.attention_dp,
        gpus_per_rank=group.num_gpus // group.attention_dp,
        requests_per_rank=-(-load.concurrency // (group.num_workers * group.attention_dp)),
        memory=memory_table(budget, parts),
        limits=limits,
        overrides=overrides_of(case),
        batch_limits=batches,
        binds_first=min(batches, key=lambda limit: limit.batch).resource,
        window=window,
        experts=expert_use(case, calibration),
    )


def explain(
    recipe: Recipe,
    model: ModelSpec,
    hardware: Hardware,
    stack: StackVersion,
    load: Workload,
    calibration: Calibration,
) -> Explanation:
    """Everything that follows from a recipe before a request is sent.

    Args:
        recipe: the deployment.
        model: what it serves.
        hardware: what it runs on.
        stack: engine build whose arithmetic holds.
        load: nominal lengths (taken as the length of every request) and concurrency.
        calibration: for the draft tokens that are accepted per step, and the popularity of experts.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    accepted = mean_length(calibration, stack, load, recipe.mtp)
    version = release(stack.version)
    roles = tuple(
        _explain_role(
            RoleCase(role, group, model, hardware, load, version, stack.version),
            stack,
            load,
            accepted,
            calibration,
        )
        for role, group in recipe.groups.items()
    )
    broken = violations(recipe, model, hardware, load, stack.version)
    return Explanation(
        recipe=recipe.name,
        topology=recipe.topology,
        num_gpus=recipe.num_gpus,
        model=model.name,
        hardware=hardware.name,
        stack=stack.name,
        engine_version=stack.version,
        isl=load.isl,
        osl=load.osl,
        concurrency=load.concurrency,
        accepted_tokens_per_step=accepted,
        roles=roles,
        laws=tuple(BrokenLaw(rule=law.rule, severity=law.severity, message=law.message) for law in broken),
    )
