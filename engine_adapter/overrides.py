"""Override and zip-override files of srt-slurm: one base, many variants.

Rules as in srt-slurm `src/srtctl/core/config.py`: mappings merge, lists replace, null deletes; in a
zip group every list is one axis and all axes advance together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from search_spaces.errors import BadInput


def deep_merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `override` on top: mappings merge, other values replace, null deletes."""
    merged = dict(base)
    for key, value in override.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = deep_merge({}, value) if isinstance(value, Mapping) else value
    return merged


def _axes(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _axes(value, f"{path}{key}.")
        elif isinstance(value, list):
            yield f"{path}{key}", value


def _pick(node: Mapping[str, Any], index: int) -> dict[str, Any]:
    picked: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            picked[key] = _pick(value, index)
        elif isinstance(value, list):
            picked[key] = value[index if len(value) > 1 else 0]
        else:
            picked[key] = value
    return picked


def zip_variants(override: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The overrides of one zip group; lists of one and scalars go to every variant."""
    axes = dict(_axes(override))
    empty = [path for path, values in axes.items() if not values]
    if empty:
        raise BadInput(f"{where}: {empty[0]}=[] has no values; give at least one")
    lengths = {path: len(values) for path, values in axes.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        raise BadInput(
            f"{where}: lists have unequal lengths {lengths}; make them equal, or nest a literal as [[...]]"
        )
    count = next(iter(lengths.values()), 1)
    return [_pick(override, index) for index in range(count)]


def is_override_file(data: Mapping[str, Any]) -> bool:
    """Whether the file is a base with overrides."""
    return isinstance(data.get("base"), Mapping)


def expand(data: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Every variant by selector (`base`, `override_x`, `zip_override_x[2]`), merged and named."""
    unknown = [k for k in data if k != "base" and not re.match(r"(zip_)?override_\w+", str(k))]
    if unknown:
        raise BadInput(
            f"{where}: unknown key {unknown[0]!r} beside `base`; use override_<name> or zip_override_<name>"
        )
    base = data["base"]
    name = str(base.get("name", "recipe"))
    found: dict[str, dict[str, Any]] = {"base": dict(base)}
    for key, override in data.items():
        if key == "base":
            continue
        if not isinstance(override, Mapping):
            raise BadInput(f"{where}: {key}={override!r} must be a mapping of recipe keys; indent them")
        group = re.sub(r"^(zip_)?override_", "", key)
        if key.startswith("override_"):
            found[key] = deep_merge(base, {"name": f"{name}_{group}", **override})
            continue
        for index, variant in enumerate(zip_variants(override, f"{where}: {key}")):
            found[f"{key}[{index}]"] = deep_merge(base, {"name": f"{name}_{group}_{index}", **variant})
    return found


def select(
    variants: Mapping[str, dict[str, Any]], selector: str | None, where: str
) -> dict[str, dict[str, Any]]:
    """The variants a selector names; without one, all but `base` (or `base` if it is alone)."""
    if selector is None:
        rest = {key: value for key, value in variants.items() if key != "base"}
        return rest or dict(variants)
    found = {
        key: value
        for key, value in variants.items()
        if key == selector or key.split("[")[0] == selector or fnmatchcase(key.split("[")[0], selector)
    }
    if not found:
        raise BadInput(f"{where}: selector {selector!r} names no variant; choose one of {sorted(variants)}")
    return found
