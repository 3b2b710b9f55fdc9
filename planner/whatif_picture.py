"""Pictures of a what-if: a tornado over the changed fields, a heat map over two ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.report import COLOURS, new_figure, picture_files
from planner.whatif import COST, Scenario, WhatIf

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("total_tokens_per_s_per_gpu", "tok/s/GPU"),
    ("tokens_per_s_per_user", "tok/s/user"),
    ("median_ttft_ms", "median TTFT"),
    (COST, "$ per million tokens"),
)
SHOWN_CHANGE = 0.005
"""Bars of less carry no label."""


def whatif_pictures(found: WhatIf) -> dict[str, bytes]:
    """PNG and SVG: `heatmap` for a grid of two fields, else `tornado`."""
    if found.is_grid and len(found.axes) == 2:
        return _heatmap(found)
    return _tornado(found)


def bars(found: WhatIf, metric: str) -> list[tuple[str, list[tuple[str, float]]]]:
    """Each changed field and its values with their differences, the widest last.

    A scenario of several changes is one field by its name.
    """
    rows: dict[str, list[tuple[str, float]]] = {}
    for scenario in found.scenarios:
        if metric in scenario.differences:
            single = len(scenario.changes) == 1
            name = next(iter(scenario.changes)) if single else scenario.name
            value = next(iter(scenario.changes.values())) if single else ""
            rows.setdefault(name, []).append((value, scenario.differences[metric]))
    return sorted(rows.items(), key=lambda row: _span([change for _, change in row[1]]))


def _span(changes: list[float]) -> float:
    return max(0.0, *changes) - min(0.0, *changes)


def _tornado(found: WhatIf) -> dict[str, bytes]:
    order = [name for name, _ in bars(found, PANELS[0][0])]
    figure = new_figure(max(3.0, 1.5 + 0.4 * len(order)))
    figure.set_figwidth(16)
    all_axes = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (metric, title) in zip(all_axes, PANELS, strict=True):
        _draw_bars(axes, dict(bars(found, metric)), order)
        axes.set(xlabel="change, %", title=title)
    all_axes[0].set_yticks(range(len(order)), order)
    figure.suptitle(f"{found.recipe}, concurrency {found.base.concurrency} (simulated)")
    return picture_files(figure, "tornado")


def _draw_bars(axes: Axes, rows: dict[str, list[tuple[str, float]]], order: list[str]) -> None:
    for row, name in enumerate(order):
        for value, change in rows.get(name, ()):
            colour = COLOURS["front"] if change >= 0 else COLOURS["public"]
            axes.barh(row, 100 * change, color=colour, alpha=0.75)
            if abs(change) < SHOWN_CHANGE:
                continue
            side = 3 if change >= 0 else -3
            axes.annotate(
                value,
                (100 * change, row),
                textcoords="offset points",
                xytext=(side, -3),
                ha="left" if change >= 0 else "right",
                fontsize=7,
            )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.25)
    axes.grid(axis="x", alpha=0.3)


def _heatmap(found: WhatIf) -> dict[str, bytes]:
    figure = new_figure(5.0)
    figure.set_figwidth(16)
    for axes, (metric, title) in zip(figure.subplots(1, 3), PANELS[:3], strict=True):
        _draw_cells(axes, found, metric)
        axes.set(title=title)
    figure.suptitle(f"{found.recipe} (simulated); colours against the base, per cent")
    return picture_files(figure, "heatmap")


def _draw_cells(axes: Axes, found: WhatIf, metric: str) -> None:
    down, across = found.axes
    width = len(across.values)
    cells = [
        [_percent(found.scenarios[row * width + column], metric) for column in range(width)]
        for row in range(len(down.values))
    ]
    known = [abs(value) for row in cells for value in row if value == value]
    most = max(known, default=1.0) or 1.0
    lower_is_better = metric == "median_ttft_ms"
    axes.imshow(cells, cmap="RdBu_r" if lower_is_better else "RdBu", vmin=-most, vmax=most, aspect="auto")
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            text = f"{value:+.0f}" if value == value else "cannot\nrun"
            colour = "white" if abs(value) > 0.6 * most else "black"
            axes.annotate(text, (column, row), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(width), across.values)
    axes.set_yticks(range(len(down.values)), down.values)
    axes.set(xlabel=across.field, ylabel=down.field)


def _percent(scenario: Scenario, metric: str) -> float:
    return 100 * scenario.differences.get(metric, float("nan"))
