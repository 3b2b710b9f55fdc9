"""Step-cost tables from measured steps, in place of the kernel model.

Rows of one size (sequences of a decode pass, tokens of a prefill pass) make a curve over context; between
the points of a curve, and between curves, times are interpolated on log axes. Both are made monotone first:
more work never costs less. Rows are wall times, so no host term is added to them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from search_spaces.errors import BadInput, MissingData
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.step_profile import StepProfile, StepRow
from search_spaces.workload import Workload
from simulator.calibration import HostCosts
from simulator.cost_tables import CONTEXT_AXIS, TOKEN_AXIS, RoleTables
from simulator.kernel_model import Source
from simulator.memory import MemoryBudget, graph_buckets

Floats = NDArray[np.float64]
LAYOUT = ("tp", "attention_dp", "moe_ep", "pp", "moe_backend", "mtp", "overlap_schedule")
"""Fields of a group that change what a step takes: a profile speaks for groups that agree in them."""
LEAST_S = 1e-6
UNLIMITED_TOKENS = 1 << 40
"""Window pool of an architecture that has none."""


def no_host(steps: StepProfile) -> HostCosts:
    """Host costs beside steps that are wall times: none, but the request's own way in and out."""
    zero: dict[str, Any] = dict.fromkeys(HostCosts.model_fields, 0.0)
    pipeline = host_pipeline(steps)
    inside = pipeline.prefill_turn_s if pipeline else 0.0  # the loop adds the scheduler's turn itself
    way = {
        "request_latency_s": max(0.0, (steps.request_s or 0.0) - inside),
        "frontend_token_s": steps.request_token_s or 0.0,
    }
    return HostCosts.model_construct(**(zero | way))


class HostPipeline(NamedTuple):
    """What an overlapped scheduler's host needs for a pass, seconds; measured."""

    prefill_launch_s: float
    """To launch an eager prefill pass of any size, while the GPU computes what was launched before."""
    decode_launch_s: float
    prefill_turn_s: float
    decode_turn_s: float
    waits: bool = False
    """Whether launches begin only when the GPU has ended the step before, as with drafts."""
    first_wait_s: float = 0.0
    """Until the launches of a prefill keep the GPU at work; they hide behind a step that runs meanwhile."""


HOST_BOUND = 1.08
"""A pass that takes the GPU up to so many times what it takes the host waited for its launches."""


@lru_cache(maxsize=64)
def host_pipeline(steps: StepProfile) -> HostPipeline | None:
    """The host's part of measured steps; None where it was not recorded.

    Prefill that begins a run of passes is looked at: the launches of a later one wait where the queue to the
    GPU is full. Host and GPU are told apart by `HOST_BOUND`.

    With drafts the next step waits for the lengths that verify accepts, and its turn is part of walls.
    """
    if steps.group.mtp is not None:
        return _drafting_pipeline(steps)
    turns = (steps.prefill_turn_s, steps.decode_turn_s)
    if turns[0] is None or turns[1] is None:
        return None
    first = [r for r in _alone(steps.rows) if r.context == 0 and r.host_s and r.gpu_s]
    decode = [r.host_s for r in steps.rows if r.mode == "decode" and r.host_s]
    if not first or not decode:
        return None
    launch = steps.prefill_launch_s
    if launch is None:
        bound = [r for r in first if (r.gpu_s or 0.0) <= HOST_BOUND * (r.host_s or 0.0)]
        launch = float(np.median([r.host_s or 0.0 for r in bound or first]))
    wait = _first_wait_s(steps)
    return HostPipeline(launch, float(np.median(decode)), turns[0], turns[1], first_wait_s=wait)


def _first_wait_s(steps: StepProfile) -> float:
    """How much longer the GPU takes for a prefill on an idle engine than for one queued behind a step.

    Of passes that are the GPU's both ways: where the host is the limit, the two tell nothing of it.
    """
    alone = {(r.sequences, r.new_tokens, round(r.context)): r for r in _alone(steps.rows) if _is_gpus(r)}
    found = [
        (alone[key].gpu_s or 0.0) - (r.gpu_s or 0.0)
        for r in steps.rows
        if r.mode == "prefill" and r.beside and _is_gpus(r)
        if (key := (r.sequences, r.new_tokens, round(r.context))) in alone
    ]
    return max(0.0, float(np.median(found))) if found else 0.0


def _is_gpus(row: StepRow) -> bool:
    return (row.gpu_s or 0.0) > HOST_BOUND * (row.host_s or 0.0)


