"""One process per GPU, which run collectives together on request."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any

from profiler.kernel_timer import Prepared, Timing, time_calls
from profiler.kernels.base import Unsupported

GRAPH_BYTES = 64 << 20
LAUNCHES = (20, 200)
"""Least and most launches of a graph, which holds `GRAPH_BYTES` within these: ranks start a replay some
ten microseconds apart, and every launch bears its share of that."""
REPLAYS = 15
ANSWER_S = 60.0
ENVIRONMENT = {"NCCL_GRAPH_MIXING_SUPPORT": "0"}
"""With mixing, NCCL's default, a graph orders its collectives by events as well, so that a launch takes the
longer the more of them the graph holds: 9 us of 20, 22 of 200, and 5 of either without (two H200, 4 KiB,
NCCL 2.28.9)."""
MOST_EXACT = 256
"""Whole numbers up to here are exact in BF16."""


def launches_of(size: int) -> int:
    """Launches per replay, equal on every rank."""
    low, high = LAUNCHES
    return max(low, min(high, GRAPH_BYTES // size))


class PeersStuck(Exception):
    """The processes no longer answer, as when one rank left a collective that the others wait in."""


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
        _answers(self._pipes)

    def close(self) -> None:
        """End the processes, also those that a kernel holds."""
        for process in self._processes:
            process.kill()
            process.join()

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
        return _answers(pipes)


def _answers(pipes: list[Connection]) -> list[Any]:
    """One answer per pipe, in their order.

    Raises:
        PeersStuck: a rank failed, whose peers may wait for it, or gave no answer.
        Unsupported: what every rank says of the case.
    """
    found: dict[Connection, Any] = {}
    end = monotonic() + ANSWER_S
    while len(found) < len(pipes):
        ready = wait([pipe for pipe in pipes if pipe not in found], max(0.0, end - monotonic()))
        if not ready:
            raise PeersStuck(f"a peer process gave no answer within {ANSWER_S:.0f} s")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                found[pipe] = pipe.recv()
            except EOFError:
                raise PeersStuck("a peer process died; its message is above") from None
            if isinstance(found[pipe], PeersStuck):
                raise found[pipe]
    refused = [answer for answer in found.values() if isinstance(answer, Unsupported)]
    if refused:
        raise refused[0]
    return [found[pipe] for pipe in pipes]


def _serve(rank: int, count: int, meeting: str, pipe: Connection) -> None:
    """What each process runs until its pipe closes."""
    os.environ |= ENVIRONMENT
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{meeting}", rank=rank, world_size=count)
    widths = [width for width in (2, 4, 8) if width <= count]
    groups = {width: dist.new_group(list(range(width))) for width in widths}
    # SGLang's all-reduce exchanges addresses between CPUs
    hosts = {width: dist.new_group(list(range(width)), backend="gloo") for width in widths}
    pipe.send(0)
    while True:
        try:
            what, op, gpus, size = pipe.recv()
        except EOFError:
            return
        try:
            prepared = _collective(op, gpus, size, groups[gpus], hosts[gpus])
            fixed = (launches_of(size), REPLAYS)
            pipe.send(prepared.check() if what == "check" else time_calls(prepared, fixed))
        except Unsupported as reason:
            pipe.send(reason)
        except (RuntimeError, ValueError, LookupError, ImportError, AssertionError, AttributeError) as error:
            pipe.send(PeersStuck(f"rank {rank}: {type(error).__name__}: {error}"))


@cache
def _engine_communicator(group: Any) -> Any:
    """SGLang's communicator over the ranks of a group of CPUs, made by all of them together."""
    import torch
    import torch.distributed as dist
    from sglang.srt.distributed.device_communicators import custom_all_reduce

    rank = torch.cuda.current_device()
    found = custom_all_reduce.CustomAllreduce(group, torch.device("cuda", rank))
    if found.disabled:
        raise Unsupported("SGLang's all-reduce finds no peer access or no NVLink between these GPUs")
    # its counters must begin at zero, as in the untouched memory of a new server; cases before left values
    library, size = custom_all_reduce.CudaRTLibrary(), custom_all_reduce.ops.meta_size()
    library.cudaMemset(ctypes.c_void_p(found.meta_ptrs[rank]), 0, size)
    torch.cuda.synchronize()
    dist.barrier(group)
    return found


def _collective(op: str, gpus: int, size: int, group: Any, hosts: Any) -> Prepared:
    """The calls of one rank; `size` is the whole buffer, as nccl-tests counts it."""
    import torch
    import torch.distributed as dist

    rank, count = dist.get_rank(group), size // 2
    period = MOST_EXACT // _sum_of_ranks(gpus)
    pattern = (torch.arange(count, device="cuda") % period + 1).to(torch.bfloat16)
    whole, part = torch.empty_like(pattern), torch.empty_like(pattern[: count // gpus])
    call = _calls(whole, part, group, hosts)[op]
    engine = op == "custom_all_reduce"
    capturing = _engine_communicator(hosts).capture if engine else nullcontext

    def fill() -> None:
        whole.copy_(pattern * (rank + 1))
        part.copy_(pattern[: len(part)] * (rank + 1))
        outputs = {"nccl_all_gather": whole, "nccl_reduce_scatter": part}
        if op in outputs:
            outputs[op].fill_(float("nan"))

    def check() -> float:
        fill()
        call()
        fill()
        got, want = _replayed(call, capturing).double(), expected(op, pattern, gpus, rank).double()
        worst = (got - want).abs().max() / want.abs().max()
        return float(worst) if bool(torch.isfinite(worst)) else float("inf")

    fill()
    return Prepared([call], check, 0.0, size, capturing=capturing)


def _sum_of_ranks(gpus: int) -> int:
    """Ranks hold once, twice, three times the pattern."""
    return gpus * (gpus + 1) // 2


def expected(op: str, pattern: Any, gpus: int, rank: int) -> Any:
    """What a rank must hold after a collective, to the last bit."""
    import torch

    share = len(pattern) // gpus
    if op == "nccl_all_gather":
        return torch.cat([pattern[:share] * (r + 1) for r in range(gpus)])
    total = pattern * _sum_of_ranks(gpus)
    return total[rank * share : (rank + 1) * share] if op == "nccl_reduce_scatter" else total


def _calls(whole: Any, part: Any, group: Any, hosts: Any) -> dict[str, Callable[[], Any]]:
    """Each collective over buffers of this rank; a call returns what it wrote."""
    import torch.distributed as dist

    def gather() -> Any:
        dist.all_gather_into_tensor(whole, part, group=group)
        return whole

    def reduce() -> Any:
        dist.all_reduce(whole, group=group)
        return whole

    def scatter() -> Any:
        dist.reduce_scatter_tensor(part, whole, group=group)
        return part

    def engine_reduce() -> Any:
        return _engine_communicator(hosts).custom_all_reduce(whole)

    return {
        "nccl_all_gather": gather,
        "nccl_all_reduce": reduce,
        "nccl_reduce_scatter": scatter,
        "custom_all_reduce": engine_reduce,
    }


def _replayed(call: Callable[[], Any], capturing: Callable[[], AbstractContextManager[Any]]) -> Any:
    """The output of one captured launch, as the timed ones are captured."""
    import torch

    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with capturing(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = call()
    graph.replay()
    torch.cuda.synchronize()
    return out.clone()
