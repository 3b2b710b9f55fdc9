"""What the event loop can reach at most: analytic bounds on one recipe under one load.

The bounds hold for the requests of a run as they are drawn, start and end included, not for a steady
state. They rest on sums alone: the prompt tokens and decode steps of all requests, what any step takes at
least (`step_floors`), the workers there are, and the sessions that may be in flight. Whatever else the loop
does (queues, full pools, imbalance, retractions, workers that die) adds time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import loop_state as ls
from simulator.request_table import request_table
from simulator.step_floors import Planes, decode_planes, prefill_planes
from simulator.traffic import Traffic, traffic
from simulator.world import Setting, class_tables

Floats = NDArray[np.float64]

HALVINGS = 40
PAGE = 256
SLACK = 1 - 1e-6
"""The loop adds up contexts in floating point."""


class Demand(NamedTuple):
    """The work of all requests of a run, at least."""

    requests: int
    prompt_tokens: float
    """Prompt tokens that no prefix cache can save."""
    prompt_context: float
    """Sum over those of the tokens before each."""
    longest: float
    shortest: float
    iterations: float
    """Decode steps of all requests."""
    iteration_context: float
    """Sum over those of the request's context."""
    faster_half: float
    """Decode steps of the half of the requests that needs the fewest."""
    per_token: float
    """Decode steps over output tokens of the half of the requests where that is least."""
    median_per_token: float
    """Median over requests of decode steps over output tokens."""
    serial_iterations: float
    """Decode steps of the session that needs the most."""
    think_s: float
    """Seconds that clients think in all."""
    sessions: int
    in_flight: int
    """Sessions in flight at most."""
    span_s: float
    """From the first arrival of a session to the last."""
    transfer_s: float
    """Hand-over of all prompts."""
    first_prompt_tokens: float
    """Uncached tokens of the prompt that has the fewest."""
    first_transfer_s: float
    """The quickest hand-over."""
    fewest_iterations: float
    """Decode steps of the request that needs the fewest."""


@dataclass(frozen=True)
class Bound:
    """Upper bounds on what a simulation of one setting gives; rates of the whole run."""

    total_tokens_per_s_per_gpu: float
    tokens_per_s_per_user: float
    """1 / median TPOT, whatever the throughput; infinite where nothing is decoded."""
    _tokens_per_gpu: float
    _decode: _Decode | None

    def tokens_per_s_per_user_at(self, total_tokens_per_s_per_gpu: float) -> float:
        """Upper bound on tokens/s per user of a run that gives at least this throughput.

        A run of a given length has room for so many decode steps, and the fewer there are, the more
        requests share each, and the longer it takes. It falls as throughput grows.
        """
        if total_tokens_per_s_per_gpu > self.total_tokens_per_s_per_gpu:
            return 0.0
        if total_tokens_per_s_per_gpu <= 0 or self._decode is None:
            return self.tokens_per_s_per_user
        duration = self._tokens_per_gpu / total_tokens_per_s_per_gpu
        least = self._decode.median_tpot_s(duration)
        return min(self.tokens_per_s_per_user, 1 / least) if least > 0 else self.tokens_per_s_per_user


