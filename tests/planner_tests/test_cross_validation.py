"""Folds, linear refits, posteriors and out-of-fold tables, on a few points that simulate in milliseconds."""

import json
from dataclasses import replace

import numpy as np
import pytest

from planner.accuracy import accuracy, check_lanes, picks
from planner.accuracy_page import accuracy_page
from planner.accuracy_text import accuracy_text
from planner.calibrate import PRIOR_WEIGHT, parameter_named, value_of
from planner.cross_validation import cross_validate, split_of
from planner.folds import grouped_folds, siblings
from planner.held_out import NEVER
from planner.linear_fit import LinearFit, covariance, linearise, solved, with_values
from planner.missed_targets import misses, orders
from planner.posterior import draws, posterior
from planner.refit import fitted, refit
from planner.residual_study import slices
from planner.simulation_cache import SimulationCache
from planner.validation import THROUGHPUT
from search_spaces.errors import BadInput, MissingData, OutOfTolerance
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from tests.planner_tests.samples import SINGLE, TP8, measured

PARAMS = [parameter_named("decode_slowdown"), parameter_named("prefill_slowdown")]
TRUTH = Calibration(decode_slowdown=1.05, prefill_slowdown=1.15)


def point(name, source, tp=8, concurrency=2, hardware="b200", batch=64):
    group = TP8 | {"tp": tp, "max_running_per_rank": batch}
    return measured(name).model_copy(
        update={
            "source": source,
            "hardware": hardware,
            "recipe": Recipe.model_validate(SINGLE | {"aggregated": group, "hardware": hardware}),
            "workload": Workload(isl=2048, osl=64, concurrency=concurrency, num_prompts=2 * concurrency),
        }
    )


def as_measured(points, calibration, cache, factor=None):
    """The points with what a calibration gives as their measurement, times a factor by id."""
    found = cache.metrics(points, calibration)
    names = (THROUGHPUT, "median_tpot_ms", "median_ttft_ms")
    return [
        p.model_copy(update={"measured": {n: m[n] * (factor or {}).get(p.id, {}).get(n, 1.0) for n in names}})
        for p, m in zip(points, found, strict=True)
    ]


SHAPES = [
    point("a1", "first", concurrency=1),
    point("a2", "first", concurrency=4),
    point("b1", "second", concurrency=2, batch=32),
    point("b2", "second", concurrency=8, batch=32),
    point("c1", "third", concurrency=3, batch=16),
    point("d1", "fourth", concurrency=4, hardware="b300"),
    point("d2", "fourth", concurrency=2, hardware="b300"),
]


@pytest.fixture(scope="module")
def cache():
    return SimulationCache(None)


@pytest.fixture(scope="module")
def points(cache):
    return as_measured(SHAPES, TRUTH, cache)


@pytest.fixture(scope="module")
def split(points, cache):
    return split_of(points, TRUTH, cache, params=PARAMS)


@pytest.fixture(scope="module")
def found(split, cache):
    return cross_validate(split, cache, folds=3)


def test_points_of_one_source_and_topology_are_never_split(points):
    groups = siblings(points)
    names = [{points[i].id for i in group} for group in groups]
    assert names == [{"a1", "a2"}, {"b1", "b2"}, {"c1"}, {"d1", "d2"}]
    for fold in grouped_folds(points, 3):
        assert all(set(group) <= set(fold) or not set(group) & set(fold) for group in groups)


def test_one_deployment_of_two_sources_is_one_group(points):
    twin = points[0].model_copy(update={"source": "elsewhere", "id": "twin"})
    groups = siblings([*points, twin])
    assert {0, 1, 7} in [set(group) for group in groups]


def test_too_few_groups_for_the_folds(points):
    with pytest.raises(BadInput, match=r"folds=5 must be from 2 to the 4 groups"):
        grouped_folds(points, 5)


def test_slopes_are_those_of_the_simulation(split, cache):
    fit = split.fit
    moved = fit.free + np.array([0.1, -0.1])
    there = linearise(fit.points, with_values(fit.calibration, fit.params, moved), cache, params=PARAMS)
    linear = fit.errors + fit.slopes @ (moved - fit.free)
    assert np.abs(fit.slopes).max() > 0.5
    # Single times may jump by an engine step; most rows follow the slopes.
    assert np.median(np.abs(linear - there.errors)) < 0.02 * np.abs(there.errors).max()


