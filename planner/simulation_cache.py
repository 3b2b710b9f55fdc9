"""Simulated metrics of many settings under many calibrations, remembered on disk.

Cross-validation and posteriors simulate every point some fifty times. Each result is one line of a file
that is only ever appended to, so that work stopped by Ctrl-C or a kill goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path

from planner.calibrate import setting_of
from planner.evaluate import start_worker
from planner.source_digest import source_digest
from search_spaces import catalog_loader
from search_spaces.errors import BadInput, Infeasible, MissingData
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration
from simulator.run import run
from simulator.simulate import metrics_of
from simulator.world import Setting

KEPT = (
    "total_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu", "tokens_per_s_per_user", "median_tpot_ms",
    "mean_tpot_ms", "median_ttft_ms", "mean_ttft_ms", "mean_e2e_ms", "duration_s",
)  # fmt: skip
"""Metrics that are remembered."""
SHARE = 48
"""Settings handed to a worker at once, at most: large enough that sending them costs nothing."""

Metrics = dict[str, float] | None
"""Metrics of a run; None where the recipe cannot run."""


@cache
def _catalog_digest(model: str, hardware: str, stack: str) -> str:
    nouns = (catalog_loader.model(model), catalog_loader.hardware(hardware), catalog_loader.stack(stack))
    text = "".join(noun.model_dump_json(exclude={"sources"}) for noun in nouns)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(point: MeasuredPoint, calibration: Calibration) -> str:
    """Identity of one simulation; points of one setting share it."""
    assert point.recipe is not None and point.workload is not None
    parts = (
        source_digest(),
        _catalog_digest(point.recipe.model, point.recipe.hardware, point.stack),
        point.recipe.digest,
        point.workload.model_dump_json(),
        calibration.digest,
    )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]


def simulated(setting: Setting) -> Metrics:
    """Metrics of one run; None where the recipe cannot run."""
    try:
        found = metrics_of(run(setting))
    except Infeasible:
        return None
    return {name: found[name] for name in KEPT}


def _batch(tasks: Sequence[tuple[str, MeasuredPoint, Calibration]]) -> list[tuple[str, Metrics]]:
    return [(key, simulated(setting_of(point, calibration))) for key, point, calibration in tasks]


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/servecast`, or `~/.cache/servecast`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servecast"


class SimulationCache:
    """Looks simulations up, and runs those that are new."""

    def __init__(self, folder: Path | None, workers: int = 1) -> None:
        """Args: where to remember (None keeps it in memory), and processes."""
        self.workers = workers
        self.simulated = 0
        self._known: dict[str, Metrics] = {}
        self._file: Path | None = None
        if folder is not None:
            self._file = folder / f"simulations-{source_digest()}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                text = self._file.read_text(errors="replace") if self._file.exists() else ""
            except OSError as error:
                raise BadInput(f"cache={str(folder)!r}: {error.strerror}; name a writable folder") from None
            self._load(text)

    def _load(self, text: str) -> None:
        for line in text.splitlines():
            try:
                key, values = json.loads(line)
                self._known[str(key)] = (
                    None if values is None else dict(zip(KEPT, map(float, values), strict=True))
                )
            except (ValueError, TypeError):
                continue  # a line torn by a kill: that simulation is run again

    def evaluate(
        self,
        tasks: Iterable[tuple[MeasuredPoint, Calibration]],
        on_done: Callable[[int, int], None] | None = None,
    ) -> dict[str, Metrics]:
        """Metrics by `key_of`, each distinct simulation run once.

        Args:
            tasks: usable points, each with the calibration to simulate it under.
            on_done: called with new simulations done and in all.

        Raises:
            MissingData: a kernel time is absent, or a worker died.
        """
        wanted = {key_of(point, calibration): (point, calibration) for point, calibration in tasks}
        new = [(key, *task) for key, task in wanted.items() if key not in self._known]
        done = 0
        for batch in self._run(new):
            self._remember(batch)
            done += len(batch)
            if on_done is not None:
                on_done(done, len(new))
        return {key: self._known[key] for key in wanted}

    def metrics(
        self,
        points: Sequence[MeasuredPoint],
        calibration: Calibration,
        on_done: Callable[[int, int], None] | None = None,
    ) -> list[Metrics]:
        """Metrics of each point under one calibration, totals as the point counts them."""
        found = self.evaluate([(p, calibration) for p in points], on_done)
        return [published(p, found[key_of(p, calibration)]) for p in points]

    def _run(
        self, new: Sequence[tuple[str, MeasuredPoint, Calibration]]
    ) -> Iterable[list[tuple[str, Metrics]]]:
        if self.workers == 1 or len(new) < 2:
            yield from (_batch([task]) for task in new)
            return
        yield _batch(new[:1])  # compiles the loop once, not in every worker
        rest = new[1:]
        size = max(1, min(SHARE, len(rest) // (4 * self.workers)))
        pool = ProcessPoolExecutor(self.workers, initializer=start_worker)
        try:
            shares = [rest[i : i + size] for i in range(0, len(rest), size)]
            for done in as_completed([pool.submit(_batch, share) for share in shares]):
                yield done.result()
        except BrokenProcessPool:
            raise MissingData(
                f"workers={self.workers}: a simulation process died, as for want of memory; use fewer"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _remember(self, batch: Sequence[tuple[str, Metrics]]) -> None:
        self.simulated += len(batch)
        self._known.update(batch)
        if self._file is None:
            return
        lines = [
            json.dumps([key, None if found is None else [found[name] for name in KEPT]])
            for key, found in batch
        ]
        with self._file.open("a") as file:
            # A record begins and ends a line, so that one torn by a kill spoils no other.
            file.write("\n".join(["", *lines, ""]))


def published(point: MeasuredPoint, found: Mapping[str, float] | None) -> Metrics:
    """Metrics with the total counted as the point's source does."""
    return None if found is None else point.as_published(found)
