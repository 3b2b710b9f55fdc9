"""What changes when something changes: scenarios beside a base, each simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from planner.costs import TokenCost, token_cost
from planner.field_changes import Change, changed
from planner.parallel import map_all
from planner.setting_record import SettingRecord
from planner.setting_source import hardware_of, model_of
from search_spaces import laws
from search_spaces.base import Noun
from search_spaces.errors import BadInput, Infeasible
from search_spaces.frames import as_frame
from simulator.acceptance import follows_calibration
from simulator.simulate import Prediction, predict
from simulator.world import Setting

COMPARED = ("total_tokens_per_s_per_gpu", "tokens_per_s_per_user", "median_ttft_ms", "median_tpot_ms")
"""Metrics whose differences against the base are stated."""
COST = "cost_per_million_tokens"
MOST_SCENARIOS = 400


class Axis(Noun):
    """A field that takes several values."""

    field: str
    values: tuple[str, ...]


class Scenario(Noun):
    """One combination of changes and what it gives; the base has none."""

    name: str
    changes: dict[str, str]
    """Field in full to its value as it was written."""
    notes: list[str]
    """What followed from the changes, and soft laws that break because of them."""
    topology: str
    num_gpus: int
    hardware: str
    stack: str
    concurrency: int
    prediction: Prediction | None
    """None where the scenario cannot run."""
    cost: TokenCost | None
    differences: dict[str, float]
    """Metric to its value over the base's, minus one; costs as `cost_per_million_tokens`."""
    refused: str = ""
    """Why it cannot run."""

    @property
    def limit(self) -> str:
        """What holds it back."""
        return self.prediction.limit if self.prediction else "cannot run"

    def row(self) -> dict[str, Any]:
        """Changes, metrics, costs and differences (`change_…`) as one flat mapping."""
        flat: dict[str, Any] = {"scenario": self.name, "num_gpus": self.num_gpus, "limit": self.limit}
        flat |= self.changes
        flat |= self.prediction.metrics if self.prediction else {}
        flat |= self.cost.model_dump() if self.cost else {}
        return flat | {f"change_{name}": value for name, value in self.differences.items()}


class WhatIf(Noun):
    """A base and scenarios beside it, all simulated with the same seed unless that is what changes."""

    recipe: str
    model: str
    seed: int
    base: Scenario
    scenarios: list[Scenario]
    axes: list[Axis]
    """Fields with several values, in the order they were given."""
    is_grid: bool
    """Whether the scenarios are all combinations of the axes, the last axis fastest."""
    setting: SettingRecord
    """Of the base."""
    command: str = ""
    """Command line that gives it; empty from Python."""

    def frame(self) -> Any:
        """A pandas frame: the base and each scenario with its metrics, costs and differences."""
        return as_frame([scenario.row() for scenario in (self.base, *self.scenarios)])


def combinations(
    fields: Sequence[tuple[Change, ...]], combine: bool
) -> tuple[list[tuple[Change, ...]], bool]:
    """The scenarios that changes make, and whether they are a grid.

    Two fields with several values make a grid with every other change applied throughout; so do any with
    `combine`. Else each value of each field is a scenario of its own.
    """
    ranges = [values for values in fields if len(values) > 1]
    if not combine and len(ranges) != 2:
        return [(change,) for values in fields for change in values], False
    total = 1
    for values in fields:
        total *= len(values)
    if total > MOST_SCENARIOS:
        raise BadInput(f"set: {total} combinations exceed {MOST_SCENARIOS}; give fewer values")
    return [tuple(changes) for changes in product(*fields)], len(ranges) > 1


