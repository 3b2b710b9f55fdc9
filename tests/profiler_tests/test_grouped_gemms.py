"""Kernels timed alone become rows of a kernel profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiler.grouped_gemms import with_grouped_gemms
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.kernel_profile import KernelProfile, load_profile, save_profile

FLASH = catalog_loader.model("dsv4-flash")


def row(name: str, tokens: int, us: float, **changes: Any) -> dict[str, Any]:
    n, k = (4096, 4096) if name == "w13" else (4096, 2048)
    return {
        "kernel": "moe_masked",
        "name": name,
        "experts": 64,
        "tokens": tokens,
        "n": n,
        "k": k,
        "us": us,
    } | changes


def timings(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "times.json"
    file.write_text(json.dumps({"rows": [*rows, {"kernel": "copy", "us": 1.0}]}))
    return file


def test_both_products_are_one_row_and_prefill_layout_wins(tmp_path: Path) -> None:
    rows = [
        row("w13", 16, 100.0),
        row("w2", 16, 50.0),
        row("w13", 1024, 300.0),
        row("w2", 1024, 140.0),
        row("w13", 1024, 330.0, kernel="moe_contiguous"),
        row("w2", 1024, 170.0, kernel="moe_contiguous"),
    ]
    base = KernelProfile("h200", {"moe": load_profile("h200").tables["moe"]})
    found = with_grouped_gemms(base, timings(tmp_path, rows), FLASH)
    table = found.table("moe")
    mask = table["distribution"] == 4
    assert list(zip(table["moe_ep"][mask], table["tokens"][mask], strict=True)) == [(4, 16), (4, 1024)]
    assert table["time_s"][mask] == pytest.approx([150e-6, 500e-6])
    others = base.table("moe")["distribution"] != 4
    assert (~mask).sum() == others.sum()
    keys = np.stack([v for c, v in table.items() if c != "time_s"])
    assert len(np.unique(keys, axis=1).T) == len(mask)
    again = with_grouped_gemms(found, timings(tmp_path, rows), FLASH)
    assert (again.table("moe")["time_s"] == table["time_s"]).all()
    save_profile(again, tmp_path / "h200.npz")
    assert load_profile(tmp_path / "h200.npz").meta["grouped_gemms"]["rows"] == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("w13", 16, 1.0)], "one product of two"),
        ([row("w13", 16, 1.0, k=7168)], "is not of deepseek-ai/DeepSeek-V4-Flash"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        with_grouped_gemms(load_profile("h200"), timings(tmp_path, rows), FLASH)


def test_what_is_no_timing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(BadInput, match="not a timing file"):
        with_grouped_gemms(load_profile("h200"), tmp_path / "x.json", FLASH)
