"""Where a plausible simulator of this engine goes wrong: one test per mechanism.

Each test fails when its mechanism is taken out. The numbers follow the list of fifteen in the
behavioural specification. The simulator has no mechanism for: the default memory fraction, which recipes
always give (second half of 6), the empty draft window after a hand-over (10), and one acceptance draw per
batch in the engine's own acceptance simulation (second half of 15).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numba import njit

from search_spaces import catalog_loader
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration
from simulator.loop_costs import decode_gpu
from simulator.memory import bytes_per_full_token, memory_budget, slot_state_bytes
from simulator.op_costs import attention_s
from simulator.run import run
from simulator.simulate import predict
from simulator.step_cost import Scenario, decode_cost, prefill_step_s
from simulator.world import prepare
from tests.simulator_tests.worlds import (
    CALIBRATION,
    DAY0,
    HOST,
    JUNE,
    PRO,
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

GB300 = catalog_loader.hardware("gb300")


def most_held(times, since, until):
    """Largest number of requests between two of their moments; leaving comes before entering."""
    moments = np.concatenate([times[:, since], times[:, until]])
    change = np.concatenate([np.ones(len(times)), -np.ones(len(times))])
    return int(np.cumsum(change[np.lexsort((change, moments))]).max())


def test_1_decode_gates_prefill():
    load = fixed(2048, 400, 64, 128)
    slots = 40
    tight, wide = (
        finished(setting(split(group("TP4"), group("TP4", max_running_per_rank=n)), load))
        for n in (slots, 64)
    )
    assert (tight.reqs.t[:, ls.PREFILL_START] >= tight.reqs.t[:, ls.GRANT]).all()
    # A request holds its decode slot from the grant on, before it has been prefilled.
    assert most_held(tight.reqs.t, ls.GRANT, ls.DONE) == slots
    # The wait for a slot is part of the time to the first token, and prefill stands idle meanwhile.
    ttft = [np.median(s.reqs.t[:, ls.FIRST] - s.reqs.t[:, ls.SEND]) for s in (tight, wide)]
    assert ttft[0] > 1.5 * ttft[1]
    busy = [s.world.totals[0, ls.BUSY_PREFILL] / s.reqs.t.max() for s in (tight, wide)]
    assert busy[0] < 0.9 * busy[1]


def test_2_every_active_request_keeps_its_reserve():
    isl, osl, full = 4096, 64, 40_960
    decode = group("TP4", max_total_tokens=full, max_running_per_rank=64, swa_full_tokens_ratio=0.3)
    state = finished(setting(split(group("TP4"), decode), fixed(isl, osl, 40, 80)))
    most = most_held(state.reqs.t, ls.GRANT, ls.DONE)
    # n requests hold n x (4096 + half a page) and reserve n x 512; one more needs 4096 + 512.
    assert most == next(n for n in range(99) if isl + 512 > full - n * (isl + 128) - max(n, 1) * 512)
    without = full // (isl + osl)
    assert most < without


def test_2_the_head_of_the_queue_blocks_those_behind():
    decode = group("TP4", max_total_tokens=20_480, max_running_per_rank=64, swa_full_tokens_ratio=0.5)
    load = Workload(isl=8192, osl=64, random_range_ratio=0.02, concurrency=32, num_prompts=96)
    times = finished(setting(split(group("TP4"), decode), load)).reqs.t
    in_order = times[np.argsort(times[:, ls.ARRIVE], kind="stable")]
    assert (np.diff(in_order[:, ls.GRANT]) >= 0).all()


def test_2_hand_overs_wait_for_the_poll():
    load = fixed(1024, 200, 24, 96)
    waits = []
    for interval in (1, 8):
        decode = group("TP8", decode_polling_interval=interval)
        times = finished(setting(split(group("TP4"), decode), load)).reqs.t
        waits.append(np.mean(times[:, ls.FIRST] - times[:, ls.READY]))
    assert waits[1] > 3 * waits[0]


def swa_history(stack, mtp=0):
    """Window tokens in use over a decode rank's iterations while eight requests run alone."""
    what = setting(
        split(group("TP4"), group("TP4", mtp)), fixed(8192, 1000, 8, 8), stack, Calibration(name="test")
    )
    found = {}
    for state in watched(what, 0.002):
        if rank_columns(state, ls.DECODE, ls.RUNNING)[0] == 8:
            iteration = int(rank_columns(state, ls.DECODE, ls.ITERATION)[0])
            found[iteration] = float(rank_quantities(state, ls.DECODE, ls.USED_SWA)[0])
    return found


