"""Add kernels timed alone on a GPU to a kernel profile.

A timing file is a JSON object whose `rows` name `kernel`, its shape and the median `us`. What a profile
does not hold yet is DeepGEMM's grouped FP8 GEMM on Hopper, under uniform routing: `moe_masked` (decode,
each expert's rows in a buffer of its own) and `moe_contiguous` (prefill, each expert padded to whole
tiles), both as `w13` (gate and up) and `w2` (down). One row of the table `moe` is their sum; the
activation between them and the permutation around them are not in it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.errors import BadInput
from search_spaces.kernel_profile import DISTRIBUTIONS, MOE_KERNELS, KernelProfile, Table
from search_spaces.model import ModelSpec
from search_spaces.units import US_PER_S

GROUPED = ("moe_contiguous", "moe_masked")
"""Layouts of the grouped GEMM; where both were timed at one shape, the first stands for prefill sizes."""


def with_grouped_gemms(profile: KernelProfile, file: Path, model: ModelSpec) -> KernelProfile:
    """`profile` with the grouped GEMMs of a timing file of the same platform in its table `moe`.

    Rows that an earlier call added are replaced.

    Raises:
        BadInput: the file has another layout, other expert shapes than `model`, or half of a pair.
    """
    try:
        text = file.read_text()
        rows = [row for row in json.loads(text)["rows"] if row["kernel"] in GROUPED]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: not a timing file ({error}); write it with the kernel timer") from None
    times: dict[tuple[int, int], float] = {}
    for layout in reversed(GROUPED):
        for key, found in _pairs([row for row in rows if row["kernel"] == layout], model, file).items():
            times[key] = found
    added = _table(times, model)
    code, drawn = added["kernel"][0], added["distribution"][0]
    known = profile.table("moe")
    keep = ~((known["kernel"] == code) & (known["distribution"] == drawn))
    joined = {name: np.concatenate([values[keep], added[name]]) for name, values in known.items()}
    order = np.lexsort([joined[name] for name in reversed(list(joined)) if name != "time_s"])
    table = {name: values[order] for name, values in joined.items()}
    digest = hashlib.sha256(text.encode()).hexdigest()
    meta = profile.meta | {"grouped_gemms": {"file": file.name, "sha256": digest, "rows": len(times)}}
    return KernelProfile(profile.name, profile.tables | {"moe": table}, meta)


def _pairs(rows: list[dict[str, Any]], model: ModelSpec, file: Path) -> dict[tuple[int, int], float]:
    """(experts of this rank, tokens of the group) to seconds of both products."""
    shapes = {
        "w13": (2 * model.expert_inner, model.hidden),
        "w2": (model.hidden, model.expert_inner),
    }
    parts: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows:
        if (row["n"], row["k"]) != shapes.get(row["name"]):
            raise BadInput(
                f"{file}: {row['name']} with n={row['n']}, k={row['k']} is not of {model.name}; "
                f"time the shapes {shapes}"
            )
        parts.setdefault((row["experts"], row["tokens"]), {})[row["name"]] = row["us"] / US_PER_S
    halves = [key for key, found in parts.items() if len(found) != len(shapes)]
    if halves:
        raise BadInput(f"{file}: experts, tokens = {halves[0]} has one product of two; time both")
    return {key: sum(found.values()) for key, found in parts.items()}


def _table(times: dict[tuple[int, int], float], model: ModelSpec) -> Table:
    keys = sorted(times)
    count = len(keys)

    def same(value: int) -> Any:
        return np.full(count, value, dtype=np.int64)

    return {
        "kernel": same(MOE_KERNELS["fp8_block_deepgemm"]),
        "hidden": same(model.hidden),
        "inter": same(model.expert_inner),
        "topk": same(model.experts_per_token),
        "experts": same(model.num_experts),
        "moe_tp": same(1),
        "moe_ep": np.array([model.num_experts // experts for experts, _ in keys]),
        "distribution": same(DISTRIBUTIONS["uniform"]),
        "tokens": np.array([tokens for _, tokens in keys]),
        "time_s": np.array([times[key] for key in keys]),
    }
