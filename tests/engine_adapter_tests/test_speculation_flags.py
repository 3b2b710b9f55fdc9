"""Speculative decoding from flags and variables to a recipe and back, and what the engine refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine_adapter.sglang_emit import flags_from_group
from engine_adapter.sglang_flags import group_from_flags
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.mtp import AdaptiveSteps, AdaptiveTier, Mtp
from search_spaces.recipe import EngineGroup

GB300 = catalog_loader.hardware("gb300")
PRO = catalog_loader.model("DeepSeek-V4-Pro")
TP4: dict[str, Any] = {"tp": 4, "swa-full-tokens-ratio": 0.1}
DEP8 = {"tp": 8, "dp": 8, "enable-dp-attention": True, "moe-a2a-backend": "megamoe"}
EAGLE = {"speculative-algorithm": "EAGLE", "speculative-num-steps": 3}
DSPARK = {"speculative-algorithm": "DSPARK"}


def read(flags, env=None, version="0.5.23", role="aggregated") -> EngineGroup:
    return group_from_flags(flags, env or {}, role=role, hardware=GB300, model=PRO, engine_version=version)


def written_and_read(group: EngineGroup, version: str = "0.5.23") -> EngineGroup:
    flags, env = flags_from_group(group, "aggregated", version, GB300)
    return read(flags, env, version)


@pytest.mark.parametrize("version", ["0.5.15", "0.5.23"])
@pytest.mark.parametrize(
    ("env", "length", "method"),
    [
        ({"SGLANG_SIMULATE_ACC_LEN": "2.49"}, 2.49, "match-expected"),
        (
            {"SGLANG_SIMULATE_ACC_LEN": "2.8", "SGLANG_SIMULATE_ACC_METHOD": "multinomial"},
            2.8,
            "multinomial",
        ),
        ({"SGLANG_SIMULATE_ACC_LEN": "-1"}, None, "match-expected"),
        ({}, None, "match-expected"),
    ],
)
def test_pretended_acceptance_comes_from_its_variables_and_goes_back(version, env, length, method):
    mode = {"SGLANG_SIMULATE_ACC_TOKEN_MODE": "real-draft-token"} if env else {}
    group = read(TP4 | EAGLE, env | mode, version)
    assert group.mtp == Mtp(num_steps=3, simulated_accept_length=length, simulated_accept_method=method)
    assert group.extra_env == mode
    assert written_and_read(group, version) == group


def test_pretended_acceptance_needs_a_draft_and_a_known_method():
    assert read(TP4, {"SGLANG_SIMULATE_ACC_LEN": "2.49"}).mtp is None
    with pytest.raises(BadInput, match="simulated_accept_method"):
        read(TP4 | EAGLE, {"SGLANG_SIMULATE_ACC_LEN": "2", "SGLANG_SIMULATE_ACC_METHOD": "mean"})
    with pytest.raises(BadInput, match="SGLANG_SIMULATE_ACC_LEN"):
        read(TP4 | EAGLE, {"SGLANG_SIMULATE_ACC_LEN": "two"})


@pytest.mark.parametrize(
    ("flags", "block"),
    [({}, 7), ({"speculative-dspark-block-size": 5}, 5), ({"speculative-num-draft-tokens": 6}, 5),
     ({"speculative-dspark-block-size": 5, "speculative-num-draft-tokens": 6}, 5)],
)  # fmt: skip
def test_the_block_of_dspark_is_resolved_as_the_engine_does(flags, block):
    group = read(TP4 | DSPARK | flags)
    assert group.mtp == Mtp(num_steps=block, algorithm="dspark")
    assert group.draft_tokens == block + 1
    assert written_and_read(group) == group


def test_dspark_s_verification_modes():
    env = {"SGLANG_RAGGED_VERIFY_MODE": "compact"}
    group = read(TP4 | DSPARK | {"speculative-dspark-sps-table-path": "/costs.json"}, env)
    assert group.mtp is not None and group.mtp.trims_verification
    assert written_and_read(group) == group
    mtp = read(TP4 | DSPARK, env).mtp
    assert mtp is not None and not mtp.trims_verification
    with pytest.raises(BadInput, match="verify"):
        read(TP4 | DSPARK, {"SGLANG_RAGGED_VERIFY_MODE": "loose"})


@pytest.mark.parametrize(
    ("flags", "env", "version", "told"),
    [
        (TP4 | DSPARK, {}, "0.5.15", "0.5.16"),
        (DEP8 | DSPARK, {}, "0.5.23", "enable-dp-lm-head"),
        (DEP8 | DSPARK | {"enable-dp-lm-head": True, "moe-a2a-backend": "deepep"}, {}, "0.5.23", "deepep"),
        (DEP8 | DSPARK | {"enable-dp-lm-head": True}, {"SGLANG_RAGGED_VERIFY_MODE": "compact"}, "0.5.23",
         "must be static"),
        (TP4 | DSPARK | {"pp": 2}, {}, "0.5.23", "pipeline-parallel-size"),
        (TP4 | DSPARK | {"speculative-dspark-block-size": 5, "speculative-num-draft-tokens": 8}, {},
         "0.5.23", "must be speculative-dspark-block-size"),
        (TP4 | DSPARK, {"SGLANG_RAGGED_VERIFY_MODE": "cap-accept", "SGLANG_SIMULATE_ACC_LEN": "3"}, "0.5.23",
         "verifies all"),
        (TP4 | {"speculative-algorithm": "NGRAM"}, {}, "0.5.23", "choose EAGLE or DSPARK"),
    ],
)  # fmt: skip
def test_what_the_engine_refuses_is_refused(flags, env, version, told):
    with pytest.raises(BadInput, match=told):
        read(flags, env, version)


def test_dspark_runs_with_megamoe_and_with_pipelined_prefill():
    assert read(DEP8 | DSPARK | {"enable-dp-lm-head": True, "swa-full-tokens-ratio": 0.1}).mtp is not None
    assert read(TP4 | DSPARK | {"pp": 2}, role="prefill").pp == 2


def test_adaptive_steps_and_their_start():
    group = read(TP4 | EAGLE | {"speculative-adaptive": True})
    assert group.mtp == Mtp(num_steps=3, adaptive=AdaptiveSteps())
    assert written_and_read(group) == group
    bare = read(TP4 | {"speculative-algorithm": "EAGLE", "speculative-adaptive": True})
    assert bare.mtp == group.mtp, "the middle of the candidates 0, 1, 3, 5 and 7"
    with pytest.raises(BadInput, match="no candidate"):
        read(TP4 | EAGLE | {"speculative-adaptive": True, "speculative-num-steps": 2})
    with pytest.raises(BadInput, match="no candidate"):
        read(TP4 | EAGLE | {"speculative-adaptive": True, "speculative-num-steps": 5}, version="0.5.15")


def test_data_parallel_ranks_draft_a_fixed_length_whatever_is_asked():
    group = read(DEP8 | EAGLE | {"speculative-adaptive": True})
    assert group.mtp == Mtp(num_steps=3) and group.extra_flags == {"speculative-adaptive": True}


def test_adaptive_tiers_come_from_a_file(tmp_path):
    path = tmp_path / "tiers.json"
    tiers = {
        "ema_alpha": 0.5,
        "1": {"candidate_steps": [1, 3]},
        "16": {"candidate_steps": [0], "ema_alpha": 0.1},
    }
    path.write_text(json.dumps(tiers))
    flags = {"speculative-adaptive": True, "speculative-adaptive-config": str(path)}
    group = read(TP4 | EAGLE | flags)
    assert group.mtp is not None and group.mtp.adaptive is not None
    assert group.mtp.adaptive.tiers == (
        AdaptiveTier(batch=1, candidate_steps=(1, 3), ema_alpha=0.5),
        AdaptiveTier(batch=16, candidate_steps=(0,), ema_alpha=0.1),
    )
    assert written_and_read(group) == group
    path.write_text("{}")
    with pytest.raises(BadInput, match="has no tier"):
        read(TP4 | EAGLE | flags)
    with pytest.raises(BadInput, match="cannot be read"):
        read(TP4 | EAGLE | flags | {"speculative-adaptive-config": str(tmp_path / "none.json")})


def test_tiers_of_no_file_cannot_be_started():
    tiers = (AdaptiveTier(batch=1, candidate_steps=(3, 4)),)
    draft = Mtp(num_steps=3, adaptive=AdaptiveSteps(tiers=tiers))
    group = read(TP4 | EAGLE).model_copy(update={"mtp": draft})
    with pytest.raises(BadInput, match="config_path"):
        flags_from_group(group, "aggregated", "0.5.23", GB300)


def test_releases_without_dspark_s_flags_do_not_export_it():
    group = read(TP4 | DSPARK)
    with pytest.raises(BadInput, match="speculative-dspark-block-size"):
        flags_from_group(group, "aggregated", "0.5.15", GB300)
