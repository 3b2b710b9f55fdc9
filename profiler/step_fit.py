"""Explain recorded engine steps with the step model: fit a few quantities, predict the rest.

Half of each profile's shapes calibrates; the other half is predicted and compared. A shape is a mode, a
number of sequences and of new tokens, so that no batch size or prompt length of a profile is on both
sides. GPU quantities and host quantities are common to all profiles of one architecture; each profile
has one number of its own, the speed of its host, which differs from machine to machine.

Recorded models had dummy weights, whose router chooses uniformly: popularity is flat and tokens of a
draft window share no experts. Both are set, not fitted, as is the GPU's idle time between replays, which
the recording measures. Drafts and their eager extension are launches that the GPU may hide, so that the
part that it never hides is set to none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.step_profile import StepProfile, StepRow
from simulator.calibration import ArchitectureCosts, Calibration, ExpertKernel, HostCosts
from simulator.parameters import Parameter, parameter
from simulator.step_cost import (
    Scenario,
    decode_cost,
    decode_step_s,
    forward_cost,
    prefill_cost,
    prefill_step_s,
)

Floats = NDArray[np.float64]
Kind = Literal["decode", "prefill", "verify", "iteration"]
"""`verify` is the target's pass alone, on the GPU; `iteration` is that pass, the drafts and the extension."""

HOST_PRIORS = {
    "prefill_base_s": 0.005,
    "prefill_layer_s": 0.003,
    "prefill_exposed_fraction": 0.1,
    "decode_base_s": 0.0013,
    "decode_exposed_sequence_s": 1e-6,
    "draft_launch_s": 0.002,
}
"""Fitted host quantities and where the fit starts: what one process on an idle host needs."""
EXPERT_PARAMETERS = ("read_fraction", "flops_fraction", "layer_s")
HOST_SPEED_BOUNDS = (0.3, 3.0)
"""CPU speed of a machine over that of the first profile's machine."""
UNTABLED_EXPERTS: dict[str, ExpertKernel] = {
    "deep_gemm": ExpertKernel(tile_rows=(128,), flops_fraction=0.6),
    "marlin": ExpertKernel(tile_rows=(8, 16, 32, 48, 64), read_fraction=0.6, flops_fraction=0.3),
}
"""Backends without a kernel table on Hopper, with what is known of them: tile heights of SGLang 0.5.15."""
SMALL_BATCH = 16
"""Sequences up to which the time between replays does not grow with the batch."""
SIGMA: dict[Kind, float] = {"decode": 0.03, "prefill": 0.05, "verify": 0.03, "iteration": 0.08}
"""Relative error that weighs one; a prefill or an iteration that waits for the host scatters more."""
PRIOR_WEIGHT = 0.1
"""Pull of a prior per logit unit; small against one row."""


@dataclass(frozen=True)
class Target:
    """One time to explain."""

    profile: str
    kind: Kind
    row: StepRow
    seconds: float
    held_out: bool


@dataclass(frozen=True)
class StepFit:
    """Fitted quantities, the calibration they make for each profile, and every target's prediction."""

    profiles: tuple[StepProfile, ...]
    parameters: tuple[Parameter, ...]
    values: tuple[float, ...]
    calibrations: Mapping[str, Calibration]
    targets: tuple[Target, ...]
    predicted_s: tuple[float, ...]

    @property
    def errors(self) -> tuple[float, ...]:
        """Predicted over observed minus one, by target."""
        pairs = zip(self.predicted_s, self.targets, strict=True)
        return tuple(predicted / target.seconds - 1 for predicted, target in pairs)


def targets_of(profile: StepProfile) -> list[Target]:
    """What a profile asks to be explained: every second shape in order of size is held out."""
    shapes = sorted({_shape(row) for row in profile.rows})
    place: dict[str, int] = {}
    held = {}
    for shape in shapes:
        held[shape] = place.setdefault(shape[0], 0) % 2 == 1
        place[shape[0]] += 1
    found = []
    for row in profile.rows:
        for kind, seconds in _observed(row).items():
            found.append(Target(profile.name, kind, row, seconds, held[_shape(row)]))
    return found


def _shape(row: StepRow) -> tuple[str, int, int]:
    return row.mode, row.sequences, row.new_tokens


def _observed(row: StepRow) -> dict[Kind, float]:
    if row.mode == "verify":
        assert row.gpu_s is not None
        return {"verify": row.gpu_s, "iteration": row.wall_s}
    if row.mode in ("decode", "prefill"):
        return {row.mode: row.wall_s}
    return {}


