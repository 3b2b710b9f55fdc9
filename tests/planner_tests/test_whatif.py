"""`servecast whatif`: the base is `simulate`, changes go where their names say, pictures show them."""

from __future__ import annotations

import json

import pytest

from planner.field_changes import changed, parse_changes
from planner.field_names import field_names, full_name
from planner.setting_source import setting_from
from planner.whatif import WhatIf, combinations, default_drivers, whatif
from planner.whatif_picture import bars, whatif_pictures
from planner.whatif_text import whatif_text
from search_spaces.errors import BadInput
from search_spaces.mtp import Mtp
from simulator.acceptance import mean_accept
from tests.planner_tests.samples import recipe_file, servecast

SMALL = ("--isl", 512, "--osl", 32, "--concurrency", 2, "--num-prompts", 4)
PUBLIC = "disagg-high-conc-6p1d-dep4-dep8-mtp"


@pytest.fixture
def recipe(tmp_path):
    return recipe_file(tmp_path)


@pytest.fixture
def setting(recipe):
    return setting_from({"recipe": str(recipe), "isl": 512, "osl": 32, "concurrency": 2, "num_prompts": 4})[0]


@pytest.fixture
def public():
    return setting_from({"recipe": PUBLIC, "concurrency": 512})[0]


def applied(setting, *texts):
    return changed(setting, [change for values in parse_changes(setting, texts) for change in values])


def without_clock(prediction):
    return {name: value for name, value in prediction.items() if name != "wall_s"}


def whatif_json(recipe, *more):
    done = servecast("whatif", "--recipe", recipe, *SMALL, *more, "--workers", 1, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("explain", [True, False])
def test_base_is_what_simulate_predicts(recipe, explain):
    flag = ("--explain",) if explain else ("--no-explain",)
    alone = json.loads(
        servecast("simulate", "--recipe", recipe, *SMALL, *flag, "--draws", 0, "--json").stdout
    )
    base = whatif_json(recipe, "--set", "isl=256", *(("--explain",) if explain else ()))["base"]
    assert without_clock(base["prediction"]) == without_clock(alone)
    assert bool(base["prediction"]["gains"]) == explain


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ("workload.isl=1024", ("--isl", 1024)),
        ("hardware=b300", ("--hardware", "b300")),
        ("stack=day0", ("--stack", "day0")),
        ("stack.mhc_fusion=off", ("--without", "mhc_fusion")),
        ("request_rate=3", ("--request-rate", 3)),
        ("seed=7", ("--seed", 7)),
    ],
)
def test_a_change_is_the_option_of_simulate(recipe, change, options):
    """Every change takes the path that the same change of `simulate` takes."""
    small = ("--isl", 512, "--osl", 32, "--num-prompts", 4)
    load = small if "request_rate" in change else SMALL
    alone = servecast("simulate", "--recipe", recipe, *load, *options, "--no-explain", "--draws", 0, "--json")
    beside = servecast("whatif", "--recipe", recipe, *load, "--set", change, "--workers", 1, "--json")
    scenario = json.loads(beside.stdout)["scenarios"][0]
    assert without_clock(scenario["prediction"]) == without_clock(json.loads(alone.stdout))


def test_concurrency_scales_request_counts_as_simulate_does():
    wide = setting_from({"recipe": PUBLIC, "concurrency": 1024})[0]
    narrow = setting_from({"recipe": PUBLIC, "concurrency": 512})[0]
    assert applied(narrow, "concurrency=1024").setting == wide