def test_3_window_pages_grow_until_all_are_evicted_together():
    before, after = swa_history(JUNE), swa_history(V0523)
    # An 8,192-token prompt leaves a tail of 256 tokens, one page.
    assert set(after.values()) == {8 * 256.0}
    levels = [before[i] for i in sorted(before)]
    assert min(levels) >= 8 * 256 and max(levels) > 8 * (256 + 120)
    drops = [i for (_, a), (i, b) in pairwise(sorted(before.items())) if b < a]
    assert drops and all(i % 128 == 0 for i in drops)


def test_3_a_window_is_whole_pages():
    state = prepare(setting(split(group("TP4"), group("TP4")), fixed(8000, 2, 1, 1)))
    # Tail 8000 - 256 x 30 = 320 tokens: two pages.
    assert state.reqs.swa[0] == 512


def test_4_slots_are_paid_for_in_memory():
    few, many = (
        memory_budget(PRO, group("DEP8", mtp=1, max_running_per_rank=n), GB300, JUNE, "decode")
        for n in (128, 1024)
    )
    lost = (few.full_tokens - many.full_tokens) * few.bytes_per_token
    assert lost == pytest.approx(896 * 4096 * 256 * 31, rel=0.001)
    online = group("DEP8", online_compress=True)
    assert slot_state_bytes(PRO, online, JUNE) < slot_state_bytes(PRO, group("DEP8"), JUNE) / 50


def test_5_the_engine_reserves_more_than_the_kv_bytes():
    kv = 584 * 0.1 * 61 + 146 * 30 + 4.5625 * 31 + 33 * 30
    old, new = (bytes_per_full_token(PRO, group("DEP8"), s) for s in (JUNE, V0523))
    state = 0.1 * 8 * 10_240 * 30
    assert old == pytest.approx(kv + state / 128)
    assert new == pytest.approx(kv + state / 256, rel=0.02)
    drafting = bytes_per_full_token(PRO, group("DEP8", mtp=1), JUNE)
    assert drafting == pytest.approx((kv + 2 * state / 128) * 62 / 61)


def test_6_prompts_beyond_the_prefill_limit_wait_whatever_the_chunk():
    recipe = split(group("TP4", chunk_tokens_per_rank=32768), group("DEP16"))
    totals = finished(setting(recipe, fixed(8192, 2, 64, 64))).world.totals[0]
    # 16,384 tokens are two prompts of 8K; the first steps may have fewer.
    assert 1.8 * 8192 < totals[ls.TOKENS_PREFILL] / totals[ls.STEPS_PREFILL] <= 2 * 8192
    alone = finished(setting(recipe, fixed(32768, 2, 1, 1))).world.totals[0]
    assert alone[ls.STEPS_PREFILL] == 1


@njit
def step_gpu(classes, c, groups, ranks, g):
    return decode_gpu(classes, c, groups, ranks, g)[:3]


@pytest.mark.parametrize("local", [False, True])
def test_7_a_step_waits_for_the_slowest_rank_in_its_bucket(local):
    what = setting(aggregated("DEP4", dense_tp1=local), fixed(1024, 10, 1, 1))
    state = prepare(what)
    many, one, long = 33, 1, 500_000.0
    state.ranks.i[:2, ls.RUNNING] = [many, one]
    state.ranks.f[:2, ls.CONTEXT] = [many * 1000.0, one * long]
    gpu, largest, eager = step_gpu(state.classes, 0, state.groups, state.ranks, 0)
    rank = state.classes.decode_rank[0]
    # 33 pads to 40; the rank with one sequence pads to 1, or to 40 with the largest.
    mine = one if local else 40
    parts = [table_2d(rank, 40, many * 1000.0 / 40), table_2d(rank, mine, one * long / mine)]
    common = table_1d(state.classes.decode_group[0], (many + one) / 4)
    assert (largest, eager) == (many, 0)
    assert gpu == pytest.approx(max(parts) + common, rel=1e-12)


