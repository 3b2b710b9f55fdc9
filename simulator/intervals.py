"""80 % intervals of a prediction, looked up in the calibration's error bands.

An interval says: of deployments like this one that the fit had not seen, 80 % were measured within it. It
covers missing mechanisms, parameters, seeds and the repeat noise of a measurement (1 to 5 %). It does not
cover a recipe unlike all published ones, nor a machine that is itself slower than its kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from search_spaces.base import Noun
from search_spaces.recipe import Recipe
from search_spaces.stack import StackVersion
from simulator.calibration import Calibration
from simulator.uncertainty import ErrorBand, ErrorBands

HIGH_CONCURRENCY = 256
"""Load from which queues, not single steps, decide; published GB300 curves bend there."""
BANDED = {
    "total_tokens_per_s_per_gpu": "total_tokens_per_s_per_gpu",
    "output_tokens_per_s_per_gpu": "output_tokens_per_s_per_gpu",
    "tokens_per_s_per_user": "median_tpot_ms",
    "median_tpot_ms": "median_tpot_ms",
    "median_ttft_ms": "median_ttft_ms",
}
"""Predicted metrics that carry an interval, and whose band it is: tok/s/user is one over TPOT."""


class Interval(Noun):
    """Central 80 % of what a measurement may show."""

    low: float
    high: float


class Spread(Noun):
    """How far one metric moves for two reasons that can be simulated; 80 % half-widths, fractions."""

    parameters: float
    """Between calibrations drawn from the posterior of the fitted parameters, at one seed."""
    seeds: float
    """Between seeds of lengths, acceptance and routing, at the fitted values."""
    draws: int
    """Simulations of either kind."""


def regime_of(concurrency: int) -> str:
    """Load regime that bands are told apart by."""
    return f"c>={HIGH_CONCURRENCY}" if concurrency >= HIGH_CONCURRENCY else f"c<{HIGH_CONCURRENCY}"


def band_groups(recipe: Recipe, concurrency: int, version: str) -> list[str]:
    """Names of the groups a run belongs to, from `all` to the most specific."""
    parts = (
        "disagg" if recipe.is_disaggregated else "agg",
        "mtp" if recipe.mtp else "nomtp",
        regime_of(concurrency),
        version,
    )
    return ["all", *("/".join(parts[: i + 1]) for i in range(len(parts)))]


def band_of(bands: ErrorBands, metric: str, groups: list[str]) -> ErrorBand | None:
    """The most specific band of a metric; None where the metric has none."""
    known = bands.bands.get(metric, {})
    return next((known[group] for group in reversed(groups) if group in known), None)


def factors(bands: ErrorBands | None, recipe: Recipe, concurrency: int, version: str) -> dict[str, float]:
    """Metric to the factor, at least 1, that reaches from a prediction to either end of its interval."""
    if bands is None:
        return {}
    found = {}
    for name, metric in BANDED.items():
        band = band_of(bands, metric, band_groups(recipe, concurrency, version))
        if band is not None:
            away = 1.0 if recipe.hardware in bands.hardware else bands.transfer.get(metric, 1.0)
            found[name] = math.exp(band.half_width * away)
    return found


def intervals(
    metrics: Mapping[str, float],
    recipe: Recipe,
    concurrency: int,
    stack: StackVersion,
    calibration: Calibration,
) -> dict[str, Interval]:
    """Interval of each banded metric; empty where the calibration has no error bands."""
    found = factors(calibration.error_bands, recipe, concurrency, stack.version)
    return {
        name: Interval(low=metrics[name] / factor, high=metrics[name] * factor)
        for name, factor in found.items()
        if name in metrics
    }