class _Decode(NamedTuple):
    """Least durations of the decoding role as lines over the steps of all its workers, per plane."""

    planes: Planes
    workers: int
    ranks: int
    demand: Demand
    beside_s: Floats
    """Worker seconds that the run needs besides steps that decode."""
    before_s: float
    """Seconds before any worker can decode."""
    waiting_s: float
    """Request seconds that pass outside decode steps."""
    most_running: int
    """Sequences a worker decodes at once, at most."""

    @property
    def _shared_s(self) -> Floats:
        """Seconds that a step takes for each sequence of its worker."""
        own = self.planes.rank_s + self.planes.group_s
        found: Floats = (own + self.planes.context_s * self.demand.shortest) / self.ranks
        return found

    @property
    def _work_s(self) -> Floats:
        """Worker seconds of all sequences, without what each step costs whoever is in it."""
        p, d = self.planes, self.demand
        found: Floats = (
            (p.rank_s + p.group_s) * d.iterations + p.context_s * d.iteration_context
        ) / self.ranks
        return found

    def _by_workers(self, steps: float) -> float:
        """Least duration with so many steps: the workers do them one after another."""
        busy = float((self.beside_s + self.planes.fixed_s * steps + self._work_s).max())
        return self.before_s + busy / self.workers

    def _by_requests(self, steps: float) -> float:
        """Least duration with so many steps: requests in flight wait for those they share."""
        p, d = self.planes, self.demand
        alone = (p.rank_s + p.group_s / self.ranks) * d.iterations + p.context_s * d.iteration_context
        shared = self._shared_s * d.iterations**2 / steps
        decoding = float((p.fixed_s * d.iterations + np.maximum(alone, shared)).max())
        return (self.waiting_s + decoding) / d.in_flight

    def duration_s(self) -> float:
        """Least duration over any number of steps: few steps are shared by many, many take long."""
        if self.demand.iterations == 0:
            return max(self._by_workers(0.0), self.waiting_s / self.demand.in_flight)
        low, high = self.demand.iterations / self.most_running, self.demand.iterations
        if self._by_workers(low) >= self._by_requests(low):
            return self._by_workers(low)
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            if self._by_workers(middle) >= self._by_requests(middle):
                high = middle
            else:
                low = middle
        return max(self._by_workers(low), self._by_requests(high))

    def step_alone_s(self) -> float:
        """Least time of a step that decodes anything."""
        p = self.planes
        own = p.rank_s + p.group_s / self.ranks + p.context_s * self.demand.shortest
        return float((p.fixed_s + own).max())

    def median_tpot_s(self, duration_s: float) -> float:
        """Least median TPOT of a run of this duration.

        Half of the requests are no slower than the median. Even if the loop favoured them, they share the
        steps that fit the duration.
        """
        d = self.demand
        least = d.median_per_token * self.step_alone_s()
        room = self.workers * (duration_s - self.before_s) - self.beside_s - self._work_s
        if (room < 0).any() or d.iterations == 0:
            return least
        costly = self.planes.fixed_s > 0
        steps = float((room[costly] / self.planes.fixed_s[costly]).min()) if costly.any() else np.inf
        steps = min(steps, d.iterations)
        if steps <= 0:
            return least
        shared = float((self.planes.fixed_s + self._shared_s * d.faster_half / steps).max())
        return max(least, d.per_token * shared)


