"""The compiled event loop: engine groups step, requests move between them.

Behaviour follows SGLang's scheduler (0.5.15): prefill first, chunk limits per rank, ranks of a group in
lockstep with the slowest, decode admission that gates prefill, queues advanced every few iterations,
results handled one step late. Requests are not touched per token: a decoding request sits in a calendar
cell under the iteration at which it finishes.
"""

from __future__ import annotations

from typing import Any

from simulator.loop_adaptive import choose_shape
from simulator.loop_costs import (
    account_decode,
    compile_stall,
    decode_gpu,
    decode_wall,
    look_1d,
    look_2d,
    prefill_wall,
)
from simulator.loop_memory import (
    CLIP_ESTIMATE,
    PAGE,
    evict,
    expected_new,
    look_up,
    may_prefill,
    swa_held,
    tidy,
)
from simulator.loop_prefix import insert_answer, insert_prompt, release_prompt, unlock
from simulator.loop_progress import units_of_step
from simulator.loop_queues import TRANSFERRED, dequeue, enqueue, enqueue_front, push
from simulator.loop_retraction import retract_overflow
from simulator.loop_routing import answered, publish
from simulator.loop_state import *


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
            prompt = reqs.i[req, TARGET]
            left = min(reqs.i[req, OSL] - (prompt - reqs.i[req, ISL]), classes.i[c, CLIP])
            need = max(prompt + reserve, prompt + left - ranks.f[r, CONTEXT])
            free = classes.f[c, FULL] - ranks.f[r, USED_FULL]
            growth = classes.f[c, SWA_RESERVE] * ranks.i[r, ACTIVE]
            if ranks.i[r, ACTIVE] >= classes.i[c, SLOTS]:
                ranks.blocked[r] = 1
            elif need > free - max(reserve * ranks.i[r, ACTIVE], reserve):
                ranks.blocked[r] = 2
            elif reqs.swa[req] > classes.f[c, SWA] - ranks.f[r, USED_SWA] - growth:
                ranks.blocked[r] = 3
            if ranks.blocked[r] > 0:
                break
            dequeue(ranks, reqs, r, Q_HEAD, Q_TAIL)
            ranks.i[r, Q_LEN] -= 1
            ranks.i[r, ACTIVE] += 1
            ranks.f[r, USED_FULL] += prompt + PAGE / 2
            ranks.f[r, USED_SWA] += reqs.swa[req]
            if reqs.t[req, GRANT] < 0:
                reqs.t[req, GRANT] = now
            p = reqs.i[req, P_RANK]
            enqueue(ranks, reqs, p, req, Q_HEAD, Q_TAIL)
            ranks.i[p, Q_LEN] += 1
            pg = reqs.i[req, P_GROUP]
            if groups.i[pg, STATE] == IDLE:
                prefill_begin(w, classes, groups, ranks, reqs, pg, now)
    return joined


