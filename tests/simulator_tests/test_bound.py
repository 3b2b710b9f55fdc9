"""No simulation exceeds the analytic bound, and the bound is worth having."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

import pytest

from benchmarks.soak import random_setting
from search_spaces.errors import Infeasible
from search_spaces.workload import Workload
from simulator.bound import bound
from simulator.calibration import Calibration
from simulator.run import run
from simulator.setting import setting_for
from simulator.simulate import metrics_of
from simulator.world import Relief
from tests.simulator_tests.test_pipelined import RECIPE, steps
from tests.simulator_tests.worlds import JUNE


def pairs(seeds):
    """Bound and metrics of the random settings that run."""
    for seed in seeds:
        setting = random_setting(seed)
        try:
            yield setting, bound(setting), metrics_of(run(setting))
        except Infeasible:
            continue


@pytest.fixture(scope="module")
def simulated():
    return list(pairs(range(20_000, 20_260)))


def test_no_simulation_exceeds_its_bound_on_either_axis_or_both(simulated):
    assert len(simulated) > 150
    for setting, limit, found in simulated:
        throughput, interactivity = found["total_tokens_per_s_per_gpu"], found["tokens_per_s_per_user"]
        assert throughput <= limit.total_tokens_per_s_per_gpu, setting.recipe.name
        assert interactivity <= limit.tokens_per_s_per_user, setting.recipe.name
        assert interactivity <= limit.tokens_per_s_per_user_at(throughput), setting.recipe.name


def test_half_of_the_simulations_reach_more_than_half_of_the_bound(simulated):
    shares = [m["total_tokens_per_s_per_gpu"] / b.total_tokens_per_s_per_gpu for _, b, m in simulated]
    assert median(shares) > 0.6
    users = [
        m["tokens_per_s_per_user"] / b.tokens_per_s_per_user_at(m["total_tokens_per_s_per_gpu"])
        for _, b, m in simulated
        if m["tokens_per_s_per_user"] > 0
    ]
    assert median(users) > 0.4


def test_more_throughput_leaves_less_for_each_user(simulated):
    for _, limit, _ in simulated[:40]:
        top = limit.total_tokens_per_s_per_gpu
        rates = [limit.tokens_per_s_per_user_at(top * share) for share in (0.0, 0.3, 0.6, 0.9, 1.0)]
        assert rates == sorted(rates, reverse=True)
        assert limit.tokens_per_s_per_user_at(top * 1.01) == 0


def test_faster_steps_raise_the_bound():
    for _, limit, _ in pairs(range(20_300, 20_310)):
        assert limit.total_tokens_per_s_per_gpu > 0
    for seed in range(20_300, 20_310):
        setting = random_setting(seed)
        quick = replace(setting, relief=Relief(decode_time=0.5, prefill_time=0.5))
        try:
            assert bound(quick).total_tokens_per_s_per_gpu >= bound(setting).total_tokens_per_s_per_gpu
        except Infeasible:
            continue


def test_measured_steps_whose_host_works_beside_the_gpu_have_no_bound():
    """A lone request's tokens come faster there than the steps that make them follow each other."""
    load = Workload(isl=128, osl=11, random_range_ratio=1, concurrency=1, num_prompts=1)
    pipelined = setting_for(RECIPE, load, JUNE, Calibration(), steps=steps())
    assert bound(pipelined).tokens_per_s_per_user == math.inf
    serial = setting_for(RECIPE, load, JUNE, Calibration(), steps=steps(prefill_turn_s=None))
    assert metrics_of(run(serial))["tokens_per_s_per_user"] <= bound(serial).tokens_per_s_per_user < math.inf
