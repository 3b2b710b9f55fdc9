"""The command as a program: start-up, help, exit codes and interrupts."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import click
import pytest

from planner import cli as cli_module
from planner.cli import COMMANDS, cli
from search_spaces.errors import BadInput, Infeasible, MissingData, OutOfTolerance
from tests.planner_tests.samples import recipe_file, servecast

HEAVY = {
    "numpy",
    "numba",
    "optuna",
    "matplotlib",
    "scipy",
    "pydantic",
    "simpy",
    "tqdm",
    "torch",
    "sglang",
    "yaml",
}
WRITTEN = [name for name in COMMANDS if find_spec(COMMANDS[name].module)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "planner.cli", *arguments], capture_output=True, text=True, timeout=300
    )


def test_help_loads_no_heavy_module():
    script = (
        "import sys\nfrom planner.cli import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())
    assert all(name in done.stdout and lazy.short_help in done.stdout for name, lazy in COMMANDS.items())


@pytest.mark.parametrize("name", WRITTEN)
def test_every_command_is_where_the_table_says_and_shows_an_example(name):
    command = import_module(COMMANDS[name].module).command
    assert isinstance(command, click.Command) and command.name == name
    done = servecast(name, "--help")
    assert done.exit_code == 0 and f"servecast {name}" in done.output and "Example" in done.output


@pytest.mark.parametrize("name", WRITTEN)
def test_command_modules_import_nothing_heavy(name):
    script = f"import sys, {COMMANDS[name].module}\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_top_help_shows_examples_that_parse():
    output = servecast("--help").output
    assert "servecast simulate --recipe" in output and "130 interrupted" in output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("one\ntwo"), 2),
        (Infeasible("no"), 3),
        (OutOfTolerance("far"), 4),
        (MissingData("gone"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes_and_lines(monkeypatch, error, code):
    @click.command("catalog")
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli_module.ServecastGroup, "get_command", lambda *_: failing)
    done = servecast("catalog")
    lines = done.stderr.splitlines()
    assert done.exit_code == code and done.stdout == ""
    assert lines == [f"error: {line}" for line in str(error).splitlines() or ["interrupted"]]


def test_a_bug_keeps_its_traceback(monkeypatch):
    @click.command("catalog")
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_module.ServecastGroup, "get_command", lambda *_: failing)
    with pytest.raises(ZeroDivisionError):
        cli.main(["catalog"])


def test_main_ends_with_130_when_interrupted_early(monkeypatch, capsys):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_module.cli, "main", interrupt)
    with pytest.raises(SystemExit) as done:
        cli_module.main()
    assert done.value.code == 130 and capsys.readouterr().err == "error: interrupted\n"


def test_exit_codes_of_the_program(tmp_path):
    usage, absent = run("simulate"), run("simulate", "--recipe", str(tmp_path / "none.yaml"))
    full = run("simulate", "--recipe", str(recipe_file(tmp_path, {"tp": 1})))
    assert usage.returncode == 2 and "Missing option '--recipe'" in usage.stderr
    assert absent.returncode == 2 and absent.stderr.startswith("error: ") and absent.stdout == ""
    assert full.returncode == 3 and "weights" in full.stderr and full.stdout == ""
    assert not any("Traceback" in done.stderr for done in (usage, absent, full))


def test_unknown_command_is_a_usage_error():
    done = servecast("simulat")
    assert done.exit_code == 2 and "No such command" in done.stderr
