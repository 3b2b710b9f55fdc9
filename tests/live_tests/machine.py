"""A machine fit for timing, as far as that is in our hands."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine_adapter.sglang_server import SglangServer


@contextmanager
def preferred(server: SglangServer) -> Iterator[None]:
    """Let the server and this client go before background work within the block, where we may.

    Linux shares cores between sessions first and looks at `nice` only within one, so that niced work of
    another session still takes half of a core from a timed server. Sessions have a weight of their own.
    """
    assert server.process is not None
    weights = [Path(f"/proc/{pid}/autogroup") for pid in ("self", server.process.pid)]
    try:
        for weight in weights:
            with suppress(OSError):
                weight.write_text("-10")
        yield
    finally:
        for weight in weights:
            with suppress(OSError):
                weight.write_text("0")


class OtherWork:
    """What of the machine has gone to processes that are neither the server's nor ours, since the start."""

    def __init__(self, server: SglangServer) -> None:
        """Args: the server that is timed."""
        self._server = server
        self._began = self._ticks()

    def share(self) -> float:
        """Of all processor time since the start; what the server's group and ours used is not counted."""
        busy, total, own = (now - then for now, then in zip(self._ticks(), self._began, strict=True))
        return max(0.0, busy - own) / max(1.0, total)

    def _ticks(self) -> tuple[float, float, float]:
        values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = values[3] + values[4]
        own = 0.0
        assert self._server.process is not None
        for pid in self._server.process.group_members():
            with suppress(OSError, ValueError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                own += int(fields[11]) + int(fields[12])
        per_s = os.sysconf("SC_CLK_TCK")
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            used = resource.getrusage(who)
            own += (used.ru_utime + used.ru_stime) * per_s
        return sum(values) - idle, sum(values), own


def wait_for_quiet(limit_s: float = 20.0, busy: float = 0.15, look_s: float = 1.0) -> float:
    """Wait until other work leaves the machine mostly idle; returns the busy share seen last."""
    end = time.monotonic() + limit_s
    while True:
        share = _busy_share(look_s)
        if share < busy or time.monotonic() > end:
            return share


def _busy_share(look_s: float) -> float:
    def ticks() -> tuple[int, int]:
        values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(values), values[3] + values[4]

    total, idle = ticks()
    time.sleep(look_s)
    total_after, idle_after = ticks()
    return 1 - (idle_after - idle) / max(1, total_after - total)