def bound(setting: Setting) -> Bound:
    """Bounds that no simulation of a setting exceeds.

    There is none, that is an infinite one, where a decode step is not one unit of a request's progress:
    pretended acceptance, drafts that change their length, and verification that is trimmed. Nor is there
    one for measured steps whose host works while the GPU computes: the planes add the host to each step.

    Raises:
        Infeasible: a role does not fit its GPUs.
    """
    classes, roles, _, _ = class_tables(setting)
    if (classes.i[:, ls.PROGRESS_BY] != ls.ONE_UNIT).any() or classes.i[:, ls.PIPELINED].any():
        return Bound(np.inf, np.inf, 0.0, None)
    drawn = traffic(
        setting.workload,
        setting.seed,
        setting.recipe.serving.context_length,
        not setting.recipe.is_disaggregated,
    )
    demand, chunks, least = _demand(setting, drawn, classes, roles)
    p, d = (roles.index("prefill"), roles.index("decode")) if setting.recipe.is_disaggregated else (0, 0)
    serial = bool(classes.i[d, ls.SPEC]) or p != d
    mixes = not serial
    context = demand.prompt_context / max(demand.prompt_tokens, 1.0)
    prompts = prefill_planes(classes, p, (context, demand.longest))
    prefill_s, latency_s = _prefill(prompts, demand, chunks, classes, p)
    front_s, front_latency_s = _frontend(setting, demand, drawn)
    most = _most_running(classes, d, demand, least)
    context = demand.iteration_context / max(demand.iterations, 1.0)
    floors = decode_planes(classes, d, most, (context, demand.longest), mixes)
    workers = int(classes.i[d, ls.WORKERS])
    beside = np.zeros(len(floors.fixed_s))
    if p == d and not classes.i[d, ls.MIXED]:
        # A step that mixes both pays its fixed part once: it counts for the prompts or for the steps.
        beside[(floors.fixed_s == 0) | serial] = prefill_s
    waiting = front_latency_s + latency_s + demand.transfer_s + demand.think_s
    ranks = int(classes.i[d, ls.DP])
    arrive_s, first_s = _first(setting, demand, prompts, classes, p)
    before = first_s if p != d else arrive_s
    decode = _Decode(floors, workers, ranks, demand, beside, before, waiting, most * ranks)
    # The prompt that is computed last is still to be decoded.
    last_s = demand.first_transfer_s + demand.fewest_iterations * decode.step_alone_s()
    duration = max(
        decode.duration_s(),
        arrive_s + prefill_s / int(classes.i[p, ls.WORKERS]) + last_s,
        front_s + last_s,
        demand.span_s + first_s + last_s,
        demand.serial_iterations * decode.step_alone_s(),
    )
    tokens = float(drawn.isl.sum() + drawn.osl.sum()) / setting.recipe.num_gpus / SLACK
    tpot = decode.median_tpot_s(np.inf)
    return Bound(tokens / duration, 1 / (tpot * SLACK) if tpot > 0 else np.inf, tokens, decode)


def _prefill(
    floors: Planes, demand: Demand, chunks: float, classes: ls.Classes, p: int
) -> tuple[float, float]:
    """Worker seconds of all prompts, and request seconds of all prompts as if each were alone."""
    ranks, chunk = int(classes.i[p, ls.DP]), int(classes.i[p, ls.CHUNK])
    tokens, context = demand.prompt_tokens, floors.context_s * demand.prompt_context
    together = floors.fixed_s * tokens / (ranks * chunk)
    together = together + ((floors.rank_s + floors.group_s) * tokens + context) / ranks
    alone = floors.fixed_s * chunks + (floors.rank_s + floors.group_s / ranks) * tokens + context
    return float(together.max()), float(alone.max())


def _first(
    setting: Setting, demand: Demand, floors: Planes, classes: ls.Classes, p: int
) -> tuple[float, float]:
    """Seconds until any request reaches a worker, and until any prompt is computed."""
    host, tokens = setting.host, demand.first_prompt_tokens
    front = (host.frontend_request_s + host.frontend_token_s * demand.shortest) * setting.relief.frontend_time
    arrive = front + host.request_latency_s
    each = floors.rank_s + floors.group_s / int(classes.i[p, ls.DP]) + floors.context_s * tokens / 2
    return arrive, arrive + float((floors.fixed_s + each * tokens).max())


def _frontend(setting: Setting, demand: Demand, drawn: Traffic) -> tuple[float, float]:
    """Least duration by the frontend's processes, and request seconds spent there."""
    host, factor = setting.host, setting.relief.frontend_time
    busy = demand.requests * host.frontend_request_s + float(drawn.isl.sum()) * host.frontend_token_s
    processes = max(setting.recipe.frontend.router_processes, setting.recipe.serving.tokenizer_workers)
    return busy * factor / processes, busy * factor + demand.requests * host.request_latency_s


def _most_running(classes: ls.Classes, d: int, demand: Demand, least_swa: float) -> int:
    """Sequences a rank decodes at once at most, those that finished a step ago included."""
    apart = classes.i[d, ls.ROLE] == ls.DECODE
    most = classes.i[d, ls.SLOTS] if apart else classes.i[d, ls.MAX_RUNNING]
    most = min(int(most), 2 * demand.in_flight, demand.requests)
    if classes.i[d, ls.RADIX] == 0:
        most = min(most, int(classes.f[d, ls.FULL] / demand.shortest) + 1)
    if apart and least_swa > 0:
        most = min(most, int(classes.f[d, ls.SWA] / least_swa) + 1)
    return max(most, 1)


