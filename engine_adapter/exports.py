"""Every export format of a recipe: one function and one registry line each.

What is written is read back by the format's own importer, and must be the same deployment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from engine_adapter.flag_table import DEFAULT_ENGINE_VERSION
from engine_adapter.launch_export import launch_scripts
from engine_adapter.recipe_files import load_text, recipe_to_yaml
from engine_adapter.srt_export import srt_slurm_text
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.recipe import Frontend, Recipe
from search_spaces.workload import Workload

Writer = Callable[[Recipe, str, Workload | None, Hardware], dict[str, str]]


class ExportFormat(NamedTuple):
    """How a format is written, and what of a recipe it can carry."""

    write: Writer
    carries: Callable[[Recipe], Recipe]
    """The recipe as far as the format can state it."""
    suffix: str
    """Suffix that tells the importer."""


def _write_srt_slurm(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, str]:
    stated = _srt_slurm_carries(recipe)
    name = f"{recipe.name.rsplit('/', 1)[-1]}.yaml"
    return {name: srt_slurm_text(stated, engine_version, workload, hardware)}


def _write_sglang(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, str]:
    return launch_scripts(recipe, engine_version, hardware)


def _write_servecast(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, str]:
    return {f"{recipe.name.rsplit('/', 1)[-1]}.yaml": recipe_to_yaml(recipe)}


def _srt_slurm_carries(recipe: Recipe) -> Recipe:
    """srt-slurm always starts a router, and states no stack."""
    frontend = recipe.frontend if recipe.frontend.kind != "none" else Frontend(kind="sglang_router")
    return recipe.model_copy(update={"frontend": frontend, "stack": None})


def _sglang_carries(recipe: Recipe) -> Recipe:
    """Scripts start at most one SGLang router, and state no stack."""
    routed = recipe.is_disaggregated or recipe.serving.num_workers > 1
    frontend = Frontend(kind="sglang_router", policy=recipe.frontend.policy) if routed else Frontend()
    return recipe.model_copy(update={"frontend": frontend, "stack": None})


FORMATS: dict[str, ExportFormat] = {
    "servecast": ExportFormat(_write_servecast, lambda recipe: recipe, ".yaml"),
    "sglang": ExportFormat(_write_sglang, _sglang_carries, ".sh"),
    "srt-slurm": ExportFormat(_write_srt_slurm, _srt_slurm_carries, ".yaml"),
}


def export(
    recipe: Recipe,
    fmt: str,
    engine_version: str = DEFAULT_ENGINE_VERSION,
    workload: Workload | None = None,
    hardware: Hardware | None = None,
) -> dict[str, str]:
    """File name to text of one recipe in one format.

    Args:
        recipe: what to write; its concurrencies go along where the format has a place for them.
        fmt: a name in `FORMATS`.
        engine_version: SGLang release whose spellings are used, `0.5.15` or `0.5.23`.
        workload: benchmark to write into srt-slurm files.
        hardware: platform; None takes the recipe's own.

    Raises:
        BadInput: unknown format, a group the release cannot start, or a text that does not read
            back to the same deployment.
    """
    if fmt not in FORMATS:
        raise BadInput(f"format={fmt!r} is unknown; choose one of {sorted(FORMATS)}")
    platform = hardware or catalog_loader.hardware(recipe.hardware)
    chosen = FORMATS[fmt]
    files = chosen.write(recipe, engine_version, workload, platform)
    text = "\n".join(files.values())
    read = load_text(text, f"export{chosen.suffix}", engine_version=engine_version)[0].recipe
    expected = chosen.carries(recipe)
    expected = expected.model_copy(update={"model": read.model}) if _same_model(read, expected) else expected
    differing = _difference(expected.canonical(), read.canonical())
    if differing:
        raise BadInput(
            f"{fmt} cannot state this recipe for SGLang {engine_version}: {differing}; change it there"
        )
    return files


def _same_model(read: Recipe, expected: Recipe) -> bool:
    return catalog_loader.model(read.model).name == catalog_loader.model(expected.model).name


def _difference(wanted: object, found: object, path: str = "recipe") -> str:
    """The first field that differs, or an empty text."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted({*wanted, *found}):
            text = _difference(wanted.get(key), found.get(key), f"{path}.{key}")
            if text:
                return text
        return ""
    return "" if wanted == found else f"{path}={wanted!r} reads back as {found!r}"
