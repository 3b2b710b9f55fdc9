"""A certificate accounts for every recipe, and its front is that of trying everything."""

from __future__ import annotations

import json

import pytest

from planner.certificate import certify
from planner.evaluate import Evaluator, evaluate
from planner.plan import bench_of
from planner.screen import Tally, lawful_candidate, usable
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
    parts = proven.over_gpus + sum(proven.broken.values()) + proven.infeasible + proven.simulated
    assert parts == proven.recipes and proven.simulated > 10


def test_no_recipe_of_the_space_beats_the_front(proven):
    bench = bench_of(request())
    beaten = 0
    for point in every(SPACE):
        candidate = lawful_candidate(bench, SPACE, point, 16, 16, Tally())
        if candidate is None:
            continue
        outcome = evaluate(bench, candidate.recipe, 16, False)
        if usable(outcome):
            assert any(
                p.total_tokens_per_s_per_gpu >= outcome.throughput
                and p.tokens_per_s_per_user >= outcome.interactivity
                for p in proven.front
            )
            beaten += 1
    assert beaten >= proven.simulated > len(proven.front)


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
        == found["over_gpus"] + sum(found["broken"].values()) + found["infeasible"] + (found["simulated"])
    )
    assert found["broken"]["megamoe-cap-prefill"] > 0 and found["front"]