def _drafting_pipeline(steps: StepProfile) -> HostPipeline | None:
    prefill = [r.host_s for r in _alone(steps.rows) if r.context == 0 and r.host_s and r.gpu_s]
    decode = [r.host_s for r in steps.rows if r.mode == "verify" and r.host_s and r.gpu_s]
    if not prefill or not decode:
        return None
    # The draft extension of a prompt waits for the prompt, so that longer ones hide what launching takes.
    return HostPipeline(min(prefill), float(np.median(decode)), 0.0, 0.0, waits=True)


class Interruption(NamedTuple):
    """What a prefill adds to a run of decode iterations beyond its own time on an idle engine, seconds."""

    base_s: float
    sequence_s: float
    """For each sequence that decodes."""

    def seconds(self, decoding: int) -> float:
        """With so many sequences; none where nothing decodes."""
        return max(0.0, self.base_s + self.sequence_s * decoding) if decoding else 0.0


@lru_cache(maxsize=64)
def interruption(steps: StepProfile) -> Interruption:
    """A straight line through the prefill rows beside decoding sequences; zero where host times tell more.

    With drafts an engine waits for the lengths that verify accepts before it forms a batch, so that the
    launches of a prefill hide behind nothing, and results come out between its parts.
    """
    rows = [r for r in steps.rows if r.mode == "prefill" and r.beside]
    if not rows or steps.group.mtp is None:
        return Interruption(0.0, 0.0)
    alone = surfaces(steps)["prefill"]
    more: dict[int, list[float]] = defaultdict(list)
    for r in rows:
        context = max(1.0, r.context + r.new_tokens / r.sequences / 2)
        more[r.beside].append(r.wall_s - float(alone.seconds(r.new_tokens, np.array([context]))[0]))
    sides = sorted(more)
    means = [float(np.mean(more[n])) for n in sides]
    slope = float(np.polyfit(sides, means, 1)[0]) if len(sides) > 1 else 0.0
    slope = max(0.0, slope)
    return Interruption(float(np.mean(means)) - slope * float(np.mean(sides)), slope)


def _alone(rows: Iterable[StepRow]) -> list[StepRow]:
    """Prefill rows of an engine that was idle before."""
    return [r for r in rows if r.mode == "prefill" and not r.beside]


@dataclass(frozen=True)
class StepSurface:
    """Seconds of one kind of pass over its size and context."""

    sizes: Floats
    """Ascending."""
    curves: tuple[tuple[Floats, Floats], ...]
    """Per size: contexts, ascending, and seconds."""
    by_host: bool = False
    """Whether the host sets the times, of which a run then meets the mean; else odd ones are left out."""

    def seconds(self, size: float, contexts: Floats) -> Floats:
        """Interpolated seconds; beyond the largest size in proportion to it, below the smallest its own."""
        curves = np.array([_along(c, s, contexts) for c, s in self.curves])
        curves = np.apply_along_axis(rising, 0, curves, np.mean if self.by_host else np.median)
        top = float(self.sizes[-1])
        if size >= top or len(self.sizes) == 1:
            found: Floats = curves[-1] * max(1.0, size / top)
            return found
        k = int(np.clip(np.searchsorted(self.sizes, size, side="right"), 1, len(self.sizes) - 1))
        low, high = np.log2(self.sizes[k - 1]), np.log2(self.sizes[k])
        share = max(0.0, (np.log2(size) - low) / (high - low))
        mixed: Floats = np.exp((1 - share) * np.log(curves[k - 1]) + share * np.log(curves[k]))
        return mixed

    def source(self, size: float, context: float) -> Source:
        """`measured` at a row, `interpolated` between rows, `analytic` beyond them."""
        reach = max(float(c[-1]) for c, _ in self.curves)
        if not self.sizes[0] <= size <= self.sizes[-1] or context > reach:
            return "analytic"
        at = np.flatnonzero(self.sizes == size)
        return "measured" if len(at) and context in self.curves[int(at[0])][0] else "interpolated"


def rising(values: Floats, middle: Callable[[list[float]], Any]) -> Floats:
    """Values that never fall: the middle of each stretch that does.

    A host that others share is slow for seconds at a time. One row from such a spell must not lift all
    larger sizes, as a running maximum would let it.
    """
    if (np.diff(values) >= 0).all():
        return values
    stretches: list[list[float]] = []
    for value in values:
        stretches.append([float(value)])
        while len(stretches) > 1 and middle(stretches[-2]) > middle(stretches[-1]):
            last = stretches.pop()
            stretches[-1] += last
    return np.concatenate([np.full(len(one), middle(one)) for one in stretches])