def whatif(
    setting: Setting,
    fields: Sequence[tuple[Change, ...]],
    combine: bool = False,
    explain: bool = False,
    workers: int | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> WhatIf:
    """Simulate a base and its changes.

    Args:
        setting: the base, predicted exactly as `simulate.predict` does.
        fields: values of each changed field, as `field_changes.parse_changes` gives them.
        combine: all changes at once (and all combinations of ranges) instead of one at a time.
        explain: also relieve each resource by a tenth in every scenario, for a surer limit.
        workers: processes; None takes all cores.
        on_done: called after each simulation.

    Raises:
        BadInput: a value that its field does not take.
        Infeasible: the base cannot run.
    """
    groups, is_grid = combinations(fields, combine)
    cases = [_Case.of(setting, group) for group in groups]
    runnable = [(case.setting, explain) for case in cases if not case.refused]
    results = map_all(_predict, [(setting, explain), *runnable], workers, on_done)
    first = results.pop(0)
    if isinstance(first, str):
        raise Infeasible(first)
    base = _scenario("base", _Case(setting, (), [], ""), first, {})
    reference = _compared(base)
    scenarios = [
        _scenario(
            ", ".join(change.label for change in case.changes),
            case,
            case.refused or results.pop(0),
            reference,
        )
        for case in cases
    ]
    return WhatIf(
        recipe=setting.recipe.name,
        model=model_of(setting).name,
        seed=setting.seed,
        base=base,
        scenarios=scenarios,
        axes=[Axis(field=v[0].name, values=tuple(change.text for change in v)) for v in fields if len(v) > 1],
        is_grid=is_grid,
        setting=SettingRecord.of(setting),
    )


class _Case:
    """A scenario before it is simulated."""

    def __init__(self, setting: Setting, changes: tuple[Change, ...], notes: list[str], refused: str) -> None:
        self.setting, self.changes, self.notes, self.refused = setting, changes, notes, refused

    @classmethod
    def of(cls, base: Setting, changes: tuple[Change, ...]) -> _Case:
        now, notes = changed(base, changes)
        before = {(v.rule, v.message) for v in _violations(base)}
        broken = [v for v in _violations(now) if (v.rule, v.message) not in before]
        hard = "; ".join(f"{v.message} [{v.rule}]" for v in broken if v.severity == "hard")
        notes += [f"{v.message} [{v.rule}]" for v in broken if v.severity != "hard"]
        return cls(now, changes, notes, hard)


def _violations(setting: Setting) -> list[laws.Violation]:
    return laws.violations(
        setting.recipe, model_of(setting), hardware_of(setting), setting.workload, setting.stack.version
    )


def _predict(task: tuple[Setting, bool]) -> Prediction | str:
    """A prediction, or why there is none."""
    try:
        return predict(*task)
    except Infeasible as error:
        return str(error)


def _scenario(name: str, case: _Case, result: Prediction | str, reference: dict[str, float]) -> Scenario:
    setting = case.setting
    found = None if isinstance(result, str) else result
    price = hardware_of(setting).price_per_gpu_hour
    made = Scenario(
        name=name,
        changes={change.name: change.text for change in case.changes},
        notes=case.notes,
        topology=setting.recipe.topology,
        num_gpus=setting.recipe.num_gpus,
        hardware=hardware_of(setting).name,
        stack=setting.stack.name,
        concurrency=setting.workload.concurrency,
        prediction=found,
        cost=token_cost(setting.recipe.num_gpus, price, found.metrics) if found else None,
        differences={},
        refused=result if isinstance(result, str) else "",
    )
    now = _compared(made)
    differences = {k: now[k] / value - 1 for k, value in reference.items() if k in now and value > 0}
    return made.model_copy(update={"differences": differences})


def _compared(scenario: Scenario) -> dict[str, float]:
    if scenario.prediction is None or scenario.cost is None:
        return {}
    metrics = scenario.prediction.metrics
    return {name: metrics[name] for name in COMPARED} | {COST: scenario.cost.per_million_tokens}


def default_drivers(setting: Setting) -> list[tuple[Change, ...]]:
    """Low and high values of what moves most deployments, for a tornado chart."""
    names = [f"workload.{field}" for field in ("isl", "osl", "concurrency")]
    names += [f"relief.{part}" for part in ("prefill_time", "decode_time", "swa_pool", "full_pool", "slots")]
    names.append("price")
    found: list[tuple[Change, ...]] = [(Change(n, "x0.8"), Change(n, "x1.25")) for n in names]
    if setting.recipe.mtp is not None and follows_calibration(setting.recipe.mtp, setting.workload):
        found.append((Change("mtp.acceptance", "-10%"), Change("mtp.acceptance", "+10%")))
    return found
