"""Measure cases one after another: check, time, record; resumable, within a budget."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from subprocess import SubprocessError
from typing import Protocol

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu, package_versions, sm_clock_mhz
from profiler.kernel_record import KernelRecord, RecordWriter, RunHeader, read_records, record_of
from profiler.kernel_timer import L2_FACTOR, Prepared, time_calls
from search_spaces.catalog_loader import all_hardware
from search_spaces.errors import MissingData
from search_spaces.hardware import Hardware

METHOD = (
    "median over replays of a CUDA graph that walks through copies of the inputs, CUDA events; each output "
    "is compared with a double-precision reference first; collectives: the slowest rank, without NCCL's "
    "graph mixing"
)
MESSAGE_LENGTH = 300
CASE_LIMIT_S = 240.0
"""A case that takes longer, compilation included, hangs: it is recorded, and the process ends."""
CLOCK_EVERY_S = 10.0
"""Reading the clock takes as long as several small cases."""
GPU_SYNC_ERRORS = ("CUDA error", "illegal memory access", "device-side assert", "unspecified launch failure")


class Bench(Protocol):
    """What measures one case."""

    def header(self, run: str) -> RunHeader:
        """The environment, under the identifier of a run."""
        ...

    def measure(self, case: KernelCase, run: str) -> KernelRecord:
        """The record of a case; raises `ContextLost` where no further case can run in this process."""
        ...


class ContextLost(Exception):
    """A kernel broke the CUDA context; carries the record of its case."""

    def __init__(self, record: KernelRecord) -> None:
        super().__init__(record.message)
        self.record = record


@dataclass(slots=True)
class RunResult:
    """What one run did."""

    counts: dict[str, int] = field(default_factory=dict)
    """Status to cases."""
    skipped: int = 0
    """Cases that earlier runs had finished."""
    left: int = 0
    """Cases that the budget did not reach."""
    seconds: float = 0.0
    """Wall time."""


def platform_of(device: str) -> Hardware | None:
    """The catalog's platform whose name is a word of the device name."""
    words = set(device.lower().replace("-", " ").split())
    return next((hw for name, hw in all_hardware().items() if name in words), None)


def run_cases(
    cases: Iterable[KernelCase], bench: Bench, path: Path, budget_s: float | None = None
) -> RunResult:
    """Measure what `path` does not hold yet, and append it.

    Cases that are ok on this device, or unsupported in this environment, are skipped. Those that
    failed before come last, so that a kernel which breaks the process cannot stop the others.

    Raises:
        MissingData: a kernel broke the CUDA context. Everything is kept: run again to go on.
        BadInput: the file cannot be read or written.
    """
    from tqdm import tqdm

    start = time.monotonic()
    run = uuid.uuid4().hex[:12]
    header = bench.header(run)
    every = list(cases)
    todo = _todo(every, header, path)
    result = RunResult(skipped=len(every) - len(todo), left=len(todo))
    if not todo:
        return result
    writer = RecordWriter(path)
    try:
        writer.write(header)
        with tqdm(total=len(todo), unit="case", file=sys.stderr, disable=None) as bar:
            for case in todo:
                if budget_s is not None and time.monotonic() - start > budget_s:
                    break
                bar.set_postfix_str(case.key[:48], refresh=False)
                record = _one(case, bench, run, writer)
                result.counts[record.status] = result.counts.get(record.status, 0) + 1
                result.left -= 1
                bar.update()
    finally:
        writer.close()
    result.seconds = time.monotonic() - start
    return result


def _one(case: KernelCase, bench: Bench, run: str, writer: RecordWriter) -> KernelRecord:
    def hung() -> None:
        writer.write(record_of(case, run, "failed", f"took longer than {CASE_LIMIT_S:g} s"))
        _end_process()

    watchdog = threading.Timer(CASE_LIMIT_S, hung)
    watchdog.daemon = True
    watchdog.start()
    begun = time.monotonic()
    try:
        record = bench.measure(case, run)
        record = record.model_copy(update={"took_s": round(time.monotonic() - begun, 3)})
    except ContextLost as lost:
        writer.write(lost.record)
        raise MissingData(
            f"{case.key} broke the CUDA context ({lost}); everything before it is recorded: run the same "
            "command again, and this case comes last"
        ) from None
    finally:
        watchdog.cancel()
    writer.write(record)
    return record


def _end_process() -> None:
    """Leave at once: a kernel that never ends cannot be stopped in any other way."""
    os._exit(MissingData.exit_code)


def _todo(cases: list[KernelCase], header: RunHeader, path: Path) -> list[KernelCase]:
    if not path.is_file():
        return cases
    known = read_records(path)
    first, last = [], []
    for case in cases:
        record = known.records.get((header.device, case.key))
        if record is None:
            first.append(case)
        elif record.status in ("wrong", "failed"):
            last.append(case)
        elif record.status == "unsupported" and known.runs[record.run].environment != header.environment:
            first.append(case)
    return first + last


