"""Acceptance by draft position against published tables, and pretended acceptance by its own formula."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from search_spaces.mtp import Mtp
from search_spaces.workload import Workload
from simulator.acceptance import (
    DSPARK_CHAT,
    DSPARK_DECAY,
    DSPARK_SPREAD,
    AcceptanceLaw,
    acceptance_law,
    law_length,
    mean_length,
    simulated_length,
    tokens_per_step,
)
from simulator.calibration import load_calibration
from tests.simulator_tests.worlds import CALIBRATION, JUNE, V0523

SHIPPED = load_calibration()
# Tokens per verify step by number of drafts 1, 2, ... (SemiAnalysisAI/InferenceX golden_al_distribution,
# 2026-08-21; vLLM on B300, SPEED-Bench coding, temperature 1, 4,096 output tokens). Run 27180633016:
MTP_THINKING = (1.79, 2.27, 2.49, 2.54, 2.55, 2.55, 2.54, 2.58)
MTP_PLAIN = (1.92, 2.61, 2.97, 3.0, 3.1, 3.16, 3.0, 3.11)
# Run 31742838308, DeepSeek-V4-Pro-0813, thinking on:
DSPARK = (1.84, 2.51, 3.01, 3.36, 3.61, 3.77, 3.73, 3.47)


def fitted(lengths: tuple[float, ...]) -> AcceptanceLaw:
    """The law with the shipped spread that is nearest to a table, by least squares."""
    from scipy.optimize import least_squares

    def misses(values: np.ndarray) -> list[float]:
        law = AcceptanceLaw(float(values[0]), SHIPPED.accept_spread, float(values[1]))
        return [law_length(law, steps) - length for steps, length in enumerate(lengths, 1)]

    found = least_squares(misses, [0.85, 0.9], bounds=([0.3, 0.3], [0.995, 1.0]), diff_step=[1e-3])
    return AcceptanceLaw(float(found.x[0]), SHIPPED.accept_spread, float(found.x[1]))


@pytest.mark.parametrize(("table", "miss"), [(MTP_THINKING, 0.01), (MTP_PLAIN, 0.03), (DSPARK[:6], 0.005)])
def test_one_probability_and_its_decay_hold_a_published_table(table, miss):
    law = fitted(table)
    for steps, length in enumerate(table, 1):
        assert law_length(law, steps) == pytest.approx(length, rel=miss)
    flat = AcceptanceLaw(law.mean, law.spread, 1.0)
    assert law_length(flat, len(table)) > table[-1] * (1 + 2 * miss), "without decay the form fails"


def test_dspark_starts_from_the_published_table():
    law = AcceptanceLaw(DSPARK_CHAT, DSPARK_SPREAD, DSPARK_DECAY)
    for block, length in enumerate(DSPARK[:6], 1):
        assert law_length(law, block) == pytest.approx(length, rel=0.01)
    # Blocks longer than six accept less than the law has it: quality falls with the block itself.
    assert law_length(law, 8) > DSPARK[7]


def test_dspark_on_random_text_is_what_was_published():
    """5.47, 5.43 (sgl-project/sglang#33083), 5.62 and 5.63 (sgl-project/sglang#34550)."""
    block = Mtp(num_steps=7, algorithm="dspark")
    found = mean_length(SHIPPED, V0523, Workload(isl=8192, osl=1024, prompts="random"), block)
    assert 5.43 <= found <= 5.63


@pytest.mark.parametrize("length", [1.2, 2.5, 5.47, 6.9])
def test_a_stated_length_is_taken_as_it_is(length):
    load = Workload(isl=8192, osl=1024, accept_length=length)
    block = Mtp(num_steps=7, algorithm="dspark")
    assert mean_length(SHIPPED, V0523, load, block) == pytest.approx(length, rel=2e-3)


def test_shipped_calibration_has_the_published_lengths_of_random_chat():
    """1.94 with one draft (GB300, decode logs; alisachen-666/gcp-dynamo-cuj p8 rerun); 1.93 with one and 2.82
    with three in NVIDIA's reproductions on B200 and B300 (srt-slurm)."""
    load = Workload(isl=8192, osl=1024, prompts="chat")
    one, two, three = (mean_length(SHIPPED, JUNE, load, Mtp(num_steps=n)) for n in (1, 2, 3))
    assert one == pytest.approx(1.94, rel=0.01) and three == pytest.approx(2.82, rel=0.01)
    assert one < two < three


def test_shipped_calibration_has_the_published_spread_of_tpot():
    """Over median TPOT, three drafts, 15 public GB300 runs of 1 to 1,024 users: mean 1.05 to 1.14, 1.12 on
    average; 99th percentile 1.44 to 2.04, 1.89 on average."""
    load = Workload(isl=8192, osl=1024, prompts="chat")
    law = acceptance_law(SHIPPED, JUNE, load, Mtp(num_steps=3))
    tpot = 1.0 / tokens_per_step(law.draw(np.random.default_rng(0), 20_000), 3)
    assert tpot.mean() / np.median(tpot) == pytest.approx(1.12, abs=0.02)
    assert np.percentile(tpot, 99) / np.median(tpot) == pytest.approx(1.89, abs=0.1)
    alike = replace(law, decay_spread=None)
    tpot = 1.0 / tokens_per_step(alike.draw(np.random.default_rng(0), 20_000), 3)
    assert tpot.mean() / np.median(tpot) < 1.06, "first positions alone do not spread enough"


def pretended(length: float, steps: int = 3, method: str = "match-expected") -> Mtp:
    return Mtp.model_validate(
        {"num_steps": steps, "simulated_accept_length": length, "simulated_accept_method": method}
    )


def test_pretended_length_is_clamped_to_what_a_step_can_emit():
    assert simulated_length(pretended(2.49)) == 2.49
    assert simulated_length(pretended(0.2)) == 1.0
    assert simulated_length(pretended(9.0)) == 4.0
    assert mean_length(CALIBRATION, JUNE, Workload(isl=1, osl=1), pretended(2.49)) == 2.49


@pytest.mark.parametrize("length", [0.5, 2.49, 3.9, 7.0])
def test_mean_of_the_rounded_normal(length):
    """Against the engine's own sampling: normal of deviation 1, clamped, then rounded."""
    draws = np.random.default_rng(1).normal(length, 1.0, 400_000)
    mean = np.rint(np.clip(draws, 1.0, 4.0)).mean()
    found = simulated_length(pretended(length, method="multinomial"))
    assert found == pytest.approx(float(mean), abs=0.01)
    assert math.isfinite(found)