def _demand(
    setting: Setting, drawn: Traffic, classes: ls.Classes, roles: list[str]
) -> tuple[Demand, float, float]:
    """The work of a run, the prefill steps of all prompts as if each were alone, and the least window."""
    reqs = request_table(setting, drawn)
    isl, osl, iters = (reqs.i[:, column].astype(float) for column in (ls.ISL, ls.OSL, ls.ITERS))
    saved = _saved(setting, drawn) if classes.i[:, ls.RADIX].any() else np.zeros(len(isl))
    p = roles.index("prefill") if "prefill" in roles else 0
    rate = (osl - 1) / np.maximum(iters, 1)
    several = osl > 1
    sessions = np.add.reduceat(iters, drawn.starts)
    demand = Demand(
        requests=len(isl),
        prompt_tokens=float((isl - saved).sum()),
        prompt_context=float((isl**2 - saved**2).sum()) / 2,
        longest=float((isl + osl).max()),
        shortest=float(isl.min()),
        iterations=float(iters.sum()),
        iteration_context=float((iters * isl + rate * iters * (iters - 1) / 2).sum()) * SLACK,
        faster_half=float(np.sort(iters[several])[: (several.sum() + 1) // 2].sum()),
        per_token=_least_ratio(iters[several], osl[several] - 1),
        median_per_token=float(np.median(iters[several] / (osl[several] - 1))) if several.any() else 0.0,
        serial_iterations=float(sessions.max()),
        think_s=setting.workload.think_s * (len(isl) - len(drawn.starts)),
        sessions=len(drawn.starts),
        in_flight=min(drawn.cap, len(drawn.starts)),
        span_s=float(drawn.start_s.max() - drawn.start_s.min()),
        transfer_s=float(reqs.transfer_s.sum()),
        first_prompt_tokens=float((isl - saved).min()),
        first_transfer_s=float(reqs.transfer_s.min()),
        fewest_iterations=float(iters.min()),
    )
    chunks = float(np.ceil((isl - saved) / classes.i[p, ls.CHUNK]).sum())
    return demand, chunks, float(reqs.swa.min())


def _least_ratio(steps: Floats, tokens: Floats) -> float:
    """Least ratio of sums over any half of the requests (Dinkelbach's iteration, exact)."""
    if not len(steps):
        return 0.0
    half, ratio = (len(steps) + 1) // 2, float(steps.sum() / tokens.sum())
    while True:
        picked = np.argpartition(steps - ratio * tokens, half - 1)[:half]
        better = float(steps[picked].sum() / tokens[picked].sum())
        if better >= ratio * (1 - 1e-12):
            return better
        ratio = better


def _saved(setting: Setting, drawn: Traffic) -> Floats:
    """Prompt tokens of each request that a prefix cache may hold, at most.

    A prompt's own end is computed by its own request, unless others may end there too: in a trace, inside
    the shared prefix, or in a run before.
    """
    if drawn.tree is None:
        return np.zeros(len(drawn.isl))
    tree = drawn.tree
    parent = tree.parent[tree.prompt]
    reach = np.where(parent >= 0, tree.depth[np.maximum(parent, 0)], 0)
    alike = tree.depth[tree.prompt] <= setting.workload.shared_prefix_tokens
    alike[: setting.workload.reused_prompts] = True
    if setting.workload.trace is not None:
        alike = np.ones_like(alike)
    reach = np.where(alike, tree.depth[tree.prompt], reach)
    found: Floats = (np.minimum(reach, drawn.isl - 1) // PAGE * PAGE).astype(float)
    return found