def test_differences_and_costs_follow_from_the_metrics(recipe):
    found = WhatIf.parse(whatif_json(recipe, "--set", "price=x2", "--set", "isl=2048"), "stdout")
    price, longer = found.scenarios
    assert price.differences["cost_per_million_tokens"] == pytest.approx(1.0)
    assert price.differences["total_tokens_per_s_per_gpu"] == 0
    assert found.base.prediction and longer.prediction and found.base.cost
    base, metrics = found.base.prediction.metrics, longer.prediction.metrics
    assert longer.differences["median_ttft_ms"] == pytest.approx(
        metrics["median_ttft_ms"] / base["median_ttft_ms"] - 1
    )
    hourly = 8 * 3.2
    assert found.base.cost.dollars_per_hour == pytest.approx(hourly)
    per_s = base["total_tokens_per_s_per_gpu"] * 8
    assert found.base.cost.per_million_tokens == pytest.approx(hourly / 3600 / per_s * 1e6)
    shares = found.base.cost
    assert 1 / shares.per_million_tokens == pytest.approx(
        1 / shares.per_million_input_tokens + 1 / shares.per_million_output_tokens
    )


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("isl", "workload.isl"),
        ("decode.swa_ratio", "recipe.decode.swa_full_tokens_ratio"),
        ("prefill.workers", "recipe.prefill.num_workers"),
        ("recipe.prefill.num_workers", "recipe.prefill.num_workers"),
        ("mtp", "recipe.decode.mtp.num_steps"),
        ("mem_fraction", "recipe.decode.mem_fraction_static"),
        ("moe.w4a4", "stack.w4a4_megamoe"),
        ("switch.swa_budget", "stack.swa_budget"),
        ("price.gb200", "price.gb200"),
        ("hosts.grace.step_gap_s", "calibration.hosts.grace.step_gap_s"),
    ],
)
def test_short_names(public, short, full):
    assert full_name(public, short) == full


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("concurency=4", ["workload.concurrency"]),
        ("decode.swa_full_token_ratio=0.1", ["recipe.decode.swa_full_tokens_ratio"]),
        ("zebra=3", ["no field"]),
        ("prefill.graph=1", ["prefill_graph", "graph_max_batch_per_rank", "in full"]),
        ("isl", ["FIELD=VALUE"]),
        ("isl=1,,2", ["empty or repeated"]),
        ("isl=5:5:3", ["two different ends"]),
    ],
)
def test_wrong_names_and_ranges_are_explained(public, change, words):
    with pytest.raises(BadInput) as caught:
        parse_changes(public, [change])
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "change", ["isl=-3", "isl=x", "decode.tp=many", "stack.swa_budget=maybe", "recipe.name=x2", "price=0",
               "mtp.acceptance=1.5", "mtp.acceptance=high", "prefix_hit=0.99", "hardware=z80"],
)  # fmt: skip
def test_values_that_fit_no_field_are_refused(public, change):
    with pytest.raises(BadInput):
        applied(public, change)


def test_relative_values_scale_the_present_one(public):
    now = applied(public, "isl=x0.5", "decode.mem_fraction_static=-10%", "prefill.workers=+50%").setting
    before = public.recipe
    assert now.workload.isl == public.workload.isl // 2
    assert now.recipe.decode.mem_fraction_static == pytest.approx(0.9 * before.decode.mem_fraction_static)
    assert now.recipe.prefill.num_workers == 9


def test_acceptance_says_where_it_decides_nothing(public):
    for change in ("accept_length=2.5", "decode.mtp.simulated_accept_length=2.5"):
        found = applied(public, change, "mtp.acceptance=0.5")
        assert any("no effect" in note for note in found.notes), change


def test_drafting_is_switched_on_by_its_length_alone(setting):
    assert setting.recipe.mtp is None
    assert applied(setting, "mtp=2").setting.recipe.serving.mtp == Mtp(num_steps=2)


def test_acceptance_is_that_of_the_prompts_whatever_the_stack(public):
    for stack in ("stack=june", "stack=day0"):
        now = applied(public, stack, "mtp.acceptance=0.5").setting
        assert mean_accept(now.calibration, now.stack, now.workload) == pytest.approx(0.5)


def test_drafting_can_be_taken_away_and_brought_back(public, setting):
    assert applied(public, "mtp=off").setting.recipe.mtp is None
    assert applied(setting, "mtp=2").setting.recipe.mtp.num_steps == 2