def test_7_ranks_without_prompts_take_part_in_the_step():
    """One prompt on one of four ranks: the step lasts as on a full rank, but for the shared experts."""
    state = finished(setting(split(group("DEP4"), group("DEP8")), fixed(8192, 2, 1, 1)))
    totals = state.world.totals[0]
    assert totals[ls.IDLE_RANK_STEPS] == 3 and totals[ls.RANK_STEPS] == 4
    gpu = table_2d(state.classes.prefill_rank[0], 8192, 4096) + table_1d(state.classes.prefill_group[0], 2048)
    launch = 61 * HOST.prefill_layer_s
    wall = max(gpu + HOST.prefill_exposed_fraction * launch, launch) + HOST.prefill_base_s
    assert totals[ls.BUSY_PREFILL] == pytest.approx(wall, rel=1e-9)


def test_7_one_loaded_rank_holds_up_the_others():
    recipe = aggregated("DEP4", max_running_per_rank=64)
    even, uneven = (prepare(setting(recipe, fixed(1024, 10, 1, 1))) for _ in range(2))
    even.ranks.i[:4, ls.RUNNING], uneven.ranks.i[:4, ls.RUNNING] = [16] * 4, [61, 1, 1, 1]
    steps = []
    for state in (even, uneven):
        state.ranks.f[:4, ls.CONTEXT] = state.ranks.i[:4, ls.RUNNING] * 4096.0
        steps.append(step_gpu(state.classes, 0, state.groups, state.ranks, 0)[0])
    assert steps[1] > steps[0]


def test_8_drafting_ranks_stand_still_while_another_prefills():
    load = Workload(isl=4096, osl=300, concurrency=24, num_prompts=96)
    plain, drafting = (finished(setting(aggregated("DEP4", mtp), load)).world.totals[0] for mtp in (0, 1))
    assert plain[ls.BUSY_MIXED] > 0.2 * plain[ls.BUSY_PREFILL]
    assert drafting[ls.BUSY_MIXED] == 0 < drafting[ls.BUSY_PREFILL]


def test_8_prefill_goes_first():
    """A running batch waits while anything can be prefilled."""
    recipe = aggregated("TP4")
    state = finished(setting(recipe, fixed(8192, 50, 4, 4)))
    times = state.reqs.t
    assert times[:, ls.FIRST].max() < times[:, ls.DONE].min()


@pytest.mark.parametrize("mtp", [0, 2])
def test_9_draft_extend_is_launched_eagerly_by_the_older_engine(mtp):
    costs = []
    for stack in (JUNE, V0523):
        state = prepare(setting(aggregated("TP4", mtp), fixed(64, 4, 1, 1), stack))
        costs.append(state.classes.f[0, ls.EXTEND])
    assert costs == ([HOST.draft_extend_s, 0.0] if mtp else [0.0, 0.0])


def test_9_every_drafting_step_pays_for_it():
    slow = Calibration(name="slow", hosts={"grace": HOST.model_copy(update={"draft_extend_s": 0.013})})
    load = fixed(1024, 100, 1, 4)
    runs = [finished(setting(aggregated("TP4", 2), load, calibration=c)) for c in (CALIBRATION, slow)]
    steps = runs[0].reqs.i[:, ls.ITERS].sum()
    decoding = [np.sum(s.reqs.t[:, ls.DONE] - s.reqs.t[:, ls.FIRST]) for s in runs]
    assert decoding[1] - decoding[0] == pytest.approx(steps * (0.013 - HOST.draft_extend_s), rel=1e-6)


def test_11_attention_does_not_scale_below_64_heads():
    def growth(ratio, heads):
        """Seconds that a long context adds: projections, which do scale, cancel."""
        far, near = (float(attention_s(PRO, GB300, ratio, heads, 4096, at, 1)) for at in (1e6, 1e5))
        return far - near

    assert [growth(128, heads) for heads in (16, 32)] == pytest.approx([growth(128, 64)] * 2)
    assert growth(128, 128) == pytest.approx(2 * growth(128, 64))
    # Past the top-k only the indexer grows, and every rank runs all of it.
    assert growth(4, 128) == pytest.approx(growth(4, 16))


def test_11_wider_tp_saturates():
    costs = [
        decode_cost(Scenario(PRO, GB300, group(layout), JUNE, CALIBRATION), [16.0], 262144.0).seconds[
            "attention"
        ]
        for layout in ("TP4", "TP8")
    ]
    assert costs[1] > 0.8 * costs[0]


def test_12_prefill_is_launched_eagerly():
    scn = Scenario(PRO, GB300, group("TP4"), JUNE, CALIBRATION)
    launch = 61 * HOST.prefill_layer_s
    assert float(prefill_step_s(scn, np.asarray(1e-4))) == pytest.approx(launch + HOST.prefill_base_s)
    graph = Scenario(PRO, GB300, group("TP4", prefill_graph=True), JUNE, CALIBRATION)
    assert float(prefill_step_s(graph, np.asarray(1e-4))) < launch / 2


