"""How much of a prediction's uncertainty comes from fitted parameters and from seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from planner.posterior import NORMAL_80, draws
from simulator.intervals import BANDED, Interval, Spread
from simulator.run import run
from simulator.simulate import Prediction, metrics_of
from simulator.world import Setting

MOST = 4
"""Draws of either kind by default."""
REQUESTS = 40_000
"""Requests that default draws may simulate in all: about three seconds of one core."""


def default_draws(setting: Setting) -> int:
    """As many draws as take about three seconds, at most `MOST`; none without a posterior."""
    if setting.calibration.posterior is None:
        return 0
    return min(MOST, REQUESTS // (2 * setting.workload.measured_requests))


def with_spread(
    prediction: Prediction, setting: Setting, count: int, on_done: Callable[[], None] = lambda: None
) -> Prediction:
    """The prediction with the spread of `count` posterior draws and `count` further seeds.

    Error bands already hold both, as far as they are alike between recipes. Where the parameters alone
    move this recipe by more than its band, the interval is widened to that: it leans on what the points
    do not pin.

    Raises:
        MissingData: the calibration has no posterior.
    """
    if count < 1:
        return prediction
    found: dict[str, list[dict[str, float]]] = {"parameters": [], "seeds": []}
    for calibration in draws(setting.calibration, count, setting.seed):
        found["parameters"].append(metrics_of(run(replace(setting, calibration=calibration))))
        on_done()
    for step in range(1, count + 1):
        found["seeds"].append(metrics_of(run(replace(setting, seed=setting.seed + step))))
        on_done()
    spread = {
        name: Spread(
            draws=count,
            **{kind: _half_width(name, prediction, metrics) for kind, metrics in found.items()},
        )
        for name in BANDED
    }
    return prediction.model_copy(update={"spread": spread, "intervals": _widened(prediction, spread)})


def _half_width(name: str, prediction: Prediction, others: list[dict[str, float]]) -> float:
    """80 % half-width of a metric about the prediction, from its mean square log deviation."""
    away = np.log([metrics[name] / prediction.metrics[name] for metrics in others])
    return math.expm1(NORMAL_80 * float(np.sqrt(np.mean(away**2))))


def _widened(prediction: Prediction, spread: dict[str, Spread]) -> dict[str, Interval]:
    found = dict(prediction.intervals)
    for name, interval in prediction.intervals.items():
        value, factor = prediction.metrics[name], 1 + max(spread[name].parameters, spread[name].seeds)
        low, high = min(interval.low, value / factor), max(interval.high, value * factor)
        found[name] = Interval(low=low, high=high)
    return found
