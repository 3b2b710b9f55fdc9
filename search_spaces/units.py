"""The only place where units are converted; everything else is seconds, bytes, FLOPs, tokens."""

from __future__ import annotations

MS_PER_S = 1e3
US_PER_S = 1e6
BYTES_PER_MIB = 1024**2
BYTES_PER_GIB = 1024**3
BYTES_PER_GB = 1e9
FLOPS_PER_TFLOPS = 1e12
PARAMS_PER_MILLION = 1e6
TOKENS_PER_MILLION = 1e6
SECONDS_PER_HOUR = 3600.0


def ms(seconds: float) -> float:
    """Seconds to milliseconds."""
    return seconds * MS_PER_S


def seconds_from_ms(milliseconds: float) -> float:
    """Milliseconds to seconds."""
    return milliseconds / MS_PER_S


def seconds_from_us(microseconds: float) -> float:
    """Microseconds to seconds."""
    return microseconds / US_PER_S


def gib(num_bytes: float) -> float:
    """Bytes to GiB."""
    return num_bytes / BYTES_PER_GIB


def gb(num_bytes: float) -> float:
    """Bytes to GB (1e9)."""
    return num_bytes / BYTES_PER_GB
