"""The compiled loop when a worker dies: its requests let go of what they hold and are sent again."""

from __future__ import annotations

from typing import Any

from numba import njit

from simulator.loop_kernels import busy_until, decode_begin, prefill_begin
from simulator.loop_memory import PAGE
from simulator.loop_prefix import hit_tokens, release_prompt, unlock
from simulator.loop_queues import ARRIVAL, TRANSFERRED, dequeue, enqueue, pop, push, sift_down
from simulator.loop_state import *

FIRST_OF_ALL = -1.0
"""Time of events that are about to be taken out of the heap."""


@inner
def send_again(w: Any, reqs: Any, req: int, keep: int, done: int, at: float) -> None:
    """A request starts over on another worker, with or without the `done` decode steps behind it."""
    w.counters[RESENT] += 1
    reqs.i[req, PROGRESS] = 0
    reqs.i[req, HIT] = -1
    reqs.i[req, GENERATED] = done if keep == 1 else 0
    if keep == 0:
        for column in range(GRANT, NUM_TIMES):
            reqs.t[req, column] = -1.0
    reqs.i[req, P_GROUP] = reqs.i[req, P_RANK] = reqs.i[req, D_GROUP] = reqs.i[req, D_RANK] = -1
    push(w, at, ARRIVAL, req)


@inner
def leave_decode(ranks: Any, reqs: Any, req: int) -> None:
    """A granted request that does not decode yet gives back its slot and pages (`decode_admit`)."""
    r = reqs.i[req, D_RANK]
    ranks.i[r, ACTIVE] -= 1
    ranks.f[r, USED_FULL] -= reqs.i[req, TARGET] + PAGE / 2
    ranks.f[r, USED_SWA] -= reqs.swa[req]


@inner
def leave_prefill(classes: Any, groups: Any, ranks: Any, reqs: Any, req: int, computing: int) -> None:
    """A request in a prefill rank's queue or batch gives back what it holds there.

    `computing` is 1 in the batch that is formed and not started: its tokens still count as queued.
    """
    r, c = reqs.i[req, P_RANK], groups.i[reqs.i[req, P_GROUP], CLASS]
    progress = reqs.i[req, PROGRESS]
    ranks.f[r, Q_TOKENS] -= reqs.i[req, TARGET] - progress + (reqs.i[req, TAKE] if computing == 1 else 0)
    if progress == 0:
        return
    ranks.i[r, ACTIVE] -= 1
    hit = 0
    if classes.i[c, RADIX] == 1 and reqs.i[req, HIT] >= 0:
        hit = hit_tokens(ranks.cache, reqs, req)
        unlock(ranks.cache, ranks, r, reqs.i[req, HIT])
    ranks.f[r, USED_FULL] -= progress - hit


@inner
def leave_transfer(classes: Any, groups: Any, ranks: Any, reqs: Any, req: int) -> None:
    """A prompt on its way frees the prefill memory that it was read from (`transferred`)."""
    p = reqs.i[req, P_RANK]
    ranks.f[p, USED_FULL] -= reqs.i[req, TARGET]
    if classes.i[groups.i[reqs.i[req, P_GROUP], CLASS], RADIX] == 1:
        ranks.f[p, USED_FULL] += reqs.i[req, ISL]
        release_prompt(ranks.cache, ranks, reqs, p, req)
    ranks.i[p, ACTIVE] -= 1


@inner
def empty_queue(
    w: Any, ranks: Any, reqs: Any, r: int, role: int, head: int, tail: int, keep: int, at: float
) -> None:
    """Send all requests of a dead rank's queue again; what they hold on the other role is freed."""
    while ranks.i[r, head] >= 0:
        req = dequeue(ranks, reqs, r, head, tail)
        if role == PREFILL:
            leave_decode(ranks, reqs, req)
        elif role == DECODE and head == Q_HEAD:
            ranks.f[reqs.i[req, P_RANK], Q_TOKENS] -= reqs.i[req, TARGET]
        send_again(w, reqs, req, keep, reqs.i[req, GENERATED], at)


