"""Planes below the step times of a worker: what any mixture of batch shapes costs at least.

A plane says that a step which carries u_r tokens (or sequences) at mean context c_r on each of n ranks takes
at least `fixed_s` + the mean over ranks of (`rank_s` u_r + `context_s` u_r c_r) + `group_s` times the mean
of u_r. Summed over a run, the right-hand side needs nothing but the run's total work.

The loop interpolates its tables linearly on the logarithms of size and context. A plane grows convexly
there, so that the table less the plane is concave inside each cell of the grid: where the plane is below
the table at all corners, it is below everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator import loop_state as ls
from simulator.cost_tables import CONTEXT_AXIS, TOKEN_AXIS

Floats = NDArray[np.float64]

FIXED_SHARES = np.array([0.0, 0.3, 0.6, 0.8, 0.9, 1.0])
"""Shares of the cheapest step that planes take as their fixed part."""
ROUNDING = 1 - 2e-6
"""The loop keeps look-ups a millionth of a cell inside the last one."""


class Planes(NamedTuple):
    """Several planes, each below all steps of a role."""

    fixed_s: Floats
    rank_s: Floats
    group_s: Floats
    context_s: Floats

    def joined(self, other: Planes) -> Planes:
        """These and others."""
        return Planes(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


def _rows(table: Floats, largest: float) -> tuple[Floats, Floats]:
    """Sizes up to `largest`, itself included, and the table's rows there as the loop interpolates them."""
    x = min(np.log2(max(largest, 1.0)) * ls.PER_OCTAVE, ls.TOKEN_POINTS - 1.0)
    j = min(int(x), ls.TOKEN_POINTS - 2)
    last = table[j] + (table[j + 1] - table[j]) * (x - j)
    below = int(np.searchsorted(TOKEN_AXIS, largest))
    return np.append(TOKEN_AXIS[:below], max(largest, 1.0)), np.concatenate([table[:below], last[None]])


def planes(
    rank: Floats,
    groups: tuple[Floats, ...],
    fixed_s: float,
    unit_s: float,
    largest: tuple[float, float],
    context: tuple[float, float],
) -> Planes:
    """Planes below `rank` (seconds by size and context) plus every one of `groups` (seconds by mean size).

    Args:
        rank: the table of a rank's own part.
        groups: tables of the common part, of which a step takes any.
        fixed_s: what each step takes besides.
        unit_s: what each token or sequence of the fullest rank takes besides.
        largest: largest size of a rank, and largest mean size of the group.
        context: mean context of the work, around which planes are tight, and the longest.
    """
    mean, longest = context
    sizes, rows = _rows(rank, largest[0])
    columns = int(np.searchsorted(CONTEXT_AXIS, longest)) + 1
    columns = min(max(columns, ls.PER_OCTAVE + 1), len(CONTEXT_AXIS))
    contexts, rows = CONTEXT_AXIS[:columns], rows[:, :columns] + fixed_s
    slopes = _context_slopes(sizes, rows, contexts, mean) if longest <= CONTEXT_AXIS[-1] else np.zeros(1)
    least = rows.min()
    # [slope, share, size, context]: what is left for the size once fixed part and context are paid.
    fixed = FIXED_SHARES[None, :, None, None] * least
    left = rows - slopes[:, None, None, None] * sizes[:, None] * contexts - fixed
    per_unit = (left / sizes[:, None]).min(axis=(2, 3))
    slope = np.where(per_unit < 0, 0.0, slopes[:, None])
    group_fixed, group_unit = _group_lines(groups, largest[1])
    return Planes(
        fixed_s=np.broadcast_to(FIXED_SHARES * least + group_fixed, slope.shape).ravel() * ROUNDING,
        rank_s=(np.maximum(per_unit, 0.0) + unit_s).ravel() * ROUNDING,
        group_s=np.broadcast_to(group_unit, slope.shape).ravel() * ROUNDING,
        context_s=slope.ravel() * ROUNDING,
    )


def _context_slopes(sizes: Floats, rows: Floats, contexts: Floats, context: float) -> Floats:
    """Seconds per unit and token of context around a mean context, at some sizes; and none."""
    k = int(np.clip(np.searchsorted(contexts, context), ls.PER_OCTAVE, len(contexts) - 1))
    low, high = max(k - ls.PER_OCTAVE, 0), k
    picked = np.unique(np.linspace(0, len(sizes) - 1, 4).astype(int))
    rise = (rows[picked, high] - rows[picked, low]) / (contexts[high] - contexts[low]) / sizes[picked]
    return np.append(np.maximum(rise, 0.0), 0.0)


def _group_lines(groups: tuple[Floats, ...], largest: float) -> tuple[Floats, Floats]:
    """Fixed part and seconds per unit, by share, of lines below all group tables."""
    fixed, unit = [], []
    for table in groups:
        sizes, rows = _rows(table[:, None], largest)
        part = FIXED_SHARES * rows.min()
        fixed.append(part)
        unit.append(((rows[:, 0] - part[:, None]) / sizes).min(axis=1))
    return np.min(fixed, axis=0), np.maximum(np.min(unit, axis=0), 0.0)


def flat(fixed_s: float, unit_s: float = 0.0) -> Planes:
    """One plane that knows the host alone."""
    return Planes(np.array([fixed_s * ROUNDING]), np.array([unit_s * ROUNDING]), np.zeros(1), np.zeros(1))


def prefill_planes(classes: Any, c: int, context: tuple[float, float]) -> Planes:
    """Planes below the prefill steps of a role (`loop_costs.prefill_wall`)."""
    launch, base = classes.f[c, ls.LAUNCH], classes.f[c, ls.PREFILL_BASE]
    chunk = float(classes.i[c, ls.CHUNK])
    own = planes(
        classes.prefill_rank[c],
        (classes.prefill_group[c],),
        base + classes.f[c, ls.EXPOSED] * launch,
        0.0,
        (chunk, chunk),
        context,
    )
    return own.joined(flat(launch + base))


def decode_planes(classes: Any, c: int, largest: int, context: tuple[float, float], mixes: bool) -> Planes:
    """Planes below the steps of a role that decode something (`loop_costs.decode_wall`).

    With `mixes`, a prefill step may carry decoding sequences, at the prefill step's price.
    """
    f = classes.f[c]
    host, host_unit = f[ls.HOST_BASE], f[ls.HOST_SEQ]
    serial = classes.i[c, ls.OVERLAP] == 0
    fixed = f[ls.GAP] + f[ls.EXTEND] + (host if serial else 0.0)
    unit = f[ls.SEQ_EXPOSED] + (host_unit if serial else 0.0)
    widest = float(max(largest, classes.bucket[c, : largest + 1].max()))
    if mixes:
        fixed = min(fixed, f[ls.EXPOSED] * f[ls.LAUNCH] + f[ls.PREFILL_BASE])
        groups = (classes.decode_group[c], classes.prefill_group[c])
        tokens = widest + classes.i[c, ls.CHUNK]
        return planes(classes.decode_rank[c], groups, fixed, 0.0, (widest, tokens), context)
    own = planes(classes.decode_rank[c], (classes.decode_group[c],), fixed, unit, (widest, widest), context)
    return own.joined(flat(host + f[ls.EXTEND], host_unit))
