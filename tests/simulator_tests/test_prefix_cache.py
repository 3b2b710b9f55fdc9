"""Laws of the radix caches and of what fills them: sessions, shared prefixes, arrivals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.errors import BadInput
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.run import run
from simulator.simulate import metrics_of, predict
from tests.simulator_tests.worlds import (
    V0523,
    aggregated,
    finished,
    fixed,
    group,
    setting,
    split,
    watched,
)

CHAT = Workload(
    isl=2000, osl=100, concurrency=12, num_prompts=96, turns=8, turn_tokens=200, think_s=0.5
)  # fmt: skip


@st.composite
def cached_settings(draw):
    """Any small deployment with radix caches, whose prompts begin alike."""
    turns, prompts = draw(st.sampled_from([1, 2, 5])), draw(st.integers(1, 120))
    load = Workload(
        isl=draw(st.sampled_from([600, 3000, 9000])),
        osl=draw(st.sampled_from([1, 40, 600])),
        random_range_ratio=draw(st.sampled_from([0.6, 1.0])),
        concurrency=draw(st.integers(1, 24)),
        num_prompts=prompts,
        turns=turns,
        reused_prompts=draw(st.integers(0, prompts)) if turns == 1 else 0,
        turn_tokens=draw(st.sampled_from([50, 700])),
        think_s=draw(st.sampled_from([0.0, 3.0])),
        shared_prefix_tokens=draw(st.sampled_from([0, 300])),
        prefix_groups=draw(st.integers(1, 3)),
        request_rate=draw(st.sampled_from([None, 3.0])),
    )
    common = {
        "radix_cache": True,
        "swa_tail_lock": draw(st.booleans()),
        "max_total_tokens": draw(st.sampled_from([40_960, 131_072])),
        "swa_full_tokens_ratio": draw(st.sampled_from([0.3, 0.6])),
        "chunk_tokens_per_rank": draw(st.sampled_from([1024, 8192])),
    }
    policy = draw(st.sampled_from(["round_robin", "kv"]))
    if draw(st.booleans()):
        recipe = aggregated(draw(st.sampled_from(["TP4", "DEP4"])), **common)
        recipe = recipe.model_copy(update={"frontend": recipe.frontend.model_copy(update={"policy": policy})})
    else:
        recipe = split(group("DEP4", num_workers=2, **common), group("TP4"), policy=policy)
    return setting(recipe, load, seed=draw(st.integers(0, 3)))


def check_caches(state):
    """What the lists and counters say of each rank's cache is what its nodes say."""
    cache, ranks = state.ranks.cache, state.ranks
    unused = (cache.present == 1) & (cache.locks == 0)
    assert (cache.locks >= 0).all() and ((cache.locks == 0) | (cache.present == 1)).all()
    np.testing.assert_array_equal(unused @ cache.tokens, ranks.f[:, ls.CACHED_FULL])
    np.testing.assert_array_equal(cache.window.sum(axis=1), ranks.f[:, ls.CACHED_SWA])
    assert (cache.window <= cache.tokens).all() and (cache.window[cache.present == 0] == 0).all()
    shared = (cache.locks > 0) @ cache.tokens
    assert (shared <= ranks.f[:, ls.USED_FULL] + 1e-6).all()
    assert ((cache.full_next[:, :-1] >= 0) == unused).all()
    assert ((cache.swa_next[:, :-1] >= 0) == (cache.window > 0)).all()
    inner = np.flatnonzero(cache.parent >= 0)
    for rank in range(len(cache.present)):
        held = cache.present[rank, inner] == 1
        assert (cache.present[rank, cache.parent[inner[held]]] == 1).all(), "no hole on a path"
        children = np.bincount(cache.parent[inner[held]], minlength=len(cache.parent))
        np.testing.assert_array_equal(children, cache.children[rank])


@settings(max_examples=40, deadline=None)
@given(cached_settings())
def test_caches_add_up_at_every_moment_and_all_is_returned(what):
    shares = what.workload.shares_prefixes
    for state in watched(what, 0.7):
        if shares:
            check_caches(state)
    reqs, ranks = state.reqs, state.ranks
    assert (reqs.t[:, ls.DONE] >= reqs.t[:, ls.FIRST]).all()
    order = np.flatnonzero(reqs.i[:, ls.FOLLOW] >= 0)
    waited = reqs.t[reqs.i[order, ls.FOLLOW], ls.SEND] - reqs.t[order, ls.DONE]
    np.testing.assert_allclose(waited, what.workload.think_s, atol=1e-9)
    left = ranks.f[:, ls.USED_FULL] - ranks.f[:, ls.LINGER_FULL]
    np.testing.assert_allclose(left, 0, atol=1e-6)


