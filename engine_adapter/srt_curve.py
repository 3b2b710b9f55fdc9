"""A whole dispatch curve as one srt-slurm override file.

The first row is the `base`; rows of its shape are one `zip_override_curve`, in which every value that
differs is a list and all lists advance together. A row of another shape (aggregated beside
disaggregated) is an `override_` of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine_adapter.yaml_files import dump_yaml
from search_spaces.errors import BadInput

GROUP = "curve"


def curve_text(rows: Sequence[tuple[str, dict[str, Any]]], name: str) -> str:
    """The override file of plain srt-slurm recipes.

    Args:
        rows: label of each row (`c1_c64`) and its plain recipe as a mapping, in order.
        name: job name of the base.

    A variant of the zip group is selected by `:zip_override_curve[i]` in the order of its rows.

    Raises:
        BadInput: there is no row, or two rows have one name.
    """
    if not rows:
        raise BadInput("a curve needs at least one row; the table has none")
    names = [row["name"] for _, row in rows]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        rows = [(label, {**row, "name": f"{row['name']}-{label}"}) for label, row in rows]
    first = rows[0][1]
    alike = [row for _, row in rows if _shape(row) == _shape(first)]
    data: dict[str, Any] = {"base": {**first, "name": name}}
    data[f"zip_override_{GROUP}"] = _zipped(alike, data["base"])
    for label, row in rows:
        if _shape(row) != _shape(first):
            data[f"override_{label}"] = override_between(data["base"], row)
    return dump_yaml(data)


def variant_order(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Labels in the order in which the variants of the file are expanded: the zip group first."""
    same = [label for label, row in rows if _shape(row) == _shape(rows[0][1])]
    return same + [label for label, _ in rows if label not in same]


def _shape(row: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(row["backend"]["sglang_config"])


def _leaves(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, (*path, key))
        else:
            found[*path, key] = value
    return found


def _zipped(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of the values that are not the base's in every row; a literal list is nested once more."""
    leaves = [_leaves(row) for row in rows]
    default = _leaves(base)
    zipped: dict[str, Any] = {}
    for path in dict.fromkeys(path for row in leaves for path in row):
        values = [row.get(path) for row in leaves]
        if all(_text(value) == _text(default.get(path)) for value in values):
            continue
        node = zipped
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = values
    for path in default:
        if all(path not in row for row in leaves):
            raise AssertionError(f"the base is a row, so that {path} is in one of them")
    return zipped


def override_between(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The override that turns `base` into `wanted`: changed keys, and null for those that go."""
    found: dict[str, Any] = {key: None for key in base if key not in wanted}
    for key, value in wanted.items():
        before = base.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = override_between(before, value)
            if inner:
                found[key] = inner
        elif _text(value) != _text(before):
            found[key] = value
    return found


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
