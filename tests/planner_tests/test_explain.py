"""`servecast explain`: published numbers, sums, overrides, and what runs out first."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from planner.explanation import Explanation, RoleExplanation, explain
from planner.explanation_text import POOL_NAMES, graph_text
from planner.recipe_source import LoadOptions, find_recipe, named_recipes, stack_for, workload_for
from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.recipe import Recipe
from search_spaces.units import gb
from simulator.calibration import load_calibration
from tests.planner_tests.samples import MEGAMOE, SINGLE, recipe_file, servecast

PUBLIC = "disagg-gb300-10p1d-dep4-dep32-18-c2500"
MTP = {"num_steps": 3}
MANY = {"max_running_per_rank": 8192, "graph_max_batch_per_rank": 8192, "online_compress": True}


def explained(recipe: Recipe, stack: str = "june", **load: Any) -> Explanation:
    loaded = workload_for(find_recipe(PUBLIC), LoadOptions(**load))
    model, hardware = catalog_loader.model(recipe.model), catalog_loader.hardware(recipe.hardware)
    return explain(recipe, model, hardware, catalog_loader.stack(stack), loaded, load_calibration())


def dep8(stack: str = "june", **group: Any) -> RoleExplanation:
    """The decode role of a GB300 DEP8 pair, with fields of its group changed."""
    decode = MEGAMOE | {"moe_activation": "fp4"} | group
    data = SINGLE | {
        "hardware": "gb300",
        "prefill": MEGAMOE,
        "decode": decode,
        "transfer_backend": "mooncake",
    }
    return explained(Recipe.model_validate(data | {"aggregated": None}), stack).roles[1]


def runs(role: RoleExplanation, field: str) -> list[str]:
    return [override.runs for override in role.overrides if override.field == field]


def limit(role: RoleExplanation, resource: str) -> int:
    return next(found.batch for found in role.batch_limits if found.resource == resource)


def test_a_published_decode_worker():
    # SGLang 0.5.15 sources: 16476 bytes a token at ratio .2, 54.4 GB of weights, graphs clipped to slots,
    # KV limit F/9216 at 8K/1K; 57.4 MB ship for an aligned prompt, 0.19 MB more for another.
    recipe = find_recipe(PUBLIC).recipe
    prefill, decode = explained(recipe).roles
    limits = decode.limits
    assert limits.bytes_per_full_token == pytest.approx(16_476, abs=0.51)
    assert gb(sum(decode.memory.weights_bytes.values())) == pytest.approx(54.4, abs=0.06)
    assert limits.swa_tokens == limits.full_tokens // 5 // 256 * 256
    assert (limits.graph_buckets[-1], limits.longest_request_tokens) == (576, 9215)
    assert limit(decode, "full pool") == limits.full_tokens // 9216
    aligned, other = prefill.limits.shipped_bytes.values()
    assert gb(aligned) == pytest.approx(0.0574, abs=6e-5)
    assert other - aligned == prefill.limits.slot_state_bytes == pytest.approx(190_000, rel=0.01)
    assert decode.requests_per_rank == 79 and decode.binds_first == "request slots"


@pytest.mark.parametrize(
    ("stack", "mtp", "expected"),
    [
        # Bytes per full token at ratios .02, .1 and .2 of DeepSeek-V4-Pro, from the SGLang sources.
        ("june", None, (6608, 10994, 16476)),
        ("june", MTP, (7107, 13126, 20649)),
        ("v0523", None, (6492, 10115, 14644)),
        ("v0523", MTP, (6794, 11257, 16835)),
    ],
)
def test_bytes_per_token_are_the_sum_of_the_pools(stack, mtp, expected):
    for ratio, wanted in zip((0.02, 0.1, 0.2), expected, strict=True):
        limits = dep8(stack, mtp=mtp, swa_full_tokens_ratio=ratio).limits
        parts = limits.bytes_per_full_token_parts
        assert sum(parts.values()) == limits.bytes_per_full_token == pytest.approx(wanted, abs=0.51)
        assert ("mtp_draft" in parts) == (mtp is not None) and set(parts) <= set(POOL_NAMES)


@pytest.mark.parametrize(("mtp", "expected"), [(None, 16.25e6), (MTP, 32.5e6)])
def test_state_per_slot(mtp, expected):
    assert dep8(mtp=mtp).limits.slot_state_bytes == pytest.approx(expected, rel=2e-4)


def test_slot_state_of_many_slots_with_mtp():
    # 8192 requests over 8 ranks hold 33 GB of state on each; online compression would not change that.
    role = dep8(mtp=MTP, max_running_per_rank=1024, online_compress=True)
    assert gb(role.memory.slot_state_bytes) == pytest.approx(33.4, abs=0.05)
    assert runs(role, "online_compress") == ["the engine refuses to start"]
    assert gb(dep8(max_running_per_rank=1024, online_compress=True).memory.slot_state_bytes) < 0.2


def test_the_parts_of_every_public_recipe_add_up():
    seen = 0
    for recipe in named_recipes().values():
        try:
            roles = explained(recipe, stack_for(recipe).name).roles
        except Infeasible:
            continue
        for role in roles:
            memory, limits = role.memory, role.limits
            assert memory.total_bytes == pytest.approx(memory.hbm_bytes, abs=0.01)
            assert sum(memory.pools_bytes.values()) == pytest.approx(
                limits.full_tokens * limits.bytes_per_full_token, abs=0.01
            )
            assert min(memory.headroom_bytes, *memory.pools_bytes.values()) > 0
            seen += 1
    assert seen > len(named_recipes()) / 2


@pytest.mark.parametrize(
    ("group", "first"),
    [
        ({}, "request slots"),
        # S + 512 is 9216 tokens: the crest of two pages runs out first below ratio 512 / 9216 = .0556.
        (MANY | {"swa_full_tokens_ratio": 0.055}, "window pool at its crest"),
        (MANY | {"swa_full_tokens_ratio": 0.057}, "full pool"),
        ({"graph_max_batch_per_rank": 16}, "CUDA graph"),
    ],
)  # fmt: skip
def test_what_binds_first(group, first):
    role = dep8(**group)
    assert role.binds_first == first
    assert limit(role, first) == min(found.batch for found in role.batch_limits)
    assert role.window is not None
    assert role.window.crossover_ratio_crest == pytest.approx(512 / 9216)
    assert role.window.crossover_ratio_mean == pytest.approx(1.75 * 256 / 9216)


def test_the_crest_rises_with_accepted_drafts_and_needs_joint_eviction():
    plain, drafts, later = dep8(), dep8(mtp=MTP), dep8("v0523")
    assert plain.window and drafts.window and later.window
    assert plain.window.crest_pages == 2.0 < drafts.window.crest_pages <= 1.5 + 4 / 2
    assert later.window.crest_pages == later.window.trough_pages == 1.5
    assert all(found.resource != "window pool at its crest" for found in later.batch_limits)
    assert limit(plain, "window pool") == int(plain.limits.swa_tokens / 384)


@pytest.mark.parametrize(
    ("stack", "group", "field", "expected"),
    [
        ("june", {"graph_max_batch_per_rank": 1280}, "graph_max_batch_per_rank", "64"),
        ("june", {"swa_full_tokens_ratio": 0.8}, "swa_full_tokens_ratio", "0.1"),
        ("june", {"megamoe_cap_tokens": None}, "megamoe_cap_tokens", "1024"),
        ("v0523", {"megamoe_cap_tokens": None}, "megamoe_cap_tokens", "8192"),
        ("june", {}, "radix_cache", "false"),
        ("june", {"prefill_delayer": True}, "prefill_delayer", "false"),
        ("june", {"max_total_tokens": 1000}, "max_total_tokens", "768"),
        ("june", {"max_running_per_rank": 32}, "max_running_per_rank", "96 slots"),
        ("june", {"tp": 12, "attention_dp": 12, "moe_ep": 12, "max_running_per_rank": 21},
         "max_running_per_rank", "21 per rank, 252 per worker"),
        ("june", {"tp": 12, "attention_dp": 12, "moe_ep": 12, "chunk_tokens_per_rank": 1365},
         "chunk_tokens_per_rank", "1365 per rank, 16380 per worker"),
        ("june", {"extra_env": {"SGLANG_OPT_FIX_HASH_MEGA_MOE": "1"}}, "SGLANG_OPT_FIX_HASH_MEGA_MOE",
         "ignored"),
        ("june", {"extra_flags": {"page-size": 64}}, "page-size", "the forced value"),
    ],
)  # fmt: skip
def test_overrides(stack, group, field, expected):
    if field == "max_total_tokens":
        group |= {"swa_full_tokens_ratio": 1.0}
    assert expected in runs(dep8(stack, **group), field)


def test_overrides_that_do_not_apply_are_not_reported():
    role = dep8("v0523", swa_full_tokens_ratio=0.8, radix_cache=True, dense_tp1=True, dp_lm_head=True)
    assert [override.field for override in role.overrides] == []


@pytest.mark.parametrize("missing", ["dense_tp1", "dp_lm_head"])
def test_why_graph_buckets_are_global(missing):
    flags: dict[str, Any] = {"dense_tp1": True, "dp_lm_head": True}
    assert runs(dep8(**flags), "graph buckets") == []
    role = dep8(**(flags | {missing: False}))
    reason = next(o.reason for o in role.overrides if o.field == "graph buckets")
    assert missing in reason and "all-to-all" not in reason
    assert all(name not in reason for name in flags if name != missing)


def test_a_prompt_limit_below_the_chunk(tmp_path):
    file = recipe_file(tmp_path, {"chunk_tokens_per_rank": 32768})
    role = explained(find_recipe(str(file)).recipe).roles[0]
    assert runs(role, "chunk_tokens_per_rank") == ["batches of several prompts stop at 16384"]


def numbers(text: str, start: str) -> list[float]:
    """Numbers of the first line that starts with `start`, after it."""
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\.?\d*", line.strip()[len(start) :])]


def test_text_and_json_say_the_same():
    arguments = ("explain", "--recipe", PUBLIC, "--isl", 4096, "--osl", 512, "--concurrency", 900)
    text, again = servecast(*arguments).stdout, servecast(*arguments).stdout
    found = Explanation.parse(json.loads(servecast(*arguments, "--json").stdout), "stdout")
    assert text == again and (found.isl, found.osl, found.concurrency) == (4096, 512, 900)
    heads = re.findall(r"^== (\w+):", text, re.MULTILINE)
    assert heads == [role.role for role in found.roles]
    for role, section in zip(found.roles, re.split(r"^== .*\n", text, flags=re.MULTILINE)[1:], strict=True):
        memory, limits = role.memory, role.limits
        rows = memory.weights_bytes | {POOL_NAMES[n]: size for n, size in memory.pools_bytes.items()}
        rows |= {"slot state (c128)": memory.slot_state_bytes, "headroom": memory.headroom_bytes}
        rows |= {"runtime": memory.runtime_bytes, "HBM": memory.hbm_bytes}
        for name, size in rows.items():
            assert numbers(section, name.replace("_", " ") + " ")[0] == pytest.approx(gb(size), abs=5.1e-4)
        assert numbers(section, "bytes per full token")[0] == pytest.approx(
            limits.bytes_per_full_token, abs=0.01
        )
        assert numbers(section, "full tokens") == [limits.full_tokens]
        assert numbers(section, "SWA tokens") == [limits.swa_tokens]
        assert numbers(section, "longest request") == [limits.longest_request_tokens]
        batches = section[section.index("Largest ") :]
        for one in role.batch_limits:
            assert numbers(batches, f"{one.resource}  ")[0] == one.batch
        assert f"binds first: {role.binds_first}" in section
        for size in limits.shipped_bytes.values():
            assert f"ships {size:,.0f} bytes" in section
        assert all(override.reason in section for override in role.overrides)


def test_where_experts_are_and_what_moving_them_costs():
    plain, idle = dep8().experts, dep8(redundant_experts=8).experts
    balanced = dep8(redundant_experts=8, eplb=True).experts
    assert plain and idle and balanced
    assert (plain.slots_per_rank, idle.slots_per_rank, idle.idle_slots, balanced.idle_slots) == (48, 49, 8, 0)
    assert plain.load_factor == plain.load_factor_in_order == balanced.load_factor_in_order
    # Slots that get no token only move experts to other ranks.
    assert idle.load_factor == pytest.approx(plain.load_factor, rel=0.05)
    assert 1 <= balanced.load_factor < 0.95 * min(plain.load_factor, idle.load_factor)
    assert balanced.rebalance_s_per_step > 0 == plain.rebalance_s_per_step
    assert dep8(moe_backend="flashinfer_mxfp4", moe_activation="fp8", moe_ep=1).experts is None


def test_the_text_says_where_experts_are(tmp_path):
    group = MEGAMOE | {"moe_backend": "deepep", "moe_activation": "fp8", "deepep_cap_tokens": 1024}
    group |= {"eplb": True, "two_batch_overlap": True}
    text = servecast("explain", "--recipe", recipe_file(tmp_path, group)).stdout
    assert "times an even share" in text and "ms a step on average" in text
    assert "communicates beside  halves of a prefill step" in text
    silent = servecast("explain", "--recipe", recipe_file(tmp_path, MEGAMOE)).stdout
    assert "rebalancing" not in silent and "communicates beside" not in silent


def test_graph_lists_are_shortened():
    assert graph_text(()) == "none captured" and graph_text((1, 2)) == "up to 2, 2 sizes: 1, 2"
    assert graph_text(tuple(range(1, 20))) == "up to 19, 19 sizes: 1, 2, 3, 4, 5, ..., 15, 16, 17, 18, 19"


def test_broken_laws_are_listed(tmp_path):
    file = recipe_file(tmp_path, MEGAMOE | {"megamoe_cap_tokens": 1024})
    done = servecast("explain", "--recipe", file, "--concurrency", 4096)
    assert done.exit_code == 0 and "hard [megamoe-cap-prefill]" in done.stdout
    assert "soft [slots]" in done.stdout
    assert "Laws broken: none" in servecast("explain", "--recipe", PUBLIC).stdout


@pytest.mark.parametrize(
    ("group", "options", "code", "wanted"),
    [
        ({}, ("--isl", 0), 2, "isl=0"),
        ({}, ("--concurrency", -1), 2, "concurrency=-1"),
        ({}, ("--hardware", "tpu"), 2, "hardware='tpu' is not in the catalog"),
        ({}, ("--model", "gpt"), 2, "model='gpt' is not in the catalog"),
        ({}, ("--stack", "none"), 2, "stack='none' is not in the catalog"),
        ({}, ("--with", "warp_drive"), 2, "switch='warp_drive' is unknown"),
        ({"tp": 1}, (), 3, "weights"),
    ],
)
def test_bad_input(tmp_path, group, options, code, wanted):
    done = servecast("explain", "--recipe", recipe_file(tmp_path, group), *options)
    assert done.exit_code == code and wanted in done.stderr and done.stdout == ""
    assert done.stderr.startswith("error: ")


def test_an_unknown_recipe(tmp_path):
    done = servecast("explain", "--recipe", tmp_path / "none.yaml")
    assert done.exit_code == 2 and "servecast catalog recipes" in done.stderr


def test_switches_and_platforms_change_the_figures(tmp_path):
    def found(*options: object) -> Explanation:
        done = servecast("explain", "--recipe", recipe_file(tmp_path), *options, "--json")
        return Explanation.parse(json.loads(done.stdout), "stdout")

    plain, larger = found(), found("--hardware", "b300")
    assert larger.roles[0].limits.full_tokens > plain.roles[0].limits.full_tokens
    per_window_token = found("--without", "c128_state_per_request").roles[0].limits
    assert per_window_token.slot_state_bytes == 0
    assert per_window_token.bytes_per_full_token == pytest.approx(23_749.84, abs=0.005)
    later = found("--with", "padded_page_pools").roles[0].limits
    assert later.bytes_per_full_token == pytest.approx(10_115, abs=0.51)
