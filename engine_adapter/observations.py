"""Our own results: a file of predictions and observations, one per line, in the order they were made.

The file is a YAML list whose items are JSON, so that a line can be appended without reading the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine_adapter.yaml_files import parse_yaml, read_text
from search_spaces.errors import BadInput
from search_spaces.records import MeasuredPoint
from search_spaces.step_profile import StepProfile

PREDICTION = "servecast.prediction/1"
"""A record written before the run it speaks of."""
OBSERVATION = "servecast.observation/1"
"""A record of a run: a measured point, the prediction made before it, and where the steps are."""


def steps_digest(steps: StepProfile) -> str:
    """Sixteen hex digits over what differs from defaults, so that a new field changes no digest."""
    return hashlib.sha256(steps.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]


def load_steps(path: str | Path) -> StepProfile:
    """The profile in a JSON file.

    Raises:
        BadInput: it cannot be read or breaks a rule.
    """
    try:
        data = json.loads(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON: {error}; give a file of `profile steps`") from None
    return StepProfile.parse(data, str(path))


def check_appendable(path: Path) -> None:
    """Raise `BadInput` unless `path` is absent or a list that records can be added to."""
    if path.exists() and path.stat().st_size:
        text = read_text(path)
        if not isinstance(parse_yaml(text, str(path)), list) or not text.endswith("\n"):
            raise BadInput(f"out={str(path)!r} is no list of records; name a new file")
    elif not path.parent.is_dir():
        raise BadInput(f"out={str(path)!r}: its folder does not exist; make it")


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record; it is on disk when this returns."""
    with path.open("a") as sink:
        sink.write(f"- {json.dumps(record)}\n")
        sink.flush()
        os.fsync(sink.fileno())


def prediction_record(
    point_id: str, made_on: str, metrics: Mapping[str, float], **facts: Any
) -> dict[str, Any]:
    """What is predicted for the run called `point_id`, before it starts."""
    return {"schema": PREDICTION, "id": point_id, "made_on": made_on, "predicted": dict(metrics), **facts}


def observation_record(
    point: MeasuredPoint, predicted: Mapping[str, float], folder: Path, steps_file: Path | None
) -> dict[str, Any]:
    """A run, with its steps named by a path relative to `folder`, where the record goes."""
    body = point.model_dump(mode="json", exclude={"steps"}, exclude_defaults=True)
    record: dict[str, Any] = {"schema": OBSERVATION, "id": point.id, "predicted": dict(predicted)}
    if point.steps is not None and steps_file is not None:
        name = os.path.relpath(steps_file.resolve(), folder.resolve())
        record["steps"] = {"file": name, "digest": steps_digest(point.steps)}
    return record | {"point": body}


def observed_point(record: Mapping[str, Any], folder: Path) -> MeasuredPoint:
    """The point of an observation; its steps are read from the file it names, relative to `folder`.

    Raises:
        BadInput: the steps have changed since, or the record breaks a rule.
    """
    steps = None
    if record.get("steps"):
        steps = load_steps(folder / record["steps"]["file"])
        if steps_digest(steps) != record["steps"]["digest"]:
            raise BadInput(
                f"steps.file={record['steps']['file']!r} has changed since the point was observed; restore it"
            )
    point = MeasuredPoint.parse(record["point"], str(record.get("id")))
    return point.model_copy(update={"steps": steps})
