"""SGLang as a live engine: commands, start, state, metrics and load."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from engine_adapter import model_names
from engine_adapter.adapter import LaunchCommand, LoadResult, ServerInfo
from engine_adapter.flag_table import Role
from engine_adapter.launch_export import server_words
from engine_adapter.prometheus_text import parse_metrics
from engine_adapter.server_process import ServerProcess
from engine_adapter.sglang_bench import run_bench
from engine_adapter.sglang_emit import flags_from_group
from search_spaces import catalog_loader
from search_spaces.errors import BadInput, MissingData
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload

PYTHON_VARIABLE = "SERVECAST_ENGINE_PYTHON"
HOST = "127.0.0.1"
METRICS_FLAG = "enable-metrics"
PORT_STRIDE = 10_000
"""SGLang opens a second port this far above its own (gRPC)."""
LAST_PORT = 65_535


def engine_python(path: str | None = None) -> str:
    """The interpreter that has SGLang: `path`, else the one the environment names, else this one.

    Raises:
        MissingData: none was named and this interpreter has no SGLang.
    """
    found = path or os.environ.get(PYTHON_VARIABLE)
    if found:
        return found
    if importlib.util.find_spec("sglang") is None:
        raise MissingData(
            f"engine-python is not given and this Python has no sglang; pass --engine-python, set "
            f"{PYTHON_VARIABLE}, or install servecast[sglang]"
        )
    return sys.executable


def free_port() -> int:
    """A TCP port that nothing listens on now, and whose neighbour `PORT_STRIDE` above is a port too.

    Raises:
        MissingData: none was found.
    """
    for _ in range(64):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port + PORT_STRIDE > LAST_PORT:
            port -= PORT_STRIDE * -(-(port + PORT_STRIDE - LAST_PORT) // PORT_STRIDE)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise MissingData(f"port: {HOST} has no free TCP port; end servers that are not needed")


class SglangServer:
    """A server that answers; `process` is None where someone else started it."""

    def __init__(self, url: str, python: str, process: ServerProcess | None = None) -> None:
        """Look at `url`; commands run with `python`."""
        self.url = url.rstrip("/")
        self.python = python
        self.process = process

    def info(self) -> ServerInfo:
        """What `/get_server_info` says."""
        state = self.call("/get_server_info")
        inner = (state.get("internal_states") or [{}])[0]
        running = inner.get("effective_max_running_requests_per_dp") or state.get("max_running_requests")
        return ServerInfo(
            engine="sglang",
            engine_version=str(state["version"]),
            model_path=str(state["model_path"]),
            device=str(state["device"]),
            max_total_tokens=state.get("max_total_num_tokens"),
            max_running_requests=running,
        )

    def metrics(self) -> dict[str, float]:
        """Samples of `/metrics`; needs a server with `--enable-metrics`, as ours are."""
        return parse_metrics(self.read("/metrics").decode())

    def run_load(self, workload: Workload, num_gpus: int, seed: int) -> LoadResult:
        """Run `python -m sglang.bench_serving` and read its result."""
        return run_bench(self.python, self.url, self.info().model_path, workload, num_gpus, seed)

    def generate(
        self, prompts: list[list[int]], new_tokens: int, timeout_s: float = 600.0
    ) -> list[tuple[float, int]]:
        """Let the prompts be continued side by side by exactly `new_tokens` tokens each, and wait.

        Returns:
            When each token came (wall-clock seconds), and the index of its prompt.
        """
        body = {
            "input_ids": prompts,
            "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
            "stream": True,
        }
        with self._open("/generate", body, timeout_s) as reply:
            lines = [(time.time(), line) for line in reply if line.startswith(b"data: {")]
        events = [(when, json.loads(line.removeprefix(b"data: "))) for when, line in lines]
        errors = [event["error"] for _, event in events if "error" in event]
        if errors:
            raise MissingData(f"endpoint={self.url!r} refused a prompt: {errors[0]}")
        return [(when, int(event.get("index", 0))) for when, event in events]

    def call(self, path: str, body: object = None, timeout_s: float = 60.0) -> Any:
        """A JSON exchange; a GET without a body."""
        return json.loads(self.read(path, body, timeout_s))

    def read(self, path: str, body: object = None, timeout_s: float = 60.0) -> bytes:
        """The bytes of one answer."""
        with self._open(path, body, timeout_s) as reply:
            return bytes(reply.read())

    @contextmanager
    def _open(self, path: str, body: object, timeout_s: float) -> Iterator[IO[bytes]]:
        """An answer to read from; no answer, or an error, raises `MissingData`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            detail = error.read(300).decode(errors="replace")
            raise MissingData(f"endpoint={self.url + path!r} answers {error.code}: {detail}") from None
        except (OSError, ValueError) as error:
            raise MissingData(f"endpoint={self.url + path!r} does not answer: {error}; start it") from None

    def stop(self) -> None:
        """End the server if we started it."""
        if self.process is not None:
            self.process.stop()


class SglangAdapter:
    """`EngineAdapter` for SGLang, run by the interpreter `python`."""

    name = "sglang"

    def __init__(self, python: str) -> None:
        """Use the SGLang that `python` imports."""
        self.python = python

    def launch_commands(
        self, recipe: Recipe, engine_version: str, port: int | None = None
    ) -> dict[str, LaunchCommand]:
        """The command of the first worker of each role, on one node, listening on this machine.

        The checkpoint is `recipe.launch.model_path` where it is stated.
        """
        known = recipe.hardware in catalog_loader.all_hardware()
        hardware = catalog_loader.hardware(recipe.hardware) if known else None
        names = {name for spec in catalog_loader.all_models().values() for name in (spec.name, *spec.aliases)}
        path = recipe.launch.get("model_path") or model_names.checkpoint(recipe)
        found = {}
        for index, (name, group) in enumerate(recipe.groups.items()):
            role: Role = "prefill" if name == "prefill" else "decode" if name == "decode" else "aggregated"
            flags, env = flags_from_group(
                group, role, engine_version, hardware, known_model=recipe.model in names
            )
            flags.setdefault(METRICS_FLAG, True)
            number = free_port() if port is None else port + index
            words = [self.python, "-m", "sglang.launch_server", "--model-path", path, "--trust-remote-code"]
            words += [word for flag in server_words(flags) for word in flag]
            if role != "aggregated":
                words += ["--disaggregation-mode", role]
                words += ["--disaggregation-transfer-backend", recipe.transfer_backend or "mooncake"]
            words += ["--host", HOST, "--port", str(number)]
            found[name] = LaunchCommand(role=name, words=tuple(words), env=env, url=f"http://{HOST}:{number}")
        return found

    def start(self, command: LaunchCommand, log: Path, timeout_s: float) -> SglangServer:
        """Start a server and wait until `/health` answers 200.

        Raises:
            StartFailed: it ended or took too long; with the end of its log.
        """
        process = ServerProcess(command.words, command.env, log)
        process.wait_until_healthy(f"{command.url}/health", timeout_s)
        return SglangServer(command.url, self.python, process)

    def attach(self, url: str) -> SglangServer:
        """A server that runs already.

        Raises:
            MissingData: it does not answer `/health`.
            BadInput: `url` is no http address.
        """
        if not url.startswith(("http://", "https://")):
            raise BadInput(f"endpoint={url!r} must start with http:// or https://; write http://HOST:PORT")
        server = SglangServer(url, self.python)
        server.read("/health")
        return server
