"""The commands as functions: the same results, typed, and as frames; examples run as they stand."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from engine_adapter.exports import export
from planner import api
from search_spaces.errors import MissingData
from search_spaces.frames import as_frame
from search_spaces.workload import Workload
from tests.planner_tests.samples import recipe_file, servecast

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
LOAD: dict[str, Any] = {"isl": 512, "osl": 32, "concurrency": 2, "num_prompts": 4}
TRAFFIC: dict[str, Any] = {
    "request_rate": 5.0,
    "isl": 2048,
    "osl": 64,
    "deployment_gpus": 8,
    "mtp": False,
    "workers": 1,
}


@pytest.fixture
def recipe(tmp_path):
    return str(recipe_file(tmp_path))


def test_simulate_and_whatif_are_the_commands(recipe):
    alone = api.simulate(recipe, **LOAD)
    flags = ("--isl", 512, "--osl", 32, "--concurrency", 2, "--num-prompts", 4, "--json")
    printed = servecast("simulate", "--recipe", recipe, *flags, "--no-explain", "--draws", 0)
    assert alone.metrics == json.loads(printed.stdout)["metrics"]
    beside = api.whatif(recipe, "isl=1024", **LOAD)
    assert beside.base.prediction is not None and beside.base.prediction.metrics == alone.metrics
    assert [scenario.changes for scenario in beside.scenarios] == [{"workload.isl": "1024"}]


def test_unknown_options_are_refused(recipe):
    for call in (
        lambda: api.simulate(recipe, concurency=3),
        lambda: api.whatif(recipe, concurency=3),
        lambda: api.size("DeepSeek-V4-Flash", ["b200"], ["ttft.p50=1"], rate=3),
    ):
        with pytest.raises(TypeError, match="unexpected option"):
            call()


def test_plan_size_and_compare_give_typed_results(tmp_path):
    table = api.plan(
        "DeepSeek-V4-Flash", "b200", num_gpus=8, isl=2048, osl=64, concurrencies=(8,), trials=0, keep=2,
        workers=1,
    ).table  # fmt: skip
    row = table.rows[0]
    assert row.max_concurrency == 8
    # What a plan says of a recipe is what simulating its file says.
    (text,) = export(row.recipe, "servecast", "0.5.15", Workload(isl=2048, osl=64, concurrency=8)).values()
    file = tmp_path / "row.yaml"
    file.write_text(text)
    alone = api.simulate(
        str(file), isl=2048, osl=64, concurrency=8, random_range_ratio=table.random_range_ratio
    )
    best = row.predictions[0]
    for name in ("total_tokens_per_s_per_gpu", "tokens_per_s_per_user", "median_ttft_ms", "median_tpot_ms"):
        assert getattr(best, name) == alone.metrics[name]
    assert best.median_ttft_ms_low == alone.intervals["median_ttft_ms"].low
    fleet = api.size("DeepSeek-V4-Flash", ["b200"], ["ttft.p90=1000"], **TRAFFIC).levels[0].fleets[0]
    assert fleet.service.is_kept
    found = api.compare(
        "DeepSeek-V4-Flash", ["b200"], isl=2048, osl=64, num_gpus=8, concurrencies=(8,), workers=1
    )
    assert found.fronts[0].points


def test_frames_hold_what_the_results_hold(recipe):
    pytest.importorskip("pandas")
    found = api.whatif(recipe, "isl=1024", "price=x2", **LOAD)
    frame = found.frame()
    assert list(frame["scenario"]) == ["base", "workload.isl=1024", "price=x2"]
    assert frame["change_cost_per_million_tokens"][2] == pytest.approx(1.0)
    assert found.base.prediction is not None
    assert len(found.base.prediction.frame()) == 1
    sized = api.size("DeepSeek-V4-Flash", ["b200"], ["ttft.p90=1000"], **TRAFFIC)
    fleets = sized.frame()
    assert fleets["num_gpus"][0] == sized.levels[0].fleets[0].num_gpus and "ttft.p90" in fleets


def test_frames_without_pandas_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingData, match="notebook"):
        as_frame([{"a": 1}])


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(script, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "$/M tokens" in printed and "cannot run" not in printed
    wrote = printed.partition("wrote ")[2]
    assert not wrote or (tmp_path / "whatif.html").read_text().startswith("<!doctype html>")


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
