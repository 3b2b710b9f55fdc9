"""Importers: srt-slurm, override and zip files, shell commands, Servecast YAML, bad files."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from engine_adapter.overrides import deep_merge, expand, zip_variants
from engine_adapter.recipe_files import load_all, load_recipe, load_recipes, recipe_to_yaml, recipes_to_yaml
from search_spaces.errors import BadInput
from search_spaces.public_recipes import recipe_lanes
from tests.engine_adapter_tests.paths import MTP, NO_MTP


def test_public_recipe_by_hand():
    """The published 10p1d file, field by field."""
    loaded: Any = load_recipe(NO_MTP)
    recipe, decode = loaded.recipe, loaded.recipe.decode
    assert (recipe.topology, recipe.num_gpus) == ("10P1D-DEP4-DEP32", 72)
    assert (recipe.hardware, recipe.transfer_backend) == ("gb300", "mooncake")
    assert (recipe.frontend.kind, recipe.frontend.router_processes) == ("dynamo", 9)
    assert recipe.frontend.policy == "load" and recipe.concurrencies == (2500,)
    assert (decode.max_running_per_rank, decode.graph_max_batch_per_rank) == (576, 1280)
    assert (decode.swa_full_tokens_ratio, decode.context_length) == (0.2, 9216)
    assert (decode.megamoe_cap_tokens, decode.clip_max_new_tokens) == (1280, 8)
    assert decode.local_graph_buckets and decode.online_compress and decode.moe_activation == "fp4"
    assert recipe.prefill.chunk_tokens_per_rank == 8192 and recipe.prefill.num_workers == 10
    assert (loaded.workload.isl, loaded.workload.osl, loaded.workload.prompts) == (8192, 1024, "random")


def test_mtp_recipe_drafts_on_the_decode_side_alone():
    loaded: Any = load_recipe(MTP)
    recipe = loaded.recipe
    assert recipe.topology == "4P1D-DEP4-DEP8-MTP3" and recipe.prefill.mtp is None
    assert loaded.workload.prompts == "chat"
    assert not recipe.decode.local_graph_buckets


def test_file_and_catalog_are_one_recipe():
    public = {r.digest for recipes in recipe_lanes().values() for r in recipes}
    assert {load_recipe(NO_MTP).recipe.digest, load_recipe(MTP).recipe.digest} <= public


def test_merge_rules():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 3, "e": 4}
    assert deep_merge(base, {"a": {"c": [9]}, "d": None, "e": {"x": None, "y": 1}}) == {
        "a": {"b": 1, "c": [9]},
        "e": {"y": 1},
    }


def test_zip_axes_advance_together_and_ones_broadcast():
    variants = zip_variants({"a": [1, 2], "b": {"c": ["x"], "d": 5, "e": [[10], [20]]}}, "f")
    assert variants == [
        {"a": 1, "b": {"c": "x", "d": 5, "e": [10]}},
        {"a": 2, "b": {"c": "x", "d": 5, "e": [20]}},
    ]
    with pytest.raises(BadInput, match="unequal lengths"):
        zip_variants({"a": [1, 2], "b": [1, 2, 3]}, "f")


def test_variant_names():
    data = {"base": {"name": "n"}, "override_x": {"k": 1}, "zip_override_y": {"k": [1, 2]},
            "zip_override_z": {"name": ["p", "q"], "k": [1, 2]}}  # fmt: skip
    names = {key: variant["name"] for key, variant in expand(data, "f").items()}
    assert names == {
        "base": "n", "override_x": "n_x", "zip_override_y[0]": "n_y_0", "zip_override_y[1]": "n_y_1",
        "zip_override_z[0]": "p", "zip_override_z[1]": "q",
    }  # fmt: skip


@pytest.fixture
def override_file(tmp_path):
    base = yaml.safe_load(NO_MTP.read_text())
    wide = {
        "tensor-parallel-size": [32, 24],
        "data-parallel-size": [32, 24],
        "expert-parallel-size": [32, 24],
    }
    data = {
        "base": base,
        "override_small": {"resources": {"prefill_workers": 2, "prefill_nodes": 2}, "dynamo": None},
        "zip_override_pd": {
            "name": ["c2500", "c3000"],
            "resources": {"prefill_nodes": [10, 12], "prefill_workers": [10, 12],
                          "decode_nodes": [8, 6], "gpus_per_decode": [32, 24]},
            "backend": {"sglang_config": {"decode": wide}},
            "benchmark": {"concurrencies": [[2500], [3000]]},
        },
    }  # fmt: skip
    path = tmp_path / "many.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_selectors(override_file):
    topologies = [loaded.recipe.topology for loaded in load_all(override_file)]
    assert topologies == ["2P1D-DEP4-DEP32", "10P1D-DEP4-DEP32", "12P1D-DEP4-DEP24"]
    picked = load_recipe(f"{override_file}:zip_override_pd[1]")
    assert picked.recipe.concurrencies == (3000,) and picked.selector == "zip_override_pd[1]"
    assert len(load_recipes(override_file, "zip_override_pd")) == 2
    assert len(load_recipes(override_file, "*override_*")) == 3
    assert load_recipe(f"{override_file}:base").recipe.digest == load_recipe(NO_MTP).recipe.digest
    assert load_recipe(override_file, "zip_override_pd[0]").recipe.digest == load_recipe(NO_MTP).recipe.digest
    with pytest.raises(BadInput, match="names no variant"):
        load_recipe(f"{override_file}:override_big")
    with pytest.raises(BadInput, match="holds 3 recipes"):
        load_recipe(override_file)


def changed(tmp_path, *path_and_value):
    *path, key, value = path_and_value
    data = yaml.safe_load(NO_MTP.read_text())
    node = data
    for part in path:
        node = node[part]
    node[key] = value
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("nodes", 3), "unknown key nodes"),
        (("resources", "gpus", 3), "unknown key resources.gpus"),
        (("backend", "engine", "x"), "unknown key backend.engine"),
        (("frontend", "kind", "x"), "unknown key frontend.kind"),
        (("benchmark", "osll", 1), "unknown key benchmark.osll"),
        (("backend", "decode_environment", "NCCL_CUMEM_ENABLE", 1), "must be a string"),
        (("benchmark", "concurrencies", 2500), "list of whole numbers"),
        (("benchmark", "concurrencies", "1,2500"), "list of whole numbers"),
        (("backend", "type", "vllm"), "not modelled"),
        (("resources", "gpu_type", "mi355x"), "no platform"),
        (("resources", "gpus_per_decode", 16), "must equal"),
        (("resources", "decode_nodes", 4), "raise it to 8"),
        (("resources", "prefill_workers", 0), "at least 1"),
        (("model", "path", "deepseek-r1"), None),
        (("sweep", {"a": [1]}), "sweep"),
        (("backend", "sglang_config", "decode", None), "prefill and decode"),
        (("backend", "sglang_config", "decode", "disaggregation-transfer-backend", "nixl"), "equal on both"),
        (("frontend", "num_additional_frontends", -1), "0 or more"),
    ],
)
def test_bad_srt_slurm_files(tmp_path, change, words):
    path = changed(tmp_path, *change)
    if words is None:  # the served name still tells the model
        assert load_recipe(path).recipe.model.endswith("DeepSeek-V4-Pro")
        return
    with pytest.raises(BadInput, match=words):
        load_recipe(path)


def test_unreadable_files(tmp_path):
    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    cases = {
        tmp_path / "absent.yaml": "no such file",
        tmp_path: "is a directory",
        write("b.yaml", b"\x7fELF\x00\x01"): "binary",
        write("l.yaml", b"name: \xff\xfe"): "UTF-8",
        write("t.yaml", NO_MTP.read_bytes()[:700] + b"\n  'open"): "not valid YAML at line",
        write("e.yaml", b""): "empty",
        write("list.yaml", b"- 1"): "expected a mapping",
        write("odd.yaml", b"a: 1"): "are no recipe",
        write("n.sh", b"# hardware: gb300\necho hi"): "no `python -m sglang",
    }
    for path, words in cases.items():
        with pytest.raises(BadInput, match=words):
            load_all(path)


def test_servecast_form_round_trips(tmp_path):
    recipes = [load_recipe(NO_MTP).recipe, load_recipe(MTP).recipe]
    for recipe in recipes:
        path = tmp_path / "one.yaml"
        path.write_text(recipe_to_yaml(recipe))
        assert load_recipe(path).recipe == recipe
    many = tmp_path / "many.yaml"
    many.write_text(recipes_to_yaml(recipes))
    assert load_recipes(many) == recipes
    assert load_recipe(many, recipes[1].name).recipe == recipes[1]


COMMANDS = r"""
TP=8
export SGLANG_RADIX_FORCE_MISS=1
# prefill
SGLANG_OPT_DEEPGEMM_MEGA_MOE_NUM_MAX_TOKENS_PER_RANK=9216 python3 -m sglang.launch_server \
  --model-path deepseek-ai/DeepSeek-V4-Pro --tp 4 --dp 4 --enable-dp-attention \
  --moe-a2a-backend megamoe --chunked-prefill-size=32768 --disaggregation-mode prefill &
