"""Which points are held out together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from search_spaces.errors import BadInput
from search_spaces.records import MeasuredPoint


def siblings(points: Sequence[MeasuredPoint]) -> list[list[int]]:
    """Indices of points that must not be split, in order of their first member.

    Points are siblings when they share source and topology, or when they are the same deployment: two
    publications of one recipe would otherwise tell the fit what it is asked.
    """
    parent = list(range(len(points)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, point in enumerate(points):
        assert point.recipe is not None
        for key in ((point.source, point.recipe.topology), point.recipe.digest):
            a, b = root(index), root(first.setdefault(key, index))
            parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for index in range(len(points)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def grouped_folds(points: Sequence[MeasuredPoint], count: int) -> list[list[int]]:
    """`count` folds of sibling groups, the largest groups dealt first to the smallest folds.

    Raises:
        BadInput: there are fewer groups than folds.
    """
    groups = siblings(points)
    if count < 2 or count > len(groups):
        raise BadInput(
            f"folds={count} must be from 2 to the {len(groups)} groups of source and topology that the "
            "points form; change folds or add points"
        )
    found: list[list[int]] = [[] for _ in range(count)]
    for group in sorted(groups, key=lambda g: (-len(g), g)):
        min(found, key=len).extend(group)
    return [sorted(fold) for fold in found]


def platform_folds(points: Sequence[MeasuredPoint]) -> dict[str, list[int]]:
    """Indices by platform."""
    found: dict[str, list[int]] = {}
    for index, point in enumerate(points):
        found.setdefault(point.hardware, []).append(index)
    return dict(sorted(found.items()))
