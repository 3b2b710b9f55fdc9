"""Validation: errors and statistics by hand, and the command on real records."""

from __future__ import annotations

import json

import pytest
import yaml

from planner import validation
from planner.validation import (
    METRICS,
    THROUGHPUT,
    Outcome,
    ValidationReport,
    check_tolerance,
    lane_of,
    only_lanes,
    rank_correlation,
    report,
    setting_key,
    simulate_all,
    summarize,
)
from search_spaces.errors import BadInput, Infeasible, MissingData, OutOfTolerance
from simulator.calibration import Calibration
from tests.planner_tests.samples import POINTS, measured, servecast

LANE = "b200-agg-pro-nomtp"
CALIBRATION = Calibration()


def by_hand(pairs: list[tuple[float, float]], infeasible: int = 0) -> ValidationReport:
    """The report of points predicted and measured as given."""
    points, outcomes = [], {}
    for index, (predicted, value) in enumerate(pairs):
        point = measured(f"p{index}", index + 1, **{THROUGHPUT: value, "mean_tpot_ms": 10.0})
        metrics = dict.fromkeys(METRICS, 11.0) | {THROUGHPUT: predicted}
        points.append(point)
        outcomes[setting_key(point)] = Outcome("predicted", None, metrics, "decode step time", 0.5)
    for index in range(infeasible):
        point = measured(f"i{index}", 1000 + index, **{THROUGHPUT: 1.0})
        points.append(point)
        outcomes[setting_key(point)] = Outcome("infeasible", "too big", {}, None, None)
    return report(points, outcomes, CALIBRATION)


def test_errors_and_statistics_of_a_small_table():
    found = by_hand([(110, 100), (90, 100), (260, 200), (300, 300)], infeasible=1)
    assert [p.errors[THROUGHPUT] for p in found.points[:4]] == pytest.approx([0.1, -0.1, 0.3, 0.0])
    (lane,) = found.summary
    errors = lane.metrics[THROUGHPUT]
    assert (lane.lane, lane.n, lane.num_infeasible, errors.n) == (LANE, 4, 1, 4)
    assert errors.median_abs_error_pct == pytest.approx(10)
    assert errors.mean_abs_error_pct == pytest.approx(12.5)
    assert errors.bias_pct == pytest.approx(7.5)
    assert lane.metrics["mean_tpot_ms"].bias_pct == pytest.approx(10)
    assert set(lane.metrics) == {THROUGHPUT, "mean_tpot_ms"}
    assert found.overall.n == 4 and found.overall.metrics == lane.metrics


def test_rank_correlation_by_hand():
    # Pairs in order 1<2<3<4 but for one swap: 5 of 6 concordant, so tau = (5 - 1) / 6.
    assert rank_correlation([(1, 1), (2, 3), (3, 2), (4, 4)]) == pytest.approx(4 / 6)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 1), (2, 2)]) is None
    assert rank_correlation([(1, 1), (2, 2), (2, 2), (1, 1)]) is None
    assert rank_correlation([]) is None


def test_tolerance_is_of_the_median():
    found = by_hand([(110, 100), (100, 100), (300, 100)])
    check_tolerance(found, 10.001)
    with pytest.raises(OutOfTolerance, match=f"{LANE}: median absolute error .* 10.0 % over 3 points"):
        check_tolerance(found, 9.9)
    with pytest.raises(MissingData, match="no predicted point"):
        check_tolerance(by_hand([], infeasible=1), 10)


def test_a_lane_without_predictions_has_no_metrics():
    empty = summarize(LANE, by_hand([], infeasible=2).points)
    assert (empty.n, empty.num_infeasible, empty.metrics, empty.kendall_tau) == (0, 2, {}, None)


