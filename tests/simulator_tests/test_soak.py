"""A handful of the soak's random settings (`benchmarks/soak.py` runs thousands)."""

from __future__ import annotations

from benchmarks.soak import LONGEST_S, broken_laws, random_setting
from search_spaces.errors import Infeasible
from simulator import loop_state as ls
from simulator.loop_aggregated import FINISHED, advance
from simulator.world import prepare


def finished_states(seeds):
    for seed in seeds:
        try:
            state = prepare(random_setting(seed))
        except Infeasible:
            continue
        if advance(state.world, state.classes, state.groups, state.ranks, state.reqs, LONGEST_S) == FINISHED:
            yield state


def test_random_recipes_under_random_loads_keep_the_laws():
    states = list(finished_states(range(10_000, 10_060)))
    assert len(states) > 30
    assert not [law for state in states for law in broken_laws(state)]


def test_the_laws_of_the_soak_can_be_broken():
    state = next(finished_states(range(10_000, 10_060)))
    state.ranks.f[0, ls.USED_FULL] += 1
    state.reqs.t[0, ls.DONE] = state.reqs.t[0, ls.FIRST] - 1
    assert len(broken_laws(state)) >= 2