@inner
def empty_rank(w: Any, ranks: Any, reqs: Any, r: int, role: int, keep: int, at: float) -> None:
    """Send all requests that wait, run or are being computed on a dead rank again."""
    empty_queue(w, ranks, reqs, r, role, X_HEAD, X_TAIL, keep, at)
    empty_queue(w, ranks, reqs, r, role, C_HEAD, C_TAIL, keep, at)
    empty_queue(w, ranks, reqs, r, role, Q_HEAD, Q_TAIL, keep, at)
    empty_queue(w, ranks, reqs, r, role, R_HEAD, R_TAIL, keep, at)
    for cell in range(ranks.calendar.shape[1]):
        req = ranks.calendar[r, cell]
        ranks.calendar[r, cell] = -1
        while req >= 0:
            following = reqs.link[req]
            done = reqs.i[req, GENERATED] + ranks.i[r, ITERATION] - reqs.i[req, START_ITER]
            send_again(w, reqs, req, keep, done, at)
            req = following


@inner
def blank_rank(classes: Any, c: int, ranks: Any, r: int) -> None:
    """A rank as it starts: empty pools and caches."""
    for column in range(NUM_RANK_INTS):
        ranks.i[r, column] = 0
    for column in range(NUM_RANK_FLOATS):
        ranks.f[r, column] = 0.0
    ranks.i[r, Q_HEAD] = ranks.i[r, Q_TAIL] = ranks.i[r, R_HEAD] = ranks.i[r, R_TAIL] = -1
    ranks.i[r, C_HEAD] = ranks.i[r, C_TAIL] = ranks.i[r, X_HEAD] = ranks.i[r, X_TAIL] = -1
    ranks.f[r, NTR] = classes.f[c, RATIO_INIT]
    ranks.blocked[r] = 0
    cache, nodes = ranks.cache, len(ranks.cache.parent)
    for x in range(nodes + 1):
        end = nodes if x == nodes else -1
        cache.full_next[r, x] = cache.full_prev[r, x] = cache.swa_next[r, x] = cache.swa_prev[r, x] = end
        if x < nodes:
            cache.present[r, x] = cache.locks[r, x] = cache.children[r, x] = 0
            cache.owners[r, x] = cache.window[r, x] = 0


@inner
def sift_queue(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, r: int, head: int, tail: int,
    dead: int, keep: int, at: float,
) -> None:  # fmt: skip
    """Take the requests that need a dead worker out of another rank's queue; the others keep their order."""
    role = classes.i[groups.i[dead, CLASS], ROLE]
    req = ranks.i[r, head]
    ranks.i[r, head] = ranks.i[r, tail] = -1
    while req >= 0:
        following = reqs.link[req]
        if role == PREFILL and reqs.i[req, P_GROUP] == dead:
            # It waits for decode memory; the dead worker's own queue does not know it yet.
            ranks.i[r, Q_LEN] -= 1
            send_again(w, reqs, req, keep, reqs.i[req, GENERATED], at)
        elif role == DECODE and reqs.i[req, D_GROUP] == dead:
            if head == Q_HEAD:
                ranks.i[r, Q_LEN] -= 1
            leave_prefill(classes, groups, ranks, reqs, req, 1 if head == C_HEAD else 0)
            send_again(w, reqs, req, keep, reqs.i[req, GENERATED], at)
        else:
            enqueue(ranks, reqs, r, req, head, tail)
        req = following


