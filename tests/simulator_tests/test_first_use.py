"""A server just started stands still once per worker that prefills, and drafts spread over a law's width."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import loop_state as ls
from simulator.acceptance import AcceptanceLaw
from simulator.run import run
from simulator.simulate import metrics_of
from simulator.step_cost import decode_cost, prefill_cost, prefill_step_s
from tests.simulator_tests.test_costs import scenario
from tests.simulator_tests.worlds import CALIBRATION, aggregated, fixed, group, setting, split

STALL_S = 7.0
CALIBRATED = CALIBRATION.model_copy(update={"first_use_s": STALL_S})


def duration(recipe, workload, fresh):
    load = workload.model_copy(update={"fresh_server": fresh})
    return metrics_of(run(setting(recipe, load, calibration=CALIBRATED)))["duration_s"]


def test_a_fresh_server_stands_still_once():
    recipe, load = aggregated("TP4"), fixed(1024, 64, 1, 12)
    warm, fresh = duration(recipe, load, False), duration(recipe, load, True)
    assert fresh - warm == pytest.approx(STALL_S, rel=1e-6)


def test_the_standstill_is_in_the_middle_and_medians_hardly_see_it():
    load = fixed(1024, 64, 1, 11).model_copy(update={"fresh_server": True})
    done = run(setting(aggregated("TP4"), load, calibration=CALIBRATED))
    times = done.reqs.t
    ttft = times[:, ls.FIRST] - times[:, ls.SEND]
    assert np.argmax(ttft) == 5 and ttft[5] - np.median(ttft) == pytest.approx(STALL_S, rel=1e-3)


def test_every_worker_that_prefills_stands_still():
    recipe = split(group("DEP4", num_workers=2), group("DEP8"))
    load = fixed(8192, 32, 64, 640)
    warm, fresh = duration(recipe, load, False), duration(recipe, load, True)
    # Two saturated workers stall at the same progress, so that the run is longer by one stall, not by two.
    assert STALL_S * 0.7 < fresh - warm < STALL_S * 1.3


def test_draft_extension_is_launched_after_an_eager_prefill():
    host = CALIBRATION.host("grace")
    for mtp in (0, 1):
        scn = scenario(mtp=mtp)
        cost = prefill_cost(scn, 16.0, 8.0).gpu_s
        launch = scn.model.num_layers * host.prefill_layer_s
        drafts = scn.model.num_mtp_layers * host.prefill_layer_s + host.prefill_draft_s if mtp else 0.0
        assert cost < launch  # the host is the slower side
        assert prefill_step_s(scn, cost) == pytest.approx(launch + drafts + host.prefill_base_s)


def test_unfused_experts_cost_extra_where_tokens_bind_and_a_latency_elsewhere():
    fused, apart = scenario(layout="DEP4"), scenario(layout="DEP4", moe_backend="deepep")
    layers = fused.model.num_layers
    extra = CALIBRATION.unfused_moe_layer_s * layers

    def ratio(cost):
        experts = [cost(scn).seconds["routed_experts"] for scn in (apart, fused)]
        return ((experts[0] - extra) / experts[1]).item()

    small, large = (ratio(lambda scn, t=t: prefill_cost(scn, t, t / 2)) for t in (8.0, 16384.0))
    decode = ratio(lambda scn: decode_cost(scn, 4.0, 4096.0))
    assert 1 < decode < 1.15 and small < large
    assert large == pytest.approx(CALIBRATION.unfused_moe_ratio, rel=0.15)


def test_a_short_run_has_the_mean_of_the_law():
    law, rng = AcceptanceLaw(0.75, 8.0, 0.9), np.random.default_rng(3)
    drawn = law.draw(rng, 10).first
    assert drawn.mean() == pytest.approx(0.75, abs=0.01) and len(set(drawn)) == 10
    again = law.draw(rng, 10).first
    assert sorted(again) == pytest.approx(sorted(drawn)) and list(again) != list(drawn)
    many = law.draw(rng, 20_000).first
    assert many.std() == pytest.approx((12 / (64 * 9)) ** 0.5, rel=0.02)
