"""The kernel report as a picture."""

from __future__ import annotations

from planner.report import COLOURS, new_figure, picture_files
from profiler.kernel_report import KernelSummary
from search_spaces.units import US_PER_S


def kernel_picture(rows: list[KernelSummary]) -> dict[str, bytes]:
    """Measured time over roofline of each shape against its time, a panel per device; PNG and SVG."""
    devices = list(dict.fromkeys(row.device for row in rows if row.ratios))
    figure = new_figure(height=4.5 * max(1, len(devices)))
    for place, device in enumerate(devices, 1):
        axes = figure.add_subplot(len(devices), 1, place)
        own = [row for row in rows if row.device == device and row.ratios]
        for line, row in enumerate(own):
            low, middle, high = row.ratio() or (1.0, 1.0, 1.0)
            axes.plot([low, high], [line, line], color=COLOURS["search"], linewidth=2)
            axes.plot(row.ratios, [line] * len(row.ratios), "|", color=COLOURS["front"], markersize=7)
            axes.plot([middle], [line], "D", color=COLOURS["table"], markersize=4)
        longest = [
            f"{row.kernel} ({len(row.ratios)}, ≤ {max(row.times_s) * US_PER_S:,.0f} us)" for row in own
        ]
        axes.set_yticks(range(len(own)), longest, fontsize=7)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.grid(axis="x", alpha=0.3)
        axes.set(xlabel="measured time over roofline (median marked)", title=device)
    return picture_files(figure, "kernels")
