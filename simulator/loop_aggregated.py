"""The compiled event loop, continued: workers that prefill and decode, and the loop itself."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

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
from simulator.loop_kernels import (
    busy_until,
    decode_begin,
    decode_rank_end,
    form_prefills,
    prefill_begin,
    prefill_end,
    release_lingering,
    start_running,
    transferred,
)
from simulator.loop_memory import PAGE, may_prefill, tidy
from simulator.loop_prefix import insert_prompt, release_prompt
from simulator.loop_queues import ARRIVAL, NEXT_TURN, SESSION_DUE, dequeue, enqueue_front, pop, push
from simulator.loop_retraction import retract_overflow
from simulator.loop_routing import answered, arrive, due, publish, send
from simulator.loop_state import *

RUNNING_ON, FINISHED, STUCK = 0, 1, 2
DELAYER_PASSES = 29
RETRY_S = 1.0
"""Seconds after which a request that found no worker is sent again."""


@inner
def held_back(classes: Any, c: int, groups: Any, ranks: Any, reqs: Any, g: int) -> bool:
    """Whether this pass must not prefill: the delayer, or the decode rounds owed after a prefill."""
    able, running = 0, 0
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        running += ranks.i[r, RUNNING]
        req = ranks.i[r, Q_HEAD]
        if req >= 0:
            need = min(reqs.i[req, TARGET] - reqs.i[req, PROGRESS], classes.i[c, CHUNK])
            if may_prefill(classes, c, ranks, reqs, r, req, need, 0.0):
                able += 1
    if running == 0:
        return False
    if classes.i[c, INTERVAL] > 0 and groups.i[g, DECODE_STREAK] < classes.i[c, INTERVAL]:
        return True
    if classes.i[c, DELAYER] == 1 and 0 < able < groups.i[g, RANKS]:
        groups.i[g, PREFILL_AGE] += 1
        if groups.i[g, PREFILL_AGE] <= DELAYER_PASSES:
            return True
    groups.i[g, PREFILL_AGE] = 0
    return False


@inner
def aggregated_begin(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Start the next step of a worker that does both: prefill wherever anything is admissible."""
    c = groups.i[g, CLASS]
    groups.begun_s[g] = now
    if not held_back(classes, c, groups, ranks, reqs, g):
        total, slowest, busy = form_prefills(w, classes, groups, ranks, reqs, g, now)
        if total > 0:
            begin_mixed(w, classes, groups, ranks, g, now, total, slowest, busy)
            return
    retract_overflow(w, classes, c, groups, ranks, reqs, g)
    choose_shape(w, classes, groups, ranks, g, c)
    gpu, largest, eager, running, context = decode_gpu(classes, groups.i[g, SHAPE], groups, ranks, g)
    if running == 0:
        groups.i[g, STATE] = IDLE
        groups.next_s[g] = INFINITY
        return
    groups.i[g, DECODE_STREAK] += 1
    wall = decode_wall(classes, groups.i[g, SHAPE], gpu, largest, eager)
    groups.i[g, STATE] = IN_DECODE
    groups.next_s[g] = now + wall
    account_decode(w, groups, g, c, wall, running, largest, context)
    publish(classes, groups, ranks, g)


@inner
def begin_mixed(
    w: Any, classes: Any, groups: Any, ranks: Any, g: int, now: float, total: int, slowest: float, busy: int
) -> None:
    """Start a step in which some ranks prefill; without drafts the others decode in the same pass."""
    c = groups.i[g, CLASS]
    gpu, decoding = mixed_gpu(classes, groups, ranks, g, total, slowest)
    wall = prefill_wall(classes, c, gpu) + compile_stall(classes, c, groups, ranks, g)
    wall += interruption(classes, c, groups, ranks, g)
    groups.next_s[g] = now + wall
    account_mixed(w, groups, g, wall, total, decoding, busy)


@inner
def interruption(classes: Any, c: int, groups: Any, ranks: Any, g: int) -> float:
    """What a prefill between decode steps takes beyond its own time (`measured_tables.Interruption`)."""
    decoding = 0
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        decoding = max(decoding, ranks.i[r, RUNNING])
    if decoding == 0:
        return 0.0
    return max(0.0, classes.f[c, AMONG] + classes.f[c, AMONG_SEQ] * decoding)


