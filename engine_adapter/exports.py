"""Every export format of a recipe: one function and one registry line each.

What is written is read back by the format's own importer, and must be the same deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine_adapter.dynamo_k8s import dynamo_manifests
from engine_adapter.flag_table import DEFAULT_ENGINE_VERSION
from engine_adapter.launch_export import launch_scripts
from engine_adapter.master_config import (
    RECIPE_FOLDER,
    load_master,
    master_entries,
    master_text,
    row_difference,
)
from engine_adapter.node_export import node_scripts
from engine_adapter.recipe_files import load_text, recipe_to_yaml
from engine_adapter.sglang_emit import decided_by_engine
from engine_adapter.srt_curve import curve_text, variant_order
from engine_adapter.srt_export import srt_slurm_data, srt_slurm_text
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.recipe import Frontend, Recipe
from search_spaces.workload import Workload

MASTER_FILE = "nvidia-master.yaml"
DEFAULT_ISL, DEFAULT_OSL = 8192, 1024
"""Lengths of an InferenceX entry for a recipe that states none."""
Writer = Callable[[Recipe, str, Workload | None, Hardware], dict[str, str]]
Reader = Callable[[dict[str, str], str], Recipe]


class ExportFormat(NamedTuple):
    """How a format is written, and what of a recipe it can carry."""

    write: Writer
    carries: Callable[[Recipe], Recipe]
    """The recipe as far as the format can state it."""
    read: Reader
    """The recipe that the files mean to the format's own importer, for a release."""


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


def _write_nodes(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, str]:
    return node_scripts(recipe, engine_version, hardware)


def _write_dynamo(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, str]:
    return dynamo_manifests(recipe, engine_version, hardware)


def _write_inferencex(
    recipe: Recipe, engine_version: str, workload: Workload | None, hardware: Hardware
) -> dict[str, str]:
    stated = recipe.launch
    isl = workload.isl if workload else int(stated.get("isl", DEFAULT_ISL))
    osl = workload.osl if workload else int(stated.get("osl", DEFAULT_OSL))
    load = workload or Workload(isl=isl, osl=osl, prompts="chat" if recipe.mtp else "random")
    return inferencex_files([(recipe, load)], engine_version, hardware)


def inferencex_files(
    rows: Sequence[tuple[Recipe, Workload]], engine_version: str, hardware: Hardware
) -> dict[str, str]:
    """Master-config entries of several recipes of one pair of lengths, and the srt-slurm file of each."""
    files: dict[str, str] = {}
    linked: list[tuple[Recipe, str]] = []
    for recipe, workload in rows:
        stem = recipe.name.rsplit("/", 1)[-1]
        name = f"{stem}.yaml"
        if f"{RECIPE_FOLDER}/{name}" in files:
            name = f"{stem}-c{max(recipe.concurrencies, default=0)}.yaml"
        text = srt_slurm_text(_srt_slurm_carries(recipe), engine_version, workload, hardware)
        files[f"{RECIPE_FOLDER}/{name}"] = text
        linked.append((recipe, name))
    entries = master_entries(linked, rows[0][1].isl, rows[0][1].osl, engine_version)
    return {MASTER_FILE: master_text(entries), **files}


def _read_inferencex(files: dict[str, str], engine_version: str) -> Recipe:
    """The recipe behind the one row of a written entry."""
    return read_inferencex(files, engine_version)[0]


def read_inferencex(files: dict[str, str], engine_version: str) -> list[Recipe]:
    """The recipes that the rows of a master config link, each compared with its row."""
    found: list[Recipe] = []
    paths = [name for name in files if name != MASTER_FILE]
    for key, entry in load_master(files[MASTER_FILE], MASTER_FILE).items():
        for lengths in entry.scenarios.fixed_seq_len:
            for row in lengths.search_space:
                path = row.config_file or paths[len(found)]
                if path not in files:
                    raise BadInput(f"{key}: {path} is linked and not there; write it beside the config")
                recipe = load_text(files[path], path)[0].recipe
                if row.config_file is None:  # a single server, started by a script without a router
                    recipe = recipe.model_copy(update={"frontend": Frontend()})
                wrong = row_difference(row, recipe)
                if wrong:
                    raise BadInput(f"{key}: row states {wrong}; correct the row")
                found.append(recipe)
    return found


def _read_text(suffix: str) -> Reader:
    def read(files: dict[str, str], engine_version: str) -> Recipe:
        text = "\n".join(files.values())
        return load_text(text, f"export{suffix}", engine_version=engine_version)[0].recipe

    return read


