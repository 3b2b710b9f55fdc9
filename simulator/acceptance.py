"""How many tokens a speculative step emits per request.

A draft at position j is accepted with probability p_i x decay^(j-1) if all before it were; p_i differs
between requests (Beta), which is what separates mean from median TPOT in published runs.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from search_spaces.recipe import Mtp
from search_spaces.stack import StackVersion
from search_spaces.workload import Workload
from simulator.calibration import Calibration

Floats = NDArray[np.float64]

SHORT_PROMPT_TOKENS = 1024
LONG_PROMPT_OCTAVES = 3
"""Factors of two from short prompts to those beyond which acceptance no longer grows."""


def mean_accept(calibration: Calibration, stack: StackVersion, workload: Workload) -> float:
    """Mean probability that the first draft token is accepted."""
    base = calibration.accept_chat if workload.prompts == "chat" else calibration.accept_random
    length = math.log2(workload.mean_isl / SHORT_PROMPT_TOKENS) / LONG_PROMPT_OCTAVES
    base *= float(calibration.accept_short_ratio ** (1.0 - min(max(length, 0.0), 1.0)))
    return base * (1.0 if stack.has("ue8m0_scale_fix") else calibration.accept_before_ue8m0)


def tokens_per_step(p: Floats, decay: float, num_steps: int) -> Floats:
    """Expected tokens per verify step, the bonus token included, for first-position probability `p`."""
    total, chain = np.ones_like(p), np.ones_like(p)
    for position in range(num_steps):
        chain = chain * np.minimum(p * decay**position, 1.0)
        total = total + chain
    return total


def mean_length(calibration: Calibration, stack: StackVersion, workload: Workload, mtp: Mtp | None) -> float:
    """Harmonic-mean tokens per step over requests: output tokens over verify steps in a long run."""
    if mtp is None:
        return 1.0
    mean = mean_accept(calibration, stack, workload)
    return _mean_length(*_beta(mean, calibration), calibration.accept_decay, mtp.num_steps)


@lru_cache(maxsize=1024)
def _mean_length(a: float, b: float, decay: float, num_steps: int) -> float:
    p = np.random.default_rng(0).beta(a, b, size=4096)
    return float(1.0 / np.mean(1.0 / tokens_per_step(p, decay, num_steps)))


def _beta(mean: float, calibration: Calibration) -> tuple[float, float]:
    return mean * calibration.accept_spread, (1 - mean) * calibration.accept_spread


def spread_evenly(a: float, b: float, count: int, rng: np.random.Generator) -> Floats:
    """`count` values of a Beta law, one from each of as many equal parts of it, in random order.

    A run of ten requests then has the mean of the law; independent draws would move it by 5 %.
    """
    share = (rng.permutation(count) + 0.5) / max(count, 1)
    table = _quantiles(a, b)
    found: Floats = np.interp(share, (np.arange(len(table)) + 0.5) / len(table), table)
    return found


@lru_cache(maxsize=1024)
def _quantiles(a: float, b: float) -> Floats:
    found: Floats = betaincinv(a, b, (np.arange(1024) + 0.5) / 1024)
    return found


def decode_iterations(
    osl: NDArray[np.int64],
    mtp: Mtp | None,
    calibration: Calibration,
    stack: StackVersion,
    workload: Workload,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Decode steps each request needs after its first token.

    With drafts, the number of steps until `osl - 1` tokens are out is drawn from the normal limit of
    the renewal process, per request.
    """
    rest = np.maximum(osl - 1, 0)
    if mtp is None:
        return rest.astype(np.int64)
    p = spread_evenly(*_beta(mean_accept(calibration, stack, workload), calibration), len(osl), rng)
    mean = tokens_per_step(p, calibration.accept_decay, mtp.num_steps)
    second = np.ones_like(p)
    chain = np.ones_like(p)
    for position in range(mtp.num_steps):
        chain = chain * np.minimum(p * calibration.accept_decay**position, 1.0)
        second = second + chain * ((position + 2) ** 2 - (position + 1) ** 2)
    spread = np.sqrt(np.maximum(second - mean**2, 0.0) * rest / mean**3)
    steps = np.rint(rest / mean + spread * rng.standard_normal(len(osl)))
    fewest = np.ceil(rest / mtp.num_draft_tokens)
    return np.clip(steps, fewest, rest).astype(np.int64)
