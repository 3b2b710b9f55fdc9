"""A day under several policies as text and as a picture."""

from __future__ import annotations

from planner.autoscale_types import AutoscaleResult
from planner.report import new_figure, picture_files
from planner.text_table import number, percent, table
from search_spaces.units import SECONDS_PER_HOUR

COLOURS = {"static": "#525252", "replicas": "#047857", "dispatch": "#1d4ed8", "oracle": "#d97706"}


def autoscale_text(found: AutoscaleResult) -> str:
    """GPU-hours and missed promises by policy, and the capacity of each recipe."""
    request = found.request
    limits = ", ".join(f"{x.name} <= {x.max_ms:g} ms" for x in request.goal.limits)
    head = (
        f"{request.table.model} on {request.table.hardware}: a day that peaks at {request.peak_rate:g} "
        f"requests/s, {request.profile.source or 'given profile'}\nGoal: {limits}; a fleet starts in "
        f"{request.provision_s:g} s and is looked at every {request.decide_every_s:g} s\nRecipes are "
        "simulated at rising arrival rates; the day is replayed on those curves with a fluid backlog."
    )
    static = found.days[0].gpu_hours
    rows = [
        (
            day.policy,
            number(day.gpu_hours),
            percent(day.gpu_hours / static - 1, signed=True),
            number(day.dollars),
            percent(day.missed_share),
            str(day.peak_gpus),
            str(day.changes),
        )
        for day in found.days
    ]
    header = ("policy", "GPU-hours", "change", "$", "outside the goal", "most GPUs", "starts")
    curves = [
        (
            f"{row.min_concurrency}-{row.max_concurrency}",
            row.recipe.topology,
            str(row.recipe.num_gpus),
            number(curve.good_rate) if curve.good_rate else "-",
            number(curve.stable_rate) if curve.stable_rate else "-",
        )
        for row, curve in zip(request.table.rows, found.curves, strict=True)
    ]
    titles = ("concurrency", "recipe", "GPUs", "requests/s in the goal", "stable")
    return "\n\n".join((head, table(rows, header), "One deployment\n" + table(curves, titles)))


def autoscale_pictures(found: AutoscaleResult) -> dict[str, bytes]:
    """GPUs and missed promises over the day, as PNG and SVG."""
    figure = new_figure(7.0)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    for day in found.days:
        hours = [m.at_s / SECONDS_PER_HOUR for m in day.timeline]
        colour = COLOURS.get(day.policy, "black")
        middle.step(hours, [m.num_gpus for m in day.timeline], where="post", color=colour, label=day.policy)
        missed = [100 * (1 - m.good_share) for m in day.timeline]
        bottom.step(hours, missed, where="post", color=colour, label=day.policy)
    moments = found.days[0].timeline
    top.step([m.at_s / SECONDS_PER_HOUR for m in moments], [m.request_rate for m in moments], where="post")
    top.set(ylabel="requests/s", title=f"{found.request.table.model} on {found.request.table.hardware}")
    middle.set(ylabel="GPUs paid for")
    middle.legend(fontsize=8)
    bottom.set(ylabel="outside the goal, %", xlabel="hours")
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    return picture_files(figure, "autoscale")
