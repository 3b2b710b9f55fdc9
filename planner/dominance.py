"""Which recipes need no simulation: whatever one would give, another recipe gave at least as much."""

from __future__ import annotations

from collections.abc import Iterable

from planner.evaluate import Outcome
from planner.screen import objective_value, usable
from search_spaces.recipe import Recipe
from simulator.bound import Bound


class Front:
    """Rates per GPU and per user of simulated recipes that no other beats on both axes."""

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        """Args: what was simulated at one load and fidelity."""
        self._rates: list[tuple[float, float]] = []
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Take a simulation into account; one that would break the engine proves nothing."""
        if not usable(outcome):
            return
        new = (outcome.throughput, outcome.interactivity)
        if any(t >= new[0] and u >= new[1] for t, u in self._rates):
            return
        kept = [(t, u) for t, u in self._rates if t > new[0] or u > new[1]]
        self._rates = sorted([*kept, new])

    def covers(self, limit: Bound) -> bool:
        """Whether every point that a recipe could reach is beaten or met on both axes by a simulated one.

        From one simulated throughput to the next the recipe's rate per user can only fall, so that the
        lower end of each stretch decides.
        """
        below = 0.0
        for throughput, interactivity in self._rates:
            if limit.tokens_per_s_per_user_at(below) > interactivity:
                return False
            if throughput >= limit.total_tokens_per_s_per_gpu:
                return True
            below = throughput
        return False


def most(limit: Bound, recipe: Recipe, objective: str) -> float:
    """The objective's value that a recipe cannot exceed."""
    rates = {
        "total_tokens_per_s_per_gpu": limit.total_tokens_per_s_per_gpu,
        "tokens_per_s_per_user": limit.tokens_per_s_per_user,
    }
    return objective_value(Outcome(rates), recipe, objective)
