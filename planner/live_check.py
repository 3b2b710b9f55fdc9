"""Loads driven against recorded engines, simulated with the step model fitted to their steps."""

from __future__ import annotations

from typing import NamedTuple

from profiler.step_fit import StepFit, scenario_of
from search_spaces.live_run import LiveRun, shipped_live_runs
from search_spaces.recipe import Recipe
from search_spaces.step_profile import StepProfile
from search_spaces.units import seconds_from_ms
from simulator.calibration import Calibration
from simulator.run import run
from simulator.simulate import metrics_of
from simulator.world import Setting

METRICS = ("output_tokens_per_s_per_gpu", "mean_ttft_ms", "mean_tpot_ms")


class LiveResult(NamedTuple):
    """One metric of one load."""

    run: LiveRun
    metric: str
    predicted: float
    calibrating: bool
    """Whether the run set the delay of a request outside the engine."""

    @property
    def observed(self) -> float:
        """What the client measured."""
        return self.run.measured[self.metric]

    @property
    def error(self) -> float:
        """Predicted over observed minus one."""
        return self.predicted / self.observed - 1


def live_results(fit: StepFit) -> list[LiveResult]:
    """Every shipped load of the fitted profiles that had been driven before, so that nothing compiled.

    Of what lies outside the engine one number is fitted: the delay of a request on its way to and from
    the engine, so that the smallest load's mean TTFT agrees as far as a delay of zero or more allows.
    Profiles without a load of one request in flight are left out.
    """
    found = []
    for profile in fit.profiles:
        runs = [r for r in shipped_live_runs() if r.profile == profile.name and r.repeat > 0]
        alone = next((r for r in runs if r.workload.concurrency == 1), None)
        if alone is None:
            continue
        calibration = _with_delay(profile, fit.calibrations[profile.name], alone)
        for one in runs:
            predicted = _simulated(profile, calibration, one)
            found += [LiveResult(one, metric, predicted[metric], one is alone) for metric in METRICS]
    return found


def _with_delay(profile: StepProfile, calibration: Calibration, alone: LiveRun) -> Calibration:
    ((kind, host),) = calibration.hosts.items()
    late_ms = _simulated(profile, calibration, alone)["mean_ttft_ms"] - alone.measured["mean_ttft_ms"]
    delay_s = max(host.request_latency_s - seconds_from_ms(late_ms), 0.0)
    changed = host.model_copy(update={"request_latency_s": delay_s})
    return calibration.model_copy(update={"hosts": {kind: changed}})


def _simulated(profile: StepProfile, calibration: Calibration, one: LiveRun) -> dict[str, float]:
    scn = scenario_of(profile, calibration)
    recipe = Recipe(
        name=profile.name, model=profile.model, hardware=profile.hardware, aggregated=profile.group
    )
    setting = Setting(recipe, one.workload, scn.model, scn.hardware, scn.stack, scn.calibration)
    return metrics_of(run(setting))