def test_perfect_data_are_predicted_out_of_fold(found):
    assert {p.fold for p in found.points} == {"1", "2", "3"} and len(found.points) == len(SHAPES)
    assert {p.fold for p in found.platforms} == {"b200", "b300"}
    for row in (*found.points, *found.platforms):
        assert abs(row.error(THROUGHPUT)) < 0.03 and abs(row.error("median_tpot_ms")) < 0.03


def test_a_wrong_group_does_not_bend_its_own_refit(points, cache):
    """The full fit follows wrong points half-way; the refit without them comes back to the truth."""
    slow = {name: {"median_tpot_ms": 1.08, THROUGHPUT: 1 / 1.08} for name in ("a1", "a2")}
    bent = as_measured(SHAPES, TRUTH, cache, slow)
    start = linearise(bent, TRUTH, cache, params=PARAMS)
    full = with_values(TRUTH, PARAMS, solved(start, np.ones(len(start.errors), dtype=bool)))
    assert full.decode_slowdown > TRUTH.decode_slowdown + 0.01
    again = refit(
        linearise(bent, full, cache, params=PARAMS), [p.id not in slow for p in bent], cache
    ).calibration
    assert abs(again.decode_slowdown - TRUTH.decode_slowdown) < 0.3 * (
        full.decode_slowdown - TRUTH.decode_slowdown
    )


def test_a_fit_from_elsewhere_finds_the_truth_and_stops(points, cache, monkeypatch):
    monkeypatch.setattr("planner.linear_fit.parameters", lambda hosts: PARAMS)
    told = []
    away = TRUTH.model_copy(update={"decode_slowdown": 0.95, "prefill_slowdown": 1.02})
    found = fitted(points, away, cache, rounds=5, on_round=lambda *row: told.append(row))
    assert found.cost < 0.1 * found.cost_before
    assert found.calibration.decode_slowdown == pytest.approx(TRUTH.decode_slowdown, abs=0.01)
    assert [row[0] for row in told] == list(range(1, len(told) + 1)) and len(told) < 6
    assert all(after <= before for _, before, after in told)


def test_the_full_fit_is_never_the_answer_of_a_fold(split, cache):
    kept = [p.source != "first" for p in split.fit.points]
    answer = refit(split.fit, kept, cache)
    assert not np.array_equal(answer.free, split.fit.free)
    assert answer.cost <= answer.cost_before + 1.0


def test_points_left_out_are_predicted_and_never_fitted(points, cache):
    partly = TRUTH.model_copy(update={"left_out": ("c1",)})
    split = split_of(points, partly, cache, params=PARAMS)
    assert [p.id for p in split.unused] == ["c1"] and "c1" not in {p.id for p in split.fit.points}
    found = cross_validate(split, cache, folds=2, evaluations=0)
    assert {p.fold for p in found.points if p.id == "c1"} == {NEVER}


def test_nothing_to_compare(cache):
    with pytest.raises(MissingData, match="no point can be compared"):
        split_of([], TRUTH, cache)


def synthetic(slopes, errors, names=("decode_slowdown", "x86.prefill_layer_s", "grace.prefill_layer_s")):
    params = [parameter_named(name) for name in names]
    rows = len(errors)
    owners = np.zeros(rows, dtype=np.int64)
    free = np.array([p.to_free(p.prior) for p in params])
    return LinearFit(
        TRUTH, params, [point("x", "s")], free, np.array(errors), np.array(slopes, dtype=float), owners
    )


def test_linear_solution_is_the_closed_form_for_small_errors():
    fit = synthetic([[1.0, 0.0, 0.0]], [0.02])
    moved = solved(fit, np.array([True])) - fit.free
    assert moved[0] == pytest.approx(-0.02 / (1 + PRIOR_WEIGHT**2), rel=1e-3)
    assert moved[1] == pytest.approx(0, abs=1e-6)


