"""Drafts in the event loop: pretended acceptance, lengths that adapt, DSpark."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import njit

from search_spaces.mtp import AdaptiveSteps, AdaptiveTier, Mtp, default_tiers
from search_spaces.recipe import EngineGroup
from search_spaces.workload import Workload
from simulator import loop_adaptive
from simulator import loop_state as ls
from simulator.acceptance import AcceptanceLaw, simulated_length
from simulator.adaptive_tables import drafting
from simulator.draft_shapes import bare, verify_windows
from simulator.fluid import estimate
from simulator.memory import memory_budget, weight_bytes
from simulator.simulate import predict
from simulator.step_cost import decode_cost, prefill_cost
from simulator.world import State, class_tables
from tests.simulator_tests.worlds import (
    FLASH,
    PRO,
    V0523,
    aggregated,
    finished,
    fixed,
    group,
    rank_columns,
    setting,
    split,
    watched,
)


def pretended(length: float, steps: int = 3, method: str = "match-expected") -> Mtp:
    return Mtp.model_validate(
        {"num_steps": steps, "simulated_accept_length": length, "simulated_accept_method": method}
    )


def tokens_per_step(state: State) -> float:
    """Of a run of one request at a time, which alone makes every step its own."""
    rest = (state.reqs.i[:, ls.OSL] - 1).sum()
    # The overlapped scheduler has launched one step more when it learns of a request's last token.
    steps = state.world.totals[0, ls.STEPS_DECODE] - len(state.reqs.link)
    return float(rest / steps)


@pytest.mark.parametrize("length", [1.0, 2.0, 4.0])
def test_a_whole_pretended_length_is_every_step_s(length):
    state = finished(setting(aggregated("TP4", pretended(length)), fixed(512, 101, 1, 1)))
    # The overlapped scheduler has launched one step more when it learns that the last token is out.
    assert state.world.totals[0, ls.STEPS_DECODE] == math.ceil(100 / length) + 1


@pytest.mark.parametrize("method", ["match-expected", "multinomial"])
@pytest.mark.parametrize("length", [1.3, 2.49])
def test_drawn_lengths_have_the_stated_mean(length, method):
    draft = pretended(length, method=method)
    state = finished(setting(aggregated("TP4", draft), fixed(512, 20_001, 1, 1)))
    assert tokens_per_step(state) == pytest.approx(simulated_length(draft), rel=0.02)


def test_requests_of_a_rank_advance_by_the_same_draw():
    """Requests alike that begin together end together; with acceptance of their own they do not."""

    def ends(draft: Mtp) -> int:
        recipe = aggregated("TP4", draft, chunk_tokens_per_rank=8192)
        done = finished(setting(recipe, fixed(64, 400, 16, 16))).reqs.t[:, ls.DONE]
        return len(np.unique(done))

    assert ends(pretended(2.49)) == 1
    assert ends(Mtp(num_steps=3)) > 4


def test_ranks_draw_by_their_own_steps_and_seeds_differ():
    recipe = aggregated("DEP4", pretended(2.49))
    load = fixed(512, 300, 16, 64)
    one, two = (finished(setting(recipe, load, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one.reqs.t, two.reqs.t)
    assert (rank_columns(one, ls.AGGREGATED, ls.DRAWS) > 0).all()


def test_finished_requests_hold_no_token_that_was_drawn_beyond_their_end():
    """A step of four tokens ends requests at their second: pools and contexts stay exact."""
    what = setting(aggregated("TP4", pretended(4.0)), fixed(512, 99, 8, 64))
    *_, last = watched(what, 0.05)
    assert last.ranks.f[:, ls.CONTEXT] == pytest.approx(0.0, abs=1e-6)
    assert last.ranks.f[:, ls.USED_FULL] == pytest.approx(last.ranks.f[:, ls.LINGER_FULL], abs=1e-6)


@pytest.mark.parametrize("draft", [pretended(2.49), pretended(2.2, method="multinomial")])
def test_the_fluid_model_steps_by_the_same_mean(draft):
    recipe = split(group("TP4"), group("TP4", draft))
    what = setting(recipe, fixed(1024, 2048, 1, 4))
    assert estimate(what).tpot_s * 1e3 == pytest.approx(predict(what).metrics["mean_tpot_ms"], rel=0.03)


# Adaptive draft lengths
class EngineTier:
    """`AdaptiveStepSlot` of SGLang 0.5.23 with its arithmetic, without logging."""

    def __init__(self, initial_steps: int, tier: AdaptiveTier) -> None:
        self.tier, self.steps = tier, sorted(set(tier.candidate_steps))
        known = initial_steps in self.steps
        self.current = initial_steps if known else self.steps[len(self.steps) // 2]
        self.ema, self.count = float(self.current - 1), 0

    def recompute(self) -> None:
        tier, old = self.tier, self.current
        index = old_index = self.steps.index(old)
        if old == 0:
            index = min(index + 1, len(self.steps) - 1)
            if self.steps[index] > 0 and self.ema < 0:
                self.ema = float(self.steps[index] - 1)
            self.current = self.steps[index]
            return
        while index > 0:
            previous = self.steps[index - 1]
            threshold = (0.5 if previous == 0 else previous - 0.5) + tier.down_hysteresis
            if self.ema <= threshold:
                index -= 1
            else:
                break
        if index == old_index:
            while index < len(self.steps) - 1 and self.ema > self.steps[index] - 0.5 + tier.up_hysteresis:
                index += 1
        target = self.steps[index]
        if tier.ceiling_coeff > 0:
            ceiling = max(1, math.ceil(self.ema * tier.ceiling_coeff))
            if target > ceiling and target <= old:
                while index > 0 and self.steps[index] > ceiling:
                    index -= 1
                target = self.steps[index]
        self.current = target


@njit
def decided(state: Any) -> None:
    loop_adaptive.decide(state, 0, 0)


@pytest.mark.parametrize("ceiling", [0.0, 1.5])
@pytest.mark.parametrize("candidates", [(1, 3, 5, 7), (0, 1, 3), (0, 1), (0,)])
def test_decisions_are_the_engine_s(candidates, ceiling):
    tier = AdaptiveTier(batch=1, candidate_steps=candidates, ceiling_coeff=ceiling)
    draft = Mtp.model_construct(
        num_steps=candidates[-1], adaptive=AdaptiveSteps(tiers=(tier,)), algorithm="eagle",
        verify="static", verify_costs=None, simulated_accept_length=None,
    )  # fmt: skip
    what = setting(aggregated("TP4", Mtp(num_steps=1)), fixed(512, 8, 1, 1))
    recipe = aggregated("TP4").model_copy(
        update={"aggregated": group("TP4").model_copy(update={"mtp": draft})}
    )
    state = drafting(replace(what, recipe=recipe), 1, dict.fromkeys(candidates, 0))
    engine = EngineTier(candidates[-1], tier)
    assert state.mean[0, 0] == engine.ema
    for accepted in np.random.default_rng(3).uniform(-1.0, 7.5, 400):
        state.mean[0, 0] = engine.ema = accepted
        decided(state)
        engine.recompute()
        assert state.candidates[0, state.chosen[0, 0]] == engine.current
        assert state.mean[0, 0] == engine.ema


def adaptive(**changes: Any) -> Mtp:
    return Mtp.model_validate({"num_steps": 3, "adaptive": AdaptiveSteps()} | changes)


def shapes_seen(draft: Mtp, load: Workload, every_s: float = 0.02) -> list[int]:
    """Draft steps in force at moments of a run."""
    found = []
    for state in watched(setting(aggregated("TP4", draft), load, V0523), every_s):
        if state.groups.i[0, ls.STATE] == ls.IN_DECODE:
            found.append(int(state.classes.i[state.groups.i[0, ls.SHAPE], ls.STEPS_DRAFTED]))
    return found


def test_a_lone_request_drafts_as_many_as_are_accepted():
    assert shapes_seen(adaptive(simulated_accept_length=8.0), fixed(512, 2000, 1, 1))[-1] == 7
    assert shapes_seen(adaptive(simulated_accept_length=1.0), fixed(512, 2000, 1, 1))[-1] == 1


def test_a_decision_waits_for_warm_up_and_comes_every_fifth_step():
    """At acceptance of everything: 3 for ten steps and five more, read a step late, then up at once."""
    tier = AdaptiveTier(batch=1, candidate_steps=(3, 4))
    draft = Mtp(num_steps=3, simulated_accept_length=9.0, adaptive=AdaptiveSteps(tiers=(tier,)))
    state = finished(setting(aggregated("TP4", draft), fixed(512, 2001, 1, 1), V0523))
    # Fifteen steps of four tokens decide, a sixteenth runs when their results are read; then five each.
    steps = state.world.totals[0, ls.STEPS_DECODE] - 1
    assert steps == 16 + math.ceil((2000 - 16 * 4) / 5)


def test_large_batches_stop_drafting_and_small_ones_go_on():
    assert set(shapes_seen(adaptive(), fixed(64, 200, 64, 64))[1:-3]) >= {0}
    few = shapes_seen(adaptive(), fixed(64, 400, 4, 16))
    assert 0 not in few


def test_adaptive_is_near_the_best_fixed_length_where_that_changes_with_load():
    """It may be slower than the best fixed length, by what probing costs; it is not the slowest."""
    for concurrency in (1, 16):
        load = fixed(512, 400, concurrency, 4 * concurrency)
        rates = [
            predict(setting(aggregated("TP4", Mtp(num_steps=n)), load, V0523)).metrics["requests_per_s"]
            for n in (1, 3, 7)
        ]
        got = predict(setting(aggregated("TP4", adaptive()), load, V0523)).metrics["requests_per_s"]
        assert got > 0.9 * max(rates) and got > min(rates)


def test_data_parallel_ranks_do_not_adapt():
    """The engine switches it off: a recipe with it costs what it costs without."""
    load = fixed(512, 100, 32, 64)
    with_, without = (
        finished(setting(aggregated("DEP4", draft), load, V0523)).reqs.t for draft in (adaptive(), 3)
    )
    # The longest draft of the tiers sizes buffers alone.
    assert with_.shape == without.shape
    assert class_tables(setting(aggregated("DEP4", adaptive()), load, V0523)).shape_of == {}


def test_the_fluid_model_settles_at_the_length_of_the_load():
    for concurrency, draft in ((1, adaptive(simulated_accept_length=8.0)), (1, adaptive())):
        recipe = split(group("TP4"), group("TP4", draft))
        what = setting(recipe, fixed(1024, 2048, concurrency, 4 * concurrency), V0523)
        measured = predict(what).metrics["mean_tpot_ms"]
        assert estimate(what).tpot_s * 1e3 == pytest.approx(measured, rel=0.08)


def test_default_tiers_are_the_release_s():
    assert default_tiers((0, 5, 15))[0].candidate_steps == (1, 3, 7)
    assert default_tiers((0, 5, 23))[0].candidate_steps == (1, 3, 5, 7)


# DSpark
BLOCK = Mtp(num_steps=7, algorithm="dspark")
TRIMMED = BLOCK.model_copy(update={"verify": "compact", "verify_costs": "costs.json"})


def scenario(draft: Mtp | int, **changes: object) -> Any:
    what = setting(aggregated("TP4", draft, model="flash", hardware="h200", **changes), fixed(512, 8, 1, 1))
    return what.scenario(what.recipe.serving)


def test_one_block_pass_costs_less_than_as_many_single_passes():
    batch = np.array([1.0, 16.0, 128.0])
    block = decode_cost(scenario(BLOCK), batch, 4096.0)
    single = decode_cost(scenario(7), batch, 4096.0)
    assert (block.seconds["draft"] < single.seconds["draft"]).all()
    assert block.sources["draft"] == "analytic"
    for name in ("attention", "routed_experts"):
        assert block.seconds[name] == pytest.approx(single.seconds[name]), "verification is alike"


def test_the_block_costs_more_than_one_pass_and_grows_with_it():
    batch = np.array([16.0])
    drafts = [
        decode_cost(scenario(Mtp(num_steps=n, algorithm="dspark")), batch, 4096.0).seconds["draft"][0]
        for n in (1, 4, 7)
    ]
    assert drafts[0] < drafts[1] < drafts[2]


def test_prompts_pass_no_draft_layer():
    tokens = np.array([4096.0])
    block, single = (prefill_cost(scenario(d), tokens, 2048.0).seconds["draft"][0] for d in (BLOCK, 3))
    assert 0 < block < 0.2 * single


def test_memory_of_the_draft():
    """One layer beside the pools as with MTP; two Markov tables of rank 256, one projection less."""
    dspark, eagle = (group("TP4", draft) for draft in (BLOCK, 7))
    extra = weight_bytes(PRO, dspark, 100)["mtp_layer"] - weight_bytes(PRO, eagle, 100)["mtp_layer"]
    by_hand = 2 * 129_280 * 256 * 2 - 7168**2 + 128 * 512 * 1024 / 4
    assert extra == pytest.approx(by_hand)
    budgets = [
        memory_budget(PRO, g, setting(aggregated("TP4"), fixed(1, 1, 1, 1)).hardware, V0523, "aggregated")
        for g in (dspark, eagle, group("TP4"))
    ]
    assert budgets[0].bytes_per_token == budgets[1].bytes_per_token > budgets[2].bytes_per_token


def test_a_block_emits_its_acceptance():
    load = Workload(isl=1024, osl=1024, random_range_ratio=1.0, num_prompts=8, accept_length=5.47)
    state = finished(setting(aggregated("TP4", BLOCK, model="flash"), load, V0523))
    assert tokens_per_step(state) == pytest.approx(5.47, rel=0.08)


def test_verification_is_trimmed_only_where_it_costs_and_never_slower():
    law = AcceptanceLaw(0.7, 8.0, 0.949)
    windows, progress = verify_windows(scenario(BLOCK), law, 4096.0)
    assert all(1 <= w <= 8 for w in windows) and all(0 < p <= 1 for p in progress)
    batches = range(0, 33, 4)
    assert windows[32] < windows[0], "a large batch verifies less of each draft"
    for k in batches:
        cost = decode_cost(scenario(BLOCK), 2.0 ** (k / 4), 4096.0)
        trim = decode_cost(scenario(BLOCK), 2.0 ** (k / 4), 4096.0, window=windows[k])
        assert trim.gpu_s / progress[k] <= cost.gpu_s * (1 + 1e-9)


def test_without_a_cost_table_everything_is_verified():
    load = Workload(isl=512, osl=200, random_range_ratio=1.0, concurrency=64, num_prompts=64, accept_length=2)

    def rate(draft: Mtp) -> float:
        what = setting(aggregated("TP4", draft, model="flash"), load, V0523)
        return predict(what).metrics["requests_per_s"]

    everything = rate(BLOCK)
    for verify in ("compact", "cap-accept"):
        assert rate(BLOCK.model_copy(update={"verify": verify})) == everything
    assert rate(TRIMMED) > 1.02 * everything


def test_the_breakdown_is_of_what_is_verified():
    load = Workload(isl=512, osl=100, random_range_ratio=1.0, concurrency=64, num_prompts=64, accept_length=2)

    def experts_s(draft: Mtp) -> float:
        what = setting(aggregated("TP4", draft, model="flash"), load, V0523)
        step = predict(what, explain=True).breakdown["aggregated decode step"]
        return float(step["routed_experts"]["seconds"])

    assert experts_s(TRIMMED) < 0.95 * experts_s(BLOCK)


def test_costs_are_shared_between_recipes_that_pretend_and_that_do_not():
    real, fake = (bare(group("TP4", draft)) for draft in (3, pretended(2.49)))
    assert real == fake and hash(real) == hash(fake)
    assert isinstance(real, EngineGroup) and FLASH.num_mtp_layers == 1
