"""The report page as a file: what it holds, that nothing leaves it, and the commands that write it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import planner.plan
import simulator.simulate
from planner.command_line import command_line
from planner.commands import plan as plan_module
from planner.commands import simulate as simulate_module
from planner.evaluate import evaluate, setting_for
from planner.file_writer import check_file
from planner.html_report import html_page, json_in_html
from planner.plan import bench_of
from planner.plan_files import plan_files, read_plan
from planner.report_data import assumptions_of, prediction_report
from search_spaces.errors import BadInput, MissingData
from search_spaces.kernel_profile import OWN_PROFILES
from tests.planner_tests.report_samples import HOSTILE, PLAIN, REQUEST, sample_plan, sample_report
from tests.planner_tests.samples import recipe_file, servecast

VOID = {"meta", "link", "br", "img", "input", "hr"}
MOST_BYTES = 2_000_000
SMALL = ("--isl", 512, "--osl", 32, "--concurrency", 2, "--num-prompts", 4)


class Page(HTMLParser):
    """Elements, attributes and the texts of scripts and styles; checks that elements nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, dict[str, str], str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.found.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "style"):
            self.texts.append((tag, attrs, ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            tag, attrs, text = self.texts[-1]
            self.texts[-1] = (tag, attrs, text + data)

    def text(self, tag, **attrs):
        """The text of the only element of this kind with these attributes."""
        (text,) = (t for name, have, t in self.texts if name == tag and have == attrs)
        return text


@pytest.fixture(scope="module")
def page():
    return html_page(sample_report())


def embedded(text):
    return json.loads(Page(text).text("script", type="application/json", id="data"))


def test_the_page_holds_the_whole_report_and_a_hostile_name_ends_no_element(page):
    data = embedded(page)
    dumped = sample_report().model_dump(mode="json")
    for case in dumped["cases"]:
        del case["prediction"]["wall_s"]
    assert data.pop("pool_names") and data == dumped
    assert data["plan"]["table"]["rows"][1]["recipe"]["name"] == HOSTILE
    assert HOSTILE not in page and page.count("</script>") == 2


def test_strange_texts_survive_the_way_into_the_page():
    strange = {"a": "<!-- &lt; \u2028 ü {{DATA}} 日本", "b": [1e-9, None, True]}
    text = json_in_html(strange)
    assert json.loads(text) == strange and not set("<>&\u2028") & set(text)


def test_nothing_is_fetched_and_only_these_scripts_may_run(page):
    parsed = Page(page)
    for _tag, attrs in parsed.found:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "style")]
        assert attrs.get("href", "#").startswith(("#", "data:"))
    (policy,) = (a["content"] for t, a in parsed.found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(parsed.text(tag).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "url(" not in parsed.text("style") and "@import" not in parsed.text("style")
    script = parsed.text("script")
    for way_out in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "innerHTML", "eval("):
        assert way_out not in script


def test_the_page_is_small_and_the_same_twice(page):
    assert len(page.encode()) < MOST_BYTES and page == html_page(sample_report())


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_the_script_parses(page, tmp_path):
    file = tmp_path / "page.js"
    file.write_text(Page(page).text("script"))
    done = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_recipe_of_the_table_is_simulated_at_full_length_at_its_largest_load():
    case = sample_report().cases[0]
    same = evaluate(bench_of(REQUEST), PLAIN, 2, short=False)
    assert case.prediction.metrics == same.metrics and case.prediction.concurrency == 2
    assert case.prediction.gains and case.prediction.breakdown
    assert case.digest == PLAIN.digest


def test_memory_parts_of_every_role_make_up_the_gpu():
    for case in sample_report().cases:
        for role in case.explanation.roles:
            assert role.memory.total_bytes == pytest.approx(role.memory.hbm_bytes)


def test_a_platform_that_the_catalog_lacks_is_missing_data():
    setting = setting_for(bench_of(REQUEST), PLAIN, 2)
    prediction = sample_report().cases[0].prediction
    with pytest.raises(MissingData, match="add them to the catalog"):
        prediction_report(replace(setting, hardware=None), prediction, "")


def test_assumptions_name_sources_switches_and_kernel_tables():
    found = sample_report().assumptions
    assert set(found.hardware.sources) >= {"hbm_bytes_per_s", "price_per_gpu_hour"}
    assert not set(found.switches_off) & set(found.stack.switches) and found.switches_off
    assert found.kernels.rows["attn_decode"] > 100 and "aiconfigurator" in found.kernels.meta["source"]
    changed = found.calibration.model_copy(update={"prefill_slowdown": 1.1})
    other = assumptions_of(found.hardware, found.model, found.stack, changed, 0)
    assert re.fullmatch("[0-9a-f]{16}", found.calibration_digest)
    assert other.calibration_digest != found.calibration_digest


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--no-mtp --max-ttft-ms 2000 --min-tok-s-user 40.5 --objective throughput --concurrency 64,128 "
        "--concurrency 4 --traffic 64:3,128:1 --space 'my spaces.yaml' --max-recipes 3 --risk lower",
    ],
)
def test_the_command_line_of_a_plan_asks_for_the_same_plan(more):
    def parsed(words):
        return plan_module.command.make_context("plan", words).params

    words = shlex.split(f"--model M --hardware b200 --out 'an out' --report page.html {more}")
    asked = parsed(words)
    line = command_line(
        plan_module.command, {**asked, "workers": 3, "as_json": True, "storage": "postgresql://u:secret@h"}
    )
    assert line.startswith("servecast plan ") and "secret" not in line
    again = parsed(shlex.split(line)[2:])
    traffic = [plan_module._traffic(options.pop("traffic")) for options in (again, asked)]
    assert again == asked and traffic[0] == traffic[1]


