"""Steps of the local search, and the screening before it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from planner.climb import Climb
from planner.corrected import Layouts
from planner.evaluate import Evaluator, Outcome, setting_for
from planner.load_search import LoadSearch, spread
from planner.moves import neighbours
from planner.plan import bench_of
from planner.role_sides import Sides
from planner.screen import Candidate, Screening, Tally, lawful_candidate, screen
from planner.search import Search
from search_spaces.errors import Infeasible
from search_spaces.space import load_spaces
from search_spaces.space_points import Site, topologies
from search_spaces.workload import Slo
from simulator.fluid import estimate
from simulator.world import fingerprint
from tests.planner_tests.test_plan import SPACE, request

LOAD = 512


def search_of(evaluator):
    return Search(evaluator.bench, [SPACE], [], 24, evaluator, None, Slo(), "balanced")


def test_neighbours_differ_in_one_knob_that_holds():
    bench = bench_of(request())
    site = Site(bench.model, bench.hardware, bench.workload.at(LOAD))
    space = load_spaces("gb300", bench.model.name)[0]
    point = dict(topologies(space, 24)[0])
    found = neighbours(space, point, site, random.Random(0))
    assert len(found) > 20
    for knob, choice, other in found:
        assert other[knob] == choice
        assert sum(other[k] != point.get(k) for k in other) == 1


def test_recipes_that_the_loop_cannot_tell_apart_are_simulated_once():
    bench = bench_of(request())
    space = load_spaces("gb300", bench.model.name)[0]
    point = dict(topologies(space, 24)[0])
    alike = point | {"decode.skip_tokenizer_init": True}
    other = point | {"decode.mem_fraction_static": 0.85}
    prints = []
    for one in (point, alike, other):
        found = lawful_candidate(bench, space, one, LOAD, 24, Tally())
        assert found is not None
        recipe = found.recipe
        prints.append((recipe.digest, fingerprint(setting_for(bench, recipe, LOAD))))
    assert prints[0][0] != prints[1][0] and prints[0][1] == prints[1][1] != prints[2][1]


def test_a_climb_ends_when_nothing_is_left_to_try():
    evaluator = Evaluator(bench_of(request()), None, 1)
    search = search_of(evaluator)
    climb = Climb(search, 16, Tally())
    candidate = lawful_candidate(evaluator.bench, SPACE, topologies(SPACE, 24)[0], 16, 24, Tally())
    assert candidate is not None
    climb.learn(candidate, Outcome({"total_tokens_per_s_per_gpu": 100.0, "tokens_per_s_per_user": 50.0}))
    proposed = climb.next_batch(1000)
    evaluator.close()
    assert 0 < len(proposed) < 10 and climb.next_batch(1000) == []


@pytest.mark.parametrize("load", [16, 2048])
def test_screening_estimates_each_layout_as_if_it_were_alone(load):
    bench = bench_of(request())
    spaces = load_spaces("gb300", bench.model.name)
    kept, tally, *_ = screen(bench, spaces, 12, Slo(), "throughput", load, 8)
    alone: list[tuple[float, str]] = []
    for space in spaces:
        for point in topologies(space, 12):
            candidate = lawful_candidate(bench, space, point, load, 12, Tally())
            if candidate is not None:
                try:
                    guess = estimate(setting_for(bench, candidate.recipe, load))
                except Infeasible:
                    continue
                alone.append((guess.total_tokens_per_s_per_gpu, candidate.recipe.digest))
    assert tally.screened == len(alone)
    assert kept[0].recipe.digest == max(alone, key=lambda item: item[0])[1]


def test_a_role_is_judged_once_however_many_layouts_share_it():
    bench = bench_of(request())
    sides = Sides(bench, SPACE, 16)
    points = topologies(SPACE, 24)
    first = sides.side("decode", points[0])
    assert all(
        sides.side("decode", p) is first
        for p in points
        if (p["mtp_steps"], p["decode.plan"]) == (points[0]["mtp_steps"], points[0]["decode.plan"])
    )


def at_load(search, load=16):
    """A search at one load that nothing was screened for."""
    none = Layouts(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 6)), np.zeros((0, 2), dtype=np.int64))
    return LoadSearch(search, load, Screening([], Tally(), none, []), lambda: None)


def candidate_at(search, index, **knobs):
    point = topologies(SPACE, 24)[index] | {f"decode.{name}": choice for name, choice in knobs.items()}
    found = lawful_candidate(search.bench, SPACE, point, 16, 24, Tally())
    assert found is not None
    return found


def decode_of(candidate):
    assert candidate.recipe.decode is not None
    return candidate.recipe.decode


def gave(total, user=50.0):
    return Outcome({"total_tokens_per_s_per_gpu": total, "tokens_per_s_per_user": user})


@pytest.fixture
def search():
    evaluator = Evaluator(bench_of(request()), None, 1)
    yield search_of(evaluator)
    evaluator.close()


def test_one_recipe_alone_has_nothing_to_be_crossed_with(search):
    alone, both = at_load(search), at_load(search)
    alone.done = [(candidate_at(search, 0), gave(100.0))]
    both.done = [(candidate_at(search, index), gave(100.0)) for index in (0, 1)]
    assert list(alone._crosses(8)) == []
    first = next(both._crosses(8))
    assert both.tally.considered == 8 and all(c.space == SPACE.name for c in first)


@pytest.mark.parametrize(("total", "taken"), [(110.0, True), (90.0, False)])
def test_a_setting_that_helped_is_given_to_other_recipes(search, total, taken):
    climb = Climb(search, 16, Tally())
    climb.learn(candidate_at(search, 0), gave(100.0))
    for proposed in climb.next_batch(1000):
        climb.learn(proposed, gave(total if decode_of(proposed).swa_full_tokens_ratio == 0.1 else 90.0))
    other = candidate_at(search, -1)
    better = climb.improved(other)
    assert decode_of(other).swa_full_tokens_ratio != 0.1
    assert (decode_of(better).swa_full_tokens_ratio == 0.1) == taken
    assert better.recipe.topology == other.recipe.topology
    assert decode_of(better).mem_fraction_static == decode_of(other).mem_fraction_static


def test_what_helped_at_other_loads_holds_until_it_is_tried(search):
    climb = Climb(search, 16, Tally())
    climb.hear([{("decode.mem_fraction_static", 0.94): 0.1}, {("decode.mem_fraction_static", 0.94): -0.02}])
    before = candidate_at(search, 0)
    assert decode_of(climb.improved(before)).mem_fraction_static == 0.94
    climb.learn(before, gave(100.0))
    for proposed in climb.next_batch(1000):
        climb.learn(proposed, gave(90.0))
    assert climb.improved(before) == before


def test_a_setting_that_a_space_does_not_offer_is_not_taken_from_another(search):
    climb = Climb(search, 16, Tally())
    climb.hear([{("decode.mem_fraction_static", 0.93): 0.1}])
    before = candidate_at(search, 0)
    assert 0.93 not in SPACE.knobs()["decode.mem_fraction_static"]
    assert climb.improved(before) == before


def test_a_load_tries_what_is_good_next_to_it(search):
    first, second = at_load(search, 16), at_load(search, 32)
    for index in (0, 1):
        first._climb.learn(candidate_at(search, index), gave(100.0 + index, 50.0 - index))
    advice = first.advice()
    assert [c.recipe.digest for c in advice.front] == [candidate_at(search, i).recipe.digest for i in (0, 1)]
    assert second.heed([advice], 8) == 2
    assert second.heed([advice], 8) == 0
    assert {c.point["decode.plan"] for c in second.found.values()} == {
        c.point["decode.plan"] for c in advice.front
    }


def test_the_first_few_of_a_front_cover_its_length(search):
    candidate = candidate_at(search, 0)
    front = [Candidate(candidate.recipe, str(index)) for index in range(9)]
    order = [int(c.origin) for c in spread(front)]
    assert order[:4] == [0, 8, 4, 2] and sorted(order) == list(range(9))
