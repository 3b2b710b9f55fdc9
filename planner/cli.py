"""The command `servecast`: finds commands without importing them, and words errors for people."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import IO, Any, NamedTuple

import click

from planner.options import example
from search_spaces.errors import ServecastError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 plus the number of SIGINT, as shells have it."""


class LazyCommand(NamedTuple):
    """Where a command lives, and its line in `servecast --help`."""

    module: str
    short_help: str


COMMANDS = {
    "simulate": LazyCommand("planner.commands.simulate", "Predict one recipe and say what limits it."),
    "whatif": LazyCommand("planner.commands.whatif", "Change fields of a scenario and compare."),
    "size": LazyCommand("planner.commands.size", "Find the GPUs that given traffic needs."),
    "compare": LazyCommand("planner.commands.compare", "Put platforms side by side."),
    "autoscale": LazyCommand("planner.commands.autoscale", "Replay a day against a dispatch table."),
    "explain": LazyCommand("planner.commands.explain", "Show a recipe's memory, limits and overrides."),
    "plan": LazyCommand("planner.commands.plan", "Search the best recipes for a model on a platform."),
    "report": LazyCommand("planner.commands.report", "Show the results of a plan as one page."),
    "waterfall": LazyCommand("planner.commands.waterfall", "Show what each engine optimisation contributes."),
    "story": LazyCommand("planner.commands.story", "Write how serving got faster, measured and simulated."),
    "validate": LazyCommand("planner.commands.validate", "Compare predictions with measured points."),
    "calibrate": LazyCommand("planner.commands.calibrate", "Fit the model's parameters to measured points."),
    "export": LazyCommand(
        "planner.commands.export", "Write a recipe as srt-slurm, SGLang or Servecast files."
    ),
    "dispatch": LazyCommand("planner.commands.dispatch", "Ask a dispatch table what serves a load."),
    "space": LazyCommand("planner.commands.space", "Check, count and compare search spaces."),
    "catalog": LazyCommand("planner.commands.catalog", "Show known platforms, models, stacks and recipes."),
    "profile": LazyCommand("planner.commands.profile", "Measure, import and show kernel and step times."),
    "observe": LazyCommand("planner.commands.observe", "Run a recipe on a live engine and compare."),
}
"""Each command is the attribute `command` of its module."""


class UserError(click.ClickException):
    """An error the user can mend: one `error:` line per problem, and the error's exit code."""

    exit_code: int  # type: ignore[misc]

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print to stderr."""
        for line in self.message.splitlines():
            click.echo(f"error: {line}", file=file, err=True)


class ServecastGroup(click.Group):
    """The top group: imports a command when it runs, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name].module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.short_help) for name, lazy in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; user errors and Ctrl-C end with a message instead of a traceback."""
        try:
            return super().invoke(ctx)
        except ServecastError as error:
            raise UserError(str(error), error.exit_code) from None
        except KeyboardInterrupt:
            raise UserError("interrupted", INTERRUPTED) from None


EXAMPLES = example(
    "What would a public recipe give at 512 requests in flight?",
    "  servecast simulate --recipe disagg-high-conc-6p1d-dep4-dep8-mtp --concurrency 512",
    "Which recipes does the catalog know for a platform?",
    "  servecast catalog recipes --hardware gb300",
)


@click.group(cls=ServecastGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="servecast")
def cli() -> None:
    """Simulate and plan DeepSeek-V4 serving with SGLang, without a GPU.

    Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 2 bad input, 3 no recipe
    fits, 4 predictions out of tolerance or a server that does not start, 5 data or package missing, 130
    interrupted; 1 is a bug.
    """


def main() -> None:
    """Entry point of the console script."""
    try:
        cli.main(prog_name="servecast")
    except KeyboardInterrupt:
        click.echo("error: interrupted", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
