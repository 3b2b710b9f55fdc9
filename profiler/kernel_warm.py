"""Fill the run-time compilers' caches before kernels are timed, with several processes side by side.

DeepGEMM, TileLang, Triton and SGLang's own kernels compile when they are first called, seconds each.
The processes only launch each case once; the caches on disk make the timed run short.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from pathlib import Path

from profiler.kernel_bench import GpuBench, platform_of
from profiler.kernel_case import KernelCase
from profiler.kernel_cases import kernel_cases
from profiler.kernel_gpu import find_gpu
from profiler.kernel_plans import rank_plan
from profiler.kernel_record import read_records
from search_spaces.catalog_loader import model

COMPILED = ("gemm", "moe", "indexer", "topk", "mhc", "compress", "elementwise", "router")
"""Families that compile at run time."""
DONE, NOT_DONE = "compiled: ", "not compiled: "
"""How lines of a process start; compilers print lines of their own."""
LARGEST_BYTES = 5e9
"""Processes share the memory of the GPU; a larger case is compiled when it is timed."""


def worth_warming(case: KernelCase) -> bool:
    """Whether a case compiles something and is small enough to launch beside others."""
    sizes = dict(case.shape)
    # experts that no row reaches are allocated too
    weights = prod(int(sizes.get(name, 1)) for name in ("experts", "n", "k"))
    return case.family in COMPILED and max(case.num_bytes, weights) <= LARGEST_BYTES


def share(cases: Iterable[KernelCase], part: int, parts: int) -> list[KernelCase]:
    """What one of several processes launches: its part of each level, coarse ones first.

    Neighbours in size often need the same binary. Each process begins at another place, so that it finds what
    another one has compiled rather than compiling it at the same time.
    """

    def order(case: KernelCase) -> tuple[int, str, list[tuple[str, str]]]:
        return case.level, case.kernel, [(name, str(value)) for name, value in reversed(case.shape)]

    found: list[KernelCase] = []
    for _, level in groupby(sorted(cases, key=order), key=lambda case: case.level):
        own = list(level)[part::parts]
        begin = len(own) * part // parts
        found += own[begin:] + own[:begin]
    return found


def warm(
    processes: int,
    models: Sequence[str],
    plans: Sequence[str],
    families: Sequence[str],
    deepest: int,
    limit_s: float,
    records: Path,
) -> str:
    """Launch cases up to level `deepest` that `records` lacks once, shared among processes; a summary.

    Processes that are not done within `limit_s` are ended; what they compiled is kept.
    """
    start = time.monotonic()
    shared = {"models": list(models), "plans": list(plans), "families": list(families), "deepest": deepest}
    shared["records"] = str(records)
    commands = [
        [sys.executable, "-m", "profiler.kernel_warm", json.dumps(shared | {"part": i, "parts": processes})]
        for i in range(processes)
    ]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for command in commands
    ]
    lines: list[str] = []
    ended = 0
    try:
        for process in started:
            try:
                left = max(0.0, limit_s - (time.monotonic() - start))
                output, _ = process.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                ended += 1
            lines.extend(output.splitlines())
    finally:  # an interrupted run leaves nobody behind
        for process in started:
            process.kill()
    done = sum(line.startswith(DONE) for line in lines)
    problems = [line.removeprefix(NOT_DONE) for line in lines if line.startswith(NOT_DONE)]
    took = time.monotonic() - start
    text = f"compiled {done} cases with {processes} processes in {took:.0f} s"
    if ended:
        text += f"; {ended} processes ended at the limit of {limit_s:.0f} s"
    return "\n".join([text, *sorted(problems)[:5]])


def _main() -> None:
    """Launch this process's share, one line of output per case."""
    wanted = json.loads(sys.argv[1])
    gpu = find_gpu()
    bench = GpuBench(gpu, platform_of(gpu.name))
    every = kernel_cases(
        [model(name) for name in wanted["models"]],
        [rank_plan(name) for name in wanted["plans"]],
        wanted["families"],
    )
    path = Path(wanted["records"])
    known = read_records(path).records if path.is_file() else {}
    done = {key for (device, key), record in known.items() if device == gpu.name and record.status == "ok"}
    chosen = [
        case
        for case in every
        if worth_warming(case) and case.level <= wanted["deepest"] and case.key not in done
    ]
    for case in share(chosen, wanted["part"], wanted["parts"]):
        problem = bench.compile(case)
        print(NOT_DONE + problem if problem else DONE + case.key, flush=True)


if __name__ == "__main__":
    _main()
