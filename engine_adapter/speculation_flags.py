"""Speculative decoding: SGLang flags and variables to `Mtp`, and back, and what the engine refuses.

Sources: argument parsers, `environ`, `speculative_hook` and `adaptive_spec_params` of SGLang 0.5.15 and
0.5.23.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from engine_adapter import engine_defaults as defaults
from engine_adapter.flag_reader import FlagReader, FlagValue, parse_value
from engine_adapter.flag_table import ONLINE_MTP_ENV, Role
from search_spaces.errors import BadInput
from search_spaces.mtp import DSPARK_SINCE, AdaptiveSteps, AdaptiveTier, Mtp, default_tiers
from search_spaces.recipe import A2A_BACKENDS, EngineGroup

ACCEPT_ENV = "SGLANG_SIMULATE_ACC_LEN"
ACCEPT_METHOD_ENV = "SGLANG_SIMULATE_ACC_METHOD"
VERIFY_ENV = "SGLANG_RAGGED_VERIFY_MODE"
BLOCK_FLAG = "speculative-dspark-block-size"
COSTS_FLAG = "speculative-dspark-sps-table-path"
ADAPTIVE_FLAG = "speculative-adaptive"
CONFIG_FLAG = "speculative-adaptive-config"
DSPARK_BLOCK = 7
"""Drafts of a DSpark block where neither a flag nor the checkpoint says (`DEFAULT_DSPARK_GAMMA`, 0.5.23)."""
EAGLE_NAMES = ("EAGLE", "NEXTN")
Law = tuple[bool, str, object, str, str]


def read_speculation(reader: FlagReader, version: tuple[int, ...]) -> Mtp | None:
    """Take the flags and variables of speculative decoding; None where a worker does not speculate.

    Raises:
        BadInput: a mode that DeepSeek-V4 does not have, or flags without effect.
    """
    algorithm = reader.flag("speculative-algorithm", "str")
    steps = reader.flag("speculative-num-steps", "int")
    topk = reader.int_flag("speculative-eagle-topk", 1)
    verified = reader.flag("speculative-num-draft-tokens", "int")
    if algorithm is None:
        if steps is not None:
            raise BadInput(
                f"speculative-num-steps={steps} has no effect without speculative-algorithm; "
                "add speculative-algorithm EAGLE or remove it"
            )
        return None
    name = str(algorithm).upper()
    if name not in (*EAGLE_NAMES, "DSPARK"):
        raise BadInput(f"speculative-algorithm={algorithm!r} is not modelled; choose EAGLE or DSPARK")
    fields: dict[str, Any]
    if name == "DSPARK":
        fields = _read_dspark(reader, cast(int | None, verified))
    else:
        if topk != 1:
            raise BadInput(f"speculative-eagle-topk={topk} must be 1 for DeepSeek-V4; set 1")
        fields = _read_eagle(reader, cast(int | None, steps), version)
    return Mtp.parse(fields | _read_simulation(reader), "speculative decoding")


def _read_eagle(reader: FlagReader, steps: int | None, version: tuple[int, ...]) -> dict[str, Any]:
    """EAGLE verifies its steps and one token more, whatever number of tokens is asked for."""
    if reader.fields["attention_dp"] > 1 or ADAPTIVE_FLAG not in reader.flags:
        # The engine switches adaptive steps off where ranks would have to decide alike.
        return {"num_steps": steps or defaults.MTP_STEPS}
    if not reader.on(ADAPTIVE_FLAG):
        return {"num_steps": steps or defaults.MTP_STEPS}
    path = reader.flag(CONFIG_FLAG, "str")
    tiers = default_tiers(version) if path is None else read_tiers(str(path))
    candidates = sorted({n for tier in tiers for n in tier.candidate_steps})
    start = steps if steps is not None else candidates[len(candidates) // 2]
    if start not in candidates:
        raise BadInput(
            f"speculative-num-steps={start} is no candidate of the adaptive tiers; choose of {candidates}"
        )
    adaptive = AdaptiveSteps(tiers=() if path is None else tiers, config_path=cast(str | None, path))
    return {"num_steps": start, "adaptive": adaptive}


def read_tiers(path: str) -> tuple[AdaptiveTier, ...]:
    """Tiers of an adaptive configuration file: batch size to settings, shared settings beside them.

    Raises:
        BadInput: the file cannot be read, or is no such mapping.
    """
    try:
        data = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{CONFIG_FLAG}={path!r} cannot be read: {error}; put the JSON file where it is named"
        ) from None
    if not isinstance(data, dict) or not any(str(key).isdigit() for key in data):
        raise BadInput(f'{CONFIG_FLAG}={path!r} has no tier; write e.g. {{"1": {{"candidate_steps": [1]}}}}')
    known = set(AdaptiveTier.model_fields) - {"batch"}
    shared = {key: value for key, value in data.items() if key in known}
    return tuple(
        AdaptiveTier.parse(
            {**shared, **{k: v for k, v in data[key].items() if k in known}, "batch": int(key)},
            f"{path}: {key}",
        )
        for key in sorted((key for key in data if key.isdigit()), key=int)
    )


def _read_dspark(reader: FlagReader, verified: int | None) -> dict[str, Any]:
    block = reader.flag(BLOCK_FLAG, "int")
    if block is None:
        block = verified - 1 if verified is not None else DSPARK_BLOCK
    elif verified is not None and verified != cast(int, block) + 1:
        raise BadInput(
            f"speculative-num-draft-tokens={verified} must be {BLOCK_FLAG} + 1 = {cast(int, block) + 1}; "
            "leave it out"
        )
    return {
        "num_steps": block,
        "algorithm": "dspark",
        "verify": reader.env.pop(VERIFY_ENV, "static"),
        "verify_costs": reader.flag(COSTS_FLAG, "str"),
    }


def _read_simulation(reader: FlagReader) -> dict[str, Any]:
    """Pretended acceptance; a length of 0 or less means none."""
    text = reader.env.get(ACCEPT_ENV)
    if text is None:
        return {}
    length = cast(float, parse_value(reader.env.pop(ACCEPT_ENV), "float", ACCEPT_ENV))
    method = reader.env.pop(ACCEPT_METHOD_ENV, "match-expected")
    return {"simulated_accept_length": length, "simulated_accept_method": method} if length > 0 else {}


def emit_speculation(
    mtp: Mtp, role: Role, version: tuple[int, ...]
) -> tuple[dict[str, FlagValue], dict[str, str]]:
    """Flags and variables that start a draft.

    Raises:
        BadInput: adaptive tiers that are in no file, from which alone the engine takes them.
    """
    flags: dict[str, FlagValue]
    env: dict[str, str] = {}
    if mtp.algorithm == "dspark":
        flags = {"speculative-algorithm": "DSPARK", BLOCK_FLAG: mtp.num_steps}
        if mtp.verify != "static":
            env[VERIFY_ENV] = mtp.verify
        if mtp.verify_costs is not None:
            flags[COSTS_FLAG] = mtp.verify_costs
    else:
        flags = {
            "speculative-algorithm": "EAGLE",
            "speculative-num-steps": mtp.num_steps,
            "speculative-eagle-topk": 1,
            "speculative-num-draft-tokens": mtp.num_steps + 1,
        }
        flags |= _adaptive_flags(mtp.adaptive, role, version) if mtp.adaptive is not None else {}
    if mtp.simulated_accept_length is not None:
        env[ACCEPT_ENV] = f"{mtp.simulated_accept_length:g}"
        env[ACCEPT_METHOD_ENV] = mtp.simulated_accept_method
    return flags, env


def _adaptive_flags(adaptive: AdaptiveSteps, role: Role, version: tuple[int, ...]) -> Mapping[str, FlagValue]:
    if adaptive.config_path is not None:
        return {ADAPTIVE_FLAG: True, CONFIG_FLAG: adaptive.config_path}
    if adaptive.tiers and adaptive.tiers != default_tiers(version):
        raise BadInput(
            f"{role}.mtp.adaptive.tiers are not those of the release, and the engine reads others from a "
            "file alone; write them to a JSON file and name it in config_path"
        )
    return {ADAPTIVE_FLAG: True}


def speculation_laws(group: EngineGroup, role: Role, version: tuple[int, ...]) -> tuple[Law, ...]:
    """Whether each rule holds, and flag, value, rule and remedy where it does not."""
    mtp = group.mtp
    if mtp is None:
        return ()
    laws: tuple[Law, ...] = (
        (not group.mixed_chunk, "enable-mixed-chunk", True,
         "is refused with speculative decoding", "remove one of them"),
        (not group.online_compress or ONLINE_MTP_ENV in group.extra_env,
         "SGLANG_OPT_USE_ONLINE_COMPRESS", 1, "is refused with speculative decoding", "set it to 0"),
        (group.pp == 1 or (mtp.algorithm == "dspark" and role == "prefill"), "pipeline-parallel-size",
         group.pp, "must be 1 with speculative decoding", "set 1"),
    )  # fmt: skip
    if mtp.algorithm != "dspark":
        return laws
    all_to_all, several = group.moe_backend in A2A_BACKENDS, group.attention_dp > 1
    simulated = mtp.simulated_accept_length is not None and mtp.simulated_accept_length > 1
    return (
        *laws,
        (version >= DSPARK_SINCE, "speculative-algorithm", "DSPARK",
         f"is unknown before {'.'.join(map(str, DSPARK_SINCE))}", "choose a later release or EAGLE"),
        (not several or group.dp_lm_head, "speculative-algorithm", "DSPARK",
         "needs enable-dp-lm-head with DP attention", "add it"),
        (not several or group.moe_backend != "deepep", "moe-a2a-backend", group.moe_backend,
         "is refused by DSpark with DP attention", "choose megamoe or no all-to-all backend"),
        (not several or not all_to_all or mtp.verify == "static", VERIFY_ENV, mtp.verify,
         "must be static with DP attention and an all-to-all backend", "set static"),
        (not simulated or mtp.verifies_all, ACCEPT_ENV, mtp.simulated_accept_length,
         "above 1 needs a DSpark that verifies all drafts", f"set {VERIFY_ENV}=static"),
    )  # fmt: skip
