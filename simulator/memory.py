"""GPU memory of one rank, as the engine lays it out: weights, pools, states and what is left.

Sources: SGLang 0.5.15 and 0.5.23 (`memory_pool`, `deepseek_v4` pool configurator); the 0.5.12-era
accounting reproduces the 23749.84 bytes per token printed in sgl-project/sglang#24523.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import Infeasible
from search_spaces.hardware import Hardware
from search_spaces.model import BYTES_BF16, BYTES_FP8, BYTES_FP8_BLOCK, BYTES_FP32, BYTES_MXFP4, ModelSpec
from search_spaces.recipe import A2A_BACKENDS, EngineGroup
from search_spaces.stack import StackVersion
from search_spaces.units import BYTES_PER_GIB, gb

Counts = int | NDArray[np.int64]
"""Tokens of one request, or of each of many."""

PAGE_TOKENS = 256
"""Tokens per full-pool page; the engine forces it for this model family."""
KV_ENTRY_BYTES = 584
"""One latent KV entry: 448 fp8, 64 bf16 rope, 8 scales."""
KV_ENTRY_PADDED_BYTES = 585
"""The same with page padding to multiples of 576 bytes, per token."""
INDEX_ENTRY_BYTES = 132
"""One indexer key (fp8 and its scale)."""
C4_STATE_ROW_BYTES = 10_240
"""Compressor and indexer state per ring row and 4:1 layer, fp32."""
C128_STATE_ROW_BYTES = 4_096
"""128:1 compressor state per ring row and layer."""
C128_ONLINE_STATE_BYTES = 6_144
"""128:1 online compressor state per request slot and layer."""
MARKOV_RANK = 256
"""Rank of the tables by which DSpark's drafted tokens shift each other's logits (`dspark_markov_rank`;
assumed, in no public source read)."""
ROPE_TABLE_BYTES = 2 * 268_435_456
"""Two cached rotary tables."""
RUNTIME_BYTES = 2 * BYTES_PER_GIB
"""CUDA context, NCCL and NVSHMEM buffers present before weights load (assumed; not published)."""

EXPERT_BYTES = {"mxfp4": BYTES_MXFP4, "nvfp4": 0.5625, "fp8": BYTES_FP8_BLOCK}
"""Bytes per routed-expert weight."""


@lru_cache(maxsize=4096)
def weight_bytes(
    model: ModelSpec, group: EngineGroup, hardware_sm: int, with_mtp: bool = True
) -> dict[str, float]:
    """Bytes of weights on one rank by component, after the engine's sharding rules."""
    attention_tp, layers = group.attention_tp, model.num_layers / group.pp
    all_to_all = group.moe_backend in A2A_BACKENDS
    wo_a_bytes = BYTES_BF16 if hardware_sm < 100 else BYTES_FP8
    sharded = (
        model.params_wq_b * BYTES_FP8 + model.params_wo_a * wo_a_bytes + model.params_wo_b * BYTES_FP8
    ) / attention_tp
    per_layer = {
        "attention": sharded + model.params_wqkv_a * BYTES_FP8,
        "routed_experts": (model.num_experts + group.redundant_experts)
        * model.params_expert
        * EXPERT_BYTES[group.expert_weights]
        / group.tp,
        "shared_expert": model.num_shared_experts
        * model.params_expert
        * BYTES_FP8
        / (1 if all_to_all else group.tp),
        "gate_and_mhc": model.params_gate * BYTES_BF16 + model.params_mhc * BYTES_FP32,
    }
    indexer_query = model.q_lora * model.indexer_heads * model.indexer_dim
    indexer = indexer_query * BYTES_FP8 + (model.params_indexer - indexer_query) * BYTES_BF16
    compressors = (
        model.num_c4_layers * (model.params_compressor(4) * BYTES_BF16 + indexer)
        + model.num_c128_layers * model.params_compressor(128) * BYTES_BF16
    )
    table = model.params_embedding * BYTES_BF16
    head_shards = attention_tp if group.dp_lm_head else group.tp
    embedding_shards = 1 if group.attention_dp > 1 else group.tp
    found = {name: layers * size for name, size in per_layer.items()}
    found["compressor_and_indexer"] = compressors / group.pp
    found["embedding_and_head"] = table / embedding_shards + table / head_shards
    if group.mtp and with_mtp:
        found["mtp_layer"] = sum(per_layer.values()) + 2.0 * model.hidden**2 * BYTES_FP8
        if group.mtp.algorithm == "dspark":
            # One projection of target states instead of two; wo_a stays BF16; two Markov tables per rank.
            found["mtp_layer"] += (
                model.params_wo_a * (BYTES_BF16 - wo_a_bytes) / attention_tp
                - model.hidden**2 * BYTES_FP8
                + 2 * model.vocab * MARKOV_RANK * BYTES_BF16
            )
    return found


