"""A certificate accounts for every recipe, and its front is that of trying everything."""

from __future__ import annotations

import json

import pytest

from planner.certificate import certify
from planner.evaluate import Evaluator, evaluate
from planner.plan import bench_of
from planner.screen import Tally, lawful_candidate, objective_value, usable
from search_spaces.errors import BadInput
from search_spaces.space import load_spaces
from simulator.ceiling import ceiling
from tests.planner_tests.samples import servecast
from tests.planner_tests.test_plan import SPACE, request
from tests.planner_tests.test_space_check import space_file


@pytest.fixture(scope="module")
def proven():
    bench = bench_of(request())
    evaluator = Evaluator(bench, None, 1)
    found = certify(SPACE, bench, 16, 16, evaluator, 500)
    evaluator.close()
    return found


def test_every_recipe_is_counted_once(proven):
    parts = proven.over_gpus + sum(proven.broken.values()) + proven.infeasible
    assert parts + proven.ruled_out_by_bound + proven.simulated == proven.recipes
    assert proven.simulated > 3 and proven.ruled_out_by_bound > 3


def everything(concurrency):
    """Recipe and outcome of every lawful recipe of the small space that runs, in full."""
    bench = bench_of(request())
    recipes = {}
    for point in every(SPACE):
        candidate = lawful_candidate(bench, SPACE, point, concurrency, 16, Tally())
        if candidate is not None:
            recipes[candidate.recipe.digest] = candidate.recipe
    found = [(r, evaluate(bench, r, concurrency, False)) for r in recipes.values()]
    return [(r, o) for r, o in found if usable(o)]


@pytest.mark.parametrize("concurrency", [16, 512])
def test_the_front_is_that_of_simulating_everything(concurrency):
    bench = bench_of(request())
    evaluator = Evaluator(bench, None, 1)
    proven = certify(SPACE, bench, concurrency, 16, evaluator, 500)
    evaluator.close()
    rates = [(o.throughput, o.interactivity) for _, o in everything(concurrency)]
    exhaustive = {a for a in rates if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in rates)}
    assert {(p.total_tokens_per_s_per_gpu, p.tokens_per_s_per_user) for p in proven.front} == exhaustive
    assert proven.simulated < len(rates)


@pytest.mark.parametrize("objective", ["balanced", "throughput", "interactivity"])
def test_the_best_recipe_is_that_of_simulating_everything(objective):
    bench = bench_of(request())
    evaluator = Evaluator(bench, None, 1)
    proven = certify(SPACE, bench, 16, 16, evaluator, 500, objective)
    evaluator.close()
    recipe, outcome = max(everything(16), key=lambda item: objective_value(item[1], item[0], objective))
    (best,) = proven.front
    assert (best.num_gpus, best.total_tokens_per_s_per_gpu, best.tokens_per_s_per_user) == (
        recipe.num_gpus,
        outcome.throughput,
        outcome.interactivity,
    )
    assert proven.ruled_out_by_bound > 0


def every(space):
    from itertools import product

    knobs = space.knobs()
    for values in product(*knobs.values()):
        yield dict(zip(knobs, values, strict=True))


def test_the_ceiling_bounds_the_event_loop():
    """Public recipes at their loads and the platforms they are published for."""
    bench = bench_of(request())
    top = ceiling(bench.model, bench.hardware, bench.workload)["total_tokens_per_s_per_gpu"]
    from search_spaces.public_recipes import lane

    for recipe in lane("gb300-disagg-mtp"):
        outcome = evaluate(bench, recipe, recipe.concurrencies[0], True)
        assert 0 < outcome.throughput < top


def test_a_space_too_large_to_enumerate_is_refused():
    bench = bench_of(request())
    evaluator = Evaluator(bench, None, 1)
    (space,) = (s for s in load_spaces("b200", bench.model.name) if s.mode == "disaggregated")
    with pytest.raises(BadInput, match="lawful recipes at concurrency 16, more than 500"):
        certify(space, bench_of(request(hardware="b200")), 16, 16, evaluator, 500)
    evaluator.close()


def test_the_command_prints_counts_that_add_up(tmp_path):
    done = servecast(
        "space", "certify", space_file(tmp_path), "--hardware", "b300", "--num-gpus", 8, "--concurrency", 8,
        "--workers", 1, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert (
        found["recipes"]
        == found["over_gpus"]
        + sum(found["broken"].values())
        + found["infeasible"]
        + found["simulated"]
        + found["ruled_out_by_bound"]
    )
    assert found["broken"]["megamoe-cap-prefill"] > 0 and found["front"]
