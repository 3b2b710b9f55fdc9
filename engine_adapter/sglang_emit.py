"""An `EngineGroup` to the SGLang flags and variables that start it."""

from __future__ import annotations

from engine_adapter import engine_defaults as defaults
from engine_adapter.flag_inventory import check_flags
from engine_adapter.flag_table import (
    DEEPEP_CAP_ENV,
    ENV_REMOVED_IN_NEW,
    ENV_RULES,
    ENV_UNKNOWN,
    FLAG_RULES,
    FP4_EXPERTS_ENV,
    MEGAMOE_CAP_ENV,
    NEW_FLAGS,
    OLD_WATERFILL_FLAG,
    REMOVED_IN_NEW,
    W4A4_ENV,
    W4A4_FLAG,
    WATERFILL_FLAG,
    FlagRule,
    Role,
    version_tuple,
)
from engine_adapter.sglang_flags import FlagValue
from engine_adapter.speculation_flags import emit_speculation
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.recipe import A2A_BACKENDS, EngineGroup

DYNAMO_PARSERS = {
    ("dyn-tool-call-parser", "deepseek_v4"): ("tool-call-parser", "deepseekv4"),
    ("dyn-reasoning-parser", "deepseek_v4"): ("reasoning-parser", "deepseek-v4"),
}
"""Flags of `dynamo.sglang` to those by which plain SGLang does the same."""


def flags_from_group(
    group: EngineGroup,
    role: Role,
    engine_version: str,
    hardware: Hardware | None,
    dynamo: bool = False,
    known_model: bool = True,
) -> tuple[dict[str, FlagValue], dict[str, str]]:
    """Flags (full hyphenated names) and environment of one worker.

    The inverse of `group_from_flags`: read back for the same role, hardware and version they give
    the same group. Of the unmodelled flags and variables, those that another release had are left out.

    Args:
        group: what each worker runs.
        role: what the workers do.
        engine_version: SGLang release that is started.
        hardware: platform; without one nothing is checked against it.
        dynamo: whether `dynamo.sglang` starts the workers rather than SGLang itself.
        known_model: whether the catalog holds the model; the engine's overrides are for those.

    Raises:
        BadInput: the release has no way to start this group, does not know an unmodelled flag or
            variable, or overrides it.
    """
    version = version_tuple(engine_version)
    _check_emittable(group, role, hardware, version)
    flags: dict[str, FlagValue] = {}
    for rule in FLAG_RULES:
        value = getattr(group, rule.field)
        default = EngineGroup.model_fields[rule.field].default
        if rule.always or value != default:
            _emit(rule, value, group.attention_dp, version, flags)
    if (
        role == "decode"
        and hardware is not None
        and group.chunk_tokens_per_rank == defaults.chunk_tokens(hardware) // group.attention_dp
    ):
        del flags["chunked-prefill-size"]  # without effect here, and need not divide evenly
    if role != "decode" and not group.radix_cache:
        flags["disable-radix-cache"] = True
    env = {
        rule.flag: _env_text(getattr(group, rule.field))
        for rule in ENV_RULES
        if getattr(group, rule.field) != EngineGroup.model_fields[rule.field].default
        and rule.field not in decided_by_engine(engine_version)
    }
    _emit_special(group, role, flags)
    if group.mtp is not None:
        drafting, switches = emit_speculation(group.mtp, role, version)
        flags, env = flags | drafting, env | switches
    _emit_moe(group, version, flags, env)
    for name, extra in group.extra_flags.items():
        if extra is not False and not (version >= NEW_FLAGS and name in REMOVED_IN_NEW):
            spelled = (name, extra) if dynamo else DYNAMO_PARSERS.get((name, str(extra)), (name, extra))
            flags.setdefault(*spelled)
    for name, text in group.extra_env.items():
        if name not in ENV_UNKNOWN and not (version >= NEW_FLAGS and name in ENV_REMOVED_IN_NEW):
            env.setdefault(name, text)
    check_flags(flags, env, engine_version, role, dynamo, forced=known_model)
    return dict(sorted(flags.items())), dict(sorted(env.items()))


def decided_by_engine(engine_version: str) -> frozenset[str]:
    """Fields whose variable a release has no longer, because it always does what the variable asked."""
    if version_tuple(engine_version) < NEW_FLAGS:
        return frozenset()
    return frozenset(rule.field for rule in ENV_RULES if rule.flag in ENV_REMOVED_IN_NEW)


