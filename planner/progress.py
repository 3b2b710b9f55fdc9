"""A progress bar over named stages, on stderr and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def stages(what: str, folder: Path) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for a stage's name, steps done and steps in all; says where Ctrl-C leaves the work."""
    from tqdm import tqdm

    bar = tqdm(desc=what, unit="setting", leave=False, disable=None)
    label = [""]

    def advance(name: str, done: int, total: int) -> None:
        if name != label[0]:
            bar.set_description(f"{what}: {name}")
            bar.reset(total)
            label[0] = name
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield advance
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command goes on from {folder}", err=True)
        raise
    finally:
        bar.close()
