"""The fit in linear form: one derivative of all errors, from which refits and posteriors are cheap.

Around a fit the weighted log errors are taken as linear in the unbounded parameters. Leaving points out is
then a small robust least-squares problem instead of hundreds of simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from planner.calibrate import (
    METRIC_SIGMA,
    PRIOR_WEIGHT,
    Floats,
    parameters,
    value_of,
    weighted_errors,
)
from planner.simulation_cache import SimulationCache, key_of, published
from search_spaces import catalog_loader
from search_spaces.recipe import A2A_BACKENDS
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration
from simulator.parameters import Parameter

STEP = 0.25
"""Finite difference to either side in logit units; wide, since simulations are stochastic step functions."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class LinearFit:
    """Weighted errors and their derivatives at one calibration."""

    calibration: Calibration
    params: list[Parameter]
    points: list[MeasuredPoint]
    free: Floats
    """Where the expansion was taken, unbounded units."""
    errors: Floats
    """[row] weighted log errors there."""
    slopes: Floats
    """[row, parameter]."""
    owner: NDArray[np.int64]
    """[row] index into `points`."""

    @property
    def prior(self) -> Floats:
        """Prior means, unbounded units."""
        return np.array([p.to_free(p.prior) for p in self.params])

    def rows_of(self, kept: Sequence[bool] | Flags) -> Flags:
        """Rows of the points that are kept."""
        found: Flags = np.asarray(kept, dtype=bool)[self.owner]
        return found


def host_of(point: MeasuredPoint) -> str:
    """Kind of CPU that serves a point."""
    return catalog_loader.hardware(point.hardware).host_cpu


def row_owners(points: Sequence[MeasuredPoint]) -> NDArray[np.int64]:
    """Index of the point of each row of `weighted_errors`."""
    owners = [i for i, p in enumerate(points) for metric in METRIC_SIGMA if metric in p.measured]
    return np.array(owners, dtype=np.int64)


def with_values(calibration: Calibration, params: Sequence[Parameter], free: Floats) -> Calibration:
    """A calibration with these parameters moved; what is not fitted stays, statements about it go."""
    shared: dict[str, float] = {}
    hosts: dict[str, dict[str, float]] = {}
    for param, value in zip(params, free, strict=True):
        target = shared if param.host is None else hosts.setdefault(param.host, {})
        target[param.name] = param.to_physical(float(value))
    moved = {h: calibration.host(h).model_copy(update=v) for h, v in hosts.items()}
    cleared = {"posterior": None, "error_bands": None}
    return calibration.model_copy(update={**shared, "hosts": {**calibration.hosts, **moved}, **cleared})


def at_priors(calibration: Calibration, params: Sequence[Parameter]) -> Calibration:
    """A calibration with these parameters at their priors."""
    return with_values(calibration, params, np.array([p.to_free(p.prior) for p in params]))


def linearise(
    points: Sequence[MeasuredPoint],
    calibration: Calibration,
    cache: SimulationCache,
    on_done: Callable[[int, int], None] | None = None,
    params: Sequence[Parameter] | None = None,
) -> LinearFit:
    """Simulate the points at the calibration and with each parameter moved by `STEP` to either side.

    A parameter is moved only for the points that it can move. `params` defaults to all that the fit
    knows for the points' hosts.
    """
    hosts = sorted({host_of(p) for p in points})
    params = list(params or parameters(hosts))
    free = np.array([p.to_free(value_of(calibration, p)) for p in params])
    base = with_values(calibration, params, free)
    ahead, behind = (
        [with_values(calibration, params, free + sign * STEP * row) for row in np.eye(len(free))]
        for sign in (1, -1)
    )
    touched = [[_moves(p, point) for point in points] for p in params]
    tasks = [(point, base) for point in points]
    for *pair, flags in zip(ahead, behind, touched, strict=True):
        tasks += [(p, moved) for moved in pair for p, flag in zip(points, flags, strict=True) if flag]
    found = cache.evaluate(tasks, on_done)

    def errors(moved: Calibration, flags: Sequence[bool]) -> Floats:
        used = [moved if flag else base for flag in flags]
        pairs = zip(points, used, strict=True)
        return weighted_errors(points, [published(p, found[key_of(p, c)]) for p, c in pairs])

    at_base = errors(base, [True] * len(points))
    columns = [
        (errors(up, flags) - errors(down, flags)) / (2 * STEP)
        for up, down, flags in zip(ahead, behind, touched, strict=True)
    ]
    slopes = np.stack(columns, axis=1)
    return LinearFit(base, params, list(points), free, at_base, slopes, row_owners(points))


