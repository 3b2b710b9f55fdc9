"""The compiled loop's memory: what a request holds, what may enter a prefill batch, what is evicted."""

from __future__ import annotations

from typing import Any

from simulator.loop_prefix import hit_tokens, lock, make_room, match
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
    saved = hit_tokens(ranks.cache, reqs, req) if classes.i[c, RADIX] == 1 else 0
    free = classes.f[c, FULL] - ranks.f[r, USED_FULL]
    if fresh and ranks.i[r, ACTIVE] >= classes.i[c, MAX_RUNNING]:
        return False
    if classes.i[c, ROLE] == AGGREGATED:
        free_swa = classes.f[c, SWA] - ranks.f[r, USED_SWA]
        if max(need, 128.0) + PAGE > free_swa:
            return False
        if fresh:
            free -= ranks.f[r, REMAINING] * ranks.f[r, NTR] + promised
            return reqs.i[req, TARGET] - saved + expected_new(reqs, req) + PAGE < free
    return need + PAGE < free


@inner
def tidy(classes: Any, c: int, ranks: Any, r: int) -> None:
    """Evict cached tokens that are in the way; a prefill worker's window pool also holds a chunk at work."""
    window = classes.f[c, SWA]
    if classes.i[c, ROLE] == PREFILL:
        window -= ranks.i[r, C_TOKENS]
    make_room(ranks.cache, ranks, r, classes.f[c, FULL], window)


@inner
def look_up(w: Any, classes: Any, c: int, ranks: Any, reqs: Any, r: int, req: int) -> int:
    """Cached tokens a new prompt starts from; the path to them is locked."""
    if classes.i[c, RADIX] == 0 or reqs.i[req, PROGRESS] > 0:
        return 0
    reqs.i[req, HIT] = match(ranks.cache, r, reqs.i[req, PROMPT])
    hit = hit_tokens(ranks.cache, reqs, req)
    if hit == 0:
        reqs.i[req, HIT] = -1
        return 0
    lock(ranks.cache, ranks, r, reqs.i[req, HIT])
    return hit


@inner
def evict(ranks: Any, r: int, it: int) -> None:
    """Return window pages that left the window, of all running requests at once."""
    ranks.f[r, USED_SWA] -= ranks.f[r, GROWN]
    ranks.f[r, GROWN] = 0.0
    ranks.i[r, EVICTED_AT] = it
