"""Pictures of a sizing: GPUs, cost and power of each platform's fleet by level of load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.report import PLATFORM_COLOURS, new_figure, picture_files
from planner.sizing_types import Fleet, SizeResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 0.8
"""Of all bars of a level."""


def size_pictures(found: SizeResult) -> dict[str, bytes]:
    """PNG and SVG of `size`: what a fleet takes, with what it needs besides to lose a part of itself."""
    figure = new_figure(5.0)
    figure.set_figwidth(14)
    left, right = figure.subplots(1, 2)
    platforms = list(dict.fromkeys(f.hardware for level in found.levels for f in level.fleets))
    for index, name in enumerate(platforms):
        colour = PLATFORM_COLOURS[index % len(PLATFORM_COLOURS)]
        place = (index, len(platforms))
        gpus = [(f.num_gpus, f.num_gpus_with_spare) for f in _fleets(found, name)]
        cost = [(f.cost.dollars_per_hour, f.dollars_per_hour_with_spare) for f in _fleets(found, name)]
        _bars(left, place, _levels(found, name), gpus, colour, name)
        _bars(right, place, _levels(found, name), cost, colour, name)
    left.set(ylabel="GPUs", title="GPUs, pale with the spare")
    right.set(ylabel="$ per hour", title="Cost at assumed prices, pale with the spare")
    for axes in (left, right):
        axes.set_xticks(
            range(len(found.levels)), [level.name.replace(" of the", "\nof the") for level in found.levels]
        )
        axes.grid(axis="y", alpha=0.3)
        axes.margins(y=0.12)
        axes.legend(fontsize=8)
    figure.suptitle(f"{found.request.model}: fewest deployments that keep the goal (simulated)")
    return picture_files(figure, "size")


def _fleets(found: SizeResult, platform: str) -> list[Fleet]:
    return [fleet for level in found.levels for fleet in level.fleets if fleet.hardware == platform]


def _levels(found: SizeResult, platform: str) -> list[int]:
    """Indices of the levels at which the platform has a fleet."""
    return [i for i, level in enumerate(found.levels) if any(f.hardware == platform for f in level.fleets)]


def _bars(
    axes: Axes,
    place: tuple[int, int],
    levels: list[int],
    heights: Sequence[tuple[float, float]],
    colour: str,
    label: str,
) -> None:
    """Bars of one platform: the fleet, and above it the spare."""
    index, count = place
    width = WIDTH / count
    at = [level + (index - (count - 1) / 2) * width for level in levels]
    axes.bar(at, [full for _, full in heights], width, color=colour, alpha=0.3)
    axes.bar(at, [alone for alone, _ in heights], width, color=colour, label=label)
    for x, (alone, full) in zip(at, heights, strict=True):
        spare = round(full - alone)
        text = f"{alone:,.0f} + {spare:,}" if spare else f"{alone:,.0f}"
        axes.annotate(text, (x, full), textcoords="offset points", xytext=(0, 3), ha="center", fontsize=8)
