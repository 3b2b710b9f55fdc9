"""What a search space holds, what the laws leave of it, and which public recipes are in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine_adapter.yaml_files import parse_yaml, read_text
from search_spaces import catalog_loader
from search_spaces.base import Noun
from search_spaces.errors import BadInput, Infeasible
from search_spaces.public_recipes import public_recipes
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, load_spaces, spaces_in
from search_spaces.space_count import count
from search_spaces.space_points import Site, check_computes, gpus, locate, recipe_at, topologies
from search_spaces.stack import StackVersion
from search_spaces.workload import Workload
from simulator.memory import memory_budget

DEFAULT_ISL, DEFAULT_OSL = 8192, 1024
"""Lengths of public recipes that state none."""
UNSTATED_CONCURRENCY = 64
"""Load at which formulas are compared with a public recipe that names none."""


class Lane(NamedTuple):
    """A space to check, and the platform and model it is checked for."""

    space: SearchSpace
    hardware: str
    model: str


class Absent(Noun):
    """A public recipe that a space does not hold."""

    recipe: str
    concurrency: int
    lacks: tuple[str, ...]
    """Knob, value and what the space offers, per missing value."""


class Containment(Noun):
    """Public recipes of a space's platform, model and mode, with or without drafting."""

    drafting: bool
    recipes: int
    points: int
    """Recipe and load, each compared by itself."""
    absent: tuple[Absent, ...] = ()

    @property
    def held(self) -> int:
        """Recipes that the space holds at all their loads."""
        return self.recipes - len({a.recipe for a in self.absent})


class SpaceReport(Noun):
    """What `servecast space check` says of one space."""

    space: str
    hardware: str
    model: str
    num_gpus: int
    workload: Workload
    engine_version: str
    knobs: dict[str, int]
    """Choices per knob."""
    layouts: int
    layouts_over_gpus: int
    layouts_without_memory: int
    """Within the GPUs, lawful at first choices, and too large for the GPU memory there."""
    recipes: int
    recipes_over_gpus: int
    broken: dict[str, int]
    """Recipes within the GPUs that break each hard law; one may break several."""
    lawful: int
    by_choice: dict[str, dict[str, int]]
    public: tuple[Containment, ...]


def lanes(target: str, hardware: str | None = None, model: str | None = None) -> list[Lane]:
    """The spaces that a target of the command means: a file, or shipped lanes.

    A lane is `gb300`, `gb300-disagg`, `gb300-disagg-pro` or `gb300-disagg-pro-mtp` (`-nomtp`).

    Raises:
        BadInput: neither a file nor a lane, or a file whose platform is not given.
    """
    if Path(target).exists() or target.endswith((".yaml", ".yml")) or "/" in target:
        if hardware is None:
            raise BadInput(f"{target}: a file does not name a platform; add --hardware, such as gb300")
        found = spaces_in(parse_yaml(read_text(target), target), target)
        named = catalog_loader.model(model).name if model else None
        platform = catalog_loader.hardware(hardware).name
        return [
            Lane(space, platform, named or catalog_loader.model(_model_of(space, target)).name)
            for space in found
        ]
    match = re.fullmatch(r"([a-z]+\d+)(-disagg|-agg)?(-pro|-flash)?(-mtp|-nomtp)?", target)
    if match is None or match[1] not in catalog_loader.all_hardware():
        raise BadInput(
            f"target={target!r} is neither a file nor a shipped lane; write a path, or a lane such as "
            f"gb300-disagg-pro-mtp on one of {sorted(catalog_loader.all_hardware())}"
        )
    wanted = {part.removeprefix("-") for part in match.groups()[1:3] if part}
    return [
        Lane(_drafting(space, match[4]), match[1], space.models[0])
        for space in load_spaces(match[1])
        if wanted <= set(space.name.split("-"))
    ]


def _model_of(space: SearchSpace, where: str) -> str:
    if not space.models:
        raise BadInput(f"{where}: space {space.name!r} names no model; add `models: [...]` or --model")
    return space.models[0]


def _drafting(space: SearchSpace, suffix: str | None) -> SearchSpace:
    if suffix is None:
        return space
    steps = tuple(s for s in space.mtp_steps if (s > 0) == (suffix == "-mtp"))
    return space.model_copy(update={"mtp_steps": steps, "name": space.name + suffix})


