"""Identity of the code and the kernel times that decide a simulation, for caches that outlive them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import planner.short_run
import simulator
from search_spaces import catalog_loader

DESCRIBING = {"simulate.py", "uncertainty.py", "intervals.py"}
"""Modules of the simulator that describe a finished run and do not change it."""


@cache
def source_digest() -> str:
    """Sixteen hex digits over the code and the kernel times that decide a simulation."""
    package = Path(str(simulator.__file__)).parent
    files = [Path(str(planner.short_run.__file__))]
    files += [file for file in package.glob("*.py") if file.name not in DESCRIBING]
    kernels = catalog_loader.catalog_root() / "kernels"
    files += [Path(str(file)) for file in kernels.iterdir() if file.name.endswith(".npz")]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
