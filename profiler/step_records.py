"""Turn the recording of a running engine into a step profile and live runs.

A recording is a folder with one JSON object a line in each file, plain or gzipped:

    steps.jsonl: one forward pass a line: `mode` (extend, decode, target_verify), `bs`, `tokens`,
        `seq_lens`, `extend_lens`, `prefix_lens`, `t_ns` (wall clock), `gpu_ms` (between events on the
        pass's stream), `gap_ms` (GPU idle before it), `host_ms` (until it was launched), `graph`,
        `skipped` (a prefill that was scheduled and not computed).
    phases.jsonl: what was being driven: `phase`, `t0_ns`, `t1_ns`.
    bench.jsonl: results of `sglang.bench_serving`, optional.
    server_info.json: the server's own account of its settings.

What is kept: prefill passes that were computed, and decode and verify passes in a row of their own
kind at one batch size, since the first pass after an idle spell waits for the host. The first pass of
each shape may compile kernels, and a kernel trace slows the host; both are left out. So are decode
shapes with few passes, which come from the server's first requests.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.errors import BadInput, MissingData
from search_spaces.live_run import LiveRun
from search_spaces.recipe import EngineGroup, Mtp
from search_spaces.step_profile import StepMode, StepProfile, StepRow
from search_spaces.units import MS_PER_S
from search_spaces.workload import Workload

NS_PER_S = 1e9
CONTEXT_BIN_TOKENS = 1024
"""Decode passes whose mean contexts round to the same multiple of this share a row."""
MODES: dict[str, StepMode] = {"extend": "prefill", "decode": "decode", "target_verify": "verify"}
"""Engine mode to profile mode; others are left out."""
MOE_RUNNERS = {"auto": "triton", "triton": "triton", "deep_gemm": "deep_gemm", "marlin": "marlin"}
"""The server's MoE runner to the recipe's backend; one GPU without all-to-all picks Triton by itself."""
LEFT_OUT_PHASES = ("profile",)
"""Phases under a kernel trace."""
BENCH_METRICS = {
    "median_tpot_ms": "median_tpot_ms",
    "mean_tpot_ms": "mean_tpot_ms",
    "p99_tpot_ms": "p99_tpot_ms",
    "median_ttft_ms": "median_ttft_ms",
    "mean_ttft_ms": "mean_ttft_ms",
    "p99_ttft_ms": "p99_ttft_ms",
    "mean_e2e_ms": "mean_e2e_latency_ms",
    "median_e2e_ms": "median_e2e_latency_ms",
    "median_itl_ms": "median_itl_ms",
    "total_tokens_per_s_per_gpu": "total_throughput",
    "output_tokens_per_s_per_gpu": "output_throughput",
}
"""Metric to the name `sglang.bench_serving` gives it; one GPU, so throughput is per GPU."""

LEAST_DECODE_PASSES = 10
"""Decode or verify passes below which a shape is left out."""

Pass = Mapping[str, Any]
Shape = tuple[StepMode, int, int, int, bool]


def read_profile(
    folder: Path, name: str, model: str, num_layers: int, hardware: str, device: str, note: str = ""
) -> StepProfile:
    """The step profile of a recording.

    Args:
        folder: the recording; see the module.
        name: name of the profile.
        model: catalog name of the model whose layers ran.
        num_layers: layers that ran.
        hardware: catalog name of the platform.
        device: device name as the driver prints it.
        note: versions and switches worth keeping, appended to the source.

    Raises:
        MissingData: a file of the folder is absent, or no pass is left.
        BadInput: a file has another layout.
    """
    info = json.loads(_text(folder, "server_info.json"))
    passes = _lines(folder, "steps.jsonl")
    phases = _lines(folder, "phases.jsonl")
    rows = _rows(_kept(passes, phases), _group(info, folder).draft_tokens)
    if not rows:
        raise MissingData(f"{folder}: no pass is left after first passes; record each shape more often")
    version = str(info["version"])
    spoken = model.rsplit("/", 1)[-1]
    source = f"recorded on one {device}, SGLang {version}, {num_layers} layers of {spoken}, dummy weights"
    return StepProfile(
        name=name,
        model=model,
        num_layers=num_layers,
        hardware=hardware,
        device=device,
        engine_version=version,
        group=_group(info, folder),
        max_total_tokens=info.get("max_total_num_tokens") or _inner(info, "max_total_num_tokens"),
        max_running_requests=info.get("max_running_requests"),
        measured_on=_date(passes[0]),
        source=f"{source}; {note}" if note else source,
        rows=rows,
    )


def read_live_runs(folder: Path, profile: str) -> list[LiveRun]:
    """The `sglang.bench_serving` results of a recording; empty where none was driven."""
    if _found(folder, "bench.jsonl") is None:
        return []
    driven = [p for p in _lines(folder, "phases.jsonl") if p["phase"] == "bench"]
    results = _lines(folder, "bench.jsonl")
    if len(driven) != len(results):
        raise BadInput(
            f"{folder}: bench.jsonl has {len(results)} results for {len(driven)} phases; record both again"
        )
    runs = []
    for phase, found in zip(driven, results, strict=True):
        load = Workload(
            isl=phase["isl"],
            osl=phase["osl"],
            random_range_ratio=found["random_range_ratio"],
            concurrency=phase["concurrency"],
            num_prompts=phase["prompts"],
            num_warmup=0,
            harness="bench_serving",
        )
        runs.append(
            LiveRun(
                profile=profile,
                workload=load,
                repeat=phase.get("round", 0),
                completed=found["completed"],
                duration_s=found["duration"],
                measured={name: round(float(found[key]), 4) for name, key in BENCH_METRICS.items()},
                measured_on=_date({"t_ns": phase["t0_ns"]}),
                source="sglang.bench_serving, random ids",
            )
        )
    return runs


def _found(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _text(folder: Path, name: str) -> str:
    file = _found(folder, name)
    if file is None:
        raise MissingData(f"{folder}: {name} is absent, plain or gzipped; name the folder of a recording")
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in _text(folder, name).splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise BadInput(f"{folder}/{name}: not one JSON object a line ({error}); record it again") from None


def _inner(info: Pass, key: str) -> Any:
    """A value of the server's internal states, where newer servers keep it."""
    return next((state[key] for state in info.get("internal_states") or [] if key in state), None)


