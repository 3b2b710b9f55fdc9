"""Step times inside the compiled loop: look-ups in the cost tables, and the host around the GPU."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

from simulator.loop_state import *


@inner
def at(axis_log2_min: int, points: int, value: float) -> float:
    """Fractional index of `value` on a log axis, clamped."""
    x = (math.log2(max(value, 1e-9)) - axis_log2_min) * PER_OCTAVE
    return min(max(x, 0.0), points - 1.000001)


@inner
def look_1d(table: Any, value: float) -> float:
    """Linear interpolation on the token axis; below one token, in proportion."""
    x = at(0, TOKEN_POINTS, value)
    j = int(x)
    return table[j] + (table[j + 1] - table[j]) * (x - j)


@inner
def look_2d(table: Any, value: float, context: float) -> float:
    """Bilinear interpolation on the token and context axes."""
    x = at(0, TOKEN_POINTS, value)
    y = at(CONTEXT_LOG2_MIN, CONTEXT_POINTS, context)
    j, k = int(x), int(y)
    u, v = x - j, y - k
    low = table[j, k] + (table[j, k + 1] - table[j, k]) * v
    high = table[j + 1, k] + (table[j + 1, k + 1] - table[j + 1, k]) * v
    return low + (high - low) * u


@inner
def prefill_wall(classes: Any, c: int, gpu: float) -> float:
    """Wall time of an eager step (`step_cost.prefill_step_s`)."""
    launch = classes.f[c, LAUNCH]
    return max(gpu + classes.f[c, EXPOSED] * launch, launch) + classes.f[c, PREFILL_BASE]


@njit(cache=True)
def kernel_variant(sms: int, tokens: int) -> int:
    """Bit of the split-K variant of the hyper-connection kernel that a batch of tokens takes.

    SGLang splits over the multiprocessors that 64-token tiles leave free (`mhc_pre`, 0.5.15); the variants
    of one and of two tiles share a bit.
    """
    return 1 << min(max(sms // ((tokens + 63) // 64), 1), 62)


@inner
def compile_stall(classes: Any, c: int, groups: Any, ranks: Any, g: int) -> float:
    """Seconds a worker stands still because a prompt batch needs kernels compiled first.

    Of the hyper-connection kernel it is known which batch needs which variant. Other first uses are one
    standstill of a worker that was just started, when it is halfway through its prompts.
    """
    if classes.f[c, COMPILE] == 0.0 and classes.f[c, FIRST_USE] == 0.0:
        return 0.0
    needed, total, stall = 0, 0, 0.0
    for r in range(groups.i[g, RANK0], groups.i[g, RANK0] + groups.i[g, RANKS]):
        if ranks.i[r, C_TOKENS] > 0:
            total += ranks.i[r, C_TOKENS]
            needed |= kernel_variant(classes.i[c, SMS], ranks.i[r, C_TOKENS])
    before, due = groups.i[g, PROMPTED], classes.i[c, FIRST_USE_AT]
    groups.i[g, PROMPTED] = before + total
    if before < due <= before + total:
        stall += classes.f[c, FIRST_USE]
    known = groups.i[g, COMPILED] | classes.i[c, COMPILED_AT_START]
    groups.i[g, COMPILED] = known | needed
    if needed & ~known != 0:
        stall += classes.f[c, COMPILE]
    return stall


@inner
def decode_gpu(classes: Any, c: int, groups: Any, ranks: Any, g: int) -> tuple[float, int, int, int, float]:
    """GPU seconds of a decode step, the largest batch of a rank, 1 when it runs eagerly, sequences, context.

    A rank with no more sequences and no more context than another is no slower, so few ranks are looked up.
    """
    r0, n = groups.i[g, RANK0], groups.i[g, RANKS]
    largest, total, context_sum, longest = 0, 0, 0.0, 0.0
    for r in range(r0, r0 + n):
        b = ranks.i[r, RUNNING] + ranks.i[r, LINGER]
        largest = max(largest, b)
        total += b
        context_sum += ranks.f[r, CONTEXT]
        longest = max(longest, ranks.f[r, CONTEXT] + ranks.f[r, LINGER_CONTEXT])
    eager, padded = 0, classes.bucket[c, min(largest, classes.bucket.shape[1] - 1)]
    if padded < 0:
        eager, padded = 1, largest
    if total == 0:
        return 0.0, 0, 0, 0, 0.0
    slowest = 0.0
    if classes.i[c, LOCAL_BUCKETS] == 0 or eager == 1:
        slowest = look_2d(classes.decode_rank[c], padded, longest / padded)
    else:
        most, deepest = 0, 0.0
        for r in range(r0, r0 + n):
            size = classes.bucket[c, ranks.i[r, RUNNING] + ranks.i[r, LINGER]]
            if size <= 0:
                continue
            context = (ranks.f[r, CONTEXT] + ranks.f[r, LINGER_CONTEXT]) / size
            if size > most or context > deepest:
                seconds = look_2d(classes.decode_rank[c], size, context)
                if seconds > slowest:
                    slowest, most, deepest = seconds, size, context
    return slowest + look_1d(classes.decode_group[c], total / n), largest, eager, total, context_sum


@inner
def decode_wall(classes: Any, c: int, gpu: float, largest: int, eager: int) -> float:
    """Wall time of a decode step (`step_cost.decode_step_s`)."""
    host = classes.f[c, HOST_BASE] + classes.f[c, HOST_SEQ] * largest
    if eager == 1:
        host += classes.f[c, EAGER]
    busy = gpu + classes.f[c, GAP] + classes.f[c, SEQ_EXPOSED] * largest
    if classes.i[c, OVERLAP] == 0:
        return busy + host + classes.f[c, EXTEND]
    return max(busy, host) + classes.f[c, EXTEND]


@inner
def account_decode(
    w: Any, groups: Any, g: int, c: int, wall: float, running: int, largest: int, context: float
) -> None:
    """Add a decode step to the totals."""
    groups.i[g, STEP_COUNT] += 1
    w.totals[c, BUSY_DECODE] += wall
    w.totals[c, STEPS_DECODE] += 1
    w.totals[c, BATCH_SUM] += running
    w.totals[c, CONTEXT_SUM] += context
    w.totals[c, RANK_STEPS] += groups.i[g, RANKS]
    w.totals[c, RANK_MAX_SUM] += largest
