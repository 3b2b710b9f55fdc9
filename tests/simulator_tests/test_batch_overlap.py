"""Communication beside computation: what it hides, what it costs, and where the engine does not do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator import loop_state as ls
from simulator.batch_overlap import deepep_s, overlaps_one_batch, splits_prefill, two_batch_layer
from simulator.kernel_owners import measured, owner_of
from simulator.step_cost import decode_cost, prefill_cost, prefill_step_s
from simulator.step_parts import StepCost
from simulator.world import prepare
from tests.simulator_tests.test_costs import BATCH, CONTEXT, TOKENS, scenario
from tests.simulator_tests.worlds import JUNE, aggregated, fixed, group, setting

DEEPEP: dict[str, Any] = {"moe_backend": "deepep"}
GATHERED: list[tuple[str, str, dict[str, Any]]] = [("h200", "DPA8", {}), ("gb300", "DPA8", {})]
DISPATCHED = [("h200", "DEP8", DEEPEP), ("gb300", "DEP8", DEEPEP)]


def layer(rest: float, routed: float) -> StepCost:
    return StepCost(
        {"attention": np.array([rest]), "routed_experts": np.array([routed])},
        {"attention": "measured", "routed_experts": "fitted"},
    )


@pytest.mark.parametrize(
    ("rest", "experts", "there", "back", "expected"),
    [
        (10, 10, 2, 3, 40),  # all hidden: four slots of computation
        (10, 10, 12, 3, 44),  # dispatch is longer than either
        (1, 1, 8, 8, 32),  # communication alone
        (10, 4, 2, 6, 10 + 4 + 6 + 10),  # combine is longer than the other half's experts
    ],
)
def test_four_slots_take_the_longer_side(rest, experts, there, back, expected):
    both = two_batch_layer(layer(rest, experts + there + back), np.array([there]), np.array([back]), 0.0)
    assert both.gpu_s == pytest.approx(expected)
    assert both.seconds["attention"] == 2 * rest
    assert both.sources["exposed_communication"] == "analytic"


def test_communication_takes_multiprocessors():
    both = two_batch_layer(layer(10, 15), np.array([2.0]), np.array([3.0]), 0.1)
    assert both.gpu_s == pytest.approx(40 + 2 * 0.1 * (2 + 3))


@pytest.mark.parametrize(("platform", "layout", "changes"), GATHERED + DISPATCHED)
def test_two_batches_help_large_steps_and_hurt_small_ones(platform, layout, changes):
    usual = prefill_cost(scenario(platform, layout=layout, **changes), TOKENS, 8192.0).gpu_s
    scn = scenario(platform, layout=layout, two_batch_overlap=True, **changes)
    halves = prefill_cost(scn, TOKENS, 8192.0)
    assert halves.gpu_s[-1] < usual[-1] and halves.gpu_s[0] > usual[0]
    # Nothing that computes is hidden: the gain is at most all communication.
    assert halves.gpu_s[-1] > 0.6 * usual[-1]


@pytest.mark.parametrize(("platform", "layout", "changes"), GATHERED + DISPATCHED)
def test_decode_steps_are_not_split(platform, layout, changes):
    usual, scn = (scenario(platform, layout=layout, two_batch_overlap=t, **changes) for t in (False, True))
    assert (decode_cost(scn, BATCH, 4096.0).gpu_s == decode_cost(usual, BATCH, 4096.0).gpu_s).all()


def test_the_host_launches_every_layer_twice():
    usual, halves = (scenario(two_batch_overlap=t, **DEEPEP) for t in (False, True))
    idle_gpu = np.zeros(1)
    once, twice = (prefill_step_s(s, idle_gpu) - s.host.prefill_base_s for s in (usual, halves))
    assert twice == pytest.approx(2 * once)


def test_halves_do_not_fuse_hyper_connections_across_layers():
    fused = JUNE.toggled(on=("mhc_fused_post_pre",))
    for on, alike in ((False, False), (True, True)):
        found = [
            prefill_cost(scenario(stack=stack, two_batch_overlap=on, **DEEPEP), TOKENS, 4096.0).seconds["mhc"]
            for stack in (JUNE, fused)
        ]
        assert np.array_equal(found[0], found[1]) == alike


@pytest.mark.parametrize(
    "changes",
    [
        {"moe_backend": "megamoe"},
        {"moe_backend": "deepep", "deepep_mode": "low_latency"},
        {"moe_backend": "deepep", "pp": 2},
        {"moe_backend": "flashinfer_mxfp4", "attention_dp": 1, "dp_lm_head": False},
    ],
    ids=str,
)
def test_where_the_engine_runs_one_batch(changes):
    one = group("DEP8", two_batch_overlap=True, **changes)
    assert not splits_prefill(one)
    usual = scenario(**changes)
    asked = replace(usual, group=one)
    assert (prefill_cost(asked, TOKENS, 4096.0).gpu_s == prefill_cost(usual, TOKENS, 4096.0).gpu_s).all()


def test_dispatch_and_combine_are_the_measured_ones():
    scn = scenario("h200", **DEEPEP)
    owner = owner_of(scn.hardware, "deepep_normal", hidden=7168, topk=6, experts=384)
    assert owner is not None
    columns = ("tokens", "dispatch_s", "combine_s")
    tokens, there, back = measured(owner, "deepep_normal", columns, hidden=7168, topk=6, experts=384)
    ours = deepep_s(scn.kernels, tokens, low_latency=False)
    assert np.median(np.abs(ours[0] / there - 1)) < 0.01 and np.median(np.abs(ours[1] / back - 1)) < 0.01
    twice = deepep_s(scn.kernels, 2 * tokens[-1], low_latency=False)
    assert twice[0] == pytest.approx(2 * there[-1])


@pytest.mark.parametrize("platform", ["h200", "gb300"])
def test_one_batch_hides_the_shared_expert(platform):
    usual, scn = (scenario(platform, single_batch_overlap=s, **DEEPEP) for s in (False, True))
    before, after = (decode_cost(s, BATCH, 4096.0) for s in (usual, scn))
    assert (after.gpu_s <= before.gpu_s).all() and after.gpu_s[-1] < before.gpu_s[-1]
    assert (after.seconds["shared_expert"] >= 0).all()
    # On Blackwell the combine is not overlapped with the second expert GEMM.
    routed = after.seconds["routed_experts"] < before.seconds["routed_experts"]
    assert routed.any() == (platform == "h200")
    # A worker that prefills uses the other layout there unless it is told not to.
    assert (prefill_cost(scn, TOKENS, 4096.0).gpu_s == prefill_cost(usual, TOKENS, 4096.0).gpu_s).all()
    told = group("DEP8", single_batch_overlap=True, deepep_mode="low_latency", **DEEPEP)
    assert overlaps_one_batch(told, prefill=True)


@pytest.mark.parametrize("changes", [{"two_batch_overlap": True}, {"single_batch_overlap": True}], ids=str)
@pytest.mark.parametrize(("platform", "layout", "backend"), GATHERED + DISPATCHED)
def test_more_work_still_never_costs_less(platform, layout, backend, changes):
    scn = scenario(platform, layout=layout, **backend, **changes)
    for cost in (
        decode_cost(scn, BATCH[:, None], CONTEXT[None, :]),
        prefill_cost(scn, TOKENS[:, None], CONTEXT[None, :]),
    ):
        assert all((np.asarray(part) >= -1e-12).all() for part in cost.seconds.values())
        for axis in (0, 1):
            assert (np.diff(cost.gpu_s, axis=axis) >= -1e-9).all()


def test_the_simulated_host_launches_twice_too():
    def launch_s(**changes):
        recipe = aggregated("DEP8", hardware="h200", model="flash", **DEEPEP, **changes)
        return prepare(setting(recipe, fixed(1024, 16, 8, 8))).classes.f[0, ls.LAUNCH]

    assert launch_s(two_batch_overlap=True) == pytest.approx(2 * launch_s())


@pytest.mark.parametrize(
    ("field", "part"), [("two_batch_overlap", "prefill_group"), ("single_batch_overlap", "decode_group")]
)
def test_the_fields_reach_the_simulated_steps(field, part):
    def table(**changes):
        recipe = aggregated("DEP8", hardware="h200", model="flash", **DEEPEP, **changes)
        return getattr(prepare(setting(recipe, fixed(1024, 16, 8, 8))).classes, part)

    assert not np.array_equal(table(), table(**{field: True}))
    # The two flags hold for opposite layouts of DeepEP.
    other = "low_latency" if field == "two_batch_overlap" else "normal"
    assert np.array_equal(table(), table(**{field: True}, deepep_mode=other))
