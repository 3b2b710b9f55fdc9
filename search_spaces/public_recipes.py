"""The public recipes shipped with the catalog: one YAML file per lane."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def recipe_lanes() -> dict[str, tuple[Recipe, ...]]:
    """Every lane (`gb300-disagg-mtp`) and its recipes."""
    lanes = {}
    folder = catalog_loader.catalog_root() / "recipes"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            where = f"catalog/recipes/{entry.name}"
            items = yaml.load(entry.read_text(), Loader=LOADER)["recipes"]
            lanes[entry.name.removesuffix(".yaml")] = tuple(
                Recipe.parse(item, f"{where}: recipes[{i}]") for i, item in enumerate(items)
            )
    return lanes


def lane(name: str) -> list[Recipe]:
    """The recipes of one lane; raises `BadInput` for an unknown one."""
    found = recipe_lanes().get(name)
    if found is None:
        raise BadInput(f"lane={name!r} is not in the catalog; choose one of {sorted(recipe_lanes())}")
    return list(found)


def public_recipes(model: str, hardware: str) -> list[Recipe]:
    """Public recipes for a model (any of its names) on a platform, lane by lane.

    An empty list means that none was published; unknown names raise `BadInput`.
    """
    spec, platform = catalog_loader.model(model), catalog_loader.hardware(hardware)
    return [
        recipe
        for recipes in recipe_lanes().values()
        for recipe in recipes
        if recipe.model == spec.name and recipe.hardware == platform.name
    ]
