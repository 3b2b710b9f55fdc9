"""Seconds of one step by component, and where each number comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from simulator.kernel_model import Source
from simulator.op_costs import Floats


@dataclass
class StepCost:
    """Seconds by component, with the source of each; components add up to the GPU's time."""

    seconds: dict[str, Floats] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, component: str, seconds: Floats, source: Source) -> None:
        """Accumulate; the weaker of two sources stands for the sum."""
        order: tuple[Source, ...] = ("measured", "interpolated", "fitted", "analytic")
        if component in self.seconds:
            self.seconds[component] = self.seconds[component] + seconds
            source = max(source, self.sources[component], key=order.index)
        else:
            self.seconds[component] = seconds
        self.sources[component] = source

    def merged(self, other: StepCost, times: float = 1.0) -> StepCost:
        """This cost plus `times` the other."""
        total = StepCost(dict(self.seconds), dict(self.sources))
        for component, seconds in other.seconds.items():
            total.add(component, seconds * times, other.sources[component])
        return total

    def part(self, components: tuple[str, ...]) -> Floats:
        """Sum over some components."""
        found = [self.seconds[c] for c in components if c in self.seconds]
        return np.sum(np.broadcast_arrays(*found), axis=0) if found else np.zeros(())

    @property
    def gpu_s(self) -> Floats:
        """Sum over all components."""
        return self.part(tuple(self.seconds))
