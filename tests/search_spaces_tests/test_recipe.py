"""Recipes: one digest per deployment, and layouts that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from tests.search_spaces_tests.samples import AGGREGATED, DISAGGREGATED, bent


def test_two_spellings_share_a_digest() -> None:
    plain = bent(AGGREGATED)
    spelled_out = bent(
        AGGREGATED,
        name="another name",
        source="somewhere",
        concurrencies=(1, 2),
        launch={"container": "image"},
        aggregated__attention_dp=1,
        aggregated__swa_full_tokens_ratio=0.1,
        aggregated__extra_flags={"watchdog-timeout": 86400},
        aggregated__extra_env={"PYTHONUNBUFFERED": "1"},
    )
    assert plain.digest == spelled_out.digest
    assert len(plain.digest) == 16


def test_router_arguments_for_export_do_not_change_the_digest() -> None:
    assert bent(AGGREGATED, frontend={"args": {"router-mode": "kv"}}).digest == bent(AGGREGATED).digest


@pytest.mark.parametrize(
    "change",
    [
        {"aggregated__mem_fraction_static": 0.89},
        {"aggregated__mtp": {"num_steps": 1}},
        {"aggregated__num_workers": 2},
        {"hardware": "b300"},
        {"frontend": {"kind": "dynamo"}},
    ],
    ids=str,
)
def test_what_decides_performance_changes_the_digest(change: dict[str, Any]) -> None:
    assert bent(AGGREGATED, **change).digest != bent(AGGREGATED).digest


def test_a_recipe_survives_a_round_trip() -> None:
    recipe = bent(DISAGGREGATED, decode__mtp={"num_steps": 2})
    assert Recipe.parse(recipe.model_dump(), "again") == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()).digest == recipe.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decode__attention_dp": 3}, r"attention_dp=3 must divide tp=16; choose one of \[1, 2, 4, 8, 16\]"),
        ({"decode__moe_ep": 5}, "moe_ep=5 must divide tp=16"),
        ({"decode__moe_ep": 8}, "moe_ep=8 must equal tp=16 with the all-to-all backend megamoe"),
        ({"decode__moe_backend": "cutlass"}, "decode.moe_backend='cutlass'"),
        ({"decode__tp_size": 4}, "unknown key decode.tp_size=4"),
        ({"decode__mem_fraction_static": 1.0}, "decode.mem_fraction_static=1.0"),
        ({"decode": None}, "either `aggregated`, or both"),
        ({"aggregated": AGGREGATED["aggregated"]}, "either `aggregated`, or both"),
    ],
)
def test_refused_layouts_name_field_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        bent(DISAGGREGATED, **change)


def test_derived_sizes_and_labels() -> None:
    recipe = bent(DISAGGREGATED, decode__mtp={"num_steps": 3})
    assert recipe.num_gpus == 4 * 4 + 16
    assert recipe.topology == "4P1D-DEP4-DEP16-MTP3"
    assert recipe.serving.attention_tp == recipe.serving.moe_tp == 1
    assert recipe.serving.draft_tokens == 4
    assert not recipe.serving.local_graph_buckets
    assert bent(DISAGGREGATED, decode__dense_tp1=True).serving.local_graph_buckets
    single = bent(AGGREGATED)
    assert single.serving.label == "TP8" and single.serving.moe_tp == 8
    assert single.topology == "1xTP8" and not single.is_disaggregated


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        bent(AGGREGATED).name = "changed"  # type: ignore[misc]
