"""The compiled loop's way out when pools are full: requests give up their memory and start over."""

from __future__ import annotations

from typing import Any

from simulator.loop_memory import CLIP_ESTIMATE, PAGE, swa_held
from simulator.loop_prefix import release_prompt
from simulator.loop_queues import enqueue_front
from simulator.loop_state import *

RETRACT_DECODE_STEPS = 20.0


@inner
def reassign(w: Any, groups: Any, ranks: Any, reqs: Any, req: int) -> None:
    """A request whose prefill worker died since takes the rank with the fewest queued tokens that is up."""
    best = -1
    for g in range(w.groups_of[PREFILL, 0], w.groups_of[PREFILL, 0] + w.groups_of[PREFILL, 1]):
        if groups.i[g, STATE] == DOWN:
            continue
        for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
            if best < 0 or ranks.f[r, Q_TOKENS] < ranks.f[best, Q_TOKENS]:
                best = r
                reqs.i[req, P_GROUP], reqs.i[req, P_RANK] = g, r


@inner
def retract(w: Any, classes: Any, c: int, groups: Any, ranks: Any, reqs: Any, r: int) -> None:
    """Send the running request with the fewest output tokens back to the queue, to be prefilled again."""
    victim, cell_of, before = -1, -1, -1
    decoded, promised = 0.0, 1.0
    for cell in range(ranks.calendar.shape[1]):
        previous = -1
        req = ranks.calendar[r, cell]
        while req >= 0:
            rate = (reqs.i[req, OSL] - 1) / max(reqs.i[req, ITERS], 1)
            decoded += rate * (ranks.i[r, ITERATION] - reqs.i[req, START_ITER] + reqs.i[req, GENERATED])
            promised += reqs.i[req, OSL]
            if victim < 0 or reqs.i[req, START_ITER] > reqs.i[victim, START_ITER]:
                victim, cell_of, before = req, cell, previous
            previous = req
            req = reqs.link[req]
    if victim < 0:
        return
    if before < 0:
        ranks.calendar[r, cell_of] = reqs.link[victim]
    else:
        reqs.link[before] = reqs.link[victim]
    rate = (reqs.i[victim, OSL] - 1) / max(reqs.i[victim, ITERS], 1)
    done = ranks.i[r, ITERATION] - reqs.i[victim, START_ITER] + reqs.i[victim, GENERATED]
    held = swa_held(classes, c, reqs, ranks, r, victim)
    ranks.f[r, USED_SWA] -= held
    ranks.f[r, GROWN] -= held - reqs.swa[victim]
    ranks.f[r, USED_FULL] -= reqs.i[victim, ISL] + done * rate
    if classes.i[c, ROLE] == DECODE:
        ranks.f[r, USED_FULL] -= PAGE / 2
    if classes.i[c, RADIX] == 1:
        ranks.f[r, USED_FULL] += reqs.i[victim, ISL]
        release_prompt(ranks.cache, ranks, reqs, r, victim)
    ranks.f[r, CONTEXT] -= reqs.i[victim, ISL] + done * rate
    ranks.f[r, ACCEPT] -= rate
    left = (reqs.i[victim, ITERS] - done) * rate
    ranks.f[r, REMAINING] = max(ranks.f[r, REMAINING] - min(left, CLIP_ESTIMATE), 0.0)
    ranks.f[r, NTR] = min(1.0, (decoded + RETRACT_DECODE_STEPS * ranks.i[r, RUNNING]) / promised)
    ranks.i[r, RUNNING] -= 1
    ranks.i[r, ACTIVE] -= 1
    reqs.i[victim, GENERATED] = done
    reqs.i[victim, PROGRESS] = 0
    reqs.i[victim, TARGET] = reqs.i[victim, ISL] + int(done * rate)
    enqueue_front(ranks, reqs, r, victim)
    again = r
    if classes.i[c, ROLE] == DECODE:
        if groups.i[reqs.i[victim, P_GROUP], STATE] == DOWN:
            reassign(w, groups, ranks, reqs, victim)
        again = reqs.i[victim, P_RANK]
    ranks.f[again, Q_TOKENS] += reqs.i[victim, TARGET]
    w.totals[c, RETRACTIONS] += 1


@inner
def retract_overflow(w: Any, classes: Any, c: int, groups: Any, ranks: Any, reqs: Any, g: int) -> None:
    """Retract on every rank of a worker until its next step fits the pools."""
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        units = classes.f[c, UNITS_PER_STEP]
        while ranks.i[r, RUNNING] > 1 and (
            ranks.f[r, USED_FULL] + units * ranks.f[r, ACCEPT] > classes.f[c, FULL]
            or ranks.f[r, USED_SWA] + units * ranks.f[r, ACCEPT] > classes.f[c, SWA]
        ):
            retract(w, classes, c, groups, ranks, reqs, r)
