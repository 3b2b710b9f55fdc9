"""Every SGLang flag and variable that an `EngineGroup` field comes from, in one table.

The same rows parse and emit. Names are spelled with hyphens and without the leading dashes.
Spellings were read from the argument parsers of SGLang 0.5.15 and 0.5.23; `flag` is accepted by
both unless `since` says otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["int", "float", "str", "bool"]
Role = Literal["prefill", "decode", "aggregated"]

DEFAULT_ENGINE_VERSION = "0.5.15"
NEW_FLAGS = (0, 5, 23)
"""First release read that dropped the 0.5.15 MegaMoE switches and `--cuda-graph-max-bs`."""


def version_tuple(version: str) -> tuple[int, ...]:
    """`v0.5.15.post1` to `(0, 5, 15)`; a text without three numbers counts as the oldest."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(part) for part in found.groups()) if found else (0, 0, 0)


@dataclass(frozen=True, slots=True)
class FlagRule:
    """One engine flag (or variable) and the `EngineGroup` field it sets.

    `per_worker` flags count over all attention ranks: the field is the value divided by their
    number, rounded down. `inverted` flags switch the field off. `since` is the first release that
    accepts the flag.
    """

    flag: str
    field: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    per_worker: bool = False
    inverted: bool = False
    always: bool = False
    choices: tuple[str, ...] = ()
    since: tuple[int, ...] = (0, 0, 0)


FLAG_RULES: tuple[FlagRule, ...] = (
    FlagRule("tensor-parallel-size", "tp", "int", ("tp", "tp-size"), always=True),
    FlagRule("pipeline-parallel-size", "pp", "int", ("pp", "pp-size")),
    FlagRule("ep-num-redundant-experts", "redundant_experts", "int"),
    FlagRule("enable-eplb", "eplb", "bool"),
    FlagRule("eplb-rebalance-num-iterations", "eplb_rebalance_steps", "int"),
    FlagRule("eplb-min-rebalancing-utilization-threshold", "eplb_min_utilization", "float"),
    FlagRule("init-expert-location", "expert_location", "str"),
    FlagRule("ep-dispatch-algorithm", "expert_dispatch", "str", choices=("static", "dynamic")),
    FlagRule("enable-two-batch-overlap", "two_batch_overlap", "bool"),
    FlagRule("enable-single-batch-overlap", "single_batch_overlap", "bool"),
    FlagRule("mem-fraction-static", "mem_fraction_static", "float", always=True),
    FlagRule("swa-full-tokens-ratio", "swa_full_tokens_ratio", "float", always=True),
    FlagRule("max-running-requests", "max_running_per_rank", "int", per_worker=True, always=True),
    FlagRule("max-total-tokens", "max_total_tokens", "int"),
    FlagRule("chunked-prefill-size", "chunk_tokens_per_rank", "int", per_worker=True, always=True),
    FlagRule("max-prefill-tokens", "max_prefill_tokens", "int"),
    FlagRule("context-length", "context_length", "int"),
    FlagRule(
        "cuda-graph-max-bs-decode",
        "graph_max_batch_per_rank",
        "int",
        ("cuda-graph-max-bs",),
        always=True,
    ),
    FlagRule("deepep-mode", "deepep_mode", "str", choices=("auto", "normal", "low_latency")),
    FlagRule("enable-dp-lm-head", "dp_lm_head", "bool"),
    FlagRule("enable-deepseek-v4-fp4-indexer", "fp4_indexer", "bool"),
    FlagRule("disable-radix-cache", "radix_cache", "bool", inverted=True),
    FlagRule("enable-prefill-delayer", "prefill_delayer", "bool"),
    FlagRule("enable-mixed-chunk", "mixed_chunk", "bool"),
    FlagRule("prefill-decode-interval", "prefill_decode_interval", "int", since=(0, 5, 16)),
    FlagRule("disable-overlap-schedule", "overlap_schedule", "bool", inverted=True),
    FlagRule("schedule-conservativeness", "schedule_conservativeness", "float"),
    FlagRule(
        "load-balance-method",
        "load_balance",
        "str",
        choices=("auto", "round_robin", "total_requests", "total_tokens"),
    ),
    FlagRule("disaggregation-decode-polling-interval", "decode_polling_interval", "int"),
    FlagRule("num-reserved-decode-tokens", "reserved_decode_tokens", "int"),
    FlagRule("stream-interval", "stream_interval", "int"),
    FlagRule("tokenizer-worker-num", "tokenizer_workers", "int"),
    FlagRule("skip-tokenizer-init", "skip_tokenizer_init", "bool"),
    FlagRule("hicache-ratio", "hicache_ratio", "float"),
)

