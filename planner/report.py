"""Pictures of a plan. The only module that imports matplotlib."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from planner.plan_types import EvaluatedPoint, PlanResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.waterfall import Waterfall

COLOURS = {"search": "#9aa5b1", "public": "#d97706", "front": "#1d4ed8", "table": "#b91c1c"}


PLATFORM_COLOURS = ("#1d4ed8", "#b91c1c", "#047857", "#d97706", "#7c3aed", "#0e7490", "#525252")
"""In the order in which platforms are named."""


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
