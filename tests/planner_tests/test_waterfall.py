"""Each switch does something, and a waterfall starts and ends where plain simulations do."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from click.testing import CliRunner

from planner.cli import cli
from planner.recipe_source import public_recipe
from planner.report import waterfall_picture
from planner.waterfall import NOT_MODELLED, THROUGHPUT, waterfall
from search_spaces import catalog_loader
from search_spaces.errors import BadInput, Infeasible
from search_spaces.stack import Switch
from search_spaces.workload import Workload
from simulator.calibration import load_calibration
from simulator.run import run
from simulator.simulate import metrics_of
from simulator.world import Setting

SMALL = {"isl": 8192, "osl": 256, "num_prompts": 400}


def setting(name, concurrency, stack="june", only="", **changes):
    recipe = public_recipe(name, concurrency)
    groups = {r: g.model_copy(update=changes) for r, g in recipe.groups.items() if only in ("", r)}
    prompts = "chat" if recipe.mtp else "random"
    return Setting(
        recipe.model_copy(update=groups),
        Workload(concurrency=concurrency, prompts=prompts, **SMALL),
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        catalog_loader.stack(stack),
        load_calibration(),
    )


PLAIN = setting("disagg-gb300-14p1d-dep4-dep16-18-c8192", 256, prefill_graph=True)
DRAFTING = setting("disagg-mid-curve-1p1d-dep4-dep8-mtp", 64)
FEW_WINDOWS = setting(
    "disagg-mid-curve-1p1d-dep4-dep8-mtp",
    256,
    only="decode",
    max_total_tokens=400_000,
    swa_full_tokens_ratio=0.02,
)
FEW_TOKENS = setting(
    "disagg-mid-curve-1p1d-dep4-dep8-mtp",
    256,
    only="decode",
    mem_fraction_static=0.475,
    max_running_per_rank=30,
)
CASES = (PLAIN, DRAFTING, FEW_WINDOWS, FEW_TOKENS)


def outcome(case, stack):
    try:
        return metrics_of(run(replace(case, stack=stack)))
    except Infeasible as error:
        return str(error)


@pytest.fixture(scope="module")
def found():
    return waterfall(PLAIN, catalog_loader.stack("day0"), catalog_loader.stack("june"))


def test_ends_are_plain_simulations(found):
    for name, value in (("day0", found.start_tokens_per_s_per_gpu), ("june", found.end_tokens_per_s_per_gpu)):
        plain = metrics_of(run(replace(PLAIN, stack=catalog_loader.stack(name))))
        assert value == plain[THROUGHPUT]
    assert found.steps[-1].total_tokens_per_s_per_gpu == found.end_tokens_per_s_per_gpu


def test_gains_multiply_to_the_whole(found):
    product = 1.0
    for step in found.steps:
        product *= 1 + step.gain
    whole = found.end_tokens_per_s_per_gpu / found.start_tokens_per_s_per_gpu
    assert product == pytest.approx(whole)


@pytest.mark.parametrize("switch", get_args(Switch))
def test_every_switch_changes_a_prediction_or_is_said_not_to(switch):
    full = catalog_loader.stack("v0523")
    off = full.toggled(off=(switch,))
    changed = any(outcome(case, full) != outcome(case, off) for case in CASES)
    assert changed != (switch in NOT_MODELLED)


def test_a_later_stack_adds_nothing_to_itself():
    june = catalog_loader.stack("june")
    with pytest.raises(BadInput, match=r"no switch that 'june' lacks; choose an earlier --from"):
        waterfall(PLAIN, june, june)


def test_the_chart_is_written_as_png_and_svg(found):
    files = waterfall_picture(found)
    assert files["waterfall.png"][:4] == b"\x89PNG" and b"<svg" in files["waterfall.svg"]


def test_the_command_prints_every_switch():
    args = ["waterfall", "--recipe", "disagg-mid-curve-1p1d-dep4-dep8-mtp", "--concurrency", "8", "--json"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0
    switches = [step["switch"] for step in json.loads(result.stdout)["steps"]]
    assert switches == list(catalog_loader.stack("june").switches)