def hits(pool_tokens, window_ratio):
    """Share of prompt tokens found on one aggregated worker with this many tokens of each pool."""
    recipe = aggregated(
        "TP4", radix_cache=True, swa_full_tokens_ratio=window_ratio, max_total_tokens=pool_tokens
    )
    return predict(setting(recipe, CHAT)).roles[0].prefix_hit_fraction


def test_without_anything_shared_a_cache_changes_nothing():
    load = Workload(isl=3000, osl=100, concurrency=16, num_prompts=64)
    on, off = (run(setting(aggregated("DEP4", radix_cache=flag), load)) for flag in (True, False))
    np.testing.assert_array_equal(on.reqs.t, off.reqs.t)


def test_later_turns_find_what_was_said():
    found, none = (predict(setting(aggregated("TP4", radix_cache=flag), CHAT)) for flag in (True, False))
    # One worker, one rank, room for all: every later turn starts from its history, to the page.
    sent = run(setting(aggregated("TP4", radix_cache=True), CHAT)).reqs.i
    later = sent[:, ls.ISL].reshape(-1, CHAT.turns)
    history = later[:, :-1] + sent[:, ls.OSL].reshape(-1, CHAT.turns)[:, :-1] - 1
    expected = (history // 256 * 256).sum() / later.sum()
    assert found.roles[0].prefix_hit_fraction == pytest.approx(expected, abs=1e-9)
    assert none.roles[0].prefix_hit_fraction == 0
    assert found.metrics["median_ttft_ms"] < none.metrics["median_ttft_ms"]


def test_prefill_workers_do_not_know_the_answers():
    what = setting(split(group("TP4", radix_cache=True), group("TP4")), CHAT)
    reqs = run(what).reqs.i
    prompts = reqs[:, ls.ISL].reshape(-1, CHAT.turns)
    expected = (prompts[:, :-1] // 256 * 256).sum() / prompts.sum()
    assert predict(what).roles[0].prefix_hit_fraction == pytest.approx(expected, abs=1e-9)


def test_routing_by_prefix_finds_more_than_routing_in_turn():
    prefill, fractions = group("DEP4", radix_cache=True, num_workers=2), []
    for policy in ("round_robin", "kv"):
        recipe = split(prefill, group("DEP8"), policy=policy)
        fractions.append(predict(setting(recipe, CHAT)).roles[0].prefix_hit_fraction)
    assert fractions[1] > 1.5 * fractions[0] > 0


def test_a_smaller_pool_forgets_more():
    small, large = (hits(size, 1.0) for size in (32_768, 98_304))
    assert small < 0.9 * large


def test_a_match_needs_its_window_so_that_a_small_window_pool_forgets_too():
    assert hits(131_072, 0.08) < 0.7 * hits(131_072, 0.8)


def test_a_shared_system_prompt_is_computed_once_per_rank():
    load = Workload(
        isl=4000, osl=20, random_range_ratio=0.9, concurrency=4, num_prompts=80, shared_prefix_tokens=3000
    )
    what = setting(aggregated("TP4", radix_cache=True), load)
    looked_up = run(what).reqs.i[:, ls.ISL].sum()
    hits = predict(what).roles[0].prefix_hit_fraction * looked_up
    # 3000 tokens are 11 whole pages; only requests of the first pass miss them.
    assert 76 * 2816 <= hits <= 79 * 2816


def reused(layout, prompts, **changes):
    """Hit tokens and prompt lengths of a load whose first prompts an earlier run sent."""
    load = Workload(isl=4000, osl=20, concurrency=8, num_prompts=60, reused_prompts=prompts)
    what = setting(aggregated(layout, radix_cache=True, **changes), load)
    sent = run(what).reqs.i[:, ls.ISL]
    return predict(what).roles[0].prefix_hit_fraction * sent.sum(), sent


def test_prompts_of_an_earlier_run_start_from_their_last_whole_page():
    found, sent = reused("TP4", 25)
    assert found == pytest.approx(((sent[:25] - 1) // 256 * 256).sum())
    assert reused("TP4", 0)[0] == 0
    load = Workload(isl=4000, osl=20, concurrency=8, num_prompts=60)
    cold, warm = (
        predict(setting(aggregated("TP4", radix_cache=True), load.model_copy(update=how)))
        for how in ({}, {"reused_prompts": 60})
    )
    assert warm.metrics["mean_ttft_ms"] < 0.5 * cold.metrics["mean_ttft_ms"]


def test_ranks_meet_their_old_prompts_only_when_the_turn_comes_round():
    # The earlier run and the warm-up of this one sent 24 or 23 + 1 requests, dealt to four ranks in turn.
    assert reused("DEP4", 24)[0] == 0
    found, sent = reused("DEP4", 23)
    assert found == pytest.approx(((sent[:23] - 1) // 256 * 256).sum())


def test_of_an_earlier_run_the_newest_prompts_stay():
    found, sent = reused("TP4", 60, max_total_tokens=65_536, swa_full_tokens_ratio=0.9)
    all_of_them = ((sent - 1) // 256 * 256).sum()
    assert 0 <= found < 0.5 * all_of_them


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reused_prompts": 61}, "reused_prompts=61 exceeds the 60 prompts"),
        ({"reused_prompts": 8, "turns": 2}, "independent prompts"),
    ],
)
def test_what_cannot_have_been_sent_before_is_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        Workload.parse({"isl": 4000, "osl": 20, "num_prompts": 60} | changes, "workload")


def test_arrivals_at_a_low_rate_do_not_wait_and_a_cap_holds_them_back():
    one = metrics_of(run(setting(aggregated("TP4"), fixed(1000, 20, 1, 4))))
    rare = Workload(
        isl=1000, osl=20, random_range_ratio=1, request_rate=0.2, concurrency=200, num_prompts=200
    )
    assert metrics_of(run(setting(aggregated("TP4"), rare)))["median_ttft_ms"] == pytest.approx(
        one["median_ttft_ms"], rel=0.02
    )
    capped = Workload(
        isl=1000, osl=20, random_range_ratio=1, request_rate=1000.0, concurrency=3, num_prompts=60
    )
    times = run(setting(aggregated("TP4"), capped)).reqs.t
    for at in times[:, ls.SEND]:
        in_flight = ((times[:, ls.SEND] <= at) & (times[:, ls.DONE] > at)).sum()
        assert in_flight <= 3


def test_poisson_arrivals_at_one_prefill_server_wait_as_in_an_m_d_1_queue():
    # One token out, one request per step, one rank: service is one step of fixed length.
    recipe = aggregated("TP4", chunk_tokens_per_rank=1024, max_prefill_tokens=1024)
    alone = run(setting(recipe, fixed(1024, 1, 1, 2))).reqs.t
    service = float(alone[0, ls.FIRST] - alone[0, ls.ARRIVE])
    for load in (0.5, 0.8):
        rate = load / service
        workload = Workload(
            isl=1024, osl=1, random_range_ratio=1, request_rate=rate, concurrency=40_000, num_prompts=40_000
        )
        times = run(setting(recipe, workload, seed=2)).reqs.t
        waited = (times[:, ls.PREFILL_START] - times[:, ls.ARRIVE]).mean()
        assert waited == pytest.approx(load * service / (2 * (1 - load)), rel=0.08)


def test_a_pipeline_of_two_stages_nearly_doubles_prefill_and_delays_hand_overs():
    def prefill_rate(pp):
        workers = group("TP4", pp=pp, chunk_tokens_per_rank=4096)
        found = run(setting(split(workers, group("DEP8", max_running_per_rank=256)), fixed(4096, 2, 64, 256)))
        return len(found.reqs.link) / found.end_s

    assert 1.7 < prefill_rate(2) / prefill_rate(1) < 2.0
    one, two = (
        run(setting(split(group("TP4", pp=pp), group("TP4")), fixed(4096, 2, 1, 2))).reqs.t for pp in (1, 2)
    )
    # A lone prompt passes through all layers all the same: the fullest stage (31 of 61 layers) twice.
    spent = [t[0, ls.READY] - t[0, ls.PREFILL_START] for t in (one, two)]
    assert spent[0] < spent[1] < 1.25 * spent[0]


def test_the_newer_engine_prefills_a_retracted_request_again_instead_of_crashing():
    decode = group("TP4", max_total_tokens=100_096, reserved_decode_tokens=128, max_running_per_rank=64)
    what = setting(split(group("TP4", num_workers=2), decode), fixed(8000, 2500, 12, 24), stack=V0523)
    found = predict(what)
    assert found.roles[1].retractions > 0 and found.roles[1].full_overflows == 0
    times = finished(what).reqs.t
    assert (times[:, ls.DONE] > times[:, ls.FIRST]).all()
    prompts = run(what).totals[0, ls.TOKENS_PREFILL]
    assert prompts > 24 * 8000, "what was generated is computed again"


def test_a_retracted_prompt_leaves_its_window_once():
    load = Workload(
        isl=9000, osl=600, random_range_ratio=1.0, concurrency=5, num_prompts=9, shared_prefix_tokens=300,
        turns=2, turn_tokens=700,
    )  # fmt: skip
    recipe = aggregated(
        "TP4",
        radix_cache=True,
        max_total_tokens=40_960,
        swa_full_tokens_ratio=0.6,
        chunk_tokens_per_rank=1024,
    )
    retracted = 0.0
    for state in watched(setting(recipe, load), 0.5):
        check_caches(state)
        retracted = state.world.totals[0, ls.RETRACTIONS]
    assert retracted > 0
