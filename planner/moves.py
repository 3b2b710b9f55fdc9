"""Local search: single steps away from recipes that are good already."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from search_spaces.space import SearchSpace, knob_name
from search_spaces.space_points import Site, active_case, load_values, shape_values


class Move(NamedTuple):
    """One knob set to another choice, and the point that gives."""

    knob: str
    choice: Any
    point: dict[str, Any]


def is_of_layout(knob: str) -> bool:
    """Whether a knob tells layouts apart: drafts, and plan and workers of a role."""
    return knob == "mtp_steps" or knob.endswith((".plan", ".workers"))


def neighbours(space: SearchSpace, point: Mapping[str, Any], site: Site, rng: random.Random) -> list[Move]:
    """Points that differ in one knob by one place of its choices, in random order.

    Knobs that do not hold at the point's layout are left alone: another value means the same recipe.
    """
    found: list[Move] = []
    for knob, choices in _moving(space, point, site):
        at = choices.index(point[knob]) if point.get(knob) in choices else 0
        for choice in (choices[i] for i in (at - 1, at + 1) if 0 <= i < len(choices)):
            found.append(Move(knob, choice, dict(point) | {knob: choice}))
    rng.shuffle(found)
    return found


def _moving(
    space: SearchSpace, point: Mapping[str, Any], site: Site
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Knobs that hold at a point, with their choices."""
    steps = point["mtp_steps"]
    yield "mtp_steps", space.mtp_steps
    parts = [("deployment", load_values(site, space.mode == "disaggregated", steps))]
    for role in space.roles:
        plan, workers = point[f"{role}.plan"], point[f"{role}.workers"]
        yield f"{role}.plan", space.role(role).plans
        yield f"{role}.workers", space.role(role).workers
        parts.append((role, shape_values(site, role, plan, workers, steps)))
    for part, values in parts:
        for field, cases in space.fields(part).items():
            index = active_case(cases, values)
            if len(cases[index].choices) > 1:
                yield knob_name(part, field, index, cases), cases[index].choices
