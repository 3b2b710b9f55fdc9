"""What is fitted to measured points, how errors weigh, and the file form of a calibration.

Bounded parameters are fitted in logit space with Gaussian priors at their defaults and a robust loss on
log errors, so that one wrong point cannot pull a parameter out of its physical range.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.records import MeasuredPoint
from simulator.calibration import Calibration, HostCosts
from simulator.parameters import Parameter, parameter
from simulator.setting import Setting, setting_for

Floats = NDArray[np.float64]

HOST_PARAMETERS = (
    "prefill_base_s",
    "prefill_layer_s",
    "prefill_exposed_fraction",
    "prefill_draft_s",
    "draft_launch_s",
    "decode_exposed_sequence_s",
    "draft_extend_s",
    "join_stall_s",
    "request_latency_s",
)
SHARED_PARAMETERS = (
    "prefill_slowdown",
    "hopper_prefill_slowdown",
    "decode_slowdown",
    "draft_expert_overlap",
    "prefill_routing_alpha",
    "decode_routing_alpha",
    "collective_sync_s",
    "fp4_moe_ratio",
    "unfused_moe_ratio",
    "unfused_moe_layer_s",
    "bucket_compile_s",
    "first_use_s",
    "unfused_layer_s",
    "unfused_token_s",
    "accept_random",
    "accept_short_ratio",
    "accept_decay",
    "sending_ratio",
    "transfer_latency_s",
)
METRIC_SIGMA = {
    "total_tokens_per_s_per_gpu": 0.05,
    "median_tpot_ms": 0.05,
    "mean_tpot_ms": 0.06,
    "median_ttft_ms": 0.20,
    "mean_ttft_ms": 0.20,
}
"""Relative error at which each metric weighs one."""
ONE_OFF_S = 5.0
"""How much the standstill at first uses (`Calibration.first_use_s`) differs between public runs; it adds its
share of the duration to the error of throughput and of means."""
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


def parameter_named(name: str) -> Parameter:
    """The fitted quantity called `grace.prefill_layer_s` or `prefill_slowdown`; raises `BadInput`."""
    host, _, field = name.rpartition(".")
    known = HOST_PARAMETERS if host else SHARED_PARAMETERS
    if field not in known:
        raise BadInput(f"parameter={name!r} is not fitted; choose among {list(known)}")
    return parameter(HostCosts if host else Calibration, field, host or None)


def value_of(calibration: Calibration, param: Parameter) -> float:
    """Physical value of a parameter in a calibration."""
    owner = calibration if param.host is None else calibration.host(param.host)
    return float(getattr(owner, param.name))


def setting_of(point: MeasuredPoint, calibration: Calibration) -> Setting:
    """What to simulate for a measured point."""
    assert point.recipe is not None and point.workload is not None
    seed = point.provenance.seed if point.provenance else 0
    stack = catalog_loader.stack(point.stack)
    return setting_for(point.recipe, point.workload, stack, calibration, seed, point.steps)


def weighted_errors(
    points: Sequence[MeasuredPoint], predicted: Sequence[Mapping[str, float] | None]
) -> Floats:
    """Log errors of all metrics of all points over their sigma; what does not fit counts as a factor two."""
    found: list[float] = []
    for point, metrics in zip(points, predicted, strict=True):
        for metric, sigma in METRIC_SIGMA.items():
            if metric in point.measured:
                error = 2.0 if metrics is None else metrics[metric] / point.measured[metric]
                spread = np.hypot(sigma, _one_off_share(metric, metrics))
                found.append(float(np.log(max(error, 1e-6))) / (spread * TRUST_SIGMA[point.trust]))
    return np.array(found)


def _one_off_share(metric: str, metrics: Mapping[str, float] | None) -> float:
    """Relative error that one standstill of the run makes in a metric; medians hardly notice it."""
    if metrics is None or "duration_s" not in metrics or metric.startswith("median"):
        return 0.0
    share = ONE_OFF_S / metrics["duration_s"]
    if metric == "mean_ttft_ms":
        # The requests in flight wait; of a closed loop that is their part of the whole run.
        return share * metrics["mean_e2e_ms"] / metrics["mean_ttft_ms"]
    return share


def fitted_to(points: Sequence[MeasuredPoint]) -> str:
    """What a calibration says about the points it was fitted to."""
    ids = hashlib.sha256("\n".join(sorted(p.id for p in points)).encode()).hexdigest()[:12]
    return f"{len(points)} published points, sha256 of ids {ids}"


def calibration_json(calibration: Calibration) -> str:
    """The file form, rounded to what a fit can tell, with rows of numbers on one line."""

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {k: rounded(v) for k, v in value.items()}
        if isinstance(value, list):
            return [rounded(v) for v in value]
        return value

    text = json.dumps(rounded(calibration.model_dump(mode="json", exclude_none=True)), indent=1)
    return re.sub(r"\[([-+\d.e,\s]+)\]", lambda row: f"[{' '.join(row[1].split())}]", text) + "\n"
