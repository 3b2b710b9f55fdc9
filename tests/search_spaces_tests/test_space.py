"""Search spaces as data: formulas, conditions, points, exact counts and public recipes inside."""

from __future__ import annotations

from itertools import product

import pytest

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.formula import parse_formula
from search_spaces.law_case import RoleCase
from search_spaces.law_reads import fields_read
from search_spaces.laws import violations
from search_spaces.public_recipes import lane
from search_spaces.recipe import EngineGroup
from search_spaces.role_laws import ROLE_LAWS
from search_spaces.space import SearchSpace, load_spaces, spaces_in
from search_spaces.space_count import count
from search_spaces.space_points import Site, check_computes, gpus, locate, recipe_at, topologies
from search_spaces.workload import Workload

MODEL = catalog_loader.model("deepseek-v4-pro")
GB300 = catalog_loader.hardware("gb300")
SITE = Site(MODEL, GB300, Workload(isl=8192, osl=1024, concurrency=512))


def space(**changes):
    data = {
        "name": "s",
        "mode": "disaggregated",
        "mtp_steps": [0, 3],
        "prefill": {
            "plans": ["DEP4", "TP4"],
            "workers": [1, 4],
            "knobs": {"megamoe_cap_tokens": ["=practice", "=4096 if moe_backend == 'megamoe' else None"]},
        },
        "decode": {
            "plans": ["DEP8", "DEP16"],
            "workers": [1],
            "knobs": {
                "max_running_per_rank": ["=max(8, ceil(share * 1.25))", "=max(8, share)", 64, 2048],
                "graph_max_batch_per_rank": ["=practice", 64, 1024],
                "megamoe_cap_tokens": ["=practice", 2048],
                "online_compress": ["=practice", False],
                "swa_full_tokens_ratio": [0.1, 0.15],
                "context_length": [
                    {"when": "drafting", "choices": [16384, 4096]},
                    {"choices": ["=isl + osl"]},
                ],
            },
        },
        "deployment": {"policy": ["round_robin", "load"]},
    }
    return SearchSpace.parse({**data, **changes}, "test")


def every_point(found):
    knobs = found.knobs()
    for values in product(*knobs.values()):
        yield dict(zip(knobs, values, strict=True))


@pytest.mark.parametrize("num_gpus", [16, 24, 72])
@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
def test_counts_equal_those_of_listing_every_point(num_gpus, version):
    found = space()
    recipes = {}
    for point in every_point(found):
        recipe = recipe_at(found, point, *SITE)
        recipes[recipe.digest] = (recipe, gpus(found, point))
    within = [r for r, used in recipes.values() if used <= num_gpus]
    broken = [{v.rule for v in violations(r, *SITE, version) if v.severity == "hard"} for r in within]
    counted = count(found, SITE, num_gpus, version)
    assert counted.recipes == len(recipes)
    assert counted.recipes - counted.recipes_over_gpus == len(within)
    assert counted.lawful == sum(not rules for rules in broken)
    assert counted.broken == {
        rule: sum(rule in rules for rules in broken) for rule in {r for rules in broken for r in rules}
    }
    assert counted.layouts == 2 * 4 * 2 and sum(counted.by_choice["decode.plan"].values()) == counted.lawful
    assert len(broken) > counted.lawful > 0


def test_a_case_holds_where_its_condition_does():
    found = space()
    point = {**topologies(found, 72)[0], "decode.context_length@0": 4096}
    for steps, length in ((0, 9216), (3, 4096)):
        recipe = recipe_at(found, {**point, "mtp_steps": steps}, *SITE)
        assert recipe.serving.context_length == length


@pytest.mark.parametrize("hardware", sorted(catalog_loader.all_hardware()))
def test_every_public_recipe_is_a_point_of_its_shipped_space(hardware):
    names = {s.models[0] for s in load_spaces(hardware)}
    assert names == {"deepseek-ai/DeepSeek-V4-Pro", "deepseek-ai/DeepSeek-V4-Flash"}
    seen = 0
    for name in catalog_lanes(hardware):
        for recipe in lane(name):
            model = catalog_loader.model(recipe.model)
            (home,) = (
                s
                for s in load_spaces(hardware, model.name)
                if (s.mode == "disaggregated") == recipe.is_disaggregated
            )
            for load in recipe.concurrencies or (64,):
                lengths = {k: int(recipe.launch.get(k, d)) for k, d in (("isl", 8192), ("osl", 1024))}
                site = Site(model, catalog_loader.hardware(hardware), Workload(concurrency=load, **lengths))
                point, lacking = locate(home, recipe, site)
                assert not lacking, f"{name}: {recipe.name} at {load}: {'; '.join(map(str, lacking))}"
                assert recipe_at(home, point, *site).digest == recipe.digest
                seen += 1
    assert seen


def catalog_lanes(hardware):
    from search_spaces.public_recipes import recipe_lanes

    return [name for name in recipe_lanes() if name.startswith(f"{hardware}-")]


