"""Pictures of a plan. The only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from planner.plan_types import EvaluatedPoint, PlanResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.held_out import HeldOut
    from planner.story import Telling
    from planner.waterfall import Waterfall

PARITY = {
    "total_tokens_per_s_per_gpu": "tok/s/GPU",
    "median_tpot_ms": "median TPOT, ms",
    "median_ttft_ms": "median TTFT, ms",
}
"""Panels of the parity plot."""
COLOURS = {"search": "#9aa5b1", "public": "#d97706", "front": "#1d4ed8", "table": "#b91c1c"}


def pareto_front(points: list[EvaluatedPoint]) -> list[EvaluatedPoint]:
    """Usable points that no other beats in both tok/s/GPU and tok/s/user, by rising interactivity."""
    found: list[EvaluatedPoint] = []
    best = -1.0
    ordered = sorted(
        (p for p in points if p.usable),
        key=lambda p: (-p.tokens_per_s_per_user, -p.total_tokens_per_s_per_gpu),
    )
    for point in ordered:
        if point.total_tokens_per_s_per_gpu > best:
            found.append(point)
            best = point.total_tokens_per_s_per_gpu
    return found[::-1]


def pareto_picture(result: PlanResult) -> dict[str, bytes]:
    """The Pareto plane as PNG and SVG: tok/s/GPU over tok/s/user, both by simulation."""
    figure = new_figure()
    _draw(figure.add_subplot(), result)
    return picture_files(figure, "pareto")


def new_figure(height: float = 6.0) -> Figure:
    """An empty figure, `height` inches high, that is drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "servecast"
    from matplotlib.figure import Figure

    return Figure(figsize=(9, height), layout="constrained")


def picture_files(figure: Figure, name: str) -> dict[str, bytes]:
    """PNG and SVG of a figure, byte-identical for equal content."""
    files = {}
    for kind in ("png", "svg"):
        buffer = BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        files[f"{name}.{kind}"] = buffer.getvalue()
    return files


def waterfall_picture(found: Waterfall) -> dict[str, bytes]:
    """Bars of throughput after each switch, as PNG and SVG."""
    figure = new_figure()
    axes = figure.add_subplot()
    labels = [found.start, *(f"+ {step.switch}" for step in found.steps)]
    values = [found.start_tokens_per_s_per_gpu, *(s.total_tokens_per_s_per_gpu for s in found.steps)]
    heights = [value or 0.0 for value in values]
    axes.barh(range(len(labels)), heights, color=COLOURS["front"])
    for row, (value, step) in enumerate(zip(values[1:], found.steps, strict=True), 1):
        text = "does not fit" if value is None else f"{value:,.0f}"
        text += f" ({100 * step.gain:+.1f} %)" if step.gain is not None else ""
        axes.annotate(text, (heights[row], row), textcoords="offset points", xytext=(4, -3), fontsize=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(xlabel="tok/s/GPU (simulated)", title=f"{found.recipe}, concurrency {found.concurrency}")
    return picture_files(figure, "waterfall")


def parity_picture(points: Sequence[HeldOut], name: str) -> dict[str, bytes]:
    """Predicted over measured, out of fold, one panel per metric and one colour per lane, log axes."""
    import matplotlib

    figure = _figure()
    figure.set_size_inches(15, 6)
    lanes = sorted({p.lane for p in points})
    colours = dict(zip(lanes, matplotlib.colormaps["turbo"](_spread(len(lanes))), strict=True))
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
    return _files(figure, name)


def story_picture(telling: Telling, name: str) -> dict[str, bytes]:
    """Two eras in the Pareto plane: measured points, our predictions of them, and public recipes."""
    from planner.story import front

    figure = _figure()
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
    return _files(figure, name)


def _spread(count: int) -> list[float]:
    return [i / max(count - 1, 1) for i in range(count)]


def _draw(axes: Axes, result: PlanResult) -> None:
    for origin, label in (("search", "searched recipes"), ("public", "public recipes")):
        chosen = [p for p in result.points if p.origin == origin and p.usable]
        axes.scatter(
            [p.tokens_per_s_per_user for p in chosen],
            [p.total_tokens_per_s_per_gpu for p in chosen],
            s=14 if origin == "search" else 34,
            color=COLOURS[origin],
            marker="o" if origin == "search" else "D",
            alpha=0.6 if origin == "search" else 0.9,
            label=f"{label} ({len(chosen)})",
        )
    front = pareto_front(result.points)
    axes.plot(
        [p.tokens_per_s_per_user for p in front],
        [p.total_tokens_per_s_per_gpu for p in front],
        color=COLOURS["front"],
        linewidth=1.5,
        label="Pareto front",
    )
    for row in result.table.rows:
        best = row.predictions[-1]
        at = (best.tokens_per_s_per_user, best.total_tokens_per_s_per_gpu)
        axes.plot(*at, marker="*", markersize=12, color=COLOURS["table"], linestyle="none")
        axes.annotate(
            f"c{best.concurrency} {row.recipe.topology}",
            at,
            textcoords="offset points",
            xytext=(6, 4),
            fontsize=6.5,
        )
    table = result.table
    axes.set(
        xlabel="tok/s/user (1000 / median TPOT in ms)",
        ylabel="tok/s/GPU (input + output, all GPUs)",
        title=f"{table.model} on {table.hardware}, {table.isl}/{table.osl}, stack {table.stack} (simulated)",
    )
    axes.grid(alpha=0.3)
    axes.margins(x=0.12)
    axes.plot([], [], marker="*", color=COLOURS["table"], linestyle="none", label="dispatch table")
    axes.legend(loc="upper right", fontsize=8)
