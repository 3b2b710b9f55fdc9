"""A live server for a command: attached to, or started from a recipe and stopped at the end."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from engine_adapter.adapter import LaunchCommand, ServerInfo
from engine_adapter.recipe_files import load_recipe, split_selector
from engine_adapter.sglang_server import SglangAdapter, SglangServer, engine_python
from planner.file_writer import write_files
from planner.recipe_source import find_recipe, stack_for
from profiler.recorder_files import install_recorder
from profiler.steps import HIGHEST_ID, Journal, StepDriver, StepPlan, StepPoint, measure_steps, profile_of
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from search_spaces.step_profile import StepProfile

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How to reach an engine."""

    endpoint: str | None = None
    engine_python: str | None = None
    log: str | None = None
    start_timeout: float = 900.0

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> LiveOptions:
        """From the options of a command."""
        return cls(**{name: options[name] for name in ("endpoint", "engine_python", "log", "start_timeout")})


class LiveEngine(NamedTuple):
    """A server that answers; the other two are None where someone else started it."""

    server: SglangServer
    command: LaunchCommand | None
    recorder: Path | None
    """Folder of the recorder that it runs."""


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def live_recipe(text: str) -> Recipe:
    """The recipe of a file as it stands, or a public one by name."""
    if Path(split_selector(text)[0]).exists():
        return load_recipe(text).recipe
    return find_recipe(text).recipe


def launch_command(recipe: Recipe, adapter: SglangAdapter) -> LaunchCommand:
    """The one server that can be started here.

    Raises:
        BadInput: the recipe has several workers or roles.
    """
    group = recipe.aggregated
    if group is None or group.num_workers != 1:
        raise BadInput(
            f"recipe={recipe.name!r} ({recipe.topology}) is more than one server; start it with its launch "
            "scripts and pass --endpoint"
        )
    return adapter.launch_commands(recipe, stack_for(recipe).version)["aggregated"]


@contextmanager
def live_server(
    recipe: Recipe, options: LiveOptions, log: Path, say: Say, env: dict[str, str] | None = None
) -> Iterator[tuple[SglangServer, LaunchCommand | None]]:
    """A server that answers; one started here is stopped at the end, whatever happens.

    Args:
        recipe: what to start where there is no endpoint.
        options: endpoint, interpreter, patience.
        log: where a server started here writes.
        say: progress.
        env: added to the environment of a server started here.
    """
    adapter = SglangAdapter(engine_python(options.engine_python))
    if options.endpoint:
        yield adapter.attach(options.endpoint), None
        return
    command = launch_command(recipe, adapter)
    command = command.model_copy(update={"env": {**command.env, **(env or {})}})
    log = Path(options.log) if options.log else log
    say(f"starting {recipe.name}, log {log}")
    server = adapter.start(command, log, options.start_timeout)
    try:
        yield server, command
    finally:
        server.stop()


@contextmanager
def recorded_server(recipe: Recipe, options: LiveOptions, log: Path, say: Say) -> Iterator[LiveEngine]:
    """A live server that runs the recorder, unless it was attached to."""
    with tempfile.TemporaryDirectory(prefix="servecast-steps-") as folder:
        env = install_recorder(Path(folder))
        recorder = None if options.endpoint else Path(folder)
        with live_server(recipe, options, log, say, env) as (server, command):
            yield LiveEngine(server, command, recorder)


def device_name(info: ServerInfo) -> str:
    """The local device as its driver prints it."""
    if info.device == "cpu":
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]} x{len(names)}" if names else "cpu"
    query = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    except OSError:
        found = []
    return found[0].strip() if found else info.device


def num_layers(recipe: Recipe, info: ServerInfo) -> int:
    """Layers of the served model: of its own configuration where it is here, else of the catalog."""
    config = model_config(info)
    return int(config["num_hidden_layers"]) if config else catalog_loader.model(recipe.model).num_layers


def model_config(info: ServerInfo) -> dict[str, Any]:
    """The configuration of the served model; empty where its files are not here."""
    config = Path(info.model_path) / "config.json"
    found: dict[str, Any] = json.loads(config.read_text()) if config.exists() else {}
    return found


def profile_steps(recipe_text: str, plan: StepPlan, options: LiveOptions, out: Path, say: Say) -> StepProfile:
    """Measure what the journal beside `out` lacks, and write the profile.

    Raises:
        BadInput: the recipe is no single worker, or the journal is of another one.
    """
    recipe = live_recipe(recipe_text)
    check_aggregated(recipe)
    with recorded_server(recipe, options, Path(f"{out}.log"), say) as live:
        return steps_of_server(recipe, plan, live, out, say)


def check_aggregated(recipe: Recipe) -> None:
    """Raise `BadInput` unless one kind of worker does both."""
    if recipe.aggregated is None:
        raise BadInput(f"recipe={recipe.name!r} is disaggregated; measure an aggregated worker")


def steps_of_server(recipe: Recipe, plan: StepPlan, live: LiveEngine, out: Path, say: Say) -> StepProfile:
    """Measure, on a server that runs `recipe`, what the journal beside `out` lacks; write the profile.

    Raises:
        BadInput: the recipe is no single worker, or the journal is of another one.
    """
    check_aggregated(recipe)
    info = live.server.info()
    head = {
        "recipe": recipe.digest,
        "engine": f"{info.engine} {info.engine_version}",
        "model_path": info.model_path,
        "by": "client" if live.recorder is None else "recorder",
    }
    journal = Journal(Path(f"{out}.jsonl"), head)
    vocabulary = int(model_config(info).get("vocab_size", HIGHEST_ID))
    driver = StepDriver(live.server, recipe.serving, plan, live.recorder, vocabulary)
    measure_steps(driver, journal, info, lambda point: say(_told(point)))
    found = profile_of(
        journal,
        recipe,
        info,
        device=device_name(info),
        num_layers=num_layers(recipe, info),
        date=now()[:10],
        source=" ".join(live.command.words) if live.command else f"client of {live.server.url}",
    )
    write_files({out.name: found.model_dump_json(indent=1)}, out.parent, force=True)
    return found


def _told(point: StepPoint) -> str:
    return f"{point.kind}: {point.sequences} x {point.tokens} tokens"
