"""A DeepSeek-V4 model: shapes as published, and every count that follows from them."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.errors import BadInput

BYTES_BF16 = 2.0
BYTES_FP8 = 1.0
BYTES_FP32 = 4.0
BYTES_MXFP4 = 0.53125
"""Bytes per weight of MXFP4: 4 bits and one 8-bit scale per 32 weights."""
BYTES_FP8_BLOCK = 1.0 + 4.0 / (128 * 128)
"""Bytes per weight of block FP8: one fp32 scale per 128 x 128 block."""


class ModelSpec(Noun):
    """Architecture constants of one DeepSeek-V4 model; everything else is derived from them."""

    name: str
    aliases: tuple[str, ...] = ()
    hidden: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_mtp_layers: int = Field(default=1, ge=0)
    vocab: int = Field(gt=0)
    num_swa_only_layers: int = Field(ge=0)
    """Layers that attend to the sliding window alone."""
    num_c4_layers: int = Field(ge=0)
    """CSA layers: keys compressed 4:1, selected by an indexer."""
    num_c128_layers: int = Field(ge=0)
    """HCA layers: keys compressed 128:1, all attended."""
    num_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    rope_dim: int = Field(gt=0)
    q_lora: int = Field(gt=0)
    o_lora: int = Field(gt=0)
    o_groups: int = Field(gt=0)
    indexer_heads: int = Field(gt=0)
    indexer_dim: int = Field(gt=0)
    indexer_topk: int = Field(gt=0)
    mhc_streams: int = Field(gt=0)
    num_experts: int = Field(gt=0)
    num_shared_experts: int = Field(ge=0)
    experts_per_token: int = Field(gt=0)
    expert_inner: int = Field(gt=0)
    sliding_window: int = Field(gt=0)
    max_context: int = Field(gt=0)
    sources: dict[str, str]

    @model_validator(mode="after")
    def _layers(self) -> ModelSpec:
        kinds = self.num_swa_only_layers + self.num_c4_layers + self.num_c128_layers
        if kinds != self.num_layers:
            raise ValueError(
                f"num_layers={self.num_layers} must equal swa_only+c4+c128={kinds}; correct the counts"
            )
        return self

    # Parameters of one layer, by component (source: model configuration; see `sources`).
    @cached_property
    def params_wqkv_a(self) -> float:
        """Joint query and shared K=V down-projection."""
        return float(self.hidden * (self.q_lora + self.head_dim))

    @cached_property
    def params_wq_b(self) -> float:
        """Query up-projection."""
        return float(self.q_lora * self.num_heads * self.head_dim)

    @cached_property
    def params_wo_a(self) -> float:
        """Grouped output down-projection."""
        return float(self.num_heads * self.head_dim * self.o_lora)

    @cached_property
    def params_wo_b(self) -> float:
        """Output up-projection."""
        return float(self.o_groups * self.o_lora * self.hidden)

    @cached_property
    def params_attention(self) -> float:
        """All projections of one attention layer."""
        return self.params_wqkv_a + self.params_wq_b + self.params_wo_a + self.params_wo_b

    def params_compressor(self, ratio: int) -> float:
        """KV compressor of a layer: 4:1 layers carry two overlapping streams, 128:1 one."""
        return float(self.hidden * self.head_dim * 2 * (2 if ratio == 4 else 1))

    @cached_property
    def params_indexer(self) -> float:
        """Indexer of a 4:1 layer: query projection, its own compressor, head weights."""
        query = self.q_lora * self.indexer_heads * self.indexer_dim
        compressor = self.hidden * self.indexer_dim * 4
        return float(query + compressor + self.hidden * self.indexer_heads)

    @cached_property
    def params_expert(self) -> float:
        """One routed or shared expert (gate, up and down)."""
        return float(3 * self.hidden * self.expert_inner)

    @cached_property
    def params_gate(self) -> float:
        """Router of one layer."""
        return float(self.hidden * self.num_experts)

    @cached_property
    def params_mhc(self) -> float:
        """Both hyper-connection sites of one layer (fp32)."""
        streams = self.mhc_streams
        return float(2 * streams * self.hidden * (streams * streams + 2 * streams))

    @cached_property
    def params_embedding(self) -> float:
        """Embedding or head alone."""
        return float(self.vocab * self.hidden)

    @cached_property
    def params_routed(self) -> float:
        """All routed experts of all main layers."""
        return self.num_layers * self.num_experts * self.params_expert

    @cached_property
    def params_main(self) -> float:
        """All parameters without the MTP layer."""
        per_layer = (
            self.params_attention
            + self.params_gate
            + self.params_mhc
            + (self.num_experts + self.num_shared_experts) * self.params_expert
        )
        compressors = self.num_c4_layers * (
            self.params_compressor(4) + self.params_indexer
        ) + self.num_c128_layers * self.params_compressor(128)
        return self.num_layers * per_layer + compressors + 2 * self.params_embedding

    @cached_property
    def params_mtp(self) -> float:
        """The MTP layer: a full MoE layer and two H x H projections."""
        return self.num_mtp_layers * (
            self.params_attention
            + self.params_gate
            + self.params_mhc
            + (self.num_experts + self.num_shared_experts) * self.params_expert
            + 2.0 * self.hidden * self.hidden
        )

    @cached_property
    def active_params(self) -> float:
        """Parameters one token touches, head included, embedding look-up excluded."""
        routed_off = (self.num_experts - self.experts_per_token) * self.params_expert * self.num_layers
        return self.params_main - routed_off - self.params_embedding

    def attended_keys(self, context: float, ratio: int) -> float:
        """Keys one query attends to in a layer of `ratio` (0: window only) at `context` tokens."""
        window = min(context, float(self.sliding_window))
        if ratio == 4:
            return window + min(context // 4, float(self.indexer_topk))
        return window + (context // 128 if ratio == 128 else 0.0)

    @cached_property
    def layer_ratios(self) -> tuple[int, ...]:
        """Compression ratio of each main layer, first to last.

        Published order: window-only layers, then 4:1 and 128:1 in turn from the first 4:1 layer to the
        last; 128:1 layers left over come before them (`compress_ratios` in both models' config.json).
        """
        in_turn = min(self.num_c128_layers, max(self.num_c4_layers - 1, 0))
        return (
            (0,) * self.num_swa_only_layers
            + (128,) * (self.num_c128_layers - in_turn)
            + (4, 128) * in_turn
            + (4,) * (self.num_c4_layers - in_turn)
        )

    def with_layers(self, num_layers: int) -> ModelSpec:
        """The same model cut to its first layers, as depth studies run it; every width stays.

        Raises `BadInput` where the model has not as many layers.
        """
        if not 1 <= num_layers <= self.num_layers:
            raise BadInput(
                f"num_layers={num_layers} must be 1 to {self.num_layers} for {self.name}; choose fewer layers"
            )
        if num_layers == self.num_layers:
            return self
        kept = self.layer_ratios[:num_layers]
        # Built anew: a copy would carry counts that were already derived from the full depth.
        return ModelSpec(
            **self.model_dump()
            | {
                "name": f"{self.name} ({num_layers} layers)",
                "aliases": (),
                "num_layers": num_layers,
                "num_swa_only_layers": kept.count(0),
                "num_c4_layers": kept.count(4),
                "num_c128_layers": kept.count(128),
            }
        )

    def layer_kinds(self) -> dict[int, int]:
        """Compression ratio (0, 4, 128) to number of main layers."""
        kinds = {0: self.num_swa_only_layers, 4: self.num_c4_layers, 128: self.num_c128_layers}
        return {ratio: count for ratio, count in kinds.items() if count}
