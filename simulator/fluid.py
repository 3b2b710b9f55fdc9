"""Closed-form steady state of a closed loop: thousands of recipes per second, for screening.

Requests are a fluid: queues are empty unless a resource is saturated, ranks are alike, and the run has
neither start nor end. The event loop agrees with it where those assumptions hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from search_spaces.recipe import Mtp
from simulator import loop_state as ls
from simulator.acceptance import acceptance_law, law_length, mean_length, simulated_length
from simulator.adaptive_tables import steady_shape
from simulator.cost_tables import TOKEN_AXIS
from simulator.loop_costs import decode_wall, look_1d, look_2d, prefill_wall
from simulator.memory import PAGE_TOKENS
from simulator.world import Setting, class_tables

BISECTIONS = 40
SHAPE_ROUNDS = 4
"""Repetitions in which the batch and the draft length that follows from it settle."""


@dataclass(frozen=True)
class FluidEstimate:
    """Steady-state estimate; seconds, and tokens/s per GPU of all GPUs."""

    total_tokens_per_s_per_gpu: float
    tpot_s: float
    ttft_s: float
    requests_per_s: float
    running: float
    """Sequences that decode at a time, over all ranks."""
    in_service: float
    """Requests that decode, prefill or travel; the rest of those in flight wait."""

    @property
    def tokens_per_s_per_user(self) -> float:
        """1 / TPOT."""
        return 1.0 / self.tpot_s


@njit(cache=True)
def _decode_step(classes: Any, c: int, per_rank: float, context: float) -> float:
    """Decode step wall time with `per_rank` sequences on each rank, padded to its graph."""
    limit = classes.bucket.shape[1] - 1
    batch = int(min(max(np.ceil(per_rank), 1.0), limit))
    padded = classes.bucket[c, batch]
    eager = 1 if padded < 0 else 0
    size = batch if padded < 0 else padded
    gpu = look_2d(classes.decode_rank[c], size, context * per_rank / size)
    return decode_wall(classes, c, gpu + look_1d(classes.decode_group[c], per_rank), batch, eager)


@njit(cache=True)
def _decode_rate(classes: Any, c: int, running: float, ranks: float, iters: float, context: float) -> float:
    """Requests per second of decode ranks that hold `running` requests in all."""
    per_rank = running / ranks
    return running / (iters * _decode_step(classes, c, per_rank, context))


@njit(cache=True)
def disaggregated(
    classes: Any,
    p: int,
    d: int,
    load: float,
    isl: float,
    osl: float,
    iters: float,
    extra_s: float,
    cap: float,
    stamp: int = ls.SOURCE_STAMP,
) -> tuple[float, float, float, float]:
    """Request rate, decode step time, time to first token and that without a queue, of two roles.

    Args:
        classes: role constants and tables.
        p: prefill class.
        d: decode class.
        load: requests in flight.
        isl: mean prompt tokens.
        osl: mean output tokens.
        iters: mean decode steps per request.
        extra_s: latency outside the workers.
        cap: most running requests per decode rank.
        stamp: key of the compiled code; leave it alone.
    """
    context = isl + osl / 2
    chunk = classes.i[p, ls.CHUNK]
    gpu = look_2d(classes.prefill_rank[p], chunk, isl / 2) + look_1d(classes.prefill_group[p], chunk)
    full_s = prefill_wall(classes, p, gpu)
    prefill_ranks = classes.i[p, ls.DP] * classes.i[p, ls.WORKERS]
    prefill_rate = prefill_ranks * chunk / full_s / isl
    alone = look_2d(classes.prefill_rank[p], min(isl, chunk), isl / 2)
    alone_s = prefill_wall(classes, p, alone + look_1d(classes.prefill_group[p], isl / classes.i[p, ls.DP]))
    latency = extra_s + alone_s * 1.5
    ranks = float(classes.i[d, ls.DP] * classes.i[d, ls.WORKERS])
    low, high = 1e-3, min(load, cap * ranks)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rate = _decode_rate(classes, d, middle, ranks, iters, context)
        if middle + rate * latency > load or rate > prefill_rate:
            high = middle
        else:
            low = middle
    rate = min(_decode_rate(classes, d, low, ranks, iters, context), prefill_rate)
    step = _decode_step(classes, d, low / ranks, context)
    return rate, step, max(load / rate - iters * step, latency), latency


@njit(cache=True)
def aggregated(
    classes: Any,
    c: int,
    load: float,
    isl: float,
    osl: float,
    iters: float,
    extra_s: float,
    cap: float,
    stamp: int = ls.SOURCE_STAMP,
) -> tuple[float, float, float, float]:
    """The same for workers that prefill and decode in turn; decode waits while any rank prefills."""
    context = isl + osl / 2
    dp = float(classes.i[c, ls.DP])
    ranks = dp * classes.i[c, ls.WORKERS]
    chunk = float(classes.i[c, ls.CHUNK])
    steps = max(np.ceil(isl / chunk), 1.0)
    tokens = min(isl, chunk)
    busy = dp if classes.i[c, ls.DELAYER] == 1 else max(1.0, min(dp, load / ranks / 8))
    gpu = look_2d(classes.prefill_rank[c], tokens, isl / 2)
    gpu += look_1d(classes.prefill_group[c], tokens * busy / dp)
    stall_s = prefill_wall(classes, c, gpu) * steps / busy
    low, high = 1e-3, min(load, cap * ranks)
    rate, wall = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        step = _decode_step(classes, c, middle / ranks, context)
        rate = middle / (iters * step + middle / classes.i[c, ls.WORKERS] * stall_s)
        wall = step / max(1.0 - rate / classes.i[c, ls.WORKERS] * stall_s, 1e-3)
        if middle + rate * (extra_s + stall_s * busy) > load:
            high = middle
        else:
            low = middle
    latency = extra_s + stall_s * busy
    return rate, wall, max(load / rate - iters * wall, latency), latency


class Load(NamedTuple):
    """What an estimate needs of a load, whatever the layout."""

    concurrency: float
    isl: float
    osl: float
    length: float
    """Tokens per decode step."""
    extra_s: float
    """Latency outside the workers, without the hand-over."""
    transfer_s: float

    @property
    def iters(self) -> float:
        """Decode steps per request."""
        return max(self.osl - 1, 1.0) / self.length


def load_of(setting: Setting, mtp: Mtp | None) -> Load:
    """The load of a setting under some drafting; the setting's recipe is not looked at."""
    workload, host = setting.workload, setting.host
    isl, osl = workload.mean_isl, workload.mean_osl
    return Load(
        float(workload.concurrency),
        isl,
        osl,
        mean_length(setting.calibration, setting.stack, workload, mtp),
        host.request_latency_s + host.frontend_request_s + host.frontend_token_s * isl,
        setting.calibration.transfer_latency_s,
    )


