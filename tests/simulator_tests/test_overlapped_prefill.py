"""A prefill worker's host while the GPU computes: it launches the next batch, then looks at results."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import loop_state as ls
from simulator.role_constants import KERNELS_PER_LAYER, LAUNCH_QUEUE
from tests.simulator_tests.worlds import CALIBRATION, HOST, PRO, finished, fixed, group, setting, split

LATENCY_S = 0.02
SHARE = 1 - LAUNCH_QUEUE / (PRO.num_layers * KERNELS_PER_LAYER)


def hand_overs(
    users: int, requests: int, ratio: float = 0.0, overlap_schedule: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """When each prompt was computed, and how long after that decode had its KV; one prompt per step."""
    calibration = CALIBRATION.model_copy(update={"sending_ratio": ratio, "transfer_latency_s": LATENCY_S})
    prefill = group("TP4", max_prefill_tokens=8192, overlap_schedule=overlap_schedule)
    load = fixed(8192, 1, users, requests)
    times = finished(setting(split(prefill, group("DEP16")), load, calibration=calibration)).reqs.t
    ended = times[:, ls.PREFILL_END]
    order = np.argsort(ended)
    return ended[order], (times[:, ls.READY] - ended)[order] - LATENCY_S


def test_a_lone_prompt_leaves_at_once():
    _, waited = hand_overs(1, 3)
    assert waited == pytest.approx(np.zeros(3), abs=5e-3)


def test_results_wait_until_the_next_batch_is_launched():
    ended, waited = hand_overs(6, 6)
    step = np.diff(ended)
    assert waited[:-1] == pytest.approx(SHARE * step, abs=5e-3)
    assert waited[-1] == pytest.approx(0.0, abs=5e-3)


def test_sending_takes_longer_while_launches_wait_for_the_gpu():
    ended, without = hand_overs(6, 6)
    _, slower = hand_overs(6, 6, ratio=2.0)
    launch = PRO.num_layers * HOST.prefill_layer_s
    assert np.diff(ended).min() > launch  # the GPU is the slower side
    assert (slower - without)[:-1] == pytest.approx(2 * (np.diff(ended) - launch), abs=5e-3)
    assert slower[-1] == pytest.approx(without[-1])


def test_a_serial_scheduler_looks_at_results_first():
    _, waited = hand_overs(6, 6, ratio=2.0, overlap_schedule=False)
    assert waited == pytest.approx(np.zeros(6), abs=5e-3)
