"""Workers that die: nothing is lost, nothing is held for ever, and nobody routes to the dead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from search_spaces.errors import BadInput, Infeasible
from search_spaces.outage import Outage, parse_outage
from simulator import loop_state as ls
from simulator.run import drive, run
from simulator.world import prepare
from tests.simulator_tests.test_loop import assert_everything_is_returned, assert_ordered, small_settings
from tests.simulator_tests.test_prefix_cache import cached_settings, check_caches
from tests.simulator_tests.worlds import V0523, aggregated, fixed, group, setting, split

SMALL = fixed(2000, 200, 32, 160)


@st.composite
def with_outages(draw, settings_of):
    """A setting with one or two outages while it serves."""
    what = draw(settings_of)
    try:
        end_s = run(what).end_s
    except Infeasible:
        reject()
    found = []
    for _ in range(draw(st.integers(1, 2))):
        role = draw(st.sampled_from(sorted(what.recipe.groups)))
        found.append(
            Outage(
                role=role,
                worker=draw(st.integers(0, what.recipe.groups[role].num_workers - 1)),
                at_s=draw(st.floats(0, 1)) * end_s,
                back_s=draw(st.floats(0.01, 1)) * end_s,
                retry=draw(st.sampled_from(["restart", "migrate"])),
                detect_s=draw(st.sampled_from([0.0, 1.0])),
            )
        )
    return replace(what, outages=tuple(found))


def driven(what):
    state = prepare(what)
    drive(what, state)
    return state


@settings(max_examples=60, deadline=None, derandomize=True)
@given(with_outages(small_settings()))
def test_every_request_completes_once_and_pools_return(what):
    state = driven(what)
    assert state.world.counters[ls.COMPLETED] == len(state.reqs.link)
    assert (state.reqs.t[:, ls.DONE] >= state.reqs.t[:, ls.FIRST]).all()
    assert_everything_is_returned(state)
    if all(o.retry == "restart" for o in what.outages):
        assert_ordered(what, state.reqs.t)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(with_outages(cached_settings()))
def test_radix_caches_stay_consistent(what):
    state = driven(what)
    assert (state.reqs.t[:, ls.DONE] > 0).all()
    check_caches(state)
    assert (state.ranks.cache.locks == 0).all()
    np.testing.assert_allclose(state.ranks.f[:, ls.Q_TOKENS], 0, atol=1e-6)


@pytest.mark.parametrize("back", [False, True], ids=["for ever", "for a while"])
def test_what_is_retracted_after_its_prefill_worker_died_is_prefilled(back):
    """By another worker. Few moments show it: the window of a run in which a batch outgrows its pool."""
    tight: dict[str, Any] = {
        "max_running_per_rank": 3,
        "swa_full_tokens_ratio": 0.02,
        "max_total_tokens": 40_000,
    }
    prefill = group("TP4", num_workers=2, chunk_tokens_per_rank=1024, **tight)
    decode = group("TP8", 5, num_workers=2, chunk_tokens_per_rank=1024, graph_max_batch_per_rank=4, **tight)
    what = setting(split(prefill, decode, model="flash"), fixed(1024, 300, 8, 120), V0523, seed=4)
    end_s = run(what).end_s
    for share in np.linspace(0.02, 0.98, 241)[5:25]:
        outage = Outage(role="prefill", worker=1, at_s=share * end_s, back_s=end_s if back else None)
        assert (run(replace(what, outages=(outage,))).reqs.t[:, ls.DONE] > 0).all()


def test_an_outage_after_the_end_changes_nothing():
    what = setting(aggregated("TP4", num_workers=2), SMALL)
    late = replace(what, outages=(Outage(role="aggregated", at_s=1e4),))
    np.testing.assert_array_equal(run(what).reqs.t, run(late).reqs.t)


@pytest.mark.parametrize("policy", ["round_robin", "random", "load", "kv"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_nobody_routes_to_the_dead(policy, role):
    recipe = split(group("TP4", num_workers=3), group("TP4", num_workers=3), policy=policy)
    what = setting(recipe, SMALL)
    dead = replace(what, outages=(Outage(role=role, worker=1, at_s=run(what).end_s / 3),))
    state = prepare(dead)
    drive(dead, state)
    column = ls.P_GROUP if role == "prefill" else ls.D_GROUP
    gone = int(state.world.groups_of[ls.PREFILL if role == "prefill" else ls.DECODE, 0]) + 1
    late = state.reqs.t[:, ls.ARRIVE] > dead.outages[0].at_s
    assert late.any() and (state.reqs.i[late, column] != gone).all()
    others, counts = np.unique(state.reqs.i[late, column], return_counts=True)
    assert len(others) == 2
    if policy == "round_robin":
        assert abs(counts[0] - counts[1]) <= 2, "the neighbour of the dead takes no more than the others"


def test_a_worker_that_comes_back_serves_again():
    what = setting(aggregated("TP4", num_workers=2), SMALL)
    end_s = run(what).end_s
    state = driven(replace(what, outages=(Outage(role="aggregated", at_s=end_s / 4, back_s=end_s / 4),)))
    late = state.reqs.t[:, ls.ARRIVE] > end_s / 2
    assert set(np.unique(state.reqs.i[late, ls.D_GROUP])) == {0, 1}


def test_loss_of_the_only_worker_waits_for_its_return():
    what = setting(aggregated("TP4"), SMALL)
    gone = Outage(role="aggregated", at_s=5.0, back_s=40.0)
    done = run(replace(what, outages=(gone,)))
    finished_s = np.sort(done.reqs.t[:, ls.DONE])
    assert not ((finished_s > 5.0) & (finished_s < 45.0)).any()
    assert done.resent == 32, "all that were in flight, no more"
    with pytest.raises(BadInput, match="for ever"):
        run(replace(what, outages=(Outage(role="aggregated", at_s=5.0),)))


def test_dead_time_is_no_work():
    what = setting(aggregated("TP4"), SMALL)
    base = run(what)
    done = run(replace(what, outages=(Outage(role="aggregated", at_s=base.end_s / 2, back_s=500.0),)))
    busy = done.totals[0, [ls.BUSY_PREFILL, ls.BUSY_DECODE, ls.BUSY_MIXED]].sum()
    assert 0 < busy <= done.end_s - 500.0 + 1e-6


def test_migration_keeps_tokens_and_restart_computes_them_anew():
    what = setting(aggregated("TP4", num_workers=2), fixed(1000, 2000, 8, 16))
    at_s = run(what).end_s / 4
    ends = {
        retry: run(replace(what, outages=(Outage(role="aggregated", at_s=at_s, back_s=1.0, retry=retry),)))
        for retry in ("restart", "migrate")
    }
    lost = ends["restart"].reqs.t[:, ls.FIRST] > at_s + 1.0
    assert ends["migrate"].end_s < ends["restart"].end_s
    assert lost.sum() > (ends["migrate"].reqs.t[:, ls.FIRST] > at_s + 1.0).sum()
    assert ends["migrate"].resent == ends["restart"].resent > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prefill@3", Outage(role="prefill", at_s=3)),
        ("decode:1@60.5+120", Outage(role="decode", worker=1, at_s=60.5, back_s=120)),
        ("aggregated:0@0+1/migrate", Outage(role="aggregated", at_s=0, back_s=1, retry="migrate")),
    ],
)
def test_outage_text(text, expected):
    assert parse_outage(text) == expected


@pytest.mark.parametrize("text", ["decode", "decode@x", "router:0@3", "decode:-1@3", "decode@3+0"])
def test_wrong_outage_text(text):
    with pytest.raises(BadInput, match="outage"):
        parse_outage(text)


def test_an_outage_of_no_worker_is_refused():
    what = setting(aggregated("TP4"), SMALL)
    for gone in (Outage(role="decode", at_s=1), Outage(role="aggregated", worker=3, at_s=1, back_s=1)):
        with pytest.raises(BadInput, match="no such worker"):
            run(replace(what, outages=(gone,)))
