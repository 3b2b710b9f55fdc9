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


def traffic_options(command: F) -> F:
    """What shapes the load beyond lengths and concurrency: arrivals, sessions, shared prefixes, a trace."""
    for option in reversed(
        (
            click.option(
                "--random-range-ratio", type=float, metavar="R", help="Shortest length over nominal.  [0.8]"
            ),
            click.option(
                "--num-prompts", type=int, metavar="N", help="Measured requests.  [10 x concurrency]"
            ),
            click.option(
                "--request-rate", type=float, metavar="PER_S",
                help="Mean arrivals per second instead of a closed loop; --concurrency then is a cap.",
            ),
            click.option(
                "--burstiness", type=float, metavar="SHAPE",
                help="Gamma shape of inter-arrival times: 1 is Poisson, less is burstier.",
            ),
            click.option("--turns", type=int, metavar="N", help="Requests per session."),
            click.option("--turn-tokens", type=int, metavar="TOKENS", help="New input of every later turn."),
            click.option("--think-s", type=float, metavar="S", help="Pause before the next turn."),
            click.option(
                "--shared-prefix-tokens", type=int, metavar="TOKENS", help="System prompt common to a group."
            ),
            click.option("--prefix-groups", type=int, metavar="N", help="Different system prompts."),
            click.option("--trace", metavar="FILE", help="Replay a Mooncake JSONL or Azure CSV trace."),
            click.option("--rate-scale", type=float, metavar="X", help="Replay it X times as fast."),
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


def cache_option(command: F) -> F:
    """`--cache`."""
    return click.option(
        "--cache", type=click.Path(file_okay=False), metavar="DIR",
        help="Where simulations are kept, to go on after Ctrl-C.  [~/.cache/servecast]",
    )(command)  # fmt: skip


def report_option(command: F) -> F:
    """`--report`."""
    return click.option(
        "--report", metavar="FILE.html", type=click.Path(dir_okay=False),
        help="Also write one self-contained page for planners, in place of one that is there.",
    )(command)  # fmt: skip


def evaluations_option(command: F) -> F:
    """`--evaluations`."""
    return click.option(
        "--evaluations", type=click.IntRange(min=0), default=3, show_default=True,
        help="Simulations of the other points per refit; 0 trusts the linear form and is quick.",
    )(command)  # fmt: skip


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")(
        command
    )


def engine_options(command: F) -> F:
    """`--endpoint` or a server of our own, and how to start it."""
    for option in reversed(
        (
            click.option("--endpoint", metavar="URL", help="Running server; by default one is started."),
            click.option(
                "--engine-python", metavar="FILE",
                help="Python that has SGLang.  [$SERVECAST_ENGINE_PYTHON, else this one]",
            ),
            click.option("--log", metavar="FILE", help="Log of a server started here.  [beside --out]"),
            click.option(
                "--start-timeout", type=click.FloatRange(min=1), default=900.0, show_default=True,
                metavar="S", help="Seconds a server may take to become healthy.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def step_plan_options(command: F) -> F:
    """The grid of a step profile."""
    for option in reversed(
        (
            click.option(
                "--batches", multiple=True, callback=counts_of, metavar="N[,..]", help="Decode batches."
            ),
            click.option(
                "--contexts", multiple=True, callback=counts_of, metavar="N[,..]",
                help="Decode contexts, tokens.",
            ),
            click.option(
                "--prefill-tokens", multiple=True, callback=counts_of, metavar="N[,..]",
                help="Tokens of prefill passes.",
            ),
            click.option("--passes", type=int, help="Decode passes per point.  [96]"),
        )
    ):  # fmt: skip
        command = option(command)
    return command


STEP_PLAN = ("batches", "contexts", "prefill_tokens", "passes")
"""Options of `step_plan_options`."""


def warm_up_option(command: F) -> F:
    """`--warm-up` or not."""
    return click.option(
        "--warm-up/--no-warm-up", default=True, show_default=True,
        help="First run passes of every size once, so that the engine compiles nothing while it is timed.",
    )(command)  # fmt: skip
