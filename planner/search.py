"""Search the recipe space: rules, then the fluid model, then the event loop under Optuna."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from planner.climb import Climb
from planner.evaluate import Bench, Evaluator, Outcome
from planner.screen import Candidate, Tally, lawful, lawful_candidate, screen, usable
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
        self.tally = Tally()
        self._screening: dict[int, Future[tuple[list[Candidate], Tally]]] = {}
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

    def candidate(self, space: SearchSpace, point: dict[str, Any], concurrency: int) -> Candidate | None:
        """The valid, named recipe of a point, or None with the rule counted."""
        return lawful_candidate(self.bench, space, point, concurrency, self.num_gpus, self.tally)

    def study(self, concurrency: int) -> optuna.Study:
        """A fresh study of one concurrency, in memory while it runs.

        An earlier one, finished or killed, is replayed rather than continued: the sampler then takes the
        same decisions as in an uninterrupted run, and every simulation that finished is in the cache.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIIISampler(seed=self.seed + concurrency, population_size=POPULATION)
        return optuna.create_study(
            study_name=f"{self.evaluator.key(_NO_RECIPE, concurrency, True)}",
            storage=InMemoryStorage(),
            sampler=sampler,
            directions=["maximize", "maximize"],
        )

    def _keep(self, study: optuna.Study) -> None:
        """Write a finished study to the journal, a line per trial.

        Each parameter on its own, with its own flush to disk, took longer than the simulations.
        """
        if self._kept is None:
            return
        name = study.study_name
        if name in optuna.get_all_study_names(self._kept):
            optuna.delete_study(study_name=name, storage=self._kept)
        kept = optuna.create_study(study_name=name, storage=self._kept, directions=study.directions)
        kept.add_trials(study.get_trials(deepcopy=False))

    def start_screening(self, concurrencies: Sequence[int], keep: int) -> None:
        """Queue the fluid screening of all loads on the processes."""
        for load in concurrencies:
            self._screening[load] = self.evaluator.pool.submit(
                screen, self.bench, tuple(self.spaces), self.num_gpus, self.slo, self.objective, load, keep
            )

    def run(self, concurrency: int, budget: int, on_trial: Callable[[], None]) -> dict[str, Candidate]:
        """Explore one concurrency: public recipes, screened ones, steps from the best, then the sampler.

        Returns candidates by recipe digest, all of them simulated at least at short fidelity.
        """
        study = self.study(concurrency)
        screened, tally = self._screening.pop(concurrency).result()
        self.tally.add(tally)
        first = [self._located(r, concurrency) for r in self.public_at(concurrency)] + screened
        found = {c.recipe.digest: c for c in first}
        if self._shared is not None:
            return self._run_shared(self._shared, concurrency, budget, found, on_trial)
        climb = Climb(self, concurrency)
        self._simulate(study, climb, list(found.values()), on_trial)
        moves = budget - budget // 3
        while moves > 0 and (batch := climb.next_batch(min(BATCH, moves))):
            moves -= len(batch)
            found |= {c.recipe.digest: c for c in batch}
            self._simulate(study, climb, batch, on_trial)
        self._sample(study, concurrency, budget // 3 + moves, found, on_trial)
        self._keep(study)
        return found

    def _simulate(
        self, study: optuna.Study, climb: Climb, batch: Sequence[Candidate], on_trial: Callable[[], None]
    ) -> None:
        """Simulate candidates in short, and tell the study and the local search."""
        tasks = [(c.recipe, climb.concurrency, True) for c in batch]
        for candidate, (_, _, outcome) in zip(batch, self.evaluator.map(tasks), strict=True):
            study.add_trial(self._as_trial(candidate, outcome))
            climb.learn(candidate, outcome)
            on_trial()

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

    def _sample(
        self,
        study: optuna.Study,
        concurrency: int,
        budget: int,
        found: dict[str, Candidate],
        on_trial: Callable[[], None],
    ) -> None:
        distributions = self.distributions
        for begun in range(0, budget, BATCH):
            asked: list[tuple[optuna.Trial, Candidate]] = []
            for _ in range(min(BATCH, budget - begun)):
                trial = study.ask(distributions)
                candidate = self.decode(trial.params, concurrency)
                on_trial()
                if candidate is None:
                    study.tell(trial, state=TrialState.PRUNED)
                    continue
                asked.append((trial, candidate))
            outcomes = self.evaluator.map([(c.recipe, concurrency, True) for _, c in asked])
            for (trial, candidate), (_, _, outcome) in zip(asked, outcomes, strict=True):
                trial.set_user_attr("digest", candidate.recipe.digest)
                trial.set_user_attr("recipe", candidate.recipe.name)
                if usable(outcome):
                    study.tell(trial, [outcome.throughput, outcome.interactivity])
                    found.setdefault(candidate.recipe.digest, candidate)
                else:
                    study.tell(trial, state=TrialState.PRUNED)

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
        return self.candidate(space, point, concurrency)

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
