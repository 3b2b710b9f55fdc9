"""Which rows of the `aiconfigurator-core` tables become which rows of a kernel profile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import BadInput
from search_spaces.kernel_profile import DISTRIBUTIONS, MODELS, MOE_KERNELS, Table
from search_spaces.units import seconds_from_ms, seconds_from_us

PREFIXES_KEPT = (0, 1024, 4096, 8192, 16384, 32768, 65536, 131072)
"""Cached prefixes kept for batches of more than one sequence; see also `STEP_TOKENS`."""
TOKENS_KEPT = tuple(2**power for power in range(15))
"""batch * new_tokens kept for batches of more than one sequence."""
STEP_TOKENS = 8
"""Up to this many new tokens per sequence every row is kept: what decode and verify steps run, at
batches times contexts where the decode tables have ended."""
MHC_NUM_SITES = 2
"""Hyper-connection sites of a layer, all in one row of the table."""

_GATE = {(256, 7168), (512, 7168), (256, 4096)}
_SHARED_UP = {(6144 // tp, 7168) for tp in (1, 2, 4, 8)} | {(4096 // tp, 4096) for tp in (1, 2, 4, 8)}
_SHARED_DOWN = {(7168, k) for k in (3072, 1536, 768, 512, 256)}
_SHARED_DOWN |= {(4096, 2048 // tp) for tp in (1, 2, 4, 8)}
_LM_HEAD = {(n, hidden) for n in (65536, 51200, 16384) for hidden in (7168, 4096)}
_SQUARE = {(7168, 7168), (4096, 4096)}
GEMM_SHAPES = (
    ("bfloat16", _GATE | _SHARED_UP | _SHARED_DOWN | _LM_HEAD | _SQUARE),
    ("fp8_block", _SHARED_UP | _SHARED_DOWN | _SQUARE),
)
"""(n, k) kept per element type: router gate, shared expert and its TP slices, LM head, H x H.

