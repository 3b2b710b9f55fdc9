"""How many tokens a speculative step emits per request.

A draft at position j is accepted with probability p x d^(j-1) if all before it were. Both p and d differ
between requests, more for one that is easy to foresee and less for one that is not, each by a Beta law: that
is what separates mean, median and 99th percentile of TPOT in published runs, alike at every load. The form
holds the published tables of acceptance by draft length to 2 %
(`tests/simulator_tests/test_acceptance.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

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
DSPARK_CHAT = 0.853
"""Mean first-position acceptance of DSpark on chat prompts, fitted to a published table:
DeepSeek-V4-Pro-0813, thinking on, SPEED-Bench coding, blocks of 1 to 6
(SemiAnalysisAI/InferenceX golden_al_distribution, run 31742838308)."""
DSPARK_RANDOM = 0.976
"""The same on random text, fitted to lengths of 5.43 to 5.63 with DeepSeek-V4-Flash-0731
(sgl-project/sglang#33083, sgl-project/sglang#34550); their block length is not published, 7 is taken."""
DSPARK_DECAY = 0.949
"""Factor per further position of a DSpark block, from the same table as `DSPARK_CHAT`."""
DSPARK_SPREAD = 7.41
"""Beta concentration of the first between requests, under which both and their decay were fitted."""
HIGHEST_FIRST = 0.999
"""Mean first-position acceptance beyond which no published length lies."""
LAWS_TRIED = 201
SAMPLES = 4096
SHARE_OF_ONE_SIGMA = math.sqrt(2.0)


class Drafts(NamedTuple):
    """How well the drafts of each request are accepted."""

    first: Floats
    """[request] probability that the first draft token is accepted."""
    decay: Floats
    """[request] factor on it per further position."""


@dataclass(frozen=True)
class AcceptanceLaw:
    """Acceptance of one draft on one kind of text: Beta laws between requests of both its probabilities."""

    mean: float
    spread: float
    decay: float
    """Mean factor per further position."""
    decay_spread: float | None = None
    """Beta concentration of that factor; None where all requests have the mean."""

    def draw(self, rng: np.random.Generator, count: int) -> Drafts:
        """Acceptance of each request: one value from each of `count` equal parts of the law.

        A run of ten requests then has the mean of the law; independent draws would move it by 5 %.
        """
        share = spread_evenly(count, rng)
        first = _quantile(share, self.mean, self.spread)
        if self.decay_spread is None or self.decay >= 1:
            return Drafts(first, np.full(count, self.decay))
        return Drafts(first, _quantile(share, self.decay, self.decay_spread))


def spread_evenly(count: int, rng: np.random.Generator) -> Floats:
    """`count` shares of a law, the middles of as many equal parts of it, in random order."""
    found: Floats = (rng.permutation(count) + 0.5) / max(count, 1)
    return found


def _quantile(share: Floats, mean: float, spread: float) -> Floats:
    table = _quantiles(mean * spread, (1 - mean) * spread)
    found: Floats = np.interp(share, (np.arange(len(table)) + 0.5) / len(table), table)
    return found


@lru_cache(maxsize=1024)
def _quantiles(a: float, b: float) -> Floats:
    found: Floats = betaincinv(a, b, (np.arange(1024) + 0.5) / 1024)
    return found


def acceptance_law(
    calibration: Calibration, stack: StackVersion, workload: Workload, mtp: Mtp
) -> AcceptanceLaw:
    """The law of a draft under a load: from a stated length where the load has one, else as fitted."""
    dspark = mtp.algorithm == "dspark"
    chat = workload.prompts == "chat"
    of_text = calibration.accept_decay_chat if chat else calibration.accept_decay
    decay = DSPARK_DECAY if dspark else of_text
    # No public run says how later positions differ between requests of other text, or of DSpark.
    decay_spread = calibration.accept_decay_spread if chat and not dspark else None
    spread = DSPARK_SPREAD if dspark else calibration.accept_spread
    if workload.accept_length is not None:
        start = AcceptanceLaw(HIGHEST_FIRST, spread, decay, decay_spread)
        return _law_of(workload.accept_length, start, mtp.num_steps)
    if dspark:
        mean = DSPARK_CHAT if workload.prompts == "chat" else DSPARK_RANDOM
    else:
        mean = mean_accept(calibration, stack, workload)
    return AcceptanceLaw(mean, spread, decay, decay_spread)


def follows_calibration(mtp: Mtp, workload: Workload) -> bool:
    """Whether the calibration's acceptance decides that of a draft under a load."""
    stated = mtp.simulated_accept_length is not None or workload.accept_length is not None
    return not stated and mtp.algorithm == "eagle"


@lru_cache(maxsize=1024)
def _law_of(length: float, highest: AcceptanceLaw, num_steps: int) -> AcceptanceLaw:
    """The law that gives a mean length: with the decay of `highest`, or less where that is too short."""
    if law_length(highest, num_steps) < length:
        decays = [replace(highest, decay=float(d)) for d in np.linspace(highest.decay, 1.0, LAWS_TRIED)]
        return min(decays, key=lambda law: abs(law_length(law, num_steps) - length))
    low, high = 1e-3, HIGHEST_FIRST
    for _ in range(40):
        middle = (low + high) / 2
        if law_length(replace(highest, mean=middle), num_steps) < length:
            low = middle
        else:
            high = middle
    return replace(highest, mean=low)


def mean_accept(calibration: Calibration, stack: StackVersion, workload: Workload) -> float:
    """Mean probability that the first token of an MTP draft is accepted."""
    base = calibration.accept_chat if workload.prompts == "chat" else calibration.accept_random
    length = math.log2(workload.mean_isl / SHORT_PROMPT_TOKENS) / LONG_PROMPT_OCTAVES
    base *= float(calibration.accept_short_ratio ** (1.0 - min(max(length, 0.0), 1.0)))
    return base * (1.0 if stack.has("ue8m0_scale_fix") else calibration.accept_before_ue8m0)


def survival(drafts: Drafts, num_steps: int) -> Floats:
    """[request, position] probability that a draft and all before it are accepted."""
    single: Floats = drafts.first[:, None] * drafts.decay[:, None] ** np.arange(num_steps)
    found: Floats = np.cumprod(np.minimum(single, 1.0), axis=1, dtype=np.float64)
    return found


def tokens_per_step(drafts: Drafts, num_steps: int) -> Floats:
    """[request] expected tokens per verify step, the bonus token included."""
    found: Floats = 1.0 + survival(drafts, num_steps).sum(axis=1)
    return found


def simulated_length(mtp: Mtp) -> float:
    """Mean of the drawn length of an engine that pretends acceptance, after its clamping and rounding.

    Source: `sample_simulated_acc_len` of SGLang 0.5.15 and 0.5.23.
    """
    assert mtp.simulated_accept_length is not None
    longest = mtp.num_steps + 1
    if mtp.simulated_accept_method == "match-expected":
        return min(max(mtp.simulated_accept_length, 1.0), float(longest))
    below = [
        0.5 * (1 + math.erf((k + 0.5 - mtp.simulated_accept_length) / SHARE_OF_ONE_SIGMA))
        for k in range(1, longest)
    ]
    return 1.0 + sum(1.0 - share for share in below)


def mean_length(calibration: Calibration, stack: StackVersion, workload: Workload, mtp: Mtp | None) -> float:
    """Harmonic-mean tokens per step over requests: output tokens over verify steps in a long run."""
    if mtp is None:
        return 1.0
    if mtp.simulated_accept_length is not None:
        return simulated_length(mtp)
    return law_length(acceptance_law(calibration, stack, workload, mtp), mtp.num_steps)


@lru_cache(maxsize=4096)
def law_length(law: AcceptanceLaw, num_steps: int) -> float:
    """Harmonic-mean tokens per step of drafts of one length."""
    drafts = law.draw(np.random.default_rng(0), SAMPLES)
    return float(1.0 / np.mean(1.0 / tokens_per_step(drafts, num_steps)))


def decode_iterations(
    osl: NDArray[np.int64],
    mtp: Mtp | None,
    calibration: Calibration,
    stack: StackVersion,
    workload: Workload,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Decode steps each request needs after its first token, at the longest draft that the role takes.

    With drafts, the number of steps until `osl - 1` tokens are out is drawn from the normal limit of
    the renewal process, per request. Where the engine pretends acceptance, all requests of a rank advance
    by one draw, so that a request needs its tokens and the loop draws how many a step emits.
    """
    rest = np.maximum(osl - 1, 0)
    if mtp is None or mtp.simulated_accept_length is not None:
        return rest.astype(np.int64)
    law, longest = acceptance_law(calibration, stack, workload, mtp), mtp.most_steps
    alive = survival(law.draw(rng, len(osl)), longest)
    mean: Floats = 1.0 + alive.sum(axis=1)
    second: Floats = 1.0 + alive @ (2.0 * np.arange(longest) + 3.0)
    spread = np.sqrt(np.maximum(second - mean**2, 0.0) * rest / mean**3)
    steps = np.rint(rest / mean + spread * rng.standard_normal(len(osl)))
    fewest = np.ceil(rest / (longest + 1))
    return np.clip(steps, fewest, rest).astype(np.int64)
