"""Distil the kernel tables of the `aiconfigurator-core` package into kernel profiles.

The package (NVIDIA, Apache-2.0) carries times that its authors measured kernel by kernel on real
GPUs, as Parquet tables. The importer keeps what DeepSeek-V4 needs, as listed in
`profiler.aiconfigurator_sheets`, and writes one small file per platform in the format of
`search_spaces.kernel_profile`. What it settles on the way:

    Repeats. Many attention rows were measured two to seven times, and some runs on GB300 took 2.0
    to 2.7 times as long as the others on the same shape, as on no other platform. What adds time
    is interference, so the least is kept. Repeats of `moe` rows draw other routings and differ by
    a few percent, so there the median is kept.
    Slow rows without a repeat are capped: see `SLOW_FACTOR`.
    Message sizes of collectives count elements: at one `message_size` FP16 takes twice as long as
    INT8, and the same as INT8 at twice the size. They become bytes here.
    Latencies are milliseconds, except those of DeepEP, which are microseconds.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.aiconfigurator_sheets import MHC_NUM_SITES, SHEETS, where
from search_spaces.errors import BadInput, MissingData
from search_spaces.kernel_profile import KernelProfile, Table, save_profile

PACKAGE = "aiconfigurator_core"
SYSTEMS = {
    "gb300": "gb300",
    "gb200": "gb200",
    "b300": "b300_sxm",
    "b200": "b200_sxm",
    "h200": "h200_sxm",
    "h100": "h100_sxm",
}
"""Profile name to the name of the folder that holds its tables."""

SLOW_FACTOR = {"attn_prefill": 1.5, "moe": 4.0, "allreduce": 4.0}
"""A row that took this many times as long as one with more work (the last key larger, all else
equal) met interference and gets that row's time, the tightest bound there is: more tokens never
cost less. Kernel switches stay below these factors in these tables; tables that are not named
here have switches of up to 2.6 and are kept as measured."""


def import_profiles(
    source: Path | None, out: Path, systems: Iterable[str] = tuple(SYSTEMS)
) -> dict[str, Path]:
    """Read the package's tables and write `<out>/<name>.npz` for each platform in `systems`.

    Args:
        source: a wheel of `aiconfigurator-core`, or a folder that it was unpacked to; None reads
            the installed package.
        out: folder of the profiles; made where absent.
        systems: names from `SYSTEMS`.

    Returns:
        Profile name to the file written.

    Raises:
        MissingData: pyarrow, the package or a platform's tables are absent.
        BadInput: an unknown platform, or a table with another layout.
    """
    wanted = list(systems)
    for name in wanted:
        if name not in SYSTEMS:
            raise BadInput(f"systems={name!r} is not a platform; choose from {sorted(SYSTEMS)}")
    package, version = _package(source)
    written = {}
    for name in wanted:
        written[name] = out / f"{name}.npz"
        save_profile(distil(package, name, version), written[name])
    return written


def distil(package: Traversable, name: str, version: str) -> KernelProfile:
    """The profile of platform `name` from the unpacked package folder; see `import_profiles`."""
    root = package / "systems" / "data" / SYSTEMS[name]
    if not root.is_dir():
        raise MissingData(f"{root}: the package has no tables of {name!r}; choose another platform")
    tables: dict[str, Table] = {}
    versions: dict[str, list[str]] = {}
    digests: dict[str, str] = {}
    capped: dict[str, int] = {}
    for table, sheets in SHEETS.items():
        parts = []
        for sheet in sheets:
            for label, entry in _found(root, sheet.place):
                rows = sheet.rows(_read(entry, sheet.columns()))
                if len(next(iter(rows.values()))):
                    parts.append(rows)
                    versions[table] = sorted({*versions.get(table, []), label})
                    digests[f"{label}/{entry.name}"] = hashlib.sha256(entry.read_bytes()).hexdigest()
                    break
        if parts:
            joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            tables[table] = _collapse(joined, np.median if table == "moe" else np.min)
        if parts and table in SLOW_FACTOR:
            capped[table] = _cap_slow(tables[table], SLOW_FACTOR[table])
    meta = {
        "source": f"aiconfigurator-core {version}, systems/data/{SYSTEMS[name]}",
        "license": "Apache-2.0, Copyright NVIDIA CORPORATION & AFFILIATES",
        "versions": versions,
        "digests": digests,
        "capped_rows": capped,
        "mhc_num_sites": MHC_NUM_SITES,
        "created_by": "servecast profiler.aiconfigurator",
    }
    return KernelProfile(name=name, tables=tables, meta=meta)


def _collapse(rows: Table, pick: Callable[[Any], Any]) -> Table:
    """Rows sorted by key, one per key: `pick` of its repeats."""
    keys = [name for name in rows if not name.endswith("_s")]
    ordered = where(rows, np.lexsort([rows[name] for name in reversed(keys)]))
    starts = np.flatnonzero(_new_group(ordered, keys))
    result = {name: ordered[name][starts] for name in keys}
    for name in rows.keys() - set(keys):
        result[name] = np.array([pick(group) for group in np.split(ordered[name], starts[1:])])
    return {name: result[name] for name in rows}


def _cap_slow(rows: Table, factor: float) -> int:
    """Cap the rows that broke the law of `SLOW_FACTOR`, in place; returns how many."""
    keys = [name for name in rows if name != "time_s"]
    last_of_group = np.roll(_new_group(rows, keys[:-1]), -1)
    times = rows["time_s"]
    bound = np.inf
    num_capped = 0
    for i in reversed(range(len(times))):
        bound = np.inf if last_of_group[i] else bound
        if times[i] > factor * bound:
            times[i] = bound
            num_capped += 1
        bound = min(bound, times[i])
    return num_capped


def _new_group(rows: Table, keys: list[str]) -> NDArray[np.bool_]:
    changes = np.any([np.diff(rows[name]) != 0 for name in keys], axis=0)
    return np.concatenate([[True], changes])


def _found(root: Traversable, place: tuple[str, str, str]) -> Iterable[tuple[str, Traversable]]:
    """(folder/engine/version, file) of each version that has the table, newest first."""
    family, engine, file = place
    folder = root / family / engine
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    for name in sorted(names, key=lambda v: [int(n) for n in re.findall(r"\d+", v)], reverse=True):
        if (folder / name / file).is_file():
            yield f"{family}/{engine}/{name}", folder / name / file


def _read(entry: Traversable, columns: Iterable[str]) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingData(
            "pyarrow is not installed and the tables are Parquet; pip install 'servecast[profile]'"
        ) from None
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(entry.read_bytes()))
        absent = sorted(set(columns) - set(file.schema_arrow.names))
        if absent:
            raise BadInput(f"{entry}: column {absent[0]!r} is absent; use aiconfigurator-core 0.12")
        sheet = file.read(columns=sorted(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{entry}: not a Parquet table ({error}); install the package again") from None
    return {name: sheet.column(name).to_numpy() for name in sheet.column_names}


def _package(source: Path | None) -> tuple[Traversable, str]:
    """The package folder and its version."""
    if source is None:
        spec = find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingData(f"{PACKAGE} is not installed; pip install 'servecast[profile]' or name a wheel")
        source = Path(next(iter(spec.submodule_search_locations))).parent
    if not source.exists():
        raise MissingData(f"source={str(source)!r} does not exist; name a wheel or an unpacked folder")
    parent: Traversable = source
    if source.is_file():
        try:
            parent = zipfile.Path(source)
        except zipfile.BadZipFile:
            raise BadInput(f"source={str(source)!r} is not a wheel; name a .whl file") from None
    if not (parent / PACKAGE).is_dir():
        raise MissingData(f"source={str(source)!r} has no folder {PACKAGE!r}; unpack the wheel there")
    found = [re.fullmatch(rf"{PACKAGE}-(.+)\.dist-info", entry.name) for entry in parent.iterdir()]
    return parent / PACKAGE, next((match[1] for match in found if match), "of unknown version")
