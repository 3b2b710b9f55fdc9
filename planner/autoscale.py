"""A day of traffic against a dispatch table: what scaling saves, and what its delays cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from planner.autoscale_types import AutoscaleRequest, AutoscaleResult, Moment, PolicyDay
from planner.capacity_curve import CapacityCurve, capacity_curve
from planner.evaluate import Bench
from planner.parallel import map_all
from search_spaces import catalog_loader
from search_spaces.errors import Infeasible
from search_spaces.units import MS_PER_S, SECONDS_PER_HOUR
from search_spaces.workload import Workload
from simulator.calibration import load_calibration


@dataclass(frozen=True)
class _Fleet:
    """Deployments of one recipe, by its curve's index."""

    curve: int
    replicas: int


@dataclass
class _State:
    """What serves, what is on its way, and who waits."""

    serving: _Fleet
    coming: _Fleet | None = None
    ready_s: float = 0.0
    backlog: float = 0.0
    enough_since_s: float | None = None
    changes: int = 0
    timeline: list[Moment] = field(default_factory=list)


def autoscale(request: AutoscaleRequest, workers: int | None = None) -> AutoscaleResult:
    """Replay a day under four policies.

    `static` keeps the smallest fleet for the peak; `replicas` adds and removes deployments of that fleet's
    recipe; `dispatch` takes the table's recipe for the requests in flight; `oracle` knows the day and has
    the smallest fleet of any recipe ready at each moment, paying for its start.

    Raises:
        Infeasible: no recipe of the table keeps the goal at any rate.
    """
    curves = _curves(request, workers)
    if not any(curve.good_rate for curve in curves):
        raise Infeasible("no recipe of the table keeps the goal at any rate; relax it", rule="slo")
    price = catalog_loader.hardware(request.table.hardware).price_per_gpu_hour
    replay = _Replay(request, curves, price)
    static = replay.smallest(request.peak_rate)
    days = [
        replay.reactive("static", lambda rate: static),
        replay.reactive("replicas", lambda rate: replay.of(static.curve, rate)),
        replay.reactive("dispatch", replay.dispatched),
        replay.oracle(),
    ]
    return AutoscaleResult(request=request, curves=curves, days=days)


def table_bench(request: AutoscaleRequest) -> Bench:
    """What is fixed while the table's recipes are simulated."""
    table = request.table
    return Bench(
        catalog_loader.model(table.model),
        catalog_loader.hardware(table.hardware),
        catalog_loader.stack(table.stack),
        load_calibration(request.calibration),
        Workload(isl=table.isl, osl=table.osl, random_range_ratio=table.random_range_ratio),
        request.seed,
    )


def _curves(request: AutoscaleRequest, workers: int | None) -> list[CapacityCurve]:
    """One per row, in the table's order."""
    table, bench = request.table, table_bench(request)
    tasks = [(bench, row.recipe, row.max_concurrency, request.goal) for row in table.rows]
    return map_all(capacity_curve, tasks, workers)


