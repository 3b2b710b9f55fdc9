"""Processes that measure together, without a GPU: answers, refusals, and what a stuck rank does."""

from __future__ import annotations

import importlib
from multiprocessing import Pipe

import pytest

from profiler.kernel_case import KernelCase
from profiler.kernel_gpu import Gpu
from profiler.kernels.base import Unsupported

torch = pytest.importorskip("torch", reason="drivers need torch: pip install 'servecast[gpu]'")
deepep, links, peers = (
    importlib.import_module(f"profiler.kernels.{name}") for name in ("deepep", "links", "peers")
)


def gpu(count: int) -> Gpu:
    return Gpu("GPU", 90, count, 4, 1 << 20, 1 << 30, "none", "none", device="cpu")


def pipes(*answers):
    ours = []
    for answer in answers:
        one, other = Pipe()
        if answer is not None:
            other.send(answer)
        ours.append((one, other))
    return ours


def asked(*answers):
    made = pipes(*answers)
    return peers._answers([one for one, _ in made])


def test_answers_come_in_the_order_of_the_ranks():
    assert asked(1.0, 2.0, 3.0) == [1.0, 2.0, 3.0]


def test_a_rank_that_failed_is_heard_though_another_waits_for_it():
    with pytest.raises(peers.PeersStuck, match="rank 1: no"):
        asked(None, peers.PeersStuck("rank 1: no"))


def test_silence_ends(monkeypatch):
    monkeypatch.setattr(peers, "ANSWER_S", 0.05)
    with pytest.raises(peers.PeersStuck, match="gave no answer"):
        asked(1.0, None)


def test_what_all_ranks_refuse_is_unsupported():
    with pytest.raises(Unsupported, match="no NVLink"):
        asked(Unsupported("no NVLink"), Unsupported("no NVLink"))


def test_a_stuck_pool_is_replaced(monkeypatch):
    closed = []

    class Pool:
        def __init__(self, count):
            self.count = count

        def check(self, *case):
            raise peers.PeersStuck("a peer process gave no answer")

        def close(self):
            closed.append(self)

    monkeypatch.setattr(links, "PeerPool", Pool)
    links._pool.cache_clear()
    case = KernelCase("links", "nccl_all_reduce", (("gpus", 2), ("bytes", 4096)), 0.0, 8192.0)
    prepared = links.collective(case, gpu(2))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no answer"):
            prepared.check()
    assert len(closed) == 2 and closed[0] is not closed[1]
    links._pool.cache_clear()


def test_what_ranks_must_hold_by_hand():
    pattern = torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.bfloat16)
    held = {op: peers.expected(op, pattern, 2, 1).tolist() for op in links.DRIVERS if op != "peer_copy"}
    assert held == {
        "nccl_all_gather": [1.0, 2.0, 2.0, 4.0],
        "nccl_all_reduce": [3.0, 6.0, 9.0, 3.0],
        "nccl_reduce_scatter": [9.0, 3.0],
        "custom_all_reduce": [3.0, 6.0, 9.0, 3.0],
    }


def test_graphs_of_small_messages_hold_more_launches():
    assert [peers.launches_of(size) for size in (4096, 1 << 20, 1 << 28)] == [200, 64, 20]


def test_reasons_say_what_is_missing(monkeypatch):
    for module in (links, deepep):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    reduce = KernelCase("links", "custom_all_reduce", (("gpus", 4), ("bytes", 4096)), 0.0, 8192.0)
    dispatch = KernelCase("deepep", "deepep_normal", (("hidden", 7168),), 0.0, 1.0)
    with pytest.raises(Unsupported, match="sgl_kernel is not installed"):
        links.DRIVERS["custom_all_reduce"](reduce, gpu(4))
    with pytest.raises(Unsupported, match="2 GPUs, the case needs 4"):
        monkeypatch.setattr(links, "find_spec", lambda name: object())
        links.DRIVERS["custom_all_reduce"](reduce, gpu(2))
    with pytest.raises(Unsupported, match=r"deep_ep is not installed; .* torch 2\.13"):
        deepep.DRIVERS["deepep_normal"](dispatch, gpu(2))
