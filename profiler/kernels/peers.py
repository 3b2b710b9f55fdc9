"""One process per GPU, which run collectives together on request."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from profiler.kernel_timer import Prepared, Timing, time_calls

GRAPH_LAUNCHES, GRAPH_REPLAYS = 20, 15
"""Fixed, so that every rank launches equally often."""
ANSWER_S = 120.0


class PeerPool:
    """Processes that hold one GPU each and share a process group per width."""

    def __init__(self, count: int) -> None:
        """Args: how many GPUs to take; raises `RuntimeError` where a process does not come up."""
        import torch.multiprocessing as mp

        self._folder = tempfile.TemporaryDirectory(prefix="servecast-peers-")
        context = mp.get_context("spawn")
        meeting = Path(self._folder.name) / "meeting"
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, count, str(meeting), theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            _answer(pipe)

    def check(self, op: str, gpus: int, size: int) -> float:
        """Largest relative error of any rank."""
        return float(max(self._ask("check", op, gpus, size)))

    def time(self, op: str, gpus: int, size: int) -> Timing:
        """The timing of the slowest rank."""
        slowest: Timing = max(self._ask("time", op, gpus, size), key=lambda timing: timing.median_s)
        return slowest

    def _ask(self, what: str, op: str, gpus: int, size: int) -> list[Any]:
        pipes = self._pipes[:gpus]
        for pipe in pipes:
            pipe.send((what, op, gpus, size))
        return [_answer(pipe) for pipe in pipes]


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(ANSWER_S):
        raise RuntimeError(f"a peer process gave no answer within {ANSWER_S:.0f} s")
    try:
        found = pipe.recv()
    except EOFError:
        raise RuntimeError("a peer process died; its message is above") from None
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _serve(rank: int, count: int, meeting: str, pipe: Connection) -> None:
    """What each process runs until its pipe closes."""
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=count)
    widths = [width for width in (2, 4, 8) if width <= count]
    groups = {width: dist.new_group(list(range(width))) for width in widths}
    pipe.send(0)
    while True:
        try:
            what, op, gpus, size = pipe.recv()
        except EOFError:
            return
        try:
            prepared = _collective(op, gpus, size, groups[gpus])
            fixed = (GRAPH_LAUNCHES, GRAPH_REPLAYS)
            pipe.send(prepared.check() if what == "check" else time_calls(prepared, fixed))
        except (RuntimeError, ValueError, KeyError) as error:
            pipe.send(f"rank {rank}: {error}")


def _collective(op: str, gpus: int, size: int, group: Any) -> Prepared:
    """The calls of one rank; `size` is the whole buffer, as nccl-tests counts it."""
    import torch
    import torch.distributed as dist

    rank, count = dist.get_rank(group), size // 2
    whole = torch.full((count,), float(rank + 1), dtype=torch.bfloat16, device="cuda")
    part = torch.full((count // gpus,), float(rank + 1), dtype=torch.bfloat16, device="cuda")
    total = gpus * (gpus + 1) / 2

    def gather() -> Any:
        dist.all_gather_into_tensor(whole, part, group=group)
        return whole.view(gpus, -1)[:, 0]

    def reduce() -> Any:
        dist.all_reduce(whole, group=group)
        return whole[:1]

    def scatter() -> Any:
        dist.reduce_scatter_tensor(part, whole, group=group)
        return part[:1]

    calls: dict[str, tuple[Callable[[], Any], list[float]]] = {
        "nccl_all_gather": (gather, [float(r + 1) for r in range(gpus)]),
        "nccl_all_reduce": (reduce, [total]),
        "nccl_reduce_scatter": (scatter, [total]),
    }
    call, want = calls[op]

    def check() -> float:
        got = call()
        torch.cuda.synchronize()
        return float((got.cpu().double() - torch.tensor(want).double()).abs().max() / max(want))

    return Prepared([call], check, 0.01, size)
