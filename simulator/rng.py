"""Named random streams: one seed enters, and a new consumer shifts nobody else's numbers."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of one consumer."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def loop_seed(seed: int) -> int:
    """Non-zero 62-bit state for the compiled loop's own stream."""
    return int(stream(seed, "loop").integers(1, 1 << 62))
