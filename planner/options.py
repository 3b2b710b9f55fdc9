"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from search_spaces.errors import BadInput

F = TypeVar("F", bound=Callable[..., Any])


def names_of(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Callback: `a,b` and repeated options to a tuple of names."""
    return tuple(name.strip() for text in value for name in text.split(",") if name.strip())


def counts_of(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[int, ...]:
    """Callback: `1,2` and repeated options to a tuple of whole numbers above 0."""
    names = names_of(ctx, param, value)
    wrong = [name for name in names if not name.isascii() or not name.isdigit() or int(name) < 1]
    if wrong:
        raise BadInput(f"{param.name}={wrong[0]!r} must be a whole number above 0; write e.g. 64,128")
    return tuple(int(name) for name in names)


def example(*lines: str) -> str:
    """Text for the end of a help page, with its lines kept as they are."""
    return "\n".join(("\b", *lines))


def recipe_options(command: F) -> F:
    """`--recipe`, what may replace parts of it, and the load."""
    for option in reversed(
        (
            click.option(
                "--recipe", required=True, metavar="FILE[:SELECTOR]",
                help="Recipe file, or a public recipe's name.",
            ),
            click.option("--hardware", metavar="NAME", help="Platform instead of the recipe's."),
            click.option("--model", metavar="NAME", help="Model instead of the recipe's."),
            click.option(
                "--concurrency", type=int, metavar="N",
                help="Requests in flight; the recipe's largest by default.",
            ),
            click.option(
                "--isl", type=int, metavar="TOKENS", help="Nominal input length.  [the file's, else 8192]"
            ),
            click.option(
                "--osl", type=int, metavar="TOKENS", help="Nominal output length.  [the file's, else 1024]"
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def stack_options(command: F) -> F:
    """`--stack`, `--with` and `--without`."""
    command = click.option(
        "--without", "without", multiple=True, callback=names_of, metavar="SWITCH[,..]",
        help="Optimisations to switch off in that stack.",
    )(command)  # fmt: skip
    command = click.option(
        "--with", "with_", multiple=True, callback=names_of, metavar="SWITCH[,..]",
        help="Optimisations to switch on; `servecast catalog stacks` lists them.",
    )(command)  # fmt: skip
    return click.option(
        "--stack",
        metavar="NAME",
        help="Engine build, such as june or day0+swa_budget; the recipe's own by default.",
    )(command)


def calibration_option(command: F) -> F:
    """`--calibration`."""
    return click.option(
        "--calibration", metavar="FILE", help="Calibration JSON instead of the one that ships."
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(
        command
    )
