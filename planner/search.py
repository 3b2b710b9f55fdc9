"""Search the recipe space: rules, then the fluid model, then the event loop under Optuna."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from planner.climb import Climb
from planner.corrected import Correction, Layouts
from planner.evaluate import Bench, Evaluator, Outcome
from planner.screen import (
    Candidate,
    Screening,
    Tally,
    lawful,
    lawful_candidate,
    layout_at,
    screen,
    usable,
)
from planner.shared_study import SharedStudy
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace
from search_spaces.space_points import Site, locate
from search_spaces.workload import Slo

logging.getLogger("optuna").setLevel(logging.WARNING)
optuna.logging.set_verbosity(optuna.logging.WARNING)

BATCH = 8
"""Recipes simulated between looks at what they gave; the same on any number of processes."""
POPULATION = 16
"""Recipes per generation of the sampler; a budget per load is a few generations."""
CROSSED = 0.25
"""Share of the trials that cross the best recipes; the others are new layouts and single steps."""


class Search:
    """One search: candidates per concurrency, kept in studies that survive a kill."""

    def __init__(
        self,
        bench: Bench,
        spaces: Sequence[SearchSpace],
        public: Sequence[Recipe],
        num_gpus: int,
        evaluator: Evaluator,
        storage: Path | None,
        slo: Slo,
        objective: str,
        seed: int = 0,
        shared: BaseStorage | None = None,
    ) -> None:
        """Args: what is fixed, spaces, public recipes, GPUs, evaluator, journal, SLO, objective, seed.

        With `shared`, studies live there and other processes work on them too; the journal is not used.
        """
        self._shared = shared
        self.bench, self.spaces, self.num_gpus = bench, spaces, num_gpus
        self.public = [r for r in public if r.num_gpus <= num_gpus]
        self.evaluator, self.slo, self.objective, self.seed = evaluator, slo, objective, seed
        self.tally, self._lock = Tally(), threading.Lock()
        self._screening: dict[int, Future[Screening]] = {}
        self.journals_set_aside = 0
        keep = storage if shared is None else None
        self._kept = None if keep is None else self._journal(keep)

    def _journal(self, path: Path) -> JournalStorage:
        """The journal at `path`; one that cannot be read is renamed and a new one begun.

        Nothing is lost with it: studies are replayed, and simulations are in the prediction cache.
        """
        try:
            # Optuna reads lines lazily, so that a torn one would surface in the middle of a search.
            for line in path.read_bytes().splitlines() if path.exists() else ():
                json.loads(line)
            return JournalStorage(JournalFileBackend(str(path)))
        except (ValueError, KeyError, TypeError):
            path.rename(path.with_suffix(".damaged"))
            self.journals_set_aside += 1
            return JournalStorage(JournalFileBackend(str(path)))

    def _keep(self, concurrency: int, done: Sequence[tuple[Candidate, Outcome]]) -> None:
        """Write what one concurrency saw to the journal, in place of what an earlier run wrote.

        An earlier search, finished or killed, is replayed rather than continued: it then takes the same
        decisions as an uninterrupted one, and every simulation that finished is in the cache.
        """
        if self._kept is None:
            return
        name = self.evaluator.key(_NO_RECIPE, concurrency, True)
        with self._lock:
            if name in optuna.get_all_study_names(self._kept):
                optuna.delete_study(study_name=name, storage=self._kept)
            kept = optuna.create_study(
                study_name=name, storage=self._kept, directions=["maximize", "maximize"]
            )
            kept.add_trials([self._as_trial(*item) for item in done])

    def start_screening(self, concurrencies: Sequence[int], keep: int) -> None:
        """Queue the fluid screening of all loads on the processes."""
        for load in concurrencies:
            self._screening[load] = self.evaluator.pool.submit(
                screen, self.bench, tuple(self.spaces), self.num_gpus, self.slo, self.objective, load, keep
            )

    def run(self, concurrency: int, budget: int, on_trial: Callable[[], None]) -> dict[str, Candidate]:
        """Explore one concurrency: public recipes and screened ones, then layouts, single steps and crosses.

        Layouts are those that the corrected fluid model deems best, steps and crosses start from the best
        recipes so far. Returns candidates by recipe digest, all of them simulated at short fidelity.
        """
        tally = Tally()
        screening = self._screening.pop(concurrency).result()
        tally.add(screening.tally)
        rows = dict(zip((c.recipe.digest for c in screening.kept), screening.rows, strict=True))
        first = [self._located(r, concurrency) for r in self.public_at(concurrency)] + screening.kept
        found = {c.recipe.digest: c for c in first}
        if self._shared is not None:
            self._count(tally)
            return self._run_shared(self._shared, concurrency, budget, found, on_trial)
        climb, correction = Climb(self, concurrency, tally), Correction(screening.layouts)
        done: list[tuple[Candidate, Outcome]] = []

        def simulate(batch: Sequence[Candidate]) -> None:
            """Simulate candidates in short, and tell all that propose."""
            found.update((c.recipe.digest, c) for c in batch)
            outcomes = self.evaluator.map([(c.recipe, concurrency, True) for c in batch])
            for candidate, (_, _, outcome) in zip(batch, outcomes, strict=True):
                done.append((candidate, outcome))
                climb.learn(candidate, outcome)
                row = rows.get(candidate.recipe.digest)
                if row is not None:
                    correction.learn(row, (outcome.throughput, outcome.interactivity), usable(outcome))
                on_trial()

        simulate(list(found.values()))
        crosses, left = int(budget * CROSSED), budget
        while left > crosses:
            layouts = correction.next_rows(min(BATCH // 2, left), climb.front)
            batch = [self._layout(screening.layouts, row, concurrency) for row in layouts]
            rows |= dict(zip((c.recipe.digest for c in batch), layouts, strict=True))
            batch += climb.next_batch(min(BATCH - BATCH // 2, left - len(batch)))
            if not batch:
                break
            left -= len(batch)
            simulate(batch)
        for batch in self._crosses(concurrency, left, done, tally):
            simulate(batch)
        self._keep(concurrency, done)
        self._count(tally)
        return found

    def _layout(self, layouts: Layouts, row: int, concurrency: int) -> Candidate:
        space, index = layouts.where[row]
        return layout_at(self.bench, self.spaces[space], self.num_gpus, int(index), concurrency)

    def _count(self, tally: Tally) -> None:
        """Add up what a load saw; loads are searched side by side."""
        with self._lock:
            self.tally.add(tally)

    def _crosses(
        self, concurrency: int, budget: int, done: Sequence[tuple[Candidate, Outcome]], tally: Tally
    ) -> Iterator[list[Candidate]]:
        """Batches bred by NSGA-III from the best recipes of the space that holds most of them.

        The sampler breeds only from trials that it handed out itself, so that it is asked for those first.
        """
        ranked = nondominated_first([item for item in done if item[0].point and usable(item[1])])
        if not ranked or budget < 1:
            return
        names = Counter(candidate.space for candidate, _ in ranked[:POPULATION])
        space = next(s for s in self.spaces if s.name == names.most_common(1)[0][0])
        parents = [item for item in ranked if item[0].space == space.name][:POPULATION]
        if len(parents) < 2:
            return  # nothing to cross
        knobs = space.knobs()
        distributions: dict[str, Any] = {k: CategoricalDistribution(choices) for k, choices in knobs.items()}
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIIISampler(
                seed=self.seed + concurrency, population_size=len(parents)
            )
        study = optuna.create_study(sampler=sampler, directions=["maximize", "maximize"])
        for parent, outcome in parents:
            study.enqueue_trial({k: parent.point[k] for k in knobs if k in parent.point})
            study.tell(study.ask(distributions), [outcome.throughput, outcome.interactivity])
        while budget > 0:
            asked = [study.ask(distributions) for _ in range(min(BATCH, budget))]
            budget -= len(asked)
            bred = [
                (trial, lawful_candidate(self.bench, space, trial.params, concurrency, self.num_gpus, tally))
                for trial in asked
            ]
            yield [candidate for _, candidate in bred if candidate is not None]
            outcomes = {candidate.recipe.digest: outcome for candidate, outcome in done}
            for trial, child in bred:
                if child is not None and usable(gave := outcomes[child.recipe.digest]):
                    study.tell(trial, [gave.throughput, gave.interactivity])
                else:
                    study.tell(trial, state=TrialState.PRUNED)

    def _run_shared(
        self,
        storage: BaseStorage,
        concurrency: int,
        budget: int,
        found: dict[str, Candidate],
        on_trial: Callable[[], None],
    ) -> dict[str, Candidate]:
        """The same with other processes: what they find counts, and is not simulated here again."""
        space = hashlib.sha256(f"{self.num_gpus}{self.spaces}".encode()).hexdigest()[:16]
        name = f"{self.evaluator.key(_NO_RECIPE, concurrency, True)}-{space}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Without a seed: processes with one seed would all draw the same trials.
            sampler = optuna.samplers.NSGAIIISampler(population_size=POPULATION)
        shared = SharedStudy(storage, name, self.spaces, sampler)
        if shared.made_here:
            shared.queue(found.values())
        total = budget + sum(bool(c.point) for c in found.values())
        shared.work(
            self.evaluator,
            lambda params: self.decode(params, concurrency),
            concurrency,
            total,
            self.evaluator.workers,
            on_trial,
        )
        shared.learn(self.evaluator, concurrency)
        for recipe, outcome, origin in shared.results():
            if usable(outcome):
                found.setdefault(recipe.digest, Candidate(recipe, origin))
        return found

    def _located(self, recipe: Recipe, concurrency: int) -> Candidate:
        """A public recipe with its point in the space, from which the sampler breeds."""
        site = Site(self.bench.model, self.bench.hardware, self.bench.workload.at(concurrency))
        for space in self.spaces:
            point, lacking = locate(space, recipe, site)
            if not lacking:
                return Candidate(recipe, "public", point, space.name)
        return Candidate(recipe, "public")

    def public_at(self, concurrency: int) -> list[Recipe]:
        """Public recipes dispatched at a concurrency, and those whose range encloses it, that are lawful."""
        near = sorted({c for r in self.public for c in r.concurrencies})
        below = max((c for c in near if c <= concurrency), default=None)
        above = min((c for c in near if c >= concurrency), default=None)
        wanted = {c for c in (below, above) if c is not None}
        return [
            r
            for r in self.public
            if wanted & set(r.concurrencies) and lawful(self.bench, r, concurrency) is None
        ]

    @cached_property
    def distributions(self) -> dict[str, Any]:
        """All knobs of all spaces as categoricals, the space itself included."""
        names = tuple(space.name for space in self.spaces)
        found: dict[str, Any] = {"space": CategoricalDistribution(names)}
        for space in self.spaces:
            for knob, choices in space.knobs().items():
                found[f"{space.name}/{knob}"] = CategoricalDistribution(choices)
        return found

    def decode(self, params: dict[str, Any], concurrency: int) -> Candidate | None:
        """The recipe of a trial's parameters, or None where a law removes it."""
        space = next(s for s in self.spaces if s.name == params["space"])
        point = {knob: params[f"{space.name}/{knob}"] for knob in space.knobs()}
        return lawful_candidate(self.bench, space, point, concurrency, self.num_gpus, self.tally)

    def _as_trial(self, candidate: Candidate, outcome: Outcome) -> FrozenTrial:
        params: dict[str, Any] = {}
        distributions: dict[str, Any] = {}
        if candidate.point:
            space = next(s for s in self.spaces if s.name == candidate.space)
            everything = self.distributions
            params = {"space": space.name}
            params |= {
                f"{space.name}/{k}": v
                for k, v in candidate.point.items()
                if f"{space.name}/{k}" in everything
            }
            distributions = {k: everything[k] for k in params}
        good = usable(outcome)
        return create_trial(
            state=TrialState.COMPLETE if good else TrialState.PRUNED,
            values=[outcome.throughput, outcome.interactivity] if good else None,
            params=params,
            distributions=distributions,
            user_attrs={
                "digest": candidate.recipe.digest,
                "recipe": candidate.recipe.name,
                "origin": candidate.origin,
            },
        )


def nondominated_first(items: Sequence[tuple[Candidate, Outcome]]) -> list[tuple[Candidate, Outcome]]:
    """The same items: those that no other beats on both rates, then those that only these beat, and so on."""
    left, found = list(items), []
    while left:
        rates = [(outcome.throughput, outcome.interactivity) for _, outcome in left]
        best = [not any(t > a and u > b for t, u in rates) for a, b in rates]
        found += [item for item, first in zip(left, best, strict=True) if first]
        left = [item for item, first in zip(left, best, strict=True) if not first]
    return found


class _NoRecipe:
    digest = "study"


_NO_RECIPE: Any = _NoRecipe()
