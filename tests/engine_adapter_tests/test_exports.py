"""Every export format passes the same suite: what is written reads back as the same deployment."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from engine_adapter.exports import FORMATS, export
from engine_adapter.recipe_files import load_recipe, load_text
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.public_recipes import lane, recipe_lanes
from search_spaces.recipe import Frontend
from search_spaces.workload import Workload
from tests.engine_adapter_tests.paths import MTP, NO_MTP

SAMPLE = [recipes[0] for recipes in recipe_lanes().values()]


def inferencex_takes(recipe):
    """Whether InferenceX has a row for a recipe: it names loads, and one server stays on its node."""
    per_node = catalog_loader.hardware(recipe.hardware).gpus_per_node
    return bool(recipe.concurrencies) and (recipe.is_disaggregated or recipe.num_gpus <= per_node)


@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
@pytest.mark.parametrize("fmt", sorted(FORMATS))
def test_every_lane_exports_in_every_format(fmt, version):
    """`export` itself reads back and compares; a mismatch raises."""
    for recipe in SAMPLE:
        if fmt == "inferencex" and not inferencex_takes(recipe):
            continue
        files = export(recipe, fmt, version)
        assert files and all(text.strip() for text in files.values())


def test_srt_slurm_reads_back_to_the_same_digest_and_workload():
    recipe = load_recipe(NO_MTP).recipe
    workload = Workload(isl=8192, osl=1024, concurrency=2500, num_prompts=5000)
    (text,) = export(recipe, "srt-slurm", "0.5.15", workload).values()
    again = load_text(text, "x.yaml")[0]
    assert again.recipe.digest == recipe.digest and again.recipe.concurrencies == (2500,)
    assert again.workload == workload
    data = yaml.safe_load(text)
    assert data["resources"]["decode_nodes"] == 8 and data["dynamo"]["hash"]
    environment = data["backend"]["decode_environment"]
    assert all(isinstance(value, str) for value in environment.values())
    assert data["benchmark"]["concurrencies"] == [2500] and data["benchmark"]["num_prompts_mult"] == 2


def test_uneven_request_counts_have_no_srt_slurm_form():
    workload = Workload(isl=8192, osl=1024, concurrency=100, num_prompts=150)
    with pytest.raises(BadInput, match="multiples of the"):
        export(load_recipe(NO_MTP).recipe, "srt-slurm", workload=workload)


def test_scripts_for_workers_wider_than_a_node():
    files = export(load_recipe(NO_MTP).recipe, "sglang")
    assert sorted(files) == sorted(["prefill.sh", "router.sh", *(f"decode_node{i}.sh" for i in range(8))])
    assert "--nnodes 8 --node-rank 3 --dist-init-addr" in files["decode_node3.sh"]
    assert files["router.sh"].count("--prefill ") == 10 and files["router.sh"].count("--decode ") == 1
    assert "--disaggregation-mode prefill" in files["prefill.sh"]


def test_narrow_workers_share_a_node():
    files = export(lane("b300-disagg-nomtp")[1], "sglang")
    assert (
        "SLOT=$((WORKER % 2))" in files["prefill.sh"] and '--base-gpu-id "$BASE_GPU"' in files["prefill.sh"]
    )


def test_release_spellings():
    recipe = load_recipe(MTP).recipe
    old, new = export(recipe, "sglang", "0.5.15"), export(recipe, "sglang", "0.5.23")
    assert "USE_FP4_ACTS=1" in old["prefill.sh"] and "USE_FP4_ACTS" not in new["prefill.sh"]
    assert "--enable-w4a4-mxfp4-megamoe" in new["prefill.sh"]
    for text in (*old.values(), *new.values()):
        assert "--cuda-graph-max-bs " not in text


def test_a_recipe_without_router_gets_one_in_srt_slurm():
    recipe = next(r for r in SAMPLE if r.frontend.kind == "none")
    (text,) = export(recipe, "srt-slurm").values()
    expected = recipe.model_copy(update={"frontend": Frontend(kind="sglang_router")})
    assert load_text(text, "x.yaml")[0].recipe.digest == expected.digest


def test_what_a_format_cannot_state_is_refused():
    recipe: Any = load_recipe(NO_MTP).recipe
    with pytest.raises(BadInput, match="choose one of"):
        export(recipe, "helm")
    late = recipe.model_copy(
        update={"prefill": recipe.prefill.model_copy(update={"prefill_decode_interval": 10})}
    )
    with pytest.raises(BadInput, match=r"0\.5\.16"):
        export(late, "sglang", "0.5.15")
    small = recipe.prefill.model_copy(update={"megamoe_cap_tokens": 4096})
    with pytest.raises(BadInput, match="chunk per rank"):
        export(recipe.model_copy(update={"prefill": small}), "sglang", "0.5.23")