def _along(contexts: Floats, seconds: Floats, wanted: Floats) -> Floats:
    """One curve at `wanted`: log-log between points, level before them, the last slope (at most 1) after."""
    x, y, at = np.log(contexts), np.log(seconds), np.log(wanted)
    found: Floats = np.interp(at, x, y)
    if len(x) > 1:
        slope = min(1.0, (y[-1] - y[-2]) / (x[-1] - x[-2]))
        found = np.where(at > x[-1], y[-1] + slope * (at - x[-1]), found)
    return np.exp(found)


def surface(points: Iterable[tuple[float, float, float, int]]) -> StepSurface:
    """A surface through (size, context, seconds, weight); points that coincide are averaged."""
    by_size: dict[float, dict[float, list[tuple[float, int]]]] = defaultdict(lambda: defaultdict(list))
    for size, context, seconds, weight in points:
        by_size[size][max(context, 1.0)].append((seconds, weight))
    curves = []
    for size in sorted(by_size):
        rows = sorted(by_size[size].items())
        weights = np.array([sum(w for _, w in same) for _, same in rows], dtype=float)
        means = np.array([sum(s * w for s, w in same) for _, same in rows]) / weights
        level = isotonic_regression(means, weights=weights).x
        curves.append((np.array([context for context, _ in rows]), np.asarray(level, dtype=float)))
    return StepSurface(np.array(sorted(by_size)), tuple(curves))


def _decode_points(rows: Iterable[StepRow], mode: str) -> list[tuple[float, float, float, int]]:
    return [(float(r.sequences), r.context, r.wall_s, r.count) for r in rows if r.mode == mode]


def _prefill_points(rows: Iterable[StepRow]) -> list[tuple[float, float, float, int]]:
    """By tokens and the mean context of a query, which counts half of the pass's own tokens."""
    return [
        (float(r.new_tokens), r.context + r.new_tokens / r.sequences / 2, r.wall_s, r.count)
        for r in _alone(rows)
    ]


@lru_cache(maxsize=64)
def surfaces(steps: StepProfile) -> dict[str, StepSurface]:
    """`prefill` and `decode` surfaces; with drafts a decode iteration is timed from verify to verify.

    Raises:
        MissingData: the profile lacks one of the two kinds of pass.
    """
    mode = "verify" if steps.group.mtp else "decode"
    points = {"prefill": _prefill_points(steps.rows), "decode": _decode_points(steps.rows, mode)}
    empty = [name for name, found in points.items() if not found]
    if empty:
        raise MissingData(f"steps={steps.name!r} has no {empty[0]} rows; measure them with `profile steps`")
    return {name: replace(surface(found), by_host=name == "prefill") for name, found in points.items()}


def _gpu_points(steps: StepProfile, pipeline: HostPipeline) -> list[tuple[float, float, float, int]]:
    """Prefill points of the GPU's own time.

    Passes that waited for the host hide it. For them a bound from below stands: the smallest pass that did
    not wait, in proportion to tokens. It matters only where the host's launches hide behind a long step.
    """
    rows = [r for r in _alone(steps.rows) if r.gpu_s]
    free = [
        r for r in rows if (r.gpu_s or 0.0) > HOST_BOUND * min(pipeline.prefill_launch_s, r.host_s or 1.0)
    ]
    free = [r for r in free if r.context > 0 or (r.gpu_s or 0.0) > HOST_BOUND * (r.host_s or 0.0)]

    def work(r: StepRow) -> float:
        return (r.gpu_s or 0.0) - (0.0 if r.context else pipeline.first_wait_s)

    per_token = min(((r.new_tokens, work(r) / r.new_tokens) for r in free), default=(0, 0.0))[1]
    points = []
    for r in rows:
        seconds = work(r) if r in free else min(r.gpu_s or 0.0, per_token * r.new_tokens)
        context = r.context + r.new_tokens / r.sequences / 2
        points.append((float(r.new_tokens), context, max(seconds, LEAST_S), r.count))
    return points


@lru_cache(maxsize=64)
def prefill_gpu_surface(steps: StepProfile) -> StepSurface:
    """Prefill by the GPU's own time where the host's part is known and can hide, else by wall time."""
    pipeline = host_pipeline(steps)
    if pipeline is None or pipeline.waits:
        return surfaces(steps)["prefill"]
    return surface(_gpu_points(steps, pipeline))


