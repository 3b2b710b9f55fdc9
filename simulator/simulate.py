"""Predict one recipe under one workload, and say what limits it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
from pydantic import Field

from search_spaces.base import Noun
from search_spaces.frames import as_frame
from search_spaces.step_profile import StepProfile
from search_spaces.units import MS_PER_S, seconds_from_ms
from simulator import loop_state as ls
from simulator.ceiling import ceiling
from simulator.draft_shapes import window_at
from simulator.intervals import Interval, Spread, intervals
from simulator.measured_tables import beyond_steps, surfaces
from simulator.memory import MemoryBudget
from simulator.metrics import serving_metrics
from simulator.outage_report import OutageReport, outage_report
from simulator.run import Run, run
from simulator.step_cost import Scenario, decode_cost, prefill_cost
from simulator.step_parts import StepCost
from simulator.world import Relief, Setting

RELIEF = {
    "prefill compute": Relief(prefill_time=1 / 1.1),
    "decode step time": Relief(decode_time=1 / 1.1),
    "window (SWA) pool": Relief(swa_pool=1.1),
    "full KV pool": Relief(full_pool=1.1),
    "request slots": Relief(slots=1.1),
    "frontend": Relief(frontend_time=1 / 1.1),
    "KV transfer": Relief(transfer_time=1 / 1.1),
}
"""Each resource, ten per cent larger or faster."""
STAGES = (
    ("frontend", ls.SEND, ls.ARRIVE),
    ("admission", ls.ARRIVE, ls.GRANT),
    ("prefill queue", ls.GRANT, ls.PREFILL_START),
    ("prefill", ls.PREFILL_START, ls.PREFILL_END),
    ("transfer", ls.PREFILL_END, ls.READY),
    ("hand-over wait", ls.READY, ls.FIRST),
    ("decode", ls.FIRST, ls.DONE),
)


class RoleUse(Noun):
    """How busy one role was, and what it waited for. Shares are of the run's duration."""

    role: str
    prefill_busy_fraction: float
    decode_busy_fraction: float
    mean_batch_per_rank: float
    largest_batch_per_rank: float
    """Mean over steps of the largest rank's batch."""
    mean_context_tokens: float
    mean_prefill_tokens_per_rank: float
    idle_rank_fraction: float
    """Ranks without prompt tokens in prefill steps."""
    blocked_fraction: dict[str, float]
    """Share of rank-time in which the head of the queue waited for this."""
    retractions: int
    swa_overflows: int
    """Decode iterations of a rank that needed more window pages than there are."""
    full_overflows: int
    """The same for pages of the full pool."""
    prefix_hit_fraction: float
    """Prompt tokens found in the radix cache over prompt tokens looked up; 0 without a cache."""


class Prediction(Noun):
    """What a recipe is predicted to give; times in milliseconds, throughput per GPU of all GPUs.

    `intervals` holds 80 % intervals from errors on points that the fit had not seen: of deployments like
    this one, four in five measure within. They are empty where the calibration carries no error bands.
    """

    recipe: str
    concurrency: int
    num_gpus: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    """Metric to its 80 % interval; see `simulator.intervals`."""
    spread: dict[str, Spread] = Field(default_factory=dict)
    """Metric to what parameters and seeds alone contribute, where draws were simulated."""
    limit: str
    """The resource whose relief by a tenth would give the most, or that is saturated."""
    stages_ms: dict[str, float]
    """Mean time of a request in each stage."""
    roles: list[RoleUse]
    warnings: list[str]
    gains: dict[str, float]
    """Share of throughput gained by relieving one resource by a tenth, where it was asked for."""
    breakdown: dict[str, dict[str, dict[str, float | str]]]
    """Role and step kind to component to seconds and source, at the run's mean step."""
    ceiling_fraction: float | None
    """Throughput over the physical ceiling of the platform; None for one that the catalog does not hold."""
    ceiling_split: dict[str, float]
    decode_steps: int
    rank_steps: int
    wall_s: float
    """Processor time this simulation took."""
    outage: OutageReport | None = None
    """Where workers died during the run."""

    def frame(self) -> Any:
        """A pandas frame of one row: metrics and the limit."""
        return as_frame([{"recipe": self.recipe, "limit": self.limit, **self.metrics}])


