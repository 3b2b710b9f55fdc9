"""SGLang flags and variables to an `EngineGroup`, and back.

An `EngineGroup` counts per rank; SGLang counts some limits per worker. This module does that
arithmetic, fills the engine's own defaults and refuses what the engine would refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast, get_args

from engine_adapter import engine_defaults as defaults
from engine_adapter.engine_defaults import ExpertWeights
from engine_adapter.flag_reader import FlagReader, parse_bool, parse_value
from engine_adapter.flag_reader import FlagValue as FlagValue
from engine_adapter.flag_table import (
    DEEPEP_CAP_ENV,
    DEFAULT_ENGINE_VERSION,
    ENV_RULES,
    FLAG_RULES,
    FORCE_MISS_ENV,
    FP4_EXPERTS_ENV,
    LAUNCH_FLAGS,
    MEGAMOE_CAP_ENV,
    MEGAMOE_SWITCH_ENV,
    NEW_FLAGS,
    W4A4_ENV,
    W4A4_FLAG,
    WATERFILL_FLAG,
    FlagRule,
    Role,
    canonical_name,
    version_tuple,
)
from engine_adapter.speculation_flags import read_speculation, speculation_laws
from search_spaces.errors import BadInput
from search_spaces.expert_laws import EXPERT_LAWS, WATERFILL_BACKENDS
from search_spaces.hardware import Hardware
from search_spaces.law_case import RoleCase
from search_spaces.model import ModelSpec
from search_spaces.recipe import A2A_BACKENDS, EngineGroup, MoeBackend, Mtp

RUNNERS = tuple(b for b in get_args(MoeBackend) if b not in A2A_BACKENDS)
PAGE_TOKENS = 256
"""KV page of DeepSeek-V4 in SGLang; a chunk is cut at page ends."""


def _normalise(flags: Mapping[str, object]) -> dict[str, object]:
    """Canonical names; the same flag under two spellings must agree."""
    found: dict[str, object] = {}
    for name, value in flags.items():
        key = canonical_name(str(name))
        if key == "attn-dp-size":
            found["enable-dp-attention"] = True
            key = "data-parallel-size"
        if value is None:
            continue
        if key in found and str(found[key]) != str(value):
            raise BadInput(f"{key} is given twice, as {found[key]!r} and {value!r}; keep one spelling")
        found[key] = value
    return found


def group_from_flags(
    flags: Mapping[str, object],
    env: Mapping[str, str],
    *,
    role: Role,
    hardware: Hardware,
    model: ModelSpec,
    num_workers: int = 1,
    engine_version: str = DEFAULT_ENGINE_VERSION,
    expert_weights: ExpertWeights | None = None,
) -> EngineGroup:
    """The group that one worker's SGLang command line starts.

    Args:
        flags: engine flags in any public spelling; True is a bare flag, False an absent one.
        env: environment of the worker; values are strings.
        role: what the worker does; a `disaggregation-mode` flag must agree.
        hardware: platform, for defaults that depend on memory and compute capability.
        model: for expert counts and head groups.
        num_workers: identical workers of this role.
        engine_version: release whose defaults and switches hold, such as `0.5.15`.
        expert_weights: format of the expert weights when the checkpoint's name tells it.

    Raises:
        BadInput: a value that the engine refuses, or a mode that is not modelled.
    """
    for name, text in env.items():
        if not isinstance(text, str):
            raise BadInput(f"env.{name}={text!r} must be a string; quote it")
    reader = FlagReader(_normalise(flags), dict(env), {"num_workers": num_workers})
    mode = reader.flags.get("disaggregation-mode")
    expected = "null" if role == "aggregated" else role
    if mode is not None and str(mode).lower() not in (expected, "none" if expected == "null" else ""):
        raise BadInput(f"disaggregation-mode={mode!r} contradicts the role {role}; set it to {expected}")
    for name in LAUNCH_FLAGS:
        reader.flags.pop(name, None)
    version = version_tuple(engine_version)
    _read_layout(reader)
    _read_moe(reader, hardware, version, expert_weights)
    reader.fields["mtp"] = read_speculation(reader, version)
    _read_tables(reader)
    _read_pools(reader, role, hardware, version)
    _read_switches(reader, role)
    reader.fields["extra_flags"] = {k: _plain(v) for k, v in sorted(reader.flags.items())}
    reader.fields["extra_env"] = dict(sorted(reader.env.items()))
    group = EngineGroup.parse(reader.fields, role)
    check_group(group, role, hardware, model, version)
    return group


def _plain(value: object) -> FlagValue:
    """An unmodelled flag value in the form a recipe keeps."""
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    return value if isinstance(value, str | int | float | bool) else str(value)


def _read_layout(reader: FlagReader) -> None:
    tp = reader.int_flag("tensor-parallel-size", 1)
    dp = reader.int_flag("data-parallel-size", 1)
    attention = reader.on("enable-dp-attention")
    if tp < 1 or dp < 1:
        raise BadInput(f"tensor-parallel-size={tp}, data-parallel-size={dp} must be at least 1; raise them")
    if dp > 1 and not attention:
        raise BadInput(
            f"data-parallel-size={dp} without enable-dp-attention starts {dp} whole replicas; "
            "add enable-dp-attention, or state the replicas as workers"
        )
    if tp % dp:
        raise BadInput(f"data-parallel-size={dp} must divide tensor-parallel-size={tp}; change one")
    dense = reader.int_flag("moe-dense-tp-size", tp)
    if dense not in (1, tp):
        raise BadInput(f"moe-dense-tp-size={dense} must be 1 or absent; set 1")
    reader.fields |= {"tp": tp, "attention_dp": dp, "dense_tp1": dense == 1 and tp > 1}
    reader.fields["moe_ep"] = reader.int_flag("expert-parallel-size", 1)


def _read_moe(
    reader: FlagReader, hardware: Hardware, version: tuple[int, ...], weights: ExpertWeights | None
) -> None:
    """Backend, weights, activations and caps; an all-to-all backend forces ep = tp."""
    a2a = str(reader.flag("moe-a2a-backend", "str") or "none").lower()
    runner = str(reader.flags.get("moe-runner-backend") or "auto").lower()
    if a2a not in ("none", *A2A_BACKENDS):
        raise BadInput(f"moe-a2a-backend={a2a!r} is not modelled; choose megamoe, deepep or none")
    reader.fields["waterfill"] = reader.on(WATERFILL_FLAG)
    if reader.fields["waterfill"] and a2a not in WATERFILL_BACKENDS[version >= NEW_FLAGS]:
        a2a = "deepep"
    if version < NEW_FLAGS and a2a == "deepep" and reader.env_on(MEGAMOE_SWITCH_ENV):
        a2a = "megamoe"
    fp4_experts = reader.env.pop(FP4_EXPERTS_ENV, None)
    if fp4_experts is not None and not parse_bool(fp4_experts, FP4_EXPERTS_ENV):
        weights = "fp8"
    if weights is None:
        weights = "nvfp4" if runner == "flashinfer_trtllm_routed" else "mxfp4"
    backend: str
    if a2a != "none":
        backend = a2a
    elif runner == "auto":
        backend = defaults.moe_backend(hardware, weights, version)
    elif runner in RUNNERS:
        backend = runner
    else:
        raise BadInput(
            f"moe-runner-backend={runner!r} does not run DeepSeek-V4; choose one of {list(RUNNERS)}"
        )
    if backend != "deepep" or runner == "auto":
        reader.flags.pop("moe-runner-backend", None)
    if a2a != "none":
        reader.fields["moe_ep"] = reader.fields["tp"]
    kernel = cast(MoeBackend, backend)
    activation = defaults.moe_activation(kernel, hardware, _w4a4(reader, backend, version))
    reader.fields |= {"moe_backend": kernel, "moe_activation": activation, "expert_weights": weights}
    for name, field_name, owner in (
        (MEGAMOE_CAP_ENV, "megamoe_cap_tokens", "megamoe"),
        (DEEPEP_CAP_ENV, "deepep_cap_tokens", "deepep"),
    ):
        if backend == owner and name in reader.env:
            reader.fields[field_name] = parse_value(reader.env.pop(name), "int", name)


def _w4a4(reader: FlagReader, backend: str, version: tuple[int, ...]) -> bool:
    """Whether MegaMoE runs 4-bit activations: a flag in the new releases, two variables before."""
    if backend != "megamoe":
        return False
    flag = reader.on(W4A4_FLAG)
    if version >= NEW_FLAGS:
        return flag
    return all([reader.env_on(name) for name in W4A4_ENV]) or flag


def _read_tables(reader: FlagReader) -> None:
    """Flags and variables that are one table row each."""
    dp = reader.fields["attention_dp"]
    done = {"tp"}
    if str(reader.flags.get("load-balance-method")) == "follow_bootstrap_room":
        del reader.flags["load-balance-method"]  # what `auto` means on a prefill worker
    for rule in FLAG_RULES:
        if rule.field in done or rule.flag not in reader.flags:
            continue
        value = reader.flag(rule.flag, rule.kind)
        if rule.choices and value not in rule.choices:
            raise BadInput(f"{rule.flag}={value!r} must be one of {list(rule.choices)}; choose one")
        if rule.per_worker:
            value = _per_rank(rule, int(cast(int, value)), dp)
        reader.fields[rule.field] = (not value) if rule.inverted else value
    for rule in ENV_RULES:
        if rule.flag in reader.env:
            reader.fields[rule.field] = parse_value(reader.env.pop(rule.flag), rule.kind, rule.flag)


def _per_rank(rule: FlagRule, value: int, dp: int) -> int:
    if value < dp:
        raise BadInput(
            f"{rule.flag}={value} must be at least the attention-DP size {dp}, which it is divided by; "
            f"raise it to a multiple of {dp}"
        )
    return value // dp


def _read_pools(reader: FlagReader, role: Role, hardware: Hardware, version: tuple[int, ...]) -> None:
    """Engine defaults of the limits that a recipe may leave out."""
    fields, dp, tp = reader.fields, reader.fields["attention_dp"], reader.fields["tp"]
    if reader.on("disable-cuda-graph"):
        fields["graph_max_batch_per_rank"] = 0
    sizes = reader.flags.pop("cuda-graph-bs-decode", None)
    if sizes is not None and "graph_max_batch_per_rank" not in fields:
        items = sizes if isinstance(sizes, list | tuple) else str(sizes).split()
        batches = [int(cast(int, parse_value(s, "int", "cuda-graph-bs"))) for s in items]
        fields["graph_max_batch_per_rank"] = max(batches, default=0)
    fields["prefill_graph"] = (
        str(reader.flag("cuda-graph-backend-prefill", "str") or "").lower() == "breakable"
    ) | reader.on("enable-breakable-cuda-graph")
    running = fields.setdefault("max_running_per_rank", defaults.MAX_RUNNING_REQUESTS // dp)
    chunk = fields.setdefault("chunk_tokens_per_rank", defaults.chunk_tokens(hardware) // dp)
    batch = fields.setdefault(
        "graph_max_batch_per_rank", defaults.graph_max_batch(hardware, tp, running * dp, version)
    )
    if version < NEW_FLAGS and fields.get("swa_full_tokens_ratio") == defaults.SWA_RATIO_FLAG_DEFAULT:
        fields["swa_full_tokens_ratio"] = defaults.SWA_RATIO
    if fields.get("mem_fraction_static") is None:
        mtp: Mtp | None = fields.get("mtp")
        fields["mem_fraction_static"] = defaults.mem_fraction_static(
            hardware,
            role,
            num_gpus=tp * fields.get("pp", 1),
            attention_dp=dp,
            chunk=chunk * dp,
            max_running=running * dp,
            draft_tokens=mtp.num_draft_tokens if mtp else 1,
            graph_batch=batch,
            prefill_graph=fields["prefill_graph"],
            deepep=fields["moe_backend"] == "deepep",
        )


def _read_switches(reader: FlagReader, role: Role) -> None:
    """Prefix cache (on by default, off on decode workers) and its host tier."""
    fields = reader.fields
    forced_miss = any([reader.env_on(name) for name in FORCE_MISS_ENV])
    if role == "decode":
        fields["radix_cache"] = reader.on("disaggregation-decode-enable-radix-cache")
    else:
        fields["radix_cache"] = fields.get("radix_cache", True) and not forced_miss
    if reader.on("enable-hierarchical-cache"):
        fields.setdefault("hicache_ratio", defaults.HICACHE_RATIO)
    else:
        fields.pop("hicache_ratio", None)


def check_group(
    group: EngineGroup, role: Role, hardware: Hardware, model: ModelSpec, version: tuple[int, ...]
) -> None:
    """Raise `BadInput` for a group that SGLang refuses to start."""
    experts = model.num_experts + group.redundant_experts
    new = version >= NEW_FLAGS
    cap = group.megamoe_cap_tokens
    graph_tokens = min(group.graph_max_batch_per_rank, group.max_running_per_rank) * group.draft_tokens
    laws = (
        (model.o_groups % group.attention_tp == 0, "attention TP", group.attention_tp,
         f"must divide the {model.o_groups} output groups of {model.name}", "raise attention_dp"),
        (experts % group.moe_ep == 0, "expert-parallel-size", group.moe_ep,
         f"must divide the {experts} routed and redundant experts", "set ep-num-redundant-experts"),
        (role == "decode" or group.chunk_tokens_per_rank % PAGE_TOKENS == 0, "chunked-prefill-size per rank",
         group.chunk_tokens_per_rank, f"must be a multiple of the {PAGE_TOKENS}-token page", "round it"),
        (not group.dp_lm_head or group.attention_dp > 1, "enable-dp-lm-head", True,
         "needs DP attention", "remove it or raise data-parallel-size"),
        *speculation_laws(group, role, version),
        (group.moe_backend != "megamoe" or hardware.sm >= 100 or (new and group.expert_weights == "fp8"),
         "moe-a2a-backend", "megamoe", f"needs an SM100 GPU and {hardware.name} is SM{hardware.sm}",
         "choose deepep or no all-to-all backend"),
        (not group.fp4_indexer or hardware.sm >= 100, "enable-deepseek-v4-fp4-indexer", True,
         "needs an SM100 GPU", "remove it"),
        (not new or cap is None or role == "decode" or cap >= group.chunk_tokens_per_rank, MEGAMOE_CAP_ENV,
         cap, f"must be at least the {group.chunk_tokens_per_rank}-token chunk per rank", "raise it"),
        (cap is None or role == "prefill" or cap >= graph_tokens, MEGAMOE_CAP_ENV, cap,
         f"must be at least the {graph_tokens} tokens of the largest decode graph", "raise it"),
    )  # fmt: skip
    for holds, name, value, rule, remedy in laws:
        if not holds:
            raise BadInput(f"{role}: {name}={value} {rule}; {remedy}")
    case = RoleCase(role, group, model, hardware, None, version, ".".join(map(str, version)))
    for broken in (found for law in EXPERT_LAWS for found in law(case) if found.severity == "hard"):
        raise BadInput(broken.message)