def _date(row: Pass) -> str:
    return datetime.fromtimestamp(row["t_ns"] / NS_PER_S, UTC).date().isoformat()


def _group(info: Pass, folder: Path) -> EngineGroup:
    """What the one worker ran, from the server's account of its settings."""
    runner = info["moe_runner_backend"]
    if runner not in MOE_RUNNERS or info["moe_a2a_backend"] != "none":
        raise BadInput(
            f"{folder}: moe_runner_backend={runner!r} with moe_a2a_backend={info['moe_a2a_backend']!r} "
            f"is not read yet; record one of {sorted(MOE_RUNNERS)} without all-to-all"
        )
    fp4 = MOE_RUNNERS[runner] == "marlin"
    drafts = info["speculative_algorithm"]
    if drafts is not None and str(drafts).upper() not in ("EAGLE", "NEXTN"):
        raise BadInput(
            f"{folder}: speculative_algorithm={drafts!r} is not read yet; record a server with EAGLE or none"
        )
    steps = info["speculative_num_steps"] if drafts else None
    graph = info["cuda_graph_config"]["decode"]
    return EngineGroup(
        tp=info["tp_size"],
        attention_dp=info["dp_size"] if info["enable_dp_attention"] else 1,
        moe_ep=info["ep_size"],
        moe_backend=MOE_RUNNERS[runner],
        moe_activation="bf16" if fp4 else "fp8",
        expert_weights="mxfp4" if fp4 else "fp8",
        mem_fraction_static=info["mem_fraction_static"],
        swa_full_tokens_ratio=info["swa_full_tokens_ratio"],
        max_running_per_rank=info["max_running_requests"],
        chunk_tokens_per_rank=info["chunked_prefill_size"],
        max_prefill_tokens=info["max_prefill_tokens"],
        context_length=info["context_length"],
        graph_max_batch_per_rank=max(graph["bs"]) if graph["backend"] != "disabled" else 0,
        mtp=Mtp(num_steps=steps) if steps else None,
        radix_cache=not info["disable_radix_cache"],
    )


