"""One loader for every recipe file: Servecast YAML, srt-slurm YAML, shell commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engine_adapter.dynamo_k8s import KIND, load_manifest
from engine_adapter.launch_command import is_launch_script, load_launch_script
from engine_adapter.srt_slurm import LoadedRecipe, load_srt
from engine_adapter.yaml_files import dump_yaml, parse_yaml, read_text
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe

SCRIPT_SUFFIXES = (".sh", ".bash", ".cmd", ".txt")
ROLES = ("aggregated", "prefill", "decode")


def recipe_to_yaml(recipe: Recipe) -> str:
    """The Servecast form; `load_recipe` reads back an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json", exclude_defaults=True))


def recipes_to_yaml(recipes: list[Recipe]) -> str:
    """Several recipes under the key `recipes`."""
    return dump_yaml({"recipes": [r.model_dump(mode="json", exclude_defaults=True) for r in recipes]})


def split_selector(path: str | Path) -> tuple[str, str | None]:
    """`file.yaml:zip_override_x[2]` to file and selector."""
    found = re.fullmatch(r"(.+\.(?:ya?ml|sh|txt)):([^/]+)", str(path))
    return (found[1], found[2]) if found and not Path(path).exists() else (str(path), None)


def load_all(
    path: str | Path,
    selector: str | None = None,
    *,
    hardware: str | None = None,
    engine_version: str | None = None,
) -> list[LoadedRecipe]:
    """Every recipe of a file, with its workload where the file states one.

    Args:
        path: file, with an optional `:selector` after its name.
        selector: variant of an override file, or the name of a recipe in a Servecast list.
        hardware: platform of a shell script that does not name one.
        engine_version: SGLang release of a shell script that does not name one.

    Raises:
        BadInput: the file cannot be read, or breaks a rule of its format or of the engine.
    """
    file, suffix = split_selector(path)
    selector = selector or suffix
    return load_text(read_text(file), file, selector, hardware=hardware, engine_version=engine_version)


def load_text(
    text: str,
    where: str,
    selector: str | None = None,
    *,
    hardware: str | None = None,
    engine_version: str | None = None,
) -> list[LoadedRecipe]:
    """As `load_all`, from a text; `where` names it in messages."""
    if where.endswith(SCRIPT_SUFFIXES) or (is_launch_script(text) and not where.endswith((".yaml", ".yml"))):
        return [load_launch_script(text, where, hardware=hardware, engine_version=engine_version)]
    data = parse_yaml(text, where)
    if data is None:
        raise BadInput(f"{where}: is empty; give a recipe")
    if not isinstance(data, dict):
        raise BadInput(f"{where}: expected a mapping, got {type(data).__name__}; give a recipe file")
    if data.get("kind") == KIND:
        return [LoadedRecipe(load_manifest(data, where, hardware=hardware, engine_version=engine_version))]
    if isinstance(data.get("recipes"), list):
        return _from_list(data, where, selector)
    if "base" in data or "backend" in data or "resources" in data:
        return load_srt(data, where, selector)
    if any(role in data for role in ROLES) or "hardware" in data:
        return [LoadedRecipe(Recipe.parse(data, where))]
    raise BadInput(
        f"{where}: keys {sorted(map(str, data))[:6]} are no recipe; expected Servecast (model, hardware, "
        "aggregated or prefill and decode), srt-slurm (model, resources, backend) or SGLang commands"
    )


def _from_list(data: dict[str, Any], where: str, selector: str | None) -> list[LoadedRecipe]:
    extra = sorted(set(data) - {"recipes"})
    if extra:
        raise BadInput(f"{where}: unknown key {extra[0]} beside `recipes`; remove it")
    recipes = [Recipe.parse(item, f"{where}: recipes[{i}]") for i, item in enumerate(data["recipes"])]
    if selector is not None:
        recipes = [r for r in recipes if r.name == selector]
        if not recipes:
            raise BadInput(f"{where}: no recipe is named {selector!r}; choose a `name` of the list")
    return [LoadedRecipe(recipe, None, recipe.name) for recipe in recipes]


def load_recipes(path: str | Path, selector: str | None = None) -> list[Recipe]:
    """Every recipe of a file."""
    return [loaded.recipe for loaded in load_all(path, selector)]


def load_recipe(
    path: str | Path,
    selector: str | None = None,
    *,
    hardware: str | None = None,
    engine_version: str | None = None,
) -> LoadedRecipe:
    """The one recipe of a file; several raise `BadInput` that lists the selectors."""
    found = load_all(path, selector, hardware=hardware, engine_version=engine_version)
    if len(found) != 1:
        names = [loaded.selector for loaded in found]
        raise BadInput(f"{path}: holds {len(found)} recipes; choose one with a selector of {names}")
    return found[0]