def _moves(param: Parameter, point: MeasuredPoint) -> bool:
    """Whether a point's simulation reads a parameter at all."""
    assert point.recipe is not None
    stack, groups = catalog_loader.stack(point.stack), point.recipe.groups.values()
    backends = {group.moe_backend for group in groups}
    if param.host is not None and param.host != host_of(point):
        return False
    if param.name.startswith(("accept_", "draft_")):
        return point.recipe.mtp is not None
    blackwell = catalog_loader.hardware(point.hardware).sm >= 100
    reads = {
        "prefill_slowdown": blackwell,
        "hopper_prefill_slowdown": not blackwell,
        "bucket_compile_s": not stack.has("mhc_prewarm"),
        "unfused_layer_s": not stack.has("kv_compression_v2"),
        "unfused_token_s": not stack.has("kv_compression_v2"),
        "fp4_moe_ratio": any(group.moe_activation == "fp4" for group in groups),
        "unfused_moe_ratio": "deepep" in backends,
        "collective_sync_s": any(group.attention_tp > 1 for group in groups) or not backends <= A2A_BACKENDS,
        "sending_ratio": point.recipe.is_disaggregated,
        "transfer_latency_s": point.recipe.is_disaggregated,
        "join_stall_s": point.recipe.is_disaggregated and point.recipe.serving.attention_dp > 1,
    }
    return reads.get(param.name, True)


def robust_cost(errors: Floats, free: Floats, prior: Floats) -> float:
    """What the fit minimises: soft-L1 of errors and prior pulls."""
    pulls = PRIOR_WEIGHT * (free - prior)
    return float(np.sum(2 * (np.sqrt(1 + np.concatenate([errors, pulls]) ** 2) - 1)))


def solved(
    fit: LinearFit, rows: Flags, at: Floats | None = None, errors: Floats | None = None, within: float = 1.0
) -> Floats:
    """Unbounded parameters that minimise the robust cost of some rows in linear form.

    A parameter of a host without any row goes to its prior.

    Args:
        fit: the expansion; its slopes are used wherever it is moved to.
        rows: rows that count.
        at: where `errors` hold; None takes the point of expansion.
        errors: weighted errors there, all rows.
        within: logit units that a parameter may move: further off the linear form does not hold.
    """
    at = fit.free if at is None else at
    base = (fit.errors if errors is None else errors)[rows]
    slopes, prior = fit.slopes[rows], fit.prior
    hosts = {host_of(fit.points[i]) for i in set(fit.owner[rows].tolist())}
    orphan = np.array([p.host is not None and p.host not in hosts for p in fit.params])
    jacobian: Floats = np.concatenate([slopes, PRIOR_WEIGHT * np.eye(len(prior))])

    def value(move: Floats) -> Floats:
        return np.concatenate([base + slopes @ move, PRIOR_WEIGHT * (at + move - prior)])

    def slope(_: Floats) -> Floats:
        return jacobian

    start = np.zeros(len(prior))
    found = least_squares(value, start, jac=slope, loss="soft_l1", bounds=(start - within, start + within))
    return np.where(orphan, prior, at + found.x)


def robust_weights(errors: Floats) -> Floats:
    """Weight of each row at the solution, from the soft-L1 loss."""
    found: Floats = 1 / np.sqrt(1 + errors**2)
    return found


def noise_scale(errors: Floats) -> float:
    """Standard deviation of the weighted errors by their median, at least 1.

    Above 1 the points scatter more than their stated errors, and tell less than these claim.
    """
    return max(1.0, float(np.median(np.abs(errors))) / 0.6745)


def information(fit: LinearFit, rows: Flags) -> Floats:
    """[row, parameter] information of each row on each parameter alone, per squared logit unit."""
    errors, slopes = fit.errors[rows], fit.slopes[rows]
    weights = robust_weights(errors) / noise_scale(errors) ** 2
    found: Floats = np.asarray(weights[:, None] * slopes**2, dtype=np.float64)
    return found


def covariance(fit: LinearFit, rows: Flags) -> Floats:
    """Gauss-Newton posterior covariance of the unbounded parameters."""
    errors, slopes = fit.errors[rows], fit.slopes[rows]
    weights = robust_weights(errors) / noise_scale(errors) ** 2
    precision = slopes.T @ (weights[:, None] * slopes) + PRIOR_WEIGHT**2 * np.eye(len(fit.params))
    found: Floats = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    return found


def parameter_name(param: Parameter) -> str:
    """`grace.prefill_layer_s` or `prefill_slowdown`."""
    return param.name if param.host is None else f"{param.host}.{param.name}"


def as_mapping(params: Sequence[Parameter], free: Floats) -> Mapping[str, float]:
    """Physical values by name."""
    return {parameter_name(p): p.to_physical(float(x)) for p, x in zip(params, free, strict=True)}
