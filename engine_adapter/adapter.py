"""What Servecast asks of a live engine: how to start one, watch it, load it and stop it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from search_spaces.base import Noun
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload


class LaunchCommand(Noun):
    """One process to start: the words of its command line and what it adds to the environment."""

    role: str
    words: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict)
    url: str
    """Where the server answers once it is ready."""


class ServerInfo(Noun):
    """What a running server says about itself. Limits are per attention rank."""

    engine: str
    engine_version: str
    model_path: str
    device: str
    """`cuda`, `cpu`, ... as the engine names it."""
    max_total_tokens: int | None = None
    max_running_requests: int | None = None


class LoadResult(Noun):
    """One closed-loop load on a live server, counted over all GPUs of the deployment."""

    metrics: dict[str, float]
    """Names of `search_spaces.records.METRICS`."""
    completed: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    command: tuple[str, ...]
    """The load generator that ran."""
    seed: int
    details: dict[str, list[Any]] = Field(default_factory=dict)
    """Per request, in the order sent: seconds to the first token and between tokens, and its lengths."""


class EngineServer(Protocol):
    """A server that answers, ours or someone else's."""

    @property
    def url(self) -> str:
        """Base address."""

    def info(self) -> ServerInfo:
        """What the server says about itself."""

    def metrics(self) -> Mapping[str, float]:
        """Every sample the server exports to Prometheus, by its name with labels."""

    def run_load(self, workload: Workload, num_gpus: int, seed: int) -> LoadResult:
        """Drive a closed loop with the engine's own load generator, and wait for its end."""

    def stop(self) -> None:
        """End the server if this process started it; harmless when it has ended."""


class EngineAdapter(Protocol):
    """One engine."""

    name: str

    def launch_commands(
        self, recipe: Recipe, engine_version: str, port: int | None = None
    ) -> dict[str, LaunchCommand]:
        """The command of one worker per role, on one node."""

    def start(self, command: LaunchCommand, log: Path, timeout_s: float) -> EngineServer:
        """Start a server in a process group of its own and wait until it is healthy."""

    def attach(self, url: str) -> EngineServer:
        """A server that runs already."""
