"""Measured times as interpolation grids over log axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import isotonic_regression

from simulator.op_costs import Floats


def smooth(log_time: Floats) -> Floats:
    """Isotonic in both axes; rows and columns ascend in work."""
    fitted = log_time.copy()
    for _ in range(2):
        fitted = np.stack([isotonic_regression(row).x for row in fitted])
        fitted = np.stack([isotonic_regression(col).x for col in fitted.T]).T
    return fitted


class Grid:
    """Measured seconds over two log axes; queries clamp to the support and report where they did."""

    def __init__(self, x: Floats, y: Floats, seconds: Floats, monotone: bool = True) -> None:
        """Args: ascending axes `x` (rows), `y` (columns) and seconds with the matching shape."""
        self.x, self.y = x, y
        log_time = np.log(seconds)
        if monotone and len(x) > 1:
            log_time = smooth(log_time)
        rows = log_time if len(x) > 1 else np.repeat(log_time, 2, axis=0)
        axis_x = x if len(x) > 1 else np.array([x[0], x[0] * 2])
        columns = rows if len(y) > 1 else np.repeat(rows, 2, axis=1)
        axis_y = y if len(y) > 1 else np.array([y[0], y[0] * 2])
        self._at = RegularGridInterpolator((np.log(axis_x), np.log(axis_y)), columns)

    def clamp(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """The nearest point inside the support."""
        cx = np.clip(np.asarray(x, float), self.x[0], self.x[-1])
        cy = np.clip(np.asarray(y, float), self.y[0], self.y[-1])
        return cx, cy

    def seconds(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Interpolated seconds at clamped coordinates."""
        cx, cy = np.broadcast_arrays(*self.clamp(x, y))
        found: Floats = np.exp(self._at(np.stack([np.log(cx), np.log(cy)], axis=-1)))
        return found


def pivot(x: Floats, y: Floats, t: Floats) -> tuple[Floats, Floats, Floats]:
    """Long rows to a matrix with NaN where nothing was measured; duplicates keep the median."""
    xs, xi = np.unique(x, return_inverse=True)
    ys, yi = np.unique(y, return_inverse=True)
    matrix = np.full((len(xs), len(ys)), np.nan)
    order = np.lexsort((t, yi, xi))
    flat = (xi * len(ys) + yi)[order]
    for cell in np.split(order, np.flatnonzero(np.diff(flat)) + 1):
        matrix[xi[cell[0]], yi[cell[0]]] = np.median(t[cell])
    return xs.astype(float), ys.astype(float), matrix


def complete(matrix: Floats, roofline: Floats) -> Floats:
    """Fill cells that were not measured at the efficiency of the nearest measured cell of their row.

    Large batches were measured on short contexts only, so rows end early.
    """
    efficiency = matrix / roofline
    for row in efficiency:
        known = np.flatnonzero(~np.isnan(row))
        missing = np.flatnonzero(np.isnan(row))
        if len(known):
            row[missing] = row[known[np.argmin(np.abs(missing[:, None] - known[None, :]), axis=1)]]
    filled: Floats = efficiency * roofline
    return filled
