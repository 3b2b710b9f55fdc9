"""Recipe files and points that the command tests bend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from planner.cli import cli
from search_spaces.recipe import Recipe
from search_spaces.records import MeasuredPoint
from search_spaces.workload import Workload

DATA = Path(__file__).parent.parent / "data"
SRT = DATA / "disagg-mid-curve-4p1d-dep4-dep8-mtp.yaml"
POINTS = DATA / "points_small.yaml"

TP8: dict[str, Any] = {
    "tp": 8,
    "moe_backend": "flashinfer_mxfp4",
    "mem_fraction_static": 0.9,
    "max_running_per_rank": 64,
    "chunk_tokens_per_rank": 8192,
    "graph_max_batch_per_rank": 64,
}
SINGLE: dict[str, Any] = {
    "name": "single",
    "model": "deepseek-ai/DeepSeek-V4-Pro",
    "hardware": "b200",
    "aggregated": TP8,
}
MEGAMOE: dict[str, Any] = TP8 | {
    "attention_dp": 8,
    "moe_ep": 8,
    "moe_backend": "megamoe",
    "megamoe_cap_tokens": 8192,
}


def servecast(*arguments: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def recipe_file(folder: Path, group: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A Servecast recipe file: `SINGLE` with fields of its group and its own fields changed."""
    file = folder / "recipe.yaml"
    data = SINGLE | {"aggregated": TP8 | (group or {})} | changes
    file.write_text(yaml.safe_dump(data))
    return file


def measured(name: str, concurrency: int = 1, **values: float) -> MeasuredPoint:
    """A usable point of the single recipe."""
    return MeasuredPoint(
        id=name,
        trust="A",
        model="DeepSeek-V4-Pro",
        hardware="b200",
        engine="sglang",
        engine_version="0.5.15",
        stack="june",
        num_gpus=8,
        recipe=Recipe.model_validate(SINGLE),
        workload=Workload(isl=256, osl=16, concurrency=concurrency, num_prompts=2),
        measured=values,
    )
