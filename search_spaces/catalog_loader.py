"""Read the shipped catalog: one TOML file per platform, model and stack."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TypeVar, get_args

from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.stack import StackVersion, Switch

N = TypeVar("N", bound=Noun)

DEFAULT_STACK = "june"


def catalog_root() -> Traversable:
    """Folder of the shipped catalog."""
    return files("search_spaces") / "catalog"


def _load_all(folder: str, kind: type[N]) -> dict[str, N]:
    found = {}
    for entry in sorted((catalog_root() / folder).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = kind.parse(
                tomllib.loads(entry.read_text()), f"catalog/{folder}/{entry.name}"
            )
    return found


@cache
def all_hardware() -> dict[str, Hardware]:
    """Every platform by name."""
    return _load_all("hardware", Hardware)


@cache
def all_models() -> dict[str, ModelSpec]:
    """Every model by catalog name."""
    return _load_all("models", ModelSpec)


@cache
def all_stacks() -> dict[str, StackVersion]:
    """Every stack by name."""
    return _load_all("stacks", StackVersion)


def hardware(name: str) -> Hardware:
    """The platform called `name`; raises `BadInput` for an unknown one."""
    found = all_hardware().get(name.lower())
    if found is None:
        raise BadInput(f"hardware={name!r} is not in the catalog; choose one of {sorted(all_hardware())}")
    return found


def model(name: str) -> ModelSpec:
    """The model with this catalog name, Hugging Face id or alias, whatever the case."""
    wanted = name.lower().removesuffix("/")
    for spec in all_models().values():
        names = (spec.name, *spec.aliases)
        if any(wanted in (n.lower(), n.lower().rsplit("/", 1)[-1]) for n in names):
            return spec
    raise BadInput(
        f"model={name!r} is not in the catalog; choose one of {sorted(m.name for m in all_models().values())}"
    )


def stack(name: str) -> StackVersion:
    """The stack called `name`, optionally with switches changed: `day0+swa_budget-mhc_fusion`.

    Raises:
        BadInput: an unknown stack or switch.
    """
    base, *changes = re.split(r"(?=[+-])", name.lower())
    found = all_stacks().get(base)
    if found is None:
        raise BadInput(f"stack={name!r} is not in the catalog; choose one of {sorted(all_stacks())}")
    if not changes:
        return found
    known = get_args(Switch)
    wrong = [c[1:] for c in changes if c[1:] not in known]
    if wrong:
        raise BadInput(f"stack={name!r} names unknown switches {wrong}; choose among {list(known)}")
    return found.toggled(
        on=tuple(s for s in known if f"+{s}" in changes), off=tuple(s for s in known if f"-{s}" in changes)
    )


def stack_on(date: str) -> StackVersion:
    """The stack of a build made on an ISO date (`2026-05-27`)."""
    ordered = sorted(all_stacks().values(), key=lambda s: s.since)
    earlier = [s for s in ordered if s.since <= date]
    return earlier[-1] if earlier else ordered[0]
