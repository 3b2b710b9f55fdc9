"""How far a decode step carries the requests of a rank, in units of its calendar.

A request finishes a fixed number of units after it started. A unit is one step where the draft length
stays; one token where the engine pretends acceptance and all requests of a rank advance by one draw; and
one step at the longest draft where shorter ones are taken at times, which count as shares of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simulator.loop_costs import look_1d
from simulator.loop_state import *


@inner
def hashed(seed: int, worker: int, draw: int, lane: int) -> float:
    """Number in [0, 1) of one draw of one worker (splitmix64 of a counter)."""
    x = np.uint64(seed) + np.uint64(worker) * np.uint64(0xD1B54A32D192ED03)
    x += (np.uint64(draw) * np.uint64(2) + np.uint64(lane)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return float(x >> np.uint64(11)) / 9007199254740992.0


@inner
def drawn_length(w: Any, classes: Any, s: int, ranks: Any, r: int, worker: int) -> int:
    """Tokens that every request of a rank is made to accept in this step.

    The ranks of a worker share the engine's random seed, so that their n-th draws are alike. Source:
    `sample_simulated_acc_len` of SGLang 0.5.15 and 0.5.23.
    """
    draw, longest = ranks.i[r, DRAWS], classes.i[s, STEPS_DRAFTED] + 1
    ranks.i[r, DRAWS] += 1
    first = hashed(w.counters[DRAW_SEED], worker, draw, 0)
    mean = classes.f[s, DRAW_MEAN]
    if classes.i[s, DRAW_METHOD] == MULTINOMIAL:
        angle = 2.0 * math.pi * hashed(w.counters[DRAW_SEED], worker, draw, 1)
        value = mean + math.sqrt(-2.0 * math.log(1.0 - first)) * math.cos(angle)
        rounded: int = math.floor(min(max(value, 1.0), float(longest)) + 0.5)
        return rounded
    value = min(max(mean, 1.0), float(longest))
    lower = int(value)
    return lower + 1 if first < value - lower else lower


@inner
def units_of_step(w: Any, classes: Any, s: int, ranks: Any, r: int, worker: int) -> int:
    """Units by which the calendar of a rank moves on with a step of shape `s`."""
    if classes.i[s, PROGRESS_BY] == ONE_UNIT:
        return 1
    if ranks.i[r, RUNNING] == 0:
        return 0
    if classes.i[s, PROGRESS_BY] == DRAWN_UNITS:
        drawn: int = drawn_length(w, classes, s, ranks, r, worker)
        ranks.i[r, LAST_UNITS] = drawn
        return drawn
    moved = ranks.f[r, UNIT_REST] + look_1d(classes.progress[s], ranks.i[r, RUNNING])
    whole = int(moved)
    ranks.f[r, UNIT_REST] = moved - whole
    return whole
