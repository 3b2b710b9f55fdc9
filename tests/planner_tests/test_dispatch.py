"""The segmentation is exact: no other choice of contiguous ranges has less worst regret."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.dispatch import regret_by_count, regrets, segment


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
