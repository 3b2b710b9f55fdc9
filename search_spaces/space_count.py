"""Exact counts of a search space: layouts, distinct recipes, and how many each law removes.

A space of 10**17 recipes is never listed. The fields of a role fall into those that laws or formulas
tie together, which are enumerated as one array, and free ones, which multiply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.formula import formula_of
from search_spaces.law_case import RoleCase, Violation, release
from search_spaces.law_reads import fields_read
from search_spaces.laws import violations_between
from search_spaces.recipe import EngineGroup
from search_spaces.role_laws import ROLE_LAWS
from search_spaces.space import Choice, Role, SearchSpace, plan_width
from search_spaces.space_points import Site, active_case, load_values, shape_values, structure, value_of

Bools = NDArray[np.bool_]
PAIRED = ("online_compress",)
"""Fields of which a law compares both roles."""


@dataclass
class RoleCount:
    """Recipes of one role at one layout: all, and those no law of the role removes."""

    total: int
    lawful: int
    broken: Counter[str] = field(default_factory=Counter)
    """Recipes that break each hard law; one may break several."""
    paired: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)
    """Total and lawful recipes by the values that laws compare between roles."""


@dataclass
class SpaceCount:
    """What a space holds for one site and number of GPUs."""

    layouts: int = 0
    layouts_over_gpus: int = 0
    recipes: int = 0
    """Distinct recipes of all layouts."""
    recipes_over_gpus: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    """Recipes within the GPUs that break each hard law; one may break several."""
    lawful: int = 0
    """Recipes within the GPUs that keep every law."""
    by_choice: dict[str, Counter[str]] = field(default_factory=dict)
    """Lawful recipes by draft steps and by plan of each role."""


def count(space: SearchSpace, site: Site, num_gpus: int, engine_version: str) -> SpaceCount:
    """Count a space exactly.

    Args:
        space: what to count.
        site: model, platform and load; formulas and laws look at them.
        num_gpus: most GPUs of a deployment.
        engine_version: release whose laws hold.
    """
    found = SpaceCount()
    laws = Laws(site, engine_version)
    for steps in space.mtp_steps:
        frontends = _distinct_deployments(space, site, steps)
        sides = [
            [
                (plan, workers, role_count(space, role, (plan, workers, steps), laws))
                for plan, workers in product(space.role(role).plans, space.role(role).workers)
            ]
            for role in space.roles
        ]
        for layout in product(*sides):
            _add_layout(found, space, steps, layout, frontends, num_gpus, laws)
    return found


def _add_layout(
    found: SpaceCount,
    space: SearchSpace,
    steps: int,
    layout: Sequence[tuple[str, int, RoleCount]],
    frontends: int,
    num_gpus: int,
    laws: Laws,
) -> None:
    counts = [c for _, _, c in layout]
    everything = prod(c.total for c in counts) * frontends
    found.layouts += 1
    found.recipes += everything
    if sum(plan_width(plan) * workers for plan, workers, _ in layout) > num_gpus:
        found.layouts_over_gpus += 1
        found.recipes_over_gpus += everything
        return
    for index, one in enumerate(counts):
        others = prod(c.total for i, c in enumerate(counts) if i != index) * frontends
        for rule, number in one.broken.items():
            found.broken[rule] += number * others
    lawful = counts[0].lawful * frontends if len(counts) == 1 else 0
    if len(counts) == 2:
        for (a, (total_a, good_a)), (b, (total_b, good_b)) in product(
            counts[0].paired.items(), counts[1].paired.items()
        ):
            broken = laws.between(a, b, steps)
            for rule in broken:
                found.broken[rule] += total_a * total_b * frontends
            lawful += 0 if broken else good_a * good_b * frontends
    found.lawful += lawful
    names = {"mtp_steps": str(steps)} | {
        f"{role}.plan": plan for role, (plan, _, _) in zip(space.roles, layout, strict=True)
    }
    for knob, choice in names.items():
        found.by_choice.setdefault(knob, Counter())[choice] += lawful


class Laws:
    """The hard laws at one site, asked once per combination of the fields that each looks at."""

    def __init__(self, site: Site, engine_version: str) -> None:
        """Args: where the laws hold, and for which release."""
        self.site, self.engine_version = site, engine_version
        self._version = release(engine_version)
        self._known: dict[tuple[Any, ...], frozenset[str]] = {}
        self._pairs: dict[tuple[Any, ...], frozenset[str]] = {}

    def broken(
        self, law: Callable[[RoleCase], Iterator[Violation]], role: str, values: Mapping[str, Any]
    ) -> frozenset[str]:
        """Hard rules that a law finds broken by a role of these field values."""
        key = (law, role, *((n, values[n]) for n in _READS[law] if n in values))
        if key not in self._known:
            group = EngineGroup.model_construct(**{**_DEFAULTS, **values})
            case = RoleCase(role, group, *self.site, self._version, self.engine_version)
            self._known[key] = frozenset(v.rule for v in law(case) if v.severity == "hard")
        return self._known[key]

    def between(self, prefill: tuple[Any, ...], decode: tuple[Any, ...], steps: int) -> frozenset[str]:
        """Hard rules broken between roles of these `PAIRED` values."""
        key = (prefill, decode, steps)
        if key not in self._pairs:
            groups = [
                EngineGroup.model_construct(
                    **structure(self.site.model, role, "TP1", 1, steps),
                    **dict(zip(PAIRED, values, strict=True)),
                )
                for role, values in (("prefill", prefill), ("decode", decode))
            ]
            found = violations_between(groups[0], groups[1], self.engine_version)
            self._pairs[key] = frozenset(v.rule for v in found if v.severity == "hard")
        return self._pairs[key]


def role_count(space: SearchSpace, role: Role, layout: tuple[str, int, int], laws: Laws) -> RoleCount:
    """Distinct recipes of a role at plan, workers and draft steps, and what its laws remove."""
    plan, workers, steps = layout
    shape = shape_values(laws.site, role, plan, workers, steps)
    fixed = structure(laws.site.model, role, plan, workers, steps)
    grid = _Grid(_active(space, role, shape), shape)
    total, free = grid.distinct, grid.free
    broken_any = np.zeros_like(total)
    broken: dict[str, Bools] = {}
    for law in ROLE_LAWS:
        for index, values in grid.cells(fields_read(law)):
            for rule in laws.broken(law, role, {**fixed, **values}):
                broken.setdefault(rule, np.zeros_like(total))[index] = True
                broken_any[index] = True
    good = total & ~broken_any
    paired: dict[tuple[Any, ...], tuple[int, int]] = {}
    for index, values in grid.cells(frozenset(PAIRED)):
        key = tuple(values[name] for name in PAIRED)
        before = paired.get(key, (0, 0))
        paired[key] = (
            before[0] + int(total[index].sum()) * free,
            before[1] + int(good[index].sum()) * free,
        )
    return RoleCount(
        int(total.sum()) * free,
        int(good.sum()) * free,
        Counter({rule: int((total & cells).sum()) * free for rule, cells in broken.items()}),
        paired,
    )


def _active(space: SearchSpace, part: str, shape: Mapping[str, Any]) -> dict[str, tuple[Choice, ...]]:
    return {name: cases[active_case(cases, shape)].choices for name, cases in space.fields(part).items()}


def _distinct_deployments(space: SearchSpace, site: Site, steps: int) -> int:
    values = load_values(site, space.mode == "disaggregated", steps)
    grid = _Grid(_active(space, "deployment", values), values, everything=True)
    return int(grid.distinct.sum())


_READS = {law: tuple(sorted(fields_read(law))) for law in ROLE_LAWS}
_DEFAULTS = {
    name: info.get_default(call_default_factory=True)
    for name, info in EngineGroup.model_fields.items()
    if not info.is_required()
}
_LAW_FIELDS = frozenset().union(*(fields_read(law) for law in ROLE_LAWS)) | set(PAIRED)


class _Grid:
    """The tied fields of a role as an array with one axis per field that varies."""

    def __init__(
        self, choices: Mapping[str, tuple[Choice, ...]], shape: Mapping[str, Any], everything: bool = False
    ) -> None:
        self._choices = choices
        self._formulas = {name: tuple(map(formula_of, of)) for name, of in choices.items()}
        self._roots = self._varying_roots()
        self._fixed = dict(shape)
        for name in choices:
            if not self._roots[name]:
                self._fixed[name] = value_of(choices[name][0], self._fixed)
        needed = {n for names in self._roots.values() if len(names) > 1 for n in names}
        axes = [n for n, c in choices.items() if len(c) > 1]
        self.axes = [n for n in axes if everything or n in _LAW_FIELDS or n in needed]
        self.free = prod(
            len({repr(value_of(c, shape)) for c in choices[n]}) for n in axes if n not in self.axes
        )
        self.distinct = self._distinct()

    def _varying_roots(self) -> dict[str, frozenset[str]]:
        """Field to the varying fields its value depends on, itself included where it varies."""
        found: dict[str, frozenset[str]] = {}
        for name, choices in self._choices.items():
            roots = {name} if len(choices) > 1 else set()
            for formula in self._formulas[name]:
                for other in formula.names if formula else ():
                    roots |= found.get(other, frozenset())
            found[name] = frozenset(roots)
        return found

    def _axes_of(self, names: frozenset[str]) -> list[str]:
        wanted = {axis for name in names for axis in self._roots.get(name, ())}
        return [axis for axis in self.axes if axis in wanted]

    def cells(self, names: frozenset[str]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Index and values of the named fields, for every combination that they can take."""
        axes = self._axes_of(names)
        wanted = [n for n in self._choices if n in names]
        order = self._order(names)
        for picks in product(*(range(len(self._choices[a])) for a in axes)):
            chosen = dict(zip(axes, picks, strict=True))
            values = dict(self._fixed)
            for name in order:
                pick = chosen.get(name, 0)
                formula = self._formulas[name][pick]
                values[name] = self._choices[name][pick] if formula is None else formula.value(values)
            yield (
                tuple(chosen.get(a, slice(None)) for a in self.axes),
                {name: values[name] for name in wanted},
            )

    def _order(self, names: frozenset[str]) -> list[str]:
        """Fields to evaluate, in order, to know the named ones."""
        needed = set(names)
        for name in reversed(list(self._choices)):
            if name in needed:
                needed.update(n for f in self._formulas[name] if f for n in f.names)
        return [n for n in self._choices if n in needed and self._roots[n]]

    def _distinct(self) -> Bools:
        """Marks one cell per distinct combination: the first choice that gives each value."""
        marks = np.ones([len(self._choices[a]) for a in self.axes], dtype=bool)
        for axis in self.axes:
            roots = self._axes_of(frozenset({axis}))
            seen: set[tuple[Any, ...]] = set()
            for index, values in self.cells(frozenset({axis})):
                others = tuple(p for a, p in zip(self.axes, index, strict=True) if a in roots and a != axis)
                key = (others, repr(values[axis]))
                if key in seen:
                    marks[index] = False
                seen.add(key)
        return marks
