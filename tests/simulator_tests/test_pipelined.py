"""A worker whose host launches a step while the GPU computes the one before."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces.mtp import Mtp
from search_spaces.recipe import Recipe
from search_spaces.step_profile import StepProfile, StepRow
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.calibration import Calibration
from simulator.measured_tables import (
    host_pipeline,
    interruption,
    no_host,
    padded_batch,
    prefill_gpu_surface,
)
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
    rows = (
        timed_row("prefill", 1, 128, LAUNCH, LAUNCH),
        timed_row("prefill", 1, 512, 0.080, LAUNCH),
        timed_row("decode", 1, 1, DECODE, DECODE_LAUNCH),
        timed_row("decode", 8, 8, DECODE, DECODE_LAUNCH),
    )
    return profile(
        **(
            {
                "group": OVERLAPPED, "request_s": LATENCY + TURN, "prefill_turn_s": TURN,
                "decode_turn_s": DECODE_TURN, "prefill_launch_s": LAUNCH, "rows": rows,
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


ITERATION, AMONG, AMONG_SEQ = 0.012, 0.003, 0.001
DRAFTING = OVERLAPPED.model_copy(update={"mtp": Mtp(num_steps=3, simulated_accept_length=2.0)})


def drafting_steps() -> StepProfile:
    """Prefill takes 40 ms alone, 38 of them to launch, and more among sequences that decode."""
    alone = timed_row("prefill", 1, 128, 0.040, 0.038)
    return steps(
        group=DRAFTING,
        rows=(
            alone,
            *(
                alone.model_copy(update={"beside": n, "wall_s": 0.040 + AMONG + n * AMONG_SEQ})
                for n in (2, 4)
            ),
            *(timed_row("verify", n, 4 * n, ITERATION, 0.005) for n in (1, 8)),
        ),
        request_s=LATENCY,
    )


def test_with_drafts_launches_wait_and_a_step_is_formed_early():
    found = drafting_steps()
    assert host_pipeline(found) == (0.038, 0.005, 0.0, 0.0, True, 0.0)
    assert interruption(found) == pytest.approx((AMONG, AMONG_SEQ))
    assert interruption(found).seconds(0) == 0.0
    assert prefill_gpu_surface(found).seconds(128, np.array([64.0]))[0] == pytest.approx(0.040)
    recipe = RECIPE.model_copy(update={"aggregated": DRAFTING})
    load = Workload(isl=128, osl=21, random_range_ratio=1, concurrency=1, num_prompts=1)
    (t,) = np.array(run(setting_for(recipe, load, JUNE, Calibration(), steps=found)).reqs.t)
    # Tokens come out when the next iteration has been launched; 20 of them take ten iterations.
    assert t[ls.FIRST] == pytest.approx(LATENCY + 0.040 + 0.005, rel=1e-6)
    assert t[ls.DONE] == pytest.approx(LATENCY + 0.040 + 10 * ITERATION + 0.005, rel=1e-6)


def test_with_drafts_a_prefill_hides_behind_nothing():
    """A second prompt waits for the first one's prefill, and takes longer as that one decodes."""
    recipe = RECIPE.model_copy(update={"aggregated": DRAFTING})
    load = Workload(isl=128, osl=41, random_range_ratio=1, concurrency=2, num_prompts=2)
    late = drafting_steps().model_copy(update={"request_token_s": 1e-6})
    t = np.array(run(setting_for(recipe, load, JUNE, Calibration(), steps=late)).reqs.t)
    first, second = sorted(t[:, ls.FIRST])
    begun = LATENCY + 128e-6
    assert second == pytest.approx(begun + 2 * 0.040 + AMONG + AMONG_SEQ + 0.005, rel=1e-6)
    assert first == pytest.approx(begun + 0.040 + 0.038, rel=1e-6)  # when the second has been launched


def test_a_serial_scheduler_is_not_pipelined():
    serial = steps(group=GROUP)
    recipe = RECIPE.model_copy(update={"aggregated": GROUP})
    load = Workload(isl=128, osl=11, random_range_ratio=1, concurrency=1, num_prompts=1)
    (t,) = np.array(run(setting_for(recipe, load, JUNE, Calibration(), steps=serial)).reqs.t)
    assert t[ls.FIRST] == pytest.approx(LATENCY + LAUNCH, rel=1e-6)


def test_steps_without_a_record_of_the_host_have_no_pipeline():
    assert host_pipeline(steps()) == (LAUNCH, DECODE_LAUNCH, TURN, DECODE_TURN, False, 0.0)
    assert host_pipeline(steps(prefill_turn_s=None)) is None
    assert host_pipeline(steps(prefill_launch_s=None)) == (
        LAUNCH,
        DECODE_LAUNCH,
        TURN,
        DECODE_TURN,
        False,
        0.0,
    )
    assert no_host(steps()).request_latency_s == pytest.approx(LATENCY)
    assert no_host(steps(decode_turn_s=None)).request_latency_s == pytest.approx(LATENCY + TURN)


def test_what_an_idle_engine_waits_for_hides_behind_a_step():
    """80 ms for 512 tokens on an idle engine are 72 of work, as the same pass behind decode steps shows."""
    queued = [
        timed_row("prefill", 1, 512, 0.072, LAUNCH, beside=4),
        timed_row("prefill", 1, 128, 0.026, LAUNCH, beside=4),  # the host's: tells nothing
    ]
    found = steps(rows=(*steps().rows, *queued))
    pipeline = host_pipeline(found)
    assert pipeline is not None and pipeline.first_wait_s == pytest.approx(0.008)
    assert prefill_gpu_surface(found).seconds(512, np.array([256.0]))[0] == pytest.approx(0.072)
    load = Workload(isl=512, osl=2, random_range_ratio=1, concurrency=2, num_prompts=2)
    first, second = sorted(times(load, found)[:, ls.FIRST])
    assert first == pytest.approx(LATENCY + TURN + 0.008 + 0.072, rel=1e-6)  # an idle engine waits as before
    assert second == pytest.approx(first + 0.072, rel=1e-6)


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
