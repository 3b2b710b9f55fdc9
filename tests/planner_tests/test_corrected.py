"""Which layouts are simulated next: area gained, and the fluid model corrected by simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sampler_comparison import hypervolume
from planner.corrected import Correction, Layouts, gains
from planner.evaluate import Outcome
from planner.load_search import nondominated_first
from planner.screen import Candidate

RATES = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), max_size=8)


@given(RATES, st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)))
def test_a_gain_is_the_area_that_a_point_adds(front, point):
    found = gains(np.array([point]), front)[0]
    assert found == pytest.approx(hypervolume([*front, point]) - hypervolume(front), abs=1e-9)


def layouts_of(rates, features):
    logs = np.log(np.array(rates, dtype=float))
    where = np.array([(0, i) for i in range(len(rates))])
    return Layouts(logs, 2 * logs[:, 0], np.array(features, dtype=float), where)


def test_layouts_alike_to_one_that_disappointed_are_put_off():
    # The fluid model deems both families equal; in simulations the first reaches half of that.
    rates = [(10.0, 10.0)] * 12
    features = [[family, k / 6] for family in (0.0, 3.0) for k in range(6)]
    correction = Correction(layouts_of(rates, features))
    for row, share in ((0, 0.5), (2, 0.5), (6, 1.0), (8, 1.0)):
        correction.learn(row, (10 * share, 10 * share), True)
    assert set(correction.next_rows(1, [(9.0, 9.0)])) <= {7, 9, 10, 11}


def test_no_layout_is_proposed_twice_and_broken_ones_not_at_all():
    rates = [(10.0 - k, 1.0 + k) for k in range(9)]
    correction = Correction(layouts_of(rates, [[float(k)] for k in range(9)]))
    correction.learn(0, (0.0, 0.0), False)
    first = correction.next_rows(5, [])
    assert len(set(first)) == 5 and 0 not in first
    second = correction.next_rows(5, [])
    assert sorted(first + second) == list(range(1, 9)) and correction.next_rows(5, []) == []


def test_parents_are_taken_front_by_front():
    def item(throughput, interactivity):
        rates = {"total_tokens_per_s_per_gpu": throughput, "tokens_per_s_per_user": interactivity}
        return Candidate.__new__(Candidate), Outcome(rates)

    inner, front, other = item(1.0, 1.0), item(3.0, 2.0), item(2.0, 3.0)
    found = nondominated_first([inner, front, other])
    assert [o for _, o in found] == [front[1], other[1], inner[1]]
