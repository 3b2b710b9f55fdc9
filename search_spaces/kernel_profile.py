"""Measured kernel times of one GPU platform: the file format, and how it is read and written.

A profile is one `<name>.npz` file. Each array is stored as `table/column`; all columns of a table
are 1-D and equally long, and row `i` of a table is element `i` of each column (long form). The
array `meta` is a JSON string. Rows are sorted by their columns from left to right and no key
appears twice. Every `…_s` column is in seconds, per call on one rank; every other column is an
integer. A table that was not measured on a platform is absent from its file.

Codes shared by several tables:
    model: 0 DeepSeek-V4-Pro, 1 DeepSeek-V4-Flash.
    distribution: how tokens choose experts: 0 balanced, 1 power law 1.01, 2 power law 1.2,
        3 power law 1.9 with sampled experts, 4 uniform: each token draws its experts at random.

Tables (columns in order; the key is everything before the times):
    attn_prefill: model, ratio, heads, batch, new_tokens, prefix, time_s. One whole attention
        layer (projections, indexer, compressor, attention, output projection) over `batch`
        sequences of `new_tokens` each, behind `prefix` cached tokens each. `ratio` is the
        compression ratio: 4 CSA, 128 HCA (sliding-window layers count as HCA). `heads` are the
        heads of one rank: Pro 128/TP, Flash 64/TP. No collective is included. FP8 block
        projections and FP8 KV cache only. Complete for batch 1 and for up to 8 new tokens; of
        the rest only batch * new_tokens in powers of two up to 16,384 and prefix 0, 1k, 4k, 8k …
        128k are kept.
    attn_decode: model, ratio, heads, batch, context, time_s. The same layer for one new token of
        each of `batch` sequences that hold `context` tokens each. The longest context falls as
        the batch grows (batch 256 ends at 4k); `attn_prefill` with 1 new token goes on to 32k
        there, and with 4 or 8 it is the time of a verify step.
    topk_calib: model, mode, batch, new_tokens, prefix, time_s. The indexer's top-k kernel alone.
        `mode`: 0 v1 flat, 1 v1 top-last, 2 v2 flat, 3 v2 top-last; v2 is the decode kernel. The
        package's comments say that the layer was measured with flat (made-up) scores while real
        scores favour late tokens, so that `flat - top_last` is what `attn_prefill` overstates.
        Thinned like `attn_prefill`.
    megamoe: hidden, inter, experts, topk, phase, ep, distribution, tokens, time_s. The fused
        dispatch, expert and combine kernel (W4A8: MXFP4 weights, FP8 activations) without router
        and shared expert. `tokens` are per rank. `phase`: 0 context, 1 generation.
    moe: kernel, hidden, inter, topk, experts, moe_tp, moe_ep, distribution, tokens, time_s. The
        grouped expert GEMMs of one rank, without communication; see `MOE_KERNELS` for `kernel`.
        `tokens` enter the layer before they are split over `moe_ep` ranks.
    mhc: op, hidden, tokens, time_s. Hyper-connection kernels, `op` 0 pre, 1 post. One row covers
        both sites of a layer (`meta["mhc_num_sites"]`).
    gemm: dtype, n, k, m, time_s. `[m, k] x [k, n]`; `dtype` 0 BF16, 1 FP8 with block scales.
    allreduce: graph, num_gpus, bytes, time_s. The engine's custom all-reduce in BF16; `graph` 1
        replayed inside a CUDA graph, 0 eager, which includes the host launch.
    nccl: op, num_gpus, bytes, time_s. `op`: 0 all-gather, 1 all-reduce, 2 all-to-all, 3
        reduce-scatter, in FP16. `bytes` is the whole buffer, as nccl-tests counts it.
    deepep_ll: hidden, topk, experts, tokens, dispatch_s, combine_s. DeepEP low latency in one node.
    deepep_normal: hidden, topk, experts, sms, tokens, dispatch_s, combine_s. DeepEP high
        throughput in one node, with `sms` SMs; `tokens` are per rank in both.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import BadInput, MissingData

Table: TypeAlias = dict[str, NDArray[Any]]

MODELS = {"pro": 0, "flash": 1}
DISTRIBUTIONS = {
    "balanced": 0,
    "power_law_1.01": 1,
    "power_law_1.2": 2,
    "power_law_sampled_1.9": 3,
    "uniform": 4,
}
MOE_KERNELS = {
    "fp8_block_triton": 0,
    "w4a8_mxfp4_mxfp8_trtllm": 1,
    "fp8_block_deepgemm": 2,
    "fp8_block_cutlass": 3,
    "nvfp4_trtllm": 4,
}
"""Expert kernels of the `moe` table. 0 and 1 were measured inside SGLang; 2 on Blackwell and 3
(Hopper) inside TensorRT-LLM; 4 (W4A4, NVFP4) inside vLLM; 2 on Hopper alone, as both of its GEMMs."""

OWN_PROFILES = "SERVECAST_KERNEL_PROFILES"
"""Environment variable: a folder whose `<name>.npz` replaces the shipped profile of that name."""

_FOLDER = "kernels"
_UNREADABLE = (BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """Measured tables of one platform; the module docstring lists tables and columns."""

    name: str
    """Platform name, such as `gb300`."""
    tables: dict[str, Table]
    """Table name to column name to values; integers are int64 and times float64 once loaded."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Where the numbers come from: source, versions, license, digests, created_by."""

    def table(self, name: str) -> Table:
        """The table called `name`; raises `MissingData` where it was not measured."""
        found = self.tables.get(name)
        if found is None:
            raise MissingData(
                f"kernel_profile={self.name!r} has no table {name!r}; it has {sorted(self.tables)}"
            )
        return found