def _role_use(done: Run, index: int) -> RoleUse:
    totals, role = done.totals[index], done.roles[index]
    group = done.setting.recipe.groups[role]
    span = done.end_s * done.groups_per_role[index]
    steps = max(totals[ls.STEPS_DECODE], 1.0)
    prefills = max(totals[ls.STEPS_PREFILL], 1.0)
    mixed = totals[ls.BUSY_MIXED]
    return RoleUse(
        role=role,
        prefill_busy_fraction=float((totals[ls.BUSY_PREFILL] + mixed) / span),
        decode_busy_fraction=float(totals[ls.BUSY_DECODE] / span),
        mean_batch_per_rank=float(totals[ls.BATCH_SUM] / steps / group.attention_dp),
        largest_batch_per_rank=float(totals[ls.RANK_MAX_SUM] / steps),
        mean_context_tokens=float(totals[ls.CONTEXT_SUM] / max(totals[ls.BATCH_SUM], 1.0)),
        mean_prefill_tokens_per_rank=float(totals[ls.TOKENS_PREFILL] / prefills / group.attention_dp),
        idle_rank_fraction=float(totals[ls.IDLE_RANK_STEPS] / prefills / group.attention_dp),
        blocked_fraction={
            "request slots": float(totals[ls.BLOCKED_SLOTS] / span),
            "full KV pool": float(totals[ls.BLOCKED_FULL] / span),
            "window (SWA) pool": float(totals[ls.BLOCKED_SWA] / span),
        },
        retractions=int(totals[ls.RETRACTIONS]),
        swa_overflows=int(totals[ls.OVERFLOWS]),
        full_overflows=int(totals[ls.FULL_OVERFLOWS]),
        prefix_hit_fraction=float(totals[ls.HIT_TOKENS] / max(totals[ls.LOOKED_UP], 1.0)),
    )


def _stages(done: Run) -> dict[str, float]:
    times = done.reqs.t.copy()
    if not done.setting.recipe.is_disaggregated:
        times[:, ls.GRANT] = times[:, ls.ARRIVE]
        times[:, ls.READY] = times[:, ls.PREFILL_END]
    return {name: float(np.mean(times[:, end] - times[:, begin])) * MS_PER_S for name, begin, end in STAGES}


def _saturated(roles: list[RoleUse], stages: dict[str, float]) -> str:
    """The limit as occupancy shows it: what is full comes before what is busy."""
    for use in roles:
        cause, share = max(use.blocked_fraction.items(), key=lambda item: item[1])
        if share > 0.5:
            return cause
    prefill = next((u for u in roles if u.role == "prefill"), None)
    if prefill is not None:
        if prefill.prefill_busy_fraction > 0.9:
            return "prefill compute"
        waits = {
            "frontend": stages["frontend"],
            "KV transfer": stages["transfer"],
            "prefill compute": stages["prefill queue"] + stages["prefill"],
            "decode step time": stages["decode"],
        }
        return max(waits, key=lambda name: waits[name])
    use = roles[0]
    return "prefill compute" if use.prefill_busy_fraction > use.decode_busy_fraction else "decode step time"


def _warnings(done: Run, roles: list[RoleUse]) -> list[str]:
    steps = done.setting.steps
    found = beyond_steps(steps, done.setting.workload) if steps is not None else []
    crash = not done.setting.stack.has("swa_evict_per_request")
    for use in roles:
        if use.swa_overflows and use.role == "decode":
            effect = "this engine version crashes on the retraction" if crash else "requests are retracted"
            found.append(
                f"decode: window pool exceeded in {use.swa_overflows} rank iterations; {effect}; "
                "raise swa_full_tokens_ratio or lower max_running_per_rank"
            )
        if use.full_overflows and use.role == "decode" and crash:
            found.append(
                f"decode: full KV pool exceeded in {use.full_overflows} rank iterations; this engine version "
                "crashes on the retraction; raise reserved_decode_tokens or lower max_running_per_rank"
            )
        if use.retractions:
            found.append(
                f"{use.role}: {use.retractions} retractions; lower max_running_per_rank or raise memory"
            )
    return found


def _described(cost: StepCost) -> dict[str, dict[str, float | str]]:
    return {
        name: {"seconds": float(np.ravel(value)[0]), "source": cost.sources[name]}
        for name, value in cost.seconds.items()
    }


def _measured_step(steps: StepProfile, use: RoleUse) -> dict[str, dict[str, float | str]]:
    batch, context = max(use.mean_batch_per_rank, 1.0), max(use.mean_context_tokens, 1.0)
    decode = surfaces(steps)["decode"]
    seconds = float(decode.seconds(batch, np.array([context]))[0])
    return {"whole step": {"seconds": seconds, "source": decode.source(batch, context)}}


