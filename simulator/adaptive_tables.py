"""The tiers of an adaptive role as the compiled loop wants them."""

from __future__ import annotations

import numpy as np

from search_spaces.law_case import release
from search_spaces.mtp import Mtp
from simulator import loop_state as ls
from simulator.acceptance import SAMPLES, acceptance_law, simulated_length, survival
from simulator.loop_adaptive import settle
from simulator.setting import Setting


def drafting(setting: Setting, num_groups: int, shape_of: dict[int, int]) -> ls.Drafting:
    """Tiers at their start; none where `shape_of` (draft steps to class) is empty."""
    mtp = setting.recipe.mtp
    if mtp is None or mtp.adaptive is None or not shape_of:
        return _drafting(num_groups, 0, 1)
    tiers = mtp.adaptive.tiers_of(release(setting.stack.version))
    found = _drafting(num_groups, len(tiers), max(len(tier.candidate_steps) for tier in tiers))
    for steps, row in shape_of.items():
        found.shape_of[steps] = row
    found.alive[: mtp.most_steps] = _mean_survival(setting, mtp)
    for k, tier in enumerate(tiers):
        steps_of = sorted(set(tier.candidate_steps))
        found.batch[k], found.num_candidates[k] = tier.batch, len(steps_of)
        found.candidates[k, : len(steps_of)] = steps_of
        found.rule[k, ls.EMA_ALPHA], found.rule[k, ls.EVERY] = tier.ema_alpha, tier.update_interval
        found.rule[k, ls.WARMUP], found.rule[k, ls.CEILING] = tier.warmup_batches, tier.ceiling_coeff
        found.rule[k, ls.DOWN_BY], found.rule[k, ls.UP_BY] = tier.down_hysteresis, tier.up_hysteresis
        start = mtp.num_steps if mtp.num_steps in steps_of else steps_of[len(steps_of) // 2]
        found.chosen[:, k], found.mean[:, k] = steps_of.index(start), start - 1.0
    return found


def steady_shape(setting: Setting, shape_of: dict[int, int], bucket: ls.I8, batch: float) -> int:
    """The class that an adaptive role stays at with `batch` sequences, by expected acceptance.

    Between two lengths that it swings between it is at either for as long, and the last counts.
    """
    state, mtp = drafting(setting, 1, shape_of), setting.recipe.mtp
    assert mtp is not None
    expected = np.append(0.0, np.cumsum(_mean_survival(setting, mtp)))
    if mtp.simulated_accept_length is not None:
        lengths = [simulated_length(mtp.fixed_at(n)) for n in range(mtp.most_steps + 1)]
        expected = np.array(lengths) - 1.0
    size = min(max(int(np.ceil(batch)), 1), len(bucket) - 1)
    size = int(bucket[size]) if bucket[size] > 0 else size
    tier = max(int(np.searchsorted(state.batch, size, side="right")) - 1, 0)
    return shape_of[int(settle(state, tier, expected))]


def _drafting(groups: int, tiers: int, candidates: int) -> ls.Drafting:
    return ls.Drafting(
        batch=np.zeros(tiers, dtype=np.int64),
        candidates=np.zeros((tiers, candidates), dtype=np.int64),
        num_candidates=np.zeros(tiers, dtype=np.int64),
        rule=np.zeros((tiers, ls.NUM_RULE_FLOATS)),
        shape_of=np.full(ls.MOST_STEPS + 1, -1, dtype=np.int64),
        alive=np.zeros(ls.MOST_STEPS),
        chosen=np.zeros((groups, tiers), dtype=np.int64),
        seen=np.zeros((groups, tiers), dtype=np.int64),
        mean=np.zeros((groups, tiers)),
        last=np.zeros((groups, 2), dtype=np.int64),
    )


def _mean_survival(setting: Setting, mtp: Mtp) -> np.ndarray:
    """[position] probability that a draft and all before it are accepted, over requests in the batch."""
    law = acceptance_law(setting.calibration, setting.stack, setting.workload, mtp)
    alive = survival(law.draw(np.random.default_rng(0), SAMPLES), mtp.most_steps)
    # A request with little acceptance is in the batch for longer.
    found: np.ndarray = np.average(alive, axis=0, weights=1.0 / (1.0 + alive.sum(axis=1)))
    return found