@inner
def mixed_gpu(classes: Any, groups: Any, ranks: Any, g: int, total: int, slowest: float) -> tuple[float, int]:
    """GPU seconds of a step in which `total` prompt tokens are computed, and the sequences that decode."""
    c, r0, n = groups.i[g, CLASS], groups.i[g, RANK0], groups.i[g, RANKS]
    decoding = 0
    if classes.i[c, SPEC] == 0:
        for r in range(r0, r0 + n):
            if ranks.i[r, RUNNING] > 0 and (ranks.i[r, C_TOKENS] == 0 or classes.i[c, MIXED] == 1):
                b = ranks.i[r, RUNNING]
                decoding += b
                slowest = max(slowest, look_2d(classes.decode_rank[c], b, ranks.f[r, CONTEXT] / b))
    return slowest + look_1d(classes.prefill_group[c], (total + decoding) / n), decoding


@inner
def account_mixed(w: Any, groups: Any, g: int, wall: float, total: int, decoding: int, busy: int) -> None:
    """Note a step with prompt tokens: the worker's state, and the totals."""
    c, n = groups.i[g, CLASS], groups.i[g, RANKS]
    groups.i[g, STATE] = IN_MIXED if decoding > 0 else IN_PREFILL
    groups.i[g, DECODE_STREAK] = 0
    w.totals[c, BUSY_MIXED if decoding > 0 else BUSY_PREFILL] += wall
    w.totals[c, STEPS_PREFILL] += 1
    w.totals[c, TOKENS_PREFILL] += total
    w.totals[c, RANK_STEPS] += n
    w.totals[c, IDLE_RANK_STEPS] += n - busy


@inner
def prompts_wait(classes: Any, c: int, groups: Any, ranks: Any, reqs: Any, g: int) -> bool:
    """Whether the next step computes prompt tokens: of a prompt cut short in this one, or of a new one."""
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        tail = ranks.i[r, C_TAIL] if ranks.i[r, C_HEAD] >= 0 else -1
        if tail >= 0 and reqs.i[tail, PROGRESS] < reqs.i[tail, TARGET]:
            return True
        req = ranks.i[r, Q_HEAD]
        if req >= 0:
            need = min(reqs.i[req, TARGET] - reqs.i[req, PROGRESS], classes.i[c, CHUNK])
            if may_prefill(classes, c, ranks, reqs, r, req, need, 0.0):
                return True
    return False