The measured grid has no n = 384 (the gate of Pro) and no k = 384 (its shared expert at TP 8), so
the neighbours 256 and 512 stand on either side; it ends at n = 65,536, half the vocabulary."""


class Key(NamedTuple):
    """Where an integer column comes from: a column, through `codes` or times `factor`."""

    column: str
    codes: Mapping[str, int] | None = None
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Sheet:
    """How rows of one Parquet table become rows of one profile table."""

    place: tuple[str, str, str]
    """Folder, engine and file below the system; the version folder is between the last two."""
    keys: Mapping[str, Key | int]
    """Our column to its source, or to one constant."""
    only: Mapping[str, str | int] = field(default_factory=dict)
    """Their column to the only value kept."""
    times: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"time_s": ("latency",)})
    """Our time column to theirs, which add up."""
    in_seconds: Callable[[Any], Any] = seconds_from_ms
    keep: Callable[[Table], NDArray[np.bool_]] | None = None
    """Which of our rows to keep; all of them by default."""

    def columns(self) -> set[str]:
        """Every column that is read."""
        sources = {source.column for source in self.keys.values() if isinstance(source, Key)}
        return sources | set(self.only) | {name for group in self.times.values() for name in group}

    def rows(self, sheet: Table) -> Table:
        """Our columns of the rows that are kept, in seconds and codes."""
        chosen = np.ones(len(next(iter(sheet.values()))), dtype=bool)
        for column, value in self.only.items():
            chosen &= sheet[column] == value
        sheet = where(sheet, chosen)
        rows = {name: _integers(source, sheet, int(chosen.sum())) for name, source in self.keys.items()}
        for name, group in self.times.items():
            rows[name] = self.in_seconds(np.sum([sheet[column] for column in group], axis=0))
        return rows if self.keep is None else where(rows, self.keep(rows))


def where(rows: Table, chosen: NDArray[Any]) -> Table:
    """The chosen rows of every column; `chosen` is a mask or a list of row numbers."""
    return {name: values[chosen] for name, values in rows.items()}


def _integers(source: Key | int, sheet: Table, count: int) -> NDArray[np.int64]:
    if isinstance(source, int):
        return np.full(count, source, dtype=np.int64)
    values = sheet[source.column]
    if source.codes is None:
        return values.astype(np.int64) * source.factor
    unknown = sorted(set(values.tolist()) - set(source.codes))
    if unknown:
        raise BadInput(
            f"{source.column}={unknown[0]!r} is not one of {sorted(source.codes)}; "
            "use aiconfigurator-core 0.12"
        )
    return np.array([source.codes[value] for value in values.tolist()], dtype=np.int64)


def _thin(rows: Table) -> NDArray[np.bool_]:
    on_grid = np.isin(rows["batch"] * rows["new_tokens"], TOKENS_KEPT)
    on_grid &= np.isin(rows["prefix"], PREFIXES_KEPT)
    kept: NDArray[np.bool_] = (rows["batch"] == 1) | (rows["new_tokens"] <= STEP_TOKENS) | on_grid
    return kept


def _among(columns: tuple[str, ...], wanted: Iterable[tuple[int, ...]]) -> Callable[[Table], Any]:
    def keep(rows: Table) -> Any:
        hits = [np.all([rows[c] == v for c, v in zip(columns, row, strict=True)], axis=0) for row in wanted]
        return np.any(hits, axis=0)

    return keep


_V4_NAMES = {
    "deepseek-ai/DeepSeek-V4-Pro": MODELS["pro"],
    "sgl-project/DeepSeek-V4-Pro-FP8": MODELS["pro"],
    "sgl-project/DeepSeek-V4-Flash-FP8": MODELS["flash"],
}
_MODEL = Key("model", _V4_NAMES)
_DISTRIBUTION = Key("distribution", DISTRIBUTIONS)
_ELEMENT_BYTES = 2
_MESSAGE = {"num_gpus": Key("num_gpus"), "bytes": Key("message_size", factor=_ELEMENT_BYTES)}


def _attention(phase: str, keys: Mapping[str, Key], keep: Any = None) -> list[Sheet]:
    return [
        Sheet(
            ("sparse_attention", "sglang", f"dsv4_{kind}_{phase}_module_perf.parquet"),
            {"model": _MODEL, "ratio": ratio, "heads": Key("num_heads"), **keys},
            only={"gemm_type": "fp8_block"},
            keep=keep,
        )
        for kind, ratio in (("csa", 4), ("hca", 128))
    ]


def _moe(engine: str, dtype: str, source: str, name: str) -> Sheet:
    shape = {"hidden": "hidden_size", "inter": "inter_size", "topk": "topk", "experts": "num_experts"}
    split = {"moe_tp": Key("moe_tp_size"), "moe_ep": Key("moe_ep_size")}
    return Sheet(
        ("moe", engine, "moe_perf.parquet"),
        {
            "kernel": MOE_KERNELS[name],
            **{ours: Key(theirs) for ours, theirs in shape.items()},
            **split,
            "distribution": _DISTRIBUTION,
            "tokens": Key("num_tokens"),
        },
        only={"moe_dtype": dtype, "kernel_source": source},
        keep=_among(tuple(shape), ((7168, 3072, 6, 384), (4096, 2048, 6, 256))),
    )


def _deepep(mode: str, dispatch: tuple[str, ...], combine: tuple[str, ...], sms: int | None = None) -> Sheet:
    return Sheet(
        ("comm", "sglang", f"wideep_deepep_{mode}_perf.parquet"),
        {
            "hidden": Key("hidden_size"),
            "topk": Key("num_topk"),
            "experts": Key("num_experts"),
            **({} if sms is None else {"sms": Key("dispatch_sms")}),
            "tokens": Key("num_token"),
        },
        only={"node_num": 1} | ({} if sms is None else {"dispatch_sms": sms}),
        times={"dispatch_s": dispatch, "combine_s": combine},
        in_seconds=seconds_from_us,
        keep=_among(("hidden", "topk"), ((7168, 6), (7168, 8), (4096, 6), (4096, 8))),
    )


_PREFILL = {"batch": Key("batch_size"), "new_tokens": Key("isl"), "prefix": Key("step")}
_TOPK_MODES = {"v1_flat": 0, "v1_top_last": 1, "v2_flat": 2, "v2_top_last": 3}
_NCCL_OPS = {"all_gather": 0, "all_reduce": 1, "alltoall": 2, "reduce_scatter": 3}
_NVFP4 = "vllm_compressedtensorsw4a4nvfp4moe_flashinfer_trtllm_trtllmnvfp4expertsmodular"

SHEETS: dict[str, list[Sheet]] = {
    "attn_prefill": _attention("context", _PREFILL, _thin),
    "attn_decode": _attention("generation", {"batch": Key("batch_size"), "context": Key("step")}),
    "topk_calib": [
        Sheet(
            ("sparse_attention", "sglang", "dsv4_csa_topk_calib_perf.parquet"),
            {"model": _MODEL, "mode": Key("score_mode", _TOPK_MODES), **_PREFILL},
            keep=_thin,
        )
    ],
    "megamoe": [
        Sheet(
            ("moe", "sglang", "dsv4_megamoe_module_perf.parquet"),
            {
                "hidden": Key("hidden_size"),
                "inter": Key("inter_size"),
                "experts": Key("num_experts"),
                "topk": Key("topk"),
                "phase": Key("phase", {"context": 0, "generation": 1}),
                "ep": Key("moe_ep_size"),
                "distribution": _DISTRIBUTION,
                "tokens": Key("num_tokens"),
            },
        )
    ],
    "moe": [
        _moe("sglang", "fp8_block", "sglang_fused_moe_triton", "fp8_block_triton"),
        _moe("sglang", "w4a8_mxfp4_mxfp8", "sglang_mxfp4_flashinfer_trtllm_moe", "w4a8_mxfp4_mxfp8_trtllm"),
        _moe("trtllm", "fp8_block", "deepgemm", "fp8_block_deepgemm"),
        _moe("trtllm", "fp8_block", "moe_torch_flow_cutlass", "fp8_block_cutlass"),
        _moe("vllm", "nvfp4", _NVFP4, "nvfp4_trtllm"),
    ],
    "mhc": [
        Sheet(
            ("mhc", "sglang", "mhc_module_perf.parquet"),
            {
                "op": Key("op_name", {"pre": 0, "post": 1}),
                "hidden": Key("hidden_size"),
                "tokens": Key("num_tokens"),
            },
            only={"num_sites": MHC_NUM_SITES},
        )
    ],
    "gemm": [
        Sheet(
            ("gemm", "sglang", "gemm_perf.parquet"),
            {"dtype": code, "n": Key("n"), "k": Key("k"), "m": Key("m")},
            only={"gemm_dtype": dtype},
            keep=_among(("n", "k"), shapes),
        )
        for code, (dtype, shapes) in enumerate(GEMM_SHAPES)
    ],
    "allreduce": [
        Sheet(
            ("comm", "sglang", "custom_allreduce_perf.parquet"),
            {"graph": graph, **_MESSAGE},
            only={"kernel_source": f"SGLang_CustomAllReduce_{mode}", "num_gpus": num_gpus},
        )
        for num_gpus in (2, 4, 8, 16)
        for graph, mode in enumerate(("eager", "graph"))
    ],
    "nccl": [
        Sheet(
            ("comm", "nccl", "nccl_perf.parquet"),
            {"op": Key("op_name", _NCCL_OPS), **_MESSAGE},
            only={"nccl_dtype": "half"},
        )
    ],
    "deepep_ll": [_deepep("ll", ("dispatch_avg_t_us",), ("combine_avg_t_us",))],
    "deepep_normal": [
        _deepep(
            "normal",
            ("dispatch_transmit_us", "dispatch_notify_us"),
            ("combine_transmit_us", "combine_notify_us"),
            sms=24,
        )
    ],
}
"""Profile table to the sheets it is read from; each sheet takes the newest version that has rows."""
