"""The proven front of a space that can be enumerated: recipes are simulated, or removed by rule or bound.

Candidates are simulated in the order of the fluid estimate. After each few, every recipe whose upper bound
(`simulator.bound`) is dominated by what was simulated is removed: the event loop cannot take it there. The
fluid model is an estimate, not a bound (the event loop exceeds it by up to a third in short runs), so it
orders and rules nothing out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

from planner.dominance import Front
from planner.dominance import most as ceiling_of
from planner.evaluate import Bench, Evaluator, Outcome, setting_for
from planner.screen import Tally, lawful_candidate, objective_value, usable
from planner.text_table import number, table
from search_spaces.base import Noun
from search_spaces.errors import BadInput, Infeasible
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, knob_name, shapes
from search_spaces.space_count import count
from search_spaces.space_points import Site, active_case, load_values, recipe_at, shape_values
from simulator.bound import Bound, bound
from simulator.ceiling import ceiling
from simulator.fluid import FluidEstimate, estimate

SHARE = 4
"""Recipes simulated per process between looks at the bounds."""


class FrontPoint(Noun):
    """A recipe that no other of the space beats on both axes."""

    recipe: str
    topology: str
    num_gpus: int
    total_tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float


class Certificate(Noun):
    """What became of every recipe of a space at one load; the numbers add up to `recipes`."""

    objective: str = "front"
    """What is proven: the front of both axes, or the best recipe by one objective."""

    space: str
    concurrency: int
    recipes: int
    """Distinct recipes of the space."""
    over_gpus: int
    broken: dict[str, int]
    """Recipes by the first law that removes them."""
    infeasible: int
    """Simulated to the point where memory or admission fails, or the window pool overflows."""
    ruled_out_by_bound: int
    """Not simulated: their upper bound is dominated by recipes that were."""
    simulated: int
    ceiling_tokens_per_s_per_gpu: float
    """Physical bound of any recipe of this model, platform and workload (analytic)."""
    front: tuple[FrontPoint, ...]


def every_point(space: SearchSpace, site: Site) -> Iterator[dict[str, Any]]:
    """Every point with the knobs that hold at its layout alone."""
    for steps, layout in shapes(space):
        base: dict[str, Any] = {"mtp_steps": steps}
        choices: dict[str, tuple[Any, ...]] = {}
        parts = [("deployment", load_values(site, space.mode == "disaggregated", steps))]
        for role, (plan, workers) in zip(space.roles, layout, strict=True):
            base |= {f"{role}.plan": plan, f"{role}.workers": workers}
            parts.append((role, shape_values(site, role, plan, workers, steps)))
        for part, values in parts:
            for field, cases in space.fields(part).items():
                index = active_case(cases, values)
                if len(cases[index].choices) > 1:
                    choices[knob_name(part, field, index, cases)] = cases[index].choices
        for picked in product(*choices.values()):
            yield base | dict(zip(choices, picked, strict=True))


def certify(
    space: SearchSpace,
    bench: Bench,
    concurrency: int,
    num_gpus: int,
    evaluator: Evaluator,
    most: int,
    objective: str = "front",
    on_simulated: Callable[[], None] = lambda: None,
) -> Certificate:
    """Prove the front of a space at one load within the model, or its best recipe by an objective.

    Raises:
        BadInput: more than `most` recipes keep the laws.
    """
    site = Site(bench.model, bench.hardware, bench.workload.at(concurrency))
    counted = count(space, site, num_gpus, bench.stack.version)
    if counted.lawful > most:
        raise BadInput(
            f"space {space.name!r} has {counted.lawful:,} lawful recipes at concurrency {concurrency}, "
            f"more than {most:,} to simulate; narrow it or raise --max-recipes"
        )
    lawful, broken, over = _sorted(space, bench, concurrency, num_gpus, site)
    queue, unfit = _queue(bench, lawful.values(), concurrency)
    outcomes: list[tuple[Recipe, Outcome]] = []
    front, best, ruled_out = Front(), 0.0, 0
    while queue:
        batch, queue = queue[: SHARE * evaluator.workers], queue[SHARE * evaluator.workers :]
        for recipe, _, outcome in evaluator.map([(r, concurrency, False) for r, _ in batch]):
            outcomes.append((recipe, outcome))
            front.add(outcome)
            if usable(outcome) and objective != "front":
                best = max(best, objective_value(outcome, recipe, objective))
            on_simulated()
        left = [
            (r, limit)
            for r, limit in queue
            if not (front.covers(limit) if objective == "front" else ceiling_of(limit, r, objective) <= best)
        ]
        ruled_out += len(queue) - len(left)
        queue = left
    good = [(r, o) for r, o in outcomes if usable(o)]
    top = ceiling(bench.model, bench.hardware, site.workload)["total_tokens_per_s_per_gpu"]
    assert all(o.throughput <= top for _, o in good), "a simulation exceeds the physical ceiling"
    proven = _front(good)
    if objective != "front" and good:
        ranked = max(good, key=lambda item: objective_value(item[1], item[0], objective))
        proven = _front([ranked])
    return Certificate(
        objective=objective,
        space=space.name,
        concurrency=concurrency,
        recipes=counted.recipes,
        over_gpus=over,
        broken=dict(sorted(broken.items())),
        infeasible=unfit + len(outcomes) - len(good),
        ruled_out_by_bound=ruled_out,
        simulated=len(good),
        ceiling_tokens_per_s_per_gpu=top,
        front=proven,
    )


def _queue(
    bench: Bench, recipes: Iterable[Recipe], concurrency: int
) -> tuple[list[tuple[Recipe, Bound]], int]:
    """Recipes with their bounds in the order of simulation, and how many have no memory for any request.

    What the fluid model deems best on one axis, the other, and both comes first, in turn: then the front
    is soon near its final place.
    """
    found: list[tuple[Recipe, Bound, FluidEstimate]] = []
    unfit = 0
    for recipe in recipes:
        setting = setting_for(bench, recipe, concurrency)
        try:
            found.append((recipe, bound(setting), estimate(setting)))
        except Infeasible:
            unfit += 1
    worth: tuple[Callable[[FluidEstimate], float], ...] = (
        lambda e: e.total_tokens_per_s_per_gpu,
        lambda e: e.tokens_per_s_per_user,
        lambda e: e.total_tokens_per_s_per_gpu * e.tokens_per_s_per_user,
    )
    orders = []
    for value in worth:
        values = [value(guess) for _, _, guess in found]
        orders.append(sorted(range(len(found)), key=[-v for v in values].__getitem__))
    order = dict.fromkeys(i for turn in zip(*orders, strict=True) for i in turn)
    return [(found[i][0], found[i][1]) for i in order], unfit


def _sorted(
    space: SearchSpace, bench: Bench, concurrency: int, num_gpus: int, site: Site
) -> tuple[dict[str, Recipe], Counter[str], int]:
    """Lawful recipes by digest, and distinct ones by what removes them."""
    lawful: dict[str, Recipe] = {}
    seen: dict[str, set[str]] = {}
    for point in every_point(space, site):
        tally = Tally()
        candidate = lawful_candidate(bench, space, point, concurrency, num_gpus, tally)
        if candidate is not None:
            lawful[candidate.recipe.digest] = candidate.recipe
            continue
        (rule,) = tally.pruned
        seen.setdefault(rule, set()).add(recipe_at(space, point, *site).digest)
    over = len(seen.pop("num-gpus", set()))
    return lawful, Counter({rule: len(digests) for rule, digests in seen.items()}), over


def _front(good: list[tuple[Recipe, Outcome]]) -> tuple[FrontPoint, ...]:
    found, best = [], -1.0
    for recipe, outcome in sorted(good, key=lambda i: (-i[1].throughput, -i[1].interactivity)):
        if outcome.interactivity > best:
            best = outcome.interactivity
            found.append(
                FrontPoint(
                    recipe=recipe.name,
                    topology=recipe.topology,
                    num_gpus=recipe.num_gpus,
                    total_tokens_per_s_per_gpu=outcome.throughput,
                    tokens_per_s_per_user=outcome.interactivity,
                )
            )
    return tuple(found)


def certificate_text(found: Certificate) -> str:
    """Counts that add up, and the front."""
    what = "the front" if found.objective == "front" else f"the best recipe by {found.objective}"
    rows = [
        ("distinct recipes", f"{found.recipes:,}"),
        ("  over the GPUs", f"{found.over_gpus:,}"),
        *((f"  removed by {rule}", f"{count:,}") for rule, count in found.broken.items()),
        ("  cannot run (memory, admission, window pool)", f"{found.infeasible:,}"),
        ("  upper bound dominated by simulated recipes", f"{found.ruled_out_by_bound:,}"),
        ("  simulated in full", f"{found.simulated:,}"),
        ("  left out by an estimate", "0"),
    ]
    front = [
        (p.topology, str(p.num_gpus), number(p.total_tokens_per_s_per_gpu), number(p.tokens_per_s_per_user))
        for p in found.front
    ]
    return "\n\n".join(
        (
            f"Certificate of {found.space} at concurrency {found.concurrency}: "
            f"{what} is proven within the model",
            table(rows),
            f"Physical ceiling {number(found.ceiling_tokens_per_s_per_gpu)} tok/s/GPU (analytic), "
            "above every simulation",
            table(front, ("recipe", "GPUs", "tok/s/GPU", "tok/s/user")),
        )
    )
