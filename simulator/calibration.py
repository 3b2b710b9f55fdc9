"""The few fitted quantities of the cost model, each physical, bounded and with its source."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from pydantic import Field

from search_spaces.base import Noun
from search_spaces.catalog_loader import catalog_root
from search_spaces.errors import BadInput
from simulator.uncertainty import ErrorBands, Posterior

STATEMENTS = {"data", "left_out", "posterior", "error_bands"}
"""Fields that say something about the values and decide nothing."""


class HostCosts(Noun):
    """CPU time of the serving process on one kind of host."""

    prefill_base_s: float = Field(default=0.020, ge=0, le=0.5)
    """Fixed CPU time of an eager prefill step."""
    prefill_layer_s: float = Field(default=0.0030, ge=0.0005, le=0.02)
    """CPU time to launch one layer eagerly; a step is never shorter than this times layers."""
    prefill_exposed_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of that launch time that the GPU does not hide even when it is the slower side."""
    prefill_draft_s: float = Field(default=0.010, ge=0, le=0.2)
    """CPU time of the draft extension after an eager prefill, its layer's launch not included: a forward pass
    of its own with its batch, attention metadata and sampling."""
    decode_eager_layer_s: float = Field(default=0.0010, ge=0.0001, le=0.02)
    """CPU time to launch one decode layer without a CUDA graph."""
    step_gap_s: float = Field(default=0.0001, ge=0, le=0.01)
    """GPU idle time of a step between graph replays: 0.07 to 0.15 ms on two H200 with DP attention, without
    and with drafts (`profiler/data/h200x2-flash-eagle-parts.json`)."""
    decode_base_s: float = Field(default=0.003, ge=0, le=0.05)
    """Scheduler time of a decode step; exposed only beyond the GPU time."""
    decode_sequence_s: float = Field(default=20e-6, ge=0, le=2e-4)
    """Scheduler time per running sequence of a rank and step."""
    decode_exposed_sequence_s: float = Field(default=20e-6, ge=0, le=2e-4)
    """Time per running sequence of a rank that adds to the GPU's (metadata, sampling, batch edits)."""
    draft_extend_s: float = Field(default=0.003, ge=0, le=0.05)
    """Exposed launches of the eager draft-extend pass of one speculative step."""
    draft_launch_s: float = Field(default=0.001, ge=0, le=0.02)
    """CPU time to launch one draft pass of a speculative step; a slower GPU hides it."""
    frontend_request_s: float = Field(default=0.010, ge=0, le=1)
    """Frontend CPU time per request."""
    frontend_token_s: float = Field(default=1.0e-6, ge=0, le=1e-4)
    """Frontend CPU time per prompt token (tokenizer)."""
    join_stall_s: float = Field(default=0.005, ge=0, le=0.06)
    """Extra time of a decode step of a DP-attention worker in which requests join: a rank without a decode
    batch of its own keeps all ranks out of the captured graph."""
    request_latency_s: float = Field(default=0.05, ge=0, le=1)
    """Delay of one request that occupies no server: HTTP, routing, handshake, detokenizing."""

    def decode_launch_s(self, draft_steps: int) -> float:
        """CPU time of a decode step that does not grow with the batch."""
        return self.decode_base_s + draft_steps * self.draft_launch_s


class ExpertKernel(Noun):
    """A grouped expert GEMM by what bounds it: passes over weights and rows of tiles.

    See `simulator.expert_tiles` for the formula.
    """

    tile_rows: tuple[int, ...] = (64,)
    """Rows of a tile that the kernel chooses from, ascending."""
    read_fraction: float = Field(default=0.8, ge=0.2, le=0.98)
    """Share of peak memory bandwidth at which expert weights are read."""
    flops_fraction: float = Field(default=0.5, ge=0.1, le=0.95)
    """Share of the tensor peak that computed rows reach, padding included."""
    layer_s: float = Field(default=2e-5, ge=0, le=3e-4)
    """Kernels around it per layer: alignment, permutation, activation, sum over experts."""