def all_lanes() -> list[Lane]:
    """Every shipped space."""
    return [lane for name in sorted(catalog_loader.all_hardware()) for lane in lanes(name)]


def check(lane: Lane, num_gpus: int, workload: Workload, stack: StackVersion) -> SpaceReport:
    """Validate one space, count it and look for the public recipes in it.

    Raises:
        BadInput: a formula or value fails at some layout.
        Infeasible: no layout fits the GPUs, or no recipe keeps the laws.
    """
    space = lane.space
    site = Site(catalog_loader.model(lane.model), catalog_loader.hardware(lane.hardware), workload)
    check_computes(space, site)
    found = count(space, site, num_gpus, stack.version)
    if found.layouts == found.layouts_over_gpus:
        least = min(gpus(space, p) for p in topologies(space, 1 << 30))
        raise Infeasible(
            f"space {space.name!r}: the smallest layout takes {least} GPUs, more than num_gpus={num_gpus}; "
            "raise --num-gpus or add narrower plans",
            rule="num-gpus",
        )
    if not found.lawful:
        raise Infeasible(
            f"space {space.name!r}: every recipe breaks a law ({', '.join(sorted(found.broken))}); widen it",
            rule="laws",
        )
    return SpaceReport(
        space=space.name,
        hardware=lane.hardware,
        model=lane.model,
        num_gpus=num_gpus,
        workload=workload,
        engine_version=stack.version,
        knobs={name: len(choices) for name, choices in space.knobs().items()},
        layouts=found.layouts,
        layouts_over_gpus=found.layouts_over_gpus,
        layouts_without_memory=_without_memory(space, site, num_gpus, stack),
        recipes=found.recipes,
        recipes_over_gpus=found.recipes_over_gpus,
        broken=dict(sorted(found.broken.items())),
        lawful=found.lawful,
        by_choice={knob: dict(counts) for knob, counts in found.by_choice.items()},
        public=containment(lane),
    )


def _without_memory(space: SearchSpace, site: Site, num_gpus: int, stack: StackVersion) -> int:
    missing = 0
    for point in topologies(space, num_gpus):
        recipe = recipe_at(space, point, *site)
        try:
            for role, group in recipe.groups.items():
                memory_budget(site.model, group, site.hardware, stack, role)
        except Infeasible:
            missing += 1
    return missing


def containment(lane: Lane) -> tuple[Containment, ...]:
    """Which public recipes of the lane's platform, model and mode the space holds."""
    space = lane.space
    mode = space.mode == "disaggregated"
    wanted = [r for r in public_recipes(lane.model, lane.hardware) if r.is_disaggregated == mode]
    found = []
    for drafting in (True, False):
        if not any((steps > 0) == drafting for steps in space.mtp_steps):
            continue
        recipes = [r for r in wanted if (r.mtp is not None) == drafting]
        points = [(r, load) for r in recipes for load in r.concurrencies or (UNSTATED_CONCURRENCY,)]
        found.append(
            Containment(
                drafting=drafting, recipes=len(recipes), points=len(points), absent=_absent(space, points)
            )
        )
    return tuple(found)


def _absent(space: SearchSpace, points: Sequence[tuple[Recipe, int]]) -> tuple[Absent, ...]:
    found = []
    for recipe, load in points:
        _, lacking = locate(space, recipe, site_of(recipe, load))
        if lacking:
            lacks = tuple(str(m) for m in lacking)
            found.append(Absent(recipe=_unique(recipe), concurrency=load, lacks=lacks))
    return tuple(found)


def _unique(recipe: Recipe) -> str:
    return f"{recipe.name} ({recipe.digest[:6]})"


def site_of(recipe: Recipe, concurrency: int) -> Site:
    """Where a public recipe runs: its own model, platform and lengths."""
    lengths = {
        "isl": recipe.launch.get("isl", DEFAULT_ISL),
        "osl": recipe.launch.get("osl", DEFAULT_OSL),
        "concurrency": concurrency,
    }
    return Site(
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        Workload.parse(lengths, f"{recipe.name}: launch"),
    )