def _kept(passes: Sequence[Pass], phases: Sequence[Pass]) -> Iterable[tuple[Pass, float | None]]:
    """Passes that count, each with the GPU idle time after it (None where another kind follows)."""
    seen: set[object] = set()
    for i, row in enumerate(passes):
        mode = MODES.get(row["mode"])
        if mode is None or row["skipped"] or "gpu_ms" not in row:
            continue
        before = passes[i - 1] if i else None
        after = passes[i + 1] if i + 1 < len(passes) else None
        key = (row["mode"], row["bs"], row["tokens"], tuple(row.get("prefix_lens") or ()))
        first = key not in seen
        seen.add(key)
        if first or _in_phase(row, phases, LEFT_OUT_PHASES):
            continue
        if mode == "prefill":
            yield row, None
        elif _alike(before, row) and _alike(after, row):
            assert after is not None
            yield row, after["gap_ms"]


def _alike(other: Pass | None, row: Pass) -> bool:
    return other is not None and (other["mode"], other["bs"]) == (row["mode"], row["bs"])


def _in_phase(row: Pass, phases: Sequence[Pass], names: tuple[str, ...]) -> bool:
    return any(p["phase"] in names and p["t0_ns"] <= row["t_ns"] <= p["t1_ns"] for p in phases)


def _context(row: Pass) -> float:
    """Mean tokens cached per sequence before the pass."""
    if row["mode"] == "extend":
        return float(sum(row["prefix_lens"]) / row["bs"])
    before = 1 if row["mode"] == "decode" else 0
    return float(sum(row["seq_lens"]) / row["bs"] - before)


def _shape(row: Pass) -> Shape:
    context = _context(row)
    if row["mode"] != "extend":
        context = round(context / CONTEXT_BIN_TOKENS) * CONTEXT_BIN_TOKENS
    return MODES[row["mode"]], row["bs"], row["tokens"], round(context), row["graph"]


def _rows(kept: Iterable[tuple[Pass, float | None]], window: int) -> tuple[StepRow, ...]:
    shapes: dict[Shape, list[tuple[Pass, float | None]]] = defaultdict(list)
    for row, idle_ms in kept:
        shapes[_shape(row)].append((row, idle_ms))
    rows = []
    for (mode, sequences, tokens, _, graph), found in sorted(shapes.items()):
        if mode != "prefill" and len(found) < LEAST_DECODE_PASSES:
            continue
        gpu = np.array([row["gpu_ms"] for row, _ in found]) / MS_PER_S
        idle = np.array([after or 0.0 for _, after in found]) / MS_PER_S
        gaps = [row["gap_ms"] for row, _ in found if "gap_ms" in row]
        low, wall, high = np.percentile(gpu + idle, (10, 50, 90))
        rows.append(
            StepRow(
                mode=mode,
                sequences=sequences,
                new_tokens=sequences * window if mode == "verify" else tokens,
                context=round(float(np.mean([_context(row) for row, _ in found])), 1),
                wall_s=_rounded(wall),
                low_s=_rounded(low),
                high_s=_rounded(high),
                count=len(found),
                gpu_s=_rounded(float(np.median(gpu))),
                gap_s=_rounded(float(np.median(gaps)) / MS_PER_S) if gaps and mode != "prefill" else None,
                host_s=_rounded(float(np.median([row["host_ms"] for row, _ in found])) / MS_PER_S),
                graph=graph,
            )
        )
    return tuple(rows)


def _rounded(seconds: float) -> float:
    """Seconds to a tenth of a microsecond, beyond which a clock says nothing."""
    return round(float(seconds), 7)
