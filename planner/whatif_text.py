"""A what-if as text for a terminal."""

from __future__ import annotations

from planner.prediction_text import outage_text
from planner.text_table import Cell, number, percent, table
from planner.whatif import COST, Scenario, WhatIf
from search_spaces.units import seconds_from_ms

HEADER = (
    "scenario", "GPUs", "tok/s/GPU", "change", "tok/s/user", "change", "TTFT s", "change", "$/M tok",
    "change", "limit",
)  # fmt: skip


def whatif_text(found: WhatIf) -> str:
    """One line per scenario beside the base, and what followed from the changes."""
    base = found.base
    head = (
        f"{found.recipe}: {base.topology} on {base.hardware}, {found.model}, concurrency {base.concurrency}, "
        f"stack {base.stack}\nAll figures are simulated with seed {found.seed} (noise of one run: 2 %); "
        "TTFT is the median, prices are assumptions."
    )
    rows = [_row(base, base.limit), *(_row(s, _limit(s, base)) for s in found.scenarios)]
    parts = [head, table(rows, HEADER)]
    if found.is_grid and len(found.axes) == 2:
        parts.append(_grid(found))
    parts += [
        f"{scenario.name}\n{outage_text(scenario.prediction.outage)}"
        for scenario in found.scenarios
        if scenario.prediction and scenario.prediction.outage
    ]
    parts += _notes(found)
    return "\n\n".join(parts)


def _row(scenario: Scenario, limit: str) -> list[Cell]:
    if scenario.prediction is None or scenario.cost is None:
        return [scenario.name, str(scenario.num_gpus), *["-"] * 8, "cannot run"]
    metrics, change = scenario.prediction.metrics, scenario.differences
    return [
        scenario.name,
        str(scenario.num_gpus),
        number(metrics["total_tokens_per_s_per_gpu"]),
        percent(change.get("total_tokens_per_s_per_gpu"), signed=True),
        number(metrics["tokens_per_s_per_user"]),
        percent(change.get("tokens_per_s_per_user"), signed=True),
        number(seconds_from_ms(metrics["median_ttft_ms"])),
        percent(change.get("median_ttft_ms"), signed=True),
        number(scenario.cost.per_million_tokens),
        percent(change.get(COST), signed=True),
        limit,
    ]


def _limit(scenario: Scenario, base: Scenario) -> str:
    if scenario.limit == base.limit:
        return scenario.limit
    return f"{scenario.limit} (was {base.limit})"


def _grid(found: WhatIf) -> str:
    """tok/s/GPU over both axes."""
    down, across = found.axes
    values = [
        number(s.prediction.metrics["total_tokens_per_s_per_gpu"]) if s.prediction else "-"
        for s in found.scenarios
    ]
    width = len(across.values)
    rows = [[value, *values[i * width : (i + 1) * width]] for i, value in enumerate(down.values)]
    return f"tok/s/GPU, {down.field} down, {across.field} across\n" + table(rows, ("", *across.values))


def _notes(found: WhatIf) -> list[str]:
    lines = [f"  {s.name}: {s.refused}" for s in found.scenarios if s.refused]
    for scenario in (found.base, *found.scenarios):
        lines += [f"  {scenario.name}: {note}" for note in scenario.notes]
        warnings = scenario.prediction.warnings if scenario.prediction else ()
        lines += [f"  {scenario.name}: {text}" for text in warnings]
    return ["Notes\n" + "\n".join(dict.fromkeys(lines))] if lines else []
