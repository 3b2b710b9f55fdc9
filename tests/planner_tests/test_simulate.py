"""`servecast simulate`: what it prints, and how it words bad input."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from planner.recipe_source import (
    LoadOptions,
    find_recipe,
    named_recipes,
    public_recipe,
    stack_for,
    workload_for,
)
from search_spaces.catalog_loader import DEFAULT_STACK
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from simulator.simulate import Prediction
from tests.planner_tests.samples import MEGAMOE, SINGLE, SRT, recipe_file, servecast

SMALL = ("--isl", 512, "--osl", 32, "--concurrency", 2, "--num-prompts", 4)
PUBLIC = "ix/disagg-high-conc-6p1d-dep4-dep8-mtp"


@pytest.fixture
def recipe(tmp_path):
    return recipe_file(tmp_path)


def test_json_is_one_prediction_and_nothing_else(recipe):
    done = servecast("simulate", "--recipe", recipe, *SMALL, "--json")
    assert done.exit_code == 0, done.stderr
    found = Prediction.parse(json.loads(done.stdout), "stdout")
    assert found.recipe == "single" and found.concurrency == 2 and found.num_gpus == 8
    assert found.metrics["completed"] == 4 and found.gains and found.breakdown
    assert sum(found.ceiling_split.values()) == pytest.approx(1)


def test_report_is_the_same_twice_and_shows_every_section(recipe):
    first, second = (servecast("simulate", "--recipe", recipe, *SMALL) for _ in range(2))
    assert first.stdout == second.stdout and "processor time" in first.stderr
    for title in (
        "Throughput", "Latency", "Limit: ", "Where a request's time goes", "Roles", "Mean ", "Ceiling: ",
    ):  # fmt: skip
        assert title in first.stdout
    assert "measured" in first.stdout and "june (SGLang 0.5.15)" in first.stdout


def test_report_numbers_are_those_of_the_json(recipe):
    text = servecast("simulate", "--recipe", recipe, *SMALL, "--no-explain").stdout
    data = json.loads(servecast("simulate", "--recipe", recipe, *SMALL, "--no-explain", "--json").stdout)
    shown = {line[2:20].strip(): line[20:].strip() for line in text.splitlines() if line.startswith("  ")}
    for label, metric in (
        ("total tok/s/GPU", "total_tokens_per_s_per_gpu"),
        ("tok/s/user", "tokens_per_s_per_user"),
    ):
        assert float(shown[label].replace(",", "")) == pytest.approx(data["metrics"][metric], rel=1e-3)
    assert not data["gains"] and not data["breakdown"]


def test_another_seed_draws_other_lengths(recipe):
    outputs = {servecast("simulate", "--recipe", recipe, *SMALL, "--seed", s).stdout for s in (0, 1)}
    assert len(outputs) == 2


def test_switches_change_the_stack(recipe):
    done = servecast(
        "simulate", "--recipe", recipe, *SMALL, "--with", "swa_budget,mhc_fusion", "--stack", "day0"
    )
    assert "day0+mhc_fusion+swa_budget" in done.stdout


def test_soft_violations_are_notes_on_stderr(tmp_path):
    file = recipe_file(tmp_path, {"dp_lm_head": True})
    done = servecast("simulate", "--recipe", file, *SMALL, "--json")
    assert done.exit_code == 0 and "note: aggregated.dp_lm_head=true" in done.stderr
    json.loads(done.stdout)


def bad(tmp_path, *arguments: Any, code: int = 2) -> str:
    done = servecast("simulate", *arguments)
    assert done.exit_code == code and done.stdout == "" and "Traceback" not in done.stderr
    assert all(
        line.startswith("error: ") for line in done.stderr.splitlines() if not line.startswith("note: ")
    )
    return done.stderr


@pytest.mark.parametrize(
    ("group", "changes", "wanted"),
    [
        ({"frobnicate": 1}, {}, ["unknown key aggregated.frobnicate=1", "remove it"]),
        ({"attention_dp": 3}, {}, ["attention_dp=3 must divide tp=8", "choose one of [1, 2, 4, 8]"]),
        ({"tp": "eight"}, {}, ["aggregated.tp='eight'", "valid integer"]),
        (
            {**MEGAMOE, "tp": 72, "attention_dp": 72, "moe_ep": 72},
            {"hardware": "gb300"},
            ["moe_ep=72 needs (routed_experts + redundant_experts) % moe_ep == 0", "redundant_experts=48"],
        ),
        (
            MEGAMOE | {"megamoe_cap_tokens": 1024},
            {},
            ["megamoe_cap_tokens=1024 must be >= chunk_tokens_per_rank=8192", "set megamoe_cap_tokens=8192"],
        ),
        ({}, {"model": "deepseek-v9"}, ["model='deepseek-v9' is not in the catalog", "DeepSeek-V4-Pro"]),
        ({}, {"hardware": "tpu"}, ["hardware='tpu' is not in the catalog", "gb300"]),
        ({}, {"stack": "december"}, ["stack='december' is not in the catalog", "june"]),
    ],
)
def test_bad_recipes_are_named_with_rule_and_remedy(tmp_path, group, changes, wanted):
    error = bad(tmp_path, "--recipe", recipe_file(tmp_path, group, **changes), *SMALL)
    assert all(text in error for text in wanted), error


def test_weights_that_do_not_fit_exit_3(tmp_path):
    error = bad(tmp_path, "--recipe", recipe_file(tmp_path, {"tp": 2}), *SMALL, code=3)
    assert "weights" in error and "widen the worker" in error


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"name: x\nmodel: [deepseek", ["not valid YAML at line 3", "is the file complete?"]),
        (b"\x7fELF\0\0\1", ["is binary"]),
        (b"\xff\xfe", ["is not UTF-8"]),
        (b"", ["is empty"]),
        (b"- 1\n", ["expected a mapping, got list"]),
        (b"colour: blue\n", ["keys ['colour'] are no recipe"]),
    ],
)
def test_unreadable_files(tmp_path, content, wanted):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    error = bad(tmp_path, "--recipe", file)
    assert str(file) in error and all(text in error for text in wanted), error


def test_missing_files_and_folders(tmp_path):
    assert "no such file" in (error := bad(tmp_path, "--recipe", tmp_path / "none.yaml"))
    assert "servecast catalog recipes" in error
    assert "is a directory" in bad(tmp_path, "--recipe", tmp_path)
    assert "is no public recipe; did you mean" in bad(tmp_path, "--recipe", f"catalog:{PUBLIC}x")
    assert "calibration='none.json' cannot be read" in bad(
        tmp_path, "--recipe", recipe_file(tmp_path), "--calibration", "none.json"
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--isl", 0), "isl=0"),
        (("--concurrency", 0), "concurrency=0"),
        (("--concurrency", -4), "concurrency=-4"),
        (("--num-prompts", 0), "num_prompts=0"),
        (("--random-range-ratio", 1.5), "random_range_ratio=1.5"),
        (("--random-range-ratio", "nan"), "random_range_ratio=nan"),
        (("--isl", 1 << 20), "exceeds the 1048576-token context"),
        (("--with", "warp_drive"), "switch='warp_drive' is unknown"),
        (("--with", "swa_budget", "--without", "swa_budget"), "both switched on and off"),
        (("--stack", "june+warp_drive"), "unknown switches ['warp_drive']"),
        (("--model", "gpt"), "model='gpt' is not in the catalog"),
        (("--hardware", "tpu"), "hardware='tpu' is not in the catalog"),
    ],
)
def test_bad_options(tmp_path, options, wanted):
    assert wanted in bad(tmp_path, "--recipe", recipe_file(tmp_path), *options)


def test_workload_defaults_and_overrides():
    plain = workload_for(find_recipe(PUBLIC), LoadOptions())
    assert (plain.isl, plain.osl, plain.random_range_ratio, plain.prompts) == (8192, 1024, 0.8, "chat")
    assert plain.concurrency == max(public_recipe(PUBLIC).concurrencies)
    loaded = find_recipe(str(SRT))
    assert loaded.workload is not None
    assert workload_for(loaded, LoadOptions()).concurrency == max(loaded.recipe.concurrencies)
    changed = workload_for(loaded, LoadOptions(concurrency=7, isl=100, osl=10, num_prompts=3))
    assert (changed.concurrency, changed.isl, changed.osl, changed.num_prompts) == (7, 100, 10, 3)


def test_request_counts_of_a_file_scale_with_concurrency(tmp_path):
    data = yaml.safe_load(SRT.read_text())
    data["benchmark"] |= {"num_prompts_mult": 5, "num_warmup_mult": 1, "concurrencies": [8, 32]}
    file = tmp_path / "srt.yaml"
    file.write_text(yaml.safe_dump(data))
    load = workload_for(find_recipe(str(file)), LoadOptions())
    assert (load.concurrency, load.num_prompts, load.num_warmup) == (32, 160, 32)


def test_random_prompts_without_drafts(tmp_path):
    load = workload_for(find_recipe(str(recipe_file(tmp_path))), LoadOptions())
    assert (load.prompts, load.concurrency, load.isl) == ("random", 1, 8192)


def test_every_public_recipe_has_its_own_name():
    known = named_recipes()
    assert all(public_recipe(name) is recipe for name, recipe in known.items())
    assert find_recipe(f"catalog:{PUBLIC}").recipe == find_recipe(PUBLIC.split("/")[1]).recipe


def test_recipes_of_one_name_are_told_apart_by_index_or_load():
    with pytest.raises(BadInput, match=r"means \d+ public recipes; choose one of .*\[0\]"):
        public_recipe("ix-single/dsv4_fp4_b300_sglang_mtp/isl8192-tp4-c4to32")
    several = [r for n, r in named_recipes().items() if "b300_sglang_mtp/isl8192-tp4-c4to32" in n]
    assert len(several) > 1
    for recipe in several:
        assert public_recipe(recipe.name, recipe.concurrencies[0]) is recipe


def test_hardware_and_model_replace_those_of_the_recipe(tmp_path):
    found = find_recipe(str(recipe_file(tmp_path)), hardware="GB300", model="deepseek-v4-flash").recipe
    assert (found.hardware, found.model) == ("gb300", "deepseek-ai/DeepSeek-V4-Flash")


def test_the_stack_is_the_options_then_the_recipes_then_the_default():
    plain, dated = Recipe.model_validate(SINGLE), Recipe.model_validate(SINGLE | {"stack": "may"})
    assert stack_for(plain).name == DEFAULT_STACK and stack_for(dated).name == "may"
    assert stack_for(dated, "day0", on=["swa_budget"]).name == "day0+swa_budget"
    assert not stack_for(dated, off=["swa_budget"]).has("swa_budget")


def test_an_image_of_another_build_is_noted(tmp_path):
    file = recipe_file(tmp_path, launch={"container": "lmsysorg/sglang:deepseek-v4-grace-blackwell"})
    assert "is a day0 build, predicted as june" in servecast("simulate", "--recipe", file, *SMALL).stderr
    assert "day0 build" not in servecast("simulate", "--recipe", file, *SMALL, "--stack", "june").stderr


def test_shell_scripts_take_their_platform_from_the_option(tmp_path):
    script = tmp_path / "run.sh"
    script.write_text(
        "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V4-Pro --tp 8 "
        "--moe-runner-backend flashinfer_mxfp4 --mem-fraction-static 0.9 --max-running-requests 64\n"
    )
    assert "commands do not name a GPU" in bad(tmp_path, "--recipe", script, *SMALL)
    done = servecast("simulate", "--recipe", script, "--hardware", "b200", *SMALL)
    assert done.exit_code == 0 and "1xTP8, 8 GPUs" in done.stdout
