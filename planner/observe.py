"""Predict runs, make them on a live engine, and compare: the prediction is on disk before the run starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine_adapter.adapter import LaunchCommand, LoadResult, ServerInfo
from engine_adapter.observations import (
    append_record,
    check_appendable,
    load_steps,
    observation_record,
    prediction_record,
    steps_digest,
)
from engine_adapter.sglang_server import SglangServer
from engine_adapter.yaml_files import parse_yaml, read_text
from planner.file_writer import write_files
from planner.live import (
    LiveEngine,
    LiveOptions,
    Say,
    device_name,
    live_recipe,
    now,
    recorded_server,
    steps_of_server,
)
from planner.recipe_source import stack_for
from planner.run_passes import last_seconds, passes_report, passes_text
from planner.text_table import number, percent, table
from profiler.recorder_files import read_passes
from profiler.step_rows import Pass
from profiler.steps import StepDriver, StepPlan
from search_spaces.base import Noun
from search_spaces.errors import BadInput, OutOfTolerance
from search_spaces.recipe import Recipe
from search_spaces.records import MeasuredPoint, Provenance
from search_spaces.stack import StackVersion
from search_spaces.step_profile import StepProfile
from search_spaces.workload import Workload
from simulator.calibration import load_calibration
from simulator.setting import setting_for
from simulator.simulate import predict

SHOWN = (
    "output_tokens_per_s_per_gpu",
    "mean_tpot_ms",
    "median_tpot_ms",
    "mean_ttft_ms",
    "mean_e2e_ms",
)


class Comparison(Noun):
    """One run beside its prediction."""

    id: str
    workload: Workload
    predicted: dict[str, float]
    measured: dict[str, float]

    def error(self, metric: str) -> float:
        """Predicted over measured, less one."""
        return self.predicted[metric] / self.measured[metric] - 1


@dataclass(frozen=True, slots=True)
class Observation:
    """What to run."""

    recipe: Recipe
    workloads: tuple[Workload, ...]
    stack: StackVersion
    steps: StepProfile | None
    steps_file: Path | None
    seed: int
    plan: StepPlan | None = None
    """Steps to measure, into `steps_file`, before anything is predicted."""
    forecasts: tuple[tuple[str, dict[str, float]], ...] = ()
    """Identifier and predicted metrics of each load, once they are on disk."""


def load_workloads(path: str) -> tuple[Workload, ...]:
    """One workload, or a list of them, of a YAML file; lengths are drawn as the live generator draws them.

    Raises:
        BadInput: the file breaks a rule of a workload.
    """
    data = parse_yaml(read_text(path), path)
    items = data if isinstance(data, list) else [data]
    if not items:
        raise BadInput(f"{path}: holds no workload; state isl, osl and concurrency")
    whole = [item | {"harness": "bench_serving"} if isinstance(item, dict) else item for item in items]
    return tuple(Workload.parse(item, f"{path}: workload [{i}]") for i, item in enumerate(whole))


def observation(
    recipe_text: str,
    workloads: str,
    steps: str | None,
    stack: str | None,
    seed: int,
    plan: StepPlan | None = None,
) -> Observation:
    """What the options of the command mean; with a plan the steps are yet to be measured.

    Raises:
        BadInput: steps are to be measured and no file is named for them.
    """
    if plan is not None and not steps:
        raise BadInput("steps is not given and measure_steps writes there; name a file with --steps")
    recipe = live_recipe(recipe_text)
    return Observation(
        recipe=recipe,
        workloads=load_workloads(workloads),
        stack=stack_for(recipe, stack),
        steps=load_steps(steps) if steps and plan is None else None,
        steps_file=Path(steps) if steps else None,
        seed=seed,
        plan=plan,
    )


def predicted(what: Observation, workload: Workload) -> dict[str, float]:
    """Metrics of one run, by the simulator."""
    setting = setting_for(what.recipe, workload, what.stack, load_calibration(), what.seed, what.steps)
    return predict(setting).metrics


def point_id(what: Observation, workload: Workload, made_on: str) -> str:
    """Recipe, load and time."""
    load = f"{workload.isl}-{workload.osl}-c{workload.concurrency}"
    return f"{what.recipe.name}/{load}/{made_on}"


def observe(
    what: Observation,
    options: LiveOptions,
    out: Path,
    say: Say,
    warm_up: bool = True,
    details: Path | None = None,
) -> list[Comparison]:
    """Write every prediction to `out`, then run each load and append what was observed.

    Args:
        what: recipe and loads.
        options: how to reach the engine.
        out: the list of records.
        say: progress.
        warm_up: whether passes of every size that the loads may need run once before the first load.
        details: folder for each run's passes and request times.
    """
    check_appendable(out)
    ready = what if what.plan is not None else forecast(what, out, say)
    with recorded_server(what.recipe, options, Path(f"{out}.log"), say) as live:
        if what.plan is not None and what.steps_file is not None:
            steps_of_server(what.recipe, what.plan, live, what.steps_file, say)
            ready = forecast(replace(what, steps=load_steps(what.steps_file)), out, say)
        if warm_up:
            say(f"warmed up with {warmed_up(live.server, ready)} prompts")
        return [
            observed(ready, index, live, out, say, details / f"run{index}" if details else None)
            for index in range(len(ready.workloads))
        ]


def forecast(what: Observation, out: Path, say: Say) -> Observation:
    """Predict every load and append the predictions to `out`."""
    made_on = now()
    found = []
    for workload in what.workloads:
        name, metrics = point_id(what, workload, made_on), predicted(what, workload)
        append_record(
            out,
            prediction_record(
                name,
                made_on,
                metrics,
                recipe=what.recipe.digest,
                workload=json.loads(workload.model_dump_json()),
                stack=what.stack.name,
                seed=what.seed,
                steps=steps_digest(what.steps) if what.steps else None,
                same_server=what.plan is not None,
            ),
        )
        say(f"predicted {name}: {number(metrics['output_tokens_per_s_per_gpu'])} output tok/s/GPU")
        found.append((name, metrics))
    return replace(what, forecasts=tuple(found))


def observed(
    what: Observation, index: int, live: LiveEngine, out: Path, say: Say, details: Path | None
) -> Comparison:
    """Run one load that has a forecast, and append its record to `out`."""
    workload, (name, metrics) = what.workloads[index], what.forecasts[index]
    say(f"running {name}")
    info = live.server.info()
    result = live.server.run_load(workload, what.recipe.num_gpus, what.seed)
    passes = last_seconds(read_passes(live.recorder), result.duration_s) if live.recorder else []
    point = measured_point(what, name, workload, info, result, live.command)
    record = observation_record(point, metrics, out.parent, what.steps_file)
    if passes:
        record["passes"] = report = passes_report(passes, what.steps)
        say(passes_text(report))
    append_record(out, record)
    if details is not None:
        keep_details(details, passes, result)
    return Comparison(id=name, workload=workload, predicted=metrics, measured=point.measured)


def warmed_up(server: SglangServer, what: Observation) -> int:
    """Run every size of pass that the loads may need, and bursts like theirs; returns the prompts sent."""
    driver = StepDriver(server, what.recipe.serving, StepPlan(), None)
    group = what.recipe.serving
    side_by_side = [
        min(-(-one.concurrency // group.attention_dp), group.max_running_per_rank) for one in what.workloads
    ]
    most = max(n * one.isl for n, one in zip(side_by_side, what.workloads, strict=True))
    sent = driver.warm_up(most, max(side_by_side))
    for n, one in zip(side_by_side, what.workloads, strict=True):
        sent += driver.rehearse(n, max(1, int(one.isl * one.random_range_ratio)), one.isl)
    return sent


def keep_details(folder: Path, passes: Sequence[Pass], result: LoadResult) -> None:
    """Write a run's passes, a line each, and the load generator's record of its requests."""
    rows = [{name: value for name, value in one._asdict().items() if value is not None} for one in passes]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {"passes.jsonl": lines, "requests.json": json.dumps(result.details)}
    write_files(files, folder, force=True)


def measured_point(
    what: Observation,
    name: str,
    workload: Workload,
    info: ServerInfo,
    result: LoadResult,
    command: LaunchCommand | None,
) -> MeasuredPoint:
    """A run as a record that `validate` takes."""
    return MeasuredPoint(
        id=name,
        trust="A",
        model=what.recipe.model,
        hardware=what.recipe.hardware,
        engine=info.engine,
        engine_version=info.engine_version,
        stack=what.stack.name,
        num_gpus=what.recipe.num_gpus,
        recipe=what.recipe,
        workload=workload,
        measured=result.metrics,
        source="servecast observe",
        steps=what.steps,
        provenance=Provenance(
            measured_on=now(),
            seed=what.seed,
            recipe_digest=what.recipe.digest,
            device=device_name(info),
            server_command=command.words if command else (),
            load_command=result.command,
            completed=result.completed,
            duration_s=result.duration_s,
        ),
    )


def comparison_text(found: Sequence[Comparison]) -> str:
    """Predicted, measured and error of the main metrics, per run."""
    lines = []
    for one in found:
        rows = [
            (
                name,
                number(one.predicted[name]),
                number(one.measured[name]),
                percent(one.error(name), signed=True),
            )
            for name in SHOWN
        ]
        lines.append(f"{one.id}\n" + table(rows, ("metric", "predicted", "measured", "error")))
    return "\n\n".join(lines)


def check_errors(found: Sequence[Comparison], max_error_pct: float) -> None:
    """Raise `OutOfTolerance` for output throughput or mean TPOT beyond `max_error_pct`."""
    wrong = [
        f"{one.id}: {name} is predicted {percent(one.error(name), signed=True)} off, above "
        f"max_error={max_error_pct:g} %"
        for one in found
        for name in SHOWN[:2]
        if abs(one.error(name)) * 100 > max_error_pct
    ]
    if wrong:
        raise OutOfTolerance("\n".join(wrong))
