"""Each law with a recipe that breaks it alone and the smallest change that mends it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.search_spaces_tests.samples import AGGREGATED, DISAGGREGATED

CHAT = {"isl": 8192, "osl": 1024, "prompts": "chat"}
MTP3 = {"num_steps": 3}
DSPARK = {"num_steps": 7, "algorithm": "dspark"}
MEGAMOE_DEP8 = AGGREGATED | {
    "aggregated": DISAGGREGATED["prefill"]
    | {"tp": 8, "attention_dp": 8, "moe_ep": 8, "num_workers": 1, "graph_max_batch_per_rank": 64}
}
DEEPEP_DEP8 = AGGREGATED | {
    "aggregated": MEGAMOE_DEP8["aggregated"]
    | {"moe_backend": "deepep", "moe_activation": "fp8", "max_running_per_rank": 128}
}


class Case(NamedTuple):
    rule: str
    base: dict[str, Any]
    breaks: dict[str, Any]
    mends: dict[str, Any]
    severity: str = "hard"
    engine: str = "0.5.15"
    load: dict[str, Any] | None = None
    along: tuple[str, ...] = ()
    """Laws that cannot but break with it."""


def wide_decode(gpus: int) -> dict[str, int]:
    return {"decode__tp": gpus, "decode__attention_dp": gpus, "decode__moe_ep": gpus}


CASES = [
    Case("experts-divisible", DISAGGREGATED, wide_decode(40), {"decode__redundant_experts": 16}),
    Case(
        "experts-per-gpu",
        AGGREGATED | {"hardware": "gb300"},
        {"model": "deepseek-v4-flash", "aggregated__tp": 512, "aggregated__attention_dp": 512},
        {"aggregated__tp": 64, "aggregated__attention_dp": 64},
        along=("nvlink-domain", "rack"),
    ),
    Case(
        "expert-slices",
        AGGREGATED | {"hardware": "gb300"},
        {"aggregated__tp": 36, "aggregated__attention_dp": 36},
        {"aggregated__moe_ep": 12},
    ),
    Case(
        "attention-tp",
        AGGREGATED,
        {"model": "deepseek-v4-flash", "hardware": "gb300", "aggregated__tp": 16},
        {"aggregated__attention_dp": 16},
    ),
    Case(
        "full-dp",
        AGGREGATED,
        {"aggregated__attention_dp": 4},
        {"aggregated__attention_dp": 8},
        severity="soft",
    ),
    Case(
        "chunk-pages",
        DISAGGREGATED,
        {"prefill__chunk_tokens_per_rank": 5000},
        {"prefill__chunk_tokens_per_rank": 4864},
    ),
    Case(
        "dp-lm-head", AGGREGATED, {"aggregated__dp_lm_head": True}, {"aggregated__dp_lm_head": False}, "soft"
    ),
    Case(
        "megamoe-platform",
        MEGAMOE_DEP8,
        {"hardware": "h200", "aggregated__moe_activation": "fp8"},
        {"hardware": "b200"},
    ),
    Case(
        "megamoe-platform",
        MEGAMOE_DEP8,
        {"hardware": "h200", "aggregated__moe_activation": "fp8"},
        {"aggregated__expert_weights": "fp8"},
        engine="0.5.23",
    ),
    Case(
        "megamoe-overlap",
        MEGAMOE_DEP8,
        {"aggregated__two_batch_overlap": True},
        {"aggregated__two_batch_overlap": False},
    ),
    Case(
        "megamoe-overlap",
        MEGAMOE_DEP8,
        {"aggregated__single_batch_overlap": True},
        {"aggregated__single_batch_overlap": False},
    ),
    Case(
        "two-batch-overlap",
        AGGREGATED,
        {"aggregated__two_batch_overlap": True},
        {"aggregated__attention_dp": 8},
    ),
    Case(
        "two-batch-overlap",
        DEEPEP_DEP8,
        {"aggregated__two_batch_overlap": True, "aggregated__deepep_mode": "low_latency"},
        {"aggregated__deepep_mode": "auto"},
        "soft",
    ),
    Case(
        "two-batch-overlap",
        DEEPEP_DEP8,
        {"aggregated__two_batch_overlap": True, "aggregated__prefill_graph": True},
        {"aggregated__prefill_graph": False},
        "soft",
        engine="0.5.23",
    ),
    Case(
        "single-batch-overlap",
        DEEPEP_DEP8,
        {"aggregated__single_batch_overlap": True},
        {"aggregated__deepep_mode": "low_latency"},
    ),
    Case(
        "single-batch-overlap",
        AGGREGATED,
        {"aggregated__single_batch_overlap": True},
        {"aggregated__single_batch_overlap": False},
        "soft",
    ),
    Case("eplb-ep", AGGREGATED, {"aggregated__eplb": True}, {"aggregated__moe_ep": 8}),
    Case(
        "idle-experts",
        MEGAMOE_DEP8,
        {"aggregated__redundant_experts": 8},
        {"aggregated__eplb": True},
        "soft",
    ),
    Case(
        "replica-agreement",
        AGGREGATED,
        {"aggregated__moe_ep": 8, "aggregated__redundant_experts": 8, "aggregated__eplb": True},
        {"aggregated__redundant_experts": 0},
    ),
    Case(
        "replica-agreement",
        AGGREGATED,
        {"aggregated__moe_ep": 8, "aggregated__eplb": True, "aggregated__expert_dispatch": "static"},
        {"aggregated__expert_dispatch": "dynamic"},
        engine="0.5.23",
    ),
    Case(
        "waterfill-backend",
        MEGAMOE_DEP8,
        {"aggregated__waterfill": True},
        {"aggregated__waterfill": False},
        along=("waterfill-weights",),
    ),
    Case(
        "waterfill-weights",
        DEEPEP_DEP8,
        {"aggregated__waterfill": True},
        {"aggregated__expert_weights": "fp8"},
    ),
    Case(
        "megamoe-cap-prefill",
        DISAGGREGATED,
        {"prefill__megamoe_cap_tokens": 4096},
        {"prefill__megamoe_cap_tokens": 8192},
    ),
    Case(
        "megamoe-cap-decode",
        DISAGGREGATED,
        {"decode__mtp": MTP3},
        {"decode__megamoe_cap_tokens": 4608},
    ),
    Case(
        "deepep-cap",
        DEEPEP_DEP8,
        {"aggregated__mtp": MTP3},
        {"aggregated__deepep_cap_tokens": 256},
    ),
    Case(
        "nvlink-domain",
        MEGAMOE_DEP8,
        {
            "aggregated__tp": 16,
            "aggregated__attention_dp": 16,
            "aggregated__moe_ep": 16,
        },
        {"hardware": "gb300"},
    ),
    Case("rack", DISAGGREGATED, {"prefill__num_workers": 15}, {"prefill__num_workers": 14}, "soft"),
    Case(
        "node-tiling",
        MEGAMOE_DEP8,
        {"aggregated__tp": 6, "aggregated__attention_dp": 6, "aggregated__moe_ep": 6},
        {"aggregated__tp": 8, "aggregated__attention_dp": 8, "aggregated__moe_ep": 8},
        "soft",
    ),
    Case(
        "custom-all-reduce",
        DISAGGREGATED,
        {"decode__extra_env": {"SGLANG_OPT_USE_CUSTOM_ALL_REDUCE_V2": "1"}},
        {"decode__extra_env": {"SGLANG_OPT_USE_CUSTOM_ALL_REDUCE_V2": "0"}},
    ),
    Case(
        "expert-weights",
        AGGREGATED,
        {"aggregated__expert_weights": "nvfp4"},
        {"aggregated__moe_backend": "flashinfer_trtllm_routed"},
    ),
    Case(
        "expert-weights",
        AGGREGATED,
        {"aggregated__moe_backend": "deep_gemm", "aggregated__expert_weights": "nvfp4"},
        {"aggregated__expert_weights": "mxfp4"},
    ),
    Case("marlin-platform", AGGREGATED, {"aggregated__moe_backend": "marlin"}, {"hardware": "h200"}),
    Case(
        "fp4-activation",
        AGGREGATED,
        {"aggregated__moe_activation": "fp4"},
        {"aggregated__moe_activation": "fp8"},
    ),
    Case(
        "fp4-indexer", AGGREGATED, {"hardware": "h200", "aggregated__fp4_indexer": True}, {"hardware": "b200"}
    ),
    Case(
        "online-compress-mtp",
        AGGREGATED,
        {"aggregated__mtp": MTP3, "aggregated__online_compress": True},
        {"aggregated__mtp": None},
    ),
    Case(
        "mixed-chunk-mtp",
        AGGREGATED,
        {"aggregated__mtp": MTP3, "aggregated__mixed_chunk": True},
        {"aggregated__mixed_chunk": False},
    ),
    Case("pp-mtp", AGGREGATED, {"aggregated__mtp": MTP3, "aggregated__pp": 2}, {"aggregated__pp": 1}),
    Case(
        "decode-radix-mtp",
        DISAGGREGATED,
        {
            "decode__mtp": {"num_steps": 1},
            "decode__megamoe_cap_tokens": 4096,
            "decode__radix_cache": True,
        },
        {"decode__radix_cache": False},
    ),
    Case(
        "prefill-decode-interval",
        AGGREGATED,
        {"aggregated__prefill_decode_interval": 10},
        {"aggregated__prefill_decode_interval": 0},
        "soft",
    ),
    Case(
        "prefill-delayer",
        AGGREGATED,
        {"aggregated__prefill_delayer": True, "aggregated__overlap_schedule": False},
        {"aggregated__overlap_schedule": True},
        "soft",
    ),
    Case(
        "graph-slots",
        AGGREGATED,
        {"aggregated__graph_max_batch_per_rank": 128},
        {"aggregated__graph_max_batch_per_rank": 64},
        "soft",
    ),
    Case(
        "context",
        DISAGGREGATED,
        {"decode__context_length": 9215},
        {"decode__context_length": 9216},
        load=CHAT,
    ),
    Case(
        "context",
        AGGREGATED,
        {"aggregated__context_length": (1 << 20) + 1},
        {"aggregated__context_length": 1 << 20},
    ),
    Case("transfer-backend", DISAGGREGATED, {"transfer_backend": None}, {"transfer_backend": "nixl"}),
    Case("kv-layout", DISAGGREGATED, {"decode__online_compress": True}, {"prefill__online_compress": True}),
    Case(
        "mtp-roles",
        DISAGGREGATED,
        {"decode__mtp": {"num_steps": 1}, "decode__megamoe_cap_tokens": 4096},
        {"prefill__mtp": {"num_steps": 1}},
        engine="0.5.23",
    ),
    Case("mtp-roles", DISAGGREGATED, {"prefill__mtp": {"num_steps": 1}}, {"prefill__mtp": None}, "soft"),
    Case(
        "dspark-release",
        AGGREGATED,
        {"aggregated__mtp": DSPARK},
        {"aggregated__mtp": MTP3},
    ),
    Case(
        "dspark-dp-head",
        MEGAMOE_DEP8,
        {"aggregated__mtp": DSPARK, "aggregated__dp_lm_head": False},
        {"aggregated__dp_lm_head": True},
        engine="0.5.23",
    ),
    Case(
        "dspark-all-to-all",
        DEEPEP_DEP8,
        {"aggregated__mtp": DSPARK, "aggregated__deepep_cap_tokens": 1024},
        {"aggregated__mtp": None},
        engine="0.5.23",
    ),
    Case(
        "dspark-verify",
        MEGAMOE_DEP8,
        {"aggregated__mtp": DSPARK | {"verify": "compact"}},
        {"aggregated__mtp": DSPARK},
        engine="0.5.23",
    ),
    Case(
        "dspark-simulated",
        AGGREGATED,
        {"aggregated__mtp": DSPARK | {"verify": "cap-accept", "simulated_accept_length": 2.0}},
        {"aggregated__mtp": DSPARK | {"simulated_accept_length": 2.0}},
        engine="0.5.23",
    ),
    Case(
        "adaptive-dp",
        MEGAMOE_DEP8,
        {"aggregated__mtp": MTP3 | {"adaptive": {}}},
        {"aggregated__mtp": MTP3},
        "soft",
    ),
    Case(
        "adaptive-steps",
        AGGREGATED,
        {"aggregated__mtp": {"num_steps": 5, "adaptive": {}}},
        {"aggregated__mtp": MTP3 | {"adaptive": {}}},
    ),
    Case(
        "slots",
        MEGAMOE_DEP8,
        {"aggregated__max_running_per_rank": 60},
        {"aggregated__max_running_per_rank": 64},
        "soft",
        load=CHAT | {"concurrency": 512},
    ),
    Case(
        "graph-batch",
        AGGREGATED,
        {"aggregated__graph_max_batch_per_rank": 32},
        {"aggregated__graph_max_batch_per_rank": 64},
        "soft",
        load=CHAT | {"concurrency": 64},
    ),
    Case(
        "mtp-prompts",
        AGGREGATED,
        {"aggregated__mtp": MTP3},
        {"aggregated__mtp": None},
        "soft",
        load=CHAT | {"prompts": "random"},
    ),
]
