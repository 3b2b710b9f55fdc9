"""Pages of the capacity commands as files: their figures are those of the JSON and of `simulate`."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from engine_adapter.exports import export
from planner.capacity_report import MOST_CASES, read_result, result_report
from planner.commands import size as size_module
from planner.commands import whatif as whatif_module
from planner.field_changes import parse_changes
from planner.html_report import html_page
from planner.setting_record import SettingRecord
from planner.sizing_picture import size_pictures
from planner.whatif import whatif
from search_spaces.errors import BadInput
from simulator.simulate import predict
from tests.planner_tests.capacity_samples import (
    MODEL,
    SAMPLES,
    named,
    sample_compare,
    sample_grid,
    sample_page,
    sample_size,
    sample_whatif,
)
from tests.planner_tests.samples import recipe_file, servecast
from tests.planner_tests.test_html_report import MOST_BYTES, Page, embedded

UNTOLD = ("wall_s", "roles", "breakdown", "stages_ms", "spread")
SMALL = ("--isl", 512, "--osl", 32, "--concurrency", 2, "--num-prompts", 4)


def shown(name, found):
    """The JSON of a result without what its page leaves out."""
    data = json.loads(found.model_dump_json())
    if name == "whatif":
        del data["setting"]
        for scenario in (data["base"], *data["scenarios"]):
            for part in UNTOLD if scenario["prediction"] else ():
                del scenario["prediction"][part]
    return data


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_holds_the_json_and_fetches_nothing(name):
    kind = "whatif" if name == "grid" else name
    text = sample_page(name)
    data = embedded(text)
    assert data["kind"] == kind and data["command"] == f"servecast {name}"
    assert data[kind] == shown(kind, SAMPLES[name]()) | {"command": f"servecast {name}"}
    assert [data[other] for other in ("plan", "whatif", "size", "compare", "autoscale") if other != kind] == (
        [None] * 4
    )
    assert len(text.encode()) < MOST_BYTES
    page = Page(text)
    for _tag, attrs in page.found:
        assert not [key for key in attrs if key.startswith("on") or key in ("src", "srcset", "style")]
    assert "simulated" in page.text("script") and "<noscript>" in text


@pytest.mark.parametrize("name", SAMPLES)
def test_a_result_read_from_its_json_gives_the_same_page(name, tmp_path):
    found = named(name)
    file, out = tmp_path / "found.json", tmp_path / "page.html"
    file.write_text(found.model_dump_json(indent=2))
    assert read_result(file) == found
    done = servecast("report", file, "--out", out, "--workers", 1)
    assert done.exit_code == 0, done.stderr
    assert out.read_text() == sample_page(name)


@pytest.mark.parametrize("content", ["{", "[1]", '{"rows": []}', '{"levels": []}'])
def test_other_json_is_refused(content, tmp_path):
    file = tmp_path / "found.json"
    file.write_text(content)
    with pytest.raises(BadInput):
        read_result(file)
    assert servecast("report", file, "--out", tmp_path / "page.html").exit_code == 2


def test_a_setting_survives_its_record():
    record = sample_whatif().setting
    again = SettingRecord.parse(json.loads(record.model_dump_json()), "json")
    assert again == record and predict(again.setting).metrics == predict(record.setting).metrics


def test_scenarios_are_shown_as_they_were_simulated():
    found = sample_whatif()
    report = result_report(found, 1)
    able = [one for one in (found.base, *found.scenarios) if one.prediction]
    assert len(able) == len(found.scenarios) and [case.label for case in report.cases] == [
        one.name for one in able
    ]
    for case, one in zip(report.cases, able, strict=True):
        assert case.prediction == one.prediction
    longer = next(case for case in report.cases if case.label == "workload.isl=1024")
    assert longer.workload.isl == 1024 == longer.explanation.isl
    again = predict(replace(found.setting.setting, workload=longer.workload))
    assert again.metrics == longer.prediction.metrics


def test_of_many_scenarios_those_that_move_most_are_shown_in_full():
    setting = sample_grid().setting.setting
    found = whatif(setting, parse_changes(setting, [f"osl=4:32:{MOST_CASES + 4}", "price=x2"]), workers=1)
    cases = result_report(found, 1).cases
    assert len(cases) == MOST_CASES + 1 and cases[0].label == "base"
    assert "price=x2" not in [case.label for case in cases]


def test_relief_of_a_resource_comes_on_top_of_a_relief_that_is_there():
    found = {one.name: one for one in (sample_whatif().base, *sample_whatif().scenarios)}
    faster, base = found["relief.decode_time=x0.5"].prediction, found["base"].prediction
    assert faster is not None and base is not None
    # Nothing waits for slots in either; a relief that replaced the other would lose half the throughput.
    assert faster.gains["request slots"] == 0.0
    assert 0 < faster.gains["decode step time"] < base.gains["decode step time"]


def test_a_fleet_is_what_simulate_predicts(tmp_path):
    found = sample_size()
    report = result_report(found, 1)
    fleets = found.levels[0].fleets
    assert [fleet.hardware for fleet in fleets] == ["b200", "h200"] and len(report.cases) == 2
    for fleet, case in zip(fleets, report.cases, strict=True):
        assert case.prediction.metrics["tokens_per_s_per_user"] == fleet.tokens_per_s_per_user
        assert case.prediction.intervals == fleet.intervals and fleet.intervals
        assert case.prediction.gains and case.digest == fleet.recipe.digest
        load = fleet.workload
        assert load.request_rate == pytest.approx(fleet.request_rate / fleet.replicas)
        (text,) = export(fleet.recipe, "servecast", "0.5.15", load).values()
        file = tmp_path / "fleet.yaml"
        file.write_text(text)
        done = servecast(
            "simulate", "--recipe", file, "--isl", load.isl, "--osl", load.osl, "--request-rate",
            load.request_rate, "--num-prompts", load.num_prompts, "--concurrency", load.concurrency,
            "--random-range-ratio", load.random_range_ratio, "--no-explain", "--draws", 0, "--json",
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["metrics"] == case.prediction.metrics
    assert [one.hardware.name for one in (report.assumptions, *report.other_platforms)] == ["b200", "h200"]
    assert report.other_platforms[0].hardware.price_per_gpu_hour == 5


def test_recipes_of_fronts_are_what_the_fronts_say():
    found = sample_compare()
    points = {
        f"{f.hardware}, {p.topology} at concurrency {p.concurrency}": p
        for f in found.fronts
        for p in f.points
    }
    cases = result_report(found, 1).cases
    assert len(cases) >= 4
    for case in cases:
        point = points[case.label]
        assert case.prediction.metrics["total_tokens_per_s_per_gpu"] == point.total_tokens_per_s_per_gpu
        assert case.prediction.intervals == point.intervals and point.intervals


def test_whatif_writes_the_result_that_it_prints_and_the_command_that_gives_it(tmp_path):
    recipe, out = recipe_file(tmp_path), tmp_path / "page.html"
    arguments = ("--recipe", recipe, *SMALL, "--set", "isl=1024,2048", "--set", "price=x2", "--explain")
    done = servecast("whatif", *arguments, "--workers", 1, "--json", "--report", out)
    assert done.exit_code == 0, done.stderr
    data, printed = embedded(out.read_text()), json.loads(done.stdout)
    assert data["whatif"]["scenarios"][0]["prediction"]["gains"]
    assert data["whatif"]["base"]["prediction"]["metrics"] == printed["base"]["prediction"]["metrics"]
    assert data["command"] == printed["command"]
    words = shlex.split(data["command"])
    context = whatif_module.command.make_context("whatif", words[2:])
    assert context.params["changes"] == ("isl=1024,2048", "price=x2") and context.params["explain"]
    assert "--json" not in words and "--workers" not in words


def test_the_command_of_a_sizing_asks_for_the_same(tmp_path):
    words = (
        f"--model {MODEL} --hardware b200 --deployment-gpus 8 --isl 2048 --osl 64 --no-mtp --request-rate 5"
    )
    basic = (*words.split(), "--slo", "ttft.p90=1000", "--slo", "tpot.p90=40", "--price", "b200=1")
    out = tmp_path / "pictures"
    done = servecast(
        "size", *basic, "--workers", 1, "--report", tmp_path / "page.html", "--out", out, "--json"
    )
    assert done.exit_code == 0, done.stderr
    assert sorted(file.name for file in out.iterdir()) == ["size.png", "size.svg"]
    asked = json.loads(done.stdout)["command"]
    context = size_module.command.make_context("size", shlex.split(asked)[2:])
    assert context.params["goals"] == ("ttft.p90=1000", "tpot.p90=40") and context.params["mtp"] is False
    assert embedded((tmp_path / "page.html").read_text())["command"] == asked
    wrong = servecast("size", *basic, "--report", out / "size.svg" / "page.html")
    assert wrong.exit_code == 2 and "no writable folder" in wrong.stderr


def test_pictures_of_a_sizing():
    files = size_pictures(sample_size())
    assert set(files) == {"size.png", "size.svg"} and files["size.png"][:4] == b"\x89PNG"
    text = files["size.svg"].decode()
    fleet = sample_size().levels[0].fleets[0]
    spare = fleet.num_gpus_with_spare - fleet.num_gpus
    assert f"{fleet.num_gpus} + {spare}" in text or spare == 0


def test_pages_are_the_same_twice():
    assert html_page(result_report(named("size"), 1)) == sample_page("size")