class GpuBench:
    """Measures on the current GPU."""

    def __init__(self, gpu: Gpu, hardware: Hardware | None) -> None:
        """Args: the device, and the platform it belongs to where the catalog has it."""
        self.gpu, self.hardware = gpu, hardware
        self._clock_read_s = 0.0
        self._settled: set[str] = set()

    def header(self, run: str) -> RunHeader:
        """See `Bench`."""
        return RunHeader(
            run=run,
            device=self.gpu.name,
            hardware=self.hardware.name if self.hardware else None,
            gpus=self.gpu.count,
            sm=self.gpu.sm,
            num_sms=self.gpu.num_sms,
            total_bytes=self.gpu.total_bytes,
            driver=self.gpu.driver,
            cuda=self.gpu.cuda,
            versions=package_versions(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            method=METHOD,
        )

    def measure(self, case: KernelCase, run: str) -> KernelRecord:
        """See `Bench`."""
        from profiler.kernels.base import Unsupported

        try:
            with _freed():
                record = self._measured(case, run)
            self._settle(case.kernel)
            return record
        except Unsupported as reason:
            return record_of(case, run, "unsupported", str(reason))
        except ImportError as error:
            return record_of(case, run, "unsupported", _missing(error))
        except _failures() as error:
            record = record_of(case, run, "failed", _short(error))
            if self._is_broken(record.message):
                raise ContextLost(record) from None
            return record

    def compile(self, case: KernelCase) -> str:
        """Launch a case once, so that compilers fill their caches; returns what went wrong, if anything."""
        from profiler.kernels.base import Unsupported

        try:
            with _freed():
                prepared = self._prepared(case)
                if prepared.calls:
                    prepared.calls[0]()
                self._synchronize()
            self._settle(case.kernel)
        except (Unsupported, ImportError) as reason:
            return f"{case.key}: {reason}"
        except _failures() as error:
            return f"{case.key}: {_short(error)}"
        return ""

    def _settle(self, kernel: str) -> None:
        """Keep what the first case of a kernel has imported out of later collections of garbage.

        Each case gives its memory back by one, which walks a third of a second through an engine's modules.
        """
        if kernel not in self._settled:
            self._settled.add(kernel)
            gc.collect()
            gc.freeze()

    def _prepared(self, case: KernelCase) -> Prepared:
        drivers = import_module(f"profiler.kernels.{case.family}").DRIVERS
        prepared: Prepared = drivers[case.kernel](case, self.gpu)
        return prepared

    def _measured(self, case: KernelCase, run: str) -> KernelRecord:
        prepared = self._prepared(case)
        error = prepared.check()
        self._synchronize()
        if not error <= prepared.tolerance:
            message = f"relative error {error:.3g} exceeds {prepared.tolerance:g}"
            wrong = record_of(case, run, "wrong", message)
            return wrong.model_copy(update={"error": error if error < float("inf") else None})
        timing = time_calls(prepared)
        cold = len(prepared.calls) * prepared.input_bytes >= L2_FACTOR * self.gpu.l2_bytes
        return record_of(case, run, "ok").model_copy(
            update={
                "time_s": timing.median_s,
                "p10_s": timing.p10_s,
                "p90_s": timing.p90_s,
                "launches": timing.launches,
                "replays": timing.replays,
                "input_sets": len(prepared.calls),
                "cold": cold if prepared.calls else None,
                "error": error,
                "clock_mhz": self._clock_mhz(),
            }
        )

    def _clock_mhz(self) -> int | None:
        now = time.monotonic()
        if now - self._clock_read_s < CLOCK_EVERY_S:
            return None
        self._clock_read_s = now
        return sm_clock_mhz()

    def _synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def _is_broken(self, message: str) -> bool:
        if not any(text in message for text in GPU_SYNC_ERRORS):
            return False
        try:
            self._synchronize()
        except RuntimeError:
            return True
        return False


@contextmanager
def _freed() -> Iterator[None]:
    """Give the memory of a case back, whatever became of it."""
    import torch

    try:
        yield
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def _failures() -> tuple[type[Exception], ...]:
    """What kernels and their compilers raise: Python's own errors, and Triton's."""
    found: tuple[type[Exception], ...] = (
        RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, OSError,
        ArithmeticError, SubprocessError,
    )  # fmt: skip
    own = getattr(sys.modules.get("triton.errors"), "TritonError", None)
    return found if own is None else (*found, own)


def _missing(error: ImportError) -> str:
    name = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and name:
        return f"{name} is not installed"
    return f"{name or 'a package'} cannot be imported: {_short(error)}"


def _short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text[:MESSAGE_LENGTH]
