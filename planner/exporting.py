"""Recipes and dispatch tables to the files of an export format."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine_adapter.exports import export, export_curve, inferencex_files, read_inferencex
from engine_adapter.yaml_files import read_text
from planner.recipe_source import find_recipe, notes_on
from search_spaces import catalog_loader
from search_spaces.dispatch import DispatchRow, DispatchTable
from search_spaces.errors import BadInput, ServecastError
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload

Exported = tuple[dict[str, str], list[str]]
"""File name to text, and notes for the person."""


def load_table(path: str) -> DispatchTable:
    """The dispatch table in a JSON file.

    Raises:
        BadInput: the file cannot be read, is no JSON, or breaks a rule of `DispatchTable`.
    """
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            "is the file complete?"
        ) from None
    return DispatchTable.parse(data, path)


def export_recipe(text: str, fmt: str, engine_version: str, concurrencies: Sequence[int] = ()) -> Exported:
    """The files of the recipe that `--recipe` means, dispatched at `concurrencies` where given."""
    loaded = find_recipe(text, concurrency=concurrencies[0] if concurrencies else None)
    recipe, workload = loaded.recipe, loaded.workload
    if concurrencies:
        recipe = recipe.model_copy(update={"concurrencies": tuple(sorted(set(concurrencies)))})
    notes = notes_on(recipe, None, engine_version)
    return export(recipe, fmt, engine_version, workload), notes


def export_table(table: DispatchTable, fmt: str, engine_version: str) -> Exported:
    """The files of every row, each row in a folder named after its range: `c1-c64/...`."""
    if fmt == "inferencex":
        return _inferencex(table, engine_version)
    files: dict[str, str] = {}
    notes: list[str] = []
    for row in table.rows:
        folder = f"c{row.min_concurrency}-c{row.max_concurrency}"
        recipe = _row_recipe(row)
        try:
            notes += [f"{folder}: {note}" for note in notes_on(recipe, None, engine_version)]
            written = export(recipe, fmt, engine_version, _row_workload(table, recipe))
        except ServecastError as error:
            raise BadInput(f"row {folder}: {error}") from None
        files |= {f"{folder}/{name}": text for name, text in written.items()}
    return files, notes


def _inferencex(table: DispatchTable, engine_version: str) -> Exported:
    """One set of master-config entries for all rows, and the srt-slurm file of each."""
    notes: list[str] = []
    rows = []
    for row in table.rows:
        recipe = _row_recipe(row)
        found = notes_on(recipe, None, engine_version)
        notes += [f"c{row.min_concurrency}-c{row.max_concurrency}: {note}" for note in found]
        rows.append((recipe, _row_workload(table, recipe)))
    platform = catalog_loader.hardware(table.hardware)
    files = inferencex_files(rows, engine_version, platform)
    read = sorted(recipe.topology for recipe in read_inferencex(files, engine_version))
    if read != sorted(recipe.topology for recipe, _ in rows):
        raise BadInput(f"the entries read back as {read}; export rows one by one")
    return files, notes


def export_table_as_curve(table: DispatchTable, engine_version: str) -> Exported:
    """The whole table as one srt-slurm override file, a variant per row."""
    notes: list[str] = []
    rows = []
    for row in table.rows:
        recipe = _row_recipe(row)
        label = f"c{row.min_concurrency}_c{row.max_concurrency}"
        notes += [f"{label}: {note}" for note in notes_on(recipe, None, engine_version)]
        rows.append((label, recipe, _row_workload(table, recipe)))
    platform = catalog_loader.hardware(table.hardware)
    return export_curve(rows, f"curve-{table.hardware}", engine_version, platform), notes


def _row_recipe(row: DispatchRow) -> Recipe:
    """The row's recipe, dispatched where it was predicted, or at the ends of its range."""
    ends = sorted({row.min_concurrency, row.max_concurrency})
    loads = tuple(p.concurrency for p in row.predictions) or tuple(ends)
    return row.recipe.model_copy(update={"concurrencies": loads})


def _row_workload(table: DispatchTable, recipe: Recipe) -> Workload:
    return Workload(
        isl=table.isl,
        osl=table.osl,
        random_range_ratio=table.random_range_ratio,
        concurrency=recipe.concurrencies[0],
        prompts="chat" if recipe.mtp else "random",
    )
