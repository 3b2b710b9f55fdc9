"""Kernel records as a kernel profile: own measurements in place of shipped tables.

Rows are put into a table only where the record is what the table's column says; see
`search_spaces.kernel_profile`. Whole attention layers (`attn_…`) are not assembled from kernels: a
layer overlaps them, and its sum would be none of the two. What was not measured comes from the base
profile, row by row, so that a profile of a few kernels can be used at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from profiler.kernel_record import KernelRecord, RecordFile
from search_spaces.errors import BadInput, MissingData
from search_spaces.kernel_profile import (
    DISTRIBUTIONS,
    MOE_KERNELS,
    KernelProfile,
    Table,
    load_profile,
    shipped_profiles,
)
from search_spaces.model import ModelSpec

MHC_SITES = 2
"""Hyper-connection sites of a layer, all in one row of the table."""
GEMM_CODES = {"fp8_gemm": 1, "bf16_gemm": 0}
NCCL_CODES = {"nccl_all_gather": 0, "nccl_all_reduce": 1, "nccl_reduce_scatter": 3}

Row = tuple[int, ...]
Rows = dict[Row, float]
"""Key columns to seconds."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A table that records can fill: its key columns and how to find its rows."""

    columns: tuple[str, ...]
    rows: Callable[[list[KernelRecord], tuple[ModelSpec, ...]], Rows]


def to_profile(
    found: RecordFile, models: Iterable[ModelSpec], name: str | None = None, device: str | None = None
) -> KernelProfile:
    """The records of one device as a profile, with the platform's own profile below them.

    Args:
        found: records of one or more files.
        models: whose routed-expert shapes to look for.
        name: name of the profile; that of the platform by default.
        device: GPU as the driver prints it; may be left out where there is only one.

    Raises:
        BadInput: no record is usable, or several devices and none named.
    """
    chosen = _device(found, device)
    records = [r for (owner, _), r in found.records.items() if owner == chosen and r.status == "ok"]
    runs = [run for run in found.runs.values() if run.device == chosen]
    platforms = sorted({run.hardware for run in runs if run.hardware})
    called = name or next(iter(platforms), None)
    if called is None:
        raise BadInput(f"the catalog has no platform for {chosen!r}; give the profile a --name")
    base = load_profile(platforms[0]) if platforms and platforms[0] in shipped_profiles() else None
    tables: dict[str, Table] = dict(base.tables) if base else {}
    own: dict[str, int] = {}
    for table, target in _TARGETS.items():
        rows = target.rows(records, tuple(models))
        if rows:
            tables[table] = _merged(tables.get(table), target.columns, rows)
            own[table] = len(rows)
    if not own:
        raise BadInput(f"no record of {chosen!r} fits a table; measure gemm, moe, mhc or links")
    meta = {
        "source": f"kernel records of {chosen}",
        "device": chosen,
        "own_rows": own,
        "runs": [run.model_dump(exclude_none=True) for run in runs],
        "digest": _digest(records),
        "routing": "moe rows were measured with uniformly drawn experts and stand as balanced",
        "base": {"name": base.name, **base.meta} if base else None,
        "mhc_num_sites": MHC_SITES,
        "created_by": "servecast profiler.kernel_records",
    }
    return KernelProfile(name=called, tables=tables, meta=meta)


def _device(found: RecordFile, device: str | None) -> str:
    devices = sorted({owner for owner, _ in found.records})
    if device is not None:
        if device not in devices:
            raise BadInput(f"device={device!r} has no records; choose one of {devices}")
        return device
    if not devices:
        raise MissingData("the records are empty; measure with `servecast profile kernels` first")
    if len(devices) > 1:
        raise BadInput(f"the records are of {devices}; name one with --device")
    return devices[0]