def _breakdown(setting: Setting, roles: list[RoleUse]) -> dict[str, dict[str, dict[str, float | str]]]:
    if setting.steps is not None:
        return {f"{use.role} decode step": _measured_step(setting.steps, use) for use in roles}
    found = {}
    for use in roles:
        scn: Scenario = setting.scenario(setting.recipe.groups[use.role])
        if use.mean_prefill_tokens_per_rank > 0:
            tokens = np.array([use.mean_prefill_tokens_per_rank])
            found[f"{use.role} prefill step"] = _described(
                prefill_cost(scn, tokens, setting.workload.mean_isl / 2)
            )
        if use.mean_batch_per_rank > 0:
            batch = max(use.mean_batch_per_rank, 1.0)
            window = window_at(setting, scn.group, batch)
            cost = decode_cost(scn, np.array([batch]), use.mean_context_tokens, window=window)
            found[f"{use.role} decode step"] = _described(cost)
    return found


def verdict(done: Run) -> tuple[str, list[str]]:
    """What holds a run back, as occupancy shows it, and what would go wrong on the engine."""
    roles = [_role_use(done, index) for index in range(len(done.roles))]
    return _saturated(roles, _stages(done)), _warnings(done, roles)


def budgets(done: Run) -> dict[str, MemoryBudget]:
    """Memory budget of each role of a run."""
    return dict(zip(done.roles, done.budgets, strict=True))


def _both(one: Relief, other: Relief) -> Relief:
    """The factors of one on top of those of the other."""
    return Relief(**{f.name: getattr(one, f.name) * getattr(other, f.name) for f in fields(Relief)})


def intervals_of(setting: Setting, metrics: dict[str, float]) -> dict[str, Interval]:
    """80 % intervals of a run's metrics, by the requests in flight.

    Of arrivals at a rate the concurrency is a cap; those in flight follow from Little's law.
    """
    load = setting.workload.concurrency
    if setting.workload.request_rate is not None or setting.workload.trace is not None:
        in_flight = metrics["requests_per_s"] * seconds_from_ms(metrics["mean_e2e_ms"])
        load = min(load, max(1, round(in_flight)))
    return intervals(metrics, setting.recipe, load, setting.stack, setting.calibration)


def predict(
    setting: Setting, explain: bool = False, on_progress: Callable[[float], None] | None = None
) -> Prediction:
    """Simulate a setting.

    Args:
        setting: recipe, workload, model, platform, stack, calibration and seed.
        explain: also rerun with each resource relieved by a tenth, and break steps into components.
        on_progress: called with the completed share.

    Raises:
        Infeasible: the recipe does not fit or can never admit a request.
    """
    begun = time.process_time()
    done = run(setting, on_progress)
    metrics = metrics_of(done)
    roles = [_role_use(done, index) for index in range(len(done.roles))]
    stages = _stages(done)
    limit, gains = _saturated(roles, stages), {}
    if explain:
        base = metrics["total_tokens_per_s_per_gpu"]
        for name, relief in RELIEF.items():
            other = metrics_of(run(replace(setting, relief=_both(setting.relief, relief))))
            gains[name] = other["total_tokens_per_s_per_gpu"] / base - 1
        best = max(gains, key=lambda name: gains[name])
        limit = best if gains[best] > 0.01 else limit
    top: dict[str, float] = {}
    if setting.model is not None and setting.hardware is not None:
        top = ceiling(setting.model, setting.hardware, setting.workload)
    highest = top.pop("total_tokens_per_s_per_gpu", None)
    return Prediction(
        recipe=setting.recipe.name,
        concurrency=setting.workload.concurrency,
        num_gpus=setting.recipe.num_gpus,
        metrics=metrics,
        intervals=intervals_of(setting, metrics),
        limit=limit,
        stages_ms=stages,
        roles=roles,
        warnings=_warnings(done, roles),
        gains=gains,
        breakdown=_breakdown(setting, roles) if explain else {},
        ceiling_fraction=metrics["total_tokens_per_s_per_gpu"] / highest if highest else None,
        ceiling_split={name.removeprefix("share: "): share for name, share in top.items()},
        decode_steps=int(done.totals[:, ls.STEPS_DECODE].sum()),
        rank_steps=int(done.totals[:, ls.RANK_STEPS].sum()),
        wall_s=time.process_time() - begun,
        outage=outage_report(done) if setting.outages else None,
    )


def metrics_of(done: Run) -> dict[str, float]:
    """Serving metrics of a run."""
    reqs = done.reqs
    return serving_metrics(
        reqs.i[:, ls.ISL],
        reqs.i[:, ls.OSL],
        reqs.t[:, ls.SEND],
        reqs.t[:, ls.FIRST],
        reqs.t[:, ls.DONE],
        done.setting.recipe.num_gpus,
    )
