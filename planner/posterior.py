"""Which parameters the measured points pin, how tightly, and through which lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from planner.calibrate import PRIOR_WEIGHT, Floats, parameter_named, value_of
from planner.linear_fit import LinearFit, covariance, information, parameter_name, with_values
from planner.validation import lane_of
from search_spaces.errors import MissingData
from simulator.calibration import Calibration
from simulator.parameters import Parameter
from simulator.rng import stream
from simulator.uncertainty import ParameterUncertainty, Posterior

NOT_IDENTIFIABLE = 0.7
"""Posterior over prior spread above which the points say little about a parameter."""
NORMAL_80 = 1.2816
"""Half-width of the central 80 % of a standard normal."""
NAMED_LANES = 3
"""Lanes named per parameter."""
AT_BOUND = 0.005
"""Share of a parameter's range from a bound within which it counts as at the bound."""
DIGITS = 4


def posterior(fit: LinearFit) -> Posterior:
    """Gauss-Newton posterior at a fit; see `linear_fit.covariance` for weights and noise."""
    rows = np.ones(len(fit.errors), dtype=bool)
    cov, known = covariance(fit, rows), information(fit, rows)
    lanes = [str(lane_of(fit.points[i])) for i in fit.owner]
    found = {
        parameter_name(param): _uncertainty(param, float(free), float(cov[i, i]), lanes, known[:, i])
        for i, (param, free) in enumerate(zip(fit.params, fit.free, strict=True))
    }
    triangle = [[_rounded(cov[i, j]) for j in range(i + 1)] for i in range(len(cov))]
    return Posterior(parameters=found, covariance=triangle)


def _uncertainty(
    param: Parameter, free: float, variance: float, lanes: Sequence[str], known: Floats
) -> ParameterUncertainty:
    spread = math.sqrt(variance)
    low, high = (param.to_physical(free + sign * NORMAL_80 * spread) for sign in (-1, 1))
    by_lane: dict[str, float] = {}
    for lane, value in zip(lanes, known, strict=True):
        by_lane[lane] = by_lane.get(lane, 0.0) + float(value)
    total = sum(by_lane.values())
    largest = sorted(by_lane, key=lambda lane: (-by_lane[lane], lane))[:NAMED_LANES]
    return ParameterUncertainty(
        low=_rounded(low),
        high=_rounded(high),
        prior_share=min(1.0, _rounded(variance * PRIOR_WEIGHT**2)),
        identifiable=spread * PRIOR_WEIGHT <= NOT_IDENTIFIABLE,
        pinned_by={lane: _rounded(by_lane[lane] / total) for lane in largest} if total > 0 else {},
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def described(calibration: Calibration, found: Posterior) -> list[tuple[str, ...]]:
    """One row per parameter: value, 80 % interval, prior, bounds, what pins it and what to beware of."""
    rows: list[tuple[str, ...]] = []
    for param in parameters_of(found):
        name = parameter_name(param)
        known = found.parameters[name]
        value = value_of(calibration, param)
        share = (value - param.low) / (param.high - param.low)
        note = "" if known.identifiable else "not identifiable"
        if not AT_BOUND <= share <= 1 - AT_BOUND:
            note = "at its bound: the model may lack a mechanism"
        pinned = ", ".join(f"{lane} {100 * part:.0f} %" for lane, part in known.pinned_by.items())
        rows.append(
            (
                name,
                f"{value:.4g}",
                f"{known.low:.3g} .. {known.high:.3g}",
                f"{param.prior:.4g}",
                f"{param.low:g} .. {param.high:g}",
                pinned if known.identifiable else "",
                note,
            )
        )
    return rows


HEADER = ("parameter", "value", "80 % interval", "prior", "bounds", "pinned by", "note")


def parameters_of(found: Posterior) -> list[Parameter]:
    """The fitted quantities of a posterior, in its order; raises `BadInput` for a name that is none."""
    return [parameter_named(name) for name in found.parameters]


def draws(calibration: Calibration, count: int, seed: int) -> list[Calibration]:
    """Calibrations drawn from the posterior around the fit.

    Raises:
        MissingData: the calibration has no posterior.
    """
    found = calibration.posterior
    if found is None:
        raise MissingData(
            f"draws={count}: calibration {calibration.name!r} has no posterior; add one with "
            "`servecast calibrate --only-uncertainty`, or pass --draws 0"
        )
    params = parameters_of(found)
    cov = np.zeros((len(params), len(params)))
    for i, row in enumerate(found.covariance):
        cov[i, : i + 1] = cov[: i + 1, i] = row
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    centre = np.array([p.to_free(value_of(calibration, p)) for p in params])
    normal = stream(seed, "posterior").standard_normal((count, len(params)))
    return [with_values(calibration, params, centre + root @ z) for z in normal]