@inner
def pipelined_turn(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """One turn of an overlapped scheduler: form and launch a step, then wait for the one before it.

    The host launches a step while the GPU computes the one before; only then it looks at that one's results,
    and after that at what has arrived. So a step that takes the host longer than the GPU, as eager prefill of
    few tokens does, hides behind the step before it, and tokens of a step come out no earlier than the
    launch of the next one ends. Requests that finish take part in one more step.

    Where launches wait, as with drafts, a step is formed as early and launched when the one before has ended.
    """
    c, state = groups.i[g, CLASS], groups.i[g, STATE]
    pending = state != IDLE and state != DRAINED
    prompts = prompts_wait(classes, c, groups, ranks, reqs, g)
    after_prompts = state in (IN_PREFILL, IN_MIXED)
    turn = classes.f[c, PREFILL_TURN if prompts or after_prompts else DECODE_TURN]
    gpu_free = groups.gpu_end_s[g]
    waits = classes.i[c, PIPELINED] == LAUNCHES_WAIT
    begun = max(gpu_free, now) if waits else now
    launched = begun + turn + classes.f[c, LAUNCH if prompts else DECODE_LAUNCH]
    if pending:
        running = 0
        for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
            running += ranks.i[r, RUNNING]
        follows = prompts or after_prompts or running > 0
        aggregated_end(w, classes, groups, ranks, reqs, g, max(launched if follows else now, gpu_free))
        if state == IN_PREFILL:
            for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
                release_lingering(ranks, r)
    gpu = pipelined_begin(w, classes, groups, ranks, reqs, g, now, max(gpu_free, now + turn))
    if gpu < 0.0:
        groups.i[g, STATE] = DRAINED if pending else IDLE
        groups.next_s[g] = max(gpu_free, now) if pending else INFINITY
        return
    prefill = groups.i[g, STATE] != IN_DECODE
    launched = begun + turn + classes.f[c, LAUNCH if prefill else DECODE_LAUNCH]
    first = classes.f[c, FIRST_WAIT] if prefill else 0.0
    groups.gpu_end_s[g] = max(max(gpu_free, now + turn + first) + gpu, launched)
    groups.next_s[g] = max(groups.gpu_end_s[g] if waits and prefill else launched, gpu_free)


@inner
def pipelined_begin(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float, start: float
) -> float:
    """Form the next step, which the GPU can begin at `start`; returns its GPU seconds, -1 for none."""
    c = groups.i[g, CLASS]
    groups.begun_s[g] = now
    if not held_back(classes, c, groups, ranks, reqs, g):
        total, slowest, busy = form_prefills(w, classes, groups, ranks, reqs, g, now)
        if total > 0:
            gpu, decoding = mixed_gpu(classes, groups, ranks, g, total, slowest)
            gpu += interruption(classes, c, groups, ranks, g)
            wall = max(gpu, now + classes.f[c, PREFILL_TURN] + classes.f[c, LAUNCH] - start)
            account_mixed(w, groups, g, wall, total, decoding, busy)
            return gpu
    retract_overflow(w, classes, c, groups, ranks, reqs, g)
    gpu, largest, _, running, context = decode_gpu(classes, c, groups, ranks, g)
    if running == 0:
        return -1.0
    groups.i[g, DECODE_STREAK] += 1
    groups.i[g, STATE] = IN_DECODE
    account_decode(w, groups, g, c, gpu, running, largest, context)
    publish(classes, groups, ranks, g)
    return gpu


@inner
def aggregated_end(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """Finish a step of a worker that does both."""
    c, state = groups.i[g, CLASS], groups.i[g, STATE]
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        prefilled = ranks.i[r, C_TOKENS] if state != IN_DECODE else 0
        if state == IN_DECODE or (state == IN_MIXED and (prefilled == 0 or classes.i[c, MIXED] == 1)):
            decode_rank_end(w, classes, groups, ranks, reqs, g, r, now)
        if prefilled == 0:
            continue
        while ranks.i[r, C_HEAD] >= 0:
            req = dequeue(ranks, reqs, r, C_HEAD, C_TAIL)
            ranks.f[r, USED_SWA] -= reqs.i[req, TAKE]
            ranks.f[r, Q_TOKENS] -= reqs.i[req, TAKE]
            if reqs.i[req, PROGRESS] < reqs.i[req, TARGET]:
                enqueue_front(ranks, reqs, r, req)
                continue
            if reqs.t[req, PREFILL_END] < 0:
                reqs.t[req, PREFILL_END] = now
            prefilled_prompt(w, classes, c, ranks, reqs, r, req, now)
        ranks.i[r, C_TOKENS] = 0


@inner
def prefilled_prompt(
    w: Any, classes: Any, c: int, ranks: Any, reqs: Any, r: int, req: int, now: float
) -> None:
    """A prompt is computed: it decodes, or is done if one token was asked for."""
    radix = classes.i[c, RADIX] == 1
    if radix:
        if classes.i[c, KEPT_WINDOW] == 1:
            reqs.swa[req] = max(reqs.swa[req], math.ceil(reqs.i[req, TAKE] / PAGE) * PAGE)
        reqs.i[req, KEPT] = int(reqs.swa[req])
        insert_prompt(ranks.cache, ranks, reqs, r, req)
    ranks.f[r, USED_SWA] += reqs.swa[req]
    if reqs.i[req, OSL] > 1:
        start_running(classes, c, ranks, reqs, r, req, now)
    else:
        reqs.t[req, FIRST] = reqs.t[req, DONE] = now
        ranks.i[r, ACTIVE] -= 1
        ranks.f[r, USED_SWA] -= reqs.swa[req]
        if radix:
            release_prompt(ranks.cache, ranks, reqs, r, req)
        else:
            ranks.f[r, USED_FULL] -= reqs.i[req, ISL]
        answered(w, reqs, req, now)
    if radix:
        tidy(classes, c, ranks, r)


@inner
def step_end(w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, g: int, now: float) -> None:
    """A group's step is over; start its next."""
    c = groups.i[g, CLASS]
    role = classes.i[c, ROLE]
    if role == PREFILL:
        prefill_end(w, classes, groups, ranks, reqs, g, now)
    elif role == DECODE:
        for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
            decode_rank_end(w, classes, groups, ranks, reqs, g, r, now)
        decode_begin(w, classes, groups, ranks, reqs, g, now)
    elif classes.i[c, PIPELINED] != SERIAL:
        pipelined_turn(w, classes, groups, ranks, reqs, g, now)
    else:
        aggregated_end(w, classes, groups, ranks, reqs, g, now)
        aggregated_begin(w, classes, groups, ranks, reqs, g, now)


@inner
def earliest(groups: Any) -> int:
    """The worker whose step ends first."""
    first = 0
    for g in range(1, len(groups.next_s)):
        if groups.next_s[g] < groups.next_s[first]:
            first = g
    return first


@inner
def cut_off(w: Any, classes: Any, groups: Any) -> None:
    """Steps count as busy from their start; take back what lies beyond the end of the run."""
    for g in range(len(groups.next_s)):
        if groups.i[g, STATE] != IDLE and groups.i[g, STATE] != DOWN and groups.i[g, STATE] != DRAINED:
            column = BUSY_MIXED
            if groups.i[g, STATE] == IN_PREFILL:
                column = BUSY_PREFILL
            elif groups.i[g, STATE] == IN_DECODE:
                column = BUSY_DECODE
            w.totals[groups.i[g, CLASS], column] -= busy_until(classes, groups, g) - w.clock[NOW]
            groups.next_s[g] = w.clock[NOW]


@njit(cache=True, _nrt=False)
def advance(
    w: Any, classes: Any, groups: Any, ranks: Any, reqs: Any, until: float, stamp: int = SOURCE_STAMP
) -> int:
    """Run all events up to `until`; returns whether work goes on, is finished or can never finish.

    Leave `stamp` alone.
    """
    total = len(reqs.link)
    if w.counters[SEQUENCE] == 0:
        due(w, reqs, 0.0)
    while w.counters[COMPLETED] < total:
        first = earliest(groups)
        step_s = groups.next_s[first]
        event_s = w.heap_time[0] if w.counters[HEAP_SIZE] > 0 else INFINITY
        now = min(step_s, event_s)
        if now == INFINITY:
            return STUCK
        if now > until:
            w.clock[NOW] = until
            return RUNNING_ON
        w.clock[NOW] = now
        if step_s < event_s:
            step_end(w, classes, groups, ranks, reqs, first, now)
            continue
        kind, req = w.heap_kind[0], w.heap_req[0]
        pop(w)
        if kind == NEXT_TURN:
            send(w, reqs, req, now)
            continue
        if kind == SESSION_DUE:
            due(w, reqs, now)
            continue
        if kind == ARRIVAL:
            g = arrive(w, classes, groups, ranks, reqs, req, now)
            if g < 0:
                push(w, now + RETRY_S, ARRIVAL, req)
                continue
        else:
            transferred(classes, groups, ranks, reqs, req, now)
            g = reqs.i[req, D_GROUP]
            p = reqs.i[req, P_GROUP]
            if groups.i[p, STATE] == IDLE:
                prefill_begin(w, classes, groups, ranks, reqs, p, now)
        if groups.i[g, STATE] == IDLE:
            if classes.i[groups.i[g, CLASS], ROLE] == DECODE:
                decode_begin(w, classes, groups, ranks, reqs, g, now)
            elif classes.i[groups.i[g, CLASS], PIPELINED] != SERIAL:
                pipelined_turn(w, classes, groups, ranks, reqs, g, now)
            else:
                aggregated_begin(w, classes, groups, ranks, reqs, g, now)
    cut_off(w, classes, groups)
    return FINISHED