sglang serve deepseek-ai/DeepSeek-V4-Pro --tp $TP --moe-runner-backend flashinfer_mxfp4 \
  --disaggregation-mode decode --mem-fraction-static ${MEM:-0.9}
"""


def test_two_commands_make_a_disaggregated_recipe(tmp_path):
    path = tmp_path / "run.sh"
    path.write_text(COMMANDS)
    recipe: Any = load_recipe(path, hardware="gb300").recipe
    assert recipe.topology == "1P1D-DEP4-TP8" and recipe.decode.mem_fraction_static == 0.9
    assert recipe.prefill.megamoe_cap_tokens == 9216 and not recipe.prefill.radix_cache
    assert recipe.decode.megamoe_cap_tokens is None and recipe.frontend.kind == "none"
    with pytest.raises(BadInput, match="do not name a GPU"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (COMMANDS + "sglang serve M --tp 2 --disaggregation-mode decode", "two different decode"),
        (COMMANDS.split("sglang serve")[0], "prefill and decode"),
        ("python -m sglang.launch_server --model-path 'x", "unbalanced quotes"),
        ("sglang serve deepseek-ai/DeepSeek-V4-Pro --tp 4 --enable-mixed-chunk yes", "takes no value"),
        ("sglang serve meta/llama --tp 4", "no DeepSeek-V4"),
    ],
)
def test_bad_commands(tmp_path, text, words):
    path = tmp_path / "bad.sh"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        load_recipe(path, hardware="gb300")