def test_a_host_without_points_goes_to_its_prior():
    fit = synthetic([[1.0, 0.0, 0.0]], [0.02])
    away = replace(fit, free=fit.free + 2.0)
    assert solved(away, np.array([True]))[2] == away.prior[2]
    assert solved(away, np.array([True]))[1] != away.prior[1]


def test_posterior_is_the_closed_form_and_says_what_is_not_pinned():
    fit = synthetic([[2.0, 0.0, 0.0]], [0.0])
    cov = covariance(fit, np.array([True]))
    assert cov[0, 0] == pytest.approx(1 / (4 + PRIOR_WEIGHT**2))
    assert cov[1, 1] == pytest.approx(1 / PRIOR_WEIGHT**2)
    known = posterior(fit).parameters
    pinned, free = known["decode_slowdown"], known["x86.prefill_layer_s"]
    assert pinned.identifiable and pinned.pinned_by == {"b200-agg-pro-nomtp": 1.0}
    assert not free.identifiable and free.prior_share == 1.0 and free.pinned_by == {}
    assert (
        pinned.low < value_of(TRUTH.model_copy(update={"decode_slowdown": 1.0}), fit.params[0]) < pinned.high
    )


def test_scattered_points_tell_less():
    calm, noisy = synthetic([[2.0, 0, 0]] * 3, [0.0] * 3), synthetic([[2.0, 0, 0]] * 3, [4.0, -4.0, 4.0])
    rows = np.ones(3, dtype=bool)
    assert covariance(noisy, rows)[0, 0] > 2 * covariance(calm, rows)[0, 0]


def test_draws_follow_the_posterior(split):
    with_posterior = TRUTH.model_copy(update={"posterior": posterior(split.fit)})
    values = np.array([c.decode_slowdown for c in draws(with_posterior, 200, seed=1)])
    known = posterior(split.fit).parameters["decode_slowdown"]
    inside = np.mean((values >= known.low) & (values <= known.high))
    assert 0.7 < inside < 0.9 and values.std() > 0
    assert [c.digest for c in draws(with_posterior, 3, 1)] == [c.digest for c in draws(with_posterior, 3, 1)]
    with pytest.raises(MissingData, match=r"draws=1: calibration 'default' has no posterior"):
        draws(TRUTH, 1, 0)


def test_work_goes_on_after_an_interrupt(tmp_path, points):
    tasks = [(p, TRUTH) for p in points]

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SimulationCache(tmp_path).evaluate(tasks, stop)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text() + '["torn", [1.0, ')
    again = SimulationCache(tmp_path)
    again.evaluate(tasks)
    assert again.simulated == len(points) - 3
    third = SimulationCache(tmp_path)
    assert third.evaluate(tasks) == again.evaluate(tasks) and third.simulated == 0


def test_statements_about_a_calibration_do_not_change_its_simulations(points, cache):
    told = TRUTH.model_copy(update={"data": "something else", "left_out": ("x",)})
    before = cache.simulated
    cache.metrics(points, told)
    assert cache.simulated == before and told.digest == TRUTH.digest
    assert TRUTH.model_copy(update={"decode_slowdown": 1.0}).digest != TRUTH.digest


def test_tables_targets_and_page(found):
    tables = accuracy(found)
    assert {part.name for part in tables.folds} == {"b200-agg-pro-nomtp", "b300-agg-pro-nomtp"}
    by_name = {check.what: check for check in tables.checks}
    assert by_name[f"b200-agg-pro-nomtp {THROUGHPUT}"].met
    assert by_name[f"b300-agg-pro-nomtp, platform never seen {THROUGHPUT}"].met
    text = accuracy_text(found, tables)
    assert "Targets:" in text and found.points_digest in text
    assert json.loads(tables.document(found))["cross_validation"]["points"][0]["id"] in {p.id for p in SHAPES}
    files = accuracy_page(found, tables, "accuracy")
    assert files["accuracy-parity.png"][:4] == b"\x89PNG" and b"<svg" in files["accuracy-parity.svg"]
    page = str(files["accuracy.md"])
    assert found.calibration in page and "(accuracy-parity.png)" in page and "| first | 2 |" in page


