"""Many simulations on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import TypeVar

from planner.evaluate import start_worker

T = TypeVar("T")
R = TypeVar("R")
ALONE = 3
"""Up to so many tasks are done before a pool of processes would have started."""


class Crew:
    """Processes that stay for several calls, started at the first call that is worth it."""

    def __init__(self, workers: int | None = None) -> None:
        """Args: processes; None takes all cores."""
        self._count = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    def map(self, task: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Results of a task, a function of a module, in the order of its items."""
        if self._pool is None and (self._count == 1 or len(items) <= ALONE):
            return map(task, items)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._count, initializer=start_worker)
        return self._pool.map(task, items)

    def __enter__(self) -> Crew:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the processes; running tasks are abandoned."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def map_all(
    task: Callable[[T], R],
    items: Sequence[T],
    workers: int | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> list[R]:
    """All results of a task, in the order of its items; `on_done` is called after each."""
    found = []
    with Crew(workers) as crew:
        for result in crew.map(task, items):
            found.append(result)
            on_done()
    return found
