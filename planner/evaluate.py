"""Predictions for candidates, at a fidelity and with a cache on disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from search_spaces.errors import Infeasible
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import Recipe
from search_spaces.stack import StackVersion
from search_spaces.workload import Workload
from simulator.calibration import Calibration

if TYPE_CHECKING:
    from simulator.world import Setting


@dataclass(frozen=True)
class Bench:
    """What is held fixed while recipes are compared."""

    model: ModelSpec
    hardware: Hardware
    stack: StackVersion
    calibration: Calibration
    workload: Workload
    seed: int = 0

    def digest(self) -> str:
        """Hash of everything a prediction depends on besides recipe and concurrency."""
        from planner.source_digest import source_digest

        text = source_digest() + "".join(
            part.model_dump_json() for part in (self.model, self.hardware, self.stack, self.workload.at(1))
        )
        return hashlib.sha256(f"{text}{self.calibration.digest}{self.seed}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """Metrics of one recipe at one concurrency, or why it cannot run."""

    metrics: dict[str, float] = field(default_factory=dict)
    limit: str = ""
    warnings: tuple[str, ...] = ()
    infeasible: str = ""

    @property
    def throughput(self) -> float:
        """Total tokens/s per GPU; 0 when infeasible."""
        return self.metrics.get("total_tokens_per_s_per_gpu", 0.0)

    @property
    def interactivity(self) -> float:
        """Tokens/s per user; 0 when infeasible."""
        return self.metrics.get("tokens_per_s_per_user", 0.0)


def prompts_for_steps(steps: int) -> str:
    """Prompts as the public harness chooses them: the chat template whenever drafts are used."""
    return "chat" if steps else "random"


def prompts_for(recipe: Recipe) -> str:
    """Prompts for a recipe, by whether it drafts."""
    return prompts_for_steps(recipe.mtp.num_steps if recipe.mtp else 0)


def workload_for(bench: Bench, recipe: Recipe, concurrency: int) -> Workload:
    """The bench's workload for a recipe at one concurrency."""
    return workload_at(bench, prompts_for(recipe), concurrency)


def workload_at(bench: Bench, prompts: str, concurrency: int) -> Workload:
    """The bench's workload with such prompts at one concurrency."""
    return bench.workload.model_copy(update={"concurrency": concurrency, "prompts": prompts})


def setting_for(bench: Bench, recipe: Recipe, concurrency: int) -> Setting:
    """Everything a simulation of one recipe at one concurrency depends on."""
    from simulator.world import Setting

    workload = workload_for(bench, recipe, concurrency)
    return Setting(recipe, workload, bench.model, bench.hardware, bench.stack, bench.calibration, bench.seed)


@lru_cache(maxsize=8)
def known(bench: Bench) -> Bench:
    """The first bench of this process that equals it.

    A bench comes anew with every task of another process. Costs are cached by their arguments, and a cache
    finds those faster that are the same object than those that have to be compared field by field.
    """
    return bench


def evaluate(bench: Bench, recipe: Recipe, concurrency: int, short: bool) -> Outcome:
    """Simulate one recipe at one concurrency, whole or in short."""
    from planner.short_run import metrics_of_whole, shortened
    from simulator.run import run
    from simulator.simulate import metrics_of, verdict

    whole = setting_for(known(bench), recipe, concurrency)
    try:
        done = run(shortened(whole) if short else whole)
    except Infeasible as error:
        return Outcome(infeasible=str(error))
    limit, warnings = verdict(done)
    return Outcome(metrics_of_whole(done, whole) if short else metrics_of(done), limit, tuple(warnings))


_BENCH: list[Bench] = []


ORPHAN_CHECK_S = 1.0
"""How often a worker looks whether the process that started it is still there."""


def start_worker() -> None:
    """First act of a worker process: leave Ctrl-C to its parent, and end when that is gone.

    Linear algebra stays in one thread: there is a process per core, and threads that wait for each other
    keep it from the others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _start(bench: Bench) -> None:
    start_worker()
    _BENCH[:] = [known(bench)]


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent was killed, which no pool notices by itself."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_CHECK_S)
    os._exit(1)


def _task(recipe: Recipe, concurrency: int, short: bool) -> Outcome:
    return evaluate(_BENCH[0], recipe, concurrency, short)


class Evaluator:
    """Simulates on all cores and remembers every result in an append-only file.

    A line is written per finished simulation; a torn last line after a kill is skipped with its work.
    """

    def __init__(
        self, bench: Bench, cache: Path | None, workers: int, cluster: Executor | None = None
    ) -> None:
        """Args: what is fixed, the cache file (None keeps it in memory), processes, or a cluster instead."""
        self.bench, self.cache = bench, cache
        self._digest = bench.digest()
        self._known: dict[str, Outcome] = {}
        self.simulated = 0
        self._lock = threading.Lock()
        self.damaged_lines = 0
        if cache is not None and cache.exists():
            self._load(cache)
        self._file = None if cache is None else cache.open("a")
        self.workers = workers
        self._threads = threadpool_limits(1)  # the processes have the cores
        self.remote = cluster is not None
        self.pool: Executor = cluster or ProcessPoolExecutor(workers, initializer=_start, initargs=(bench,))

    def _load(self, cache: Path) -> None:
        for line in cache.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
                outcome = Outcome(row["metrics"], row["limit"], tuple(row["warnings"]), row["infeasible"])
                self._known[row["key"]] = outcome
            except (ValueError, KeyError, TypeError):
                self.damaged_lines += 1

    def key(self, recipe: Recipe, concurrency: int, short: bool) -> str:
        """Identity of a prediction."""
        return f"{self._digest}-{recipe.digest}-{concurrency}-{'short' if short else 'full'}"

    def submit(self, recipe: Recipe, concurrency: int, short: bool) -> Future[Outcome]:
        """Start a simulation, or answer from memory."""
        key = self.key(recipe, concurrency, short)
        if key in self._known:
            done: Future[Outcome] = Future()
            done.set_result(self._known[key])
            return done
        if self.remote:
            return self.pool.submit(evaluate, self.bench, recipe, concurrency, short)
        return self.pool.submit(_task, recipe, concurrency, short)

    def remember(self, recipe: Recipe, concurrency: int, short: bool, outcome: Outcome) -> None:
        """Take over an outcome that was simulated elsewhere."""
        key = self.key(recipe, concurrency, short)
        if key not in self._known:
            self._known[key] = outcome
            self._append(key, outcome)

    def collect(self, recipe: Recipe, concurrency: int, short: bool, future: Future[Outcome]) -> Outcome:
        """Wait for a submitted simulation and remember it."""
        outcome = future.result()
        key = self.key(recipe, concurrency, short)
        if key not in self._known:
            self._known[key] = outcome
            with self._lock:
                self.simulated += 1
            self._append(key, outcome)
        return outcome

    def _append(self, key: str, outcome: Outcome) -> None:
        if self._file is None:
            return
        row = {
            "key": key,
            "metrics": outcome.metrics,
            "limit": outcome.limit,
            "warnings": list(outcome.warnings),
            "infeasible": outcome.infeasible,
        }
        with self._lock:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def map(self, tasks: Sequence[tuple[Recipe, int, bool]]) -> Iterator[tuple[Recipe, int, Outcome]]:
        """Outcomes of many tasks, in their order."""
        futures = [self.submit(*task) for task in tasks]
        for (recipe, concurrency, short), future in zip(tasks, futures, strict=True):
            yield recipe, concurrency, self.collect(recipe, concurrency, short, future)

    def close(self) -> None:
        """Stop the processes; running simulations are abandoned."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._threads.restore_original_limits()
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
