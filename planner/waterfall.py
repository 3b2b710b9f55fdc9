"""What each optimisation between two engine stacks contributes to one recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from search_spaces.base import Noun
from search_spaces.errors import BadInput, Infeasible
from search_spaces.stack import StackVersion, Switch
from simulator.run import run
from simulator.simulate import metrics_of
from simulator.world import Setting

THROUGHPUT = "total_tokens_per_s_per_gpu"
NOT_MODELLED: dict[Switch, str] = {
    "draft_window_transfer": "acceptance of the first steps after a hand-over is not modelled apart",
}
"""Switches without an effect in the simulator, and why."""


class WaterfallStep(Noun):
    """One switch, turned on in order after those before it."""

    switch: Switch
    total_tokens_per_s_per_gpu: float | None
    """With this switch and those before it; None where the recipe cannot run so."""
    median_tpot_ms: float | None
    gain: float | None
    """Throughput over the step before, minus one."""
    loss_if_left_out: float | None
    """Share of the final throughput that is lost when only this switch is off."""
    note: str = ""


class Waterfall(Noun):
    """From one stack to another, switch by switch."""

    recipe: str
    concurrency: int
    start: str
    end: str
    start_tokens_per_s_per_gpu: float | None
    start_median_tpot_ms: float | None
    end_tokens_per_s_per_gpu: float | None
    end_median_tpot_ms: float | None
    steps: list[WaterfallStep]


def _metrics(setting: Setting) -> dict[str, float]:
    """Throughput and TPOT, or nothing where the recipe does not fit."""
    try:
        found = metrics_of(run(setting))
    except Infeasible:
        return {}
    return {name: found[name] for name in (THROUGHPUT, "median_tpot_ms")}


def waterfall(
    setting: Setting, start: StackVersion, end: StackVersion, on_step: Callable[[], None] = lambda: None
) -> Waterfall:
    """Simulate a recipe along the switches that `end` has and `start` lacks, in the order of `end`.

    Args:
        setting: recipe, workload, model, platform and calibration; its stack is replaced.
        start: stack to begin with.
        end: stack to arrive at.
        on_step: called after every simulation.

    Raises:
        BadInput: `end` adds nothing to `start`.
    """
    added = [s for s in end.switches if not start.has(s)]
    if not added:
        raise BadInput(
            f"stack {end.name!r} has no switch that {start.name!r} lacks; "
            "choose an earlier --from or a later --to"
        )

    def at(stack: StackVersion) -> dict[str, float]:
        found = _metrics(replace(setting, stack=stack))
        on_step()
        return found

    first, last = at(start), at(end)
    before, stack, steps = first, start, []
    for switch in added:
        stack = stack.toggled(on=(switch,))
        now, without = at(stack), at(end.toggled(off=(switch,)))
        steps.append(_step(switch, before, now, without, last))
        before = now
    return Waterfall(
        recipe=setting.recipe.name,
        concurrency=setting.workload.concurrency,
        start=start.name,
        end=end.name,
        start_tokens_per_s_per_gpu=first.get(THROUGHPUT),
        start_median_tpot_ms=first.get("median_tpot_ms"),
        end_tokens_per_s_per_gpu=last.get(THROUGHPUT),
        end_median_tpot_ms=last.get("median_tpot_ms"),
        steps=steps,
    )


def _step(
    switch: Switch,
    before: dict[str, float],
    now: dict[str, float],
    without: dict[str, float],
    last: dict[str, float],
) -> WaterfallStep:
    value, base = now.get(THROUGHPUT), before.get(THROUGHPUT)
    rest, final = without.get(THROUGHPUT), last.get(THROUGHPUT)
    note = NOT_MODELLED.get(switch, "")
    if value is None:
        note = "the recipe does not fit at this step"
    return WaterfallStep(
        switch=switch,
        total_tokens_per_s_per_gpu=value,
        median_tpot_ms=now.get("median_tpot_ms"),
        gain=value / base - 1 if value and base else None,
        loss_if_left_out=1 - rest / final if rest and final else None,
        note=note,
    )