def pool_parts(model: ModelSpec, group: EngineGroup, stack: StackVersion) -> dict[str, float]:
    """Pool bytes that one full-pool token costs, by pool; their sum in this order is what it costs."""
    ratio, layers = group.swa_full_tokens_ratio, model.num_layers
    c4, c128 = model.num_c4_layers, model.num_c128_layers
    ring = 16 if group.mtp else 8
    padded = stack.has("padded_page_pools")
    entry = KV_ENTRY_PADDED_BYTES if padded else KV_ENTRY_BYTES
    c4_entry = (37_440 / PAGE_TOKENS) if padded else KV_ENTRY_BYTES / 4
    c128_entry = (1_728 / PAGE_TOKENS) if padded else KV_ENTRY_BYTES / 128
    state_page = PAGE_TOKENS if padded else 128
    index = (8_448 / PAGE_TOKENS) * c4
    state = ratio * ring / state_page * C4_STATE_ROW_BYTES * c4
    if not stack.has("c128_state_per_request"):
        layers += model.num_mtp_layers
        state += ratio * C128_STATE_ROW_BYTES * c128
    found = {
        "swa_kv": entry * ratio * layers,
        "c4_kv": c4_entry * c4,
        "c128_kv": c128_entry * c128,
        "indexer": index,
        "compressor_state": state,
    }
    if group.mtp:
        total = sum(found.values())
        found["mtp_draft"] = total * ((model.num_layers + 1) / model.num_layers) - total
    return found


def bytes_per_full_token(model: ModelSpec, group: EngineGroup, stack: StackVersion) -> float:
    """Pool bytes that one full-pool token costs, sliding-window and state shares included."""
    return sum(pool_parts(model, group, stack).values())


def slot_state_bytes(model: ModelSpec, group: EngineGroup, stack: StackVersion) -> float:
    """128:1 compressor state reserved per request slot."""
    if not stack.has("c128_state_per_request"):
        return 0.0
    if group.online_compress and not group.mtp:
        return float(C128_ONLINE_STATE_BYTES * model.num_c128_layers)
    return float(C128_STATE_ROW_BYTES * (256 if group.mtp else 128) * model.num_c128_layers)


def state_pool_bytes(model: ModelSpec, group: EngineGroup, stack: StackVersion, slots: int) -> float:
    """128:1 compressor state of a rank with `slots` request slots.

    Beside the slots there is one for padding and one ring as a sink; rings end on a page of 128 rows, and
    online state on one more row. Source: SGLang 0.5.15 `pool_configurator`.
    """
    per_slot = slot_state_bytes(model, group, stack)
    online = group.online_compress and not group.mtp
    end = per_slot if online else C128_STATE_ROW_BYTES * 128 * model.num_c128_layers
    return per_slot * (slots + 2) + end if per_slot else 0.0


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What one rank's memory is used for. Bytes, tokens and request slots per rank."""

    hbm_bytes: float
    weights: dict[str, float]
    available_bytes: float
    """For pools, after weights and the unmanaged share."""
    slot_state_bytes: float
    bytes_per_token: float
    full_tokens: int
    swa_tokens: int
    slots: int

    @property
    def weights_bytes(self) -> float:
        """All weights."""
        return sum(self.weights.values())

    @property
    def pool_bytes(self) -> float:
        """All token pools."""
        return self.full_tokens * self.bytes_per_token

    @property
    def headroom_bytes(self) -> float:
        """Left for graphs, buffers and activations."""
        return (
            self.hbm_bytes
            - RUNTIME_BYTES
            - ROPE_TABLE_BYTES
            - self.weights_bytes
            - self.slot_state_bytes
            - self.pool_bytes
        )


