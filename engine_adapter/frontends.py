"""Router blocks of public recipe files to `Frontend`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from engine_adapter.yaml_files import mapping
from search_spaces.errors import BadInput
from search_spaces.recipe import Frontend

Policy = Literal["round_robin", "random", "load", "kv"]

KINDS: dict[str, Literal["dynamo", "sglang_router", "none"]] = {
    "dynamo": "dynamo",
    "sglang": "sglang_router",
    "sglang_router": "sglang_router",
    "sglang_http": "none",
    "none": "none",
}
DEFAULT_ADDITIONAL_FRONTENDS = 9
"""srt-slurm's default: ten routers behind nginx."""
LOAD_ARGS: dict[str, str | int | float | bool] = {
    "router-mode": "kv",
    "router-kv-overlap-score-weight": 0,
    "no-kv-events": True,
}
"""Dynamo router arguments that balance by load alone: no overlap score, no cache events."""
ROUTER_MODES: dict[str, Policy] = {"round-robin": "round_robin", "random": "random", "kv": "kv"}
SGLANG_POLICIES: dict[str, Policy] = {
    "round_robin": "round_robin",
    "random": "random",
    "power_of_two": "load",
    "cache_aware": "kv",
    "consistent_hashing": "kv",
}


def policy_of(kind: str, args: Mapping[str, object]) -> Policy:
    """How the router chooses a worker, from its arguments."""
    if kind == "dynamo":
        if args.get("router-mode") == "kv" and args.get("no-kv-events"):
            return "load"
        return ROUTER_MODES.get(str(args.get("router-mode", "round-robin")), "round_robin")
    if kind == "sglang_router":
        return SGLANG_POLICIES.get(str(args.get("policy", "round_robin")), "round_robin")
    return "round_robin"


def policy_args(kind: str, policy: Policy) -> dict[str, str | int | float | bool]:
    """Router arguments that ask for `policy`."""
    if kind == "dynamo":
        if policy == "load":
            return dict(LOAD_ARGS)
        mode = {p: name for name, p in ROUTER_MODES.items()}[policy]
        return {} if policy == "round_robin" else {"router-mode": mode}
    names = {"round_robin": "round_robin", "random": "random", "load": "power_of_two", "kv": "cache_aware"}
    return {"policy": names[policy]}


def frontend_from_block(block: Mapping[str, Any], where: str) -> Frontend:
    """The `frontend` block of an srt-slurm recipe or of a published record."""
    name = str(block.get("type", "dynamo"))
    if name not in KINDS:
        raise BadInput(f"{where}: frontend.type={name!r} is not modelled; choose one of {sorted(KINDS)}")
    kind = KINDS[name]
    if kind == "none":
        return Frontend()
    extra = block.get("num_additional_frontends", DEFAULT_ADDITIONAL_FRONTENDS)
    if not isinstance(extra, int) or extra < 0:
        raise BadInput(f"{where}: frontend.num_additional_frontends={extra!r} must be 0 or more; raise it")
    many = block.get("enable_multiple_frontends", True)
    args = mapping(block.get("args"), f"{where}: frontend.args")
    args = {name: value for name, value in args.items() if value is not None}
    env = mapping(block.get("env"), f"{where}: frontend.env")
    return Frontend.parse(
        {
            "kind": kind,
            "router_processes": extra + 1 if many else 1,
            "policy": policy_of(kind, args),
            "args": args,
            "env": env,
        },
        f"{where}: frontend",
    )


def frontend_block(frontend: Frontend) -> dict[str, object]:
    """`frontend` as an srt-slurm recipe spells it."""
    kind = {"dynamo": "dynamo", "sglang_router": "sglang"}.get(frontend.kind)
    if kind is None:
        raise BadInput(
            "frontend.kind='none' has no srt-slurm form; choose dynamo or sglang_router for this export"
        )
    args = dict(frontend.args)
    if policy_of(frontend.kind, args) != frontend.policy:
        for name in ("router-mode", "no-kv-events", "policy"):
            args.pop(name, None)
        args |= policy_args(frontend.kind, frontend.policy)
    block: dict[str, object] = {"type": kind, "enable_multiple_frontends": frontend.router_processes > 1}
    if frontend.router_processes > 1:
        block["num_additional_frontends"] = frontend.router_processes - 1
    return block | ({"args": args} if args else {}) | ({"env": frontend.env} if frontend.env else {})