class ArchitectureCosts(Noun):
    """GPU costs of one architecture that its kernel tables do not hold, fitted to recorded engine steps."""

    untimed_step_s: float = Field(default=0.0, ge=0, le=1e-3)
    """Kernels once per step that no table times: attention metadata, embedding, sampling."""
    experts: dict[str, ExpertKernel] = Field(default_factory=dict)
    """By MoE backend, for backends that were not timed alone or are known better from steps."""


class Calibration(Noun):
    """Fitted parameters with the data they came from.

    Values outside their bounds are refused: a fit that wants one says that the model lacks something.
    """

    name: str = "default"
    hosts: dict[str, HostCosts] = Field(default_factory=dict)
    """By `Hardware.host_cpu`."""
    architectures: dict[str, ArchitectureCosts] = Field(default_factory=dict)
    """By `sm90` and the like; none adds nothing."""
    prefill_slowdown: float = Field(default=1.0, ge=0.9, le=1.4)
    """Prefill kernel time under sustained load over time in an isolated benchmark (clocks under the power
    limit, caches, streams), on Blackwell."""
    hopper_prefill_slowdown: float = Field(default=1.3, ge=0.9, le=1.7)
    """The same on Hopper, which slows down more: compute-bound kernels ran an H200 at 1,170 to 1,680 MHz of
    1,980 (`profiler/data/kernels-h200.jsonl.gz`)."""
    decode_slowdown: float = Field(default=1.0, ge=0.85, le=1.2)
    """The same for decode kernels, which wait for memory on either."""
    draft_expert_overlap: float = Field(default=0.3, ge=0, le=0.9)
    """Share of expert choices that tokens of one draft window have in common."""
    collective_sync_s: float = Field(default=4e-6, ge=0, le=2e-5)
    """Wait per factor of two of ranks at each collective of a step, beyond the all-reduce timed alone: in a
    running step the ranks of a group do not arrive together."""
    prefill_routing_alpha: float = Field(default=0.6, ge=0, le=1.2)
    """Power-law exponent of expert popularity among the tokens of a prefill step; 0 is balanced."""
    decode_routing_alpha: float = Field(default=0.6, ge=0, le=1.2)
    """The same of a decode step: the few tokens that requests write at one moment have more experts in
    common than the thousands of a prompt, over which a model is trained to be balanced."""
    fp4_moe_ratio: float = Field(default=0.80, ge=0.4, le=1)
    """Compute-bound MegaMoE time with FP4 over FP8 activations."""
    unfused_moe_ratio: float = Field(default=1.75, ge=1, le=3)
    """Unfused dispatch, GEMM and combine over MegaMoE where FLOPs bound it (deepseek-ai/DeepGEMM#316 prints
    1.5 to 1.96 for batches that weight reads bound in part)."""
    unfused_moe_layer_s: float = Field(default=5e-5, ge=0, le=3e-4)
    """Latency of separate dispatch and combine kernels per layer, whatever the batch."""
    mhc_unfused_ratio: float = Field(default=1.35, ge=1, le=2)
    """Hyper-connection time before fusion (sgl-project/sglang#24775 prints 1.24 to 1.45)."""
    bucket_compile_s: float = Field(default=1.3, ge=0, le=2)
    """Stall of a worker at the first prompt batch of a hyper-connection kernel variant that no start-up
    compiled (sgl-project/sglang#25810 reports 20 to 40 s over the 23 variants)."""
    first_use_s: float = Field(default=8.0, ge=0, le=30)
    """Standstill of each worker that prefills, once in the first run of a server just started: kernels are
    compiled at their first use (7 to 14 s in InferenceX's GB300 runs; a record of two such runs names 12.3 s
    and 12.5 s)."""
    unfused_layer_s: float = Field(default=15e-6, ge=0, le=1e-4)
    """Extra time per layer and step before the compressor and norm kernels were fused."""
    unfused_token_s: float = Field(default=0.1e-6, ge=0, le=1e-6)
    """The same per token of a rank and layer."""
    accept_chat: float = Field(default=0.944, ge=0.2, le=0.98)
    """Mean probability that the first draft token is accepted, chat prompts. Not fitted: with
    `accept_decay_chat` it gives the published lengths of 1.94 with one draft and 2.82 with three."""
    accept_random: float = Field(default=0.80, ge=0.1, le=0.98)
    """The same for random prompts without the chat template; fitted."""
    accept_short_ratio: float = Field(default=0.84, ge=0.5, le=1.05)
    """Acceptance with prompts of 1K tokens or less over that with 8K or more: behind long prompts of random
    text a model repeats itself, which drafts follow easily. Before a fit: 0.79 on coding text with one draft
    (InferenceX's golden table, reasoning on) over `accept_chat`."""
    accept_decay: float = Field(default=0.92, ge=0.3, le=1)
    """Factor on that probability per further draft position, random prompts without the chat template."""
    accept_decay_chat: float = Field(default=0.69, ge=0.3, le=1)
    """The same for chat prompts; measured, see `accept_chat`."""
    accept_spread: float = Field(default=8.0, ge=1, le=200)
    """Beta concentration of the acceptance probability between requests; not fitted, see the next."""
    accept_decay_spread: float = Field(default=1.0, ge=0.2, le=200)
    """The same of its factor per further position, chat prompts: some requests repeat themselves, so that
    whole drafts are accepted, and others hardly a second token. Not fitted: with `accept_spread` it gives the
    published ratios of mean and of 99th percentile to median TPOT."""
    accept_before_ue8m0: float = Field(default=0.81, ge=0.3, le=1)
    """Factor on acceptance without the scale fix (0.57 over 0.70, sgl-project/sglang#25733)."""
    sending_ratio: float = Field(default=1.0, ge=0, le=6)
    """Extra time until the decode worker has the KV of a prompt when the prefill worker computes another
    batch meanwhile, over the time by which that batch outlasts its launches: the queue of launches is full
    then, and copies go through the same driver. Fitted to first tokens at 8 to 64 users; not traced."""
    transfer_latency_s: float = Field(default=0.02, ge=0, le=1)
    """Fixed time of one prefill-to-decode hand-over."""
    transfer_efficiency: float = Field(default=0.3, gt=0, le=1)
    """Share of link bandwidth that a KV transfer reaches."""
    data: str = ""
    """What the values were fitted to."""
    left_out: tuple[str, ...] = Field(default=(), max_length=1000)
    """Ids of usable points that the fit did not use."""
    posterior: Posterior | None = None
    """How certain the values are, where that was worked out."""
    error_bands: ErrorBands | None = None
    """How far predictions were from points that the fit had not seen."""

    @property
    def digest(self) -> str:
        """Sixteen hex digits over what decides a prediction; statements about it do not count."""
        return hashlib.sha256(self.model_dump_json(exclude=STATEMENTS).encode()).hexdigest()[:16]

    def slowdown(self, prefill: bool, sm: int) -> float:
        """Kernel time under load over time alone, in a phase on an architecture."""
        if not prefill:
            return self.decode_slowdown
        return self.prefill_slowdown if sm >= 100 else self.hopper_prefill_slowdown

    def routing_alpha(self, prefill: bool) -> float:
        """Exponent of expert popularity in a phase."""
        return self.prefill_routing_alpha if prefill else self.decode_routing_alpha

    def host(self, kind: str) -> HostCosts:
        """Costs of one kind of host; defaults where none were fitted."""
        return self.hosts.get(kind, HostCosts())

    def architecture(self, sm: int) -> ArchitectureCosts:
        """Costs of the architecture with this compute capability; nothing where none were fitted."""
        return self.architectures.get(f"sm{sm}", ArchitectureCosts())


@cache
def load_calibration(path: str | None = None) -> Calibration:
    """The calibration in a JSON file, or the one that ships."""
    if path is None:
        text = (catalog_root() / "calibration.json").read_text()
        return Calibration.parse(json.loads(text), "catalog/calibration.json")
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"calibration={path!r} cannot be read: {error}; give a calibration JSON file"
        ) from None
    return Calibration.parse(data, path)
