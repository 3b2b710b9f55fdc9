"""Requests on their way in: the client, the frontend, the router and the choice of a DP rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.loop_prefix import PAGE_SIZE, match
from simulator.loop_queues import ARRIVAL, NEXT_TURN, SESSION_DUE, enqueue, push
from simulator.loop_state import *

SNAPSHOT_STEPS = 15


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
def start_sessions(w: Any, reqs: Any, now: float) -> None:
    """Send what is due while the client may have more in flight."""
    while w.counters[SENT] < w.counters[DUE] and w.counters[LIVE] < w.counters[CAP]:
        session = w.counters[SENT]
        w.counters[SENT] += 1
        w.counters[LIVE] += 1
        send(w, reqs, w.starts[session], now)


@inner
def due(w: Any, reqs: Any, now: float) -> None:
    """Sessions whose arrival has come; the next one's arrival becomes an event."""
    n = len(w.starts)
    while w.counters[DUE] < n and w.start_s[w.counters[DUE]] <= now:
        w.counters[DUE] += 1
    if w.counters[DUE] < n:
        push(w, w.start_s[w.counters[DUE]], SESSION_DUE, -1)
    start_sessions(w, reqs, now)


@inner
def answered(w: Any, reqs: Any, req: int, now: float) -> None:
    """The client has an answer: the session's next turn after some thought, or another session."""
    w.counters[COMPLETED] += 1
    following = reqs.i[req, FOLLOW]
    if following >= 0:
        push(w, now + w.clock[THINK], NEXT_TURN, following)
        return
    w.counters[LIVE] -= 1
    start_sessions(w, reqs, now)


@inner
def pick_warm(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, first: int, count: int, req: int
) -> int:
    """Rank with the least work for a prompt: tokens queued and cached, less those it finds there.

    The rule of Dynamo's KV router with its default weights.
    """
    best, least = -1, INFINITY
    cache, isl, leaf = ranks.cache, reqs.i[req, ISL], reqs.i[req, PROMPT]
    for g in range(first, first + count):
        if groups.i[g, STATE] == DOWN:
            continue
        c = groups.i[g, CLASS]
        for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
            cost = ranks.f[r, Q_TOKENS] + isl
            if classes.i[c, ROLE] == AGGREGATED:
                cost += ranks.f[r, USED_FULL]
            if classes.i[c, RADIX] == 1:
                hit = match(cache, r, leaf)
                if hit >= 0:
                    cost -= cache.depth[hit] // PAGE_SIZE * PAGE_SIZE
            if cost < least:
                best, least = r, cost
    return best


@inner
def group_of(groups: Any, first: int, r: int) -> int:
    """Worker of a rank, searched from `first` on."""
    g = first
    while r >= groups.i[g, RANK0] + groups.i[g, RANKS]:
        g += 1
    return g


@inner
def next_up(groups: Any, first: int, count: int, j: int) -> int:
    """The worker at place `j` of a role or, where it is down, the next one that is not; -1 for none."""
    for k in range(count):
        g = first + (j + k) % count
        if groups.i[g, STATE] != DOWN:
            return g
    return -1


@inner
def pick_group(w: Any, groups: Any, ranks: Any, first: int, count: int, turn: int) -> int:
    """Worker for a new request, or -1: 0 in turn, 2 at random, else fewest queued and active tokens."""
    policy = w.counters[P_POLICY]
    if count == 1:
        return next_up(groups, first, count, 0)
    if policy == 2:
        return next_up(groups, first, count, int(uniform(w) * count))
    start = w.counters[turn] % count
    if policy == 0:
        found = next_up(groups, first, count, start)
        w.counters[turn] = max(found - first, 0) + 1
        return found
    w.counters[turn] += 1
    best, least = -1, INFINITY
    for j in range(count):
        g = first + (start + j) % count
        if groups.i[g, STATE] == DOWN:
            continue
        load = 0.0
        for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
            load += ranks.f[r, Q_TOKENS] + ranks.i[r, ACTIVE]
        if load < least:
            best, least = g, load
    return best


