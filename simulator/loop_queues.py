"""The compiled loop's event heap and first-in first-out queues."""

from __future__ import annotations

from typing import Any

from simulator.loop_state import *

ARRIVAL, TRANSFERRED, NEXT_TURN, SESSION_DUE = 0, 1, 2, 3
"""Kinds of event: a request reaches workers; its KV has moved; a session's next turn; a new session."""


@inner
def push(w: Any, time: float, kind: int, req: int) -> None:
    """Insert an event; ties leave in insertion order."""
    k = w.counters[HEAP_SIZE]
    seq = w.counters[SEQUENCE]
    w.counters[HEAP_SIZE] += 1
    w.counters[SEQUENCE] += 1
    while k > 0:
        parent = (k - 1) >> 1
        if w.heap_time[parent] <= time:
            break
        w.heap_time[k], w.heap_kind[k] = w.heap_time[parent], w.heap_kind[parent]
        w.heap_req[k], w.heap_seq[k] = w.heap_req[parent], w.heap_seq[parent]
        k = parent
    w.heap_time[k], w.heap_kind[k], w.heap_req[k], w.heap_seq[k] = time, kind, req, seq


@inner
def _before(w: Any, a: int, b: int) -> bool:
    if w.heap_time[a] != w.heap_time[b]:
        return w.heap_time[a] < w.heap_time[b]
    return w.heap_seq[a] < w.heap_seq[b]


@inner
def pop(w: Any) -> None:
    """Remove the earliest event (read it from index 0 before)."""
    n = w.counters[HEAP_SIZE] - 1
    w.counters[HEAP_SIZE] = n
    w.heap_time[0], w.heap_kind[0], w.heap_req[0], w.heap_seq[0] = (
        w.heap_time[n],
        w.heap_kind[n],
        w.heap_req[n],
        w.heap_seq[n],
    )
    sift_down(w, 0, n)


@inner
def sift_down(w: Any, k: int, n: int) -> None:
    """Move an event down among the first `n` until none below it is earlier."""
    while True:
        child = 2 * k + 1
        if child >= n:
            break
        if child + 1 < n and _before(w, child + 1, child):
            child += 1
        if _before(w, k, child):
            break
        for a in (w.heap_kind, w.heap_req, w.heap_seq):
            a[k], a[child] = a[child], a[k]
        w.heap_time[k], w.heap_time[child] = w.heap_time[child], w.heap_time[k]
        k = child


@inner
def enqueue(ranks: Any, reqs: Any, r: int, req: int, head: int, tail: int) -> None:
    """Append to the FIFO whose head and tail columns are given."""
    reqs.link[req] = -1
    if ranks.i[r, tail] >= 0:
        reqs.link[ranks.i[r, tail]] = req
    else:
        ranks.i[r, head] = req
    ranks.i[r, tail] = req


@inner
def enqueue_front(ranks: Any, reqs: Any, r: int, req: int) -> None:
    """Put a request before all others of a rank's waiting queue."""
    reqs.link[req] = ranks.i[r, Q_HEAD]
    ranks.i[r, Q_HEAD] = req
    if ranks.i[r, Q_TAIL] < 0:
        ranks.i[r, Q_TAIL] = req
    ranks.i[r, Q_LEN] += 1


@inner
def dequeue(ranks: Any, reqs: Any, r: int, head: int, tail: int) -> int:
    """Take the first of a FIFO."""
    req = ranks.i[r, head]
    ranks.i[r, head] = reqs.link[req]
    if ranks.i[r, head] < 0:
        ranks.i[r, tail] = -1
    return req
