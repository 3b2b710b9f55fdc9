"""A fitted quantity: its bounds, its prior, and the unbounded number that a solver moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from annotated_types import Ge, Gt, Le

from search_spaces.base import Noun


@dataclass(frozen=True)
class Parameter:
    """One fitted quantity."""

    name: str
    host: str | None
    """What it belongs to: a kind of host, another named part, or None for all."""
    low: float
    high: float
    prior: float

    def to_free(self, value: float) -> float:
        """Physical value to an unbounded number."""
        share = np.clip((value - self.low) / (self.high - self.low), 1e-4, 1 - 1e-4)
        return float(np.log(share / (1 - share)))

    def to_physical(self, free: float) -> float:
        """Unbounded number to a value within bounds."""
        return self.low + (self.high - self.low) / (1 + float(np.exp(-free)))


def parameter(kind: type[Noun], name: str, owner: str | None, prior: float | None = None) -> Parameter:
    """The quantity `kind.name` with the bounds that the type itself declares; its default is the prior."""
    field = kind.model_fields[name]
    low = next(float(m.ge if isinstance(m, Ge) else m.gt) for m in field.metadata if isinstance(m, Ge | Gt))  # type: ignore[arg-type]
    high = next(float(m.le) for m in field.metadata if isinstance(m, Le))  # type: ignore[arg-type]
    return Parameter(name, owner, low, high, float(field.default) if prior is None else prior)
