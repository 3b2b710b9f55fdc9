"""The search at one load: what was simulated there, and what proposes more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from planner.climb import Climb, Setting
from planner.corrected import Correction, Layouts
from planner.evaluate import Outcome
from planner.screen import Candidate, Screening, Tally, lawful_candidate, layout_at, usable

if TYPE_CHECKING:
    from planner.search import Search

BATCH = 8
"""Recipes simulated between looks at what they gave; the same on any number of processes."""
POPULATION = 16
"""Recipes per generation of the sampler; a budget per load is a few generations."""


class Advice(NamedTuple):
    """What one load tells the next."""

    front: list[Candidate]
    """Recipes of the spaces that no other beats on both rates, by rate per GPU."""
    gave: dict[Setting, float]
    """What settings changed the worth of a recipe by (`Climb.gave`)."""


class LoadSearch:
    """Candidates at one load, all of them simulated at short fidelity.

    Layouts are those that the corrected fluid model deems best; single steps and crosses start from the
    best recipes so far.
    """

    def __init__(
        self, search: Search, concurrency: int, screening: Screening, on_trial: Callable[[], None]
    ) -> None:
        """Args: the search whose spaces, laws and objective hold, the load, its screening, a step's call."""
        self._search, self.concurrency, self._on_trial = search, concurrency, on_trial
        self.tally = Tally()
        self.tally.add(screening.tally)
        self._layouts: Layouts = screening.layouts
        self._rows = dict(zip((c.recipe.digest for c in screening.kept), screening.rows, strict=True))
        self._climb = Climb(search, concurrency, self.tally)
        self._correction = Correction(screening.layouts)
        self.done: list[tuple[Candidate, Outcome]] = []
        self.found: dict[str, Candidate] = {}

    def simulate(self, batch: Sequence[Candidate]) -> None:
        """Simulate candidates in short, and tell all that propose."""
        self.found.update((c.recipe.digest, c) for c in batch)
        outcomes = self._search.evaluator.map([(c.recipe, self.concurrency, True) for c in batch])
        for candidate, (_, _, outcome) in zip(batch, outcomes, strict=True):
            self.done.append((candidate, outcome))
            self._climb.learn(candidate, outcome)
            row = self._rows.get(candidate.recipe.digest)
            if row is not None:
                rates = outcome.throughput, outcome.interactivity
                self._correction.learn(row, rates, usable(outcome))
            self._on_trial()

    def explore(self, budget: int) -> None:
        """Simulate new layouts and single steps from the best recipes, half of each."""
        while budget > 0:
            layouts = self._correction.next_rows(min(BATCH // 2, budget), self._climb.front)
            batch = [self._climb.improved(self._layout(row)) for row in layouts]
            self._rows |= dict(zip((c.recipe.digest for c in batch), layouts, strict=True))
            batch += self._climb.next_batch(min(BATCH - BATCH // 2, budget - len(batch)))
            if not batch:
                break
            budget -= len(batch)
            self.simulate(batch)

    def advice(self) -> Advice:
        """What a search at another load may learn here."""
        candidates = [row[3] for row in self._climb.front_rows()]
        return Advice([c for c in candidates if c.point and c.space], self._climb.gave())

    def heed(self, near: Sequence[Advice], budget: int) -> int:
        """Simulate recipes that are good at other loads, with knobs derived anew; returns how many.

        Args:
            near: of the loads next to this one.
            budget: simulations at most.
        """
        self._climb.hear([one.gave for one in near])
        spaces = {space.name: space for space in self._search.spaces}
        fronts = zip_longest(*(spread(advice.front) for advice in near))
        batch: list[Candidate] = []
        for there in (c for group in fronts for c in group if c is not None):
            if len(batch) == budget:
                break
            candidate = lawful_candidate(
                self._search.bench, spaces[there.space], there.point, self.concurrency,
                self._search.num_gpus, self.tally,
            )  # fmt: skip
            if candidate is not None and self._climb.is_new(candidate):
                batch.append(candidate)
        self.simulate(batch)
        return len(batch)

    def cross(self, budget: int) -> None:
        """Simulate crosses of the best recipes."""
        for batch in self._crosses(budget):
            self.simulate(batch)

    def _layout(self, row: int) -> Candidate:
        space, index = self._layouts.where[row]
        search = self._search
        return layout_at(search.bench, search.spaces[space], search.num_gpus, int(index), self.concurrency)

    def _crosses(self, budget: int) -> Iterator[list[Candidate]]:
        """Batches bred by NSGA-III from the best recipes of the space that holds most of them.

        The sampler breeds only from trials that it handed out itself, so that it is asked for those first.
        """
        search = self._search
        ranked = nondominated_first([item for item in self.done if item[0].point and usable(item[1])])
        if not ranked or budget < 1:
            return
        names = Counter(candidate.space for candidate, _ in ranked[:POPULATION])
        space = next(s for s in search.spaces if s.name == names.most_common(1)[0][0])
        parents = [item for item in ranked if item[0].space == space.name][:POPULATION]
        if len(parents) < 2:
            return  # nothing to cross
        knobs = space.knobs()
        distributions: dict[str, Any] = {k: CategoricalDistribution(choices) for k, choices in knobs.items()}
        study = search.breeding_study(self.concurrency, len(parents))
        for parent, outcome in parents:
            study.enqueue_trial({k: parent.point[k] for k in knobs if k in parent.point})
            study.tell(study.ask(distributions), [outcome.throughput, outcome.interactivity])
        while budget > 0:
            asked = [study.ask(distributions) for _ in range(min(BATCH, budget))]
            budget -= len(asked)
            bred = [
                (
                    trial,
                    lawful_candidate(
                        search.bench, space, trial.params, self.concurrency, search.num_gpus, self.tally
                    ),
                )
                for trial in asked
            ]
            yield [candidate for _, candidate in bred if candidate is not None]
            outcomes = {candidate.recipe.digest: outcome for candidate, outcome in self.done}
            for trial, child in bred:
                if child is not None and usable(gave := outcomes[child.recipe.digest]):
                    study.tell(trial, [gave.throughput, gave.interactivity])
                else:
                    study.tell(trial, state=TrialState.PRUNED)


def nondominated_first(items: Sequence[tuple[Candidate, Outcome]]) -> list[tuple[Candidate, Outcome]]:
    """The same items: those that no other beats on both rates, then those that only these beat, and so on."""
    left, found = list(items), []
    while left:
        rates = [(outcome.throughput, outcome.interactivity) for _, outcome in left]
        best = [not any(t > a and u > b for t, u in rates) for a, b in rates]
        found += [item for item, first in zip(left, best, strict=True) if first]
        left = [item for item, first in zip(left, best, strict=True) if not first]
    return found


def spread(front: Sequence[Candidate]) -> list[Candidate]:
    """A front in an order (indices by their reversed bits) of which any first few cover its length."""
    bits = len(front).bit_length()
    return [front[i] for i in sorted(range(len(front)), key=lambda i: f"{i:0{bits}b}"[::-1])]