@inner
def sift_transfers(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, dead: int, keep: int, at: float
) -> None:
    """Take the hand-overs from or to a dead worker out of the events."""
    role = classes.i[groups.i[dead, CLASS], ROLE]
    lost = -1
    for k in range(w.counters[HEAP_SIZE]):
        req = w.heap_req[k]
        if w.heap_kind[k] != TRANSFERRED or (reqs.i[req, P_GROUP] != dead and reqs.i[req, D_GROUP] != dead):
            continue
        w.heap_time[k] = FIRST_OF_ALL
        reqs.link[req] = lost
        lost = req
        if role == PREFILL:
            leave_decode(ranks, reqs, req)
        else:
            leave_transfer(classes, groups, ranks, reqs, req)
    for k in range(w.counters[HEAP_SIZE] // 2 - 1, -1, -1):
        sift_down(w, k, w.counters[HEAP_SIZE])
    while lost >= 0:
        following = reqs.link[lost]
        pop(w)
        send_again(w, reqs, lost, keep, reqs.i[lost, GENERATED], at)
        lost = following


@inner
def stop_step(w: Any, classes: Any, groups: Any, g: int) -> None:
    """A dead worker's step ends now: what lies ahead of it was no work."""
    state = groups.i[g, STATE]
    if state != IDLE and state != DRAINED:
        column = BUSY_MIXED
        if state == IN_PREFILL:
            column = BUSY_PREFILL
        elif state == IN_DECODE:
            column = BUSY_DECODE
        w.totals[groups.i[g, CLASS], column] -= busy_until(classes, groups, g) - w.clock[NOW]
    groups.i[g, STATE] = DOWN
    w.drafting.last[g, 0] = 0
    for tier in range(len(w.drafting.batch)):
        w.drafting.seen[g, tier] = 0
    groups.i[g, FORMED] = groups.i[g, FORMED_RANKS] = groups.i[g, COMPILED] = 0
    groups.next_s[g] = INFINITY


@njit(cache=True, _nrt=False)
def bring_up(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, stamp: int = SOURCE_STAMP
) -> None:
    """A worker that died is back: it takes what was sent back to it while all of its role were gone.

    Args:
        w: what all groups share.
        classes: constants of each role.
        groups: workers.
        ranks: their ranks.
        reqs: requests.
        g: the worker.
        stamp: key of the compiled code; leave it alone.
    """
    groups.i[g, STATE] = IDLE
    if classes.i[groups.i[g, CLASS], ROLE] == PREFILL:
        prefill_begin(w, classes, groups, ranks, reqs, g, w.clock[NOW])


@njit(cache=True, _nrt=False)
def take_down(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, delay_s: float, keep: int,
    stamp: int = SOURCE_STAMP,
) -> None:  # fmt: skip
    """A worker dies now: every request that needs it is sent again, and what it held elsewhere is freed.

    Args:
        w: what all groups share.
        classes: constants of each role.
        groups: workers.
        ranks: their ranks.
        reqs: requests.
        g: the worker.
        delay_s: seconds until its requests are sent again.
        keep: 1 to keep the tokens that are out, 0 to compute all anew.
        stamp: key of the compiled code; leave it alone.
    """
    now, role = w.clock[NOW], classes.i[groups.i[g, CLASS], ROLE]
    at = now + delay_s
    stop_step(w, classes, groups, g)
    if role != AGGREGATED:
        sift_transfers(w, classes, groups, ranks, reqs, g, keep, at)
        other = DECODE if role == PREFILL else PREFILL
        for o in range(w.groups_of[other, 0], w.groups_of[other, 0] + w.groups_of[other, 1]):
            for r in range(groups.i[o, RANK0], groups.i[o, RANK0] + groups.i[o, RANKS]):
                sift_queue(w, classes, groups, ranks, reqs, r, Q_HEAD, Q_TAIL, g, keep, at)
                if role == DECODE:
                    sift_queue(w, classes, groups, ranks, reqs, r, C_HEAD, C_TAIL, g, keep, at)
                    sift_queue(w, classes, groups, ranks, reqs, r, X_HEAD, X_TAIL, g, keep, at)
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        empty_rank(w, ranks, reqs, r, role, keep, at)
        blank_rank(classes, groups.i[g, CLASS], ranks, r)
    for o in range(len(groups.next_s)):
        if groups.i[o, STATE] == IDLE:
            kind = classes.i[groups.i[o, CLASS], ROLE]
            if kind == DECODE:
                decode_begin(w, classes, groups, ranks, reqs, o, now)
            elif kind == PREFILL:
                prefill_begin(w, classes, groups, ranks, reqs, o, now)