def test_missed_targets_and_tolerance(found):
    wrong = [
        p.model_copy(update={"predicted": {k: 1.5 * v for k, v in p.predicted.items()}}) for p in found.points
    ]
    tables = accuracy(found.model_copy(update={"points": wrong}))
    assert not next(c for c in tables.checks if c.what == f"b200-agg-pro-nomtp {THROUGHPUT}").met
    with pytest.raises(
        OutOfTolerance, match=r"b200-agg-pro-nomtp: out-of-fold median .* above max_error=20 %"
    ):
        check_lanes(tables, 20)
    check_lanes(accuracy(found), 20)


def test_regret_is_what_the_pick_loses(found):
    rows = [p for p in found.points if p.id in ("a1", "b1")]
    common = {"lane": "x", "workload": "w"}
    good = rows[0].model_copy(
        update=common
        | {"measured": {THROUGHPUT: 100.0, "median_tpot_ms": 20.0}, "predicted": {THROUGHPUT: 80.0}}
    )
    bad = rows[1].model_copy(
        update=common
        | {"measured": {THROUGHPUT: 90.0, "median_tpot_ms": 20.5}, "predicted": {THROUGHPUT: 95.0}}
    )
    (pick,) = picks([good, bad])
    assert pick.regret == pytest.approx(0.1) and pick.num_recipes == 2
    assert picks([good]) == []


def test_unexplained_time_shows_a_stall_and_nothing_else(found):
    row = found.points[0]
    exact = row.model_copy(update={"measured": dict(row.predicted)})
    assert exact.unexplained_fraction == pytest.approx(0)
    stalled = exact.model_copy(
        update={"measured": {**row.predicted, THROUGHPUT: row.predicted[THROUGHPUT] / 1.25}}
    )
    assert stalled.unexplained_fraction == pytest.approx(0.2)


def test_slices_name_a_signed_error(found):
    slow = [
        p.model_copy(
            update={"predicted": {**p.predicted, "median_tpot_ms": 1.3 * p.predicted["median_tpot_ms"]}}
        )
        for p in found.points
    ]
    by_host = next(s for s in slices(slow) if s.kind == "host CPU")
    assert by_host.n == len(slow) and by_host.tpot == pytest.approx(0.3, abs=0.05)


def slowed(found, sides):
    """Every TPOT 30 % too long in the named predictions."""
    return found.model_copy(
        update={
            "points": [
                p.model_copy(
                    update={side: {m: (1.3 if "tpot" in m else 1) * v for m, v in getattr(p, side).items()}
                            for side in sides}
                )
                for p in found.points
            ]
        }
    )  # fmt: skip


def test_a_missed_target_says_whether_the_model_or_the_points_are_short(found):
    def tpot(sides):
        wrong = slowed(found, sides)
        rows = [m for m in misses(wrong, accuracy(wrong)) if "tpot" in m.what and "never" not in m.what]
        assert rows and all(row.found.startswith("median 3") for row in rows)
        return rows

    for row in tpot(("predicted", "in_sample")):
        assert row.settle.startswith("decode step time") and row.sign == "+30 %"
    for row in tpot(("predicted",)):
        assert row.in_sample == "0.0 %" and "another source; without these points" in row.settle
        assert "slowdown goes from" in row.settle


def test_a_wrong_order_says_how_many_pairs_repeats_could_turn_round(found):
    row = next(p for p in found.points if p.measured.get(THROUGHPUT))

    def rank(measured, predicted):
        points = [
            row.model_copy(
                update={
                    "measured": {THROUGHPUT: m},
                    "predicted": row.predicted | {THROUGHPUT: p},
                    "in_sample": row.in_sample | {THROUGHPUT: m},
                }
            )
            for m, p in zip(measured, predicted, strict=True)
        ]
        return orders(found.model_copy(update={"points": points}))

    assert rank((100.0, 200.0, 300.0), (10.0, 20.0, 30.0)) == []
    (miss,) = rank((100.0, 102.0, 300.0), (12.0, 11.0, 10.0))
    assert (miss.found, miss.in_sample) == ("-1.00", "1.00")
    assert miss.settle.startswith("1 of 3 pairs") and miss.settle.endswith("0 of 2 are in order")
