"""The segmentation is exact: no other choice of contiguous ranges has less worst regret."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.dispatch import regret_by_count, regrets, segment, segment_for_traffic
from planner.switching import boundary_crossings, traffic_weights


def brute_force(regret, most):
    recipes, loads = regret.shape
    best = np.inf
    for parts in range(1, min(most, loads) + 1):
        for cuts in combinations(range(1, loads), parts - 1):
            bounds = [0, *cuts, loads]
            spans = list(pairwise(bounds))
            for chosen in product(range(recipes), repeat=parts):
                worst = max(regret[r, a:b].max() for r, (a, b) in zip(chosen, spans, strict=True))
                best = min(best, worst)
    return best


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_segments_have_the_least_worst_regret(recipes, loads, most, random):
    regret = np.array([[random.random() for _ in range(loads)] for _ in range(recipes)])
    parts = segment(regret, most)
    assert len(parts) <= most
    assert [i for p in parts for i in range(p.first, p.last + 1)] == list(range(loads))
    assert max(p.regret for p in parts) == pytest.approx(brute_force(regret, most))


def test_regret_is_the_share_lost_against_the_best_and_total_where_a_recipe_cannot_run():
    lost = regrets(np.array([[100.0, 50.0], [80.0, np.nan]]))
    assert lost == pytest.approx(np.array([[0.0, 0.0], [0.2, 1.0]]))


def test_more_recipes_never_raise_the_worst_regret():
    rng = np.random.default_rng(3)
    by_count = regret_by_count(rng.random((6, 8)))
    assert all(a >= b for a, b in pairwise(by_count))


def test_equal_neighbours_become_one_row():
    parts = segment(np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]), 3)
    assert [(p.first, p.last, p.recipe) for p in parts] == [(0, 2, 0)]


def expected_loss(regret, chosen, weights, costs, crossings):
    share = weights / weights.sum()
    own = sum(share[i] * regret[r, i] for i, r in enumerate(chosen))
    return own + sum(crossings[i] * costs[a, b] for i, (a, b) in enumerate(pairwise(chosen)) if a != b)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9999))
def test_segments_for_a_traffic_have_the_least_expected_loss(recipes, loads, most, seed):
    rng = np.random.default_rng(seed)
    regret, weights = rng.random((recipes, loads)) * 0.9, rng.random(loads) + 0.01
    costs, crossings = rng.random((recipes, recipes)), rng.random(max(loads - 1, 0)) * 0.5
    parts = segment_for_traffic(regret, most, weights, costs, crossings)
    chosen = [p.recipe for p in parts for _ in range(p.first, p.last + 1)]
    assert len(parts) <= most and len(chosen) == loads
    best = min(
        expected_loss(regret, every, weights, costs, crossings)
        for every in product(range(recipes), repeat=loads)
        if sum(a != b for a, b in pairwise(every)) < most
    )
    assert expected_loss(regret, chosen, weights, costs, crossings) == pytest.approx(best)


def test_dear_switches_and_rare_loads_make_fewer_rows():
    regret = np.array([[0.0, 0.2, 0.2], [0.2, 0.0, 0.2], [0.2, 0.2, 0.0]])
    free, even = np.zeros((3, 3)), np.ones(3)
    assert len(segment_for_traffic(regret, 3, even, free, np.zeros(2))) == 3
    assert len(segment_for_traffic(regret, 3, even, free + 1, np.ones(2))) == 1
    parts = segment_for_traffic(regret, 1, np.array([0.1, 5.0, 0.1]), free, np.zeros(2))
    assert [p.recipe for p in parts] == [1]


def test_a_recipe_that_cannot_serve_a_load_is_not_chosen_there_however_rare():
    regret = np.array([[0.0, 1.0], [0.3, 0.3]])
    parts = segment_for_traffic(regret, 1, np.array([1e6, 1e-6]), np.zeros((2, 2)), np.zeros(1))
    assert [p.recipe for p in parts] == [1]


def test_traffic_goes_to_the_nearest_load_and_crossings_follow_it():
    weights = traffic_weights([1, 64, 1024], {50: 3.0, 2000: 1.0})
    assert weights.tolist() == [0.0, 3.0, 1.0]
    assert boundary_crossings(weights, 7.0).tolist() == [3.0, 4.0]
    assert traffic_weights([1, 2], {}).tolist() == [1.0, 1.0]
