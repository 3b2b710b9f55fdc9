"""The look-up that a router copies: the same answers as the table, and no package needed."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planner.switching import slots, with_switching
from search_spaces import dispatch_lookup
from search_spaces.catalog_loader import catalog_root
from search_spaces.dispatch import DispatchRow, DispatchTable, PredictedMetrics, dispatch_schema
from search_spaces.dispatch_lookup import Dispatcher, Table, TableError, answer
from search_spaces.errors import BadInput
from search_spaces.public_recipes import lane

RECIPES = [r for r in lane("gb300-disagg-mtp") if slots(r) >= 3000]
MODULE = Path(dispatch_lookup.__file__)


def metrics(concurrency: int, value: float) -> PredictedMetrics:
    return PredictedMetrics(
        concurrency=concurrency, total_tokens_per_s_per_gpu=value, output_tokens_per_s_per_gpu=value / 9,
        tokens_per_s_per_user=50.0, median_tpot_ms=value / 100, mean_tpot_ms=value / 90, median_ttft_ms=value,
        mean_ttft_ms=2 * value, limit="prefill compute",
    )  # fmt: skip


def table(hysteresis: float = 0.25) -> DispatchTable:
    bounds = ((1, 64), (65, 256), (257, 1024), (1025, 4096))
    rows = tuple(
        DispatchRow(
            min_concurrency=low,
            max_concurrency=high,
            recipe=recipe,
            predictions=(metrics(high // 4 + (low if high > 64 else 0), 100.0), metrics(high, 200.0)),
        )
        for (low, high), recipe in zip(bounds, RECIPES[:4], strict=True)
    )
    plain = DispatchTable(
        model=RECIPES[0].model, hardware="gb300", stack="june", isl=8192, osl=1024, num_gpus=72, rows=rows
    )
    return with_switching(plain, hysteresis, 600.0)


@pytest.fixture
def file(tmp_path):
    found = tmp_path / "dispatch.json"
    found.write_text(table().model_dump_json())
    return found


@pytest.mark.parametrize("flags", [("-S",), ("-I", "-S")])
def test_the_file_alone_answers_without_any_package(tmp_path, file, flags):
    copied = tmp_path / "elsewhere" / "lookup.py"
    copied.parent.mkdir()
    shutil.copy(MODULE, copied)
    done = subprocess.run(
        [sys.executable, *flags, str(copied), str(file), "300", "--json"],
        capture_output=True, text=True, cwd=tmp_path, env={}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == answer(Table.load(str(file)), 300)
    outside = subprocess.run(
        [sys.executable, *flags, str(copied), str(file), "9999"], capture_output=True, text=True, check=False
    )
    assert outside.returncode == 2 and "concurrency=9999 is in no row" in outside.stderr


def test_it_imports_the_standard_library_alone():
    tree = ast.parse(MODULE.read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert names <= sys.stdlib_module_names


def test_it_finds_the_same_rows_as_the_table(file):
    found, loaded = table(), Table.load(str(file))
    for load in (1, 64, 65, 256, 257, 1000, 1025, 4096):
        assert found.rows[loaded.row_for(load)] == found.lookup(load)
    for load in (0, 4097):
        with pytest.raises(TableError):
            loaded.row_for(load)
        with pytest.raises(BadInput):
            found.lookup(load)
        assert loaded.nearest_row(load) in (0, 3)


def test_figures_say_whether_they_are_simulated_or_between():
    loaded = Table(table().model_dump(mode="json"))
    exact = loaded.expect(64)
    assert exact is not None and exact.source == "simulated" and exact.metrics["median_ttft_ms"] == 200
    between = loaded.expect(32)
    assert between is not None and between.source == "interpolated"
    assert between.metrics["median_ttft_ms"] == pytest.approx(150)  # half way on a logarithmic axis
    below = loaded.expect(2)
    assert below is not None and below.source == "nearest" and below.metrics["median_ttft_ms"] == 100


def test_hysteresis_keeps_a_row_through_small_swings():
    dispatcher = Dispatcher(Table(table(0.25).model_dump(mode="json")))
    served = [dispatcher.update(load).row for load in (60, 66, 79, 80, 66, 60, 49, 48, 64)]
    assert served == [0, 0, 0, 1, 1, 1, 1, 0, 0]
    free = Dispatcher(Table(table(0.0).model_dump(mode="json")))
    assert [free.update(load).row for load in (60, 66, 60, 66)] == [0, 1, 0, 1]


def test_a_switch_says_what_it_takes_and_a_jump_goes_straight_there():
    data = table().model_dump(mode="json")
    dispatcher = Dispatcher(Table(data), row=0)
    near = dispatcher.update(100)
    assert near.switched and near.row == 1 and near.summary == data["rows"][0]["to_next"]["summary"]
    assert near.warmup_s == 600 and near.drain_s == pytest.approx((400 + 200 / 90 * 1023) / 1000)
    far = Dispatcher(Table(data), row=0).update(4000)
    assert far.switched and far.row == 3 and far.summary == ""
    assert not dispatcher.update(100).switched


def test_thresholds_never_keep_a_row_beyond_its_slots():
    for row in table(1.0).rows[:-1]:
        assert row.switch_up_at is not None and row.max_running is not None
        assert row.max_concurrency < row.switch_up_at <= max(row.max_running, row.max_concurrency) + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "schema_version=99 is not read"),
        ({"rows": []}, "rows are absent"),
        ({"rows": [{}]}, "not a dispatch table"),
    ],
)
def test_other_files_are_refused(change, words, tmp_path):
    with pytest.raises(TableError, match=words):
        Table({**table().model_dump(mode="json"), **change})
    (tmp_path / "x.json").write_text("[1")
    with pytest.raises(TableError):
        Table.load(str(tmp_path / "x.json"))


def test_the_shipped_schema_is_that_of_the_table():
    assert json.loads((catalog_root() / "dispatch.schema.json").read_text()) == dispatch_schema()
    assert dispatch_schema()["properties"]["schema_version"]["maximum"] == max(
        dispatch_lookup.SCHEMA_VERSIONS
    )
