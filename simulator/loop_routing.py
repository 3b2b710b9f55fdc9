"""Requests on their way in: the client, the frontend, the router and the choice of a DP rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.loop_queues import ARRIVAL, enqueue, push
from simulator.loop_state import *


@inner
def uniform(w: Any) -> float:
    """Next number of the loop's own random stream in [0, 1) (xorshift64*)."""
    x = np.uint64(w.counters[RNG])
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    w.counters[RNG] = np.int64(x)
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@inner
def send(w: Any, reqs: Any, req: int, now: float) -> None:
    """A client sends a request: it queues at a frontend process, then reaches the workers."""
    reqs.t[req, SEND] = now
    k = 0
    for j in range(len(w.frontends)):
        if w.frontends[j] < w.frontends[k]:
            k = j
    start = max(now, w.frontends[k])
    w.frontends[k] = start + w.clock[FRONT_REQUEST] + w.clock[FRONT_TOKEN] * reqs.i[req, ISL]
    push(w, w.frontends[k] + w.clock[FRONT_LATENCY], ARRIVAL, req)


@inner
def pick_group(w: Any, groups: Any, ranks: Any, first: int, count: int, turn: int) -> int:
    """Worker for a new request: 0 in turn, 1 fewest queued and active tokens, 2 at random."""
    policy = w.counters[P_POLICY]
    if count == 1:
        return first
    if policy == 2:
        return first + int(uniform(w) * count)
    start = w.counters[turn] % count
    w.counters[turn] += 1
    if policy == 0:
        return first + start
    best, least = -1, INFINITY
    for j in range(count):
        g = first + (start + j) % count
        load = 0.0
        for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
            load += ranks.f[r, Q_TOKENS] + ranks.i[r, ACTIVE]
        if load < least:
            best, least = g, load
    return best


@inner
def pick_rank(w: Any, classes: Any, groups: Any, ranks: Any, g: int, rooms: int) -> int:
    """DP rank inside a worker: at random (random rooms), in turn, or the one with fewest requests."""
    n = groups.i[g, RANKS]
    r0 = groups.i[g, RANK0]
    if n == 1:
        return r0
    if rooms == 1:
        return r0 + int(uniform(w) * n)
    turn = groups.i[g, TURN]
    groups.i[g, TURN] += 1
    if classes.i[groups.i[g, CLASS], BALANCE] == 0:
        return r0 + turn % n
    best, least = -1, 1 << 60
    for j in range(n):
        r = r0 + (turn + j) % n
        load = ranks.i[r, ACTIVE] + ranks.i[r, Q_LEN]
        if load < least:
            best, least = r, load
    return best


@inner
def arrive(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, req: int, now: float) -> int:
    """Route an arrived request; returns the group to wake."""
    reqs.t[req, ARRIVE] = now
    at = w.groups_of
    if at[AGGREGATED, 1] > 0:
        g = pick_group(w, groups, ranks, at[AGGREGATED, 0], at[AGGREGATED, 1], TURN_D)
        r = pick_rank(w, classes, groups, ranks, g, 0)
        reqs.i[req, D_GROUP], reqs.i[req, D_RANK] = g, r
        reqs.i[req, TARGET] = reqs.i[req, ISL]
    else:
        p = pick_group(w, groups, ranks, at[PREFILL, 0], at[PREFILL, 1], TURN_P)
        pr = pick_rank(w, classes, groups, ranks, p, w.counters[ROOMS])
        reqs.i[req, P_GROUP], reqs.i[req, P_RANK] = p, pr
        ranks.f[pr, Q_TOKENS] += reqs.i[req, ISL]
        g = pick_group(w, groups, ranks, at[DECODE, 0], at[DECODE, 1], TURN_D)
        r = pick_rank(w, classes, groups, ranks, g, 0)
        reqs.i[req, D_GROUP], reqs.i[req, D_RANK] = g, r
    enqueue(ranks, reqs, r, req, Q_HEAD, Q_TAIL)
    ranks.i[r, Q_LEN] += 1
    return g
