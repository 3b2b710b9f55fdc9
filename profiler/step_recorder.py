"""SGLang plugin: one JSON line per forward pass, written by the engine's own process.

It runs inside the engine's interpreter, where this package is not installed: this one file is copied
beside an entry point of the group `sglang.srt.plugins`, and imports nothing but the engine and torch.

A line holds: `t` (wall-clock seconds at the start of the pass), `mode`, `sequences`, `new_tokens`,
`context` (tokens cached before, mean per sequence), `host_s` (until the call returned; on a CPU the whole
pass), `graph`, and on a GPU `gpu_s` and `gap_s` (stream time of the pass, and idle before it).
"""

from __future__ import annotations

import atexit
import collections
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

OUT_VARIABLE = "SERVECAST_STEPS_OUT"
"""File to append to; the recorder is off without it."""
MODES = {
    "EXTEND": "prefill",
    "SPLIT_PREFILL": "prefill",
    "DECODE": "decode",
    "TARGET_VERIFY": "verify",
}
"""Passes of the target model that are recorded."""
DRAFT_MODES = {
    "DECODE": "draft",
    "EXTEND": "draft_extend",
    "DRAFT_EXTEND": "draft_extend",
    "DRAFT_EXTEND_V2": "draft_extend",
}
WRITE_EVERY_S = 0.05
"""Between two looks at what is finished."""


def register() -> None:
    """Hook the model runner of a worker process; the HTTP process runs no model."""
    path = os.environ.get(OUT_VARIABLE)
    if not path or multiprocessing.parent_process() is None:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    recorder = Recorder(path)
    threading.Thread(target=recorder.write_on, daemon=True).start()
    atexit.register(recorder.drain, True)
    HookRegistry.register(
        "sglang.srt.model_executor.model_runner.ModelRunner.forward", recorder.around, HookType.AROUND
    )


class Recorder:
    """Writes passes in the order they ran, once their GPU times are known.

    The engine's scheduler only notes a pass; a thread of its own writes. Small decode steps take no longer
    than the host needs for them, so that writing between them would make them longer.
    """

    def __init__(self, path: str) -> None:
        """Append to `path`."""
        self._path = path
        self._file: Any = None
        self._pending: collections.deque[tuple[dict[str, Any], Any, Any]] = collections.deque()
        self._last_end: Any = None
        self._lock = threading.Lock()

    def around(self, original: Callable[..., Any], runner: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a forward pass and note its shape and times."""
        row = shape_of(batch, bool(getattr(runner, "is_draft_worker", False)))
        if row is None or getattr(runner, "tp_rank", 0) != 0 or (_on_gpu(batch) and capturing()):
            return original(runner, batch, *args, **kwargs)
        start, end = _events(batch)
        row["t"] = time.time()
        begun = time.perf_counter()
        if start is not None:
            start.record()
        result = original(runner, batch, *args, **kwargs)
        if end is not None:
            end.record()
        row["host_s"] = time.perf_counter() - begun
        row["graph"] = bool(getattr(result, "can_run_graph", False))
        self._pending.append((row, start, end))
        return result

    def write_on(self) -> None:
        """Write for as long as the process lives."""
        while True:
            time.sleep(WRITE_EVERY_S)
            self.drain()

    def drain(self, wait: bool = False) -> None:
        """Write what is finished; with `wait`, everything."""
        with self._lock:
            self._write(wait)

    def _write(self, wait: bool) -> None:
        lines = []
        if self._pending and self._pending[0][2] is not None and capturing():
            return
        while self._pending:
            row, start, end = self._pending[0]
            if end is not None:
                if wait:
                    end.synchronize()
                elif not end.query():
                    break
                row["gpu_s"] = start.elapsed_time(end) / 1e3
                if self._last_end is not None:
                    row["gap_s"] = max(0.0, self._last_end.elapsed_time(start) / 1e3)
                self._last_end = end
            self._pending.popleft()
            lines.append(json.dumps(row) + "\n")
        if lines:
            if self._file is None:
                self._file = open(self._path, "a")  # noqa: SIM115 - open as long as the process lives
            self._file.write("".join(lines))
            self._file.flush()


def shape_of(batch: Any, draft: bool) -> dict[str, Any] | None:
    """Mode and sizes of a pass; None for one that is not recorded, such as an idle one."""
    mode = (DRAFT_MODES if draft else MODES).get(batch.forward_mode.name)
    if mode is None or not batch.batch_size or batch.input_ids is None:
        return None
    if batch.seq_lens_cpu is None and batch.seq_lens_sum is None:  # on the GPU alone: reading them would wait
        return None
    sequences, new_tokens = int(batch.batch_size), int(batch.input_ids.shape[0])
    total = float(batch.seq_lens_cpu.sum()) if batch.seq_lens_cpu is not None else float(batch.seq_lens_sum)
    cached = total if mode == "verify" else total - new_tokens
    return {
        "mode": mode,
        "sequences": sequences,
        "new_tokens": new_tokens,
        "context": max(0.0, cached / sequences),
    }


def capturing() -> bool:
    """Whether the engine captures graphs, or runs passes to warm up for it.

    Draft passes are captured through the hooked function. Events of a captured pass can never be read, and
    looking at any event from another thread ends a capture that is under way.
    """
    try:
        from sglang.srt.model_executor.runner_utils.capture_mode import get_is_capture_mode
    except ImportError:  # a release that keeps it elsewhere: what the hooked pass itself can tell
        import torch

        return bool(torch.cuda.is_current_stream_capturing())
    return bool(get_is_capture_mode())


def _on_gpu(batch: Any) -> bool:
    return bool(batch.input_ids.device.type == "cuda")


def _events(batch: Any) -> tuple[Any, Any]:
    """Two timing events on the current stream; none without a GPU."""
    if not _on_gpu(batch):
        return None, None
    import torch

    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
