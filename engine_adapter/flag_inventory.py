"""The flags and variables that a release really has, as its own argument parser lists them.

`python -m engine_adapter.flag_inventory` writes the inventory of the SGLang that is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field

from engine_adapter.flag_table import FORCED_FLAGS, NEW_FLAGS, version_tuple
from search_spaces.base import Noun
from search_spaces.errors import BadInput, MissingData

DYNAMO_PREFIX = "dyn-"
"""Flags of `python -m dynamo.sglang` itself, which plain SGLang refuses."""
VARIABLE_PREFIX = "SGLANG_"
"""Variables with another prefix belong to other programs and are not checked."""


class Inventory(Noun):
    """What one program of one release accepts."""

    program: str
    version: str
    source: str
    flags: dict[str, Literal["switch", "value", "list"]]
    """Long option without its dashes, to what follows it."""
    choices: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Values of options that take only these."""
    variables: tuple[str, ...] = Field(default=())
    """Environment variables it reads."""


@cache
def inventory(engine_version: str) -> Inventory:
    """The SGLang inventory whose rules hold for a release: 0.5.23's from there on, else 0.5.15's."""
    name = "0.5.23" if version_tuple(engine_version) >= NEW_FLAGS else "0.5.15"
    return _load(f"sglang-{name}")


@cache
def router_inventory() -> Inventory:
    """What `sglang_router.launch_router` accepts."""
    return _load("sglang-router-0.3.2")


def _load(name: str) -> Inventory:
    text = (files("engine_adapter") / "inventories" / f"{name}.json").read_text()
    return Inventory.parse(json.loads(text), f"inventories/{name}.json")


def check_flags(
    flags: Mapping[str, object],
    env: Iterable[str],
    engine_version: str,
    where: str,
    dynamo: bool = False,
    forced: bool = True,
) -> None:
    """Raise `BadInput` for a flag, value or variable that the release does not know, or that it overrides.

    Args:
        flags: names without dashes, and values.
        env: names of variables.
        engine_version: release that is started.
        where: role or file, for the message.
        dynamo: whether `dynamo.sglang` starts the worker, which has `dyn-` flags of its own.
        forced: whether the model is DeepSeek-V4, for which the engine overrides some flags.
    """
    problems = [*_unknown(flags, env, engine_version, dynamo), *(_ignored(flags) if forced else ())]
    if problems:
        raise BadInput("\n".join(f"{where}: {problem}" for problem in problems))


def _unknown(flags: Mapping[str, object], env: Iterable[str], version: str, dynamo: bool) -> Iterator[str]:
    known = inventory(version)
    for name in flags:
        if name not in known.flags and not (dynamo and name.startswith(DYNAMO_PREFIX)):
            yield f"--{name} is no flag of SGLang {known.version}{_like(name, known.flags)}"
        choices = known.choices.get(name)
        if choices and not isinstance(flags[name], list) and str(flags[name]) not in choices:
            yield f"--{name} {flags[name]} is not taken by SGLang {known.version}; choose of {list(choices)}"
    for name in env:
        if name.startswith(VARIABLE_PREFIX) and name not in known.variables:
            yield (
                f"{name} is no variable of SGLang {known.version}, which would ignore it"
                f"{_like(name, known.variables)}"
            )


def _ignored(flags: Iterable[str]) -> Iterator[str]:
    for name in flags:
        if name in FORCED_FLAGS:
            yield f"--{name} is overridden by the engine for DeepSeek-V4; remove it"


def _like(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; remove it"


def check_command(tokens: list[str], known: Inventory, where: str) -> None:
    """Raise `BadInput` for an option of a command that its program does not have."""
    for token in tokens:
        if token.startswith("--"):
            name = token.removeprefix("--").partition("=")[0]
            if name not in known.flags:
                raise BadInput(
                    f"{where}: --{name} is no flag of {known.program} {known.version}"
                    f"{_like(name, known.flags)}"
                )


def installed_inventory() -> Inventory:
    """The inventory of the SGLang that is installed, from its parser and its sources.

    Raises:
        MissingData: SGLang is not installed.
    """
    import argparse
    from pathlib import Path

    try:
        import sglang
        from sglang.srt.server_args import ServerArgs
    except ImportError as error:
        raise MissingData(f"sglang cannot be imported: {error}; install servecast[sglang]") from None
    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    flags: dict[str, str] = {}
    choices: dict[str, list[str]] = {}
    for action in parser._actions:
        kind = "switch" if action.nargs == 0 else "list" if action.nargs in ("*", "+") else "value"
        names = [o.removeprefix("--") for o in action.option_strings if o.startswith("--")]
        flags |= dict.fromkeys(names, kind)
        if action.choices:
            choices |= {name: [str(c) for c in action.choices if c is not None] for name in names}
    variables: set[str] = set()
    for file in Path(sglang.__file__).parent.rglob("*.py"):
        variables |= set(re.findall(r"\bSGLANG_[A-Z0-9_]*[A-Z0-9]\b", file.read_text(errors="replace")))
    found: Mapping[str, object] = {
        "program": "sglang.launch_server",
        "version": sglang.__version__,
        "source": f"argparse of sglang {sglang.__version__}; variables named in its Python sources",
        "flags": dict(sorted(flags.items())),
        "choices": dict(sorted(choices.items())),
        "variables": sorted(variables),
    }
    return Inventory.parse(found, "installed sglang")


if __name__ == "__main__":
    print(installed_inventory().model_dump_json(indent=0))
