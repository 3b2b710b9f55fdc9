"""Normalised records of recipes and measurements."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from engine_adapter.catalog_files import lane_recipes
from engine_adapter.model_names import engine_version, platform, stack_of
from engine_adapter.points import evaluate, load_points, point_from_record
from engine_adapter.published import recipe_from_expert_record, recipes_from_expert_record
from engine_adapter.recipe_files import load_recipe
from search_spaces.errors import BadInput
from search_spaces.public_recipes import public_recipes, recipe_lanes
from tests.engine_adapter_tests.paths import DATA, MTP, NO_MTP

RECORDS = {
    r["id"].rsplit("/", 1)[-1]: r for r in yaml.safe_load((DATA / "expert_records_small.yaml").read_text())
}
POINTS: dict[str, Any] = {p.id: p for p in load_points(DATA / "points_small.yaml")}


@pytest.mark.parametrize("path", [NO_MTP, MTP])
def test_record_and_file_give_one_digest(path):
    assert recipe_from_expert_record(RECORDS[path.stem]).digest == load_recipe(path).recipe.digest


def test_limits_computed_from_the_concurrency():
    recipes = recipes_from_expert_record(RECORDS["isl8192-tp4-c4to32"])
    slots = {r.concurrencies: r.serving.max_running_per_rank for r in recipes}
    assert slots == {(4,): 8, (8,): 12, (16,): 24, (32,): 48}
    assert recipe_from_expert_record(RECORDS["isl8192-tp4-c4to32"]).serving.max_running_per_rank == 48
    with pytest.raises(BadInput, match="not dispatched"):
        recipe_from_expert_record(RECORDS["isl8192-tp4-c4to32"], 5)


def test_templates_are_refused():
    with pytest.raises(BadInput, match="sweep template"):
        recipe_from_expert_record(RECORDS["8k1k-mtp"])


def test_equal_recipes_become_one_with_all_concurrencies():
    record = RECORDS[NO_MTP.stem]
    other = {**record, "workload": {**record["workload"], "dispatch": [{"conc_list": [2600]}]}}
    (recipe,) = lane_recipes([record, other])["gb300-disagg-nomtp"]
    assert recipe.concurrencies == (2500, 2600)


def test_catalog_lanes():
    lanes = recipe_lanes()
    assert {"gb300-disagg-mtp", "gb200-disagg-nomtp", "b300-agg-nomtp", "h200-agg-mtp"} <= set(lanes)
    assert not any("agentic" in name for name in lanes)
    for name, recipes in lanes.items():
        assert len({(r.digest, r.launch.get("isl")) for r in recipes}) == len(recipes)
        assert all(name.startswith(r.hardware) and r.source for r in recipes)
        assert all((r.mtp is None) == name.endswith("-nomtp") for r in recipes)
    found = public_recipes("deepseek-v4-pro", "gb300")
    assert {"10P1D-DEP4-DEP32", "8P1D-DEP4-DEP40"} <= {r.topology for r in found}
    with pytest.raises(BadInput):
        public_recipes("deepseek-v4-pro", "mi355x")


def test_official_point():
    point = POINTS["ix-gb300-dsv4pro-sgl-mtp-mid-curve-1p1d-dep4-dep8-mtp-c256"]
    assert point.usable and point.stack == "june" and point.num_gpus == point.recipe.num_gpus == 12
    assert point.measured["total_tokens_per_s_per_gpu"] == 5249.636
    assert point.measured["output_tokens_per_s_per_gpu"] == pytest.approx(583.411, abs=1e-3)
    assert point.workload.prompts == "chat" and point.workload.warmup_requests == 512
    digests = {r.digest for r in public_recipes("deepseek-v4-pro", "gb300")}
    assert point.recipe.digest in digests


def test_cookbook_point():
    point = POINTS["cookbook-v0.5.15.post1cache-cold-gb300-pro-nvfp4-low-latency-c1"]
    group = point.recipe.aggregated
    assert (group.moe_backend, group.expert_weights) == ("flashinfer_trtllm_routed", "nvfp4")
    assert (point.workload.random_range_ratio, point.workload.num_warmup) == (0.0, 64)
    assert group.max_running_per_rank == 256 and group.mtp.num_steps == 3


def test_a_second_run_without_a_flush_begins_with_the_prompts_of_the_first():
    sent = {name: p.workload.reused_prompts for name, p in POINTS.items() if p.usable}
    assert all(n == 0 for name, n in sent.items() if "cache-cold" in name or "cookbook" not in name)
    source = next(
        r for r in yaml.safe_load((DATA / "points_small.yaml").read_text()) if r["id"].startswith("cookbook")
    )
    load = source["workload"] | {"max_concurrency": 16, "num_prompts": 32}
    cold = source | {"workload": load}
    for notes, prompts in (("cache flushed between runs", 0), ("No cache flush documented.", 16)):
        found = point_from_record(cold | {"notes": notes}).workload
        assert found is not None and found.reused_prompts == prompts


def test_a_run_after_warm_passes_does_not_meet_first_uses():
    records = yaml.safe_load((DATA / "points_small.yaml").read_text())
    source = next(r for r in records if "dsv4pro-sgl" in r["id"])
    for warmup, fresh in (("2 x concurrency", True), ("repeated warm passes before the measured one", False)):
        load = source["workload"] | {"warmup": warmup}
        found = point_from_record(source | {"workload": load}).workload
        assert found is not None and found.fresh_server is fresh


def test_settings_in_words_are_computed():
    assert POINTS["ixdb-b300-dsv4pro-sgl-mtp-tp4ep1-8k1k-c32"].recipe.serving.max_running_per_rank == 48
    assert POINTS["ixdb-h200-dsv4pro-sgl-tp8ep1-8k1k-c1"].recipe.serving.chunk_tokens_per_rank == 4096
    dated = "4096 (04-25) / 8192 (04-29 on)"
    assert evaluate(dated, 1) == 8192
    assert evaluate(dated, 1, until="04-26") == 4096 and evaluate(dated, 1, until="04-24") == 4096
    assert evaluate(dated, 1, until="05-01") == 8192
    assert evaluate("max(8, 1.5 x concurrency)", 4) == 8 and evaluate("auto", 4) == "auto"


def test_topology_only_point_takes_the_lane_settings():
    recipe = POINTS["sgl24857-gb300-dsv4pro-12p1d-pr24857-c4096"].recipe
    assert recipe.topology == "12P1D-DEP4-DEP12" and recipe.decode.max_running_per_rank == 1792
    assert recipe.prefill.chunk_tokens_per_rank == 8192


def test_refused_point_keeps_its_numbers():
    point = POINTS["ix870-h200-dsr1-fp8-agg-tp8-1k1k-c8"]
    assert point.refused == "other model: DeepSeek-R1-0528" and point.recipe is None and point.measured


def test_dspark_point_has_the_engine_s_block_and_its_measured_acceptance():
    record = next(
        r
        for r in yaml.safe_load((DATA / "points_small.yaml").read_text())
        if (r.get("mtp") or {}).get("algorithm") == "DSPARK"
    )
    point = POINTS[record["id"]]
    assert point.refused is None and point.recipe.topology == "1xTP4-DSPARK7"
    assert point.workload.accept_length is None
    lengths = "5.47 (c64), 5.43 (c256)"  # sgl-project/sglang#33083
    for load, length in ((64, 5.47), (256, 5.43), (1, None)):
        workload = record["workload"] | {"max_concurrency": load}
        stated = {**record, "workload": workload, "mtp": record["mtp"] | {"acceptance_length": lengths}}
        found = point_from_record(stated).workload
        assert found is not None and found.accept_length == length
    dated = {**record, "engine": {"name": "sglang", "version_or_image": "main (Aug 2026)"}}
    assert point_from_record(dated).refused is None, "a build that ran DSpark has it"


def test_other_models_are_refused_and_broken_records_named(tmp_path):
    records = yaml.safe_load((DATA / "points_small.yaml").read_text())
    assert point_from_record({**records[0], "model": "deepseek-r1"}).refused == "other model: deepseek-r1"
    broken = tmp_path / "p.yaml"
    broken.write_text(yaml.safe_dump([records[0], {"id": "bad", "trust": "A"}]))
    with pytest.raises(BadInput, match="point bad: source is required"):
        load_points(broken)
    broken.write_text(yaml.safe_dump([records[0], 7]))
    with pytest.raises(BadInput, match=r"point \[1\]: expected a mapping"):
        load_points(broken)
    broken.write_text("a: 1")
    with pytest.raises(BadInput, match="expected a list"):
        load_points(broken)


@pytest.mark.parametrize(
    ("image", "date", "stack"),
    [
        ("lmsysorg/sglang:nightly-dev-20260527-14f81a67", "", "june"),
        ("lmsysorg/sglang:nightly-dev-cu13-20260520-425dffbd", "", "may"),
        ("lmsysorg/sglang:deepseek-v4-grace-blackwell", "2026-06-01", "day0"),
        ("lmsysorg/sglang:deepseek-v4-grace-blackwell (author-patched)", "", "day0+swa_tail_prealloc"),
        ("lmsysorg/sglang:deepseek-v4-b300@26e116bd20260601", "", "day0"),
        ("v0.5.15.post1 cache-cold", "2026-08", "june"),
        ("0.5.23", "", "v0523"),
        ("", "2026-05/06", "may"),
        ("", "20260730", "july"),
        ("not recorded", "", "june"),
    ],
)
def test_stack_of_a_build(image, date, stack):
    assert stack_of(image, date).name == stack


def test_engine_version_and_platform():
    assert engine_version("lmsysorg/sglang:v0.5.14-cu130@sha256:0.5.9") == "0.5.14"
    assert engine_version("lmsysorg/sglang:nightly-dev-20260527-14f81a67") == "0.5.15"
    assert platform("GB300-NVL72").name == "gb300" and platform("b300").name == "b300"
