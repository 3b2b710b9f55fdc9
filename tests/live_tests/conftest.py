"""The live engine of these tests: built once per machine, started once per run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_adapter.sglang_server import PYTHON_VARIABLE, SglangAdapter, SglangServer
from profiler.recorder_files import install_recorder
from search_spaces.recipe import Recipe
from tests.live_tests.tiny_models import LLAMA, recipe_of, write_model

BUILDER = Path(__file__).parents[2] / ".ci" / "live-env"
NEWER_BUILDER = BUILDER.with_name("live-newer")
START_S = 300.0


@pytest.fixture(scope="session")
def live_python() -> str:
    """Python of the CPU environment; tests are skipped only where it cannot be built."""
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return named
    built = subprocess.run([str(BUILDER)], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip("no live engine: " + (built.stderr.strip().splitlines() or ["live-env failed"])[-1])
    return built.stdout.strip()


@pytest.fixture(scope="session")
def newer_engine(live_python: str) -> str:
    """Folder of a newer release, to be imported by that Python; tests are skipped where it cannot be had."""
    built = subprocess.run([str(NEWER_BUILDER), live_python], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip("no newer engine: " + (built.stderr.strip().splitlines() or ["live-newer failed"])[-1])
    return built.stdout.strip()


@pytest.fixture(scope="session")
def adapter(live_python: str) -> SglangAdapter:
    return SglangAdapter(live_python)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A dense model of four layers."""
    return recipe_of("tiny-llama", write_model(tmp_path_factory.mktemp("llama"), LLAMA))


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the step recorder that `server` runs."""
    return tmp_path_factory.mktemp("recorder")


@pytest.fixture(scope="session")
def server(
    adapter: SglangAdapter, llama: Recipe, recorder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SglangServer]:
    """A running server of `llama`."""
    command = adapter.launch_commands(llama, "0.5.15")["aggregated"]
    command = command.model_copy(update={"env": {**command.env, **install_recorder(recorder)}})
    found = adapter.start(command, tmp_path_factory.mktemp("log") / "server.log", START_S)
    try:
        yield found
    finally:
        found.stop()
