"""Predictions against published GB300 runs, with the shipped calibration and no factor per recipe."""

from pathlib import Path

import numpy as np
import pytest

from engine_adapter.points import load_points
from planner.validation import THROUGHPUT, report, simulate_all
from simulator.calibration import load_calibration

POINTS = Path(__file__).parents[1] / "data" / "points_gb300_disagg.yaml"


@pytest.fixture(scope="module")
def found():
    points = load_points(str(POINTS))
    calibration = load_calibration()
    return report(points, simulate_all(points, calibration, workers=1), calibration)


def test_every_point_is_predicted(found):
    assert {p.status for p in found.points} == {"predicted"}


@pytest.mark.parametrize(
    ("metric", "median_pct"), [(THROUGHPUT, 15.0), ("median_tpot_ms", 15.0), ("median_ttft_ms", 35.0)]
)
def test_median_errors_stay_where_the_readme_says(found, metric, median_pct):
    errors = [abs(p.errors[metric]) for p in found.points if metric in p.errors]
    assert len(errors) >= 15
    assert 100 * np.median(errors) <= median_pct


def test_recipes_rank_as_measured(found):
    assert all(lane.kendall_tau is not None and lane.kendall_tau >= 0.85 for lane in found.summary)
