"""Constants of one role of a run: the columns of `loop_state.Classes` that do not depend on tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup
from search_spaces.stack import StackVersion
from simulator import loop_state as ls
from simulator.acceptance import simulated_length
from simulator.batch_overlap import launches_per_layer
from simulator.calibration import HostCosts
from simulator.loop_costs import kernel_variant
from simulator.measured_tables import HostPipeline, Interruption, plain_page_tokens
from simulator.memory import PAGE_TOKENS, MemoryBudget
from simulator.setting import Relief, Setting, keeps_tail_only
from simulator.step_cost import extends_prompts

ROLE_CODES = {"prefill": ls.PREFILL, "decode": ls.DECODE, "aggregated": ls.AGGREGATED}
BALANCE_CODES = {"auto": 0, "round_robin": 0, "total_requests": 1, "total_tokens": 2}
DRAW_CODES = {"match-expected": ls.MATCH_EXPECTED, "multinomial": ls.MULTINOMIAL}
EVICTION_INTERVAL = 128
"""Decode iterations between window evictions without per-request eviction (SGLang 0.5.15 default)."""

KERNELS_PER_LAYER = 53
"""Kernels of an eager layer; traced on two H200 (`profiler/data/h200x2-flash-eagle-parts.json`)."""
LAUNCH_QUEUE = 1024
"""Kernels that the host can be ahead of the GPU: CUDA blocks further launches (not documented, seen in
traces)."""


def _relieved(budget: MemoryBudget, group: EngineGroup, relief: Relief) -> tuple[float, float, int, int]:
    """Full tokens, window tokens, running limit and slots after relief."""
    return (
        budget.full_tokens * relief.full_pool,
        budget.swa_tokens * relief.swa_pool,
        int(min(group.max_running_per_rank, budget.slots) * relief.slots),
        int(budget.slots * relief.slots),
    )


@dataclass(frozen=True)
class Site:
    """What the constants of a role depend on besides its group and memory."""

    model: ModelSpec | None
    hardware: Hardware | None
    stack: StackVersion
    host: HostCosts
    compile_s: float
    """Of one kernel variant."""
    first_use_s: float
    """Standstill of a worker halfway through its prompts; zero in a server that is warm."""
    sending_ratio: float
    half_the_prompts: int
    """Half of the run's prompt tokens; zero in a server that is warm, where nothing asks for them."""
    relief: Relief
    lengths: tuple[int, int]
    """Shortest and longest prompt drawn."""
    shares_prefixes: bool

    @classmethod
    def of(cls, setting: Setting) -> Site:
        """What of a setting its roles' constants depend on."""
        load, steps = setting.workload, setting.steps
        fresh = load.fresh_server and steps is None
        return cls(
            setting.model,
            setting.hardware,
            setting.stack,
            setting.host,
            0.0 if steps or setting.stack.has("mhc_prewarm") else setting.calibration.bucket_compile_s,
            setting.calibration.first_use_s if fresh else 0.0,
            setting.calibration.sending_ratio,
            int(load.mean_isl * load.measured_requests / 2) if fresh else 0,
            setting.relief,
            (max(1, int(load.isl * load.random_range_ratio)), load.isl),
            load.shares_prefixes,
        )


def class_rows(
    site: Site,
    role: str,
    group: EngineGroup,
    budget: MemoryBudget,
    share: float,
    pipeline: HostPipeline | None = None,
    among: Interruption | None = None,
) -> tuple[list[int], list[float]]:
    """Columns of `loop_state.Classes` for one role.

    Args:
        site: what does not depend on the role.
        role: `prefill`, `decode` or `aggregated`.
        group: one worker.
        budget: its memory.
        share: of the layers that the fullest pipeline stage has.
        pipeline: the host's part of measured steps; None by the calibration.
        among: what a prefill between decode steps takes beyond its own time, of measured steps.
    """
    among = among or Interruption(0.0, 0.0)
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
        ls.PIPELINED: _pipelined(pipeline, group),
    }.items():
        ints[column] = int(value)
    depth = model.num_layers if model else 0  # measured steps contain their launches
    layers = depth * launches_per_layer(group)
    layers += model.num_mtp_layers if model and extends_prompts(group) else 0
    # Of a pipeline the fullest stage sets the pace; each stage has a process that launches its own layers.
    launch = layers * host.prefill_layer_s * share
    if model and speculative:
        launch += host.prefill_draft_s
    kernels = layers * KERNELS_PER_LAYER * share
    if group.prefill_graph and site.stack.has("breakable_prefill_graph"):
        launch /= 4
        kernels /= 4
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
        ls.FIRST_WAIT: pipeline.first_wait_s if pipeline else 0.0,
        ls.AMONG: among.base_s * relief.prefill_time,
        ls.AMONG_SEQ: among.sequence_s * relief.prefill_time,
        ls.DRAW_MEAN: simulated or 0.0,
        ls.UNITS_PER_STEP: simulated_length(mtp) if mtp and simulated else 1.0,
        ls.LAUNCH: (pipeline.prefill_launch_s if pipeline else launch) * relief.prefill_time,
        ls.PREFILL_TURN: pipeline.prefill_turn_s if pipeline else 0.0,
        ls.DECODE_TURN: pipeline.decode_turn_s if pipeline else 0.0,
        ls.DECODE_LAUNCH: pipeline.decode_launch_s if pipeline else 0.0,
        ls.EXPOSED: host.prefill_exposed_fraction,
        ls.LAUNCHED_SHARE: max(1 - LAUNCH_QUEUE / kernels, 0.0) if kernels else 0.0,
        ls.SENDING: site.sending_ratio,
        ls.COMPILE: site.compile_s,
        ls.FIRST_USE: site.first_use_s,
        ls.PREFILL_BASE: host.prefill_base_s * relief.prefill_time,
    }.items():
        floats[column] = float(quantity)
    return ints, floats


def _pipelined(pipeline: HostPipeline | None, group: EngineGroup) -> int:
    if pipeline is None or not group.overlap_schedule:
        return ls.SERIAL
    return ls.LAUNCHES_WAIT if pipeline.waits else ls.LAUNCHES_AHEAD


def _warm_variants(site: Site, group: EngineGroup) -> int:
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


def stage_share(model: ModelSpec, group: EngineGroup) -> float:
    """Layers of the fullest pipeline stage over all layers."""
    return -(-model.num_layers // group.pp) / model.num_layers
