"""Fit the few physical parameters of the cost model to measured points.

Bounded parameters are fitted in logit space with Gaussian priors at their defaults and a robust loss on
log errors, so that one wrong point cannot pull a parameter out of its physical range.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration, HostCosts, load_calibration
from simulator.parameters import Parameter, parameter
from simulator.setting import Setting, setting_for
from simulator.simulate import metrics_of
from simulator.world import run

Floats = NDArray[np.float64]

HOST_PARAMETERS = (
    "prefill_base_s",
    "prefill_layer_s",
    "prefill_exposed_fraction",
    "decode_base_s",
    "decode_exposed_sequence_s",
    "draft_extend_s",
    "join_stall_s",
    "request_latency_s",
)
SHARED_PARAMETERS = (
    "prefill_slowdown",
    "decode_slowdown",
    "draft_expert_overlap",
    "routing_alpha",
    "collective_sync_s",
    "fp4_moe_ratio",
    "unfused_moe_ratio",
    "unfused_layer_s",
    "unfused_token_s",
    "accept_chat",
    "accept_random",
    "accept_decay",
    "accept_spread",
)
METRIC_SIGMA = {
    "total_tokens_per_s_per_gpu": 0.05,
    "median_tpot_ms": 0.05,
    "mean_tpot_ms": 0.06,
    "median_ttft_ms": 0.20,
    "mean_ttft_ms": 0.20,
}
"""Relative error at which each metric weighs one."""
TRUST_SIGMA = {"A": 1.0, "B": 1.6, "C": 1.2, "D": 4.0, "X": np.inf}
"""Factor on that error by trust of the source."""
PRIOR_WEIGHT = 0.3
"""Pull of a prior per logit unit; small against one well-measured point."""


def parameters(hosts: Sequence[str]) -> list[Parameter]:
    """All fitted quantities, with bounds and priors from the calibration type itself."""
    found = []
    for host in hosts:
        found += [parameter(HostCosts, name, host) for name in HOST_PARAMETERS]
    return found + [parameter(Calibration, name, None) for name in SHARED_PARAMETERS]


def _value_of(calibration: Calibration, param: Parameter) -> float:
    owner = calibration if param.host is None else calibration.host(param.host)
    return float(getattr(owner, param.name))


def build(params: Sequence[Parameter], free: Floats, name: str = "fit") -> Calibration:
    """Calibration with these values; architectures, fitted to engine steps, stay, the rest is default."""
    shared: dict[str, float] = {}
    hosts: dict[str, dict[str, float]] = {}
    for param, value in zip(params, free, strict=True):
        target = shared if param.host is None else hosts.setdefault(param.host, {})
        target[param.name] = param.to_physical(float(value))
    return Calibration(
        name=name,
        hosts={h: HostCosts(**v) for h, v in hosts.items()},
        architectures=load_calibration().architectures,
        **shared,
    )


def setting_of(point: MeasuredPoint, calibration: Calibration) -> Setting:
    """What to simulate for a measured point."""
    assert point.recipe is not None and point.workload is not None
    seed = point.provenance.seed if point.provenance else 0
    stack = catalog_loader.stack(point.stack)
    return setting_for(point.recipe, point.workload, stack, calibration, seed, point.steps)


def residuals(points: Sequence[MeasuredPoint], calibration: Calibration) -> Floats:
    """Weighted log errors of all metrics of all points; one that does not fit counts as a factor of two."""
    found: list[float] = []
    seen: dict[tuple[object, ...], dict[str, float] | None] = {}
    for point in points:
        assert point.recipe is not None
        key = (point.recipe.digest, point.workload, point.stack)
        if key not in seen:
            try:
                seen[key] = metrics_of(run(setting_of(point, calibration)))
            except Infeasible:
                seen[key] = None
        raw = seen[key]
        predicted = None if raw is None else point.as_published(raw)
        for metric, sigma in METRIC_SIGMA.items():
            if metric in point.measured:
                error = 2.0 if predicted is None else predicted[metric] / point.measured[metric]
                found.append(float(np.log(max(error, 1e-6))) / (sigma * TRUST_SIGMA[point.trust]))
    return np.array(found)


@dataclass(frozen=True)
class Fit:
    """A calibration, how certain each parameter is, and what it was fitted to."""

    calibration: Calibration
    free: Floats
    covariance: Floats
    """Of the unbounded numbers."""
    cost: float


_POINTS: list[MeasuredPoint] = []


def _start(points: list[MeasuredPoint]) -> None:
    _POINTS[:] = points


def _evaluate(task: tuple[list[Parameter], Floats]) -> Floats:
    return residuals(_POINTS, build(*task))


def fit(
    points: Sequence[MeasuredPoint],
    workers: int = 2,
    rounds: int = 6,
    on_round: Callable[[int, float], None] | None = None,
    step: float = 0.25,
    start: Calibration | None = None,
) -> Fit:
    """Robust Gauss-Newton over the usable points, derivatives in parallel.

    Args:
        points: measured points; refused ones are skipped.
        workers: processes.
        rounds: derivative evaluations at most.
        start: where to begin; None begins at the priors, which pull in either case.
        on_round: called with round and cost.
        step: finite difference in unbounded units; wide, since simulations are stochastic step functions.
    """
    usable = [p for p in points if p.usable]
    hosts = sorted({catalog_loader.hardware(p.hardware).host_cpu for p in usable})
    params = parameters(hosts)
    prior = np.array([p.to_free(p.prior) for p in params])
    begin = prior if start is None else np.array([p.to_free(_value_of(start, p)) for p in params])
    count = [0]
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(usable,)) as pool:

        def value(free: Floats) -> Floats:
            (data,) = pool.map(_evaluate, [(params, free)])
            return np.concatenate([data, (free - prior) * PRIOR_WEIGHT])

        def slope(free: Floats) -> Floats:
            moved = free + step * np.eye(len(free))
            base, *data = pool.map(_evaluate, [(params, x) for x in (free, *moved)])
            columns = [(column - base) / step for column in data]
            count[0] += 1
            if on_round is not None:
                on_round(count[0], float(np.median(np.abs(base))))
            return np.concatenate([np.stack(columns, axis=1), np.eye(len(free)) * PRIOR_WEIGHT])

        found = least_squares(value, begin, jac=slope, loss="soft_l1", max_nfev=rounds, x_scale=1.0)
    jacobian: Floats = np.asarray(found.jac, dtype=float)
    information = jacobian.T @ jacobian
    covariance: Floats = np.asarray(np.linalg.pinv(information), dtype=float)
    ids = hashlib.sha256("\n".join(sorted(p.id for p in usable)).encode()).hexdigest()[:12]
    calibration = build(params, found.x, "default").model_copy(
        update={"data": f"{len(usable)} published points, sha256 of ids {ids}"}
    )
    return Fit(calibration, found.x, covariance, float(found.cost))


NOT_IDENTIFIABLE = 0.7
"""Posterior over prior spread above which the points say little about a parameter."""
NORMAL_80 = 1.2816
"""Half-width of the central 80 % of a standard normal."""


def described(found: Fit, points: Sequence[MeasuredPoint]) -> list[tuple[str, str, str, str, str, str]]:
    """One row per parameter: value, 80 % interval, prior, bounds and what the points say about it."""
    hosts = sorted({catalog_loader.hardware(p.hardware).host_cpu for p in points if p.usable})
    spread = np.sqrt(np.diag(found.covariance))
    rows = []
    for param, free, sd in zip(parameters(hosts), found.free, spread, strict=True):
        value = param.to_physical(float(free))
        low, high = (param.to_physical(float(free + s * NORMAL_80 * sd)) for s in (-1, 1))
        share = (value - param.low) / (param.high - param.low)
        note = "not identifiable" if sd * PRIOR_WEIGHT > NOT_IDENTIFIABLE else ""
        if share < 0.005 or share > 0.995:
            note = "at its bound: the model may lack a mechanism"
        name = param.name if param.host is None else f"{param.host}.{param.name}"
        rows.append(
            (
                name,
                f"{value:.4g}",
                f"{low:.3g} .. {high:.3g}",
                f"{param.prior:.4g}",
                f"{param.low:g} .. {param.high:g}",
                note,
            )
        )
    return rows


def calibration_json(calibration: Calibration) -> str:
    """The file form, rounded to what a fit can tell."""

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {k: rounded(v) for k, v in value.items()}
        return value

    return json.dumps(rounded(calibration.model_dump()), indent=1) + "\n"
