"""Which layouts are worth a simulation: the fluid model, corrected by what simulations of others gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

Floats = NDArray[np.float64]
SMOOTHING = 0.05
"""How little the correction follows one simulation: other knobs and noise move rates too."""
FEWEST = 4
"""Simulated layouts from which there is a correction."""
BEST_EVERY = 3
"""Every so many proposals one is for the best objective, the others are for the front."""


class Layouts(NamedTuple):
    """All layouts of the spaces at one load that keep the laws, by the fluid model."""

    rates: Floats
    """[layout, 2] natural logarithms of tokens/s per GPU and per user."""
    values: Floats
    """[layout] natural logarithm of the objective; less where limits are missed."""
    features: Floats
    """[layout, feature] what tells layouts apart, in units that matter alike."""
    where: NDArray[np.int64]
    """[layout, 2] index of the space, and of the layout among its topologies."""


class Correction:
    """Simulated shares of the fluid estimates, spread to layouts that are alike."""

    def __init__(self, layouts: Layouts) -> None:
        """Args: the layouts of one load."""
        self._layouts = layouts
        self._shares: dict[int, Floats] = {}
        self._tried: set[int] = set()
        self._turn = 0

    def learn(self, row: int, rates: Sequence[float], runs: bool) -> None:
        """Take a simulation into account: rates per GPU and per user of a layout, if it runs at all."""
        self._tried.add(row)
        if runs and min(rates) > 0:
            self._shares[row] = np.log(rates) - self._layouts.rates[row]

    def next_rows(self, count: int, front: Sequence[tuple[float, float]]) -> list[int]:
        """Layouts not simulated yet that promise most.

        Args:
            count: how many at most.
            front: simulated rates per GPU and per user.
        """
        share = self._correction()
        rates = np.exp(self._layouts.rates + share)
        # A rate per GPU enters the objective squared at most; which power it has changes no order of alikes.
        values = self._layouts.values + share[:, 0]
        left = np.ones(len(rates), dtype=bool)
        left[list(self._tried)] = False
        found: list[int] = []
        reached = list(front)
        while len(found) < count and left.any():
            self._turn += 1
            worth = values if self._turn % BEST_EVERY == 0 else gains(rates, reached)
            row = int(np.argmax(np.where(left, worth, -np.inf)))
            left[row] = False
            found.append(row)
            reached.append((float(rates[row, 0]), float(rates[row, 1])))
        self._tried.update(found)
        return found

    def _correction(self) -> Floats:
        if len(self._shares) < FEWEST:
            return np.zeros_like(self._layouts.rates)
        rows = np.array(list(self._shares))
        shares = np.array(list(self._shares.values()))
        features = self._layouts.features
        law = RBFInterpolator(features[rows], shares, kernel="linear", degree=0, smoothing=SMOOTHING)
        found: Floats = law(features)
        return found


def gains(rates: Floats, front: Sequence[tuple[float, float]]) -> Floats:
    """Area that each point would add to what a front dominates, both axes from 0.

    Args:
        rates: [point, 2].
        front: points, dominated ones among them.
    """
    stairs: list[tuple[float, float]] = []
    for x, y in sorted(front, reverse=True):
        if not stairs or y > stairs[-1][1]:
            stairs.append((x, y))
    xs = np.array([0.0, *(x for x, _ in stairs[::-1]), np.inf])
    ys = np.array([*(y for _, y in stairs[::-1]), 0.0])
    width = np.clip(rates[:, :1] - xs[:-1], 0.0, xs[1:] - xs[:-1])
    found: Floats = (width * np.maximum(rates[:, 1:] - ys, 0.0)).sum(axis=1)
    return found
