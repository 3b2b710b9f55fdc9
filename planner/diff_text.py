"""What changes between two recipes, as text for a terminal."""

from __future__ import annotations

from planner.text_table import table
from search_spaces.recipe import Recipe
from search_spaces.transition import Transition


def diff_text(before: Recipe, after: Recipe, found: Transition) -> str:
    """Fields by role with both values, and what happens to the workers."""
    head = (
        f"from  {before.name}: {before.topology}, {before.num_gpus} GPUs\n"
        f"to    {after.name}: {after.topology}, {after.num_gpus} GPUs"
    )
    rows = [(c.role, c.field, _value(c.before), _value(c.after)) for c in found.changes]
    fields = table(rows, ("role", "field", "from", "to")) if rows else "  no field differs"
    gpus = f"{found.drained_gpus} GPUs drain, {found.started_gpus} GPUs start"
    return f"{head}\n\n{fields}\n\nWorkers: {found.summary} ({gpus})"


def _value(value: object) -> str:
    return "-" if value is None else str(value)
