"""The files of a plan: table, recipes in engine formats, picture, record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine_adapter.exports import export
from planner.plan_text import plan_text
from planner.plan_types import PlanResult
from planner.report import pareto_front, pareto_picture
from search_spaces.catalog_loader import stack
from search_spaces.dispatch import dispatch_schema
from search_spaces.errors import BadInput, ServecastError
from search_spaces.workload import Workload

COMMAND_FILE = "command.txt"
"""File of a plan's folder with the command line that gave it."""


def plan_files(result: PlanResult, notes: list[str]) -> dict[str, str | bytes]:
    """Relative path to content; formats that cannot carry a recipe are left out with a note."""
    table = result.table
    files: dict[str, str | bytes] = {
        "dispatch.json": table.model_dump_json(indent=1) + "\n",
        "dispatch.schema.json": json.dumps(dispatch_schema(), indent=1) + "\n",
        "plan.json": result.model_dump_json(indent=1, exclude={"table"}) + "\n",
        "front.json": json.dumps([p.model_dump() for p in pareto_front(result.points)], indent=1) + "\n",
        "plan.txt": plan_text(result) + "\n",
        **pareto_picture(result),
    }
    version = stack(table.stack).version
    for row in table.rows:
        loads = tuple(p.concurrency for p in row.predictions)
        folder = f"c{row.min_concurrency}-c{row.max_concurrency}"
        recipe = row.recipe.model_copy(update={"concurrencies": loads})
        workload = Workload(
            isl=table.isl,
            osl=table.osl,
            random_range_ratio=table.random_range_ratio,
            concurrency=loads[-1],
            prompts="chat" if recipe.mtp else "random",
        )
        for fmt in ("servecast", "srt-slurm", "sglang"):
            try:
                written = export(recipe, fmt, version, workload)
            except ServecastError as error:
                notes.append(f"{folder}: {fmt} not written: {error}")
                continue
            files |= {f"recipes/{folder}/{fmt}/{name}": text for name, text in written.items()}
    return files


def read_plan(folder: Path) -> tuple[PlanResult, str]:
    """The plan whose files are in a folder, and the command line that gave it.

    Raises:
        BadInput: the folder holds no finished plan, or one whose files do not fit each other.
    """
    plan, table = _read(folder / "plan.json"), _read(folder / "dispatch.json")
    asked = _text(folder / COMMAND_FILE).strip()
    return PlanResult.parse({**plan, "table": table}, str(folder / "plan.json")), asked


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"run_dir={str(file.parent)!r}: {file.name} cannot be read ({error}); "
            "name the folder of a finished `servecast plan`"
        ) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(_text(file))
    except ValueError as error:
        raise BadInput(f"{file} is no JSON ({error}); run `servecast plan` again") from None
    if not isinstance(data, dict):
        raise BadInput(f"{file}: expected a mapping, got {type(data).__name__}; run `servecast plan` again")
    return data
