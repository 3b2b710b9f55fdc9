"""Public recipes beside the best that the search finds for the same GPUs, load and interactivity."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from planner.evaluate import Bench, Evaluator, Outcome
from planner.markdown import markdown_table
from planner.plan import spaces_of
from planner.plan_types import PlanRequest
from planner.risk import lead
from planner.screen import usable
from planner.search import Search
from planner.text_table import number, percent
from search_spaces.base import Noun
from search_spaces.recipe import Recipe
from search_spaces.transition import transition
from search_spaces.workload import Slo

FINALISTS = 3
"""Recipes simulated in full beside the expert's."""
METRIC = "total_tokens_per_s_per_gpu"
HEADER = (
    "concurrency", "GPUs", "expert", "ours", "expert tok/s/GPU", "ours", "expert tok/s/user", "ours", "gain",
    "80 % of the gain", "verdict", "differs in",
)  # fmt: skip
SHOWN = 8
"""Differing fields that a row names."""


class Duel(Noun):
    """One public recipe at one load, and ours; both simulated in full."""

    concurrency: int
    num_gpus: int
    expert: str
    ours: str
    expert_tokens_per_s_per_gpu: float
    tokens_per_s_per_gpu: float
    expert_tokens_per_s_per_user: float
    tokens_per_s_per_user: float
    gain: float
    gain_low: float
    gain_high: float
    tie: bool
    """Whether the gain is within what the prediction errors of two recipes differ by."""
    changes: tuple[str, ...]
    """Fields that differ, with both values."""


def duel(
    request: PlanRequest, bench: Bench, evaluator: Evaluator, expert: Recipe, concurrency: int
) -> Duel | None:
    """Search for a recipe of at most the expert's GPUs that gives each user at least as much.

    Among those, the one with the highest throughput per GPU is ours; it may be the expert's own. None
    where the expert's recipe cannot run at this load under the model.
    """
    (_, _, short), (_, _, full) = evaluator.map([(expert, concurrency, s) for s in (True, False)])
    if not (usable(short) and usable(full)):
        return None
    slo = Slo(min_tokens_per_s_per_user=short.interactivity)
    search = Search(
        bench, spaces_of(request), [expert], expert.num_gpus, evaluator, None, slo, "throughput", request.seed
    )
    search.start_screening([concurrency], request.keep)
    found = search.run(concurrency, request.trials, lambda: None)
    ranked = sorted(
        (
            (outcome.throughput, recipe)
            for recipe, _, outcome in evaluator.map([(c.recipe, concurrency, True) for c in found.values()])
            if usable(outcome) and outcome.interactivity >= short.interactivity
        ),
        key=lambda item: -item[0],
    )
    best, outcome = expert, full
    for recipe, _, other in evaluator.map([(r, concurrency, False) for _, r in ranked[:FINALISTS]]):
        able = usable(other) and other.interactivity >= full.interactivity
        if able and other.throughput > outcome.throughput:
            best, outcome = recipe, other
    return _compared(request, bench, concurrency, (expert, full), (best, outcome))


def _compared(
    request: PlanRequest,
    bench: Bench,
    concurrency: int,
    expert: tuple[Recipe, Outcome],
    ours: tuple[Recipe, Outcome],
) -> Duel:
    ahead = lead(
        request.model_copy(update={"objective": "throughput"}),
        bench,
        ours[1].throughput,
        expert[1].throughput,
        expert[0].topology,
    )
    bands = bench.calibration.error_bands
    noise = bands.pairs[METRIC].half_width if bands and METRIC in bands.pairs else 0.0
    same = ours[0].digest == expert[0].digest
    changes = [] if same else transition(expert[0], ours[0]).changes
    return Duel(
        concurrency=concurrency,
        num_gpus=expert[0].num_gpus,
        expert=expert[0].name,
        ours=f"{ours[0].topology}, {ours[0].num_gpus} GPUs" if not same else "the expert's own",
        expert_tokens_per_s_per_gpu=expert[1].throughput,
        tokens_per_s_per_gpu=ours[1].throughput,
        expert_tokens_per_s_per_user=expert[1].interactivity,
        tokens_per_s_per_user=ours[1].interactivity,
        gain=ahead.fraction,
        gain_low=0.0 if same else (1 + ahead.fraction) * math.exp(-noise) - 1,
        gain_high=0.0 if same else (1 + ahead.fraction) * math.exp(noise) - 1,
        tie=ahead.within_noise,
        changes=tuple(f"{c.role}.{c.field} {c.before} → {c.after}" for c in changes),
    )


def duels(
    request: PlanRequest,
    bench: Bench,
    evaluator: Evaluator,
    experts: list[Recipe],
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Duel]:
    """Every public recipe at every load it is dispatched at, by load."""
    points = sorted({(load, r.name, r) for r in experts for load in r.concurrencies}, key=lambda p: p[:2])
    found = []
    for index, (load, _, recipe) in enumerate(points):
        one = duel(request, bench, evaluator, recipe, load)
        on_done(index + 1, len(points))
        found += [one] if one is not None else []
    return found


def _differences(one: Duel) -> str:
    more = len(one.changes) - SHOWN
    return "; ".join((*one.changes[:SHOWN], *([f"{more} more"] if more > 0 else []))) or "-"


def experts_page(lane: str, command: str, request: PlanRequest, found: list[Duel]) -> str:
    """The page: what is compared, how far to trust it, and a row per public recipe and load."""
    leads = sum(not d.tie for d in found)
    same = sum(d.gain == 0 for d in found)
    rows = [
        (
            str(d.concurrency),
            str(d.num_gpus),
            d.expert.rsplit("/", 1)[-1],
            d.ours,
            number(d.expert_tokens_per_s_per_gpu),
            number(d.tokens_per_s_per_gpu),
            number(d.expert_tokens_per_s_per_user),
            number(d.tokens_per_s_per_user),
            f"{d.gain:+.1%}",
            "-" if d.gain == 0 else f"{d.gain_low:+.1%} to {d.gain_high:+.1%}",
            "same recipe" if d.gain == 0 else "tie" if d.tie else "lead",
            "; ".join(d.changes[:SHOWN])
            + (f"; {len(d.changes) - SHOWN} more" if len(d.changes) > SHOWN else "")
            or "-",
        )
        for d in found
    ]
    return (
        "\n\n".join(
            (
                f"# Public recipes beside ours: {lane}",
                f"Written by `{command}`.",
                "**Both sides are simulated; nothing here was measured on GPUs.** The expert's "
                "recipe and ours run "
                f"through the same event loop at {request.isl}/{request.osl} tokens on stack "
                f"{request.stack}. What "
                "the model's errors on measured points are is in [accuracy.md](accuracy.md): a "
                "recipe that exploits "
                "an error of the model looks better than it is. The interval is what the errors "
                "of two recipes of "
                "one lane differ by, four times in five, around the simulated gain; a gain "
                "within that band is a "
                "tie, not a lead. A recipe that was found by search and never ran on an engine "
                "may also fail for "
                "reasons that no law here knows.",
                "Ours has at most the expert's GPUs and gives each user at least as many tokens "
                "a second; among "
                f"those it has the highest throughput per GPU that {request.keep} screened recipes and "
                f"{request.trials} trials found, the expert's own included.",
                f"{len(found)} operating points: {leads} leads, {len(found) - leads - same} ties, "
                f"{same} where the "
                "search found nothing better. Median gain "
                f"{percent(median(d.gain for d in found)) if found else 0}.",
                markdown_table(rows, HEADER),
            )
        )
        + "\n"
    )