def _table(found: StepSurface) -> RoleTables:
    rank = np.array([found.seconds(float(size), CONTEXT_AXIS) for size in TOKEN_AXIS])
    return RoleTables(np.ascontiguousarray(rank), np.zeros(len(TOKEN_AXIS)))


@lru_cache(maxsize=64)
def _tables(steps: StepProfile) -> tuple[RoleTables, RoleTables]:
    return _table(prefill_gpu_surface(steps)), _table(surfaces(steps)["decode"])


def _decisive(group: EngineGroup, name: str) -> object:
    """A field as far as it decides the time of a step: pretended acceptance takes what real one does."""
    if name == "mtp" and group.mtp is not None and group.mtp.adaptive is None:
        return group.mtp.computed
    return getattr(group, name)


def check_steps(steps: StepProfile, recipe: Recipe) -> None:
    """Raise `BadInput` where the profile does not speak for the recipe."""
    group = recipe.aggregated
    if group is None:
        raise BadInput(f"steps={steps.name!r} are of one worker that does both; give an aggregated recipe")
    for name, ours, theirs in (
        *((n, _decisive(group, n), _decisive(steps.group, n)) for n in LAYOUT),
        ("model", recipe.model, steps.model),
        ("hardware", recipe.hardware, steps.hardware),
    ):
        if ours != theirs:
            raise BadInput(
                f"steps={steps.name!r} were measured with {name}={theirs!r} and the recipe has {ours!r}; "
                "measure the recipe's own steps"
            )


def measured_role(
    steps: StepProfile, group: EngineGroup, has_window: bool
) -> tuple[MemoryBudget, RoleTables, RoleTables, NDArray[np.int64]]:
    """Memory budget, prefill and decode tables, and graph padding of one worker.

    A decode batch between two captured graphs runs as the larger, where graphs were replayed.

    Pool and running limit are what the server reported, unless the group asks for less.

    Raises:
        MissingData: neither the server nor the group states a pool size.
    """
    pools = [n for n in (steps.max_total_tokens, group.max_total_tokens) if n is not None]
    if not pools:
        raise MissingData(f"steps={steps.name!r} states no max_total_tokens; set it in the recipe")
    full, running = min(pools), min(steps.max_running_requests or 1 << 20, group.max_running_per_rank)
    budget = MemoryBudget(
        hbm_bytes=0.0,
        weights={},
        available_bytes=0.0,
        slot_state_bytes=0.0,
        bytes_per_token=0.0,
        full_tokens=full,
        swa_tokens=int(full * group.swa_full_tokens_ratio) if has_window else UNLIMITED_TOKENS,
        slots=running,
    )
    return budget, *_tables(steps), _padded(steps, group, 2 * running + 1)


def padded_batch(steps: StepProfile, batch: int) -> int:
    """Batch that a decode pass of `batch` sequences ran as."""
    return int(_padded(steps, steps.group, batch)[batch])


def _padded(steps: StepProfile, group: EngineGroup, largest: int) -> NDArray[np.int64]:
    """Batch after padding for 0..largest: the next captured one, or itself beyond the last."""
    batches = np.arange(largest + 1, dtype=np.int64)
    captured = np.array(graph_buckets(group), dtype=np.int64)
    if not len(captured) or not any(row.graph for row in steps.rows if row.mode in ("decode", "verify")):
        return batches
    index = np.minimum(np.searchsorted(captured, batches), len(captured) - 1)
    return np.where((batches > 0) & (batches <= captured[-1]), captured[index], batches)


def plain_page_tokens(group: EngineGroup) -> int:
    """Tokens of a cache page where the architecture forces none: the recipe's, else the engine's 1."""
    stated = group.extra_flags.get("page-size", 1)
    return stated if isinstance(stated, int) else 1


def beyond_steps(steps: StepProfile, workload: Workload) -> list[str]:
    """What a load may ask of steps that the profile did not measure, worded."""
    found = surfaces(steps)
    context = workload.isl + workload.osl
    slots = steps.max_running_requests or workload.concurrency
    asked = (
        ("decode batch", min(workload.concurrency, slots), found["decode"].sizes[-1]),
        ("decode context", context, max(c[-1] for c, _ in found["decode"].curves) * 1.05),
        ("prefill tokens", min(workload.isl, steps.group.chunk_tokens_per_rank), found["prefill"].sizes[-1]),
    )
    return [
        f"{name} reaches {value:g} and the steps {steps.name!r} end at {limit:g}: times are extrapolated"
        for name, value, limit in asked
        if value > limit
    ]