def load_profile(name_or_path: str | Path) -> KernelProfile:
    """The profile of that name, or the one in that `.npz` file; read once per process.

    A name is looked up in the folder that `OWN_PROFILES` names, if it is set, then in the catalog.

    Raises:
        MissingData: no such profile or file.
        BadInput: the file is not a kernel profile.
    """
    wanted, folder = str(name_or_path), os.environ.get(OWN_PROFILES)
    if folder and not wanted.endswith(".npz"):
        if not Path(folder).is_dir():
            raise MissingData(f"{OWN_PROFILES}={folder!r} is no folder; correct or unset it")
        own = Path(folder) / f"{wanted.lower()}.npz"
        wanted = str(own) if own.is_file() else wanted
    return _load(wanted)


def shipped_profiles() -> list[str]:
    """Names of the profiles in the catalog, sorted."""
    folder = files("search_spaces") / "catalog" / _FOLDER
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".npz") for entry in folder.iterdir())


def save_profile(profile: KernelProfile, path: Path) -> None:
    """Write `profile` to `path` in one step, so that a reader never sees half a file.

    The bytes depend on the content alone. Raises `BadInput` where a table's columns differ in
    length or are not 1-D.
    """
    arrays: dict[str, Any] = {}
    for table_name, table in profile.tables.items():
        _check(table, f"{profile.name}: table {table_name!r}")
        for column, values in table.items():
            arrays[f"{table_name}/{column}"] = _packed(values)
    stamp = {**profile.meta, "name": profile.name}
    arrays["meta"] = np.array(json.dumps(stamp, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, **arrays)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@cache
def _load(name_or_path: str) -> KernelProfile:
    if name_or_path.endswith(".npz"):
        path = Path(name_or_path)
        if not path.is_file():
            raise MissingData(f"kernel profile {name_or_path!r} does not exist; give a readable file")
        return _read(path)
    entry = files("search_spaces") / "catalog" / _FOLDER / f"{name_or_path.lower()}.npz"
    if not entry.is_file():
        raise MissingData(
            f"kernel_profile={name_or_path!r} is not in the catalog; choose one of "
            f"{shipped_profiles()} or give the path of an .npz file"
        )
    with as_file(entry) as path:
        return _read(path)


def _read(path: Path) -> KernelProfile:
    remedy = "write it again with the importer"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        meta = json.loads(str(arrays.pop("meta")[()]))
        name = meta.pop("name")
    except _UNREADABLE as error:
        raise BadInput(f"{path}: not a kernel profile ({error}); {remedy}") from None
    tables: dict[str, Table] = {}
    for key, values in arrays.items():
        table_name, slash, column = key.partition("/")
        if not slash:
            raise BadInput(f"{path}: array {key!r} is not named table/column; {remedy}")
        tables.setdefault(table_name, {})[column] = _unpacked(values)
    for table_name, table in tables.items():
        _check(table, f"{path}: table {table_name!r}")
    return KernelProfile(name=name, tables=tables, meta=meta)


def _check(table: Mapping[str, NDArray[Any]], where: str) -> None:
    shapes = {column: values.shape for column, values in table.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise BadInput(f"{where}: columns must be 1-D and equally long, got {shapes}; rebuild the table")


def _packed(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.size == 0:
        return values.astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    return values.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(high)))


def _unpacked(values: NDArray[Any]) -> NDArray[Any]:
    wide = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    wide.setflags(write=False)
    return wide
