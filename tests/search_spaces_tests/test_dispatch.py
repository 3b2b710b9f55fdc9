"""Laws of dispatch tables and measured points."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from search_spaces.dispatch import DispatchRow, DispatchTable, PredictedMetrics, dispatch_schema
from search_spaces.errors import BadInput
from search_spaces.public_recipes import lane
from search_spaces.records import MeasuredPoint

RECIPE = lane("gb300-disagg-mtp")[0]


def metrics(concurrency: int, **more: float) -> PredictedMetrics:
    return PredictedMetrics(
        concurrency=concurrency, total_tokens_per_s_per_gpu=100.0, output_tokens_per_s_per_gpu=11.0,
        tokens_per_s_per_user=50.0, median_tpot_ms=20.0, mean_tpot_ms=21.0, median_ttft_ms=500.0,
        mean_ttft_ms=600.0, **more,
    )  # fmt: skip


def table(*ranges: tuple[int, int], num_gpus: int = 72, **more: object) -> DispatchTable:
    rows = tuple(DispatchRow(min_concurrency=a, max_concurrency=b, recipe=RECIPE) for a, b in ranges)
    fields = dict(model=RECIPE.model, hardware="gb300", stack="june", isl=8192, osl=1024) | more
    return DispatchTable(num_gpus=num_gpus, rows=rows, **fields)


def test_lookup_finds_the_range():
    found = table((1, 8), (16, 64))
    assert found.lookup(8).max_concurrency == 8 and found.lookup(16).max_concurrency == 64
    for outside in (9, 65):
        with pytest.raises(BadInput, match="no range"):
            found.lookup(outside)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: table((1, 8), (8, 16)), "must start above"),
        (lambda: table((16, 32), (1, 8)), "must start above"),
        (lambda: table((8, 1)), "must not exceed"),
        (lambda: table((1, 8), num_gpus=4), "GPUs, more than"),
        (lambda: table((1, 8), hardware="b200"), "one model and platform"),
        (lambda: table(), "at least 1"),
        (
            lambda: DispatchRow(
                min_concurrency=1, max_concurrency=8, recipe=RECIPE, predictions=(metrics(9),)
            ),
            "must rise within",
        ),
        (lambda: metrics(1, median_tpot_ms_low=21.0, median_tpot_ms_high=22.0), "must lie in its interval"),
        (lambda: metrics(1, median_tpot_ms_low=19.0), "both ends"),
    ],
)
def test_broken_tables(make, words):
    with pytest.raises(ValidationError, match=words):
        make()


def test_table_survives_json_and_has_a_schema():
    found = table((1, 8), (16, 64))
    assert DispatchTable.parse(json.loads(found.model_dump_json()), "t") == found
    schema = dispatch_schema()
    assert set(DispatchTable.model_fields) <= set(schema["properties"])
    assert "min_concurrency" in schema["$defs"]["DispatchRow"]["properties"]


def test_a_point_is_complete_or_refused():
    fields = dict(id="x", trust="A", model="m", hardware="gb300", engine="sglang", engine_version="v",
                  stack="june", num_gpus=8)  # fmt: skip
    with pytest.raises(ValidationError, match="set `refused`"):
        MeasuredPoint(**fields)
    with pytest.raises(ValidationError, match="no metric"):
        MeasuredPoint(**fields, refused="why", measured={"tpot": 1.0})
    point = MeasuredPoint(**fields, refused="why", measured={"median_tpot_ms": 20.0})
    assert not point.usable and point.tokens_per_s_per_user == 50.0 and point.concurrency is None
