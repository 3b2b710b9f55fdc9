"""Fleets on nodes: hand-packed cases, laws of every packing, and what a node takes with it when it dies."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planner.sizing_losses as losses
from planner.open_loop import Served, Stream
from planner.placement import pack, place
from planner.service_goal import Service, parse_goal
from planner.sizing_losses import HardenTask, hardened
from planner.sizing_types import Fleet
from search_spaces import catalog_loader
from search_spaces.workload import Workload
from tests.simulator_tests.worlds import aggregated, group, setting, split

LOAD = Workload(isl=1024, osl=64)
TWO_AND_ONE = {"prefill": [4, 4], "decode": [4]}


@pytest.mark.parametrize(
    ("widths", "replicas", "node", "rack", "nodes", "racks"),
    [
        (TWO_AND_ONE, 5, 8, None, 8, None),  # 15 workers of 4, two a node
        (TWO_AND_ONE, 5, 4, 18, 15, 1),  # one a node
        (TWO_AND_ONE, 7, 4, 18, 21, 2),  # six deployments of three nodes fill a rack of 18
        (TWO_AND_ONE, 13, 8, 3, 20, 7),  # two deployments (3 nodes) a rack, the last rack holds one (2 nodes)
        ({"aggregated": [2]}, 11, 8, None, 3, None),
        ({"aggregated": [3]}, 5, 8, None, 3, None),  # two a node: a worker never straddles
        ({"decode": [12], "prefill": [4]}, 2, 8, None, 5, None),  # 12 take two whole nodes each, 4 + 4 share
        ({"decode": [32], "prefill": [4]}, 2, 4, 18, 18, 1),
        ({"decode": [32], "prefill": [4]}, 3, 4, 18, 27, 2),
        ({"decode": [72], "prefill": [4]}, 2, 4, 18, 38, 4),  # larger than a rack
    ],
)
def test_packed_by_hand(widths, replicas, node, rack, nodes, racks):
    found = pack(widths, replicas, node, rack)
    assert (len(found.nodes), found.racks, found.paid_gpus) == (nodes, racks, nodes * node)


@given(
    st.dictionaries(
        st.sampled_from(["prefill", "decode"]),
        st.lists(st.sampled_from([1, 2, 4, 8, 12, 16]), min_size=1, max_size=4),
        min_size=1,
    ),
    st.integers(1, 12),
    st.sampled_from([4, 8]),
    st.sampled_from([None, 4, 18]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_laws_of_every_packing(widths, replicas, node, rack):
    found = pack(widths, replicas, node, rack)
    held: dict[tuple[int, str, int], int] = {}
    for each in found.nodes:
        assert sum(placed.num_gpus for placed in each.placed) <= node and each.placed
        for placed in each.placed:
            key = (placed.deployment, placed.role, placed.worker)
            assert key not in held or widths[placed.role][placed.worker] > node
            held[key] = held.get(key, 0) + placed.num_gpus
            if widths[placed.role][placed.worker] > node:
                assert len(each.placed) == 1
    wanted = {
        (i, role, worker): gpus
        for i in range(replicas)
        for role, sizes in widths.items()
        for worker, gpus in enumerate(sizes)
    }
    assert held == wanted
    if rack is None:
        # Widths that divide each other leave room on the last node alone.
        narrow = sum(g for sizes in widths.values() for g in sizes if g <= node)
        wide = sum(ceil(g / node) for sizes in widths.values() for g in sizes if g > node)
        assert len(found.nodes) == replicas * wide + ceil(replicas * narrow / node)
        return
    alone = len(pack(widths, 1, node).nodes)
    for i in range(replicas):
        racks = {n.rack for n in found.nodes if any(p.deployment == i for p in n.placed)}
        assert len(racks) <= ceil(alone / rack)
    for index in {n.rack for n in found.nodes}:
        assert sum(n.rack == index for n in found.nodes) <= rack


def test_platforms_say_how_wide_nodes_and_racks_are():
    recipe = split(group("DEP4", num_workers=2), group("DEP8"))
    for name, nodes, racks in (("gb300", 12, 1), ("b300", 6, None)):
        found = place(recipe, catalog_loader.hardware(name), 3)
        assert (len(found.nodes), found.racks) == (nodes, racks)


def test_a_node_takes_all_that_runs_on_it():
    # Fours on eights: PP | DP | PD | PP | D
    assert pack(TWO_AND_ONE, 3, 8).node_losses() == [
        ((("prefill", 2),),),
        ((("decode", 1),), (("prefill", 1),)),
        ((("decode", 1), ("prefill", 1)),),
        ((("decode", 1),),),
    ]
    assert pack({"aggregated": [16]}, 2, 8).node_losses() == [((("aggregated", 1),),)]
    racks = pack({"aggregated": [4]}, 5, 4, 3).rack_losses()
    assert [len(loss) for loss in racks] == [3, 2] and pack({"aggregated": [4]}, 5, 4).rack_losses() == []


def served(rate, most):
    """A deployment that keeps its goal up to a rate."""
    misses = {} if rate <= most + 1e-9 else {"ttft.p90": rate / most}
    service = Service(requests=1, attained_ms={}, goodput=1.0, is_stable=True, misses=misses,
                      mean_e2e_ms=1.0, mean_in_flight=1.0)  # fmt: skip
    return Served(rate, LOAD, service, {}, {}, "")


def hard(monkeypatch, recipe, replicas, rate, most, spare="node"):
    """A hardened fleet whose deployments serve `most`, in proportion to the workers that are left."""
    groups = recipe.groups

    def with_loss(stream, rate, lost):
        return served(rate, most * min(1 - n / groups[role].num_workers for role, n in lost))

    monkeypatch.setattr(losses, "serve", lambda stream, rate: served(rate, most))
    monkeypatch.setattr(losses, "serve_with_loss", with_loss)
    monkeypatch.setattr(losses, "headroom", lambda stream, rate: 0.0)
    hardware = catalog_loader.hardware(recipe.hardware)
    placed = place(recipe, hardware, replicas)
    values: dict[str, Any] = {"recipe": recipe, "replicas": replicas, "request_rate": rate}
    fleet = Fleet.model_construct(**values, nodes=len(placed.nodes))
    stream = Stream(setting(recipe, LOAD), parse_goal(["ttft.p90=1"]), 1.0)
    return hardened(HardenTask(stream, fleet, spare, hardware))


def test_deployments_that_share_a_node_die_together(monkeypatch):
    recipe = aggregated("TP4", hardware="b200", model="flash")
    fleet = hard(monkeypatch, recipe, replicas=4, rate=28.0, most=10.0)
    worker, node = fleet.losses
    assert worker.lost == ({"aggregated": 1},) and node.lost == ({"aggregated": 1},) * 2
    # Three share 28 at 9.3 each; two at 14 do not. Two more fill a node of their own.
    assert worker.survives and worker.shared.is_kept and not node.survives
    assert (fleet.spare_replicas, fleet.spare_nodes) == (2, 1) and node.label == "2 x (1 aggregated)"


def test_a_spare_that_would_die_with_what_it_replaces_is_none(monkeypatch):
    recipe = aggregated("TP4", hardware="b200", model="flash")
    fleet = hard(monkeypatch, recipe, replicas=1, rate=10.0, most=10.0)
    # One more would sit on the same node; three fill two nodes, of which either may die.
    assert (fleet.spare_replicas, fleet.spare_nodes) == (2, 1)
    alone = hard(monkeypatch, recipe, replicas=1, rate=10.0, most=10.0, spare="worker")
    assert (alone.spare_replicas, alone.spare_nodes) == (1, 0)


def test_a_rack_takes_its_deployments(monkeypatch):
    recipe = aggregated("DEP16", hardware="gb300")
    fleet = hard(monkeypatch, recipe, replicas=5, rate=10.0, most=10.0, spare="rack")
    racks = [loss for loss in fleet.losses if loss.kind == "rack"]
    assert [len(loss.lost) for loss in racks] == [4, 1] and all(loss.survives for loss in fleet.losses)
    # Five busy deployments: any loss breaks them, and four more are needed to lose a rack of four.
    busy = hard(monkeypatch, recipe, replicas=5, rate=50.0, most=10.0, spare="rack")
    assert busy.spare_replicas == 4 and busy.spare_nodes == 16


def test_a_hurt_deployment_gets_what_is_left_of_it(monkeypatch):
    recipe = split(group("DEP4", num_workers=4), group("DEP4"))
    fleet = hard(monkeypatch, recipe, replicas=2, rate=16.0, most=10.0)
    prefill = next(loss for loss in fleet.losses if loss.lost == ({"prefill": 1},))
    # In place 8 > 7.5 breaks; shared by 1.75 deployments 9.1 and 6.9 are kept.
    assert not prefill.in_place.is_kept and prefill.shared.is_kept and prefill.survives
    decode = next(loss for loss in fleet.losses if loss.lost == ({"decode": 1},))
    assert decode.in_place is None and not decode.survives and fleet.spare_replicas == 1
