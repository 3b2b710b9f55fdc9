"""Search the recipe space: rules, then the fluid model, then the event loop under Optuna."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from planner.evaluate import Bench, Evaluator, Outcome
from planner.load_search import POPULATION, Advice, LoadSearch
from planner.screen import Candidate, Screening, Tally, lawful, lawful_candidate, screen, usable
from planner.shared_study import SharedStudy
from planner.warm_start import earlier_recipes
from search_spaces.dispatch import DispatchTable
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace
from search_spaces.space_points import Site, locate
from search_spaces.workload import Slo

logging.getLogger("optuna").setLevel(logging.WARNING)
optuna.logging.set_verbosity(optuna.logging.WARNING)

Found = TypeVar("Found")
EXPLORED = 0.5
"""Share of the trials for new layouts and single steps before loads look at each other."""
CROSSED = 0.1
"""Share of the trials that cross the best recipes."""


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
        earlier: Sequence[DispatchTable] = (),
    ) -> None:
        """Args: what is fixed, spaces, public recipes, GPUs, evaluator, journal, SLO, objective, seed.

        With `shared`, studies live there and other processes work on them too; the journal is not used.
        `earlier` are tables whose recipes the search begins with, beside the public ones.
        """
        self._earlier = earlier
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

    def run_all(
        self,
        loads: Sequence[int],
        budget: int,
        threads: Executor,
        conclude: Callable[[int, dict[str, Candidate]], Found],
        on_trial: Callable[[], None],
    ) -> list[Found]:
        """Explore loads side by side; half way each looks at what is good at the ones next to it.

        Args:
            loads: ascending, their screening started.
            budget: trials per load.
            threads: where loads wait for their simulations.
            conclude: called with a load and its candidates by recipe digest, all simulated in short.
            on_trial: called after each trial.

        Returns:
            What `conclude` returned, in the order of loads.
        """
        begun = list(threads.map(lambda load: self.begin(load, budget, on_trial), loads))
        advice = [at_load.advice() for at_load in begun]

        def conclusion(index: int) -> Found:
            near = [advice[i] for i in (index - 1, index + 1) if 0 <= i < len(loads)]
            return conclude(loads[index], self.finish(begun[index], budget, near))

        return list(threads.map(conclusion, range(len(loads))))

    def run(self, concurrency: int, budget: int, on_trial: Callable[[], None]) -> dict[str, Candidate]:
        """Explore one load by itself; returns candidates by recipe digest, all simulated in short."""
        return self.finish(self.begin(concurrency, budget, on_trial), budget)

    def begin(self, concurrency: int, budget: int, on_trial: Callable[[], None]) -> LoadSearch:
        """Simulate public and screened recipes of a load, then layouts and single steps from the best."""
        screening = self._screening.pop(concurrency).result()
        at_load = LoadSearch(self, concurrency, screening, on_trial)
        first = [self._located(r, concurrency) for r in self.public_at(concurrency)]
        known = {c.recipe.digest for c in first}
        begun = earlier_recipes(
            self.bench, self.spaces, self._earlier, concurrency, self.num_gpus, at_load.tally
        )
        first += [c for c in begun if c.recipe.digest not in known] + screening.kept
        if self._shared is None:
            at_load.simulate(list({c.recipe.digest: c for c in first}.values()))
            at_load.explore(int(budget * EXPLORED))
        else:
            at_load.found = {c.recipe.digest: c for c in first}
            self._run_shared(self._shared, concurrency, budget, at_load.found, on_trial)
        return at_load

    def finish(self, at_load: LoadSearch, budget: int, near: Sequence[Advice] = ()) -> dict[str, Candidate]:
        """Simulate what is good at neighbouring loads, go on from the best of all, and cross them.

        Args:
            at_load: a begun search.
            budget: the one that it was begun with.
            near: of the loads next to it.

        Returns:
            Candidates by recipe digest, all of them simulated at short fidelity.
        """
        if self._shared is None:
            crossed = int(budget * CROSSED)
            left = budget - int(budget * EXPLORED) - crossed
            adopted = at_load.heed(near, left // 2)
            at_load.explore(left - adopted)
            at_load.cross(crossed)
            self._keep(at_load.concurrency, at_load.done)
        with self._lock:
            self.tally.add(at_load.tally)
        return at_load.found

    def breeding_study(self, concurrency: int, population: int) -> optuna.Study:
        """An empty study in memory that breeds by NSGA-III."""
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIIISampler(seed=self.seed + concurrency, population_size=population)
        return optuna.create_study(sampler=sampler, directions=["maximize", "maximize"])

    def _run_shared(
        self,
        storage: BaseStorage,
        concurrency: int,
        budget: int,
        found: dict[str, Candidate],
        on_trial: Callable[[], None],
    ) -> None:
        """Explore with other processes: what they find counts, and is not simulated here again."""
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


class _NoRecipe:
    digest = "study"


_NO_RECIPE: Any = _NoRecipe()
