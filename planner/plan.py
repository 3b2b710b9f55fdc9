"""The main job: from model, rack, workload and SLO to a dispatch table."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from planner.cluster import cluster_executor
from planner.comparisons import comparisons
from planner.evaluate import Bench, Evaluator, Outcome
from planner.plan_table import Chosen, plan_table
from planner.plan_types import EvaluatedPoint, PlanRequest, PlanResult
from planner.risk import judged, lead, score
from planner.screen import Candidate, meets, objective_value, relaxed, slo_misses, usable
from planner.search import Search
from planner.shared_study import storage_for
from planner.warm_start import check_tables
from search_spaces import catalog_loader
from search_spaces.dispatch import DispatchTable
from search_spaces.errors import Infeasible
from search_spaces.public_recipes import public_recipes
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, load_spaces
from search_spaces.workload import Workload
from simulator.calibration import load_calibration

DEFAULT_CONCURRENCIES = (1, 4, 16, 64, 256, 1024, 4096)
"""Loads to plan for where no public recipe says which matter."""
FINALISTS = 2
"""Recipes per load and round that are simulated in full."""
OTHER_TOPOLOGIES = 5
"""Besides, the best of so many topologies that are not among them."""
SHORT_ERROR = 0.05
"""What a short run may be wrong by, so that a whole one decides whether a recipe is worse than another."""
NOTHING_FITS = "no recipe fits the GPUs"
ROUNDS = 4
"""Rounds of finalists while none is as good as the public recipe on both axes."""


Points = dict[tuple[str, int], EvaluatedPoint]
"""What was simulated, by recipe digest and load; the most exact run of each."""


def bench_of(request: PlanRequest) -> Bench:
    """Resolve names; raises `BadInput` for unknown ones."""
    return Bench(
        catalog_loader.model(request.model),
        catalog_loader.hardware(request.hardware),
        catalog_loader.stack(request.stack),
        load_calibration(request.calibration),
        Workload(isl=request.isl, osl=request.osl, random_range_ratio=request.random_range_ratio),
        request.seed,
    )


def spaces_of(request: PlanRequest, given: Sequence[SearchSpace] = ()) -> list[SearchSpace]:
    """Search spaces of the request, without drafting where it is not allowed."""
    model = catalog_loader.model(request.model).name
    spaces = given or load_spaces(catalog_loader.hardware(request.hardware).name, model)
    return [s if request.mtp else s.model_copy(update={"mtp_steps": (0,)}) for s in spaces]


def concurrencies_of(request: PlanRequest, public: Sequence[Recipe]) -> tuple[int, ...]:
    """Loads to plan for, ascending."""
    stated = {
        c for r in public if r.is_disaggregated and r.num_gpus <= request.num_gpus for c in r.concurrencies
    }
    return tuple(sorted(set(request.concurrencies) or stated or set(DEFAULT_CONCURRENCIES)))


def plan(
    request: PlanRequest,
    out: Path | None = None,
    workers: int | None = None,
    on_step: Callable[[str, int, int], None] | None = None,
    spaces: Sequence[SearchSpace] = (),
    storage: str | None = None,
    cluster: str | None = None,
    earlier: Sequence[DispatchTable] = (),
) -> PlanResult:
    """Search, choose and tabulate.

    Args:
        request: what to plan for.
        out: folder for the study and the prediction cache; None keeps both in memory.
        workers: processes; None takes all cores.
        on_step: called with a label, steps done and steps in all.
        spaces: own search spaces instead of the shipped ones.
        storage: URL of a storage through which other processes work on the same studies.
        cluster: URL of a cluster that simulates instead of processes here.
        earlier: tables of earlier plans, whose recipes the search begins with.

    Raises:
        BadInput: unknown names.
        Infeasible: no load has a recipe that meets the SLO.
    """
    bench = bench_of(request)
    check_tables(bench, earlier)
    public = [
        r
        for r in public_recipes(bench.model.name, bench.hardware.name)
        if (request.mtp or r.mtp is None) and r.num_gpus <= request.num_gpus
    ]
    loads = concurrencies_of(request, public)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    shared = storage_for(storage) if storage else None
    pool = cluster_executor(cluster) if cluster else None
    evaluator = Evaluator(bench, out and out / "predictions.jsonl", workers or os.cpu_count() or 1, pool)
    search = Search(
        bench,
        spaces_of(request, spaces),
        public,
        request.num_gpus,
        evaluator,
        out and out / "study.journal",
        request.slo,
        request.objective,
        request.seed,
        shared,
        earlier,
    )
    total = len(loads) * (request.keep + request.trials)
    done, lock = [0], threading.Lock()

    def step() -> None:
        with lock:
            done[0] += 1
            if on_step is not None:
                on_step("search", min(done[0], total), total)

    def concluded(load: int, found: dict[str, Candidate]) -> tuple[Chosen | str, Points]:
        points: Points = {}
        return _choose(request, search, load, found, points), points

    # Loads side by side keep the processes busy while one of them thinks; a shared study is one queue.
    threads = ThreadPoolExecutor(1 if shared is not None else evaluator.workers + 1)
    try:
        search.start_screening(loads, request.keep)
        explored = search.run_all(loads, request.trials, threads, concluded, step)
        return _conclude(request, search, dict(zip(loads, explored, strict=True)))
    finally:
        evaluator.close()
        threads.shutdown(cancel_futures=True)


def _conclude(
    request: PlanRequest, search: Search, explored: Mapping[int, tuple[Chosen | str, Points]]
) -> PlanResult:
    chosen: dict[int, Chosen] = {}
    skipped: dict[int, str] = {}
    points: Points = {}
    for load, (result, seen) in explored.items():
        points |= seen
        if isinstance(result, str):
            skipped[load] = result
        else:
            chosen[load] = result
    if not chosen:
        raise _nothing(request, search, skipped)
    table, by_count = plan_table(request, search, chosen)
    return PlanResult(
        request=request,
        table=table,
        regret_by_recipes=by_count,
        counts={
            **search.tally.as_dict(),
            "simulations": search.evaluator.simulated,
            "damaged_cache_lines": search.evaluator.damaged_lines,
            "journals_set_aside": search.journals_set_aside,
        },
        points=list(points.values()),
        comparisons=comparisons(chosen),
        skipped=skipped,
    )


def _nothing(request: PlanRequest, search: Search, skipped: Mapping[int, str]) -> Infeasible:
    if set(skipped.values()) == {NOTHING_FITS}:
        removed = ", ".join(f"{rule} removed {count}" for rule, count in search.tally.pruned.most_common(3))
        return Infeasible(
            f"num_gpus={request.num_gpus}: no recipe of the search space fits"
            f"{f' ({removed})' if removed else ''}; allow more GPUs or give a space with smaller plans",
            rule="num-gpus",
        )
    nearest = "; ".join(f"c{load}: {why}" for load, why in skipped.items())
    return Infeasible(f"no recipe meets the SLO at any concurrency; nearest: {nearest}", rule="slo")


def _choose(
    request: PlanRequest,
    search: Search,
    load: int,
    found: dict[str, Candidate],
    points: Points,
) -> Chosen | str:
    """The best recipe at a load: not worse than the public one on either axis, best by objective."""
    evaluator = search.evaluator
    good, nearest = _eligible(request, search, load, found, points)
    if not good:
        return nearest
    good.sort(key=lambda item: -item[0])
    publics = [c for _, c in good if c.origin == "public" and load in c.recipe.concurrencies]
    reference = publics[0] if publics else None
    better = [c for _, c in good]
    if reference is not None:
        bar = _outcome(evaluator, reference, load, True)
        better = [c for c in better if _not_worse(_outcome(evaluator, c, load, True), bar, SHORT_ERROR)]
    finalists, full = _finals(search, load, better, reference)
    for digest, candidate in finalists.items():
        if not full[digest].infeasible:
            points[digest, load] = _point(candidate, load, full[digest], full=True)
    pool = [
        c
        for c in finalists.values()
        if usable(full[c.recipe.digest])
        and meets(request.slo, judged(request, search.bench, full[c.recipe.digest], c.recipe, load).metrics)
    ]
    if reference is not None and usable(full[reference.recipe.digest]):
        pool = [c for c in pool if _not_worse(full[c.recipe.digest], full[reference.recipe.digest])]
    if not pool:
        return "the SLO is met in short runs only; relax it slightly"
    ranked = sorted(
        ((score(request, search.bench, full[c.recipe.digest], c.recipe, load), c) for c in pool),
        key=lambda item: -item[0],
    )
    best, ahead = ranked[0][1], None
    if len(ranked) > 1:
        ahead = lead(request, search.bench, ranked[0][0], ranked[1][0], ranked[1][1].recipe.topology)
    beside = (reference.recipe, full[reference.recipe.digest]) if reference is not None else None
    return Chosen(best, full[best.recipe.digest], beside, ahead)


def _finals(
    search: Search, load: int, ranked: Sequence[Candidate], reference: Candidate | None
) -> tuple[dict[str, Candidate], dict[str, Outcome]]:
    """Full simulations of the best in short runs, by digest, the reference among them.

    A search around one recipe finds many that just pass the reference in short runs and fall just short of
    it in full ones: then the next best are tried, of other topologies too.
    """
    finalists = {} if reference is None else {reference.recipe.digest: reference}
    full: dict[str, Outcome] = {}
    rest = [c for c in ranked if c.recipe.digest not in finalists]
    for _ in range(ROUNDS):
        share = rest[:FINALISTS]
        known = {c.recipe.topology for c in (*finalists.values(), *share)}
        share += list({c.recipe.topology: c for c in rest[::-1] if c.recipe.topology not in known}.values())[
            -OTHER_TOPOLOGIES:
        ]
        picked = {c.recipe.digest for c in share}
        rest = [c for c in rest if c.recipe.digest not in picked]
        finalists |= {c.recipe.digest: c for c in share}
        new = [c for digest, c in finalists.items() if digest not in full]
        outcomes = search.evaluator.map([(c.recipe, load, False) for c in new])
        full |= {c.recipe.digest: o for c, (_, _, o) in zip(new, outcomes, strict=True)}
        if reference is None or not rest:
            break
        bar = full[reference.recipe.digest]
        if any(usable(full[d]) and _not_worse(full[d], bar) for d in picked):
            break
    return finalists, full


def _eligible(
    request: PlanRequest,
    search: Search,
    load: int,
    found: dict[str, Candidate],
    points: Points,
) -> tuple[list[tuple[float, Candidate]], str]:
    """Objective and candidate of what runs and meets the SLO in short runs, and the nearest miss."""
    short = list(search.evaluator.map([(c.recipe, load, True) for c in found.values()]))
    good: list[tuple[float, Candidate]] = []
    misses: list[tuple[float, str]] = []
    for candidate, (_, _, outcome) in zip(found.values(), short, strict=True):
        if outcome.infeasible:
            misses.append((9e9, outcome.infeasible))
            continue
        points[candidate.recipe.digest, load] = _point(candidate, load, outcome, full=False)
        seen = judged(request, search.bench, outcome, candidate.recipe, load)
        broken = slo_misses(request.slo, seen.metrics)
        if usable(outcome) and not broken:
            good.append((objective_value(seen, candidate.recipe, request.objective), candidate))
        elif broken:
            worst = max(broken, key=lambda name: broken[name])
            text = f"{candidate.recipe.topology} misses {worst} by a factor {broken[worst]:.2f}"
            misses.append((broken[worst], f"{text} and would keep {relaxed(request.slo, broken)}"))
    return good, min(misses)[1] if misses else NOTHING_FITS


def _outcome(evaluator: Evaluator, candidate: Candidate, load: int, short: bool) -> Outcome:
    return next(iter(evaluator.map([(candidate.recipe, load, short)])))[2]


def _not_worse(outcome: Outcome, bar: Outcome, slack: float = 0.0) -> bool:
    least = 1 - slack
    return outcome.throughput >= least * bar.throughput and outcome.interactivity >= least * bar.interactivity


def _point(candidate: Candidate, load: int, outcome: Outcome, full: bool) -> EvaluatedPoint:
    return EvaluatedPoint(
        recipe=candidate.recipe.name,
        topology=candidate.recipe.topology,
        digest=candidate.recipe.digest,
        mtp_steps=candidate.recipe.mtp.num_steps if candidate.recipe.mtp else 0,
        origin=candidate.origin,
        num_gpus=candidate.recipe.num_gpus,
        concurrency=load,
        total_tokens_per_s_per_gpu=outcome.throughput,
        tokens_per_s_per_user=outcome.interactivity,
        median_ttft_ms=outcome.metrics["median_ttft_ms"],
        usable=usable(outcome),
        full=full,
    )
