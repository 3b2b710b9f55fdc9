"""A `Recipe` to shell scripts that start SGLang servers and their router."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from engine_adapter import model_names
from engine_adapter.flag_table import BOOL_FLAGS, Role
from engine_adapter.frontends import policy_args
from engine_adapter.sglang_emit import flags_from_group
from engine_adapter.sglang_flags import FlagValue
from search_spaces.hardware import Hardware
from search_spaces.recipe import EngineGroup, Recipe

PORT, BOOTSTRAP_PORT, DIST_PORT, ROUTER_PORT = 30000, 8998, 20000, 8000
DYNAMO_PREFIX = "dyn-"
PORT_STEP = 100
"""Distance between the ports of workers that share a node."""
FILE_NAMES: dict[Role, str] = {"prefill": "prefill", "decode": "decode", "aggregated": "server"}


def launch_scripts(recipe: Recipe, engine_version: str, hardware: Hardware) -> dict[str, str]:
    """File name to script: one per role and node of a worker, and a router where one is needed."""
    scripts: dict[str, str] = {}
    for name, group in recipe.groups.items():
        role: Role = "prefill" if name == "prefill" else "decode" if name == "decode" else "aggregated"
        nodes = -(-group.num_gpus // hardware.gpus_per_node)
        for rank in range(nodes):
            suffix = f"_node{rank}" if nodes > 1 else ""
            scripts[f"{FILE_NAMES[role]}{suffix}.sh"] = _server(
                recipe, group, role, engine_version, hardware, (rank, nodes)
            )
    if recipe.is_disaggregated or recipe.serving.num_workers > 1:
        scripts["router.sh"] = _router(recipe, hardware)
    return scripts


def header(recipe: Recipe, engine_version: str, hardware: Hardware, note: str) -> list[str]:
    """The first lines of a script: what it belongs to, as the importer reads it, and a note."""
    loads = " ".join(map(str, recipe.concurrencies))
    return [
        "#!/usr/bin/env bash",
        f"# name: {recipe.name}",
        f"# hardware: {hardware.name}",
        f"# engine: {engine_version}",
        *([f"# concurrencies: {loads}"] if loads else []),
        f"# {note}",
        "set -euo pipefail",
    ]


def slots_of(group: EngineGroup, hardware: Hardware) -> int:
    """Workers that share one node."""
    return max(1, hardware.gpus_per_node // group.num_gpus)


def _server(
    recipe: Recipe,
    group: EngineGroup,
    role: Role,
    engine_version: str,
    hardware: Hardware,
    place: tuple[int, int],
) -> str:
    rank, nodes = place
    flags, env = flags_from_group(group, role, engine_version, hardware)
    slots = slots_of(group, hardware)
    last = group.num_workers - 1
    note = f"{role}: start once per worker with WORKER=0..{last}"
    lines = header(recipe, engine_version, hardware, note)
    lines += ['WORKER="${WORKER:-0}"']
    if slots > 1:
        lines += [f"SLOT=$((WORKER % {slots}))", f"BASE_GPU=$((SLOT * {group.num_gpus}))"]
        lines += [f"PORT=$(({PORT} + SLOT * {PORT_STEP}))", f"BOOTSTRAP=$(({BOOTSTRAP_PORT} + SLOT))"]
    if nodes > 1:
        lines += ['LEADER="${LEADER:?set it to the address of node 0 of this worker}"']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    arguments = server_arguments(recipe, role, flags)
    if role == "prefill":
        port = '"$BOOTSTRAP"' if slots > 1 else str(BOOTSTRAP_PORT)
        arguments += [f"--disaggregation-bootstrap-port {port}"]
    if nodes > 1:
        arguments += [f'--nnodes {nodes} --node-rank {rank} --dist-init-addr "$LEADER:{DIST_PORT}"']
    if slots > 1:
        arguments += ['--base-gpu-id "$BASE_GPU"']
    arguments += ["--host 0.0.0.0 --port " + ('"$PORT"' if slots > 1 else str(PORT))]
    lines += [" \\\n  ".join(["python -m sglang.launch_server", *arguments])]
    return "\n".join(lines) + "\n"


def server_arguments(recipe: Recipe, role: Role, flags: dict[str, FlagValue]) -> list[str]:
    """Arguments of a server that do not depend on where it runs."""
    arguments = [f"--model-path {shlex.quote(model_names.checkpoint(recipe))}", "--trust-remote-code"]
    arguments += [shlex.join(words) for words in server_words(flags)]
    if role != "aggregated":
        arguments += [f"--disaggregation-mode {role}"]
        arguments += [f"--disaggregation-transfer-backend {recipe.transfer_backend or 'mooncake'}"]
    return arguments


def server_words(flags: Mapping[str, FlagValue]) -> list[list[str]]:
    """The words of each flag of `sglang.launch_server`.

    Flags of Dynamo's worker around it are left out: the plain server refuses to start with them.
    """
    words = [flag_words(name, value) for name, value in flags.items() if not name.startswith(DYNAMO_PREFIX)]
    return [one for one in words if one]


def flag_words(name: str, value: FlagValue) -> list[str]:
    """One flag as words of a command line; none for a switch that is off."""
    if value is True:
        return [f"--{name}"]
    if value is False:
        return [f"--{name}", "false"] if name not in BOOL_FLAGS else []
    return [f"--{name}", *(value if isinstance(value, list) else [str(value)])]


def _router(recipe: Recipe, hardware: Hardware) -> str:
    """The router: one URL per worker; hosts come from the environment."""
    lines = header(recipe, "any", hardware, "router: PREFILL_0, DECODE_0, ... are the workers' node 0")
    lines = [line for line in lines if not line.startswith("# engine")]
    arguments = ["python -m sglang_router.launch_router"]
    if recipe.is_disaggregated:
        arguments += ["--pd-disaggregation"]
    else:
        arguments += ["--worker-urls"]
    for name, group in recipe.groups.items():
        slots = slots_of(group, hardware)
        for worker in range(group.num_workers):
            slot = worker % slots
            host = f"{name.upper()}_{worker}"
            url = f'"http://${{{host}:?host of {name} worker {worker}}}:{PORT + slot * PORT_STEP}"'
            if name == "prefill":
                arguments += [f"--prefill {url} {BOOTSTRAP_PORT + slot}"]
            else:
                arguments += [f"--decode {url}" if name == "decode" else url]
    for name, value in policy_args("sglang_router", recipe.frontend.policy).items():
        arguments += [f"--{name} {value}"]
    arguments += [f"--host 0.0.0.0 --port {ROUTER_PORT}"]
    return "\n".join([*lines, " \\\n  ".join(arguments)]) + "\n"
