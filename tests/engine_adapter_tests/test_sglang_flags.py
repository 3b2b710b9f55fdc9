"""Flags to groups and back: arithmetic, defaults, aliases, versions, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from engine_adapter.engine_defaults import mem_fraction_static
from engine_adapter.flag_table import NEW_FLAGS, canonical_name, version_tuple
from engine_adapter.sglang_emit import decided_by_engine, flags_from_group
from engine_adapter.sglang_flags import group_from_flags
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.public_recipes import recipe_lanes
from search_spaces.recipe import EngineGroup

GB300 = catalog_loader.hardware("gb300")
H200 = catalog_loader.hardware("h200")
PRO = catalog_loader.model("DeepSeek-V4-Pro")
DEP8 = {"tp": 8, "dp": 8, "enable-dp-attention": True, "moe-a2a-backend": "megamoe"}


def read(flags, env=None, role="aggregated", hardware=GB300, version="0.5.15", **more) -> EngineGroup:
    return group_from_flags(
        flags, env or {}, role=role, hardware=hardware, model=PRO, engine_version=version, **more
    )


def test_per_worker_limits_are_divided_by_the_attention_ranks():
    group = read({**DEP8, "chunked-prefill-size": 65536, "max-running-requests": 2560})
    assert (group.chunk_tokens_per_rank, group.max_running_per_rank) == (8192, 320)
    plain = read({"tp": 8, "chunked-prefill-size": 65536, "max-running-requests": 2560})
    assert (plain.chunk_tokens_per_rank, plain.max_running_per_rank) == (65536, 2560)


def test_all_to_all_backends_force_the_expert_width():
    assert read({**DEP8, "ep-size": 1}).moe_ep == 8
    assert read({"tp": 8}).moe_ep == 1


@pytest.mark.parametrize(
    "spellings",
    [("tp", "tp-size", "tp_size", "tensor-parallel-size", "--tensor_parallel_size"), ("dp", "dp_size"),
     ("cuda-graph-max-bs", "cuda_graph_max_bs_decode"), ("speculative-algo", "speculative_algorithm")],
)  # fmt: skip
def test_every_spelling_means_one_flag(spellings):
    assert len({canonical_name(name) for name in spellings}) == 1


def test_one_flag_in_two_spellings_must_agree():
    with pytest.raises(BadInput, match="given twice"):
        read({"tp": 8, "tensor-parallel-size": 4})


def test_defaults_follow_the_gpu():
    large, small = read({"tp": 4}), read({"tp": 8}, hardware=H200)
    assert (large.chunk_tokens_per_rank, small.chunk_tokens_per_rank) == (16384, 8192)
    assert large.max_running_per_rank == 256 and large.graph_max_batch_per_rank == 512
    assert large.swa_full_tokens_ratio == 0.1 and large.radix_cache
    assert read({"tp": 4}, version="0.5.23").graph_max_batch_per_rank == 256


def test_memory_share_by_hand():
    """H200 TP8: 512 + 1.5*8192 + 128*8 + 2*512 = 14 848 MiB reserved."""
    total = H200.hbm_bytes / 1024**2
    share = read({"tp": 8}, hardware=H200).mem_fraction_static
    assert share == round((total - 14848) / total, 3)


def test_memory_reserve_has_a_floor_and_grows_with_graphs():
    def share(**change):
        base = dict(
            num_gpus=4, attention_dp=1, chunk=2048, max_running=256, draft_tokens=1, graph_batch=8,
            prefill_graph=False, deepep=False,
        )  # fmt: skip
        return mem_fraction_static(GB300, "aggregated", **{**base, **change})

    total = GB300.hbm_bytes / 1024**2
    assert share() == round((total - 10240) / total, 3)
    assert share(graph_batch=512, attention_dp=8) < share(graph_batch=256, attention_dp=16) < share()
    assert share(deepep=True) < share()


def test_explicit_ratio_of_the_old_flag_default_is_lost_before_the_new_release():
    assert read({"tp": 4, "swa-full-tokens-ratio": 0.8}).swa_full_tokens_ratio == 0.1
    assert read({"tp": 4, "swa-full-tokens-ratio": 0.8}, version="0.5.23").swa_full_tokens_ratio == 0.8


def test_old_megamoe_spelling_counts_only_before_the_new_release():
    flags = {**DEP8, "moe-a2a-backend": "deepep"}
    env = {"SGLANG_OPT_USE_DEEPGEMM_MEGA_MOE": "1"}
    assert read(flags, env).moe_backend == "megamoe"
    assert read(flags, env, version="0.5.23").moe_backend == "deepep"


def test_w4a4_takes_two_variables_or_one_flag():
    one, two = "SGLANG_OPT_DEEPGEMM_MEGA_MOE_USE_FP4_ACTS", "SGLANG_OPT_DEEPGEMM_MEGA_MOE_USE_MXF4_KIND"
    assert read(DEP8, {one: "1"}).moe_activation == "fp8"
    assert read(DEP8, {one: "1", two: "1"}).moe_activation == "fp4"
    assert read(DEP8, {one: "1", two: "1"}, version="0.5.23").moe_activation == "fp8"
    assert read({**DEP8, "enable-w4a4-mxfp4-megamoe": True}, version="0.5.23").moe_activation == "fp4"


def test_kernel_without_a_flag_follows_weights_gpu_and_release():
    assert read({"tp": 4}).moe_backend == "flashinfer_mxfp4"
    assert read({"tp": 8}, hardware=H200).moe_backend == "marlin"
    assert read({"tp": 8}, hardware=H200, version="0.5.23").moe_backend == "flashinfer_mxfp4"
    fp8 = read({"tp": 8}, {"SGLANG_DSV4_FP4_EXPERTS": "0"}, hardware=H200)
    assert (fp8.moe_backend, fp8.expert_weights) == ("triton", "fp8")
    assert read({"tp": 4}, expert_weights="nvfp4").moe_backend == "flashinfer_trtllm_routed"


@pytest.mark.parametrize("name", ["SGLANG_RADIX_FORCE_MISS", "SGLANG_RADIX_DISABLE_REUSE"])
def test_forced_misses_turn_the_prefix_cache_off(name):
    assert not read({"tp": 4}, {name: "1"}).radix_cache
    assert not read({"tp": 4}, role="decode").radix_cache


def test_unknown_flags_and_variables_are_kept():
    group = read({"tp": 4, "watchdog-timeout": 86400, "kv-events-config": {"a": 1}}, {"NCCL_X": "1"})
    assert group.extra_flags == {"watchdog-timeout": 86400, "kv-events-config": '{"a":1}'}
    assert group.extra_env == {"NCCL_X": "1"}


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        ({"tp": 8, "dp": 3, "enable-dp-attention": True}, {}, "must divide"),
        ({"tp": 8, "dp": 8}, {}, "replicas"),
        ({**DEP8, "max-running-requests": 4}, {}, "at least the attention-DP"),
        ({"tp": 4, "mem-fraction-static": 1.5}, {}, "mem_fraction_static=1.5"),
        ({"tp": 4, "mem-fraction-static": "much"}, {}, "must be a number"),
        ({"tp": 4, "chunked-prefill-size": -1}, {}, "chunked-prefill-size=-1"),
        ({"tp": 4, "chunked-prefill-size": 1000}, {}, "256-token page"),
        ({"tp": 4, "chunked-prefill-size": 8192.5}, {}, "whole number"),
        ({"tp": 4, "moe-a2a-backend": "pplx"}, {}, "not modelled"),
        ({"tp": 4, "moe-runner-backend": "flashinfer_trtllm"}, {}, "does not run"),
        ({"tp": 4, "speculative-algorithm": "DSPARK"}, {}, "unknown before"),
        ({"tp": 4, "speculative-algo": "EAGLE", "speculative-eagle-topk": 4}, {}, "must be 1"),
        ({"tp": 4, "speculative-num-steps": 3}, {}, "no effect"),
        ({"tp": 4, "speculative-algo": "EAGLE"}, {"SGLANG_OPT_USE_ONLINE_COMPRESS": "1"}, "speculative"),
        ({"tp": 4, "enable-dp-lm-head": True}, {}, "needs DP attention"),
        ({"tp": 4, "disaggregation-mode": "decode"}, {}, "contradicts"),
        ({"tp": 32}, {}, "output groups"),
        ({**DEP8, "tp": 20, "dp": 20}, {}, "redundant"),
        ({"tp": 4}, {"SGLANG_X": 1}, "must be a string"),
        ({"tp": 4, "enable-eplb": True}, {}, "expert-parallel ranks"),
        ({**DEP8, "enable-two-batch-overlap": True}, {}, "megamoe"),
        ({"tp": 4, "enable-two-batch-overlap": True}, {}, "DP attention"),
        ({**DEP8, "ep-dispatch-algorithm": "lp"}, {}, "must be one of"),
        (DEP8, {"SGLANG_OPT_DEEPGEMM_MEGA_MOE_NUM_MAX_TOKENS_PER_RANK": "16"}, "decode graph"),
    ],
)
def test_what_the_engine_refuses_is_refused_by_name(flags, env, words):
    with pytest.raises(BadInput, match=words):
        read(flags, env)


def test_megamoe_needs_blackwell():
    with pytest.raises(BadInput, match="SM100"):
        read(DEP8, hardware=H200)


PUBLIC = [recipe for recipes in recipe_lanes().values() for recipe in recipes]


@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
def test_public_groups_survive_being_written_and_read(version):
    """The law of the table: emit, then parse, is the identity on what the simulator uses."""
    checked = 0
    role: Any
    for recipe in PUBLIC:
        hardware = catalog_loader.hardware(recipe.hardware)
        for role, group in recipe.groups.items():
            if version == "0.5.23" and (group.megamoe_cap_tokens or 1 << 30) < group.chunk_tokens_per_rank:
                continue
            flags, env = flags_from_group(group, role, version, hardware)
            again = group_from_flags(
                flags, env, role=role, hardware=hardware, model=catalog_loader.model(recipe.model),
                num_workers=group.num_workers, engine_version=version, expert_weights=group.expert_weights,
            )  # fmt: skip
            drop = {"extra_flags", "extra_env"} | decided_by_engine(version)
            assert again.model_dump(exclude=drop) == group.model_dump(exclude=drop), recipe.name
            checked += 1
    assert checked > 200


def test_new_release_gets_no_flag_it_would_stop_at():
    group = read(
        {**DEP8, "speculative-skip-dp-mlp-sync": True},
        {"SGLANG_OPT_DEEPGEMM_MEGA_MOE_USE_FP4_ACTS": "1", "SGLANG_OPT_DEEPGEMM_MEGA_MOE_USE_MXF4_KIND": "1",
         "SGLANG_OPT_USE_JIT_NORM": "1", "SGLANG_OPT_FIX_HASH_MEGA_MOE": "1"},
    )  # fmt: skip
    flags, env = flags_from_group(group, "aggregated", "0.5.23", GB300)
    assert flags["enable-w4a4-mxfp4-megamoe"] is True and "cuda-graph-max-bs-decode" in flags
    assert "speculative-skip-dp-mlp-sync" not in flags and env == {}
    old_flags, old_env = flags_from_group(group, "aggregated", "0.5.15", GB300)
    assert "enable-w4a4-mxfp4-megamoe" not in old_flags and old_flags["speculative-skip-dp-mlp-sync"]
    assert "SGLANG_OPT_FIX_HASH_MEGA_MOE" not in old_env and len(old_env) == 3


DEEPEP = {**DEP8, "moe-a2a-backend": "deepep"}
FP8 = {"SGLANG_DSV4_FP4_EXPERTS": "0"}
EXPERT_FLAGS = [
    ({**DEP8, "ep-num-redundant-experts": 8, "enable-eplb": True}, {"eplb": True, "redundant_experts": 8}),
    ({**DEP8, "enable-eplb": True, "eplb-rebalance-num-iterations": 50}, {"eplb_rebalance_steps": 50}),
    (
        {**DEP8, "enable-eplb": True, "eplb-min-rebalancing-utilization-threshold": 0.8},
        {"eplb_min_utilization": 0.8},
    ),
    ({**DEP8, "init-expert-location": "/loads.pt"}, {"expert_location": "/loads.pt"}),
    ({**DEP8, "ep-dispatch-algorithm": "dynamic"}, {"expert_dispatch": "dynamic"}),
    ({**DEEPEP, "enable-two-batch-overlap": True}, {"two_batch_overlap": True}),
    (
        {**DEEPEP, "enable-single-batch-overlap": True, "deepep-mode": "low_latency"},
        {"single_batch_overlap": True},
    ),
    ({**DEEPEP, "enable-deepep-waterfill": True}, {"waterfill": True, "moe_backend": "deepep"}),
]


@pytest.mark.parametrize(("flags", "fields"), EXPERT_FLAGS, ids=lambda case: list(case)[-1])
@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
def test_balancing_and_overlap_survive_both_spellings(version, flags, fields):
    group = read(
        flags, FP8 if "waterfill" in fields else {}, hardware=H200 if "moe_backend" in fields else GB300
    )
    assert {name: getattr(group, name) for name in fields} == fields and group.extra_flags == {}
    hardware = H200 if "moe_backend" in fields else GB300
    written, env = flags_from_group(group, "aggregated", version, hardware)
    again = read(written, env, version=version, hardware=hardware)
    assert {name: getattr(again, name) for name in fields} == fields
    if "waterfill" in fields:
        assert (
            ("enable-waterfill" in written) == (version == "0.5.23") != ("enable-deepep-waterfill" in written)
        )


def test_waterfill_moves_the_backend_as_the_engine_does():
    flags = {"tp": 8, "dp": 8, "enable-dp-attention": True, "enable-waterfill": True}
    group = read(flags, FP8, hardware=H200, version="0.5.23")
    assert (group.moe_backend, group.moe_ep) == ("deepep", 8)
    megamoe = read({**flags, "moe-a2a-backend": "megamoe"}, FP8, hardware=H200, version="0.5.23")
    assert megamoe.moe_backend == "megamoe" and megamoe.waterfill


def test_a_group_that_no_flags_mean_is_refused():
    marlin = read({"tp": 8}, hardware=H200).model_copy(update={"moe_activation": "fp8"})
    with pytest.raises(BadInput, match="moe_activation=fp8"):
        flags_from_group(marlin, "aggregated", "0.5.15", H200)
    spaced = read({"tp": 8, "prefill-decode-interval": 10})
    with pytest.raises(BadInput, match=r"0\.5\.16"):
        flags_from_group(spaced, "aggregated", "0.5.15", GB300)


def test_versions_compare_by_number():
    assert version_tuple("v0.5.15.post1") < NEW_FLAGS <= version_tuple("0.5.23")
    assert version_tuple("nightly") == (0, 0, 0)
