"""What records say: how near each kernel comes to its roofline, and what did not run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from statistics import median

from profiler.kernel_record import KernelRecord, RecordFile, read_records
from profiler.kernel_records import matched_rows
from search_spaces.catalog_loader import hardware
from search_spaces.hardware import Hardware
from search_spaces.kernel_profile import load_profile, shipped_profiles
from search_spaces.model import ModelSpec


@dataclass(frozen=True, slots=True)
class KernelSummary:
    """All shapes of one kernel on one device."""

    device: str
    family: str
    kernel: str
    times_s: tuple[float, ...]
    """Measured medians."""
    ratios: tuple[float, ...]
    """Measured time over roofline, ascending; empty where the platform is unknown."""
    spreads: tuple[float, ...]
    """(p90 - p10) / median of each measured shape."""
    reasons: dict[str, int] = field(default_factory=dict)
    """`status: message` of shapes without a time, to how many there are."""
    checked: int = 0
    """Measured shapes whose output was compared with a reference."""
    largest_error: float | None = None

    def ratio(self) -> tuple[float, float, float] | None:
        """Least, median and greatest time over roofline."""
        return (self.ratios[0], median(self.ratios), self.ratios[-1]) if self.ratios else None


def summaries(found: RecordFile) -> list[KernelSummary]:
    """One summary per device and kernel, in the order of first appearance."""
    groups: dict[tuple[str, str], list[KernelRecord]] = {}
    for (device, _), record in found.records.items():
        groups.setdefault((device, record.kernel), []).append(record)
    return [_summary(device, records, found) for (device, _), records in groups.items()]


def _summary(device: str, records: Sequence[KernelRecord], found: RecordFile) -> KernelSummary:
    measured = [r for r in records if r.status == "ok" and r.time_s is not None]
    errors = [r.error for r in measured if r.error is not None]
    ratios = []
    for record in measured:
        hw = platform(found, record)
        if hw is not None and record.time_s is not None:
            ratios.append(record.time_s / record.roofline_s(hw))
    reasons: dict[str, int] = {}
    for record in records:
        if record.status != "ok":
            reason = f"{record.status}: {record.message}"
            reasons[reason] = reasons.get(reason, 0) + 1
    return KernelSummary(
        device=device,
        family=records[0].family,
        kernel=records[0].kernel,
        times_s=tuple(r.time_s for r in measured if r.time_s is not None),
        ratios=tuple(sorted(ratios)),
        spreads=tuple(
            (r.p90_s - r.p10_s) / r.time_s for r in measured if r.time_s and r.p10_s and r.p90_s is not None
        ),
        reasons=reasons,
        checked=len(errors),
        largest_error=max(errors, default=None),
    )


@dataclass(frozen=True, slots=True)
class TableComparison:
    """Own times of one kernel over those of the platform's shipped table, at equal keys."""

    device: str
    table: str
    kernel: str
    ratios: tuple[float, ...]
    """Ascending."""


def against_tables(found: RecordFile, models: Sequence[ModelSpec]) -> list[TableComparison]:
    """Each measured kernel against the table that it can fill; kernels without a common row are left out."""
    groups: dict[tuple[str, str, str], list[KernelRecord]] = {}
    for (device, _), record in found.records.items():
        name = found.runs[record.run].hardware
        if name in shipped_profiles() and record.status == "ok":
            groups.setdefault((device, name, record.kernel), []).append(record)
    return [
        TableComparison(device, table, kernel, tuple(sorted(own / theirs for own, theirs in pairs)))
        for (device, name, kernel), records in groups.items()
        for table, pairs in matched_rows(records, models, load_profile(name)).items()
        if pairs
    ]


def platform(found: RecordFile, record: KernelRecord) -> Hardware | None:
    """The platform whose peaks bound a record."""
    name = found.runs[record.run].hardware
    return hardware(name) if name else None


def load_records(paths: Sequence[Path]) -> RecordFile:
    """Records of several files, those that ship where none is named; a later file's record stands.

    Raises:
        BadInput: a file is no file of records.
    """
    whole = RecordFile()
    with ExitStack() as stack:
        chosen = paths or [stack.enter_context(as_file(entry)) for entry in shipped_records()]
        for path in chosen:
            found = read_records(path)
            whole.runs |= found.runs
            whole.records |= found.records
            whole.damaged += found.damaged
    return whole


def shipped_records() -> list[Traversable]:
    """Record files that come with the package, sorted by name."""
    folder = files("profiler") / "data"
    return sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".jsonl.gz")), key=lambda e: e.name
    )
