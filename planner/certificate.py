"""The proven front of a space that can be enumerated: every recipe is removed by a rule, or simulated.

The fluid model is an estimate, not a bound (the event loop exceeds it by up to a third in short runs), so
it rules nothing out here. The physical ceiling is a bound, and is checked against every simulation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from planner.evaluate import Bench, Evaluator, Outcome
from planner.screen import Tally, lawful_candidate, usable
from planner.text_table import number, table
from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, knob_name, shapes
from search_spaces.space_count import count
from search_spaces.space_points import Site, active_case, load_values, recipe_at, shape_values
from simulator.ceiling import ceiling


class FrontPoint(Noun):
    """A recipe that no other of the space beats on both axes."""

    recipe: str
    topology: str
    num_gpus: int
    total_tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float


class Certificate(Noun):
    """What became of every recipe of a space at one load; the numbers add up to `recipes`."""

    space: str
    concurrency: int
    recipes: int
    """Distinct recipes of the space."""
    over_gpus: int
    broken: dict[str, int]
    """Recipes by the first law that removes them."""
    infeasible: int
    """Simulated to the point where memory or admission fails, or the window pool overflows."""
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
    on_simulated: Callable[[], None] = lambda: None,
) -> Certificate:
    """Simulate every lawful recipe of a space in full, and prove its front within the model.

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
    outcomes: list[tuple[Recipe, Outcome]] = []
    for recipe, _, outcome in evaluator.map([(r, concurrency, False) for r in lawful.values()]):
        outcomes.append((recipe, outcome))
        on_simulated()
    good = [(r, o) for r, o in outcomes if usable(o)]
    top = ceiling(bench.model, bench.hardware, site.workload)["total_tokens_per_s_per_gpu"]
    assert all(o.throughput <= top for _, o in good), "a simulation exceeds the physical ceiling"
    return Certificate(
        space=space.name,
        concurrency=concurrency,
        recipes=counted.recipes,
        over_gpus=over,
        broken=dict(sorted(broken.items())),
        infeasible=len(outcomes) - len(good),
        simulated=len(good),
        ceiling_tokens_per_s_per_gpu=top,
        front=_front(good),
    )


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
    rows = [
        ("distinct recipes", f"{found.recipes:,}"),
        ("  over the GPUs", f"{found.over_gpus:,}"),
        *((f"  removed by {rule}", f"{count:,}") for rule, count in found.broken.items()),
        ("  cannot run (memory, admission, window pool)", f"{found.infeasible:,}"),
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
            "the front is proven within the model",
            table(rows),
            f"Physical ceiling {number(found.ceiling_tokens_per_s_per_gpu)} tok/s/GPU (analytic), "
            "above every simulation",
            table(front, ("recipe", "GPUs", "tok/s/GPU", "tok/s/user")),
        )
    )