def _read_dynamo(files: dict[str, str], engine_version: str) -> Recipe:
    text = next(iter(files.values()))
    return load_text(text, "export.yaml", engine_version=engine_version)[0].recipe


def _srt_slurm_carries(recipe: Recipe) -> Recipe:
    """srt-slurm always starts a router, and states no stack."""
    frontend = recipe.frontend if recipe.frontend.kind != "none" else Frontend(kind="sglang_router")
    return recipe.model_copy(update={"frontend": frontend, "stack": None})


def _sglang_carries(recipe: Recipe) -> Recipe:
    """Scripts start at most one SGLang router, and state no stack."""
    routed = recipe.is_disaggregated or recipe.serving.num_workers > 1
    frontend = Frontend(kind="sglang_router", policy=recipe.frontend.policy) if routed else Frontend()
    return recipe.model_copy(update={"frontend": frontend, "stack": None})


def _dynamo_carries(recipe: Recipe) -> Recipe:
    """A manifest always has a Dynamo frontend, and states no stack."""
    frontend = recipe.frontend
    if frontend.kind != "dynamo":
        frontend = Frontend(kind="dynamo", policy=frontend.policy, router_processes=frontend.router_processes)
    return recipe.model_copy(update={"frontend": frontend, "stack": None})


def _inferencex_carries(recipe: Recipe) -> Recipe:
    """Disaggregated rows run what srt-slurm runs; a single server has no router."""
    stated = _srt_slurm_carries(recipe)
    return stated if recipe.is_disaggregated else stated.model_copy(update={"frontend": Frontend()})


FORMATS: dict[str, ExportFormat] = {
    "servecast": ExportFormat(_write_servecast, lambda recipe: recipe, _read_text(".yaml")),
    "sglang": ExportFormat(_write_sglang, _sglang_carries, _read_text(".sh")),
    "sglang-nodes": ExportFormat(_write_nodes, _sglang_carries, _read_text(".sh")),
    "srt-slurm": ExportFormat(_write_srt_slurm, _srt_slurm_carries, _read_text(".yaml")),
    "dynamo-k8s": ExportFormat(_write_dynamo, _dynamo_carries, _read_dynamo),
    "inferencex": ExportFormat(_write_inferencex, _inferencex_carries, _read_inferencex),
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
    _check_same(chosen.carries(recipe), chosen.read(files, engine_version), fmt, engine_version)
    return files


def export_curve(
    rows: Sequence[tuple[str, Recipe, Workload]], name: str, engine_version: str, hardware: Hardware
) -> dict[str, str]:
    """One srt-slurm override file for several rows; every variant is read back and compared.

    Args:
        rows: label (`c1_c64`), recipe and benchmark of each row.
        name: job name of the base, and of the file.
        engine_version: SGLang release whose spellings are used.
        hardware: platform of all rows.
    """
    wanted = {label: _srt_slurm_carries(recipe) for label, recipe, _ in rows}
    plain = [
        (label, srt_slurm_data(wanted[label], engine_version, workload, hardware))
        for label, _, workload in rows
    ]
    text = curve_text(plain, name)
    read = load_text(text, "curve.yaml")
    for label, loaded in zip(variant_order(plain), read, strict=True):
        _check_same(wanted[label], loaded.recipe, f"srt-slurm curve, {label}", engine_version)
        if loaded.recipe.concurrencies != wanted[label].concurrencies:
            raise BadInput(f"{label}: its concurrencies read back as {list(loaded.recipe.concurrencies)}")
    return {f"{name}.yaml": text}


def _check_same(wanted: Recipe, read: Recipe, fmt: str, engine_version: str) -> None:
    """Raise `BadInput` with the first field in which what was read back differs."""
    if _same_model(read, wanted):
        wanted = wanted.model_copy(update={"model": read.model})
    forced = decided_by_engine(engine_version)
    differing = _difference(_stated(wanted, forced), _stated(read, forced))
    if differing:
        raise BadInput(
            f"{fmt} cannot state this recipe for SGLang {engine_version}: {differing}; change it there"
        )


def _stated(recipe: Recipe, forced: frozenset[str]) -> dict[str, object]:
    """The canonical form without the fields of a role that the release decides by itself."""
    return {
        key: {k: v for k, v in value.items() if k not in forced} if isinstance(value, dict) else value
        for key, value in recipe.canonical().items()
    }


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