def _digest(records: list[KernelRecord]) -> str:
    lines = sorted(record.model_dump_json() for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _merged(base: Table | None, columns: tuple[str, ...], rows: Rows) -> Table:
    """Rows of `base` with `rows` added or put in place, sorted by key."""
    merged: Rows = {}
    if base is not None:
        keys = zip(*(base[column].tolist() for column in columns), strict=True)
        merged = dict(zip(keys, base["time_s"].tolist(), strict=True))
    merged |= rows
    ordered = sorted(merged)
    table: Table = {
        column: np.array([key[i] for key in ordered], dtype=np.int64) for i, column in enumerate(columns)
    }
    table["time_s"] = np.array([merged[key] for key in ordered])
    return table


def matched_rows(
    records: list[KernelRecord], models: Iterable[ModelSpec], shipped: KernelProfile
) -> dict[str, list[tuple[float, float]]]:
    """Table to (own, shipped) seconds of the rows that the records and a profile both have."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, target in _TARGETS.items():
        table = shipped.tables.get(name)
        rows = target.rows(records, tuple(models)) if table is not None else {}
        if table is not None and rows:
            keys = zip(*(table[column].tolist() for column in target.columns), strict=True)
            known = dict(zip(keys, table["time_s"].tolist(), strict=True))
            found[name] = [(own, known[key]) for key, own in rows.items() if key in known]
    return found


def _gemm_rows(records: list[KernelRecord], models: tuple[ModelSpec, ...]) -> Rows:
    return {
        (GEMM_CODES[r.kernel], *_ints(r, "n", "k", "m")): _time(r) for r in records if r.kernel in GEMM_CODES
    }


def _mhc_rows(records: list[KernelRecord], models: tuple[ModelSpec, ...]) -> Rows:
    codes = {"mhc_pre": 0, "mhc_post": 1}
    return {
        (codes[r.kernel], *_ints(r, "hidden", "m")): MHC_SITES * _time(r)
        for r in records
        if r.kernel in codes
    }


def _nccl_rows(records: list[KernelRecord], models: tuple[ModelSpec, ...]) -> Rows:
    return {
        (NCCL_CODES[r.kernel], *_ints(r, "gpus", "bytes")): _time(r)
        for r in records
        if r.kernel in NCCL_CODES
    }


def _allreduce_rows(records: list[KernelRecord], models: tuple[ModelSpec, ...]) -> Rows:
    in_graph = 1
    return {
        (in_graph, *_ints(r, "gpus", "bytes")): _time(r) for r in records if r.kernel == "custom_all_reduce"
    }


def _moe_rows(records: list[KernelRecord], models: tuple[ModelSpec, ...]) -> Rows:
    """Both products of an expert layer, and the activation between them where it was measured.

    Where both layouts were measured at the same rows, the faster one stands.
    """
    times = {record.key: _time(record) for record in records}
    found: Rows = {}
    for first in records:
        if first.kernel not in ("moe_masked", "moe_contiguous"):
            continue
        experts, rows, n, k = _ints(first, "experts", "rows", "n", "k")
        for model in models:
            inner = n // 2
            if k != model.hidden or model.expert_inner % inner or model.num_experts % experts:
                continue
            second = times.get(f"{first.kernel}/experts={experts},rows={rows},n={k},k={inner}")
            between = times.get(f"silu_mul_quant_masked/experts={experts},rows={rows},inner={inner}")
            ep, tp = model.num_experts // experts, model.expert_inner // inner
            tokens, left = divmod(rows * ep, model.experts_per_token)
            if second is None or left or (first.kernel == "moe_masked" and between is None):
                continue
            key = (
                MOE_KERNELS["fp8_block_deepgemm"], model.hidden, model.expert_inner,
                model.experts_per_token, model.num_experts, tp, ep, DISTRIBUTIONS["balanced"], tokens,
            )  # fmt: skip
            whole = _time(first) + second + (between or 0.0)
            found[key] = min(whole, found.get(key, whole))
    return found


_MOE_COLUMNS = ("kernel", "hidden", "inter", "topk", "experts", "moe_tp", "moe_ep", "distribution", "tokens")
_TARGETS: Mapping[str, _Target] = {
    "gemm": _Target(("dtype", "n", "k", "m"), _gemm_rows),
    "moe": _Target(_MOE_COLUMNS, _moe_rows),
    "mhc": _Target(("op", "hidden", "tokens"), _mhc_rows),
    "allreduce": _Target(("graph", "num_gpus", "bytes"), _allreduce_rows),
    "nccl": _Target(("op", "num_gpus", "bytes"), _nccl_rows),
}


def _ints(record: KernelRecord, *names: str) -> tuple[int, ...]:
    return tuple(int(record.shape[name]) for name in names)


def _time(record: KernelRecord) -> float:
    if record.time_s is None:
        raise BadInput(f"record {record.key!r} is ok and has no time_s; correct the file")
    return record.time_s
