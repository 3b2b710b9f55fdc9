"""Puts the step recorder where an engine's interpreter finds it, and reads what it wrote."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

from profiler.step_recorder import OUT_VARIABLE
from profiler.step_rows import Pass

MODULE = "servecast_step_recorder"
PASSES = "passes.jsonl"


def install_recorder(folder: Path) -> dict[str, str]:
    """Write the plugin to `folder`; returns the environment that makes SGLang load it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODULE}.py").write_text((files("profiler") / "step_recorder.py").read_text())
    info = folder / f"{MODULE}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[sglang.srt.plugins]\nservecast_steps = {MODULE}:register\n")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, OUT_VARIABLE: str(folder / PASSES)}


def read_passes(folder: Path, since: float = 0.0) -> list[Pass]:
    """Passes that began at `since` (wall-clock seconds) or later, in order."""
    path = folder / PASSES
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the engine is writing the last line
        if row["t"] >= since:
            found.append(Pass(**row))
    return found
