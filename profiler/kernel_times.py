"""Timings of a stand-alone script as kernel records.

The script wrote `{"meta": {...}, "rows": [{"kernel": ..., "us": ..., ...}]}`: medians over seven
replays of a CUDA graph that walks through copies of the inputs, as here, but outputs were not checked
and low and high are the least and the greatest of the seven.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from profiler.kernel_case import KernelCase, Shape
from profiler.kernel_cases_dense import bf16_gemm, fp8_gemm
from profiler.kernel_record import KernelRecord, RunHeader
from search_spaces.errors import BadInput
from search_spaces.units import seconds_from_us

METHOD = "median of seven CUDA graph replays over copies of the inputs; low and high are least and greatest"
HEADS = 64


def import_times(
    path: Path, run: str, hardware: str, started: str, versions: Mapping[str, str], source: str
) -> tuple[RunHeader, list[KernelRecord]]:
    """The header and records of one file.

    Args:
        path: the JSON file.
        run: identifier that the records get.
        hardware: catalog name of the platform.
        started: ISO date of the run.
        versions: package to version.
        source: what the header says about where they come from.

    Raises:
        BadInput: the file has another layout.
    """
    try:
        data = json.loads(path.read_text())
        meta, rows = data["meta"], data["rows"]
        header = RunHeader(
            run=run,
            device=meta["gpu"],
            hardware=hardware,
            sm=90,
            num_sms=meta["sms"],
            cuda=meta["cuda"],
            versions={"torch": meta["torch"], **versions},
            started=started,
            method=METHOD,
            source=source,
        )
        found = [_record(row, run) for row in rows if row.get("kernel") in _CASES and "us" in row]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: not a timing file ({error}); expected meta and rows") from None
    return header, found


def _record(row: Mapping[str, Any], run: str) -> KernelRecord:
    case = _CASES[row["kernel"]](row)
    return KernelRecord(
        run=run,
        family=case.family,
        kernel=case.kernel,
        shape=dict(case.shape),
        status="ok",
        flops=case.flops,
        num_bytes=case.num_bytes,
        precision=case.precision,
        time_s=seconds_from_us(row["us"]),
        p10_s=seconds_from_us(row["us_min"]),
        p90_s=seconds_from_us(row["us_max"]),
        launches=row["launches"],
        replays=7,
        input_sets=row["input_sets"],
        role=str(row.get("name", "")),
    )


def _plain(
    family: str, kernel: str, row: Mapping[str, Any], shape: Shape, precision: Any = "bf16"
) -> KernelCase:
    """A case whose FLOPs and bytes are the script's own."""
    return KernelCase(family, kernel, shape, row.get("flops", 0.0), row.get("bytes", 0.0), precision)


def _moe(row: Mapping[str, Any]) -> KernelCase:
    shape = tuple((name, row[name]) for name in ("experts", "rows", "n", "k"))
    return _plain("moe", row["kernel"], row, shape, "fp8")


def _decode(row: Mapping[str, Any]) -> KernelCase:
    shape = (("batch", row["batch"]), ("heads", HEADS), ("window", row["window"]))
    return _plain(
        "flashmla",
        "flashmla_decode",
        row,
        (*shape, ("extra", row["extra"]), ("extra_page", row["extra_page"])),
    )


def _prefill(row: Mapping[str, Any]) -> KernelCase:
    shape = (("tokens", row["tokens"]), ("heads", HEADS), ("keys", row["topk"]))
    return _plain("flashmla", "flashmla_prefill", row, shape)


def _logits(row: Mapping[str, Any]) -> KernelCase:
    shape = (("batch", row["batch"]), ("entries", row["context"] // 4), ("heads", 64), ("dim", 128))
    return _plain("indexer", "paged_mqa_logits", row, shape, "fp8")


def _einsum(row: Mapping[str, Any]) -> KernelCase:
    shape = (("m", row["m"]), ("groups", row["g"]), ("n", row["r"]), ("k", row["d"]))
    return _plain("gemm", "wo_a_einsum", row, shape)


def _fp8(row: Mapping[str, Any]) -> KernelCase:
    case = fp8_gemm(row["m"], row["n"], row["k"])
    if row.get("name") == "fp8_ceiling":
        return KernelCase("ceilings", "fp8_square", case.shape, case.flops, case.num_bytes, "fp8")
    return case


def _square(row: Mapping[str, Any]) -> KernelCase:
    shape = (("m", row["m"]), ("n", row["n"]), ("k", row["k"]))
    return _plain("ceilings", "bf16_square", {**row, "bytes": 6.0 * row["m"] ** 2}, shape)


_CASES: Mapping[str, Callable[[Mapping[str, Any]], KernelCase]] = {
    "copy": lambda row: _plain(
        "ceilings",
        "hbm_copy" if row.get("how") == "memcpy" else "hbm_scale",
        row,
        (("gib", row["gib"]),),
    ),
    "read": lambda row: _plain("ceilings", "hbm_read", row, (("gib", row["gib"]),)),
    "bf16_gemm": _square,
    "fp8_gemm": _fp8,
    "bf16_mm": lambda row: bf16_gemm(row["m"], row["n"], row["k"], 4 if row["fp32_out"] else 2),
    "bf16_einsum_wo_a": _einsum,
    "moe_masked": _moe,
    "moe_contiguous": _moe,
    "flashmla_decode": _decode,
    "flashmla_prefill": _prefill,
    "paged_mqa_logits": _logits,
    "hc_prenorm_gemm": lambda row: _plain(
        "mhc", "mhc_prenorm_gemm", row, (("m", row["m"]), ("hidden", row["k"] // 4))
    ),
    "mhc_pre": lambda row: _plain("mhc", "mhc_pre", row, (("m", row["m"]), ("hidden", 4096))),
    "mhc_post": lambda row: _plain("mhc", "mhc_post", row, (("m", row["m"]), ("hidden", 4096))),
    "flashinfer_rmsnorm": lambda row: _plain(
        "elementwise", "rms_norm", row, (("m", row["m"]), ("k", row["h"]))
    ),
}
"""The script's kernel name to the case a row stands for; kernels without one here are left out."""
