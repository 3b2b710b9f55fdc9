"""Read YAML text quickly and word its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from search_spaces.errors import BadInput

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: str | Path) -> str:
    """The text of a file; raises `BadInput` for a missing, unreadable or binary one."""
    file = Path(path)
    if file.is_dir():
        raise BadInput(f"{file}: is a directory; name one file in it")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file; check the path") from None
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}; check the path and its permissions") from None
    if b"\0" in data:
        raise BadInput(f"{file}: is binary; give a YAML file or a shell script")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: byte {error.start} is not UTF-8; save it as UTF-8 text") from None


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A block as a mapping; an absent one is empty, anything else raises `BadInput`."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{where}={value!r} must be a mapping; write its keys indented below it")
    return {str(key): item for key, item in value.items()}


def parse_yaml(text: str, where: str) -> Any:
    """The document in `text`; a broken one raises `BadInput` with line and column."""
    try:
        return yaml.load(text, Loader=LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise BadInput(f"{where}: not valid YAML{place}: {problem}; is the file complete?") from None


def dump_yaml(data: Any) -> str:
    """`data` as block YAML in its own key order."""
    return str(yaml.safe_dump(data, sort_keys=False, default_flow_style=False, width=100))
