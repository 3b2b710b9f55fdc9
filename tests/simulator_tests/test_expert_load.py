"""Placement of experts, the load it leaves on the slowest rank, and what a step costs with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.expert_load import (
    DRAWS,
    TIMED_ALPHAS,
    group_placement,
    load_factor,
    placed,
    placement_ratio,
    popularity,
    rebalance_s,
    slowest_rank_s,
)
from simulator.expert_placement import arrivals, balanced_slots, held, pack, replicate, trivial_slots
from simulator.kernel_model import kernel_model
from simulator.memory import weight_bytes
from simulator.step_cost import decode_cost, prefill_cost
from simulator.world import prepare
from tests.simulator_tests.test_costs import BATCH, CONTEXT, TOKENS, scenario
from tests.simulator_tests.worlds import PRO, aggregated, fixed, group, setting

SKEW = 0.6
LAYOUTS = (("DEP8", 8), ("DEP8", 16), ("DEP16", 16), ("DEP32", 32))


def test_copies_go_to_the_most_loaded_expert_and_ranks_fill_evenly():
    """By hand: experts 0 (8) and 1 (6) get a copy; 4, 4, 3, 3, 2 and 1 fill three ranks as 6, 5 and 6."""
    load = np.array([[8.0, 6, 2, 1]], np.float32)
    experts, copies = replicate(load, 6)
    assert experts.tolist() == [[0, 1, 2, 3, 0, 1]] and copies.tolist() == [[2, 2, 1, 1]]
    assert balanced_slots(load, 6, 3).tolist() == [[0, 2, 0, 3, 1, 1]]
    rank_of, place_of = pack(np.array([[1.0, 5, 3, 3]], np.float32), 2)
    assert rank_of.tolist() == [[0, 0, 1, 1]] and place_of.tolist() == [[1, 0, 0, 1]]


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.sampled_from((2, 4, 8)),
    each=st.integers(1, 6),
    spare=st.integers(0, 8),
    seed=st.integers(0, 1 << 16),
)
def test_every_expert_has_a_slot_and_every_rank_as_many(ranks, each, spare, seed):
    slots = ranks * each
    experts = max(1, slots - min(spare, slots - 1))
    load = np.random.default_rng(seed).pareto(1.0, (3, experts)).astype(np.float32) + 0.01
    where = balanced_slots(load, slots, ranks)
    copies = held(where, experts, ranks)
    assert (copies.sum(axis=2) == each).all()
    assert (copies.sum(axis=1) >= 1).all()
    assert arrivals(where, where, experts, ranks) == 0
    weight = load / copies.sum(axis=1)
    found = np.einsum("dre,de->dr", copies, weight).max(axis=1)
    # Greedy packing keeps within one item of the mean.
    assert (found <= load.sum(axis=1) / ranks + weight.max(axis=1) * 1.0001).all()


def test_popularity_is_mixed_as_the_tables_are():
    for alpha in (0.0, 0.3, 1.01, 1.1, 1.2):
        assert popularity(384, alpha).sum(axis=1) == pytest.approx(np.ones(DRAWS))
    flat, steep = (load_factor(placed(384, 0, 8, a, False, False)) for a in TIMED_ALPHAS[:2])
    assert flat == pytest.approx(1.0)
    middle = load_factor(placed(384, 0, 8, TIMED_ALPHAS[1] / 2, False, False))
    assert middle == pytest.approx((flat + steep) / 2)


def test_the_load_of_the_benchmark_is_that_of_its_kernels():
    """Compute-bound MegaMoE under power law 1.01 over balanced, one draw each (GB300 tables)."""
    kernels = kernel_model(PRO, scenario().hardware)
    for ep in (4, 8, 16, 32):
        skewed, even = (kernels.megamoe_s(8192.0, ep, a, True, None)[0] for a in (1.01, 0.0))
        ours = load_factor(placed(384, 0, ep, 1.01, False, False))
        assert ours == pytest.approx((skewed / even).item(), rel=0.25), ep


@pytest.mark.parametrize(("layout", "redundant"), LAYOUTS)
def test_a_balancer_takes_most_of_the_excess(layout, redundant):
    usual, balanced = (group(layout, **kw) for kw in ({}, {"eplb": True, "redundant_experts": redundant}))
    before, after = (load_factor(group_placement(PRO, one, SKEW)) for one in (usual, balanced))
    assert 1 <= after < 1 + 0.1 * (before - 1)
    assert load_factor(group_placement(PRO, group(layout, eplb=True), SKEW)) >= after - 1e-3


def test_redundant_experts_without_a_dispatch_rule_idle():
    """384 experts in 400 slots of 40 ranks: 38 ranks hold ten each, and the last none."""
    idle = placed(384, 16, 40, 0.0, False, False)
    assert idle.share[0, 0] == pytest.approx(10 / 384) and idle.share[0, -1] == 0
    assert load_factor(idle) == pytest.approx(400 / 384)
    used = placed(384, 16, 40, 0.0, False, True)
    assert used.share[0, -1] > 0 and used.share.sum(axis=1) == pytest.approx(np.ones(DRAWS))
    assert trivial_slots(384, 400)[0, 384:].tolist() == list(range(16))


def test_nothing_placed_changes_no_time():
    scn = scenario()
    assert placement_ratio(PRO, scn.hardware, scn.group, SKEW, TOKENS) is None
    same = group("DEP8", expert_dispatch="static")
    assert placement_ratio(PRO, scn.hardware, same, SKEW, TOKENS) == pytest.approx(np.ones(len(TOKENS)))


@pytest.mark.parametrize(("layout", "redundant"), LAYOUTS)
def test_balancing_shortens_large_steps_and_few_tokens_less(layout, redundant):
    balanced = scenario(layout=layout, eplb=True, redundant_experts=redundant, eplb_rebalance_steps=10**9)
    before, after = (prefill_cost(s, TOKENS, 8192.0) for s in (scenario(layout=layout), balanced))
    gain = before.seconds["routed_experts"] / after.seconds["routed_experts"]
    assert gain[-1] > 1.15 and gain[0] < gain[-1]
    assert (after.seconds["attention"] == before.seconds["attention"]).all()
    assert after.sources["routed_experts"] == "analytic"


def test_idle_redundant_experts_cost_time_and_memory():
    idle, usual = (scenario(layout="DEP16", redundant_experts=r) for r in (16, 0))
    assert (decode_cost(idle, BATCH, 4096.0).gpu_s > decode_cost(usual, BATCH, 4096.0).gpu_s).all()
    weights = [weight_bytes(PRO, scn.group, 103)["routed_experts"] for scn in (idle, usual)]
    assert weights[0] / weights[1] == pytest.approx(400 / 384)


def test_rebalancing_is_paid_per_step_until_the_load_is_even_enough():
    hardware = scenario().hardware
    often, seldom = (group("DEP8", eplb=True, eplb_rebalance_steps=n) for n in (100, 1000))
    costs = [rebalance_s(PRO, hardware, one, SKEW) for one in (often, seldom)]
    assert costs[0] > 5 * costs[1] > 0
    # At most all 48 experts of a rank arrive: 61 layers of 35 MB each over NVLink, and packing on the host.
    whole = 61 * (48 * PRO.params_expert * 0.53125 / hardware.nvlink_bytes_per_s + 384 * 8 * 3e-7) / 1000
    assert 0.5 * whole < costs[1] <= whole
    enough = group("DEP8", eplb=True, redundant_experts=8, eplb_min_utilization=0.9)
    assert rebalance_s(PRO, hardware, enough, SKEW) == 0
    assert rebalance_s(PRO, hardware, group("DEP8"), SKEW) == 0
    scn = scenario(eplb=True)
    assert decode_cost(scn, 64.0, 4096.0).seconds["expert_rebalance"] > 0


def test_waterfill_spreads_the_shared_expert_over_what_is_free():
    scn = scenario("h200", expert_weights="fp8")
    place = group_placement(PRO, scn.group, SKEW)
    large = np.array([4096.0])
    plain, filled = (slowest_rank_s(PRO, scn.hardware, scn.group, place, large, s) for s in (False, True))
    # The busiest rank has more routed tokens than an even share of all: the shared expert goes elsewhere.
    assert load_factor(place) > 7 / 6
    assert filled == pytest.approx(plain, rel=0.05)
    even = group_placement(PRO, scn.group, 0.0)
    plain, filled = (slowest_rank_s(PRO, scn.hardware, scn.group, even, large, s) for s in (False, True))
    assert filled / plain == pytest.approx(7 / 6, rel=0.02)


def test_waterfill_saves_the_shared_expert_of_large_steps():
    usual, filled = (scenario("h200", expert_weights="fp8", waterfill=w) for w in (False, True))
    before, after = (prefill_cost(s, TOKENS, 8192.0) for s in (usual, filled))
    assert (after.seconds["shared_expert"] == 0).all()
    assert after.gpu_s[-1] < before.gpu_s[-1]
    saved = before.gpu_s - after.gpu_s
    assert saved[-1] <= usual.calibration.slowdown(True, 90) * before.seconds["shared_expert"][-1]


VARIANTS = (
    {"eplb": True},
    {"eplb": True, "redundant_experts": 16},
    {"redundant_experts": 16},
    {"expert_dispatch": "static", "redundant_experts": 16},
    {"waterfill": True, "moe_backend": "deepep", "expert_weights": "fp8"},
)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("layout", ["DEP8", "DEP16"])
def test_more_work_still_never_costs_less(layout, changes):
    scn = scenario(layout=layout, **changes)
    for seconds in (
        decode_cost(scn, BATCH[:, None], CONTEXT[None, :]).gpu_s,
        prefill_cost(scn, TOKENS[:, None], CONTEXT[None, :]).gpu_s,
    ):
        assert np.isfinite(seconds).all() and (seconds > 0).all()
        for axis in (0, 1):
            assert (np.diff(seconds, axis=axis) >= -1e-9).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"eplb": True},
        {"eplb": True, "eplb_rebalance_steps": 10},
        {"eplb": True, "eplb_min_utilization": 0.5},
        {"waterfill": True},
        {"redundant_experts": 8},
        {"redundant_experts": 8, "expert_location": "loads.pt"},
        {"redundant_experts": 8, "expert_dispatch": "dynamic"},
    ],
    ids=str,
)
def test_every_field_reaches_the_simulated_steps(changes):
    """The tables of a run are shared between groups that cost the same; these do not."""
    keys = list(changes)
    fewer = {key: changes[key] for key in keys[:-1]}
    before, after = (
        prepare(setting(aggregated("DEP8", **kw), fixed(1024, 16, 8, 8))).classes.decode_group
        for kw in (fewer, changes)
    )
    assert not np.array_equal(before, after)