ENV_RULES: tuple[FlagRule, ...] = (
    FlagRule("SGLANG_OPT_USE_ONLINE_COMPRESS", "online_compress", "bool"),
    FlagRule("SGLANG_OPT_SWA_SPLIT_LEAF_ON_INSERT", "swa_tail_lock", "bool"),
    FlagRule("SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION", "clip_max_new_tokens", "int"),
)
MEGAMOE_CAP_ENV = "SGLANG_OPT_DEEPGEMM_MEGA_MOE_NUM_MAX_TOKENS_PER_RANK"
DEEPEP_CAP_ENV = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
MEGAMOE_SWITCH_ENV = "SGLANG_OPT_USE_DEEPGEMM_MEGA_MOE"
W4A4_ENV = ("SGLANG_OPT_DEEPGEMM_MEGA_MOE_USE_FP4_ACTS", "SGLANG_OPT_DEEPGEMM_MEGA_MOE_USE_MXF4_KIND")
W4A4_FLAG = "enable-w4a4-mxfp4-megamoe"
WATERFILL_FLAG = "enable-waterfill"
OLD_WATERFILL_FLAG = "enable-deepep-waterfill"
"""Its spelling before 0.5.23."""
FP4_EXPERTS_ENV = "SGLANG_DSV4_FP4_EXPERTS"
FORCE_MISS_ENV = ("SGLANG_RADIX_FORCE_MISS", "SGLANG_RADIX_DISABLE_REUSE")
"""Variables that make every prefix look-up miss; the second is the spelling of older builds."""
ONLINE_MTP_ENV = "SGLANG_EXPERIMENTAL_ONLINE_C128_MTP"

SPECIAL_ALIASES: dict[str, str] = {
    "dp": "data-parallel-size",
    "dp-size": "data-parallel-size",
    "ep": "expert-parallel-size",
    "ep-size": "expert-parallel-size",
    "speculative-algo": "speculative-algorithm",
    "cuda-graph-bs": "cuda-graph-bs-decode",
    OLD_WATERFILL_FLAG: WATERFILL_FLAG,
    "model": "model-path",
}
"""Other spellings of flags that need more than one row of arithmetic."""

ALIASES: dict[str, str] = SPECIAL_ALIASES | {
    alias: rule.flag for rule in FLAG_RULES for alias in rule.aliases
}
RULE_OF: dict[str, FlagRule] = {rule.flag: rule for rule in FLAG_RULES}

LAUNCH_FLAGS = frozenset(
    {
        "model-path",
        "served-model-name",
        "host",
        "port",
        "nnodes",
        "node-rank",
        "dist-init-addr",
        "nccl-init-addr",
        "nccl-port",
        "trust-remote-code",
        "disaggregation-mode",
        "disaggregation-transfer-backend",
        "disaggregation-bootstrap-port",
        "base-gpu-id",
    }
)
"""Flags a launcher writes itself; they are no part of a group."""

FORCED_FLAGS = frozenset({"page-size", "kv-cache-dtype", "attention-backend"})
"""Flags the engine overrides for DeepSeek-V4 whatever is asked; kept for export only."""

BOOL_FLAGS = frozenset(rule.flag for rule in FLAG_RULES if rule.kind == "bool") | {
    "trust-remote-code",
    "enable-dp-attention",
    "disable-cuda-graph",
    "enable-breakable-cuda-graph",
    "enable-hierarchical-cache",
    "speculative-adaptive",
    W4A4_FLAG,
    WATERFILL_FLAG,
    OLD_WATERFILL_FLAG,
}
"""Flags that take no value on a command line."""

REMOVED_IN_NEW: frozenset[str] = frozenset(
    {
        "cuda-graph-max-bs",
        "cuda-graph-bs",
        "enable-breakable-cuda-graph",
        OLD_WATERFILL_FLAG,
        "speculative-skip-dp-mlp-sync",
        "optimistic-prefill-retries",
        "stream-output",
        "enable-expert-distribution-metrics",
        "prefill-round-robin-balance",
    }
)
"""Flags of 0.5.15 that stop 0.5.23 at start."""

ENV_UNKNOWN = frozenset(
    {
        "SGLANG_RADIX_DISABLE_REUSE",
        "SGLANG_OPT_FIX_HASH_MEGA_MOE",
        "SGLANG_OPT_FIX_NEXTN_MEGA_MOE",
        "SGLANG_OPT_USE_FAST_MASK_EP",
        "SGLANG_EXPERIMENTAL_ENABLE_PIECEWISE_CUDA_GRAPH_MOE_A2A",
    }
)
"""Variables that public recipes set and neither release reads."""

ENV_REMOVED_IN_NEW = frozenset(
    {
        *W4A4_ENV,
        MEGAMOE_SWITCH_ENV,
        "SGLANG_OPT_FIX_MEGA_MOE_MEMORY",
        "SGLANG_OPT_SWA_SPLIT_LEAF_ON_INSERT",
        "SGLANG_ENABLE_UNIFIED_RADIX_TREE",
        "SGLANG_DSV4_MHC_PREWARM",
        "SGLANG_OPT_USE_JIT_NORM",
        "SGLANG_OPT_SWA_EVICT_DROP_PAGE_MARGIN",
        "SGLANG_ENABLE_THINKING",
        "SGLANG_REASONING_EFFORT",
    }
)
"""Variables of 0.5.15 that 0.5.23 ignores."""


def canonical_name(name: str) -> str:
    """`--tp_size` to `tensor-parallel-size`; names without an alias are only hyphenated."""
    plain = name.lstrip("-").replace("_", "-")
    return ALIASES.get(plain, plain)
