"""Local search at one load: from the best recipes found so far, one knob at a time."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any

from planner.evaluate import Outcome, setting_for
from planner.moves import Move, is_of_layout, neighbours
from planner.screen import Candidate, Tally, lawful_candidate, meets, objective_value, usable
from search_spaces.errors import Infeasible
from search_spaces.space_points import Site
from simulator.world import fingerprint

if TYPE_CHECKING:
    from planner.search import Search

TRIED_BEFORE = 1e3
"""What puts moves that gave nothing elsewhere behind untried ones."""
Setting = tuple[str, Any]
"""A knob and its choice."""
LEAST_GAIN = 1e-3
"""Natural logarithm of the worth that a setting must add to be given to other recipes."""
BEST_EVERY = 3
"""Every so many proposals one starts from the best recipe, the others from the front."""


class Climb:
    """Proposes neighbours of the best recipe and of the front, in turn; forgets what changes nothing.

    A neighbour that the loop cannot tell from a recipe already simulated is passed over. What a move gave
    from one recipe is a guess of what it gives from others: a recipe is first given all settings that helped
    elsewhere, then moves that helped go first, then untried ones.
    """

    def __init__(self, search: Search, concurrency: int, tally: Tally) -> None:
        """Args: the search whose spaces, laws and objective hold, the load, and what counts proposals."""
        self._search, self.concurrency, self._tally = search, concurrency, tally
        self._site = Site(search.bench.model, search.bench.hardware, search.bench.workload.at(concurrency))
        self._spaces = {space.name: space for space in search.spaces}
        self._rng = random.Random(f"{search.seed} {concurrency}")
        self._bar: Outcome | None = None
        self._best = 0.0
        self._good: list[tuple[float, float, float, Candidate]] = []
        self._rates: dict[str, tuple[float, float]] = {}
        self._seen: set[Hashable] = set()
        self._open: dict[str, list[Move]] = {}
        self._made: dict[str, tuple[tuple[Setting, ...], float]] = {}
        """Digest of what was proposed to the settings that led there, and the worth where they started."""
        self._gave: defaultdict[Setting, list[float]] = defaultdict(list)
        """Move to natural logarithms of what it changed the worth of a recipe by."""
        self._heard: Mapping[Setting, float] = {}
        """The same at other loads, on average."""
        self._turn = 0

    def learn(self, candidate: Candidate, outcome: Outcome) -> None:
        """Take a simulated candidate into account; public recipes come first."""
        search = self._search
        try:
            self._seen.add(fingerprint(setting_for(search.bench, candidate.recipe, self.concurrency)))
        except Infeasible:
            return
        if not usable(outcome) or not meets(search.slo, outcome.metrics):
            return
        rates = outcome.throughput, outcome.interactivity
        if candidate.recipe.digest in self._made:
            moves, before = self._made[candidate.recipe.digest]
            for move in moves:
                self._gave[move].append((log(rates[0] * rates[1]) - before) / len(moves))
        value = objective_value(outcome, candidate.recipe, search.objective)
        public = candidate.origin == "public" and self.concurrency in candidate.recipe.concurrencies
        if public and (self._bar is None or value > self._best):
            self._bar, self._best = outcome, value
        if self._eligible(rates):
            self._best = max(self._best, value)
        self._good.append((value, *rates, candidate))
        self._rates[candidate.recipe.digest] = rates

    def _eligible(self, rates: tuple[float, float]) -> bool:
        """Whether it is not worse than the public recipe of this load."""
        bar = self._bar
        return bar is None or (rates[0] >= bar.throughput and rates[1] >= bar.interactivity)

    @property
    def front(self) -> list[tuple[float, float]]:
        """Rates per GPU and per user of all that runs and keeps the limits."""
        return [row[1:3] for row in self._good]

    def gave(self) -> dict[Setting, float]:
        """Mean natural logarithm of what each move tried here changed the worth of a recipe by."""
        return {move: sum(values) / len(values) for move, values in self._gave.items()}

    def hear(self, others: Sequence[Mapping[Setting, float]]) -> None:
        """Take what moves gave at other loads for what they give here, until they are tried here."""
        moves = dict.fromkeys(move for one in others for move in one)  # a set's order differs between runs
        values = {move: [one[move] for one in others if move in one] for move in moves}
        self._heard = {move: sum(found) / len(found) for move, found in values.items()}

    def improved(self, candidate: Candidate) -> Candidate:
        """A candidate with the settings that helped others most, if the laws allow all of them."""
        space = self._spaces[candidate.space]
        choices = space.knobs()
        # What a knob of this name may be differs between spaces.
        settings = {k: v for k, v in self._settings().items() if v in choices.get(k, ())}
        if all(candidate.point.get(knob) == choice for knob, choice in settings.items()):
            return candidate
        search, point = self._search, dict(candidate.point) | settings
        better = lawful_candidate(search.bench, space, point, self.concurrency, search.num_gpus, self._tally)
        return better or candidate

    def _settings(self) -> dict[str, Any]:
        """The choice that gave most, of each knob besides the layout's of which one gave something."""
        best: dict[str, tuple[float, Any]] = {}
        for (knob, choice), value in {**self._elsewhere(), **self._heard, **self.gave()}.items():
            if value > max(LEAST_GAIN, best[knob][0] if knob in best else 0.0) and not is_of_layout(knob):
                best[knob] = value, choice
        return {knob: choice for knob, (_, choice) in best.items()}

    def _elsewhere(self) -> dict[Setting, float]:
        """What settings of the decode role gave, as those of a worker that does both, and the reverse."""
        return {
            (f"{there}.{knob.partition('.')[2]}", choice): value
            for (knob, choice), value in self.gave().items()
            for here, there in (("decode", "aggregated"), ("aggregated", "decode"))
            if knob.startswith(f"{here}.")
        }

    def next_batch(self, count: int) -> list[Candidate]:
        """Up to `count` neighbours to simulate; none when all roots are exhausted."""
        found: list[Candidate] = []
        best, front = self._roots()
        tried = 0
        while len(found) < count and tried < len(best) + len(front):
            self._turn += 1
            turn = best if best and self._turn % BEST_EVERY == 0 else front
            candidate = self._next_of(turn[self._turn % len(turn)]) if turn else None
            tried = tried + 1 if candidate is None else 0
            found += [candidate] if candidate is not None else []
        return found

    def front_rows(self) -> list[tuple[float, float, float, Candidate]]:
        """Objective, rates and candidate of what no other beats on both rates, by rate per GPU.

        Of recipes that give the same, the first one found stands for all.
        """
        front: list[tuple[float, float, float, Candidate]] = []
        for row in sorted(self._good, key=lambda row: (-row[1], -row[2])):
            if not front or row[2] > front[-1][2]:
                front.append(row)
        return front[::-1]

    def _roots(self) -> tuple[list[Candidate], list[Candidate]]:
        """The best recipe that may be chosen, and the front along its length."""
        able = [row for row in self._good if self._can_move(row[3])]
        eligible = [row for row in able if self._eligible(row[1:3])]
        best = [max(eligible, key=lambda row: row[0])[3]] if eligible else []
        return best, [row[3] for row in self.front_rows() if self._can_move(row[3])]

    def _can_move(self, candidate: Candidate) -> bool:
        return bool(candidate.point) and candidate.space in self._spaces

    def _next_of(self, root: Candidate) -> Candidate | None:
        """The root with all settings that helped elsewhere, else its next neighbour worth a simulation."""
        digest, search = root.recipe.digest, self._search
        better = self.improved(root)
        if better.recipe.digest != digest and self.is_new(better):
            changed = [(k, v) for k, v in better.point.items() if root.point.get(k) != v]
            return self._proposed(better, root, *changed)
        space = self._spaces[root.space]
        if digest not in self._open:
            self._open[digest] = neighbours(space, root.point, self._site, self._rng)
        queue = self._open[digest]
        queue.sort(key=self._promise)
        while queue:
            move = queue.pop()
            candidate = lawful_candidate(
                search.bench, space, move.point, self.concurrency, search.num_gpus, self._tally
            )
            if candidate is not None and self.is_new(candidate):
                return self._proposed(candidate, root, (move.knob, move.choice))
        return None

    def _proposed(self, candidate: Candidate, root: Candidate, *moves: Setting) -> Candidate:
        rates = self._rates[root.recipe.digest]
        self._made[candidate.recipe.digest] = moves, log(rates[0] * rates[1])
        return candidate

    def _promise(self, move: Move) -> float:
        """What helped comes first, then what nobody tried."""
        setting = move.knob, move.choice
        gave = self._gave.get(setting)
        value = sum(gave) / len(gave) if gave else self._heard.get(setting)
        if value is None:
            return 0.0
        return value if value > LEAST_GAIN else value - TRIED_BEFORE

    def is_new(self, candidate: Candidate) -> bool:
        """Whether the loop can tell it from all recipes seen; from now on it is one of them."""
        search = self._search
        try:
            setting = setting_for(search.bench, candidate.recipe, self.concurrency)
            print_of = fingerprint(setting)
        except Infeasible:
            return False
        new = print_of not in self._seen
        self._seen.add(print_of)
        return new