def test_12_prompts_in_flight_still_fill_prefill_memory():
    """A pool for three prompts, and transfers that take longer than prefill: the pool sets the rate."""
    slow = Calibration(name="slow", transfer_latency_s=1.0)
    rates = []
    for tokens in (3 * 4096 + 512, 30 * 4096):
        prefill = group("TP4", max_total_tokens=tokens, swa_full_tokens_ratio=1.0)
        recipe = split(prefill, group("TP8"))
        rates.append(throughput(finished(setting(recipe, fixed(4096, 2, 64, 192), calibration=slow))))
    assert rates[0] < 3.1 < 0.7 * rates[1]


def test_13_a_finished_request_takes_part_in_one_more_step():
    osl, requests = 20, 5
    state = finished(setting(aggregated("TP4"), fixed(512, osl, 1, requests)))
    # Each request's own steps, and one more, in which it is computed for nothing.
    assert state.world.totals[0, ls.STEPS_DECODE] == requests * (osl - 1) + requests


def test_13_its_slot_is_free_one_step_late():
    decode = group("TP4", max_running_per_rank=33)
    state = finished(setting(split(group("TP4"), decode), fixed(512, 100, 60, 120)))
    times = state.reqs.t
    queued = times[:, ls.GRANT] > times[:, ls.ARRIVE] + 0.01
    done = np.sort(times[:, ls.DONE])
    waits = [g - done[done <= g].max() for g in times[queued, ls.GRANT]]
    assert min(waits) > 1e-3


@pytest.mark.parametrize(("overlap", "steps"), [(True, 4), (False, 3)])
def test_13_a_batch_is_built_while_the_one_before_it_runs(overlap, steps):
    # Two prompts fit a step: A runs alone, then B and C. When they start, D alone waits; the fifth prompt
    # is sent when A is answered, while they run. The overlapped scheduler has built D's step by then.
    prefill = group("TP4", max_prefill_tokens=16384, chunk_tokens_per_rank=16384, overlap_schedule=overlap)
    totals = finished(setting(split(prefill, group("DEP16")), fixed(8192, 2, 4, 5))).world.totals[0]
    assert totals[ls.STEPS_PREFILL] == steps


def test_14_admission_is_optimistic():
    start = [
        prepare(setting(aggregated(x), fixed(64, 4, 1, 1))).classes.f[0, ls.RATIO_INIT]
        for x in ("TP4", "DEP4")
    ]
    assert start == pytest.approx([0.7, 0.21])
    load = fixed(256, 2000, 32, 64)
    found = []
    for conservativeness in (0.3, 20.0):
        recipe = aggregated(
            "TP4",
            max_total_tokens=12_800,
            swa_full_tokens_ratio=1.0,
            schedule_conservativeness=conservativeness,
        )
        found.append(run(setting(recipe, load)).totals[0, ls.RETRACTIONS])
    assert found[0] > 0 == found[1]


def test_14_the_estimate_relaxes_while_nothing_is_sent_back():
    what = setting(aggregated("TP4"), fixed(64, 700, 1, 1))
    *_, state = watched(what, 0.5)
    assert rank_quantities(state, ls.AGGREGATED, ls.NTR)[0] == pytest.approx(0.14 * 0.7)


def test_14_window_growth_is_not_reserved_and_overflows_the_older_engine():
    decode = group("TP4", max_total_tokens=512_000, swa_full_tokens_ratio=0.03, max_running_per_rank=64)
    load = fixed(8192, 500, 58, 58)
    before, after = (
        predict(setting(split(group("DEP8"), decode, model="flash"), load, s)) for s in (JUNE, V0523)
    )
    assert before.roles[1].swa_overflows > 0 and "crashes" in " ".join(before.warnings)
    assert after.roles[1].swa_overflows == 0 and not after.warnings


def test_15_the_same_recipe_differs_between_builds():
    recipe = split(group("DEP4"), group("DEP8", 1))
    load = Workload(isl=4096, osl=128, concurrency=64, num_prompts=256, prompts="chat")
    rates = [throughput(finished(setting(recipe, load, stack))) for stack in (DAY0, JUNE, V0523)]
    assert rates == sorted(rates) and rates[0] < 0.97 * rates[2]
