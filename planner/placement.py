"""Which worker of a fleet runs on which node and in which rack."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from search_spaces.hardware import Hardware
from search_spaces.recipe import Recipe

Loss = tuple[tuple[tuple[str, int], ...], ...]
"""What each hurt deployment loses, as sorted (role, workers) pairs; deployments in sorted order."""


@dataclass(frozen=True)
class Placed:
    """One worker, or as much of a wide one as a node holds."""

    deployment: int
    role: str
    worker: int
    """Index among the workers of the role."""
    num_gpus: int
    """On this node."""


@dataclass
class Node:
    """A node and what runs on it."""

    rack: int
    free: int
    """GPUs that a further worker may take."""
    placed: list[Placed] = field(default_factory=list)

    def take(self, placed: Placed) -> None:
        """Put a worker, or a part of one, here."""
        assert placed.num_gpus <= self.free
        self.placed.append(placed)
        self.free -= placed.num_gpus


@dataclass(frozen=True)
class Placement:
    """A packed fleet."""

    nodes: list[Node]
    gpus_per_node: int
    has_racks: bool
    """Whether nodes are joined to racks of one NVLink domain."""

    @property
    def racks(self) -> int | None:
        """Racks that hold the fleet; None on platforms without."""
        return len({node.rack for node in self.nodes}) if self.has_racks else None

    @property
    def paid_gpus(self) -> int:
        """GPUs of all nodes, idle ones too."""
        return len(self.nodes) * self.gpus_per_node

    def node_losses(self) -> list[Loss]:
        """Different things that one node takes with it."""
        return _distinct(node.placed for node in self.nodes)

    def rack_losses(self) -> list[Loss]:
        """Different things that one rack takes with it; none on platforms without racks."""
        if not self.has_racks:
            return []
        racks = defaultdict[int, list[Placed]](list)
        for node in self.nodes:
            racks[node.rack] += node.placed
        return _distinct(racks.values())


def place(recipe: Recipe, hardware: Hardware, replicas: int) -> Placement:
    """Pack equal deployments of a recipe onto nodes of a platform; see `pack`."""
    widths = {role: [group.num_gpus] * group.num_workers for role, group in recipe.groups.items()}
    domain, node = hardware.nvlink_domain_gpus, hardware.gpus_per_node
    return pack(widths, replicas, node, domain // node if domain > node else None)


def pack(
    widths: Mapping[str, list[int]], replicas: int, gpus_per_node: int, nodes_per_rack: int | None = None
) -> Placement:
    """Nodes that hold equal deployments.

    Deployments are placed one after another, their widest workers first. A worker that fits a node goes to
    the first node that still has room for all of it, also beside other deployments; a wider one takes nodes
    of its own, and what its last one leaves idles. A deployment stays in one rack: where it does not fit
    what is left of the last one, the next is begun; larger than a rack, it takes racks of its own.

    Args:
        widths: GPUs of every worker of one deployment, by role.
        replicas: deployments.
        gpus_per_node: GPUs of a node.
        nodes_per_rack: None where nodes are not joined to racks.
    """
    order = sorted(
        ((gpus, role, worker) for role, sizes in widths.items() for worker, gpus in enumerate(sizes)),
        key=lambda item: -item[0],
    )
    narrowest = order[-1][0]
    done, rack, used = list[Node](), 0, 0
    roomy = list[Node]()
    for deployment in range(replicas):
        new = _place_one(order, deployment, gpus_per_node, roomy)
        if nodes_per_rack is not None and used and used + len(new) > nodes_per_rack:
            _undo(roomy, deployment)
            rack, used, roomy = rack + ceil(used / nodes_per_rack), 0, []
            new = _place_one(order, deployment, gpus_per_node, roomy)
        for index, node in enumerate(new):
            node.rack = rack + (0 if nodes_per_rack is None else (used + index) // nodes_per_rack)
        done += new
        used += len(new)
        roomy = [node for node in (*roomy, *new) if node.free >= narrowest]
    return Placement(done, gpus_per_node, nodes_per_rack is not None)


def _place_one(
    order: Iterable[tuple[int, str, int]], deployment: int, gpus_per_node: int, roomy: list[Node]
) -> list[Node]:
    """Place one deployment; returns the nodes that it adds to those with room."""
    new: list[Node] = []
    for gpus, role, worker in order:
        if gpus > gpus_per_node:
            for begin in range(0, gpus, gpus_per_node):
                node = Node(0, gpus_per_node)
                node.take(Placed(deployment, role, worker, min(gpus_per_node, gpus - begin)))
                # What a wide worker leaves of its last node is nobody else's.
                node.free = 0
                new.append(node)
            continue
        fitting = next((node for node in (*roomy, *new) if node.free >= gpus), None)
        if fitting is None:
            fitting = Node(0, gpus_per_node)
            new.append(fitting)
        fitting.take(Placed(deployment, role, worker, gpus))
    return new


def _undo(nodes: Iterable[Node], deployment: int) -> None:
    for node in nodes:
        mine = [placed for placed in node.placed if placed.deployment == deployment]
        node.free += sum(placed.num_gpus for placed in mine)
        node.placed = [placed for placed in node.placed if placed.deployment != deployment]


def _distinct(groups: Iterable[Iterable[Placed]]) -> list[Loss]:
    """Losses of the groups, equal ones once, in the order in which they are met."""
    found: dict[Loss, None] = {}
    for group in groups:
        gone = defaultdict[int, set[tuple[str, int]]](set)
        for placed in group:
            gone[placed.deployment].add((placed.role, placed.worker))
        parts = (Counter(role for role, _ in workers) for workers in gone.values())
        found[tuple(sorted(tuple(sorted(part.items())) for part in parts))] = None
    return list(found)
