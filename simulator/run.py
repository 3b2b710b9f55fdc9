"""Drive one run from its first request to its last.

SimPy owns what is coarse and has its own clock: the run itself, progress, and workers that die and come
back. Between such moments one compiled loop (`loop_aggregated.advance`) carries all requests and engine
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from search_spaces.errors import BadInput, Infeasible
from search_spaces.outage import Outage
from simulator import loop_state as ls
from simulator.loop_aggregated import FINISHED, STUCK, advance
from simulator.loop_failure import bring_up, take_down
from simulator.memory import MemoryBudget
from simulator.role_constants import ROLE_CODES
from simulator.world import Setting, State, prepare

WINDOW_S = 60.0
"""Simulated seconds between looks from outside."""


@dataclass
class Run:
    """A finished run: the request table and the totals per role."""

    setting: Setting
    roles: list[str]
    budgets: list[MemoryBudget]
    reqs: ls.Requests
    totals: NDArray[np.float64]
    end_s: float
    groups_per_role: list[int]
    resent: int
    """Requests that lost their worker and were sent again; twice, if they lost it twice."""


class _Moment(NamedTuple):
    """A worker goes or comes back."""

    at_s: float
    comes_back: bool
    outage: Outage


def run(setting: Setting, on_progress: Callable[[float], None] | None = None) -> Run:
    """Simulate the measured requests of a workload on a recipe.

    Warm-up requests are not simulated: the harness drains them before it starts the clock, and nothing
    that the simulator keeps (queues, pools) survives the drain.

    Raises:
        BadInput: an outage of a worker that there is not, or of all workers of a role for ever.
        Infeasible: a role does not fit its GPUs, or a request can never be admitted.
    """
    _check_outages(setting)
    state = prepare(setting)
    drive(setting, state, on_progress)
    return Run(
        setting,
        state.roles,
        state.budgets,
        state.reqs,
        state.world.totals,
        float(state.reqs.t[:, ls.DONE].max()),
        state.groups_per_role,
        int(state.world.counters[ls.RESENT]),
    )


def drive(setting: Setting, state: State, on_progress: Callable[[float], None] | None = None) -> None:
    """Carry a prepared state to the last token of the last request.

    Raises:
        Infeasible: a request can never be admitted.
    """
    moments = _moments(setting)
    env = simpy.Environment()

    def deployment() -> Generator[simpy.Event, None, None]:
        until = 0.0
        while True:
            while moments and moments[0].at_s <= until:
                _act(state, moments.pop(0))
            until = min(until + WINDOW_S, moments[0].at_s if moments else np.inf)
            status = advance(state.world, state.classes, state.groups, state.ranks, state.reqs, until)
            if on_progress is not None:
                on_progress(state.world.counters[ls.COMPLETED] / len(state.reqs.link))
            if status == FINISHED:
                return
            if status == STUCK and not moments:
                raise Infeasible(_stuck(setting, state.reqs, state.ranks), rule="admission")
            yield env.timeout(until - env.now)

    env.run(env.process(deployment()))


def _moments(setting: Setting) -> list[_Moment]:
    """When something happens to a worker, in order; the same worker returns before it goes again."""
    found = [_Moment(o.at_s, False, o) for o in setting.outages]
    found += [_Moment(o.at_s + o.back_s, True, o) for o in setting.outages if o.back_s is not None]
    return sorted(found, key=lambda moment: (moment.at_s, not moment.comes_back))


def _act(state: State, moment: _Moment) -> None:
    what = moment.outage
    g = int(state.world.groups_of[ROLE_CODES[what.role], 0]) + what.worker
    if moment.comes_back:
        state.world.clock[ls.NOW] = max(state.world.clock[ls.NOW], moment.at_s)
        bring_up(state.world, state.classes, state.groups, state.ranks, state.reqs, g)
        return
    if state.groups.i[g, ls.STATE] == ls.DOWN:
        return
    state.world.clock[ls.NOW] = max(state.world.clock[ls.NOW], moment.at_s)
    keep = int(what.retry == "migrate")
    take_down(state.world, state.classes, state.groups, state.ranks, state.reqs, g, what.detect_s, keep)


def _check_outages(setting: Setting) -> None:
    gone: dict[str, set[int]] = {}
    for what in setting.outages:
        group = setting.recipe.groups.get(what.role)
        if group is None or what.worker >= group.num_workers:
            raise BadInput(
                f"outage.role={what.role} outage.worker={what.worker}: {setting.recipe.topology} has no such "
                f"worker; choose among { ({r: g.num_workers for r, g in setting.recipe.groups.items()}) }"
            )
        if what.back_s is None:
            gone.setdefault(what.role, set()).add(what.worker)
            if len(gone[what.role]) == group.num_workers:
                raise BadInput(
                    f"outage.back_s=None leaves no {what.role} worker for ever; state when one comes back"
                )


def _stuck(setting: Setting, reqs: ls.Requests, ranks: ls.Ranks) -> str:
    waiting = np.flatnonzero(reqs.t[:, ls.DONE] < 0)
    longest = int(reqs.i[waiting, ls.ISL].max())
    causes = {0: "memory", 1: "request slots", 2: "full-pool tokens", 3: "window-pool tokens"}
    cause = causes[int(ranks.blocked.max())]
    return (
        f"recipe {setting.recipe.name!r}: {len(waiting)} requests (up to {longest} prompt tokens) can never "
        f"be admitted for want of {cause}; raise mem_fraction_static or swa_full_tokens_ratio, "
        "or widen the worker"
    )
