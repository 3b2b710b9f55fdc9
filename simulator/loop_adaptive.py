"""The compiled loop's choice of draft length: each batch size has a tier that follows acceptance.

Source: `adaptive_spec_params` and `eagle_worker_v2` of SGLang 0.5.15 and 0.5.23, whose rules agree. The
engine has them only without attention DP: a worker is one rank.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from simulator.loop_progress import hashed
from simulator.loop_state import *


@inner
def tier_of(w: Any, classes: Any, c: int, batch: int) -> int:
    """The tier of a batch, by the size of the graph that it is padded to."""
    padded = classes.bucket[c, min(batch, classes.bucket.shape[1] - 1)]
    size = padded if padded > 0 else batch
    found = 0
    for tier in range(1, len(w.drafting.batch)):
        if w.drafting.batch[tier] <= size:
            found = tier
    return found


@inner
def choose_shape(w: Any, classes: Any, groups: Any, ranks: Any, g: int, c: int) -> None:
    """Take up the draft length of the batch that is about to run, and learn from a step before it.

    The overlapped scheduler launches a step before it has read the results of the one before.
    """
    drafting = w.drafting
    if len(drafting.batch) == 0 or classes.i[c, ADAPTS] == 0:
        return
    r = groups.i[g, RANK0]
    batch = ranks.i[r, RUNNING] + ranks.i[r, LINGER]
    if batch == 0:
        return
    if classes.i[c, OVERLAP] == 0:
        learn(w, classes, groups, ranks, g, c, r)
    tier = tier_of(w, classes, c, batch)
    steps = drafting.candidates[tier, drafting.chosen[g, tier]]
    if classes.i[c, OVERLAP] == 1:
        learn(w, classes, groups, ranks, g, c, r)
    groups.i[g, SHAPE] = drafting.shape_of[steps]
    drafting.last[g, 0], drafting.last[g, 1] = batch, steps


@inner
def learn(w: Any, classes: Any, groups: Any, ranks: Any, g: int, c: int, r: int) -> None:
    """Feed the drafts accepted in a worker's last step to the tier of its batch."""
    drafting = w.drafting
    batch, steps = drafting.last[g, 0], drafting.last[g, 1]
    if batch == 0:
        return
    drafting.last[g, 0] = 0
    tier = tier_of(w, classes, c, batch)
    if drafting.candidates[tier, drafting.chosen[g, tier]] > 0:
        accepted = float(ranks.i[r, LAST_UNITS] - 1)
        if classes.i[groups.i[g, SHAPE], PROGRESS_BY] == UNIT_SHARE:
            accepted = sampled(w, ranks, r, batch, steps)
        alpha = drafting.rule[tier, EMA_ALPHA]
        drafting.mean[g, tier] = (1.0 - alpha) * drafting.mean[g, tier] + alpha * accepted
    drafting.seen[g, tier] += 1
    since = drafting.seen[g, tier] - int(drafting.rule[tier, WARMUP])
    if since > 0 and since % int(drafting.rule[tier, EVERY]) == 0:
        decide(drafting, g, tier)


@inner
def sampled(w: Any, ranks: Any, r: int, batch: int, steps: int) -> float:
    """Mean number of accepted drafts over the requests of one step."""
    total = 0
    for _ in range(batch):
        chance = hashed(w.counters[DRAW_SEED], r, ranks.i[r, DRAWS], 0)
        ranks.i[r, DRAWS] += 1
        k = 0
        while k < steps and chance < w.drafting.alive[k]:
            k += 1
        total += k
    return total / batch


@inner
def decide(drafting: Any, g: int, tier: int) -> None:
    """Move a tier's draft length down or up by the running mean of accepted drafts."""
    steps, mean, now = drafting.candidates[tier], drafting.mean[g, tier], drafting.chosen[g, tier]
    last = drafting.num_candidates[tier] - 1
    at = now
    if steps[now] == 0:
        at = min(now + 1, last)
        if steps[at] > 0 and mean < 0:
            drafting.mean[g, tier] = steps[at] - 1.0
        drafting.chosen[g, tier] = at
        return
    while at > 0:
        below = steps[at - 1]
        drop = 0.5 if below == 0 else below - 0.5
        if mean > drop + drafting.rule[tier, DOWN_BY]:
            break
        at -= 1
    if at == now:
        while at < last and mean > steps[at] - 0.5 + drafting.rule[tier, UP_BY]:
            at += 1
    coefficient = drafting.rule[tier, CEILING]
    if coefficient > 0:
        ceiling = max(1, math.ceil(mean * coefficient))
        if steps[at] > ceiling and steps[at] <= steps[now]:
            while at > 0 and steps[at] > ceiling:
                at -= 1
    drafting.chosen[g, tier] = at


@njit(cache=True)
def settle(drafting: Any, tier: int, expected: Any, stamp: int = SOURCE_STAMP) -> int:
    """Draft steps at which a tier of the first worker stays if acceptance is as expected at each length.

    Args:
        drafting: tiers, which are moved.
        tier: the one to settle.
        expected: [draft steps] accepted drafts per request.
        stamp: key of the compiled code; leave it alone.
    """
    for _ in range(2 * drafting.num_candidates[tier]):
        before = drafting.chosen[0, tier]
        drafting.mean[0, tier] = expected[drafting.candidates[tier, before]]
        decide(drafting, 0, tier)
        if drafting.chosen[0, tier] == before:
            break
    return int(drafting.candidates[tier, drafting.chosen[0, tier]])
