"""Recommended recipes beside the public ones at the same load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from planner.evaluate import Outcome
from planner.plan_types import PublicComparison
from planner.screen import Candidate
from search_spaces.recipe import Recipe


class Choice(Protocol):
    """What was chosen at a load, and the public recipe there."""

    @property
    def candidate(self) -> Candidate: ...  # noqa: D102

    @property
    def outcome(self) -> Outcome: ...  # noqa: D102

    @property
    def public(self) -> tuple[Recipe, Outcome] | None: ...  # noqa: D102


def comparisons(chosen: Mapping[int, Choice]) -> list[PublicComparison]:
    """One line per load that has a public recipe."""
    return [
        PublicComparison(
            concurrency=load,
            public=pick.public[0].name,
            recommended=pick.candidate.recipe.name,
            public_tokens_per_s_per_gpu=pick.public[1].throughput,
            recommended_tokens_per_s_per_gpu=pick.outcome.throughput,
            public_tokens_per_s_per_user=pick.public[1].interactivity,
            recommended_tokens_per_s_per_user=pick.outcome.interactivity,
        )
        for load, pick in chosen.items()
        if pick.public is not None
    ]
