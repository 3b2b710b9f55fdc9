"""A worker whose host launches a step while the GPU computes the one before."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces.recipe import Recipe
from search_spaces.step_profile import StepProfile, StepRow
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration
from simulator.measured_tables import host_pipeline, no_host, padded_batch, prefill_gpu_surface
from simulator.run import run
from simulator.setting import setting_for
from tests.simulator_tests.test_measured_tables import GROUP, profile, row
from tests.simulator_tests.worlds import JUNE

TURN, LAUNCH, DECODE_TURN, DECODE_LAUNCH, DECODE, LATENCY = 0.003, 0.030, 0.001, 0.0005, 0.010, 0.005
OVERLAPPED = GROUP.model_copy(update={"overlap_schedule": True})
RECIPE = Recipe(name="r", model="some-model", hardware="some-device", aggregated=OVERLAPPED)


def timed_row(mode: str, sequences: int, tokens: int, gpu_s: float, host_s: float, **more: object) -> StepRow:
    found = row(mode, sequences, tokens, 0 if mode == "prefill" else 100, gpu_s)
    return found.model_copy(update={"gpu_s": gpu_s, "host_s": host_s, **more})


def steps(**changes: object) -> StepProfile:
    """Prefill of 128 tokens waits for the host, of 512 for the GPU; decode takes the GPU the same always."""
    return profile(
        timed_row("prefill", 1, 128, LAUNCH, LAUNCH),
        timed_row("prefill", 1, 512, 0.080, LAUNCH),
        timed_row("decode", 1, 1, DECODE, DECODE_LAUNCH),
        timed_row("decode", 8, 8, DECODE, DECODE_LAUNCH),
        **(
            {
                "group": OVERLAPPED, "request_s": LATENCY + TURN, "prefill_turn_s": TURN,
                "decode_turn_s": DECODE_TURN, "prefill_launch_s": LAUNCH,
            }
            | changes
        ),
    )  # fmt: skip


def times(load: Workload, found: StepProfile) -> np.ndarray:
    done = run(setting_for(RECIPE, load, JUNE, Calibration(), steps=found))
    return np.array(done.reqs.t)


def test_a_lone_request_waits_for_its_launch_and_the_next_one():
    """Its first token comes when the first decode step has been launched, and the rest one step apart."""
    (t,) = times(Workload(isl=128, osl=11, random_range_ratio=1, concurrency=1, num_prompts=1), steps())
    first = LATENCY + TURN + LAUNCH + TURN + DECODE_LAUNCH
    assert t[ls.FIRST] == pytest.approx(first, rel=1e-6)
    # The first decode step began when it was launched; the others follow on the GPU.
    start = LATENCY + TURN + LAUNCH + TURN
    assert t[ls.DONE] == pytest.approx(start + 10 * DECODE, rel=1e-6)


def test_launches_hide_behind_the_step_before():
    """Where the GPU is the limit, a prompt that follows another costs the GPU's time alone."""
    load = Workload(isl=512, osl=2, random_range_ratio=1, concurrency=2, num_prompts=2)
    found = sorted(times(load, steps())[:, ls.FIRST])
    begun = LATENCY + TURN
    # The first one's token waits for no launch: the second prefill is launched long before it ends.
    assert found[0] == pytest.approx(begun + 0.080, rel=1e-6)
    assert found[1] == pytest.approx(begun + 2 * 0.080, rel=1e-6)


def test_the_first_of_two_short_prompts_comes_out_after_the_second_is_launched():
    load = Workload(isl=128, osl=2, random_range_ratio=1, concurrency=2, num_prompts=2)
    late = steps(request_token_s=1e-6)  # the second arrives just after the first
    found = sorted(times(load, late)[:, ls.FIRST])
    begun = LATENCY + 128e-6 + TURN
    assert found[0] == pytest.approx(begun + LAUNCH + TURN + LAUNCH, rel=1e-6)


def test_a_serial_scheduler_is_not_pipelined():
    serial = steps(group=GROUP)
    recipe = RECIPE.model_copy(update={"aggregated": GROUP})
    load = Workload(isl=128, osl=11, random_range_ratio=1, concurrency=1, num_prompts=1)
    (t,) = np.array(run(setting_for(recipe, load, JUNE, Calibration(), steps=serial)).reqs.t)
    assert t[ls.FIRST] == pytest.approx(LATENCY + LAUNCH, rel=1e-6)


def test_steps_without_a_record_of_the_host_have_no_pipeline():
    assert host_pipeline(steps()) == (LAUNCH, DECODE_LAUNCH, TURN, DECODE_TURN)
    assert host_pipeline(steps(prefill_turn_s=None)) is None
    assert host_pipeline(steps(prefill_launch_s=None)) == (LAUNCH, DECODE_LAUNCH, TURN, DECODE_TURN)
    assert no_host(steps()).request_latency_s == pytest.approx(LATENCY)
    assert no_host(steps(decode_turn_s=None)).request_latency_s == pytest.approx(LATENCY + TURN)


def test_what_hides_behind_the_host_is_bounded_by_passes_that_do_not():
    """128 tokens take the GPU at least their share of 512; that they took 30 ms was the host's doing."""
    found = prefill_gpu_surface(steps())
    assert found.seconds(512, np.array([256.0]))[0] == pytest.approx(0.080)
    assert found.seconds(128, np.array([64.0]))[0] == pytest.approx(0.020)


def test_batches_run_as_the_next_captured_graph():
    graphs = OVERLAPPED.model_copy(update={"graph_max_batch_per_rank": 8})
    replayed = [timed_row("decode", b, b, DECODE, DECODE_LAUNCH, graph=True) for b in (1, 4, 8)]
    found = profile(timed_row("prefill", 1, 128, LAUNCH, LAUNCH), *replayed, group=graphs)
    assert [padded_batch(found, b) for b in (0, 1, 3, 5, 8, 9)] == [0, 1, 4, 8, 8, 9]
    assert [padded_batch(steps(), b) for b in (3, 9)] == [3, 9]