def num_slots(group: EngineGroup, is_decode_role: bool) -> int:
    """Request slots per rank, with the extra ones a small decode worker gets."""
    slots = group.max_running_per_rank
    return slots + 2 * slots if is_decode_role and slots <= 32 else slots


@lru_cache(maxsize=8192)
def memory_budget(
    model: ModelSpec, group: EngineGroup, hardware: Hardware, stack: StackVersion, role: str
) -> MemoryBudget:
    """Solve the pools of one rank as the engine does at start-up.

    Raises:
        Infeasible: weights or request state do not fit, with the bytes that are missing.
    """
    weights = weight_bytes(model, group, hardware.sm)
    before = hardware.hbm_bytes - RUNTIME_BYTES
    after = before - sum(weights.values()) - ROPE_TABLE_BYTES
    available = after - (1.0 - group.mem_fraction_static) * before
    slots = num_slots(group, role == "decode")
    state = state_pool_bytes(model, group, stack, slots)
    per_token = bytes_per_full_token(model, group, stack)
    full = int((available - state) / per_token) // PAGE_TOKENS * PAGE_TOKENS
    if group.max_total_tokens is not None:
        full = min(full, group.max_total_tokens // PAGE_TOKENS * PAGE_TOKENS)
    swa = int(full * group.swa_full_tokens_ratio) // PAGE_TOKENS * PAGE_TOKENS
    if full < 2 * PAGE_TOKENS or swa < 2 * PAGE_TOKENS:
        raise Infeasible(
            f"{role} {group.label} on {hardware.name}: weights {gb(sum(weights.values())):.1f} GB and "
            f"request state {gb(state):.1f} GB leave {gb(available - state):.1f} GB for KV at "
            f"mem_fraction_static={group.mem_fraction_static}; widen the worker, raise mem_fraction_static "
            "or lower max_running_per_rank",
            rule="memory",
        )
    return MemoryBudget(
        hbm_bytes=hardware.hbm_bytes,
        weights=weights,
        available_bytes=available,
        slot_state_bytes=state,
        bytes_per_token=per_token,
        full_tokens=full,
        swa_tokens=swa,
        slots=min(slots, full // 2),
    )


def swa_tail_tokens(context: Counts, window: int = 128) -> Counts:
    """Window-pool tokens held by a request of `context` tokens (129..383, page-aligned start)."""
    return context - PAGE_TOKENS * (np.maximum(0, context - window) // PAGE_TOKENS)


def transfer_bytes(
    model: ModelSpec, prompt_tokens: Counts, group: EngineGroup, tokens_before: Counts = 0
) -> NDArray[np.float64]:
    """Bytes a prefill rank ships for one prompt or many: compressed KV, window pages, compressor state.

    `tokens_before` have travelled with earlier chunks, whole pages of compressed KV only.
    """
    pages = -(-prompt_tokens // PAGE_TOKENS) - tokens_before // PAGE_TOKENS
    long_lived = pages * (model.num_c4_layers * (37_440 + 8_448) + model.num_c128_layers * 1_728)
    window_pages = -(-swa_tail_tokens(prompt_tokens) // PAGE_TOKENS)
    ring = 16 if group.mtp else 8
    window = window_pages * (149_760 * model.num_layers + ring * C4_STATE_ROW_BYTES * model.num_c4_layers)
    row = C128_ONLINE_STATE_BYTES if group.online_compress else C128_STATE_ROW_BYTES * 128
    state = np.where(np.asarray(prompt_tokens) % 128 > 0, row * model.num_c128_layers, 0)
    found: NDArray[np.float64] = np.asarray(long_lived + window + state, dtype=float)
    return found


PLAIN_BUCKETS = (1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 513, 16), *range(544, 4097, 32))
SPECULATIVE_BUCKETS = (
    *range(1, 9),
    *range(10, 33, 2),
    *range(40, 65, 4),
    *range(72, 257, 8),
    *range(272, 4097, 16),
)


def graph_buckets(group: EngineGroup) -> tuple[int, ...]:
    """Decode batch sizes per rank captured in CUDA graphs, ascending; empty without graphs."""
    largest = min(group.graph_max_batch_per_rank, group.max_running_per_rank)
    if largest < 1:
        return ()
    buckets = SPECULATIVE_BUCKETS if group.mtp else PLAIN_BUCKETS
    return tuple(sorted({b for b in buckets if b <= largest} | {largest}))
