"""Records of kernel measurements: one JSON line per run and per kernel, appended as they are made.

A file survives a kill at any moment: a line that was not written to its end is counted and skipped,
and the next run goes on in a new line. A later line of a key replaces an earlier one.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pydantic import Field, ValidationError

from profiler.kernel_case import KernelCase, key_of, roofline_s
from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware, Precision

Status = Literal["ok", "unsupported", "wrong", "failed"]


class RunHeader(Noun):
    """The environment of one run."""

    kind: Literal["run"] = "run"
    run: str
    """Identifier that the records of the run carry."""
    device: str
    """GPU as the driver prints it."""
    hardware: str | None = None
    """Catalog name of the platform, where the device is known there."""
    gpus: int = Field(default=1, ge=1)
    sm: int = Field(ge=10)
    num_sms: int = Field(ge=1)
    total_bytes: int | None = None
    driver: str = "unknown"
    cuda: str = "unknown"
    versions: dict[str, str] = Field(default_factory=dict)
    """Package to version."""
    started: str
    """Date, ISO, UTC."""
    method: str
    """How times were taken."""
    source: str = ""
    """Where records come from that this tool did not measure itself."""

    @property
    def environment(self) -> tuple[str, int, str, tuple[tuple[str, str], ...]]:
        """What must be equal for a kernel to stay unsupported."""
        return self.device, self.gpus, self.driver, tuple(sorted(self.versions.items()))


class KernelRecord(Noun):
    """One measured, or not measurable, kernel. Times are seconds per launch."""

    kind: Literal["kernel"] = "kernel"
    run: str
    family: str
    kernel: str
    shape: dict[str, int | str]
    status: Status
    message: str = ""
    """Why there is no time."""
    flops: float = Field(ge=0)
    num_bytes: float = Field(ge=0)
    precision: Precision = "bf16"
    link_bytes: float = Field(default=0.0, ge=0)
    time_s: float | None = Field(default=None, gt=0)
    """Median over replays."""
    p10_s: float | None = Field(default=None, gt=0)
    p90_s: float | None = Field(default=None, gt=0)
    launches: int | None = Field(default=None, ge=1)
    """Launches per replay."""
    replays: int | None = Field(default=None, ge=1)
    input_sets: int | None = Field(default=None, ge=0)
    """Copies of the inputs that launches walk through."""
    cold: bool | None = None
    """Whether those copies exceed twice the L2."""
    error: float | None = None
    """Relative error against the reference; absent where none was computed."""
    clock_mhz: int | None = None
    """SM clock right after the measurement; read every few seconds only."""
    took_s: float | None = Field(default=None, ge=0)
    """Wall time of the case: inputs, what was not compiled yet, check and timing."""
    role: str = ""
    """Which product of which model and plan has this shape."""

    @property
    def key(self) -> str:
        """The same as that of the case."""
        return key_of(self.kernel, tuple(self.shape.items()))

    def roofline_s(self, hw: Hardware) -> float:
        """Seconds that no kernel beats on `hw`."""
        return roofline_s(hw, self.flops, self.num_bytes, self.precision, self.link_bytes)


def record_of(case: KernelCase, run: str, status: Status, message: str = "") -> KernelRecord:
    """A record of `case` without times."""
    return KernelRecord(
        run=run,
        family=case.family,
        kernel=case.kernel,
        shape=dict(case.shape),
        status=status,
        message=message,
        flops=case.flops,
        num_bytes=case.num_bytes,
        precision=case.precision,
        link_bytes=case.link_bytes,
        role=case.role,
    )


@dataclass(slots=True)
class RecordFile:
    """What a file of records holds."""

    runs: dict[str, RunHeader] = field(default_factory=dict)
    records: dict[tuple[str, str], KernelRecord] = field(default_factory=dict)
    """(device, key) to its latest record."""
    damaged: int = 0
    """Lines that are no records."""

    def device_of(self, record: KernelRecord) -> str:
        """The GPU a record was measured on."""
        return self.runs[record.run].device


def read_records(path: Path) -> RecordFile:
    """The records of a `.jsonl` or `.jsonl.gz` file; damaged lines are counted.

    Raises:
        BadInput: the file cannot be read, or no line of it is a record.
    """
    found, lines = RecordFile(), 0
    try:
        with _open(path) as stream:
            for line in stream:
                lines += bool(line.strip())
                _take(line, found)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); name a .jsonl or .jsonl.gz file") from None
    if lines and found.damaged == lines:
        raise BadInput(f"{path}: no line is a kernel record; name a file of `servecast profile kernels`")
    return found


def _take(line: str, found: RecordFile) -> None:
    if not line.strip():
        return
    try:
        data = json.loads(line)
        if isinstance(data, dict) and data.get("kind") == "run":
            header = RunHeader.model_validate(data)
            found.runs[header.run] = header
            return
        record = KernelRecord.model_validate(data)
        found.records[found.device_of(record), record.key] = record
    except (ValueError, ValidationError, KeyError):
        found.damaged += 1


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8", errors="replace")


class RecordWriter:
    """Appends lines, each flushed to disk before the next kernel starts."""

    def __init__(self, path: Path) -> None:
        """Args: the file; made where absent. Raises `BadInput` where it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab+")
        except OSError as error:
            raise BadInput(f"out={str(path)!r}: {error.strerror}; choose a writable file") from None
        if self._stream.tell() and not self._ends_with_newline():
            self._stream.write(b"\n")

    def _ends_with_newline(self) -> bool:
        self._stream.seek(-1, os.SEEK_END)
        return self._stream.read(1) == b"\n"

    def write(self, item: RunHeader | KernelRecord) -> None:
        """Append one line."""
        line = json.dumps(item.model_dump(exclude_none=True, exclude_defaults=True) | {"kind": item.kind})
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