@inner
def form_prefill(w: Any, classes: Any, c: int, ranks: Any, reqs: Any, r: int, now: float) -> int:
    """Build a rank's prefill batch; returns its tokens. Taken requests are chained under C_HEAD."""
    left = classes.i[c, CHUNK]
    left_input = classes.i[c, MAX_PREFILL]
    page = classes.i[c, CHUNK_PAGE]
    weighted, promised = 0.0, 0.0
    ranks.i[r, C_HEAD], ranks.i[r, C_TAIL], ranks.i[r, C_TOKENS] = -1, -1, 0
    while ranks.i[r, Q_HEAD] >= 0 and left > 0 and left_input > 0:
        req = ranks.i[r, Q_HEAD]
        hit = look_up(w, classes, c, ranks, reqs, r, req)
        rest = reqs.i[req, TARGET] - reqs.i[req, PROGRESS] - hit
        take = min(rest, left)
        if take < rest:
            take = take // page * page
        if take == 0 or not may_prefill(classes, c, ranks, reqs, r, req, take, promised):
            if hit > 0:
                unlock(ranks.cache, ranks, r, reqs.i[req, HIT])
            break
        dequeue(ranks, reqs, r, Q_HEAD, Q_TAIL)
        ranks.i[r, Q_LEN] -= 1
        if reqs.i[req, PROGRESS] == 0:
            ranks.i[r, ACTIVE] += 1
            reqs.i[req, PROGRESS] = hit
            ranks.f[r, Q_TOKENS] -= hit
            w.totals[c, HIT_TOKENS] += hit
            w.totals[c, LOOKED_UP] += reqs.i[req, TARGET]
            if reqs.t[req, PREFILL_START] < 0 and classes.i[c, ROLE] == AGGREGATED:
                reqs.t[req, PREFILL_START] = now
        ranks.f[r, USED_FULL] += take
        if classes.i[c, ROLE] == AGGREGATED:
            ranks.f[r, USED_SWA] += take
        weighted += take * (reqs.i[req, PROGRESS] + take / 2)
        reqs.i[req, TAKE] = take
        reqs.i[req, PROGRESS] += take
        enqueue(ranks, reqs, r, req, C_HEAD, C_TAIL)
        ranks.i[r, C_TOKENS] += take
        paged = -(-take // page) * page  # the engine's budgets count whole pages
        left -= paged
        left_input -= paged
        if take < rest:
            break
        promised += expected_new(reqs, req)
    ranks.f[r, C_CONTEXT] = weighted / max(ranks.i[r, C_TOKENS], 1)
    if classes.i[c, RADIX] == 1:
        tidy(classes, c, ranks, r)
    return ranks.i[r, C_TOKENS]


@inner
def form_prefills(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float
) -> tuple[int, float, int]:
    """Build the prefill batches of a worker: all tokens, the slowest rank's seconds, ranks with tokens."""
    c, total, slowest, busy = groups.i[g, CLASS], 0, 0.0, 0
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        tokens = form_prefill(w, classes, c, ranks, reqs, r, now)
        if tokens > 0:
            total += tokens
            busy += 1
            slowest = max(slowest, look_2d(classes.prefill_rank[c], tokens, ranks.f[r, C_CONTEXT]))
    return total, slowest, busy


@inner
def form_next(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Build a prefill worker's next batch from what waits now."""
    c, n = groups.i[g, CLASS], groups.i[g, RANKS]
    total, slowest, busy = form_prefills(w, classes, groups, ranks, reqs, g, now)
    groups.i[g, FORMED], groups.i[g, FORMED_RANKS] = total, busy
    groups.formed_at_s[g] = now
    if total > 0:
        gpu = slowest + look_1d(classes.prefill_group[c], total / n)
        groups.formed_s[g] = prefill_wall(classes, c, gpu) + compile_stall(classes, c, groups, ranks, g)


@inner
def launched_s(classes: Any, c: int, groups: Any, g: int, begun: float, wall: float) -> float:
    """When the host has launched a prefill step: it can be only so many kernels ahead of the GPU."""
    return max(begun + classes.f[c, LAUNCHED_SHARE] * wall, groups.formed_at_s[g] + classes.f[c, LAUNCH])


@inner
def prefill_begin(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Start the next step of a prefill worker, or leave it idle.

    The overlapped scheduler builds the next batch when this one is launched. What arrives later is not in
    the next step but in the one after, unless nothing was waiting when the next was built.
    """
    c, n = groups.i[g, CLASS], groups.i[g, RANKS]
    if groups.i[g, FORMED] == 0:
        form_next(w, classes, groups, ranks, reqs, g, now)
    total, wall = groups.i[g, FORMED], groups.formed_s[g]
    if total == 0:
        groups.i[g, STATE] = IDLE
        groups.next_s[g] = INFINITY
        return
    groups.i[g, STATE] = IN_PREFILL
    groups.begun_s[g] = now
    groups.next_s[g] = groups.gpu_end_s[g] = now + wall
    w.totals[c, BUSY_PREFILL] += wall
    w.totals[c, STEPS_PREFILL] += 1
    w.totals[c, TOKENS_PREFILL] += total
    w.totals[c, RANK_STEPS] += n
    w.totals[c, IDLE_RANK_STEPS] += n - groups.i[g, FORMED_RANKS]
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + n):
        while ranks.i[r, C_HEAD] >= 0:
            req = dequeue(ranks, reqs, r, C_HEAD, C_TAIL)
            ranks.f[r, Q_TOKENS] -= reqs.i[req, TAKE]
            if reqs.t[req, PREFILL_START] < 0:
                reqs.t[req, PREFILL_START] = now
            if reqs.i[req, PROGRESS] < reqs.i[req, TARGET]:
                enqueue_front(ranks, reqs, r, req)
            else:
                enqueue(ranks, reqs, r, req, X_HEAD, X_TAIL)
    groups.i[g, FORMED] = 0
    if classes.i[c, OVERLAP] == 1 and classes.i[c, STAGES] == 1:
        looks = launched_s(classes, c, groups, g, now, wall)
        if looks <= now:
            form_next(w, classes, groups, ranks, reqs, g, now)
        elif looks < now + wall:
            groups.next_s[g] = looks


@inner
def prefill_end(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Finish a prefill worker's step: prompts that are computed leave for decode; then start the next.

    A host that launches another batch looks at the results of this one after it (SGLang 0.5.15,
    `event_loop_overlap_disagg_prefill`), and then sends while it launches the one after that. Sending takes
    the longer, the more of that time launches wait for the GPU.
    """
    c = groups.i[g, CLASS]
    if now < groups.gpu_end_s[g]:
        form_next(w, classes, groups, ranks, reqs, g, now)
        groups.next_s[g] = groups.gpu_end_s[g]
        return
    # The step was the first pipeline stage's; the others take as long, one after another.
    lag = (classes.i[c, STAGES] - 1) * (now - groups.begun_s[g])
    if groups.i[g, FORMED] > 0:
        seen = launched_s(classes, c, groups, g, now, groups.formed_s[g])
        blocked = max(groups.formed_s[g] - classes.f[c, LAUNCH], 0.0)
        lag = max(seen - now, 0.0) + classes.f[c, SENDING] * blocked
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        while ranks.i[r, X_HEAD] >= 0:
            req = dequeue(ranks, reqs, r, X_HEAD, X_TAIL)
            if classes.i[c, RADIX] == 1:
                insert_prompt(ranks.cache, ranks, reqs, r, req)
                tidy(classes, c, ranks, r)
            if reqs.t[req, PREFILL_END] < 0:
                reqs.t[req, PREFILL_END] = now
            push(w, now + lag + reqs.transfer_s[req], TRANSFERRED, req)
    prefill_begin(w, classes, groups, ranks, reqs, g, now)


@inner
def busy_until(classes: Any, groups: Any, g: int) -> float:
    """When the step that a worker is in ends."""
    if classes.i[groups.i[g, CLASS], ROLE] == PREFILL:
        return groups.gpu_end_s[g]
    return groups.next_s[g]


@inner
def transferred(classes: Any, groups: Any, ranks: Any, reqs: Any, req: int, now: float) -> None:
    """KV has arrived: prefill memory is free, the request waits for the decode worker's next poll."""
    p = reqs.i[req, P_RANK]
    ranks.f[p, USED_FULL] -= reqs.i[req, TARGET]
    if classes.i[groups.i[reqs.i[req, P_GROUP], CLASS], RADIX] == 1:
        ranks.f[p, USED_FULL] += reqs.i[req, ISL]
        release_prompt(ranks.cache, ranks, reqs, p, req)
    ranks.i[p, ACTIVE] -= 1
    if reqs.t[req, READY] < 0:
        reqs.t[req, READY] = now
    enqueue(ranks, reqs, reqs.i[req, D_RANK], req, R_HEAD, R_TAIL)


@inner
def decode_begin(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Start the next step of a decode worker; its queues advance every few iterations, or when idle."""
    c, joined = groups.i[g, CLASS], 0
    if groups.i[g, STATE] == IDLE or groups.i[g, STEP_COUNT] % classes.i[c, POLL] == 0:
        joined = decode_admit(w, classes, groups, ranks, reqs, g, now)
    if classes.i[c, CRASHES] == 0:
        retract_overflow(w, classes, c, groups, ranks, reqs, g)
    choose_shape(w, classes, groups, ranks, g, c)
    gpu, largest, eager, running, context = decode_gpu(classes, groups.i[g, SHAPE], groups, ranks, g)
    if running == 0 and joined == 0 and groups.i[g, STATE] != IDLE:
        # An empty worker looks at its queues whatever the polling interval.
        joined = decode_admit(w, classes, groups, ranks, reqs, g, now)
        choose_shape(w, classes, groups, ranks, g, c)
        gpu, largest, eager, running, context = decode_gpu(classes, groups.i[g, SHAPE], groups, ranks, g)
    if running == 0:
        groups.i[g, STATE] = IDLE
        groups.next_s[g] = INFINITY
        return
    wall = decode_wall(classes, groups.i[g, SHAPE], gpu, largest, eager)
    if joined > 0:
        wall += classes.f[c, JOIN]
    groups.i[g, STATE] = IN_DECODE
    groups.begun_s[g] = now
    groups.next_s[g] = now + wall
    account_decode(w, groups, g, c, wall, running, largest, context)
    publish(classes, groups, ranks, g)


@inner
def release_lingering(ranks: Any, r: int) -> None:
    """Requests that finished earlier leave: their memory and slots are free."""
    ranks.f[r, USED_FULL] -= ranks.f[r, LINGER_FULL]
    ranks.f[r, USED_SWA] -= ranks.f[r, LINGER_SWA]
    ranks.i[r, ACTIVE] -= ranks.i[r, LINGER]
    ranks.i[r, LINGER] = 0
    ranks.f[r, LINGER_FULL], ranks.f[r, LINGER_SWA], ranks.f[r, LINGER_CONTEXT] = 0.0, 0.0, 0.0


@inner
def decode_rank_end(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, r: int, now: float
) -> None:
    """One decode step of a rank is over: contexts grow, finished requests leave.

    Under the overlapped scheduler they leave one step late.
    """
    c = groups.i[g, CLASS]
    units = units_of_step(w, classes, groups.i[g, SHAPE], ranks, r, groups.i[g, RANK0])
    ranks.i[r, FORWARDS] += 1
    if units == 0:
        release_lingering(ranks, r)
    for unit in range(units):
        grow(w, classes, c, ranks, r, unit)
        cell = ranks.i[r, ITERATION] % ranks.calendar.shape[1]
        req = ranks.calendar[r, cell]
        ranks.calendar[r, cell] = -1
        while req >= 0:
            following = reqs.link[req]
            finish(w, classes, c, ranks, reqs, r, req, now)
            req = following
    floor = 0.14 * classes.f[c, RATIO_INIT]
    ranks.f[r, NTR] = max(ranks.f[r, NTR] - (classes.f[c, RATIO_INIT] - floor) / 600.0, floor)
    if classes.i[c, OVERLAP] == 0:
        release_lingering(ranks, r)
    interval = classes.i[c, SWA_INTERVAL]
    if interval > 0 and ranks.i[r, FORWARDS] % interval == 0:
        evict(ranks, r, ranks.i[r, ITERATION])
    if classes.i[c, RADIX] == 1:
        tidy(classes, c, ranks, r)


@inner
def grow(w: Any, classes: Any, c: int, ranks: Any, r: int, unit: int) -> None:
    """All requests of a rank move on by one unit of the calendar, the step's first if `unit` is 0."""
    grown = ranks.f[r, ACCEPT]
    ranks.i[r, ITERATION] += 1
    ranks.f[r, CONTEXT] += grown
    ranks.f[r, USED_FULL] += grown
    ranks.f[r, REMAINING] = max(ranks.f[r, REMAINING] - grown, 0.0)
    if unit == 0:
        release_lingering(ranks, r)
    if ranks.f[r, USED_FULL] > classes.f[c, FULL]:
        w.totals[c, FULL_OVERFLOWS] += 1
    if classes.i[c, SWA_INTERVAL] > 0 and ranks.i[r, RUNNING] > 0:
        ranks.f[r, USED_SWA] += grown
        ranks.f[r, GROWN] += grown
        if ranks.f[r, USED_SWA] > classes.f[c, SWA]:
            w.totals[c, OVERFLOWS] += 1


@inner
def finish(w: Any, classes: Any, c: int, ranks: Any, reqs: Any, r: int, req: int, now: float) -> None:
    """A request's last token is out: the client sends its next one.

    The overlapped scheduler learns of it when the next step runs already, so the request takes part in that.
    """
    rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
    held = swa_held(classes, c, reqs, ranks, r, req)
    full = reqs.i[req, ISL] + (reqs.i[req, OSL] - 1)
    ranks.i[r, RUNNING] -= 1
    ranks.f[r, ACCEPT] -= rate
    ranks.f[r, CONTEXT] -= full
    ranks.i[r, LINGER] += 1
    ranks.f[r, LINGER_FULL] += full + (PAGE / 2 if classes.i[c, ROLE] == DECODE else 0.0)
    ranks.f[r, LINGER_SWA] += held
    ranks.f[r, GROWN] -= held - reqs.swa[req]
    ranks.f[r, LINGER_CONTEXT] += full
    if classes.i[c, RADIX] == 1:
        hand_over(ranks, reqs, r, req, held)
    reqs.t[req, DONE] = now
    answered(w, reqs, req, now)


@inner
def hand_over(ranks: Any, reqs: Any, r: int, req: int, held: float) -> None:
    """A finished request's tokens pass to the radix cache, where only eviction frees them."""
    ranks.f[r, LINGER_FULL] -= reqs.i[req, ISL]
    if reqs.i[req, ANSWER] >= 0:
        answer = reqs.i[req, OSL] - 1
        ranks.f[r, LINGER_FULL] -= answer
        ranks.f[r, USED_FULL] -= answer
        insert_answer(ranks.cache, ranks, reqs, r, req, max(held - reqs.i[req, KEPT], 1.0))
    release_prompt(ranks.cache, ranks, reqs, r, req)
