"""Laws that one role of a recipe keeps with its model, platform, engine release and load.

Their source is the SGLang code of releases 0.5.15 and 0.5.23, read there and not executed, unless a law
says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal, NamedTuple

from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup
from search_spaces.workload import Workload

Severity = Literal["hard", "soft"]

PAGE_TOKENS = 256
"""Tokens of one KV page; the engine forces this size for DeepSeek-V4."""
MEGAMOE_CAP_TOKENS = 1024
"""Default tokens per rank of the MegaMoE buffer up to release 0.5.22 (SGLang environment default)."""
MEGAMOE_CAP_TOKENS_V0523 = 8192
"""The same from release 0.5.23 on."""
V0523 = (0, 5, 23)
BLACKWELL_SM = 100
"""First compute capability (times ten) with FP4 tensor cores and SM100 kernels."""
MARLIN_SM = (90, 120)
"""Compute capabilities the W4A16 Marlin experts run on."""


class Violation(NamedTuple):
    """One broken law: `hard` cannot run (or corrupts), `soft` runs but nobody would choose it."""

    rule: str
    severity: Severity
    message: str


class RoleCase(NamedTuple):
    """One role with everything its laws may look at."""

    role: str
    group: EngineGroup
    model: ModelSpec
    hardware: Hardware
    workload: Workload | None
    version: tuple[int, ...]
    engine_version: str

    @property
    def prefills(self) -> bool:
        """Whether the role runs prompts."""
        return self.role != "decode"

    @property
    def decodes(self) -> bool:
        """Whether the role generates."""
        return self.role != "prefill"

    def hard(self, rule: str, text: str) -> Violation:
        """A hard violation whose message starts with the role."""
        return Violation(rule, "hard", f"{self.role}.{text}")

    def soft(self, rule: str, text: str) -> Violation:
        """A soft violation whose message starts with the role."""
        return Violation(rule, "soft", f"{self.role}.{text}")


@cache
def release(version: str) -> tuple[int, ...]:
    """`0.5.15` as a tuple that orders; raises `BadInput` where there is no leading release number."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if match is None:
        raise BadInput(f"engine_version={version!r} must start with a release number; write e.g. 0.5.15")
    return tuple(int(part) for part in match.group(1).split("."))


def megamoe_cap(group: EngineGroup, engine_version: str = "0.5.15") -> int:
    """Tokens per rank that the MegaMoE buffer of `group` is sized for, the engine's default included."""
    default = MEGAMOE_CAP_TOKENS_V0523 if release(engine_version) >= V0523 else MEGAMOE_CAP_TOKENS
    return group.megamoe_cap_tokens or default


def redundant_experts_for(num_experts: int, moe_ep: int) -> int:
    """Fewest redundant experts that spread `num_experts` evenly over `moe_ep` ranks."""
    return -num_experts % moe_ep


