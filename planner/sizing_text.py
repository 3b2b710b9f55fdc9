"""Fleets as text for a terminal."""

from __future__ import annotations

from planner.sizing_types import Fleet, Level, SizeResult
from planner.text_table import number, percent, table

HEADER = (
    "platform", "fleet", "GPUs", "nodes", "racks", "tok/s/user", "goodput", "headroom", "$/h", "$/M in+out",
    "$/M out", "$/user-hour", "kW", "limit",
)  # fmt: skip


def size_text(result: SizeResult) -> str:
    """Fleets by level, what they reach, and what the cheapest can lose."""
    parts = [_head(result)]
    for level in result.levels:
        parts.append(_level(level))
        for fleet in level.fleets:
            parts += _losses(fleet)
    if result.static_gpu_hours_per_day is not None and result.scaled_gpu_hours_per_day is not None:
        static, scaled = result.static_gpu_hours_per_day, result.scaled_gpu_hours_per_day
        parts.append(
            f"Over the day {number(static)} GPU-hours when kept at the peak, {number(scaled)} by level "
            f"({percent(scaled / static - 1, signed=True)}); changes of the fleet are taken as instant"
        )
    return "\n\n".join(parts)


def _head(result: SizeResult) -> str:
    request, demand = result.request, result.request.demand
    load = demand.workload
    who = (
        f"{demand.users:g} users with {demand.think_s:g} s of thought"
        if demand.users is not None
        else f"{demand.request_rate:g} requests/s at the peak"
    )
    goal = ", ".join(f"{x.name} <= {x.max_ms:g} ms" for x in request.goal.limits)
    goal += f", goodput >= {percent(request.goal.goodput)}" if request.goal.goodput else ""
    return (
        f"Fleets for {request.model}: {who}, mean {load.mean_isl:.0f}/{load.mean_osl:.0f} tokens, Gamma "
        f"shape {load.burstiness:g}\nGoal: {goal}\nAll figures are simulated, each deployment at its share "
        "of Poisson arrivals; prices are assumptions; kW counts GPU boards alone."
    )


def _level(level: Level) -> str:
    rows = [
        (
            f.hardware,
            f"{f.replicas} x {f.topology}",
            str(f.num_gpus),
            str(f.nodes),
            "-" if f.racks is None else str(f.racks),
            number(f.tokens_per_s_per_user),
            percent(f.service.goodput),
            "-" if f.headroom is None else percent(f.headroom),
            number(f.cost.dollars_per_hour),
            number(f.cost.per_million_tokens),
            number(f.cost.per_million_output_tokens),
            number(f.cost_per_user_hour),
            number(f.power_kw),
            f.limit,
        )
        for f in level.fleets
    ]
    text = f"{level.name[:1].upper()}{level.name[1:]}: {number(level.request_rate)} requests/s"
    if rows:
        text += f"\n{table(rows, HEADER)}"
        text += "".join(f"\n  {f.hardware} reaches {_reached(f)}" for f in level.fleets)
    return text + "".join(f"\n  {name}: none; {why}" for name, why in level.refused.items())


def _reached(fleet: Fleet) -> str:
    reached = [f"{name} {number(value)} ms" for name, value in fleet.service.attained_ms.items()]
    return f"{', '.join(reached)} with {fleet.concurrency:.0f} requests in flight"


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"


def _losses(fleet: Fleet) -> list[str]:
    if not fleet.losses:
        return []
    rows = []
    for loss in fleet.losses:
        for way, service in (("its usual share", loss.in_place), ("shared by what is left", loss.shared)):
            if service is not None:
                reached = [f"{n} {number(v)} ms" for n, v in service.attained_ms.items()]
                kept = "kept" if service.is_kept else f"broken: {service.worst}"
                cells = (loss.kind, loss.label, way, kept, percent(service.goodput))
                rows.append((*cells, ", ".join(reached)))
        if loss.in_place is None and loss.shared is None:
            rows.append((loss.kind, loss.label, "nothing is left", "broken", "-", "-"))
    extra = fleet.spare_replicas * fleet.recipe.num_gpus
    spare = f"N+{fleet.spare_replicas} needs {extra} GPUs on {_nodes(fleet.spare_nodes)} more"
    spare = spare if extra else "the fleet loses any of these as it is"
    header = ("loss of a", "that is", "arrivals", "goal", "goodput", "reached")
    return [f"{fleet.hardware}: {spare}\n{table(rows, header)}"]