class _Replay:
    """The day in steps."""

    def __init__(self, request: AutoscaleRequest, curves: Sequence[CapacityCurve], price: float) -> None:
        self.request, self.curves, self.price = request, curves, price

    def of(self, curve: int, rate: float) -> _Fleet:
        """Deployments of one recipe for a rate."""
        return _Fleet(curve, max(1, ceil(rate / self.curves[curve].good_rate - 1e-9)))

    def smallest(self, rate: float) -> _Fleet:
        """The fleet of fewest GPUs for a rate."""
        able = [self.of(i, rate) for i, curve in enumerate(self.curves) if curve.good_rate > 0]
        return min(able, key=lambda fleet: (self.gpus(fleet), fleet.replicas))

    def dispatched(self, rate: float) -> _Fleet:
        """Deployments of the table's recipe for the requests in flight.

        A row whose recipe keeps the goal at no rate is passed over for the next one up, then down.
        """
        rows = self.request.table.rows
        home = len(rows) - 1
        for index, row in enumerate(rows):
            if rate * self.curves[index].e2e_s <= row.max_concurrency:
                home = index
                break
        order = [*range(home, len(rows)), *range(home - 1, -1, -1)]
        return self.of(next(i for i in order if self.curves[i].good_rate > 0), rate)

    def gpus(self, fleet: _Fleet | None) -> int:
        """GPUs of a fleet; none for none."""
        return 0 if fleet is None else fleet.replicas * self.curves[fleet.curve].recipe.num_gpus

    def paid(self, state: _State) -> int:
        """GPUs that are paid for; from one fleet to another of its recipe, only the difference starts."""
        now, coming = state.serving, state.coming
        if coming is None:
            return self.gpus(now)
        if coming.curve == now.curve:
            return max(self.gpus(now), self.gpus(coming))
        return self.gpus(now) + self.gpus(coming)

    def steps(self) -> list[tuple[float, float]]:
        """Time and rate of each step."""
        profile, found, index = self.request.profile, [], 0
        at = 0.0
        while at < profile.length_s - 1e-9:
            while index + 1 < len(profile.begin_s) and profile.begin_s[index + 1] <= at + 1e-9:
                index += 1
            found.append((at, profile.share[index] * self.request.peak_rate))
            at += self.request.step_s
        return found

    def serve(self, state: _State, at: float, rate: float) -> None:
        """One step: arrivals join the backlog that capacity works off; who waits past the goal is missed."""
        request, curve = self.request, self.curves[state.serving.curve]
        capacity = state.serving.replicas * curve.stable_rate
        waiting = state.backlog + max(0.0, rate - capacity) * request.step_s
        free = max(0.0, capacity - rate) * request.step_s
        patience = request.goal.loosest.get("ttft", request.goal.loosest.get("e2e", 0.0)) / MS_PER_S
        share = curve.share_at(rate / state.serving.replicas)
        if rate > capacity or waiting / capacity > patience:
            share = 0.0
        state.backlog = max(0.0, waiting - free)
        state.timeline.append(Moment(at_s=at, request_rate=rate, num_gpus=self.paid(state), good_share=share))

    def reactive(self, name: str, target: Callable[[float], _Fleet]) -> PolicyDay:
        """A day in which the fleet follows what it sees: up at once, down once less has long been enough."""
        request, steps = self.request, self.steps()
        state = _State(serving=target(steps[0][1] * request.margin))
        next_look_s = 0.0
        for at, rate in steps:
            self.take_over(state, at)
            if at >= next_look_s - 1e-9:
                next_look_s = at + request.decide_every_s
                if state.coming is None:
                    self.decide(state, at, target(rate * request.margin))
                    self.take_over(state, at)
            self.serve(state, at, rate)
        return self.day(name, state)

    def take_over(self, state: _State, at: float) -> None:
        """A fleet that is ready serves from now on."""
        if state.coming is not None and at >= state.ready_s - 1e-9:
            state.serving, state.coming = state.coming, None

    def decide(self, state: _State, at: float, want: _Fleet) -> None:
        """Change the fleet, or wait."""
        if want == state.serving:
            state.enough_since_s = None
            return
        if self.capacity(want) <= self.capacity(state.serving):
            state.enough_since_s = at if state.enough_since_s is None else state.enough_since_s
            if at - state.enough_since_s < self.request.hold_s:
                return
        state.enough_since_s = None
        if want.curve == state.serving.curve and want.replicas < state.serving.replicas:
            state.serving = want
            return
        state.coming, state.ready_s = want, at + self.request.provision_s
        state.changes += 1

    def capacity(self, fleet: _Fleet) -> float:
        """Requests per second within the goal."""
        return fleet.replicas * self.curves[fleet.curve].good_rate

    def oracle(self) -> PolicyDay:
        """The smallest fleet of each moment, there in time; its GPUs are paid for from their start."""
        steps = self.steps()
        fleets = [self.smallest(rate) for _, rate in steps]
        ahead = ceil(self.request.provision_s / self.request.step_s)
        state = _State(serving=fleets[0])
        for i, (at, rate) in enumerate(steps):
            state.changes += int(fleets[i] != state.serving)
            state.serving = fleets[i]
            self.serve(state, at, rate)
            paid = max(self.gpus(fleet) for fleet in fleets[i : i + ahead + 1])
            state.timeline[-1] = state.timeline[-1].model_copy(update={"num_gpus": paid})
        return self.day("oracle", state)

    def day(self, name: str, state: _State) -> PolicyDay:
        """Sums over a replayed day."""
        step_s = self.request.step_s
        requests = sum(m.request_rate for m in state.timeline) * step_s
        missed = sum(m.request_rate * (1 - m.good_share) for m in state.timeline) * step_s
        gpu_hours = sum(m.num_gpus for m in state.timeline) * step_s / SECONDS_PER_HOUR
        return PolicyDay(
            policy=name,
            gpu_hours=gpu_hours,
            dollars=gpu_hours * self.price,
            requests=requests,
            missed_share=missed / requests if requests else 0.0,
            peak_gpus=max(m.num_gpus for m in state.timeline),
            changes=state.changes,
            timeline=state.timeline,
        )
