"""The main job: laws of its result, resumption, and what it says when nothing fits."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from engine_adapter.recipe_files import load_recipe
from planner.evaluate import Evaluator, known
from planner.plan import bench_of, plan
from planner.plan_files import plan_files
from planner.plan_types import PlanRequest
from planner.screen import relaxed
from search_spaces.errors import BadInput, Infeasible
from search_spaces.space import RoleSpace, SearchSpace, load_spaces
from search_spaces.space_points import topologies
from search_spaces.workload import Slo

SPACE = SearchSpace(
    name="small",
    mode="disaggregated",
    mtp_steps=(0, 3),
    prefill=RoleSpace(plans=("DEP4",), workers=(1, 2)),
    decode=RoleSpace(
        plans=("DEP8", "TP4"),
        workers=(1,),
        knobs={
            "mem_fraction_static": [0.9, 0.94],
            "swa_full_tokens_ratio": [0.15, 0.1],
        },
    ),
)


def request(**changes):
    values = {
        "model": "deepseek-ai/DeepSeek-V4-Pro",
        "hardware": "gb300",
        "num_gpus": 24,
        "concurrencies": (16, 256),
        "trials": 8,
        "keep": 4,
    }
    return PlanRequest.parse({**values, **changes}, "test")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return plan(request(), tmp_path_factory.mktemp("plan"), workers=1, spaces=[SPACE])


def test_rows_cover_the_loads_without_gap_and_within_the_gpus(result):
    rows = result.table.rows
    assert rows[0].min_concurrency == 1 and rows[-1].max_concurrency == 256
    for before, after in pairwise(rows):
        assert after.min_concurrency == before.max_concurrency + 1
    assert all(row.recipe.num_gpus <= 24 for row in rows)


def test_recommended_recipes_are_not_worse_than_public_ones_on_either_axis(result):
    assert result.comparisons
    for pair in result.comparisons:
        assert pair.recommended_tokens_per_s_per_gpu >= pair.public_tokens_per_s_per_gpu
        assert pair.recommended_tokens_per_s_per_user >= pair.public_tokens_per_s_per_user


def test_every_load_is_served_by_its_recommended_recipe_unless_rows_are_limited(result):
    for pair in result.comparisons:
        assert result.table.lookup(pair.concurrency).recipe.name == pair.recommended
    one = plan(request(max_recipes=1), None, workers=1, spaces=[SPACE])
    assert len(one.table.rows) == 1 and one.table.max_regret == pytest.approx(one.regret_by_recipes[0])


def test_counts_add_up(result):
    counts = result.counts
    pruned = sum(counts["pruned_by_rule"].values())
    assert 0 < counts["screened_by_fluid_model"] <= counts["considered"] - pruned
    assert counts["simulations"] > 0


def test_every_written_recipe_reads_back_as_the_recommended_one(result, tmp_path):
    notes: list[str] = []
    files = plan_files(result, notes)
    assert files["pareto.png"][:4] == b"\x89PNG" and b"<svg" in files["pareto.svg"]
    assert json.loads(files["dispatch.json"])["rows"]
    for row in result.table.rows:
        folder = f"recipes/c{row.min_concurrency}-c{row.max_concurrency}/servecast/"
        (name,) = (n for n in files if n.startswith(folder))
        path = tmp_path / "recipe.yaml"
        path.write_text(files[name])
        assert load_recipe(str(path)).recipe.digest == row.recipe.digest


def test_same_seed_gives_the_same_table(result):
    again = plan(request(), None, workers=1, spaces=[SPACE])
    assert again.table == result.table


def test_a_finished_study_is_answered_from_its_files(tmp_path):
    first = plan(request(), tmp_path, workers=1, spaces=[SPACE])
    lines = len((tmp_path / "predictions.jsonl").read_text().splitlines())
    second = plan(request(), tmp_path, workers=1, spaces=[SPACE])
    assert second.table == first.table
    assert lines > 0 and first.counts["simulations"] == lines


def test_a_torn_or_corrupt_cache_line_is_set_aside_and_counted(tmp_path):
    cache = tmp_path / "predictions.jsonl"
    cache.write_text(
        '{"key": "x", "metrics": {}, "limit": "", "warnings": [], "infeasible": ""}\n{"key": "y", "met'
    )
    evaluator = Evaluator(bench_of(request()), cache, workers=1)
    evaluator.close()
    assert evaluator.damaged_lines == 1


@pytest.mark.parametrize("content", [b"\xec\xff\x00noise", b'{"op_code": 0, broken\n{"op_code": 99}\n'])
def test_a_corrupt_journal_is_set_aside_and_the_study_replayed(tmp_path, result, content):
    (tmp_path / "study.journal").write_bytes(content)
    again = plan(request(), tmp_path, workers=1, spaces=[SPACE])
    assert again.table == result.table and again.counts["journals_set_aside"] == 1
    assert (tmp_path / "study.damaged").read_bytes() == content


def test_an_impossible_slo_names_the_limit_and_the_nearest_that_can_be_kept():
    with pytest.raises(Infeasible, match=r"misses max_median_tpot_ms by a factor") as raised:
        plan(request(slo=Slo(max_median_tpot_ms=0.5).model_dump()), None, workers=1, spaces=[SPACE])
    nearest = min(map(float, re.findall(r"would keep max_median_tpot_ms=([\d.]+)", str(raised.value))))
    assert nearest > 0.5
    eased = Slo(max_median_tpot_ms=nearest * 1.03)  # whole runs differ a little from the short ones
    assert plan(request(slo=eased.model_dump()), None, workers=1, spaces=[SPACE]).table.rows


def test_too_few_gpus_are_named_though_no_slo_was_stated():
    with pytest.raises(Infeasible, match=r"num_gpus=1: no recipe of the search space fits"):
        plan(request(num_gpus=1), None, workers=1, spaces=[SPACE])


@pytest.mark.parametrize("factor", [1.0001, 8.857, 123.4])
def test_a_limit_relaxed_as_proposed_is_kept(factor):
    slo = Slo(max_p99_ttft_ms=50, min_tokens_per_s_per_user=80)
    text = relaxed(slo, {"max_p99_ttft_ms": factor, "min_tokens_per_s_per_user": factor})
    limits = dict(part.split("=") for part in text.split(", "))
    assert 50 * factor <= float(limits["max_p99_ttft_ms"]) <= 50 * factor * 1.01
    assert 80 / factor * 0.99 <= float(limits["min_tokens_per_s_per_user"]) <= 80 / factor


def test_a_bench_from_another_process_is_known_by_the_one_at_hand():
    """Else every look into a cache would compare model, platform and calibration field by field."""
    bench = bench_of(request())
    again = pickle.loads(pickle.dumps(bench))
    assert again.model is not bench.model and known(again).model is known(bench).model
    assert known(again).calibration is known(bench).calibration


def test_an_earlier_plan_of_other_lengths_is_where_a_search_begins(result):
    """Without trials and with what screening keeps least, so that its recipes are there by themselves."""
    changed = request(isl=4096, trials=0, keep=2)
    cold = plan(changed, None, workers=1, spaces=[SPACE])
    warm = plan(changed, None, workers=1, spaces=[SPACE], earlier=[result.table])
    at_home = {p.digest: p.concurrency for p in warm.points if p.origin == "earlier plan"}
    assert at_home and not any(p.origin == "earlier plan" for p in cold.points)
    for load in changed.concurrencies:
        best = [
            max(p.total_tokens_per_s_per_gpu for p in found.points if p.concurrency == load and p.usable)
            for found in (cold, warm)
        ]
        assert best[1] >= best[0]


def test_a_plan_of_another_platform_does_not_start_one(result):
    other = result.table.model_copy(update={"hardware": "b300"})
    with pytest.raises(BadInput, match=r"warm_start: .* on b300 cannot start a plan for .* on gb300"):
        plan(request(), None, workers=1, spaces=[SPACE], earlier=[other])


def test_the_objective_decides_which_recipe_is_chosen():
    chosen = {}
    for objective in ("ttft", "throughput"):
        found = plan(request(objective=objective, concurrencies=(256,)), None, workers=1, spaces=[SPACE])
        (chosen[objective],) = found.table.rows
    by_ttft, by_rate = (chosen[name].predictions[-1] for name in ("ttft", "throughput"))
    assert by_ttft.median_ttft_ms <= by_rate.median_ttft_ms
    assert by_ttft.total_tokens_per_s_per_gpu <= by_rate.total_tokens_per_s_per_gpu


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(BadInput, match=r"hardware='gb999'.*choose one of"):
        plan(request(hardware="gb999"), None, workers=1)


@pytest.mark.parametrize("platform", ["gb300", "gb200", "b300", "b200", "h200", "h100"])
def test_shipped_spaces_have_layouts_for_a_small_and_a_large_fleet(platform):
    spaces = load_spaces(platform)
    assert {s.mode for s in spaces} == {"disaggregated", "aggregated"}
    for space in spaces:
        assert len(topologies(space, 72)) > len(topologies(space, 32)) > 0


def _children_of_killed(folder):
    found = subprocess.run(
        ["pgrep", "-f", str(folder / "killed")], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


@pytest.mark.slow
def test_a_killed_plan_goes_on_and_ends_as_an_uninterrupted_one(tmp_path):
    command = [
        sys.executable, "-m", "planner.cli", "plan", "--model", "deepseek-v4-pro", "--hardware", "gb300",
        "--num-gpus", "24", "--concurrency", "64,256", "--trials", "8", "--keep", "6", "--workers", "1",
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    running = subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed")], cwd=root, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "killed" / "predictions.jsonl"
    for _ in range(1200):
        if log.exists() and len(log.read_text().splitlines()) >= 3:
            break
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 10
    while _children_of_killed(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _children_of_killed(tmp_path)
    kept = len(log.read_text().splitlines())
    assert kept >= 3 and not (tmp_path / "killed" / "dispatch.json").exists()
    for name in ("killed", "whole"):
        subprocess.run([*command, "--out", str(tmp_path / name)], cwd=root, check=True, capture_output=True)
    whole = json.loads((tmp_path / "whole" / "dispatch.json").read_text())
    assert json.loads((tmp_path / "killed" / "dispatch.json").read_text()) == whole
