"""A machine fit for timing, as far as that is in our hands."""

from __future__ import annotations

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
