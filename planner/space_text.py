"""A checked search space as text for a terminal."""

from __future__ import annotations

from planner.space_check import Containment, SpaceReport
from planner.text_table import table


def space_text(report: SpaceReport) -> str:
    """Counts, what each law removes, recipes by plan, and the public recipes inside and outside."""
    load = report.workload
    head = (
        f"Space {report.space}: {report.model} on {report.hardware}, up to {report.num_gpus} GPUs, "
        f"{load.isl}/{load.osl} tokens, concurrency {load.concurrency}, SGLang {report.engine_version}"
    )
    parts = [head, _counts(report), _choices(report), _public(report)]
    return "\n\n".join(part for part in parts if part)


def _counts(report: SpaceReport) -> str:
    within = report.recipes - report.recipes_over_gpus
    rows = [
        ("layouts", f"{report.layouts:,}"),
        ("  over the GPUs", f"{report.layouts_over_gpus:,}"),
        ("  too large for memory, at first choices", f"{report.layouts_without_memory:,}"),
        ("distinct recipes", f"{report.recipes:,}"),
        ("  within the GPUs", f"{within:,}"),
        *((f"    break {rule}", f"{number:,}") for rule, number in report.broken.items()),
        ("  keep every law", f"{report.lawful:,}"),
    ]
    return table(rows)


def _choices(report: SpaceReport) -> str:
    rows = [
        (knob, str(choices), _by_value(report.by_choice.get(knob, {})))
        for knob, choices in report.knobs.items()
    ]
    return table(rows, ("knob", "choices", "lawful recipes"))


def _by_value(counts: dict[str, int]) -> str:
    return ", ".join(f"{value} {number:.3g}" for value, number in counts.items())


def _public(report: SpaceReport) -> str:
    lines = []
    for part in report.public:
        lines.append(_held(part))
        for one in part.absent:
            lines.append(f"  outside: {one.recipe} at concurrency {one.concurrency}")
            lines += [f"    {lack}" for lack in one.lacks]
    return "\n".join(lines)


def _held(part: Containment) -> str:
    kind = "with MTP" if part.drafting else "without MTP"
    if not part.recipes:
        return f"Public recipes {kind}: none is published"
    return f"Public recipes {kind}: holds {part.held} of {part.recipes} ({part.points} operating points)"
