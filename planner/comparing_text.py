"""Platforms side by side as text and as a picture."""

from __future__ import annotations

from planner.comparing import Comparison
from planner.report import PLATFORM_COLOURS, new_figure, picture_files
from planner.text_table import number, table
from search_spaces.units import seconds_from_ms

LEVELS = (20.0, 40.0, 60.0, 100.0, 150.0)
"""tok/s/user at which costs are put beside each other."""
HEADER = (
    "platform", "recipe", "GPUs", "concurrency", "tok/s/GPU", "tok/s/user", "TTFT s", "$/M tok", "limit",
)  # fmt: skip


def compare_text(found: Comparison) -> str:
    """Each platform's front, and the least cost at equal interactivity."""
    request = found.request
    head = (
        f"{request.model}, {request.isl}/{request.osl} tokens, at most {request.num_gpus} GPUs a deployment, "
        f"stack {request.stack}\nScreened by the fluid model, fronts simulated; prices are assumptions: "
        + ", ".join(f"{f.hardware} {f.price_per_gpu_hour:g} $/GPU-hour" for f in found.fronts)
    )
    rows = [
        (
            front.hardware,
            p.topology,
            str(p.num_gpus),
            str(p.concurrency),
            number(p.total_tokens_per_s_per_gpu),
            number(p.tokens_per_s_per_user),
            number(seconds_from_ms(p.median_ttft_ms)),
            number(p.per_million_tokens),
            p.limit,
        )
        for front in found.fronts
        for p in front.points
    ]
    parts = [head, table(rows, HEADER), _costs(found)]
    parts += [f"{name}: no recipe; {why}" for name, why in found.refused.items()]
    return "\n\n".join(parts)


def _costs(found: Comparison) -> str:
    rows = []
    for front in found.fronts:
        best = [front.cheapest(level) for level in LEVELS]
        rows.append((front.hardware, *("-" if p is None else number(p.per_million_tokens) for p in best)))
    header = ("platform", *(f">= {level:g} tok/s/user" for level in LEVELS))
    return "Least dollars per million tokens (input and output)\n" + table(rows, header)


def compare_pictures(found: Comparison) -> dict[str, bytes]:
    """Fronts in throughput and in cost, as PNG and SVG."""
    figure = new_figure(5.5)
    figure.set_figwidth(14)
    left, right = figure.subplots(1, 2)
    for front, colour in zip(found.fronts, PLATFORM_COLOURS * len(found.fronts), strict=False):
        users = [p.tokens_per_s_per_user for p in front.points]
        style = {"marker": "o", "color": colour, "label": front.hardware}
        left.plot(users, [p.total_tokens_per_s_per_gpu for p in front.points], **style)
        right.plot(users, [p.per_million_tokens for p in front.points], **style)
    left.set(xlabel="tok/s/user", ylabel="tok/s/GPU (input + output)", title="Throughput (simulated)")
    right.set(
        xlabel="tok/s/user", ylabel="$ per million tokens", title="Cost at assumed prices", yscale="log"
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"{found.request.model}, {found.request.isl}/{found.request.osl} tokens")
    return picture_files(figure, "compare")
