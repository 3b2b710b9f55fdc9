"""A `Recipe` to one shell script per node, for clusters without a scheduler.

Each script starts every process of its node in the background and waits for them; `hosts.env` is the
one file to fill in. A worker wider than a node has a leader, the first of its nodes.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from engine_adapter.flag_inventory import check_command, router_inventory
from engine_adapter.flag_table import Role
from engine_adapter.frontends import policy_args
from engine_adapter.launch_export import (
    BOOTSTRAP_PORT,
    DIST_PORT,
    PORT,
    PORT_STEP,
    ROUTER_PORT,
    header,
    server_arguments,
    slots_of,
)
from engine_adapter.sglang_emit import flags_from_group
from search_spaces.hardware import Hardware
from search_spaces.recipe import Recipe

HOSTS_FILE = "hosts.env"


class Place(NamedTuple):
    """One process: a rank of a worker, and where it runs."""

    role: Role
    worker: int
    rank: int
    """Node rank in the worker."""
    nodes: int
    """Nodes of the worker."""
    node: int
    """Node of the deployment."""
    leader: int
    """Node of the worker's rank 0."""
    slot: int
    """Position among the workers that share a node."""


def places(recipe: Recipe, hardware: Hardware) -> list[Place]:
    """Every process of a deployment: prefill first, narrow workers packed, wide ones on whole nodes."""
    found: list[Place] = []
    free = 0
    for name, group in recipe.groups.items():
        role: Role = "prefill" if name == "prefill" else "decode" if name == "decode" else "aggregated"
        slots = slots_of(group, hardware)
        nodes = -(-group.num_gpus // hardware.gpus_per_node)
        for worker in range(group.num_workers):
            leader = free + (worker // slots) * nodes
            found += [
                Place(role, worker, rank, nodes, leader + rank, leader, worker % slots)
                for rank in range(nodes)
            ]
        free += -(-group.num_workers // slots) * nodes
    return found


def node_scripts(recipe: Recipe, engine_version: str, hardware: Hardware) -> dict[str, str]:
    """`hosts.env` and one script per node; the first also starts the router where one is needed."""
    found = places(recipe, hardware)
    count = 1 + max(place.node for place in found)
    scripts = {}
    for node in range(count):
        here = [place for place in found if place.node == node]
        note = f"node {node} of {count}: " + ", ".join(
            f"{p.role} worker {p.worker}" + (f" rank {p.rank}" if p.nodes > 1 else "") for p in here
        )
        lines = header(recipe, engine_version, hardware, note)
        lines += [f'. "$(dirname "$0")/{HOSTS_FILE}"']
        for place in here:
            lines += ["", *_process(recipe, place, engine_version, hardware)]
        if node == 0 and (recipe.is_disaggregated or recipe.serving.num_workers > 1):
            lines += ["", *_router(recipe, found)]
        lines += ["", "wait"]
        scripts[f"node{node:02d}.sh"] = "\n".join(lines) + "\n"
    return {**scripts, HOSTS_FILE: _hosts(recipe, count)}


def _hosts(recipe: Recipe, count: int) -> str:
    lines = [f"# Hosts of {recipe.name}: set every address, then start nodeNN.sh on host NN."]
    return "\n".join([*lines, *(f"HOST_{node}=node{node:02d}" for node in range(count))]) + "\n"


def _process(recipe: Recipe, place: Place, engine_version: str, hardware: Hardware) -> list[str]:
    """One server in the background, its variables set for it alone."""
    group = recipe.groups[place.role]
    flags, env = flags_from_group(group, place.role, engine_version, hardware)
    arguments = server_arguments(recipe, place.role, flags)
    if place.role == "prefill":
        arguments += [f"--disaggregation-bootstrap-port {BOOTSTRAP_PORT + place.slot}"]
    if place.nodes > 1:
        address = f'"${{HOST_{place.leader}}}:{DIST_PORT}"'
        arguments += [f"--nnodes {place.nodes} --node-rank {place.rank} --dist-init-addr {address}"]
    if slots_of(group, hardware) > 1:
        arguments += [f"--base-gpu-id {place.slot * group.num_gpus}"]
    arguments += [f"--host 0.0.0.0 --port {PORT + place.slot * PORT_STEP}"]
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    command = ["python -m sglang.launch_server", *arguments]
    return [" \\\n  ".join([*(["env", *variables] if variables else []), *command]) + " &"]


def _router(recipe: Recipe, found: list[Place]) -> list[str]:
    """The router in the background, with the address of every worker's leader."""
    arguments = ["python -m sglang_router.launch_router"]
    arguments += ["--pd-disaggregation" if recipe.is_disaggregated else "--worker-urls"]
    for place in found:
        if place.rank:
            continue
        url = f'"http://${{HOST_{place.node}}}:{PORT + place.slot * PORT_STEP}"'
        if place.role == "prefill":
            arguments += [f"--prefill {url} {BOOTSTRAP_PORT + place.slot}"]
        else:
            arguments += [f"--decode {url}" if place.role == "decode" else url]
    arguments += [f"--{n} {v}" for n, v in policy_args("sglang_router", recipe.frontend.policy).items()]
    arguments += [f"--host 0.0.0.0 --port {ROUTER_PORT}"]
    check_command(" ".join(arguments).split(), router_inventory(), "router")
    return [" \\\n  ".join(arguments) + " &"]
