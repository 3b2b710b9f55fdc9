"""Which platform's measurements stand for a table: its own, or those of the nearest architecture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from search_spaces.catalog_loader import hardware as hardware_named
from search_spaces.errors import MissingData
from search_spaces.hardware import Hardware
from search_spaces.kernel_profile import KernelProfile, load_profile
from simulator.op_costs import Floats

BORROW_ORDER = {
    "gb300": ("gb300", "b300", "gb200", "b200"),
    "b300": ("b300", "gb300", "b200", "gb200"),
    "gb200": ("gb200", "b200", "gb300", "b300"),
    "b200": ("b200", "gb200", "b300", "gb300"),
    "h200": ("h200", "h100"),
    "h100": ("h100", "h200"),
}
"""Platforms whose efficiency may stand in, nearest first."""


@dataclass(frozen=True)
class Owner:
    """A profile that holds a table, and the platform it was measured on."""

    profile: KernelProfile
    hardware: Hardware


@cache
def _profile(name: str) -> KernelProfile:
    return load_profile(name)


def owner_of(hw: Hardware, table: str, **equals: int) -> Owner | None:
    """The nearest platform whose profile has rows of `table` with these column values."""
    for name in BORROW_ORDER.get(hw.kernel_profile, (hw.kernel_profile,)):
        try:
            profile = _profile(name)
        except MissingData:
            continue
        rows = profile.tables.get(table)
        if rows is None or not len(rows["time_s" if "time_s" in rows else "dispatch_s"]):
            continue
        mask = np.ones(len(next(iter(rows.values()))), bool)
        for column, value in equals.items():
            mask &= rows[column] == value
        if mask.any():
            return Owner(profile, hw if name == hw.kernel_profile else hardware_named(name))
    return None


def measured(owner: Owner, table: str, wanted: tuple[str, ...], **equals: int) -> list[Floats]:
    """The columns `wanted` of the rows of `table` with these column values."""
    rows = owner.profile.tables[table]
    mask = np.ones(len(rows[wanted[0]]), bool)
    for column, value in equals.items():
        mask &= rows[column] == value
    return [rows[c][mask].astype(float) for c in wanted]
