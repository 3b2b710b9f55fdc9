"""Every law is broken alone, says so with a remedy, and is mended by the smallest change."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.law_case import redundant_experts_for, release
from search_spaces.laws import RULES, Violation, check, violations
from search_spaces.recipe import Recipe
from search_spaces.role_laws import megamoe_cap
from search_spaces.workload import Workload
from tests.search_spaces_tests.law_cases import (
    CASES,
    DEEPEP_DEP8,
    MEGAMOE_DEP8,
    Case,
    wide_decode,
)
from tests.search_spaces_tests.samples import AGGREGATED, DISAGGREGATED, bent


def _violations(
    recipe: Recipe, engine: str = "0.5.15", load: dict[str, Any] | None = None
) -> list[Violation]:
    return violations(
        recipe,
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        Workload.parse(load, "test") if load else None,
        engine,
    )


@pytest.mark.parametrize(
    "base", [DISAGGREGATED, AGGREGATED, MEGAMOE_DEP8, DEEPEP_DEP8], ids=lambda b: b["name"]
)
def test_the_samples_break_nothing(base: dict[str, Any]) -> None:
    assert _violations(bent(base)) == []


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.rule)
def test_a_law_is_broken_alone_and_mended(case: Case) -> None:
    broken = _violations(bent(case.base, **case.breaks), case.engine, case.load)
    assert (case.rule, case.severity) in {(v.rule, v.severity) for v in broken}
    assert {v.rule for v in broken} == {case.rule, *case.along}
    mended = _violations(bent(case.base, **(case.breaks | case.mends)), case.engine, case.load)
    assert mended == []


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.rule)
def test_messages_name_field_value_and_remedy(case: Case) -> None:
    for broken in _violations(bent(case.base, **case.breaks), case.engine, case.load):
        assert broken.rule in RULES
        assert "=" in broken.message or "required" in broken.message
        assert any(
            word in broken.message.rsplit(";", 1)[-1] for word in ("set ", "choose ", "remove ", "use ")
        )


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == set(RULES)


def test_the_redundant_experts_message() -> None:
    broken = _violations(bent(DISAGGREGATED, **wide_decode(40)))
    assert broken[0].message == (
        "decode.moe_ep=40 needs (routed_experts + redundant_experts) % moe_ep == 0, got 384+0; "
        "set redundant_experts=16"
    )


@pytest.mark.parametrize(("moe_ep", "redundant"), [(8, 0), (32, 0), (40, 16), (72, 48), (5, 1)])
def test_redundant_experts(moe_ep: int, redundant: int) -> None:
    assert redundant_experts_for(384, moe_ep) == redundant
    assert (384 + redundant) % moe_ep == 0


def test_the_default_graph_batch_is_no_fault_of_few_slots() -> None:
    single = {k: v for k, v in AGGREGATED["aggregated"].items() if k != "graph_max_batch_per_rank"}
    assert _violations(bent(AGGREGATED, aggregated=single, aggregated__max_running_per_rank=8)) == []


def test_a_worker_over_the_network_is_only_slow_without_megamoe() -> None:
    broken = _violations(bent(AGGREGATED, aggregated__tp=16))
    assert [(v.rule, v.severity) for v in broken] == [("nvlink-domain", "soft")]


def test_waterfill_takes_megamoe_from_the_new_release_on() -> None:
    hopper = {"hardware": "h200", "aggregated__moe_activation": "fp8", "aggregated__expert_weights": "fp8"}
    recipe = bent(MEGAMOE_DEP8, aggregated__waterfill=True, **hopper)
    assert _violations(recipe, "0.5.23") == []
    assert "waterfill-backend" in {v.rule for v in _violations(recipe)}


def test_redundant_experts_that_only_fill_up_the_ranks_are_no_fault() -> None:
    assert _violations(bent(DISAGGREGATED, **wide_decode(40), decode__redundant_experts=16)) == []


def test_the_default_cap_depends_on_the_release() -> None:
    group = bent(DISAGGREGATED, prefill__megamoe_cap_tokens=None).prefill
    assert group is not None
    assert megamoe_cap(group, "0.5.15") == 1024
    assert megamoe_cap(group, "0.5.23") == 8192


def test_published_decode_only_drafting_runs_until_0_5_22() -> None:
    recipe = bent(DISAGGREGATED, decode__mtp={"num_steps": 1}, decode__megamoe_cap_tokens=4096)
    assert _violations(recipe) == []


def test_check_lists_every_hard_violation_and_lets_soft_ones_pass() -> None:
    model, hardware = catalog_loader.model("deepseek-v4-pro"), catalog_loader.hardware("gb300")
    check(bent(DISAGGREGATED, prefill__num_workers=15), model, hardware)
    twice = bent(DISAGGREGATED, transfer_backend=None, prefill__megamoe_cap_tokens=1)
    with pytest.raises(BadInput) as caught:
        check(twice, model, hardware)
    assert "[megamoe-cap-prefill]" in str(caught.value) and "[transfer-backend]" in str(caught.value)


def test_releases_order_as_numbers() -> None:
    assert release("0.5.9") < release("v0.5.14-cu130") < release("0.5.23")
    with pytest.raises(BadInput, match="'nightly'"):
        release("nightly")