@inner
def pick_rank(w: Any, classes: Any, groups: Any, ranks: Any, g: int, rooms: int, tokens: int) -> int:
    """DP rank inside a worker: at random (random rooms), in turn, or the least loaded as last published."""
    n = groups.i[g, RANKS]
    r0 = groups.i[g, RANK0]
    if n == 1:
        return r0
    if rooms == 1:
        return r0 + int(uniform(w) * n)
    turn = groups.i[g, TURN]
    groups.i[g, TURN] += 1
    balance = classes.i[groups.i[g, CLASS], BALANCE]
    if balance == 0:
        return r0 + turn % n
    best = r0 + turn % n
    for j in range(1, n):
        r = r0 + (turn + j) % n
        if ranks.i[r, SNAPSHOT] < ranks.i[best, SNAPSHOT]:
            best = r
    ranks.i[best, SNAPSHOT] += 1 if balance == 1 else tokens
    return best


@inner
def publish(classes: Any, groups: Any, ranks: Any, g: int) -> None:
    """Ranks publish their load every 15 decode steps; in between the dispatcher adds what it sends."""
    balance = classes.i[groups.i[g, CLASS], BALANCE]
    if balance == 0 or groups.i[g, STEP_COUNT] % SNAPSHOT_STEPS != 0:
        return
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        if balance == 1:
            ranks.i[r, SNAPSHOT] = ranks.i[r, ACTIVE] + ranks.i[r, Q_LEN]
        else:
            ranks.i[r, SNAPSHOT] = int(ranks.f[r, USED_FULL] + ranks.f[r, Q_TOKENS])


@inner
def arrive(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, req: int, now: float) -> int:
    """Route an arrived request; returns the group to wake, or -1 where a role has no worker left."""
    at = w.groups_of
    warm = w.counters[P_POLICY] == 3
    # Tokens that were out before its worker died are prefilled with the prompt.
    rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
    target = reqs.i[req, ISL] + int(reqs.i[req, GENERATED] * rate)
    if at[AGGREGATED, 1] > 0:
        if warm:
            r = pick_warm(w, classes, groups, ranks, reqs, at[AGGREGATED, 0], at[AGGREGATED, 1], req)
            g = group_of(groups, at[AGGREGATED, 0], r) if r >= 0 else -1
        else:
            g = pick_group(w, groups, ranks, at[AGGREGATED, 0], at[AGGREGATED, 1], TURN_D)
            r = pick_rank(w, classes, groups, ranks, g, 0, target) if g >= 0 else -1
        if g < 0:
            return -1
        ranks.f[r, Q_TOKENS] += target
    else:
        if warm:
            pr = pick_warm(w, classes, groups, ranks, reqs, at[PREFILL, 0], at[PREFILL, 1], req)
            p = group_of(groups, at[PREFILL, 0], pr) if pr >= 0 else -1
        else:
            p = pick_group(w, groups, ranks, at[PREFILL, 0], at[PREFILL, 1], TURN_P)
            pr = pick_rank(w, classes, groups, ranks, p, w.counters[ROOMS], target) if p >= 0 else -1
        g = pick_group(w, groups, ranks, at[DECODE, 0], at[DECODE, 1], TURN_D)
        if p < 0 or g < 0:
            return -1
        reqs.i[req, P_GROUP], reqs.i[req, P_RANK] = p, pr
        ranks.f[pr, Q_TOKENS] += target
        r = pick_rank(w, classes, groups, ranks, g, 0, target)
    reqs.t[req, ARRIVE] = now
    reqs.i[req, TARGET] = target
    reqs.i[req, D_GROUP], reqs.i[req, D_RANK] = g, r
    enqueue(ranks, reqs, r, req, Q_HEAD, Q_TAIL)
    ranks.i[r, Q_LEN] += 1
    return g