def most_running(classes: Any, d: int, load: Load) -> float:
    """Most running requests of a rank that decodes, by slots and both pools."""
    full = classes.f[d, ls.FULL] / (load.isl + load.osl / 2 + classes.i[d, ls.RESERVE])
    pages = 1.5 + (load.length / 4 if classes.i[d, ls.SWA_INTERVAL] else 0.0)
    swa = classes.f[d, ls.SWA] / (PAGE_TOKENS * pages)
    return float(min(float(classes.i[d, ls.MAX_RUNNING]), full, swa))


def estimate_pair(classes: Any, p: int, d: int, cap: float, load: Load, num_gpus: int) -> FluidEstimate:
    """Steady state of prefill class `p` and decode class `d`, or of one that does both where they are one."""
    c, isl, osl, iters = load.concurrency, load.isl, load.osl, load.iters
    if p != d:
        extra = load.extra_s + load.transfer_s
        rate, step, ttft, latency = disaggregated(classes, p, d, c, isl, osl, iters, extra, cap)
    else:
        rate, step, ttft, latency = aggregated(classes, d, c, isl, osl, iters, load.extra_s, cap)
    return FluidEstimate(
        total_tokens_per_s_per_gpu=rate * (isl + osl) / num_gpus,
        tpot_s=step / load.length,
        ttft_s=ttft,
        requests_per_s=rate,
        running=rate * iters * step,
        in_service=min(rate * (iters * step + latency), c),
    )


def estimate(setting: Setting) -> FluidEstimate:
    """Steady state of a setting.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    classes, roles, _, shape_of = class_tables(setting)
    p, d = (roles.index("prefill"), roles.index("decode")) if setting.recipe.is_disaggregated else (0, 0)
    load = load_of(setting, None)._replace(length=_full_length(setting))

    def steady(row: int, length: float) -> FluidEstimate:
        now = load._replace(length=length)
        first = row if p == d else p
        return estimate_pair(
            classes, first, row, most_running(classes, row, now), now, setting.recipe.num_gpus
        )

    found = steady(d, load.length)
    if not shape_of and classes.i[d, ls.PROGRESS_BY] != ls.UNIT_SHARE:
        return found
    # How many sequences run and how far a step carries them depend on each other.
    for _ in range(SHAPE_ROUNDS):
        batch = found.running / (classes.i[d, ls.DP] * classes.i[d, ls.WORKERS])
        row = steady_shape(setting, shape_of, classes.bucket[d], batch) if shape_of else d
        length = load.length
        if classes.i[row, ls.PROGRESS_BY] == ls.UNIT_SHARE:
            length *= float(np.interp(np.log2(max(batch, 1.0)), np.log2(TOKEN_AXIS), classes.progress[row]))
        elif shape_of:
            assert setting.recipe.mtp is not None
            length = simulated_length(setting.recipe.mtp.fixed_at(int(classes.i[row, ls.STEPS_DRAFTED])))
        found = steady(row, length)
    return found


def _full_length(setting: Setting) -> float:
    """Tokens per step at the longest draft."""
    mtp = setting.recipe.mtp
    if mtp is None or mtp.simulated_accept_length is not None:
        return mean_length(setting.calibration, setting.stack, setting.workload, mtp)
    law = acceptance_law(setting.calibration, setting.stack, setting.workload, mtp)
    return law_length(law, mtp.most_steps)
