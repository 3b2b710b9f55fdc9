"""`servecast compare`: fronts are fronts, costs are prices over simulated throughput."""

from __future__ import annotations

import json

import pytest

from planner.comparing import CompareRequest, Comparison, compare, compare_bench
from planner.comparing_text import compare_pictures, compare_text
from search_spaces.errors import Infeasible
from simulator.simulate import predict
from tests.planner_tests.samples import servecast

SMALL = {"model": "DeepSeek-V4-Flash", "isl": 2048, "osl": 64, "num_gpus": 16, "concurrencies": (2, 64),
         "members": 4, "mtp": False}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    return compare(CompareRequest(hardware=("b200", "h200"), prices={"h200": 1.0}, **SMALL), workers=1)


def test_fronts_rise_in_speed_and_fall_in_throughput(found):
    assert [front.hardware for front in found.fronts] == ["b200", "h200"]
    for front in found.fronts:
        speeds = [p.tokens_per_s_per_user for p in front.points]
        rates = [p.total_tokens_per_s_per_gpu for p in front.points]
        assert len(speeds) > 1 and speeds == sorted(speeds) and rates == sorted(rates, reverse=True)


def test_cost_is_price_over_throughput(found):
    for front, price in zip(found.fronts, (3.2, 1.0), strict=True):
        assert front.price_per_gpu_hour == price
        for point in front.points:
            dollars = price / (point.total_tokens_per_s_per_gpu * 3600) * 1e6
            assert point.per_million_tokens == pytest.approx(dollars)
        slow = front.cheapest(0.0)
        assert slow == min(front.points, key=lambda p: p.per_million_tokens)
        assert front.cheapest(1e9) is None


def test_points_are_what_simulation_gives(found):
    from planner.sizing_screen import setting_at

    point = found.fronts[0].points[0]
    bench = compare_bench(found.request, "b200")
    setting = setting_at(bench, point.recipe, point.concurrency)
    metrics = predict(setting).metrics
    assert metrics["total_tokens_per_s_per_gpu"] == point.total_tokens_per_s_per_gpu


def test_text_picture_and_json(found):
    text = compare_text(found)
    assert "b200" in text and "Least dollars" in text and "assumptions" in text
    assert set(compare_pictures(found)) == {"compare.png", "compare.svg"}
    assert Comparison.parse(json.loads(found.model_dump_json()), "json") == found


def test_a_platform_that_is_too_small_is_refused():
    with pytest.raises(Infeasible, match="no platform"):
        compare(CompareRequest(hardware=("b200",), **SMALL | {"num_gpus": 1}), workers=1)
    wrong = servecast("compare", "--model", "DeepSeek-V4-Flash", "--hardware", "z80")
    assert wrong.exit_code == 2 and "z80" in wrong.stderr
