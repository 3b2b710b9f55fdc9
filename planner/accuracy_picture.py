"""Pictures of accuracy: the parity plot, and two engine eras in the Pareto plane."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from planner.held_out import HeldOut
from planner.report import COLOURS, new_figure, picture_files
from planner.story import Telling, front

PARITY = {
    "total_tokens_per_s_per_gpu": "tok/s/GPU",
    "median_tpot_ms": "median TPOT, ms",
    "median_ttft_ms": "median TTFT, ms",
}
"""Panels of the parity plot."""


def parity_picture(points: Sequence[HeldOut], name: str) -> dict[str, bytes]:
    """Predicted over measured, out of fold, one panel per metric and one colour per lane, log axes."""
    figure = new_figure()
    figure.set_size_inches(15, 6)
    lanes = sorted({p.lane for p in points})
    colours = dict(zip(lanes, _hues(len(lanes)), strict=True))
    for index, (metric, label) in enumerate(PARITY.items(), 1):
        axes = figure.add_subplot(1, len(PARITY), index)
        for lane in lanes:
            mine = [p for p in points if p.lane == lane and metric in p.measured and metric in p.predicted]
            axes.scatter(
                [p.measured[metric] for p in mine],
                [p.predicted[metric] for p in mine],
                s=18,
                color=colours[lane],
                marker="o" if "-nomtp" in lane else "^",
                label=lane if index == 1 else None,
            )
        values = [
            v for p in points if metric in p.measured for v in (p.measured[metric], p.predicted[metric])
        ]
        if values:
            ends = [0.8 * min(values), 1.25 * max(values)]
            axes.plot(ends, ends, color="black", linewidth=0.8)
            for factor in (0.8, 1.25):
                axes.plot(ends, [factor * v for v in ends], color="black", linewidth=0.5, linestyle="--")
        axes.set(xscale="log", yscale="log", xlabel=f"measured {label}", ylabel=f"predicted {label}")
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=7)
    return picture_files(figure, name)


def story_picture(telling: Telling, name: str) -> dict[str, bytes]:
    """Two eras in the Pareto plane: measured points, our predictions of them, and public recipes."""
    figure = new_figure()
    axes = figure.add_subplot()
    chapter = telling.chapter
    sides = ((chapter.before, telling.before, "search"), (chapter.after, telling.after, "front"))
    for era, curves, colour in sides:
        for kind, points, marker, line in (
            ("measured", curves.measured, "o", "none"),
            ("ours, same points", curves.same_points, "x", "-"),
            ("ours, public recipes", curves.public, "+", ":"),
        ):
            shown = front(points) if line != "none" else points
            axes.plot(
                [p.user for p in shown],
                [p.gpu for p in shown],
                marker=marker,
                linestyle=line,
                color=COLOURS[colour],
                label=f"{era.label}: {kind}",
            )
    if chapter.tokens_per_s_per_user is not None:
        axes.axvline(chapter.tokens_per_s_per_user, color="black", linewidth=0.6, linestyle="--")
    axes.set(xlabel="tok/s/user", ylabel="tok/s/GPU (input + output)", title=chapter.title, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return picture_files(figure, name)


def _hues(count: int) -> list[tuple[float, float, float]]:
    """Colours around the wheel, neighbours of unlike brightness."""
    return [colorsys.hsv_to_rgb(i / count, 0.9, 0.9 if i % 2 else 0.6) for i in range(count)]