def scenario_of(profile: StepProfile, calibration: Calibration) -> Scenario:
    """What the step model needs to predict a profile: the latest stack of the release that ran."""
    stacks = sorted(catalog_loader.all_stacks().values(), key=lambda s: s.since)
    fitting = [s for s in stacks if s.version == profile.engine_version]
    if not fitting:
        raise BadInput(
            f"profile {profile.name!r}: engine_version={profile.engine_version!r} is no stack's; "
            f"choose one of {sorted({s.version for s in stacks})}"
        )
    model = catalog_loader.model(profile.model).with_layers(profile.num_layers)
    return Scenario(model, catalog_loader.hardware(profile.hardware), profile.group, fitting[-1], calibration)


def predicted_s(scn: Scenario, targets: Sequence[Target]) -> Floats:
    """Seconds that the step model gives for targets of one profile."""
    found = np.zeros(len(targets))
    for kind in ("decode", "prefill", "verify", "iteration"):
        at = [i for i, target in enumerate(targets) if target.kind == kind]
        if at:
            found[at] = _seconds(scn, kind, tuple(targets[i].row for i in at))
    return found


def _seconds(scn: Scenario, kind: str, rows: tuple[StepRow, ...]) -> Floats:
    cal = scn.calibration
    costs = cal.architecture(scn.hardware.sm)
    timed = {f"sm{scn.hardware.sm}": costs.model_copy(update={"untimed_step_s": 0.0})}
    gpu_only = cal.model_copy(update={"name": "", "hosts": {}, "architectures": timed})
    slowdown = cal.slowdown(kind == "prefill", scn.hardware.sm)
    gpu_s = _timed_s(replace(scn, calibration=gpu_only), kind, rows) + slowdown * costs.untimed_step_s
    graph = all(row.graph for row in rows)
    if kind == "prefill":
        return prefill_step_s(scn, gpu_s)
    if kind == "verify":
        return gpu_s
    return decode_step_s(scn, gpu_s, np.array([row.sequences for row in rows], float), graph)


@lru_cache(maxsize=256)
def _timed_s(scn: Scenario, kind: str, rows: tuple[StepRow, ...]) -> Floats:
    """GPU seconds without what adds to every step alike, kept while a fit varies that and the host."""
    sequences = np.array([row.sequences for row in rows], float)
    tokens = np.array([row.new_tokens for row in rows], float)
    context = np.array([row.context for row in rows], float)
    graph = all(row.graph for row in rows)
    if kind == "prefill":
        return prefill_cost(scn, tokens, context + tokens / (2 * sequences)).gpu_s
    if kind == "verify":
        return forward_cost(
            scn,
            tokens,
            context,
            prefill=False,
            graph=graph,
            rows=tokens,
            window=scn.group.draft_tokens,
        ).gpu_s
    return decode_cost(scn, sequences, context, graph).gpu_s


def parameters_of(profiles: Sequence[StepProfile]) -> list[Parameter]:
    """All quantities that these profiles determine, with bounds from the calibration's own types."""
    drafting = any(p.group.mtp for p in profiles)
    found = [
        parameter(HostCosts, name, "host", prior)
        for name, prior in HOST_PRIORS.items()
        if drafting or not name.startswith("draft")
    ]
    found.append(parameter(ArchitectureCosts, "untimed_step_s", "gpu", 2e-4))
    for backend in sorted({p.group.moe_backend for p in profiles} & UNTABLED_EXPERTS.keys()):
        start = UNTABLED_EXPERTS[backend]
        found += [parameter(ExpertKernel, n, backend, getattr(start, n)) for n in EXPERT_PARAMETERS]
    slowest = [_host_bound_s(p) for p in profiles]
    for profile, seconds in list(zip(profiles, slowest, strict=True))[1:]:
        guess = slowest[0] / seconds * profile.num_layers / profiles[0].num_layers
        guess = min(max(guess, HOST_SPEED_BOUNDS[0] * 1.1), HOST_SPEED_BOUNDS[1] / 1.1)
        found.append(Parameter("host_speed", profile.name, *HOST_SPEED_BOUNDS, guess))
    return found


def _host_bound_s(profile: StepProfile) -> float:
    """Shortest calibrating prefill, which waits for the host; a second where there is none."""
    known = [t.seconds for t in targets_of(profile) if t.kind == "prefill" and not t.held_out]
    return min(known, default=1.0)


