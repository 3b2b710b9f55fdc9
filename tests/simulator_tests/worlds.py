"""Small deployments whose laws can be checked, and the state that `run` keeps to itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit

from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.recipe import EngineGroup, Frontend, Mtp, Recipe
from search_spaces.stack import StackVersion
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration, HostCosts
from simulator.loop_aggregated import FINISHED, STUCK, advance
from simulator.loop_costs import look_1d, look_2d
from simulator.world import Relief, Setting, State, prepare

PRO = catalog_loader.model("deepseek-v4-pro")
FLASH = catalog_loader.model("deepseek-v4-flash")
MODELS = {"pro": PRO, "flash": FLASH}
JUNE = catalog_loader.stack("june")
V0523 = catalog_loader.stack("v0523")
DAY0 = catalog_loader.stack("day0")
HOST = HostCosts()
"""Written out, so that a new fit of the shipped calibration moves no test."""
CALIBRATION = Calibration(name="test")
LONGEST_S = 1e5
"""Simulated seconds that no load of these tests needs."""


def group(layout: str, mtp: int | Mtp = 0, **changes: object) -> EngineGroup:
    """One worker of `TP4` (dense), `DEP8` (MegaMoE with DP attention) or `DPA4` (TP experts)."""
    kind, size = layout.rstrip("0123456789"), int(layout.lstrip("ADEPT"))
    fields: dict[str, object] = {
        "tp": size,
        "moe_backend": "flashinfer_mxfp4",
        "mem_fraction_static": 0.9,
        "max_running_per_rank": 64,
        "chunk_tokens_per_rank": 8192,
    }
    if kind == "DEP":
        fields |= {"attention_dp": size, "moe_ep": size, "moe_backend": "megamoe", "dp_lm_head": True}
    if kind == "DPA":
        fields |= {"attention_dp": size}
    if mtp:
        fields |= {"mtp": mtp if isinstance(mtp, Mtp) else Mtp(num_steps=mtp)}
    return EngineGroup.model_validate(fields | changes)


def aggregated(
    layout: str, mtp: int | Mtp = 0, hardware: str = "gb300", model: str = "pro", **changes: object
) -> Recipe:
    """A deployment of workers that prefill and decode."""
    return Recipe(
        name="aggregated",
        model=MODELS[model].name,
        hardware=hardware,
        aggregated=group(layout, mtp, **changes),
    )


def split(
    prefill: EngineGroup,
    decode: EngineGroup,
    hardware: str = "gb300",
    model: str = "pro",
    policy: str = "round_robin",
) -> Recipe:
    """Prefill and decode workers apart."""
    return Recipe(
        name="split",
        model=MODELS[model].name,
        hardware=hardware,
        prefill=prefill,
        decode=decode,
        transfer_backend="mooncake",
        frontend=Frontend.model_validate({"policy": policy}),
    )


def setting(
    recipe: Recipe,
    workload: Workload,
    stack: StackVersion = JUNE,
    calibration: Calibration = CALIBRATION,
    seed: int = 0,
    relief: Relief | None = None,
) -> Setting:
    """What to simulate."""
    return Setting(
        recipe,
        workload,
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        stack,
        calibration,
        seed,
        relief or Relief(),
    )


def fixed(isl: int, osl: int, concurrency: int, requests: int) -> Workload:
    """A load of equal requests."""
    return Workload(isl=isl, osl=osl, random_range_ratio=1.0, concurrency=concurrency, num_prompts=requests)


def finished(what: Setting) -> State:
    """The state after the last request; `Infeasible` where a request can never be admitted."""
    state = prepare(what)
    status = advance(state.world, state.classes, state.groups, state.ranks, state.reqs, LONGEST_S)
    _check(status)
    assert status == FINISHED, "the run does not end"
    return state


def watched(what: Setting, every_s: float) -> Iterator[State]:
    """The same state, every `every_s` simulated seconds until the end."""
    state, until = prepare(what), 0.0
    while True:
        until += every_s
        status = advance(state.world, state.classes, state.groups, state.ranks, state.reqs, until)
        _check(status)
        yield state
        if status == FINISHED:
            return
        assert until < LONGEST_S, "the run does not end"


def _check(status: int) -> None:
    if status == STUCK:
        raise Infeasible("a request can never be admitted", rule="admission")


def rank_columns(state: State, role: int, column: int) -> np.ndarray:
    """One column of the ranks of one role: counts by name in `loop_state.Ranks.i`."""
    found: np.ndarray = state.ranks.i[_ranks_of(state, role), column]
    return found


def rank_quantities(state: State, role: int, column: int) -> np.ndarray:
    """The same for `loop_state.Ranks.f`."""
    found: np.ndarray = state.ranks.f[_ranks_of(state, role), column]
    return found


def _ranks_of(state: State, role: int) -> np.ndarray:
    mine = state.classes.i[state.groups.i[:, ls.CLASS], ls.ROLE] == role
    rows = state.groups.i[mine]
    return np.concatenate([np.arange(r[ls.RANK0], r[ls.RANK0] + r[ls.RANKS]) for r in rows])


def throughput(state: State) -> float:
    """Requests per second from the first send to the last token."""
    return len(state.reqs.link) / float(state.reqs.t[:, ls.DONE].max())


@njit
def table_1d(table: Any, value: float) -> float:
    """The loop's look-up, callable from Python."""
    found: float = look_1d(table, value)
    return found


@njit
def table_2d(table: Any, value: float, context: float) -> float:
    """The loop's look-up, callable from Python."""
    found: float = look_2d(table, value, context)
    return found
