"""Public recipes beside ours: never worse than the expert's, and the page says what it is."""

from __future__ import annotations

import pytest

from planner.evaluate import Evaluator
from planner.experts import duel, experts_page
from planner.plan import bench_of
from search_spaces.public_recipes import lane
from tests.planner_tests.test_plan import request


@pytest.fixture(scope="module")
def fought():
    asked = request(trials=6, keep=4)
    evaluator = Evaluator(bench_of(asked), None, 1)
    expert = next(r for r in lane("gb300-disagg-mtp") if 256 in r.concurrencies)
    found = duel(asked, evaluator.bench, evaluator, expert, 256)
    evaluator.close()
    return expert, found


def test_ours_is_not_worse_on_either_axis_within_the_same_gpus(fought):
    expert, found = fought
    assert found.expert == expert.name and found.num_gpus == expert.num_gpus
    assert found.tokens_per_s_per_gpu >= found.expert_tokens_per_s_per_gpu
    assert found.tokens_per_s_per_user >= found.expert_tokens_per_s_per_user


def test_a_gain_has_an_interval_and_changes_or_is_the_same_recipe(fought):
    _, found = fought
    if found.gain == 0:
        assert found.changes == () and found.gain_high == 0
    else:
        assert found.gain_low < found.gain < found.gain_high and found.changes
        assert found.tie == (found.gain_low < 0)


def test_the_page_says_that_both_sides_are_simulated(fought):
    text = experts_page("gb300-disagg-mtp", "servecast", request(), [fought[1]])
    assert "Both sides are simulated" in text and "accuracy.md" in text
    assert fought[0].name.rsplit("/", 1)[-1] in text
