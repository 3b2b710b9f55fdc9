"""SGLang's own load generator: its command for a workload, and its result in our terms."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine_adapter.adapter import LoadResult
from search_spaces.errors import BadInput, MissingData
from search_spaces.workload import Workload

FIRST_SEED = 42
"""Default `--seed` of bench_serving; seed 0 of a workload means it."""
LATENCIES = {
    **{
        f"{kind}_{name}_ms": f"{kind}_{name}_ms"
        for kind in ("mean", "median", "p99")
        for name in ("ttft", "tpot")
    },
    "mean_e2e_ms": "mean_e2e_latency_ms",
    "median_e2e_ms": "median_e2e_latency_ms",
}
"""Our metric to the generator's; both define TTFT, TPOT and E2E alike."""
DETAILS = ("ttfts", "itls", "input_lens", "output_lens")
"""Lists of the generator's output, one entry per request."""


def bench_command(
    python: str, url: str, tokenizer: str, workload: Workload, seed: int, out: str
) -> tuple[str, ...]:
    """The words of one closed-loop run; prompts are random token ids, lengths those the simulator draws.

    Raises:
        BadInput: the workload wants the chat template, which random ids do not have.
    """
    if workload.prompts != "random":
        raise BadInput(f"workload.prompts={workload.prompts!r} cannot be sent live; choose random")
    flags: dict[str, object] = {
        "backend": "sglang",
        "base-url": url,
        "model": tokenizer,
        "dataset-name": "random-ids",
        "tokenize-prompt": None,
        "random-input-len": workload.isl,
        "random-output-len": workload.osl,
        "random-range-ratio": workload.random_range_ratio,
        "num-prompts": workload.measured_requests,
        "max-concurrency": workload.concurrency,
        "warmup-requests": workload.warmup_requests,
        "seed": FIRST_SEED + seed,
        "output-file": out,
        "output-details": None,
        "disable-tqdm": None,
    }
    words = [python, "-m", "sglang.bench_serving"]
    for name, value in flags.items():
        words += [f"--{name}"] if value is None else [f"--{name}", str(value)]
    return tuple(words)


def run_bench(
    python: str, url: str, tokenizer: str, workload: Workload, num_gpus: int, seed: int
) -> LoadResult:
    """Run the load and wait.

    Raises:
        MissingData: the generator failed, or not every request was answered.
    """
    with tempfile.TemporaryDirectory(prefix="servecast-bench-") as folder:
        out = Path(folder) / "result.jsonl"
        command = bench_command(python, url, tokenizer, workload, seed, str(out))
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0 or not out.exists():
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise MissingData(f"bench_serving ended with exit code {done.returncode}:\n{tail}")
        record = json.loads(out.read_text().splitlines()[-1])
    return result_of(record, workload, num_gpus, command, seed)


def result_of(
    record: Mapping[str, Any], workload: Workload, num_gpus: int, command: tuple[str, ...], seed: int
) -> LoadResult:
    """One line of the generator's output file.

    Raises:
        MissingData: requests failed; a partial run is no measurement.
    """
    errors = [text for text in record.get("errors", ()) if text]
    if record["completed"] < workload.measured_requests:
        raise MissingData(
            f"num_prompts={workload.measured_requests}: only {record['completed']} requests were answered"
            f"{': ' + errors[0][:200] if errors else ''}; see the server's log"
        )
    metrics = {ours: float(record[theirs]) for ours, theirs in LATENCIES.items()}
    for kind in ("total", "output"):
        metrics[f"{kind}_tokens_per_s_per_gpu"] = record[f"{kind}_throughput"] / num_gpus
    return LoadResult(
        metrics=metrics,
        completed=record["completed"],
        duration_s=record["duration"],
        input_tokens=record["total_input_tokens"],
        output_tokens=record["total_output_tokens"],
        command=command,
        seed=seed,
        details={name: record[name] for name in DETAILS if name in record},
    )
