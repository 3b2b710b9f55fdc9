"""The shapes of a decode step that a role takes up as it runs, and how far each carries its requests.

Most roles draft one length. An adaptive server moves between lengths, and DSpark with a cost table verifies
less of its drafts the larger the batch is: then a step is worth a share of one at the full draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from search_spaces.law_case import release
from search_spaces.recipe import EngineGroup
from simulator.acceptance import SAMPLES, AcceptanceLaw, acceptance_law, law_length, survival
from simulator.cost_tables import BATCH_POINTS, TOKEN_AXIS, RoleTables, decode_tables
from simulator.loop_state import TOKEN_POINTS
from simulator.op_costs import Floats
from simulator.setting import Setting
from simulator.step_cost import Scenario, decode_cost

WINDOWS_PER_TOKEN = 4
"""Windows per verified token among which a profiled cost table chooses."""
WHOLE = np.ones(TOKEN_POINTS)
"""Every step is one unit, at every batch."""


@dataclass(frozen=True)
class DraftShape:
    """One draft length of a role."""

    group: EngineGroup
    tables: RoleTables
    progress: Floats
    """[batch] share of a step at the longest draft."""


def shapes_of(setting: Setting, group: EngineGroup) -> dict[int, DraftShape]:
    """Draft steps to shape, of an adaptive role; empty for any other."""
    mtp = group.mtp
    if mtp is None or mtp.adaptive is None or setting.steps is not None:
        return {}
    if group.attention_dp > 1:
        return {}  # the engine switches it off: ranks would not decide alike
    tiers = mtp.adaptive.tiers_of(release(setting.stack.version))
    law = acceptance_law(setting.calibration, setting.stack, setting.workload, mtp)
    found = {}
    for steps in sorted({steps for tier in tiers for steps in tier.candidate_steps} | {mtp.num_steps}):
        at = group.model_copy(update={"mtp": mtp.fixed_at(steps)})
        share = law_length(law, steps) / law_length(law, mtp.most_steps)
        found[steps] = DraftShape(at, decode_tables(setting.scenario(bare(at))), WHOLE * share)
    return found


def trimmed(setting: Setting, group: EngineGroup) -> DraftShape | None:
    """The decode step of a role that verifies the likely part of its drafts; None for any other."""
    mtp = group.mtp
    if mtp is None or not mtp.trims_verification or setting.steps is not None:
        return None
    if mtp.simulated_accept_length is not None:
        return None
    law = acceptance_law(setting.calibration, setting.stack, setting.workload, mtp)
    windows, progress = verify_windows(setting.scenario(bare(group)), law, _mean_context(setting))
    return DraftShape(group, decode_tables(setting.scenario(bare(group)), windows), np.array(progress))


def window_at(setting: Setting, group: EngineGroup, batch: float) -> float | None:
    """Mean tokens verified per sequence at a batch; None where that is the whole draft."""
    mtp = group.mtp
    if mtp is None or trimmed(setting, group) is None:
        return None
    law = acceptance_law(setting.calibration, setting.stack, setting.workload, mtp)
    windows, _ = verify_windows(setting.scenario(bare(group)), law, _mean_context(setting))
    return float(np.interp(np.log2(max(batch, 1.0)), np.log2(TOKEN_AXIS), windows))


def _mean_context(setting: Setting) -> float:
    return setting.workload.mean_isl + setting.workload.mean_osl / 2


@lru_cache(maxsize=256)
def verify_windows(
    scn: Scenario, law: AcceptanceLaw, context: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Tokens verified per sequence at each batch of the table axis, and the share of a full step they are.

    The planner takes the budget with the most expected tokens per second of its cost table, and gives it to
    the drafts most likely to survive (SGLang 0.5.23, `dspark_planner`). Taken for granted are a table that
    holds, a confidence head that knows each request's acceptance, and graphs of every size: the gain is the
    most that trimming can bring.
    """
    mtp = scn.group.mtp
    assert mtp is not None
    steps = np.arange(mtp.num_steps * WINDOWS_PER_TOKEN + 1) / WINDOWS_PER_TOKEN
    emitted = _likeliest(law, mtp.num_steps, steps)
    axis = TOKEN_AXIS[:BATCH_POINTS]
    seconds = decode_cost(scn, axis[:, None], context, window=1.0 + steps[None, :]).gpu_s
    best = np.argmax(emitted / seconds, axis=1)
    rest = TOKEN_POINTS - BATCH_POINTS
    windows, progress = 1.0 + steps[best], emitted[best] / emitted[-1]
    return (
        tuple(np.append(windows, np.full(rest, windows[-1]))),
        tuple(np.append(progress, np.full(rest, progress[-1]))),
    )


def _likeliest(law: AcceptanceLaw, num_steps: int, drafts: Floats) -> Floats:
    """Expected tokens per step when the likeliest `drafts` per sequence are verified, over all requests."""
    alive = survival(law.draw(np.random.default_rng(0), SAMPLES), num_steps)
    # A request with little acceptance is in the batch for longer.
    weight = 1.0 / (1.0 + alive.sum(axis=1))
    weight = np.repeat(weight / weight.sum(), num_steps)
    order = np.argsort(-alive.ravel(), kind="stable")
    spent, gained = np.cumsum(weight[order]), np.cumsum((weight * alive.ravel())[order])
    found: Floats = 1.0 + np.interp(drafts, np.append(0.0, spent), np.append(0.0, gained))
    return found


@lru_cache(maxsize=8192)
def bare(group: EngineGroup) -> EngineGroup:
    """The group with every field at its default that step costs do not depend on, to share tables."""
    keep = {
        "tp", "attention_dp", "moe_ep", "pp", "moe_backend", "moe_activation", "expert_weights",
        "dp_lm_head", "redundant_experts", "eplb", "eplb_rebalance_steps", "eplb_min_utilization",
        "expert_location", "expert_dispatch", "waterfill", "two_batch_overlap", "single_batch_overlap",
        "deepep_mode",
    }  # fmt: skip
    values = {name: getattr(group, name) for name in keep}
    values |= {"mem_fraction_static": 0.5, "max_running_per_rank": 1, "chunk_tokens_per_rank": 64}
    values["mtp"] = group.mtp.computed if group.mtp else None
    return EngineGroup.model_construct(**values)
