"""A plan as text for a terminal."""

from __future__ import annotations

from planner.plan_types import PlanResult
from planner.switching_text import switching_text
from planner.text_table import number, percent, table
from search_spaces import catalog_loader
from search_spaces.dispatch import PredictedMetrics
from search_spaces.units import seconds_from_ms
from search_spaces.workload import Workload
from simulator.ceiling import ceiling


def plan_text(result: PlanResult) -> str:
    """Dispatch table, regret against the number of recipes, counts and the comparison with public recipes."""
    plan = result.table
    head = (
        f"Dispatch table: {plan.model} on {plan.hardware}, up to {plan.num_gpus} GPUs, "
        f"{plan.isl}/{plan.osl} tokens, stack {plan.stack}\n"
        "All figures are simulated; throughput counts input and output tokens over all GPUs.\n"
        "80 %: four in five deployments like this one measure within. A lead is of the objective; a tie is a "
        "lead\nwithin what the prediction errors of two recipes differ by."
    )
    rows = [
        (
            f"{row.min_concurrency}-{row.max_concurrency}",
            row.recipe.topology,
            str(row.recipe.num_gpus),
            number(best.total_tokens_per_s_per_gpu),
            _interval(best.total_tokens_per_s_per_gpu_low, best.total_tokens_per_s_per_gpu_high),
            number(best.tokens_per_s_per_user),
            number(seconds_from_ms(best.median_ttft_ms)),
            number(best.median_tpot_ms),
            percent(row.regret),
            _lead(best),
            best.limit,
        )
        for row in plan.rows
        for best in row.predictions[-1:]
    ]
    header = (
        "concurrency",
        "recipe",
        "GPUs",
        "tok/s/GPU",
        "80 %",
        "tok/s/user",
        "TTFT s",
        "TPOT ms",
        "regret",
        "lead",
        "limit",
    )
    parts = [
        head,
        table(rows, header),
        switching_text(plan),
        _regret(result),
        _counts(result),
        _public(result),
    ]
    if result.skipped:
        parts.append(
            "Concurrencies without a recipe:\n"
            + "\n".join(f"  {load}: {reason}" for load, reason in result.skipped.items())
        )
    return "\n\n".join(part for part in parts if part)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{number(low)} to {number(high)}"


def _lead(best: PredictedMetrics) -> str:
    """How far the choice is ahead of the next recipe, or that it cannot be told from it."""
    if best.runner_up is None:
        return "-"
    return f"tie with {best.runner_up}" if best.tie else percent(best.lead, signed=True)


def _regret(result: PlanResult) -> str:
    rows = [(str(count), percent(value)) for count, value in enumerate(result.regret_by_recipes, 1)]
    return "Worst regret against the number of recipes:\n" + table(rows, ("recipes", "regret"))


def _counts(result: PlanResult) -> str:
    counts = result.counts
    pruned = counts["pruned_by_rule"]
    assert isinstance(pruned, dict)
    by_rule = ", ".join(f"{rule} {count}" for rule, count in pruned.items())
    return (
        f"Recipes considered {counts['considered']}, pruned by rule {sum(pruned.values())}"
        f"{f' ({by_rule})' if by_rule else ''}, "
        f"screened by the fluid model {counts['screened_by_fluid_model']}, "
        f"simulations {counts['simulations']}\n"
        f"{_ceiling(result)}"
    )


def _ceiling(result: PlanResult) -> str:
    """The one true bound, and how far below it the best row is; the fluid model only estimates."""
    plan = result.table
    workload = Workload(isl=plan.isl, osl=plan.osl, random_range_ratio=plan.random_range_ratio)
    top = ceiling(catalog_loader.model(plan.model), catalog_loader.hardware(plan.hardware), workload)
    bound = top["total_tokens_per_s_per_gpu"]
    best = max((p.total_tokens_per_s_per_gpu for row in plan.rows for p in row.predictions), default=0.0)
    return (
        f"Physical ceiling {number(bound)} tok/s/GPU (analytic bound); the best row reaches "
        f"{percent(best / bound)}. The fluid model estimates: what it screens out is not ruled out"
    )


def _public(result: PlanResult) -> str:
    if not result.comparisons:
        return ""
    rows = [
        (
            str(c.concurrency),
            c.public.rsplit("/", 1)[-1],
            number(c.public_tokens_per_s_per_gpu),
            number(c.recommended_tokens_per_s_per_gpu),
            number(c.public_tokens_per_s_per_user),
            number(c.recommended_tokens_per_s_per_user),
        )
        for c in result.comparisons
    ]
    header = ("concurrency", "public recipe", "its tok/s/GPU", "ours", "its tok/s/user", "ours")
    return "Against public recipes at the same concurrency, both simulated:\n" + table(rows, header)
