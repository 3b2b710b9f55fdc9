"""How much of the machine was ours while something was timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_adapter.sglang_server import SglangServer


def queued_s(server: SglangServer) -> tuple[float, float]:
    """Seconds that the server's scheduler has computed, and waited for a core (Linux schedstat)."""
    assert server.process is not None
    for pid in server.process.group_members():
        if Path(f"/proc/{pid}/comm").read_text().startswith("sglang::sched"):
            ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
            return int(ran) / 1e9, int(waited) / 1e9
    raise AssertionError("the server has no scheduler process")


class Share:
    """Set at the end of `watched`."""

    waited: float = 0.0
    """Seconds the scheduler waited for a core over seconds it wanted one."""


@contextmanager
def watched(server: SglangServer) -> Iterator[Share]:
    """Measure the contention for cores within the block."""
    share = Share()
    ran, waited = queued_s(server)
    yield share
    ran, waited = (after - before for after, before in zip(queued_s(server), (ran, waited), strict=True))
    share.waited = waited / max(ran + waited, 1e-9)


def wait_for_quiet(limit_s: float = 45.0, busy: float = 0.15, look_s: float = 1.0) -> float:
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