def test_own_kernel_profiles_are_part_of_the_command(monkeypatch):
    monkeypatch.setenv(OWN_PROFILES, "/my profiles")
    line = command_line(plan_module.command, {"model": "M"})
    assert line == f"{OWN_PROFILES}='/my profiles' servecast plan --model M"


def test_simulate_writes_the_prediction_that_it_prints_and_the_command_that_gives_it(tmp_path):
    recipe, out = recipe_file(tmp_path), tmp_path / "new" / "page.html"
    arguments = ("--recipe", recipe, *SMALL, "--with", "swa_evict", "--seed", 3, "--no-explain")
    done = servecast("simulate", *arguments, "--json", "--report", out)
    assert done.exit_code == 0, done.stderr
    data, printed = embedded(out.read_text()), json.loads(done.stdout)
    del printed["wall_s"]
    assert data["kind"] == "simulate" and data["plan"] is None
    assert data["cases"][0]["prediction"] == printed
    words = shlex.split(data["command"])
    context = simulate_module.command.make_context("simulate", words[2:])
    assert context.params["with_"] == ("swa_evict",) and context.params["num_prompts"] == 4
    assert context.params["seed"] == 3 and context.params["explain"] is False
    assert "--json" not in words and [p.name for p in out.parent.iterdir()] == ["page.html"]


def test_plan_writes_the_page_of_its_result_into_its_folder(tmp_path, monkeypatch):
    counts = sample_plan().counts | {"damaged_cache_lines": 0, "journals_set_aside": 0}
    result = sample_plan().model_copy(update={"counts": counts})
    monkeypatch.setattr(planner.plan, "plan", lambda *_: result)
    out = tmp_path / "plan"
    arguments = ("--model", REQUEST.model, "--hardware", "b200", "--out", out, "--workers", 1)
    done = servecast("plan", *arguments, "--report", out / "page.html", "--num-gpus", 16)
    assert done.exit_code == 0, done.stderr
    data = embedded((out / "page.html").read_text())
    assert data["plan"] == json.loads(result.model_dump_json())
    assert (out / "command.txt").read_text() == data["command"] + "\n"
    assert data["command"] == (
        f"servecast plan --model {REQUEST.model} --hardware b200 --num-gpus 16 --out {out} "
        f"--report {out / 'page.html'}"
    )


def test_report_reads_the_folder_of_a_plan(tmp_path):
    folder, out = tmp_path / "plan", tmp_path / "page.html"
    folder.mkdir()
    for name in ("plan.json", "dispatch.json"):
        (folder / name).write_text(str(plan_files(sample_plan(), [])[name]))
    (folder / "command.txt").write_text(sample_report().command + "\n")
    assert read_plan(folder) == (sample_plan(), sample_report().command)
    out.write_text("old")
    done = servecast("report", folder, "--out", out, "--workers", 1)
    assert done.exit_code == 0, done.stderr
    assert out.read_text() == html_page(sample_report())


@pytest.mark.parametrize("content", [None, "{", "[]", '{"request": 1}'])
def test_a_folder_without_a_plan_is_bad_input(tmp_path, content):
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
        (tmp_path / "dispatch.json").write_text("{}")
    done = servecast("report", tmp_path, "--out", tmp_path / "page.html")
    assert done.exit_code == 2 and "plan" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(simulator.simulate, "predict", lambda *_: pytest.fail("simulated"))
    (tmp_path / "file").write_text("")
    wrong = tmp_path / "file" / "page.html"
    done = servecast("simulate", "--recipe", recipe_file(tmp_path), *SMALL, "--report", wrong)
    assert done.exit_code == 2 and "report=" in done.stderr and "writable" in done.stderr
    with pytest.raises(BadInput, match="is a folder"):
        check_file(tmp_path, "report")
