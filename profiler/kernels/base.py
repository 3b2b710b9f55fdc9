"""What a family of kernels provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernel_timer import Prepared

Driver: TypeAlias = Callable[[KernelCase, Gpu], Prepared]
"""Puts the inputs of a case in place. Raises `Unsupported` where the case cannot run here."""
Drivers: TypeAlias = Mapping[str, Driver]
"""Kernel name to its driver; every family module has one as `DRIVERS`."""


class Unsupported(Exception):
    """Why a kernel cannot run on this machine; recorded, not an error."""
