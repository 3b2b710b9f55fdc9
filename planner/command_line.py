"""A command line that asks the same again, from the values of a command's options."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

import click

from search_spaces.kernel_profile import OWN_PROFILES

ASIDE = ("as_json", "workers", "storage", "cluster")
"""Parameters that change how an answer is shown or where it is worked out, not the answer. The addresses
among them may hold passwords."""


def command_line(command: click.Command, values: Mapping[str, Any]) -> str:
    """The command with every option whose value is not the default, quoted for a POSIX shell.

    Own kernel profiles, which change every prediction, are named as the environment names them.

    Args:
        command: the command that is asked again.
        values: parameter name to value, as click passes them.
    """
    words = ["servecast", str(command.name)]
    for param in command.params:
        value = values.get(str(param.name))
        if value in (None, (), param.default) or param.name in ASIDE:
            continue
        words += _words(param, value)
    own = os.environ.get(OWN_PROFILES)
    return (f"{OWN_PROFILES}={shlex.quote(own)} " if own else "") + shlex.join(words)


def _words(param: click.Parameter, value: Any) -> list[str]:
    if isinstance(param, click.Argument):
        return [str(value)]
    if isinstance(value, bool):
        return [param.opts[0]] if value else param.secondary_opts[:1]
    name = max(param.opts, key=len)
    if isinstance(value, tuple) and param.callback is None:
        return [word for text in value for word in (name, str(text))]
    # Those with a callback take several values in one text.
    return [name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
