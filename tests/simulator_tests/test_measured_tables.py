"""Simulation from measured steps: what the rows say is what a run takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search_spaces.errors import BadInput, MissingData
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.step_profile import StepProfile, StepRow
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from simulator.measured_tables import beyond_steps, surface, surfaces
from simulator.run import run
from simulator.setting import setting_for
from simulator.simulate import metrics_of, predict
from tests.simulator_tests.worlds import JUNE

GROUP = EngineGroup(
    tp=1,
    moe_backend="triton",
    mem_fraction_static=0.5,
    max_running_per_rank=8,
    chunk_tokens_per_rank=512,
    graph_max_batch_per_rank=0,
    overlap_schedule=False,
)
RECIPE = Recipe(name="r", model="some-model", hardware="some-device", aggregated=GROUP)


def row(mode: str, sequences: int, new_tokens: int, context: float, wall_s: float) -> StepRow:
    return StepRow.parse(
        {
            "mode": mode, "sequences": sequences, "new_tokens": new_tokens, "context": context,
            "wall_s": wall_s, "low_s": wall_s, "high_s": wall_s, "count": 9,
        },
        mode,
    )  # fmt: skip


def profile(*rows: StepRow, **changes: object) -> StepProfile:
    fields = {
        "name": "p", "model": "some-model", "num_layers": 4, "hardware": "some-device", "device": "d",
        "engine_version": "0.5.15", "group": GROUP, "max_total_tokens": 65536, "max_running_requests": 8,
        "measured_on": "2026-01-01", "source": "test", "rows": rows,
    }  # fmt: skip
    return StepProfile.parse(fields | changes, "p")


PREFILL = row("prefill", 1, 128, 0, 0.050)
FLAT = profile(PREFILL, row("decode", 1, 1, 100, 0.010), request_s=0.004)


def simulated(steps: StepProfile, load: Workload, recipe: Recipe = RECIPE) -> dict[str, float]:
    return metrics_of(run(setting_for(recipe, load, JUNE, Calibration(), steps=steps)))


def test_one_request_at_a_time_is_a_sum():
    load = Workload(isl=100, osl=21, random_range_ratio=1, concurrency=1, num_prompts=5)
    found = simulated(FLAT, load)
    request_s = 0.004 + 0.050 + 20 * 0.010
    assert found["mean_e2e_ms"] == pytest.approx(1e3 * request_s)
    assert found["mean_ttft_ms"] == pytest.approx(54)
    assert found["mean_tpot_ms"] == pytest.approx(10)
    assert found["output_tokens_per_s_per_gpu"] == pytest.approx(21 / request_s)


def test_an_overlapped_scheduler_computes_one_step_too_many():
    """Without overlap the end of a request is known before the next step starts."""
    load = Workload(isl=100, osl=21, random_range_ratio=1, concurrency=1, num_prompts=5)
    group = GROUP.model_copy(update={"overlap_schedule": True})
    overlapped = FLAT.model_copy(update={"group": group})
    recipe = RECIPE.model_copy(update={"aggregated": group})
    late = simulated(overlapped, load, recipe)["duration_s"] - simulated(FLAT, load)["duration_s"]
    # Four times a client waits for the wasted step, of which its own latency is a part.
    assert late == pytest.approx(4 * (0.010 - 0.004))


def test_rows_are_kept_and_times_between_them_grow():
    steps = profile(
        PREFILL,
        *(
            row("decode", b, b, c, 0.001 * b**0.5 * (1 + c / 1000))
            for b in (1, 4, 16)
            for c in (64, 512, 4096)
        ),
    )
    found = surfaces(steps)["decode"]
    for one in steps.rows[1:]:
        at = found.seconds(one.sequences, np.array([one.context]))[0]
        assert at == pytest.approx(one.wall_s)
        assert found.source(one.sequences, one.context) == "measured"
    contexts = np.array([2.0**n for n in range(4, 15)])
    table = np.array([found.seconds(b, contexts) for b in (1, 2, 3, 4, 8, 16, 32, 64)])
    assert (np.diff(table, axis=0) > 0).all() and (np.diff(table, axis=1) >= 0).all()
    assert found.source(8, 512) == "interpolated"
    assert found.source(32, 512) == found.source(4, 8000) == "analytic"
    # Beyond the largest batch, time is in proportion to it.
    assert found.seconds(64, contexts) == pytest.approx(4 * found.seconds(16, contexts))


def test_noise_does_not_make_more_work_cheaper():
    found = surface([(1, 10, 1.0, 1), (1, 100, 0.8, 3), (2, 10, 0.7, 1), (2, 100, 0.9, 1)])
    assert found.seconds(1, np.array([100.0])) == pytest.approx([0.85])  # weighted mean
    # Of two sizes at a context of 10, the larger took less: both take what lies between.
    assert [found.seconds(n, np.array([10.0]))[0] for n in (1, 2)] == pytest.approx([0.775, 0.775])


def test_a_slow_spell_does_not_lift_what_is_larger():
    spell = [(n, 0.0, 0.073 if n == 8 else 0.050, 5) for n in (1, 2, 4, 8, 16, 32, 64)]
    found = surface(spell)
    assert found.seconds(32, np.array([1.0]))[0] == pytest.approx(0.050)
    by_host = replace(found, by_host=True)  # spells come back, so that the mean counts
    assert by_host.seconds(32, np.array([1.0]))[0] == pytest.approx(0.050 + 0.023 / 4)
    assert by_host.seconds(2, np.array([1.0]))[0] == pytest.approx(0.050)


def test_the_running_limit_is_the_servers():
    load = Workload(isl=64, osl=32, random_range_ratio=1, concurrency=8, num_prompts=16)
    free = profile(PREFILL, row("decode", 1, 1, 100, 0.010), row("decode", 8, 8, 100, 0.0101))
    wide = simulated(free, load)
    narrow = simulated(free.model_copy(update={"max_running_requests": 2}), load)
    assert narrow["output_tokens_per_s_per_gpu"] < 0.6 * wide["output_tokens_per_s_per_gpu"]


def test_a_prediction_names_its_source_and_limits():
    load = Workload(isl=2048, osl=32, random_range_ratio=1, concurrency=4, num_prompts=8)
    found = predict(setting_for(RECIPE, load, JUNE, Calibration(), steps=FLAT), explain=True)
    assert found.breakdown["aggregated decode step"]["whole step"]["source"] == "analytic"
    assert found.ceiling_fraction is None
    notes = beyond_steps(FLAT, load)
    assert [n.split(" reaches")[0] for n in notes] == ["decode batch", "decode context", "prefill tokens"]
    assert set(notes) <= set(found.warnings)


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        (RECIPE.model_copy(update={"model": "another"}), "model='some-model'"),
        (RECIPE.model_copy(update={"aggregated": GROUP.model_copy(update={"tp": 2})}), "tp=1"),
    ],
)
def test_steps_speak_for_their_own_configuration(recipe: Recipe, field: str):
    with pytest.raises(BadInput, match=field):
        simulated(FLAT, Workload(isl=64, osl=32), recipe)


def test_what_is_missing_is_named():
    load = Workload(isl=64, osl=32)
    with pytest.raises(MissingData, match="no decode rows"):
        simulated(profile(PREFILL), load)
    with pytest.raises(MissingData, match="no max_total_tokens"):
        simulated(FLAT.model_copy(update={"max_total_tokens": None}), load)
    with pytest.raises(BadInput, match="not in the catalog"):
        setting_for(RECIPE, load, JUNE, Calibration())
