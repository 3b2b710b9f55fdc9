"""The compiled event loop: engine groups step, requests move between them.

Behaviour follows SGLang's scheduler (0.5.15): prefill first, chunk limits per rank, ranks of a group in
lockstep with the slowest, decode admission that gates prefill, queues advanced every few iterations,
results handled one step late. Requests are not touched per token: a decoding request sits in a calendar
cell under the iteration at which it finishes.
"""

from __future__ import annotations

from typing import Any

from simulator.loop_costs import account_decode, decode_gpu, decode_wall, look_1d, look_2d, prefill_wall
from simulator.loop_queues import TRANSFERRED, dequeue, enqueue, enqueue_front, push
from simulator.loop_routing import send
from simulator.loop_state import *

PAGE = 256.0
CLIP_ESTIMATE = 4096.0


@inner
def swa_held(classes: Any, c: int, reqs: Any, ranks: Any, r: int, req: int) -> float:
    """Window-pool tokens a running request holds now: its tail and what grew since the last eviction."""
    if classes.i[c, SWA_INTERVAL] == 0:
        return reqs.swa[req]
    since = max(reqs.i[req, START_ITER], ranks.i[r, EVICTED_AT])
    rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
    return reqs.swa[req] + rate * (ranks.i[r, ITERATION] - since)


@inner
def start_running(classes: Any, c: int, ranks: Any, reqs: Any, r: int, req: int, now: float) -> None:
    """A prefilled request joins the running batch of a rank."""
    width = ranks.calendar.shape[1]
    it = ranks.i[r, ITERATION]
    left = reqs.i[req, ITERS] - reqs.i[req, GENERATED]
    reqs.i[req, START_ITER] = it
    if reqs.t[req, FIRST] < 0:
        reqs.t[req, FIRST] = now
    cell = (it + max(left, 1)) % width
    reqs.link[req] = ranks.calendar[r, cell]
    ranks.calendar[r, cell] = req
    rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
    ranks.i[r, RUNNING] += 1
    ranks.f[r, ACCEPT] += rate
    context = reqs.i[req, ISL] + reqs.i[req, GENERATED] * rate
    ranks.f[r, CONTEXT] += context
    # After a retraction the prompt that was prefilled again is whole tokens.
    ranks.f[r, USED_FULL] += context - reqs.i[req, TARGET]
    ranks.f[r, REMAINING] += min(left * rate, CLIP_ESTIMATE)


