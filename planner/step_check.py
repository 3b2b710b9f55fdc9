"""What a step fit says about recorded engine steps: errors, depth, and kernels timed alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from profiler.step_fit import Kind, StepFit, Target
from search_spaces import catalog_loader
from search_spaces.errors import MissingData, OutOfTolerance
from search_spaces.kernel_profile import DISTRIBUTIONS, MOE_KERNELS, load_profile
from search_spaces.step_profile import StepProfile
from simulator.expert_tiles import grouped_gemm_s

KINDS: tuple[Kind, ...] = ("decode", "prefill", "verify", "iteration")
UNEXPLAINED = 0.10
"""Relative error from which a setting counts as not explained."""


class ErrorSummary(NamedTuple):
    """Errors of one kind of step over the held-out settings of one profile, or of all."""

    profile: str
    kind: Kind
    calibrating: int
    held_out: int
    median_abs: float | None
    """None where nothing was held out."""
    worst: float | None
    """Signed error of the largest size."""
    bias: float | None


class Slope(NamedTuple):
    """Seconds that one more layer costs, by two depths of one configuration."""

    shallow: str
    deep: str
    kind: Kind
    sequences: int
    new_tokens: int
    context: float
    observed_s: float
    predicted_s: float


class KernelCheck(NamedTuple):
    """A fitted expert kernel against the same kernel timed alone."""

    hardware: str
    backend: str
    shapes: int
    median_abs: float
    worst: float


def summaries(fit: StepFit) -> list[ErrorSummary]:
    """Per profile and kind, then per kind over all profiles."""
    rows = list(zip(fit.targets, fit.errors, strict=True))
    found = []
    for name in (*(p.name for p in fit.profiles), "all"):
        for kind in KINDS:
            mine = [(t, e) for t, e in rows if t.kind == kind and name in (t.profile, "all")]
            if mine:
                found.append(_summary(name, kind, mine))
    return found


def _summary(name: str, kind: Kind, rows: Sequence[tuple[Target, float]]) -> ErrorSummary:
    errors = [error for target, error in rows if target.held_out]
    calibrating = len(rows) - len(errors)
    if not errors:
        return ErrorSummary(name, kind, calibrating, 0, None, None, None)
    return ErrorSummary(
        name,
        kind,
        calibrating,
        len(errors),
        float(np.median(np.abs(errors))),
        max(errors, key=abs),
        float(np.mean(errors)),
    )


def unexplained(fit: StepFit) -> list[tuple[Target, float]]:
    """Settings of either half whose error is `UNEXPLAINED` or more, worst first."""
    rows = [(t, e) for t, e in zip(fit.targets, fit.errors, strict=True) if abs(e) >= UNEXPLAINED]
    return sorted(rows, key=lambda row: -abs(row[1]))


def slopes(fit: StepFit) -> list[Slope]:
    """Cost of a layer between profiles that differ in depth alone, where the GPU bounds both.

    A prefill that waits for the host is left out: hosts differ from machine to machine.
    """
    rows = list(zip(fit.targets, fit.predicted_s, strict=True))
    found = []
    for shallow, deep in _depths(fit.profiles):
        layers = deep.num_layers - shallow.num_layers
        mine = {_key(t): (t, s) for t, s in rows if t.profile == shallow.name}
        for target, predicted in rows:
            other = mine.get(_key(target)) if target.profile == deep.name else None
            if other is None or _waits_for_host(target) or _waits_for_host(other[0]):
                continue
            found.append(
                Slope(
                    shallow.name,
                    deep.name,
                    target.kind,
                    target.row.sequences,
                    target.row.new_tokens,
                    target.row.context,
                    (target.seconds - other[0].seconds) / layers,
                    (predicted - other[1]) / layers,
                )
            )
    return found


def _depths(profiles: Sequence[StepProfile]) -> list[tuple[StepProfile, StepProfile]]:
    """Pairs (shallower, deeper) that agree in everything that decides a step but depth."""

    def setup(p: StepProfile) -> tuple[str, ...]:
        return p.model, p.hardware, p.engine_version, p.group.moe_backend, str(p.group.mtp)

    found = []
    for _, members in groupby(sorted(profiles, key=lambda p: (*setup(p), p.num_layers)), key=setup):
        same = list(members)
        found += [(a, b) for a in same for b in same if a.num_layers < b.num_layers]
    return found


def _key(target: Target) -> tuple[object, ...]:
    row = target.row
    return target.kind, row.sequences, row.new_tokens, round(row.context / 1024)


def _waits_for_host(target: Target) -> bool:
    row = target.row
    if target.kind == "prefill":
        return row.host_s is not None and row.context == 0 and row.host_s > 0.8 * row.wall_s
    return row.sequences < 4


def kernel_checks(fit: StepFit) -> list[KernelCheck]:
    """Fitted expert kernels against rows of the kernel profiles that no step was predicted from."""
    found = []
    for name in sorted({p.hardware for p in fit.profiles}):
        check = _grouped_gemm_check(fit, name)
        if check is not None:
            found.append(check)
    return found


def _grouped_gemm_check(fit: StepFit, name: str) -> KernelCheck | None:
    backend = "deep_gemm"
    profile = next((p for p in fit.profiles if p.group.moe_backend == backend), None)
    if profile is None:
        return None
    model, platform = catalog_loader.model(profile.model), catalog_loader.hardware(name)
    try:
        table = load_profile(platform.kernel_profile).table("moe")
    except MissingData:
        return None
    mask = (
        (table["kernel"] == MOE_KERNELS["fp8_block_deepgemm"])
        & (table["distribution"] == DISTRIBUTIONS["uniform"])
        & (table["hidden"] == model.hidden)
    )
    if not mask.any():
        return None
    kernel = fit.calibrations[profile.name].architecture(platform.sm).experts[backend]
    alone = kernel.model_copy(update={"layer_s": 0.0})
    errors = []
    for ep, tokens, seconds in zip(*(table[c][mask] for c in ("moe_ep", "tokens", "time_s")), strict=True):
        predicted = grouped_gemm_s(model, platform, float(tokens), int(ep), 1, "fp8", "fp8", alone)
        errors.append(float(np.squeeze(predicted)) / float(seconds) - 1)
    return KernelCheck(name, backend, len(errors), float(np.median(np.abs(errors))), max(errors, key=abs))


def check_steps(fit: StepFit, max_error_pct: float) -> None:
    """Raise `OutOfTolerance` unless each kind's held-out median over all profiles is within the bound."""
    wrong = [
        s
        for s in summaries(fit)
        if s.profile == "all" and s.median_abs is not None and 100 * s.median_abs > max_error_pct
    ]
    if wrong:
        raise OutOfTolerance(
            "\n".join(
                f"{s.kind}: median absolute error is {100 * (s.median_abs or 0):.1f} % over {s.held_out} "
                f"held-out settings, above max_error={max_error_pct:g} %; record more, or allow more"
                for s in wrong
            )
        )
