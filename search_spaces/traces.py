"""Public traces of requests: Mooncake (JSON lines with prompt blocks) and Azure (CSV of lengths).

Mooncake: `{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`, one id per 512
prompt tokens, equal ids meaning equal prefixes (kvcache-ai/Mooncake, FAST'25 traces).
Azure: `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure/AzurePublicDataset, LLM inference traces).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.units import MS_PER_S

MOONCAKE_BLOCK_TOKENS = 512
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class Trace(Noun):
    """A trace file, by content; build it with `open_trace`."""

    path: str
    format: Literal["mooncake", "azure"]
    sha256: str
    requests: int = Field(ge=1)
    mean_isl: float = Field(gt=0)
    """Mean input tokens."""
    mean_osl: float = Field(gt=0)
    """Mean output tokens."""
    rate_scale: float = Field(default=1.0, gt=0)
    """Arrivals come this many times as fast as recorded."""


class TraceRows(NamedTuple):
    """Requests in order of arrival."""

    arrival_s: NDArray[np.float64]
    """Since the first."""
    isl: NDArray[np.int64]
    osl: NDArray[np.int64]
    blocks: tuple[tuple[int, ...], ...]
    """Ids of each prompt's blocks of 512 tokens; empty where the format has none."""


def open_trace(path: str, rate_scale: float = 1.0) -> Trace:
    """The trace in a file; its format is told by its content.

    Raises:
        BadInput: the file cannot be read, or a row of it makes no sense.
    """
    data = _read(path)
    rows = _rows(path, data)
    form: Literal["mooncake", "azure"] = "mooncake" if _is_mooncake(data) else "azure"
    return Trace.parse(
        {
            "path": path,
            "format": form,
            "sha256": hashlib.sha256(data).hexdigest(),
            "requests": len(rows.isl),
            "mean_isl": float(rows.isl.mean()),
            "mean_osl": float(rows.osl.mean()),
            "rate_scale": rate_scale,
        },
        f"trace={path!r}",
    )


@lru_cache(maxsize=4)
def trace_rows(trace: Trace) -> TraceRows:
    """The requests of a trace, arrivals scaled.

    Raises:
        BadInput: the file has changed since the trace was opened.
    """
    data = _read(trace.path)
    if hashlib.sha256(data).hexdigest() != trace.sha256:
        raise BadInput(f"trace={trace.path!r} has changed since it was opened; open it again")
    rows = _rows(trace.path, data)
    return rows._replace(arrival_s=rows.arrival_s / trace.rate_scale)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(
            f"trace={path!r} cannot be read: {error.strerror}; give a Mooncake JSONL or an Azure CSV file"
        ) from None


def _is_mooncake(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{"


def _rows(path: str, data: bytes) -> TraceRows:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"trace={path!r} is not text; give a Mooncake JSONL or an Azure CSV file") from None
    found = _mooncake(path, text) if _is_mooncake(data) else _azure(path, text)
    if not found:
        raise BadInput(f"trace={path!r} holds no request; give a file with at least one")
    found.sort(key=lambda row: row[0])
    arrival = np.array([row[0] for row in found])
    return TraceRows(
        arrival - arrival[0],
        np.array([row[1] for row in found], dtype=np.int64),
        np.array([row[2] for row in found], dtype=np.int64),
        tuple(row[3] for row in found),
    )


Row = tuple[float, int, int, tuple[int, ...]]


def _mooncake(path: str, text: str) -> list[Row]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            blocks = tuple(int(b) for b in row.get("hash_ids", ()))
            parsed = (float(row["timestamp"]) / MS_PER_S, int(row["input_length"]), int(row["output_length"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"trace={path!r} line {number}: {error!r}; each line needs timestamp (ms), input_length "
                "and output_length, and may have hash_ids"
            ) from None
        found.append((*_checked(path, number, *parsed), blocks))
    return found


def _azure(path: str, text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in AZURE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise BadInput(
            f"trace={path!r} has no column {missing[0]!r}; an Azure trace has {', '.join(AZURE_COLUMNS)}"
        )
    found: list[Row] = []
    for number, row in enumerate(reader, 2):
        try:
            at = datetime.fromisoformat(row["TIMESTAMP"].strip()[:26]).timestamp()
            lengths = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"trace={path!r} line {number}: {error}; correct or remove the line") from None
        found.append((*_checked(path, number, at, *lengths), ()))
    return found


def _checked(path: str, number: int, at: float, isl: int, osl: int) -> tuple[float, int, int]:
    if isl < 1:
        raise BadInput(f"trace={path!r} line {number}: input tokens={isl} must be above 0; remove the line")
    return at, isl, max(osl, 1)