def test_prefix_hit_is_found_in_the_caches(setting):
    many = applied(setting, "isl=8192", "num_prompts=64", "prefix_hit=0.6")
    assert "radix_cache" in many.notes[0]
    found = whatif(many.setting, parse_changes(many.setting, ["seed=0"]), workers=1).base
    assert found.prediction is not None
    assert found.prediction.roles[0].prefix_hit_fraction == pytest.approx(0.6, abs=0.05)


def test_longer_prompts_take_the_context_limit_along(public):
    now = applied(public, "isl=32768")
    assert now.setting.recipe.decode.context_length >= 32768 + 1024
    assert any("context_length follows" in note for note in now.notes)


def test_price_of_another_platform_changes_nothing_and_says_so(public):
    now = applied(public, "price.b200=9")
    assert now.setting == public and "no effect" in now.notes[0]
    assert applied(public, "price.gb300=9").setting.hardware.price_per_gpu_hour == 9


def test_what_cannot_run_is_a_row_with_a_reason(recipe):
    done = servecast("whatif", "--recipe", recipe, *SMALL, "--set", "mem_fraction=0.05,0.85", "--workers", 1)
    assert done.exit_code == 0 and "cannot run" in done.stdout
    alone = servecast("whatif", "--recipe", recipe, *SMALL, "--set", "mem_fraction=0.05", "--workers", 1)
    assert alone.exit_code == 3 and "no scenario can run" in alone.stderr


def test_two_ranges_make_a_grid_and_one_at_a_time_is_the_default(setting):
    def cases(*texts, combine=False):
        return combinations(parse_changes(setting, texts), combine)

    assert len(cases("isl=512,1024", "osl=16")[0]) == 3
    grid, is_grid = cases("isl=512,1024", "osl=16:32:3", "price=3")
    assert is_grid and len(grid) == 6 and all(len(changes) == 3 for changes in grid)
    assert [c.text for c in cases("isl=100:200:3")[0][1]] == ["150"]
    assert len(cases("isl=512", "osl=16", combine=True)[0]) == 1
    with pytest.raises(BadInput, match="exceed"):
        cases("isl=1:200:200", "osl=1:200:200")


def test_grid_and_tornado_pictures(setting, tmp_path):
    grid = whatif(setting, parse_changes(setting, ["isl=256,512", "concurrency=1,2"]), workers=1)
    files = whatif_pictures(grid)
    assert set(files) == {"heatmap.png", "heatmap.svg"} and files["heatmap.png"][:4] == b"\x89PNG"
    assert "workload.isl down, workload.concurrency across" in whatif_text(grid)
    single = whatif(setting, parse_changes(setting, ["isl=256", "price=x3"]), workers=1)
    assert set(whatif_pictures(single)) == {"tornado.png", "tornado.svg"}
    assert [name for name, _ in bars(single, "cost_per_million_tokens")][-1] == "price"


def test_default_drivers_are_fields(public):
    names = field_names(public)
    assert all(change.name in names for values in default_drivers(public) for change in values)


def test_an_outage_is_a_change_and_reported(setting):
    done = applied(setting, "recipe.aggregated.num_workers=2", "num_prompts=16", "outage=aggregated:1@2+1")
    found = whatif(done.setting, parse_changes(done.setting, ["seed=0"]), workers=1)
    assert found.base.prediction is not None and found.base.prediction.outage is not None
    text = whatif_text(whatif(setting, parse_changes(setting, ["outage=aggregated:0@0.1+1"]), workers=1))
    assert "Outage of aggregated:0@0.1" in text and "before" in text


def test_simulate_takes_the_same_outage(recipe):
    options = ("--recipe", recipe, *SMALL)
    alone = servecast("simulate", *options, "--outage", "aggregated@1+1", "--no-explain")
    assert alone.exit_code == 0 and "Outage of aggregated:0@1" in alone.stdout
    wrong = servecast("simulate", *options, "--outage", "decode@1")
    assert wrong.exit_code == 2 and "no such worker" in wrong.stderr