def decode_step_tokens(group: EngineGroup) -> int:
    """Tokens per rank of the largest decode batch that runs in a graph, drafts included."""
    return min(group.graph_max_batch_per_rank, group.max_running_per_rank) * group.draft_tokens


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _parallel_laws(case: RoleCase) -> Iterator[Violation]:
    group, model = case.group, case.model
    experts = model.num_experts + group.redundant_experts
    if experts % group.moe_ep:
        yield case.hard(
            "experts-divisible",
            f"moe_ep={group.moe_ep} needs (routed_experts + redundant_experts) % moe_ep == 0, got "
            f"{model.num_experts}+{group.redundant_experts}; set redundant_experts="
            f"{redundant_experts_for(model.num_experts, group.moe_ep)}",
        )
    if group.tp > model.num_experts:
        yield case.hard(
            "experts-per-gpu",
            f"tp={group.tp} must be <= {model.num_experts} routed experts; use more workers of a smaller tp",
        )
    if model.expert_inner % group.moe_tp:
        yield case.hard(
            "expert-slices",
            f"moe_tp=tp/moe_ep={group.moe_tp} must divide expert_inner={model.expert_inner}; "
            f"set moe_ep={group.tp} or a tp that divides it",
        )
    if model.o_groups % group.attention_tp:
        yield case.hard(
            "attention-tp",
            f"attention_tp=tp/attention_dp={group.attention_tp} must divide o_groups={model.o_groups}; set "
            f"attention_dp so that tp/attention_dp is one of {_divisors(model.o_groups)}",
        )
    if group.attention_dp not in (1, group.tp):
        yield case.soft(
            "full-dp",
            f"attention_dp={group.attention_dp} is neither 1 nor tp={group.tp}: legal, but no published "
            f"recipe does it; set attention_dp=1 or {group.tp}",
        )
    if case.prefills and group.attention_dp > 1 and group.chunk_tokens_per_rank % PAGE_TOKENS:
        below = max(1, group.chunk_tokens_per_rank // PAGE_TOKENS) * PAGE_TOKENS
        yield case.hard(
            "chunk-pages",
            f"chunk_tokens_per_rank={group.chunk_tokens_per_rank} must be a multiple of the "
            f"{PAGE_TOKENS}-token page under DP attention; set it to {below}",
        )
    if group.dp_lm_head and group.attention_dp == 1:
        yield case.soft(
            "dp-lm-head",
            "dp_lm_head=true has no effect without DP attention; set it to false or attention_dp > 1",
        )


def _megamoe_laws(case: RoleCase) -> Iterator[Violation]:
    group, hardware = case.group, case.hardware
    if group.moe_backend != "megamoe":
        return
    wanted = "mxfp4" if hardware.sm >= BLACKWELL_SM else "fp8"
    if hardware.sm < BLACKWELL_SM and case.version < V0523:
        yield case.hard(
            "megamoe-platform",
            f"moe_backend=megamoe needs sm>={BLACKWELL_SM} in {case.engine_version}, {hardware.name} has "
            f"sm={hardware.sm}; choose marlin or flashinfer_mxfp4, or engine 0.5.23",
        )
    elif group.expert_weights != wanted:
        yield case.hard(
            "megamoe-platform",
            f"expert_weights={group.expert_weights} is not what MegaMoE reads on sm={hardware.sm}; "
            f"set expert_weights={wanted} or another moe_backend",
        )
    for flag in ("enable-two-batch-overlap", "enable-single-batch-overlap"):
        if group.extra_flags.get(flag) or group.extra_flags.get(flag.replace("-", "_")):
            yield case.hard(
                "megamoe-overlap",
                f"extra_flags.{flag}=true is incompatible with moe_backend=megamoe; remove the flag",
            )
    cap = megamoe_cap(group, case.engine_version)
    effect = "the engine refuses to start" if case.version >= V0523 else "tokens silently miss the gather"
    if case.prefills and cap < group.chunk_tokens_per_rank:
        yield case.hard(
            "megamoe-cap-prefill",
            f"megamoe_cap_tokens={cap} must be >= chunk_tokens_per_rank={group.chunk_tokens_per_rank} "
            f"({effect}); set megamoe_cap_tokens={group.chunk_tokens_per_rank}",
        )
    need = decode_step_tokens(group)
    if case.decodes and cap < need:
        yield case.hard(
            "megamoe-cap-decode",
            f"megamoe_cap_tokens={cap} must be >= min(graph_max_batch_per_rank, max_running_per_rank) * "
            f"draft_tokens={need}; set megamoe_cap_tokens={need} or a smaller graph_max_batch_per_rank",
        )


def _placement_laws(case: RoleCase) -> Iterator[Violation]:
    group, hardware = case.group, case.hardware
    if group.tp > hardware.nvlink_domain_gpus:
        megamoe = group.moe_backend == "megamoe"
        text = (
            f"tp={group.tp} exceeds the NVLink domain of {hardware.nvlink_domain_gpus} {hardware.name} GPUs, "
            + ("over which MegaMoE shares memory" if megamoe else "so that every layer crosses the network")
            + f"; set tp <= {hardware.nvlink_domain_gpus}"
        )
        yield (case.hard if megamoe else case.soft)("nvlink-domain", text)
    node = hardware.gpus_per_node
    if group.num_gpus % node and node % group.num_gpus:
        yield case.soft(
            "node-tiling",
            f"tp*pp={group.num_gpus} neither divides nor is a multiple of gpus_per_node={node}, which leaves "
            f"GPUs idle; choose one of {_divisors(node)} or a multiple of {node}",
        )
    all_reduce = group.extra_env.get("SGLANG_OPT_USE_CUSTOM_ALL_REDUCE_V2", "0")
    if case.decodes and group.num_gpus > node and all_reduce not in ("0", ""):
        # NVIDIA srt-slurm, README: results are silently corrupted across nodes.
        yield case.hard(
            "custom-all-reduce",
            f"extra_env.SGLANG_OPT_USE_CUSTOM_ALL_REDUCE_V2={all_reduce} corrupts results on a worker of "
            f"{group.num_gpus} GPUs over nodes of {node}; set it to 0",
        )


def _kernel_laws(case: RoleCase) -> Iterator[Violation]:
    group, hardware = case.group, case.hardware
    backend, weights = group.moe_backend, group.expert_weights
    reads = {"flashinfer_mxfp4": "mxfp4", "marlin": "mxfp4", "flashinfer_trtllm_routed": "nvfp4"}.get(backend)
    if reads and weights != reads:
        yield case.hard(
            "expert-weights",
            f"expert_weights={weights} cannot be read by moe_backend={backend}; "
            f"set expert_weights={reads} or choose another moe_backend",
        )
    elif weights == "nvfp4" and reads != "nvfp4":
        yield case.hard(
            "expert-weights",
            f"expert_weights=nvfp4 needs moe_backend=flashinfer_trtllm_routed, got {backend}; "
            "set that backend or expert_weights=mxfp4",
        )
    if backend == "marlin" and hardware.sm not in MARLIN_SM:
        yield case.hard(
            "marlin-platform",
            f"moe_backend=marlin needs sm 90 or 120, {hardware.name} has sm={hardware.sm}; "
            "choose flashinfer_mxfp4 or megamoe",
        )
    takes_fp4 = hardware.sm >= BLACKWELL_SM and backend in ("megamoe", "flashinfer_trtllm_routed")
    if group.moe_activation == "fp4" and not takes_fp4:
        yield case.hard(
            "fp4-activation",
            f"moe_activation=fp4 needs sm>={BLACKWELL_SM} and moe_backend=megamoe (or NVFP4 weights), got "
            f"sm={hardware.sm} and {backend}; set moe_activation=fp8",
        )
    if group.fp4_indexer and hardware.sm < BLACKWELL_SM:
        yield case.hard(
            "fp4-indexer",
            f"fp4_indexer=true needs sm>={BLACKWELL_SM}, {hardware.name} has sm={hardware.sm}; set false",
        )
    need = decode_step_tokens(group)
    low_latency = backend == "deepep" and group.deepep_mode != "normal"
    if case.decodes and low_latency and group.deepep_cap_tokens < need:
        yield case.hard(
            "deepep-cap",
            f"deepep_cap_tokens={group.deepep_cap_tokens} must be >= min(graph_max_batch_per_rank, "
            f"max_running_per_rank) * draft_tokens={need}; set deepep_cap_tokens={need}",
        )


def _mtp_laws(case: RoleCase) -> Iterator[Violation]:
    group = case.group
    if group.mtp is None:
        return
    if group.online_compress:
        yield case.hard(
            "online-compress-mtp", "online_compress=true is rejected with mtp; set online_compress=false"
        )
    if group.mixed_chunk:
        yield case.hard("mixed-chunk-mtp", "mixed_chunk=true is refused with mtp; set mixed_chunk=false")
    if group.pp > 1:
        yield case.hard("pp-mtp", f"pp={group.pp} must be 1 with mtp; set pp=1 or remove mtp")
    if group.radix_cache and case.role == "decode" and case.version < V0523:
        yield case.hard(
            "decode-radix-mtp",
            f"radix_cache=true is refused with mtp in {case.engine_version}; set radix_cache=false",
        )
    if case.workload is not None and case.decodes and case.workload.prompts != "chat":
        # InferenceX requires the chat template of its MTP scripts: drafts of random text are rejected.
        yield case.soft(
            "mtp-prompts",
            f"mtp.num_steps={group.mtp.num_steps} with workload.prompts={case.workload.prompts}: published "
            "MTP points use the chat template; set workload.prompts=chat",
        )


def _schedule_laws(case: RoleCase) -> Iterator[Violation]:
    group = case.group
    if group.prefill_decode_interval and case.version <= (0, 5, 15):
        yield case.soft(
            "prefill-decode-interval",
            f"prefill_decode_interval={group.prefill_decode_interval} is unknown to {case.engine_version}; "
            "set it to 0 or serve with a later release",
        )
    if group.prefill_delayer and (not case.prefills or not group.overlap_schedule):
        yield case.soft(
            "prefill-delayer",
            "prefill_delayer=true is ignored on decode workers and without overlap_schedule; set it to false",
        )
    slots = group.max_running_per_rank * group.attention_dp
    engine_default = EngineGroup.model_fields["graph_max_batch_per_rank"].default
    if case.decodes and slots < group.graph_max_batch_per_rank != engine_default:
        yield case.soft(
            "graph-slots",
            f"graph_max_batch_per_rank={group.graph_max_batch_per_rank} exceeds the worker's {slots} slots "
            f"and is clipped; set it to {group.max_running_per_rank}",
        )


def _load_laws(case: RoleCase) -> Iterator[Violation]:
    group, workload = case.group, case.workload
    limit = case.model.max_context
    if group.context_length is not None and group.context_length > limit:
        yield case.hard(
            "context",
            f"context_length={group.context_length} exceeds the model's {limit}; set at most {limit}",
        )
    if workload is None:
        return
    longest = workload.longest_tokens
    if workload.trace is None and (group.context_length or limit) < longest:
        yield case.hard(
            "context",
            f"context_length={group.context_length or limit} must be >= isl + osl = {longest}; "
            f"set context_length={longest}",
        )
    if not case.decodes or workload.concurrency >= workload.measured_requests:
        return
    ranks = group.num_workers * group.attention_dp
    per_rank = -(-workload.concurrency // ranks)
    if group.max_running_per_rank < per_rank:
        yield case.soft(
            "slots",
            f"max_running_per_rank={group.max_running_per_rank} on {ranks} ranks is below "
            f"concurrency={workload.concurrency}, so requests queue; set max_running_per_rank={per_rank}",
        )
    if group.graph_max_batch_per_rank < per_rank:
        yield case.soft(
            "graph-batch",
            f"graph_max_batch_per_rank={group.graph_max_batch_per_rank} is below concurrency / ranks = "
            f"{per_rank}, so the largest batches run eagerly; set graph_max_batch_per_rank={per_rank}",
        )


ROLE_LAWS: tuple[Callable[[RoleCase], Iterator[Violation]], ...] = (
    _parallel_laws,
    _megamoe_laws,
    _placement_laws,
    _kernel_laws,
    _mtp_laws,
    _schedule_laws,
    _load_laws,
)
"""Every law of one role, in the order in which violations are reported."""