def test_equal_settings_are_simulated_once(monkeypatch):
    calls: list[object] = []

    def broken(setting: object) -> None:
        calls.append(setting)
        raise Infeasible("does not fit")

    monkeypatch.setattr(validation, "predict", broken)
    points = [measured("a"), measured("b"), measured("c", 2)]
    progress = []
    outcomes = simulate_all(points, CALIBRATION, 1, lambda done, total: progress.append((done, total)))
    assert len(calls) == len(outcomes) == 2 and progress == [(1, 2), (2, 2)]
    rows = report(points, outcomes, CALIBRATION).points
    assert [row.status for row in rows] == ["infeasible"] * 3 and rows[0].reason == "does not fit"


def test_absent_data_refuses_a_point(monkeypatch):
    def broken(_: object) -> None:
        raise MissingData("no table")

    monkeypatch.setattr(validation, "predict", broken)
    (outcome,) = simulate_all([measured("a")], CALIBRATION, 1).values()
    assert (outcome.status, outcome.reason) == ("refused", "no table")


def test_workers_give_the_same_numbers():
    points = [measured(f"p{c}", c, **{THROUGHPUT: 100.0}) for c in (1, 2, 3)]
    serial, parallel = simulate_all(points, CALIBRATION, 1), simulate_all(points, CALIBRATION, 2)
    assert {k: o.metrics for k, o in serial.items()} == {k: o.metrics for k, o in parallel.items()}


def test_lanes_are_chosen_by_pattern():
    points = [measured("a"), measured("b")]
    assert lane_of(points[0]) == LANE and only_lanes(points, "B200-*") == points
    with pytest.raises(BadInput, match=rf"only='h100-\*' matches no lane .* \['{LANE}'\]"):
        only_lanes(points, "h100-*")


@pytest.fixture(scope="module")
def document():
    done = servecast("validate", POINTS, "--json", "--workers", 1)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_json_of_the_command(document):
    assert set(document) == {"points", "summary", "overall", "calibration"}
    found = ValidationReport.parse(document, "stdout")
    records = yaml.safe_load(POINTS.read_text())
    assert [p.id for p in found.points] == [r["id"] for r in records]
    assert {p.status for p in found.points} == {"predicted", "refused"}
    for point in found.points:
        assert set(point.measured) <= set(METRICS) and set(point.errors) <= set(point.measured)
        assert (
            (point.status == "predicted")
            == (set(point.predicted) == set(METRICS))
            == (point.wall_s is not None)
        )
        assert (point.reason is None) == (point.status == "predicted")
        for name, error in point.errors.items():
            assert error == pytest.approx(point.predicted[name] / point.measured[name] - 1)
    assert sum(s.n for s in found.summary) == found.overall.n
    assert {"gb300-disagg-pro-mtp", "h200-agg-flash-dspark"} <= {s.lane for s in found.summary}
    assert len(found.calibration.digest) == 16


def test_text_shows_every_point_and_lane(document):
    done = servecast("validate", POINTS, "--workers", 1)
    assert all(point["id"] in done.stdout for point in document["points"])
    assert all(lane["lane"] in done.stdout for lane in document["summary"])
    assert "other model: DeepSeek-R1-0528" in done.stdout and "processor time" not in done.stdout


def test_max_error_exits_4_after_printing():
    done = servecast("validate", POINTS, "--only", "h200-*", "--max-error", 0.001, "--json", "--workers", 1)
    assert done.exit_code == 4 and "error: h200-agg-pro-nomtp" in done.stderr
    assert json.loads(done.stdout)["points"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("a: 1\n", "expected a list of points"),
        ("- id: x\n  trust: A\n", "source is required and absent"),
        ("- {id: x", "not valid YAML"),
        ("- 3\n", "expected a mapping"),
    ],
)
def test_bad_point_files(tmp_path, content, wanted):
    file = tmp_path / "points.yaml"
    file.write_text(content)
    done = servecast("validate", file)
    assert done.exit_code == 2 and wanted in done.stderr and done.stdout == ""


def test_missing_point_file_and_unknown_lane(tmp_path):
    assert "no such file" in servecast("validate", tmp_path / "none.yaml").stderr
    done = servecast("validate", POINTS, "--only", "mars")
    assert done.exit_code == 2 and "matches no lane" in done.stderr
