"""Laws and closed forms of the compiled event loop."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.errors import Infeasible
from search_spaces.mtp import AdaptiveSteps, Mtp
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration, HostCosts
from simulator.cost_tables import CONTEXT_AXIS, TOKEN_AXIS
from simulator.run import run
from simulator.simulate import metrics_of, predict
from tests.simulator_tests.worlds import (
    JUNE,
    V0523,
    aggregated,
    finished,
    fixed,
    group,
    rank_columns,
    rank_quantities,
    setting,
    split,
    table_1d,
    table_2d,
    throughput,
    watched,
)

DRAFTS = (
    Mtp(num_steps=3, simulated_accept_length=2.49),
    Mtp(num_steps=7, simulated_accept_length=3.0, simulated_accept_method="multinomial"),
    Mtp(num_steps=3, adaptive=AdaptiveSteps()),
    Mtp(num_steps=3, adaptive=AdaptiveSteps(), simulated_accept_length=1.4),
    Mtp(num_steps=7, algorithm="dspark"),
    Mtp(num_steps=5, algorithm="dspark", verify="compact", verify_costs="costs.json"),
)
"""Drafts beside the plain one, whose steps carry requests by more or less than one unit."""
LAYOUTS = ("TP4", "TP8", "DEP4", "DEP8", "DPA4")


@st.composite
def small_settings(draw):
    """Any deployment on GB300 that fits, with a load of at most 400 requests."""
    mtp = draw(st.one_of(st.integers(0, 3), st.sampled_from(DRAFTS)))
    layout = draw(st.sampled_from(LAYOUTS))
    model = "flash" if layout == "DPA4" else draw(st.sampled_from(["pro", "flash"]))
    common = {
        "max_running_per_rank": draw(st.sampled_from([1, 3, 16, 64])),
        "chunk_tokens_per_rank": draw(st.sampled_from([256, 1024, 8192, 32768])),
        "swa_full_tokens_ratio": draw(st.sampled_from([0.02, 0.1, 0.3])),
        "graph_max_batch_per_rank": draw(st.sampled_from([0, 4, 512])),
        "max_total_tokens": draw(st.sampled_from([None, 40_000, 200_000])),
        "dense_tp1": draw(st.booleans()),
        "load_balance": draw(st.sampled_from(["auto", "total_requests"])),
    }
    workers = draw(st.integers(1, 3))
    policy = draw(st.sampled_from(["round_robin", "random", "load"]))
    if draw(st.booleans()):
        recipe = aggregated(
            layout,
            mtp,
            model=model,
            num_workers=workers,
            prefill_delayer=draw(st.booleans()),
            prefill_decode_interval=draw(st.sampled_from([0, 3])),
            mixed_chunk=draw(st.booleans()) and not mtp,
            **common,
        )
    else:
        prefill = group(draw(st.sampled_from(LAYOUTS)), num_workers=workers, **common)
        decode = group(
            layout,
            mtp,
            num_workers=draw(st.integers(1, 2)),
            decode_polling_interval=draw(st.sampled_from([1, 8])),
            **common,
        )
        recipe = split(prefill, decode, model=model, policy=policy)
    concurrency = draw(st.integers(1, 200))
    load = Workload(
        isl=draw(st.sampled_from([1, 200, 1024, 8192])),
        osl=draw(st.sampled_from([1, 2, 30, 300])),
        random_range_ratio=draw(st.sampled_from([0.0, 0.8, 1.0])),
        concurrency=concurrency,
        num_prompts=draw(st.integers(1, 400)),
    )
    return setting(recipe, load, draw(st.sampled_from([JUNE, V0523])), seed=draw(st.integers(0, 5)))


def assert_ordered(what, times):
    """SEND <= ARRIVE <= GRANT <= PREFILL_START <= PREFILL_END <= READY <= FIRST <= DONE, where they apply."""
    stages = [ls.SEND, ls.ARRIVE, ls.PREFILL_START, ls.PREFILL_END, ls.FIRST, ls.DONE]
    if what.recipe.is_disaggregated:
        stages = [
            ls.SEND,
            ls.ARRIVE,
            ls.GRANT,
            ls.PREFILL_START,
            ls.PREFILL_END,
            ls.READY,
            ls.FIRST,
            ls.DONE,
        ]
    assert (times[:, stages] >= 0).all()
    assert (np.diff(times[:, stages], axis=1) >= 0).all()


def most_in_flight(times):
    """Largest number of requests between send and last token; an end and the send it causes coincide."""
    moments = np.concatenate([times[:, ls.SEND], times[:, ls.DONE]])
    change = np.concatenate([np.ones(len(times)), -np.ones(len(times))])
    order = np.lexsort((change, moments))
    return int(np.cumsum(change[order]).max())


def assert_everything_is_returned(state):
    """Queues are empty and pools hold nothing but what lingers of requests that just finished."""
    ints, floats = state.ranks.i, state.ranks.f
    for column in (ls.RUNNING, ls.Q_LEN, ls.C_TOKENS):
        assert not ints[:, column].any(), column
    for column in (ls.Q_HEAD, ls.Q_TAIL, ls.R_HEAD, ls.R_TAIL, ls.C_HEAD):
        assert (ints[:, column] == -1).all() or column == ls.C_HEAD
    assert (ints[:, ls.ACTIVE] == ints[:, ls.LINGER]).all()
    assert (state.ranks.calendar == -1).all()
    assert floats[:, ls.USED_FULL] == pytest.approx(floats[:, ls.LINGER_FULL], abs=1e-4)
    assert floats[:, ls.USED_SWA] == pytest.approx(floats[:, ls.LINGER_SWA], abs=1e-4)
    for column in (ls.CONTEXT, ls.ACCEPT, ls.Q_TOKENS):
        assert floats[:, column] == pytest.approx(0.0, abs=1e-4), column
    assert state.world.counters[ls.HEAP_SIZE] == 0


@settings(max_examples=120, deadline=None)
@given(what=small_settings())
def test_every_request_completes_once_and_returns_what_it_held(what):
    try:
        state = finished(what)
    except Infeasible:
        return
    times, load = state.reqs.t, what.workload
    assert state.world.counters[ls.COMPLETED] == load.measured_requests == len(times)
    assert_ordered(what, times)
    assert most_in_flight(times) <= load.concurrency
    assert_everything_is_returned(state)


@settings(max_examples=25, deadline=None)
@given(what=small_settings())
def test_pools_and_slots_hold_at_every_moment(what):
    try:
        states = watched(what, 0.37)
        for state in states:
            for row in state.groups.i:
                ranks = slice(row[ls.RANK0], row[ls.RANK0] + row[ls.RANKS])
                c = row[ls.CLASS]
                running = state.ranks.i[ranks, ls.RUNNING]
                assert (running >= 0).all() and (running <= state.classes.i[c, ls.MAX_RUNNING]).all()
                assert (state.ranks.i[ranks, ls.ACTIVE] >= running).all()
                used = state.ranks.f[ranks, ls.USED_FULL]
                # What a batch grows by in one step may lack before somebody is sent back.
                assert (used >= -1e-6).all() and (used <= state.classes.f[c, ls.FULL] + 1024).all()
    except Infeasible:
        return


@settings(max_examples=25, deadline=None)
@given(what=small_settings())
def test_nobody_is_busy_for_longer_than_the_run(what):
    try:
        roles = predict(what).roles
    except Infeasible:
        return
    for use in roles:
        assert 0 <= use.prefill_busy_fraction + use.decode_busy_fraction <= 1 + 1e-9
        assert 0 <= use.idle_rank_fraction <= 1
        assert all(0 <= share <= 1 + 1e-9 for share in use.blocked_fraction.values())


@settings(max_examples=20, deadline=None)
@given(what=small_settings())
def test_one_seed_gives_one_run(what):
    try:
        one, two = finished(what), finished(what)
    except Infeasible:
        return
    assert np.array_equal(one.reqs.t, two.reqs.t)
    assert np.array_equal(one.reqs.i, two.reqs.i)
    assert np.array_equal(one.world.totals, two.world.totals)


def test_windows_of_the_outer_clock_change_nothing():
    what = setting(aggregated("DEP4", 1), Workload(isl=2048, osl=100, concurrency=32))
    whole = finished(what).reqs.t
    *_, pieces = watched(what, 0.011)
    assert np.array_equal(whole, pieces.reqs.t)
    assert np.array_equal(whole, run(what).reqs.t)


@pytest.mark.parametrize(
    "recipe",
    [
        aggregated("DEP4", max_running_per_rank=64),
        split(group("DEP4"), group("DEP4", 2, max_running_per_rank=64)),
    ],
    ids=["aggregated", "split"],
)
def test_littles_law(recipe):
    """Concurrency = throughput x latency; 60 rounds leave at most a round of ramp and drain."""
    load = Workload(isl=1024, osl=64, concurrency=48, num_prompts=48 * 60)
    state = finished(setting(recipe, load))
    latency = state.reqs.t[:, ls.DONE] - state.reqs.t[:, ls.SEND]
    in_flight = throughput(state) * latency.mean()
    assert 0.97 * load.concurrency <= in_flight <= load.concurrency


# Closed forms. Host costs are written out, so that each term is visible.
PLAIN_HOST = HostCosts(
    prefill_base_s=0.02,
    prefill_layer_s=0.001,
    prefill_exposed_fraction=0.2,
    step_gap_s=0.0003,
    decode_base_s=0.003,
    decode_sequence_s=20e-6,
    decode_exposed_sequence_s=30e-6,
    frontend_request_s=0.01,
    frontend_token_s=1e-6,
    request_latency_s=0.05,
)
EXACT = Calibration(name="exact", hosts={"grace": PLAIN_HOST, "x86": PLAIN_HOST})
FRONTEND_S = 0.01 + 0.05


def prefill_wall(state, index, tokens, context, ranks=1):
    """Seconds of one eager prefill step from the tables."""
    gpu = table_2d(state.classes.prefill_rank[index], tokens, context)
    gpu += table_1d(state.classes.prefill_group[index], tokens)
    launch = 61 * PLAIN_HOST.prefill_layer_s
    return max(gpu + 0.2 * launch, launch) + 0.02


def decode_wall(state, index, batch, context):
    """Seconds of one decode step from the tables."""
    gpu = table_2d(state.classes.decode_rank[index], batch, context)
    gpu += table_1d(state.classes.decode_group[index], batch)
    return max(gpu + 0.0003 + 30e-6 * batch, 0.003 + 20e-6 * batch)


def test_table_look_ups_interpolate():
    table = np.log2(TOKEN_AXIS)[:, None] + 2 * np.log2(CONTEXT_AXIS)[None, :]
    for x, y in ((1.0, 32.0), (3.0, 1000.0), (4096.0, 123456.0)):
        assert table_2d(table, x, y) == pytest.approx(np.log2(x) + 2 * np.log2(y), rel=1e-5)
    assert table_1d(table[:, 0], 100.0) == pytest.approx(np.log2(100.0) + 10)


@pytest.mark.parametrize("isl", [512, 4096, 8192])
def test_one_request_at_a_time_on_one_tp_worker(isl):
    osl = 20
    state = finished(setting(aggregated("TP4"), fixed(isl, osl, 1, 3), calibration=EXACT))
    times = state.reqs.t
    first = FRONTEND_S + 1e-6 * isl + prefill_wall(state, 0, isl, isl / 2)
    assert times[:, ls.FIRST] - times[:, ls.SEND] == pytest.approx(first, rel=1e-9)
    rest = sum(decode_wall(state, 0, 1, isl + done) for done in range(osl - 1))
    assert times[:, ls.DONE] - times[:, ls.FIRST] == pytest.approx(rest, rel=1e-9)
    assert times[1:, ls.SEND] == pytest.approx(times[:-1, ls.DONE])


def test_a_long_prompt_takes_its_chunks():
    recipe = aggregated("TP4", chunk_tokens_per_rank=2048)
    state = finished(setting(recipe, fixed(5000, 1, 1, 1), calibration=EXACT))
    chunks = ((2048, 1024), (2048, 2048 + 1024), (904, 4096 + 452))
    expected = FRONTEND_S + 1e-6 * 5000 + sum(prefill_wall(state, 0, n, c) for n, c in chunks)
    assert state.reqs.t[0, ls.FIRST] == pytest.approx(expected, rel=1e-9)


def test_one_request_through_a_split_deployment():
    isl, osl = 4096, 12
    recipe = split(group("TP4"), group("TP8"))
    state = finished(setting(recipe, fixed(isl, osl, 1, 1), calibration=EXACT))
    times = state.reqs.t[0]
    assert times[ls.GRANT] == times[ls.ARRIVE] == times[ls.PREFILL_START]
    assert times[ls.PREFILL_END] - times[ls.GRANT] == pytest.approx(prefill_wall(state, 0, isl, isl / 2))
    assert times[ls.READY] - times[ls.PREFILL_END] == pytest.approx(state.reqs.transfer_s[0])
    assert times[ls.FIRST] == times[ls.READY]
    rest = sum(decode_wall(state, 1, 1, isl + done) for done in range(osl - 1))
    assert times[ls.DONE] - times[ls.FIRST] == pytest.approx(rest, rel=1e-9)


def test_saturated_prefill_runs_at_the_step_time_of_the_table():
    """Sixteen prompts of 4,096 fill each step of a rank; nothing but prefill limits the rate."""
    isl, per_step = 4096, 4
    recipe = split(
        group("TP4", chunk_tokens_per_rank=16384, max_running_per_rank=512),
        group("DEP16", max_running_per_rank=256),
    )
    quick = PLAIN_HOST.model_copy(update={"frontend_request_s": 1e-5, "frontend_token_s": 0.0})
    calibration = Calibration(name="quick", hosts={"grace": quick})
    state = finished(setting(recipe, fixed(isl, 2, 200, 2000), calibration=calibration))
    # Four equal prompts of a step see a mean context of half a prompt.
    step = prefill_wall(state, 0, per_step * isl, isl / 2)
    ends = np.sort(state.reqs.t[:, ls.PREFILL_END])
    steady = ends[400:-400]
    rate = (len(steady) - 1) / (steady[-1] - steady[0])
    assert rate == pytest.approx(per_step / step, rel=0.01)
    assert state.world.totals[0, ls.TOKENS_PREFILL] == 2000 * isl


def test_equal_ranks_decode_in_lockstep():
    """With as many requests as ranks, all begin together and each step costs what one rank costs."""
    isl, osl, ranks = 2048, 30, 4
    recipe = aggregated("DEP4", dense_tp1=True)
    state = finished(setting(recipe, fixed(isl, osl, ranks, ranks), calibration=EXACT))
    assert state.world.totals[0, ls.STEPS_DECODE] <= (osl - 1) * ranks
    assert state.world.totals[0, ls.RANK_STEPS] == ranks * (
        state.world.totals[0, ls.STEPS_DECODE] + state.world.totals[0, ls.STEPS_PREFILL]
    )


@pytest.mark.parametrize("slots", [1, 5, 33])
def test_running_requests_never_exceed_the_slots(slots):
    for recipe, role in (
        (aggregated("TP4", max_running_per_rank=slots), ls.AGGREGATED),
        (split(group("TP4"), group("TP4", max_running_per_rank=slots)), ls.DECODE),
    ):
        most = 0
        for state in watched(setting(recipe, fixed(512, 50, 60, 120)), 0.05):
            most = max(most, int(rank_columns(state, role, ls.RUNNING).max()))
        assert most == slots


def test_more_prefill_workers_never_lower_throughput():
    """Beyond 1 %: another worker shifts which requests share a step."""
    load = Workload(isl=4096, osl=128, concurrency=96, num_prompts=960)
    rates = [
        throughput(finished(setting(split(group("DEP4", num_workers=n), group("DEP8")), load)))
        for n in (1, 2, 3, 4)
    ]
    assert all(after > before * 0.99 for before, after in pairwise(rates))
    assert rates[1] > 1.2 * rates[0]


def test_more_acceptance_never_lowers_throughput():
    load = Workload(isl=1024, osl=256, concurrency=64, num_prompts=640, prompts="chat")
    rates, tpots = [], []
    for accept in (0.5, 0.7, 0.9):
        calibration = Calibration(name="accept", accept_chat=accept)
        done = run(setting(aggregated("DEP4", 3, max_running_per_rank=64), load, calibration=calibration))
        rates.append(metrics_of(done)["requests_per_s"])
        tpots.append(metrics_of(done)["median_tpot_ms"])
    assert rates == sorted(rates) and tpots == sorted(tpots, reverse=True)


def test_retracted_requests_finish_and_their_clock_goes_forward():
    """Admission by an optimistic estimate overflows the pool later; requests go back and prefill again."""
    for mtp in (0, 2):
        recipe = aggregated("TP4", mtp, max_total_tokens=6400, swa_full_tokens_ratio=1.0)
        what = setting(recipe, fixed(256, 2000, 24, 72))
        state = finished(what)
        assert state.world.totals[0, ls.RETRACTIONS] > 0
        assert_ordered(what, state.reqs.t)
        assert_everything_is_returned(state)


def test_a_request_that_can_never_fit_is_infeasible():
    recipe = split(group("TP4"), group("TP4", max_total_tokens=8192))
    with pytest.raises(Infeasible, match="full-pool tokens"):
        run(setting(recipe, fixed(8192, 10, 1, 1)))


def test_different_seeds_draw_different_runs():
    what = setting(split(group("DEP4"), group("DEP8", 1)), Workload(isl=2048, osl=64, concurrency=32))
    ends = {float(finished(replace(what, seed=seed)).reqs.t[:, ls.DONE].max()) for seed in range(4)}
    assert len(ends) == 4


def test_prefill_memory_is_held_until_the_transfer_is_over():
    what = setting(split(group("TP4"), group("TP4")), fixed(4096, 4, 1, 1), calibration=EXACT)
    held = []
    for state in watched(what, 0.002):
        times = state.reqs.t[0]
        if times[ls.PREFILL_END] >= 0 and times[ls.READY] < 0:
            held.append(float(rank_quantities(state, ls.PREFILL, ls.USED_FULL)[0]))
    assert held and set(held) == {4096.0}