@inner
def decode_admit(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> int:
    """Advance a decode worker's queues: hand-overs join, waiting requests get slots and pages.

    A granted request is released to its prefill worker: decode admission gates prefill. The queue is
    first-in first-out and stops at the first request that does not fit. Returns how many joined.
    """
    c, joined = groups.i[g, CLASS], 0
    reserve = classes.i[c, RESERVE]
    waited = now - groups.polled_s[g]
    groups.polled_s[g] = now
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        if ranks.blocked[r] > 0:
            w.totals[c, BLOCKED_SLOTS - 1 + ranks.blocked[r]] += waited / groups.i[g, RANKS]
        while ranks.i[r, R_HEAD] >= 0 and ranks.i[r, RUNNING] < classes.i[c, MAX_RUNNING]:
            start_running(classes, c, ranks, reqs, r, dequeue(ranks, reqs, r, R_HEAD, R_TAIL), now)
            joined += 1
        ranks.blocked[r] = 0
        while ranks.i[r, Q_HEAD] >= 0:
            req = ranks.i[r, Q_HEAD]
            isl = reqs.i[req, ISL]
            free = classes.f[c, FULL] - ranks.f[r, USED_FULL]
            growth = classes.f[c, SWA_RESERVE] * ranks.i[r, ACTIVE]
            if ranks.i[r, ACTIVE] >= classes.i[c, SLOTS]:
                ranks.blocked[r] = 1
            elif isl + reserve > free - max(reserve * ranks.i[r, ACTIVE], reserve):
                ranks.blocked[r] = 2
            elif reqs.swa[req] > classes.f[c, SWA] - ranks.f[r, USED_SWA] - growth:
                ranks.blocked[r] = 3
            if ranks.blocked[r] > 0:
                break
            dequeue(ranks, reqs, r, Q_HEAD, Q_TAIL)
            ranks.i[r, Q_LEN] -= 1
            ranks.i[r, ACTIVE] += 1
            ranks.f[r, USED_FULL] += isl + PAGE / 2
            ranks.f[r, USED_SWA] += reqs.swa[req]
            reqs.t[req, GRANT] = now
            reqs.i[req, TARGET] = isl
            p = reqs.i[req, P_RANK]
            enqueue(ranks, reqs, p, req, Q_HEAD, Q_TAIL)
            ranks.i[p, Q_LEN] += 1
            pg = reqs.i[req, P_GROUP]
            if groups.i[pg, STATE] == IDLE:
                prefill_begin(w, classes, groups, ranks, reqs, pg, now)
    return joined


@inner
def expected_new(reqs: Any, req: int) -> float:
    """Output tokens that admission allows for."""
    left = reqs.i[req, OSL] * (1.0 - reqs.i[req, GENERATED] / max(reqs.i[req, ITERS], 1))
    return min(left, CLIP_ESTIMATE)


@inner
def may_prefill(
    classes: Any, c: int, ranks: Any, reqs: Any, r: int, req: int, need: float, promised: float
) -> bool:
    """Memory and slot conditions for taking `need` prompt tokens of a request into a prefill batch.

    `promised` are the output tokens allowed for requests that the same batch already took.
    """
    fresh = reqs.i[req, PROGRESS] == 0
    free = classes.f[c, FULL] - ranks.f[r, USED_FULL]
    if fresh and ranks.i[r, ACTIVE] >= classes.i[c, MAX_RUNNING]:
        return False
    if classes.i[c, ROLE] == AGGREGATED:
        free_swa = classes.f[c, SWA] - ranks.f[r, USED_SWA]
        if max(need, 128.0) + PAGE > free_swa:
            return False
        if fresh:
            free -= ranks.f[r, REMAINING] * ranks.f[r, NTR] + promised
            return reqs.i[req, TARGET] + expected_new(reqs, req) + PAGE < free
    return need + PAGE < free


@inner
def form_prefill(classes: Any, c: int, ranks: Any, reqs: Any, r: int, now: float) -> int:
    """Build a rank's prefill batch; returns its tokens. Taken requests are chained under C_HEAD."""
    left = classes.i[c, CHUNK]
    left_input = classes.i[c, MAX_PREFILL]
    weighted, promised = 0.0, 0.0
    ranks.i[r, C_HEAD], ranks.i[r, C_TAIL], ranks.i[r, C_TOKENS] = -1, -1, 0
    while ranks.i[r, Q_HEAD] >= 0 and left > 0 and left_input > 0:
        req = ranks.i[r, Q_HEAD]
        rest = reqs.i[req, TARGET] - reqs.i[req, PROGRESS]
        take = min(rest, left)
        if take < rest:
            take = take // 256 * 256
            if take == 0:
                break
        if not may_prefill(classes, c, ranks, reqs, r, req, take, promised):
            break
        dequeue(ranks, reqs, r, Q_HEAD, Q_TAIL)
        ranks.i[r, Q_LEN] -= 1
        if reqs.i[req, PROGRESS] == 0:
            ranks.i[r, ACTIVE] += 1
            if reqs.t[req, PREFILL_START] < 0:
                reqs.t[req, PREFILL_START] = now
        ranks.f[r, USED_FULL] += take
        if classes.i[c, ROLE] == AGGREGATED:
            ranks.f[r, USED_SWA] += take
        weighted += take * (reqs.i[req, PROGRESS] + take / 2)
        reqs.i[req, TAKE] = take
        reqs.i[req, PROGRESS] += take
        enqueue(ranks, reqs, r, req, C_HEAD, C_TAIL)
        ranks.i[r, C_TOKENS] += take
        left -= take
        left_input -= take
        if take < rest:
            break
        promised += expected_new(reqs, req)
    ranks.f[r, C_CONTEXT] = weighted / max(ranks.i[r, C_TOKENS], 1)
    return ranks.i[r, C_TOKENS]


@inner
def form_prefills(
    classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float
) -> tuple[int, float, int]:
    """Build the prefill batches of a worker: all tokens, the slowest rank's seconds, ranks with tokens."""
    c, total, slowest, busy = groups.i[g, CLASS], 0, 0.0, 0
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        tokens = form_prefill(classes, c, ranks, reqs, r, now)
        if tokens > 0:
            total += tokens
            busy += 1
            slowest = max(slowest, look_2d(classes.prefill_rank[c], tokens, ranks.f[r, C_CONTEXT]))
    return total, slowest, busy


@inner
def num_running(groups: Any, ranks: Any, g: int) -> int:
    """Sequences in a worker's next decode step: the running ones and those that leave one step late."""
    running = 0
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        running += ranks.i[r, RUNNING] + ranks.i[r, LINGER]
    return running


@inner
def prefill_begin(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Start the next step of a prefill worker, or leave it idle."""
    c, n = groups.i[g, CLASS], groups.i[g, RANKS]
    total, slowest, busy = form_prefills(classes, groups, ranks, reqs, g, now)
    if total == 0:
        groups.i[g, STATE] = IDLE
        groups.next_s[g] = INFINITY
        return
    gpu = slowest + look_1d(classes.prefill_group[c], total / n)
    wall = prefill_wall(classes, c, gpu)
    groups.i[g, STATE] = IN_PREFILL
    groups.begun_s[g] = now
    groups.next_s[g] = now + wall
    w.totals[c, BUSY_PREFILL] += wall
    w.totals[c, STEPS_PREFILL] += 1
    w.totals[c, TOKENS_PREFILL] += total
    w.totals[c, RANK_STEPS] += n
    w.totals[c, IDLE_RANK_STEPS] += n - busy


@inner
def prefill_end(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Finish a prefill worker's step and start the next.

    The overlapped scheduler launches the next batch before it looks at the results of this one, so the
    hand-over of completed prompts starts one launch later whenever there is a next batch.
    """
    r0, n = groups.i[g, RANK0], groups.i[g, RANKS]
    first = w.counters[DONE_HEAD]
    w.counters[DONE_HEAD] = -1
    for r in range(r0, r0 + n):
        while ranks.i[r, C_HEAD] >= 0:
            req = dequeue(ranks, reqs, r, C_HEAD, C_TAIL)
            ranks.f[r, Q_TOKENS] -= reqs.i[req, TAKE]
            if reqs.i[req, PROGRESS] < reqs.i[req, TARGET]:
                enqueue_front(ranks, reqs, r, req)
            else:
                reqs.link[req] = w.counters[DONE_HEAD]
                w.counters[DONE_HEAD] = req
    req = w.counters[DONE_HEAD]
    w.counters[DONE_HEAD] = first
    prefill_begin(w, classes, groups, ranks, reqs, g, now)
    lag = 0.0
    if groups.i[g, STATE] == IN_PREFILL:
        lag = min(classes.f[groups.i[g, CLASS], LAUNCH], groups.next_s[g] - now)
    while req >= 0:
        following = reqs.link[req]
        reqs.t[req, PREFILL_END] = now
        push(w, now + lag + reqs.transfer_s[req], TRANSFERRED, req)
        req = following


@inner
def transferred(groups: Any, ranks: Any, reqs: Any, req: int, now: float) -> None:
    """KV has arrived: prefill memory is free, the request waits for the decode worker's next poll."""
    p = reqs.i[req, P_RANK]
    ranks.f[p, USED_FULL] -= reqs.i[req, ISL]
    ranks.i[p, ACTIVE] -= 1
    reqs.t[req, READY] = now
    enqueue(ranks, reqs, reqs.i[req, D_RANK], req, R_HEAD, R_TAIL)


@inner
def decode_begin(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Start the next step of a decode worker; its queues advance every few iterations, or when idle."""
    c, running, joined = groups.i[g, CLASS], num_running(groups, ranks, g), 0
    if running == 0 or groups.i[g, STEP_COUNT] % classes.i[c, POLL] == 0:
        joined = decode_admit(w, classes, groups, ranks, reqs, g, now)
        running = num_running(groups, ranks, g)
    if running == 0:
        groups.i[g, STATE] = IDLE
        groups.next_s[g] = INFINITY
        return
    gpu, largest, eager = decode_gpu(classes, c, groups, ranks, g)
    wall = decode_wall(classes, c, gpu, largest, eager)
    if joined > 0:
        wall += classes.f[c, JOIN]
    groups.i[g, STATE] = IN_DECODE
    groups.begun_s[g] = now
    groups.next_s[g] = now + wall
    account_decode(w, groups, ranks, g, c, wall, running, largest)


@inner
def decode_rank_end(w: Any, classes: Any, c: int, ranks: Any, reqs: Any, r: int, now: float) -> None:
    """One decode iteration of a rank is over: contexts grow, finished requests leave one step late."""
    n = ranks.i[r, RUNNING]
    grown = ranks.f[r, ACCEPT]
    ranks.i[r, ITERATION] += 1
    it = ranks.i[r, ITERATION]
    ranks.f[r, CONTEXT] += grown
    ranks.f[r, USED_FULL] += grown - ranks.f[r, LINGER_FULL]
    ranks.f[r, USED_SWA] -= ranks.f[r, LINGER_SWA]
    ranks.f[r, REMAINING] = max(ranks.f[r, REMAINING] - grown, 0.0)
    ranks.i[r, ACTIVE] -= ranks.i[r, LINGER]
    ranks.i[r, LINGER] = 0
    ranks.f[r, LINGER_FULL], ranks.f[r, LINGER_SWA], ranks.f[r, LINGER_CONTEXT] = 0.0, 0.0, 0.0
    interval = classes.i[c, SWA_INTERVAL]
    if interval > 0 and n > 0:
        ranks.f[r, USED_SWA] += grown
        if ranks.f[r, USED_SWA] > classes.f[c, SWA]:
            w.totals[c, OVERFLOWS] += 1
    floor = 0.14 * classes.f[c, RATIO_INIT]
    ranks.f[r, NTR] = max(ranks.f[r, NTR] - (classes.f[c, RATIO_INIT] - floor) / 600.0, floor)
    cell = it % ranks.calendar.shape[1]
    req = ranks.calendar[r, cell]
    ranks.calendar[r, cell] = -1
    while req >= 0:
        following = reqs.link[req]
        finish(w, classes, c, ranks, reqs, r, req, now)
        req = following
    if interval > 0 and it % interval == 0:
        evict(ranks, reqs, r, it)


@inner
def evict(ranks: Any, reqs: Any, r: int, it: int) -> None:
    """Return window pages that left the window, of all running requests at once."""
    grown = 0.0
    for cell in range(ranks.calendar.shape[1]):
        req = ranks.calendar[r, cell]
        while req >= 0:
            since = max(reqs.i[req, START_ITER], ranks.i[r, EVICTED_AT])
            rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
            grown += rate * (it - since)
            req = reqs.link[req]
    ranks.f[r, USED_SWA] -= grown
    ranks.i[r, EVICTED_AT] = it


@inner
def finish(w: Any, classes: Any, c: int, ranks: Any, reqs: Any, r: int, req: int, now: float) -> None:
    """A request's last token is out: the client sends its next one, memory lingers for one more step."""
    rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
    held = swa_held(classes, c, reqs, ranks, r, req)
    full = reqs.i[req, ISL] + (reqs.i[req, OSL] - 1)
    ranks.i[r, RUNNING] -= 1
    ranks.f[r, ACCEPT] -= rate
    ranks.f[r, CONTEXT] -= full
    ranks.i[r, LINGER] += 1
    ranks.f[r, LINGER_FULL] += full + (PAGE / 2 if classes.i[c, ROLE] == DECODE else 0.0)
    ranks.f[r, LINGER_SWA] += held
    ranks.f[r, LINGER_CONTEXT] += full
    complete(w, reqs, req, now)


@inner
def complete(w: Any, reqs: Any, req: int, now: float) -> None:
    """Record the end of a request; a closed-loop client sends another at once."""
    reqs.t[req, DONE] = now
    w.counters[COMPLETED] += 1
    following = w.counters[NEXT_REQUEST]
    if w.counters[MODE] == 0 and following < len(reqs.link):
        w.counters[NEXT_REQUEST] += 1
        send(w, reqs, following, now)