def test_a_missing_value_is_named_with_what_is_offered():
    recipe = lane("gb300-disagg-mtp")[0]
    (home,) = (s for s in load_spaces("gb300", recipe.model) if s.mode == "disaggregated")
    decode = home.role("decode")
    knobs = {k: v for k, v in decode.knobs.items() if k != "swa_full_tokens_ratio"}
    poorer = home.model_copy(update={"name": "poor", "decode": decode.model_copy(update={"knobs": knobs})})
    site = Site(MODEL, GB300, Workload(isl=8192, osl=1024, concurrency=recipe.concurrencies[0]))
    assert not locate(home, recipe, site)[1]
    assert recipe.decode is not None
    odd = recipe.model_copy(
        update={"decode": recipe.decode.model_copy(update={"swa_full_tokens_ratio": 0.7})}
    )
    assert [str(m) for m in locate(poorer, odd, site)[1]] == [
        "decode.swa_full_tokens_ratio=0.7 (offered: 0.1)"
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prefill": {"plans": ["XP4"], "workers": [1]}}, "plan='XP4' is not TPn, DEPn or DPAn"),
        ({"prefill": {"plans": ["TP4"], "workers": [0]}}, "workers=0 must be at least 1"),
        ({"prefill": {"plans": ["TP4"], "workers": [1], "knobs": {"tp": [4]}}}, "knobs.tp is no knob"),
        ({"prefill": {"plans": ["TP4"], "workers": [1], "knobs": {"swa": [4]}}}, "knobs.swa is no knob"),
        ({"decode": None}, "decode is required for mode=disaggregated"),
        ({"aggregated": {"plans": ["TP4"], "workers": [1]}}, "aggregated has no place"),
        ({"deployment": {"policies": ["load"]}}, "deployment.policies is unknown"),
        (
            {"prefill": {"plans": ["TP4"], "workers": [1], "knobs": {"dense_tp1": ["=colour"]}}},
            "'=colour' uses colour, which is not known there",
        ),
        (
            {"prefill": {"plans": ["TP4"], "workers": [1], "knobs": {"dense_tp1": ["=__import__('os')"]}}},
            "calls an unknown function",
        ),
        (
            {"prefill": {"plans": ["TP4"], "workers": [1], "knobs": {"dense_tp1": [True, True]}}},
            "repeat a value",
        ),
        (
            {
                "prefill": {
                    "plans": ["TP4"],
                    "workers": [1],
                    "knobs": {"dense_tp1": [{"when": "dep", "choices": [True]}]},
                }
            },
            "the last case has a condition",
        ),
    ],
)
def test_wrong_spaces_name_field_value_and_remedy(change, words):
    with pytest.raises(BadInput, match="test: ") as caught:
        space(**change)
    assert words in str(caught.value)


def test_a_value_that_no_recipe_may_have_is_found_at_its_layout():
    bad = {"plans": ["DEP8"], "workers": [1], "knobs": {"mem_fraction_static": [1.5]}}
    with pytest.raises(BadInput, match=r"decode.plan=DEP8.*mem_fraction_static=1.5"):
        check_computes(space(decode=bad), SITE)
    zero = {"plans": ["DEP8"], "workers": [1], "knobs": {"max_running_per_rank": ["=1 / (share - share)"]}}
    with pytest.raises(BadInput, match="division by zero"):
        check_computes(space(decode=zero), SITE)


def test_files_are_lists_of_spaces_or_one():
    one = space().model_dump(mode="json", exclude_defaults=True)
    assert spaces_in(one, "f") == spaces_in({"spaces": [one]}, "f") == (space(),)
    for data, words in (
        ([], "expected a mapping"),
        ({}, "spaces must be a list"),
        ({"spaces": [one, one]}, "two spaces are named"),
        ({"spaces": [one], "extra": 1}, "unknown key extra"),
    ):
        with pytest.raises(BadInput, match=words):
            spaces_in(data, "f")


@pytest.mark.parametrize(
    "text", ["x.y", "[1 for x in y]", "lambda: 1", "x := 1", "open('f')", "f'{x}'", "x[0]", "min(a=1)"]
)
def test_formulas_reach_nothing_of_python(text):
    with pytest.raises(BadInput):
        parse_formula(text)


def test_a_law_looks_at_no_field_but_those_read_off_its_code():
    group = lane("gb300-disagg-mtp")[0].serving

    class Spy(EngineGroup):
        def __getattribute__(self, name: str):
            if name in EngineGroup.model_fields:
                seen.add(name)
            return super().__getattribute__(name)

    for law in ROLE_LAWS:
        for role, version in product(("prefill", "decode", "aggregated"), ("0.5.15", "0.5.23")):
            seen: set[str] = set()
            spied = Spy.model_construct(**dict(group))
            seen.clear()
            release = tuple(map(int, version.split(".")))
            list(law(RoleCase(role, spied, MODEL, GB300, SITE.workload, release, version)))
            assert seen <= fields_read(law)