def _env_text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _emit(
    rule: FlagRule, value: object, dp: int, version: tuple[int, ...], flags: dict[str, FlagValue]
) -> None:
    if version < rule.since:
        raise BadInput(
            f"{rule.field}={value} needs --{rule.flag}, which SGLang has from "
            f"{'.'.join(map(str, rule.since))}; export for a later version"
        )
    if rule.flag == "disable-radix-cache":
        return  # depends on the role
    if rule.inverted:
        flags[rule.flag] = not value
    elif isinstance(value, bool | int | float | str):
        flags[rule.flag] = value * dp if rule.per_worker and isinstance(value, int) else value


def _emit_special(group: EngineGroup, role: Role, flags: dict[str, FlagValue]) -> None:
    """Flags that are not one row of the table."""
    if group.attention_dp > 1:
        flags |= {"data-parallel-size": group.attention_dp, "enable-dp-attention": True}
    if group.moe_ep > 1:
        flags["expert-parallel-size"] = group.moe_ep
    if group.dense_tp1:
        flags["moe-dense-tp-size"] = 1
    if group.graph_max_batch_per_rank == 0:
        del flags["cuda-graph-max-bs-decode"]
        flags["disable-cuda-graph"] = True
    if group.prefill_graph:
        flags["cuda-graph-backend-prefill"] = "breakable"
    if role == "decode" and group.radix_cache:
        flags["disaggregation-decode-enable-radix-cache"] = True
    if group.hicache_ratio is not None:
        flags["enable-hierarchical-cache"] = True


def _emit_moe(
    group: EngineGroup, version: tuple[int, ...], flags: dict[str, FlagValue], env: dict[str, str]
) -> None:
    backend = group.moe_backend
    flags["moe-a2a-backend" if backend in A2A_BACKENDS else "moe-runner-backend"] = backend
    if backend == "megamoe" and group.moe_activation == "fp4":
        if version >= NEW_FLAGS:
            flags[W4A4_FLAG] = True
        else:
            env |= dict.fromkeys(W4A4_ENV, "1")
    if group.waterfill:
        flags[WATERFILL_FLAG if version >= NEW_FLAGS else OLD_WATERFILL_FLAG] = True
    if backend == "megamoe" and group.megamoe_cap_tokens is not None:
        env[MEGAMOE_CAP_ENV] = str(group.megamoe_cap_tokens)
    if backend == "deepep":
        env[DEEPEP_CAP_ENV] = str(group.deepep_cap_tokens)
    if group.expert_weights == "fp8":
        env[FP4_EXPERTS_ENV] = "0"


def _check_emittable(
    group: EngineGroup, role: Role, hardware: Hardware | None, version: tuple[int, ...]
) -> None:
    """Raise for a group that no flags of this release mean."""
    runs, platform = group.moe_activation, "this platform"
    if hardware is not None:
        runs = defaults.moe_activation(group.moe_backend, hardware, group.moe_activation == "fp4")
        platform = hardware.name
    nvfp4 = group.moe_backend == "flashinfer_trtllm_routed"
    laws = (
        (runs == group.moe_activation, "moe_activation", group.moe_activation,
         f"is not what {group.moe_backend} runs on {platform}", f"set moe_activation={runs}"),
        (group.expert_weights != "nvfp4" or nvfp4, "moe_backend", group.moe_backend,
         "does not run nvfp4 experts", "choose flashinfer_trtllm_routed"),
        (not nvfp4 or group.expert_weights == "nvfp4", "moe_backend", group.moe_backend,
         f"does not run {group.expert_weights} experts", "choose flashinfer_mxfp4"),
        (group.swa_full_tokens_ratio != defaults.SWA_RATIO_FLAG_DEFAULT or version >= NEW_FLAGS,
         "swa_full_tokens_ratio", group.swa_full_tokens_ratio,
         "is read as `unset` by this release and becomes 0.1", "choose 0.79 or 0.81"),
        (group.moe_backend == "deepep" or group.deepep_cap_tokens == 128, "deepep_cap_tokens",
         group.deepep_cap_tokens, "has no effect without the deepep backend", "leave it out"),
        (group.moe_backend == "megamoe" or group.megamoe_cap_tokens is None, "megamoe_cap_tokens",
         group.megamoe_cap_tokens, "has no effect without the megamoe backend", "leave it out"),
    )  # fmt: skip
    for holds, name, value, rule, remedy in laws:
        if not holds:
            raise BadInput(f"{role}.{name}={value} {rule}; {remedy}")