def calibrations_of(
    profiles: Sequence[StepProfile], parameters: Sequence[Parameter], values: Sequence[float]
) -> dict[str, Calibration]:
    """The calibration of each profile from fitted values."""
    by_owner: dict[str, dict[str, float]] = {}
    for param, value in zip(parameters, values, strict=True):
        by_owner.setdefault(param.host or "", {})[param.name] = value
    experts = {
        backend: UNTABLED_EXPERTS[backend].model_copy(update=by_owner[backend])
        for backend in UNTABLED_EXPERTS
        if backend in by_owner
    }
    architecture = ArchitectureCosts(**by_owner["gpu"], experts=experts)
    gap = _measured_gap_s(profiles)
    found = {}
    for profile in profiles:
        speed = by_owner.get(profile.name, {}).get("host_speed", 1.0)
        platform = catalog_loader.hardware(profile.hardware)
        host = {
            name: value if name == "prefill_exposed_fraction" else value / speed
            for name, value in by_owner["host"].items()
        } | {"step_gap_s": gap, "draft_extend_s": 0.0}
        found[profile.name] = Calibration(
            name=profile.name,
            hosts={platform.host_cpu: HostCosts.model_construct(**(HostCosts().model_dump() | host))},
            architectures={f"sm{platform.sm}": _only(architecture, profile.group.moe_backend)},
            hopper_prefill_slowdown=1.0,
            prefill_routing_alpha=0.0,
            decode_routing_alpha=0.0,
            draft_expert_overlap=0.0,
        )
    return found


def _only(costs: ArchitectureCosts, backend: str) -> ArchitectureCosts:
    """The costs with the expert kernel of one backend, so that others' do not make them differ."""
    return costs.model_copy(update={"experts": {b: k for b, k in costs.experts.items() if b == backend}})


def _measured_gap_s(profiles: Sequence[StepProfile]) -> float:
    """Median GPU idle time between small decode steps; the engine's default where none was recorded."""
    gaps = [
        row.gap_s
        for profile in profiles
        for row in profile.rows
        if row.mode == "decode" and row.sequences <= SMALL_BATCH and row.gap_s is not None
    ]
    return float(np.median(gaps)) if gaps else HostCosts().step_gap_s


def fit(profiles: Sequence[StepProfile]) -> StepFit:
    """Fit the calibrating half of `profiles` and predict both halves.

    Raises:
        BadInput: profiles of different architectures, or none.
    """
    architectures = {catalog_loader.hardware(p.hardware).sm for p in profiles}
    if len(architectures) != 1:
        raise BadInput(
            f"profiles={[p.name for p in profiles]} are of compute capabilities {sorted(architectures)}; "
            "check those of one architecture together"
        )
    parameters = parameters_of(profiles)
    targets = [target for profile in profiles for target in targets_of(profile)]
    prior = np.array([p.to_free(p.prior) for p in parameters])
    used = np.array([not t.held_out for t in targets])
    observed = np.array([t.seconds for t in targets])
    sigma = np.array([SIGMA[t.kind] for t in targets])

    def predict(free: Floats) -> Floats:
        values = [p.to_physical(x) for p, x in zip(parameters, free, strict=True)]
        return _all_seconds(profiles, calibrations_of(profiles, parameters, values), targets)

    def residuals(free: Floats) -> Floats:
        error = (np.log(predict(free) / observed) / sigma)[used]
        return np.concatenate([error, (free - prior) * PRIOR_WEIGHT])

    found = least_squares(residuals, prior, loss="soft_l1", diff_step=[1e-3], max_nfev=30, ftol=1e-5)
    values = tuple(p.to_physical(x) for p, x in zip(parameters, found.x, strict=True))
    calibrations = calibrations_of(profiles, parameters, values)
    return StepFit(
        profiles=tuple(profiles),
        parameters=tuple(parameters),
        values=values,
        calibrations=calibrations,
        targets=tuple(targets),
        predicted_s=tuple(float(s) for s in _all_seconds(profiles, calibrations, targets)),
    )


def _all_seconds(
    profiles: Sequence[StepProfile], calibrations: Mapping[str, Calibration], targets: Sequence[Target]
) -> Floats:
    found = np.zeros(len(targets))
    for profile in profiles:
        at = [i for i, target in enumerate(targets) if target.profile == profile.name]
        scn = scenario_of(profile, calibrations[profile.name])
        found[at] = predicted_s(scn, [targets[i] for i in at])
    return found
