"""A recipe: everything an operator chooses about one deployment, in engine-neutral terms.

Numbers are per rank (what one attention-DP rank or GPU sees); an adapter multiplies and divides as
its engine wants. Two spellings of one deployment give the same `Recipe` and the same `digest`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.mtp import Mtp as Mtp

MoeBackend = Literal[
    "megamoe", "flashinfer_mxfp4", "flashinfer_trtllm_routed", "marlin", "deepep", "deep_gemm", "triton"
]
MoeActivation = Literal["fp4", "fp8", "bf16"]
A2A_BACKENDS = frozenset({"megamoe", "deepep"})


class EngineGroup(Noun):
    """One role: how many identical workers, and what each rank of a worker runs."""

    num_workers: int = Field(default=1, ge=1)
    tp: int = Field(ge=1)
    """GPUs of one worker's tensor-parallel group."""
    attention_dp: int = Field(default=1, ge=1)
    """Attention data-parallel ranks inside that group; 1 means DP attention is off."""
    moe_ep: int = Field(default=1, ge=1)
    """Expert-parallel width."""
    pp: int = Field(default=1, ge=1)
    redundant_experts: int = Field(default=0, ge=0)
    """Expert slots beyond one per expert; idle without `eplb`, `expert_location` or `expert_dispatch`."""
    eplb: bool = False
    """Experts are placed anew by the load that was counted."""
    eplb_rebalance_steps: int = Field(default=1000, ge=1)
    """Steps from one placement to the next."""
    eplb_min_utilization: float = Field(default=1.0, ge=0, le=1)
    """Mean over largest load of the ranks above which the placement is kept."""
    expert_location: str = "trivial"
    """First placement: in order, or a file of recorded loads, by which experts are placed at start."""
    expert_dispatch: Literal["static", "dynamic"] | None = None
    """How a copy of an expert is chosen: one per source rank, or at random; None leaves it to the engine."""
    waterfill: bool = False
    """The shared expert is one more slot of each rank, and tokens take it where the routed load is least."""
    two_batch_overlap: bool = False
    """A prefill step runs as two halves; one communicates while the other computes."""
    single_batch_overlap: bool = False
    """The shared expert and the last expert GEMM run while DeepEP communicates (low-latency mode)."""
    moe_backend: MoeBackend
    moe_activation: MoeActivation = "fp8"
    """Precision of expert GEMM activations (`fp4` is W4A4)."""
    expert_weights: Literal["mxfp4", "nvfp4", "fp8"] = "mxfp4"
    mem_fraction_static: float = Field(gt=0, lt=1)
    """Share of free memory for weights and pools."""
    swa_full_tokens_ratio: float = Field(default=0.1, gt=0, le=1)
    """Sliding-window pool tokens per full pool token."""
    max_running_per_rank: int = Field(ge=1)
    """Requests one rank may run at once."""
    max_total_tokens: int | None = Field(default=None, ge=256)
    """Cap on full-pool tokens per rank."""
    chunk_tokens_per_rank: int = Field(ge=64)
    """Prefill tokens one rank may take per step."""
    max_prefill_tokens: int = Field(default=16384, ge=64)
    """Prefill tokens per rank and step counted over whole requests."""
    context_length: int | None = Field(default=None, ge=256)
    """Longest request; None is the model's own limit."""
    graph_max_batch_per_rank: int = Field(default=512, ge=0)
    """Largest decode batch per rank captured in a CUDA graph; 0 turns decode graphs off."""
    prefill_graph: bool = False
    """Breakable CUDA graphs for prefill."""
    megamoe_cap_tokens: int | None = Field(default=None, ge=1)
    """Tokens per rank the MegaMoE symmetric buffer is sized for; None is the engine's default."""
    deepep_mode: Literal["auto", "normal", "low_latency"] = "auto"
    deepep_cap_tokens: int = Field(default=128, ge=1)
    dp_lm_head: bool = False
    dense_tp1: bool = False
    """Dense layers unsharded; with `dp_lm_head` and an all-to-all backend, graph buckets are local."""
    online_compress: bool = False
    fp4_indexer: bool = False
    mtp: Mtp | None = None
    radix_cache: bool = False
    swa_tail_lock: bool = False
    """A request in the radix cache holds the window of its prompt's tail, not of its whole last chunk."""
    prefill_delayer: bool = False
    mixed_chunk: bool = False
    prefill_decode_interval: int = Field(default=0, ge=0)
    overlap_schedule: bool = True
    schedule_conservativeness: float = Field(default=1.0, gt=0)
    load_balance: Literal["auto", "round_robin", "total_requests", "total_tokens"] = "auto"
    decode_polling_interval: int = Field(default=1, ge=1)
    reserved_decode_tokens: int = Field(default=512, ge=0)
    clip_max_new_tokens: int = Field(default=4096, ge=1)
    stream_interval: int = Field(default=1, ge=1)
    tokenizer_workers: int = Field(default=1, ge=1)
    skip_tokenizer_init: bool = False
    hicache_ratio: float | None = Field(default=None, gt=0)
    extra_flags: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    """Engine flags that the simulator does not use, kept for export."""
    extra_env: dict[str, str] = Field(default_factory=dict)
    """Environment that the simulator does not use, kept for export."""

    @model_validator(mode="after")
    def _layout(self) -> EngineGroup:
        if self.tp % self.attention_dp:
            choices = [d for d in range(1, self.tp + 1) if self.tp % d == 0]
            raise ValueError(
                f"attention_dp={self.attention_dp} must divide tp={self.tp}; choose one of {choices}"
            )
        if self.tp % self.moe_ep:
            choices = [d for d in range(1, self.tp + 1) if self.tp % d == 0]
            raise ValueError(f"moe_ep={self.moe_ep} must divide tp={self.tp}; choose one of {choices}")
        if self.moe_backend in A2A_BACKENDS and self.moe_ep != self.tp:
            raise ValueError(
                f"moe_ep={self.moe_ep} must equal tp={self.tp} with the all-to-all backend "
                f"{self.moe_backend}; set moe_ep={self.tp} or choose another moe_backend"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """GPUs of one worker."""
        return self.tp * self.pp

    @property
    def attention_tp(self) -> int:
        """GPUs that share one attention rank."""
        return self.tp // self.attention_dp

    @property
    def moe_tp(self) -> int:
        """Slices of each expert."""
        return self.tp // self.moe_ep

    @property
    def draft_tokens(self) -> int:
        """Tokens per sequence in one decode step (1 without MTP)."""
        return self.mtp.num_draft_tokens if self.mtp else 1

    @property
    def local_graph_buckets(self) -> bool:
        """Whether each DP rank pads to its own CUDA-graph bucket rather than the largest rank's."""
        return (
            self.attention_dp > 1 and self.dense_tp1 and self.dp_lm_head and self.moe_backend in A2A_BACKENDS
        )

    @property
    def label(self) -> str:
        """`DEP8`, `TP4`, `DPA4` or the explicit form."""
        if self.attention_dp == 1 and self.moe_ep == 1:
            return f"TP{self.tp}"
        if self.attention_dp == self.tp == self.moe_ep:
            return f"DEP{self.tp}"
        if self.attention_dp == self.tp and self.moe_ep == 1:
            return f"DPA{self.tp}"
        return f"TP{self.tp}DP{self.attention_dp}EP{self.moe_ep}"


class Frontend(Noun):
    """What stands between client and workers."""

    kind: Literal["dynamo", "sglang_router", "none"] = "none"
    router_processes: int = Field(default=1, ge=1)
    policy: Literal["round_robin", "random", "load", "kv"] = "round_robin"
    args: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Router arguments that the simulator does not use, kept for export."""
    env: dict[str, str] = Field(default_factory=dict)


class Recipe(Noun):
    """A deployment of one model on one platform: aggregated, or prefill and decode apart."""

    name: str
    model: str
    """Catalog name or Hugging Face id of the model."""
    hardware: str
    """Catalog name of the platform."""
    aggregated: EngineGroup | None = None
    prefill: EngineGroup | None = None
    decode: EngineGroup | None = None
    transfer_backend: Literal["mooncake", "nixl", "mori"] | None = None
    frontend: Frontend = Field(default_factory=Frontend)
    stack: str | None = None
    """StackVersion the recipe was written for; None lets the caller choose."""
    concurrencies: tuple[int, ...] = ()
    """Loads the recipe is dispatched at."""
    source: str = ""
    """Where the recipe was published, if it was."""
    launch: dict[str, str] = Field(default_factory=dict)
    """Facts only an exporter needs: container, model alias, frontend hash."""

    @model_validator(mode="after")
    def _roles(self) -> Recipe:
        disaggregated = self.prefill is not None and self.decode is not None
        if (self.aggregated is not None) == disaggregated or (self.prefill is None) != (self.decode is None):
            raise ValueError(
                "recipe must have either `aggregated`, or both `prefill` and `decode`; "
                f"it has {sorted(self.groups) or 'none'}"
            )
        return self

    @property
    def groups(self) -> dict[str, EngineGroup]:
        """Role name to its group, for the roles present."""
        found = {"aggregated": self.aggregated, "prefill": self.prefill, "decode": self.decode}
        return {role: group for role, group in found.items() if group is not None}

    @property
    def is_disaggregated(self) -> bool:
        """Whether prefill and decode run on different workers."""
        return self.aggregated is None

    @property
    def num_gpus(self) -> int:
        """GPUs of all workers."""
        return sum(g.num_workers * g.num_gpus for g in self.groups.values())

    @property
    def serving(self) -> EngineGroup:
        """The group that decodes."""
        group = self.decode or self.aggregated
        assert group is not None
        return group

    @property
    def mtp(self) -> Mtp | None:
        """Speculation on the decoding side."""
        return self.serving.mtp

    @property
    def topology(self) -> str:
        """Such as `10P1D-DEP4-DEP32` or `DEP8`, with `-MTP3` when drafting."""
        if self.prefill and self.decode:
            text = (
                f"{self.prefill.num_workers}P{self.decode.num_workers}D"
                f"-{self.prefill.label}-{self.decode.label}"
            )
        else:
            text = f"{self.serving.num_workers}x{self.serving.label}"
        return text + (f"-{self.mtp.label}" if self.mtp else "")

    def canonical(self) -> dict[str, object]:
        """What decides performance: no names, provenance, export-only flags or dispatch."""
        data = self.model_dump(exclude={"name", "source", "concurrencies", "launch"}, exclude_defaults=True)
        for role in ("aggregated", "prefill", "decode"):
            if role in data:
                data[role] = {k: v for k, v in data[role].items() if k not in ("extra_flags", "extra_env")}
        if "frontend" in data:
            data["frontend"] = {k: v for k, v in data["frontend"].items() if k not in ("args", "env")}
        return {key: value for key, value in data.items() if value != {}}

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that two spellings of one deployment share."""
        text = json.dumps(self.canonical(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
