"""What changes between two recipes, and what that does to workers."""

from __future__ import annotations

from search_spaces.public_recipes import lane
from search_spaces.transition import transition

FIRST, *_ = RECIPES = lane("gb300-disagg-mtp")


def bent(role, **changes):
    return FIRST.model_copy(update={role: FIRST.groups[role].model_copy(update=changes)})


def test_the_same_recipe_changes_nothing():
    found = transition(FIRST, FIRST.model_copy(update={"name": "other", "concurrencies": (9,)}))
    assert found.changes == () and {step.action for step in found.steps} == {"keep"}
    assert (found.started_gpus, found.drained_gpus) == (0, 0)


def test_more_workers_start_beside_those_that_run():
    width, count = FIRST.groups["prefill"].num_gpus, FIRST.groups["prefill"].num_workers
    found = transition(FIRST, bent("prefill", num_workers=count + 2))
    assert found.summary == "add 2 prefill workers; decode stays"
    assert (found.started_gpus, found.drained_gpus) == (2 * width, 0)
    back = transition(bent("prefill", num_workers=count + 2), FIRST)
    assert back.summary == "remove 2 prefill workers; decode stays" and back.drained_gpus == 2 * width


def test_a_flag_restarts_every_worker_of_its_role():
    for changes in ({"max_running_per_rank": 77}, {"extra_env": {"X": "1"}}, {"extra_flags": {"y": 1}}):
        found = transition(FIRST, bent("decode", **changes))
        assert found.summary == "decode restarts; prefill stays"
        assert (
            found.started_gpus
            == found.drained_gpus
            == FIRST.groups["decode"].num_gpus * (FIRST.groups["decode"].num_workers)
        )
        assert all(change.role == "decode" and change.before != change.after for change in found.changes)


def test_a_transfer_backend_or_an_image_restarts_both_roles():
    other = FIRST.model_copy(update={"transfer_backend": "nixl"})
    assert transition(FIRST, other).summary == "prefill restarts; decode restarts"
    image = FIRST.model_copy(update={"launch": {**FIRST.launch, "container": "other"}})
    assert transition(FIRST, image).summary == "prefill restarts; decode restarts"


def test_another_mode_stops_and_starts_roles():
    single = lane("gb300-agg-mtp")[0]
    found = transition(single, FIRST)
    assert {(s.role, s.action) for s in found.steps} >= {
        ("aggregated", "stop"),
        ("prefill", "start"),
        ("decode", "start"),
    }
    assert found.started_gpus == FIRST.num_gpus and found.drained_gpus == single.num_gpus
