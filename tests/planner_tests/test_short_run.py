"""Short runs say what whole ones give, whatever the crowd."""

from __future__ import annotations

import pytest

from planner.evaluate import evaluate, setting_for
from planner.plan import bench_of
from planner.plan_types import PlanRequest
from planner.short_run import FEWEST, LEAST_CROWD, ROUNDS, shortened
from search_spaces.public_recipes import public_recipes

REQUEST = PlanRequest(model="deepseek-ai/DeepSeek-V4-Pro", hardware="gb300")
BENCH = bench_of(REQUEST)


def recipe_of(topology):
    return next(r for r in public_recipes("deepseek-v4-pro", "gb300") if r.topology == topology)


@pytest.mark.parametrize(
    ("topology", "concurrency", "rate", "latency"),
    [
        ("6P1D-DEP4-DEP8-MTP2", 1024, 0.03, 0.15),
        ("6P1D-DEP4-DEP8-MTP2", 12_000, 0.06, 0.2),
        ("10P1D-DEP4-DEP32", 2500, 0.05, 0.1),
        ("1P6D-DEP4-TP4-MTP3", 4096, 0.03, 0.05),
    ],
)
def test_a_short_run_says_what_the_whole_one_gives(topology, concurrency, rate, latency):
    recipe = recipe_of(topology)
    short, whole = (evaluate(BENCH, recipe, concurrency, short) for short in (True, False))
    for metric, tolerance in (
        ("total_tokens_per_s_per_gpu", rate),
        ("requests_per_s", rate),
        ("duration_s", rate),
        ("tokens_per_s_per_user", latency),
        ("median_ttft_ms", latency),
        ("mean_e2e_ms", latency),
    ):
        assert short.metrics[metric] == pytest.approx(whole.metrics[metric], rel=tolerance), metric
    assert short.metrics["completed"] == whole.metrics["completed"]


def test_a_run_of_few_users_is_no_shorter_than_the_whole():
    recipe = recipe_of("1P6D-DEP4-TP4-MTP3")
    assert evaluate(BENCH, recipe, 16, True).metrics == evaluate(BENCH, recipe, 16, False).metrics


def test_users_who_would_only_wait_stay_away():
    recipe = recipe_of("1P6D-DEP4-TP4-MTP3")
    few = shortened(setting_for(BENCH, recipe, 64)).workload
    assert (few.concurrency, few.measured_requests) == (64, max(ROUNDS * 64, FEWEST))
    crowd = shortened(setting_for(BENCH, recipe, 20_000)).workload
    assert LEAST_CROWD <= crowd.concurrency < 400 and crowd.measured_requests == ROUNDS * crowd.concurrency
    roomy = shortened(setting_for(BENCH, recipe_of("15P1D-DEP4-DEP12"), 2048)).workload
    assert roomy.concurrency == 2048
