"""Drafts and sampling: the model's parts of an iteration beside those measured on two H200."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest

from search_spaces import catalog_loader
from search_spaces.recipe import EngineGroup, Mtp, Recipe
from simulator import draft_costs
from simulator.calibration import load_calibration
from simulator.step_cost import Scenario, decode_cost, head_cost, mtp_layer_cost

CONTEXT = 1000.0


def scenario(**changes):
    """The measured server: V4-Flash's widths, two GPUs, attention DP 2, experts in fp8, uniform routing."""
    group = {
        "num_workers": 1, "tp": 2, "attention_dp": 2, "moe_backend": "triton", "expert_weights": "fp8",
        "dp_lm_head": True, "mem_fraction_static": 0.8, "max_running_per_rank": 64,
        "graph_max_batch_per_rank": 64, "chunk_tokens_per_rank": 8192, "mtp": {"num_steps": 3},
    }  # fmt: skip
    recipe = Recipe.parse(
        {"name": "t", "model": "deepseek-ai/DeepSeek-V4-Flash", "hardware": "h200", "aggregated": group}, "t"
    )
    assert recipe.aggregated is not None
    as_measured = {"decode_slowdown": 1.0, "decode_routing_alpha": 0.0}
    return Scenario(
        catalog_loader.model(recipe.model), catalog_loader.hardware("h200"), recipe.aggregated,
        catalog_loader.stack("june"), load_calibration().model_copy(update=as_measured),
    )  # fmt: skip


def measured(batch):
    """Parts of an iteration of the server with 24 layers, in seconds."""
    file = resources.files("profiler") / "data" / "h200x2-flash-eagle-parts.json"
    for row in json.loads(file.read_text())["iterations"]:
        if (row["layers"], row["drafts"], row["batch_per_rank"]) == (24, 3, batch):
            return {part: ms / 1e3 for part, ms in row["by_rank"][0].items()}
    raise AssertionError(batch)


def seconds(cost):
    return float(np.ravel(cost.gpu_s)[0])


@pytest.mark.parametrize("batch", [8, 16, 32, 64])
def test_parts_of_an_iteration_are_those_measured(batch):
    scn, seen = scenario(), measured(batch)
    mtp = scn.group.mtp
    draft = seconds(mtp_layer_cost(scn, batch, CONTEXT, False, batch))
    extend = seconds(mtp_layer_cost(scn, 4 * batch, CONTEXT, False, 4 * batch))
    metadata = draft_costs.iteration_s(mtp) - draft_costs.ITERATION_S
    assert 2 * draft + metadata == pytest.approx(seen["draft_graph_ms"], rel=0.10)
    assert extend + draft_costs.ITERATION_S == pytest.approx(seen["extend_ms"] + seen["sample_ms"], rel=0.15)


def test_drafts_add_their_passes_and_what_belongs_to_none():
    scn, batch = scenario(), 32.0
    parts = decode_cost(scn, batch, CONTEXT)
    passes = 2 * seconds(mtp_layer_cost(scn, batch, CONTEXT, False, batch))
    passes += seconds(mtp_layer_cost(scn, 4 * batch, CONTEXT, False, 4 * batch))
    assert float(np.ravel(parts.seconds["draft"])[0]) == pytest.approx(
        passes + draft_costs.iteration_s(Mtp(num_steps=3))
    )


def test_one_draft_step_needs_no_metadata_of_its_own():
    one, two = (draft_costs.iteration_s(Mtp(num_steps=steps)) for steps in (1, 2))
    assert one == draft_costs.ITERATION_S
    assert two == pytest.approx(one + 2 * draft_costs.DRAFT_METADATA_S)


@pytest.mark.parametrize(("rows", "argmax_us"), [(32, 28), (64, 39), (128, 46), (256, 54)])
def test_sampling_is_that_of_the_traces(rows, argmax_us):
    scn = scenario()
    found = float(draft_costs.sampling_s(scn.model, scn.hardware, rows))
    assert found == pytest.approx(rows * 0.38e-6 + argmax_us * 1e-6, rel=0.12)


def test_sampling_takes_the_rows_of_a_rank_however_the_head_is_shared():
    own, shared = scenario(), scenario()
    group = EngineGroup.model_validate({**shared.group.model_dump(), "dp_lm_head": False})
    shared = Scenario(shared.model, shared.hardware, group, shared.stack, shared.calibration)
    rows = np.asarray(64.0)
    assert head_cost(own, rows).seconds["sampling"] == head_cost(shared, rows).seconds["sampling"]
    assert head_cost(shared, rows).seconds["head"] != head_cost(own, rows).seconds["head"]
