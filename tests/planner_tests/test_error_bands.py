"""Bands from held-out errors: nested, shrunk, widened for unknown platforms, and what plan makes of them."""

import math

import pytest

from planner.accuracy import coverage
from planner.error_bands import LEAST, SHRINKAGE, error_bands, with_intervals
from planner.evaluate import Bench, Outcome
from planner.held_out import HeldOut
from planner.plan_types import PlanRequest
from planner.repeats import repeats
from planner.risk import judged, lead, score
from planner.spread import default_draws, with_spread
from search_spaces import catalog_loader
from search_spaces.dispatch import PredictedMetrics
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from simulator.intervals import BANDED, band_groups, factors, intervals
from simulator.simulate import predict
from simulator.uncertainty import ErrorBand, ErrorBands, ParameterUncertainty, Posterior
from simulator.world import Setting
from tests.planner_tests.samples import SINGLE

TPS, TPOT = "total_tokens_per_s_per_gpu", "median_tpot_ms"
RECIPE = Recipe.model_validate(SINGLE)
PREDICTED = {TPS: 100.0, "output_tokens_per_s_per_gpu": 10.0, TPOT: 20.0, "tokens_per_s_per_user": 50.0}
PREDICTED["median_ttft_ms"] = 300.0


def held(name, error, fold="1", shape="agg", hardware="b200", deployment=None, concurrency=8):
    """A point whose every prediction is off by `error`, a fraction."""
    groups = ["all", shape, f"{shape}/nomtp"]
    measured = {k: v / (1 + error) for k, v in PREDICTED.items() if k != "tokens_per_s_per_user"}
    return HeldOut(
        id=name, lane=f"{hardware}-{shape}", hardware=hardware, topology="t", deployment=deployment or name,
        groups=groups, workload="w", prompts="random",
        mean_isl=900, mean_osl=900, concurrency=concurrency, num_gpus=8,
        batch_per_rank=1, moe_ep=1, mtp_steps=0, host="x86", stack="june", fold=fold, predicted=PREDICTED,
        measured=measured, in_sample=PREDICTED,
    )  # fmt: skip


GOOD = [held(f"g{i}", 0.01 * (i % 5 - 2), fold=str(i % 3)) for i in range(12)]
BAD = [held(f"b{i}", 0.3 * (-1) ** i, fold=str(i % 3), shape="disagg") for i in range(12)]


def test_groups_have_their_own_width_drawn_towards_their_parent():
    bands = error_bands([*GOOD, *BAD], []).bands[TPS]
    assert bands["agg"].n == bands["disagg"].n == 12 and bands["all"].n == 24
    assert bands["agg"].half_width < bands["all"].half_width <= bands["disagg"].half_width + 1e-9
    own, parent = math.log(1.02), bands["all"].half_width
    assert bands["agg"].half_width == pytest.approx(
        (12 * own + SHRINKAGE * parent) / (12 + SHRINKAGE), rel=0.02
    )


def test_small_groups_have_no_band():
    bands = error_bands([*GOOD, *BAD[: LEAST - 1]], []).bands[TPS]
    assert "disagg" not in bands and "agg" in bands


def test_a_point_s_own_fold_has_no_part_in_its_interval():
    def interval(own_error):
        points = [*GOOD, held("mine", own_error, fold="mine")]
        others = {
            fold: error_bands([p for p in points if p.fold != fold], []) for fold in {p.fold for p in points}
        }
        return next(p for p in with_intervals(points, others) if p.id == "mine")

    small, large = interval(0.0), interval(0.5)
    assert small.intervals == large.intervals and set(small.intervals) == set(BANDED)
    assert small.covered(TPS) and small.covered("tokens_per_s_per_user")
    assert not large.covered(TPS) and not large.covered("tokens_per_s_per_user")


def test_four_in_five_new_points_lie_within():
    points = [held(f"p{i}", math.expm1(0.02 * (i - 25)), fold="a" if i % 2 else "b") for i in range(51)]
    others = {"a": error_bands([p for p in points if p.fold == "b"], [])}
    mine = with_intervals([p for p in points if p.fold == "a"], others)
    count, share = coverage(mine, TPS)
    assert share is not None and count == 25 and 0.7 <= share <= 0.9


def test_a_platform_that_was_never_fitted_is_widened():
    away = [held(p.id, 3 * p.error(TPS), fold="b200") for p in GOOD]
    bands = error_bands(GOOD, away)
    assert bands.hardware == ["b200"] and 2.5 < bands.transfer[TPS] < 3.5
    other = Recipe.model_validate(SINGLE | {"hardware": "h100"})
    here, there = factors(bands, RECIPE, 8, "0.5.15")[TPS], factors(bands, other, 8, "0.5.15")[TPS]
    assert math.log(there) == pytest.approx(math.log(here) * bands.transfer[TPS])


def test_pairs_compare_deployments_of_one_lane_at_like_loads():
    alike = [held("a", 0.20), held("b", 0.22), held("c", 0.18), held("d", 0.20)]
    far = [held("e", -0.5, concurrency=500), held("f", -0.5, hardware="b300")]
    same = held("g", -0.5, deployment="a", concurrency=500)
    pair = error_bands([*alike, *far, same], []).pairs[TPS]
    assert pair.n == 6 + 1 and pair.half_width < 0.06


def bands_with(width, pair=0.05):
    bands = {m: {"all": ErrorBand(n=9, half_width=width)} for m in set(BANDED.values())}
    return ErrorBands(
        bands=bands, pairs={TPS: ErrorBand(n=9, half_width=pair)}, hardware=["b200"], data="test"
    )


def calibrated(width=0.1, posterior=None):
    return Calibration(error_bands=bands_with(width), posterior=posterior)


def setting(calibration):
    return Setting(
        RECIPE, Workload(isl=512, osl=32, concurrency=4, num_prompts=8), catalog_loader.model(RECIPE.model),
        catalog_loader.hardware("b200"), catalog_loader.stack("june"), calibration,
    )  # fmt: skip


def test_every_prediction_carries_intervals_around_itself():
    found = predict(setting(calibrated()))
    assert set(found.intervals) == set(BANDED)
    for name, interval in found.intervals.items():
        assert interval.low == pytest.approx(found.metrics[name] / math.exp(0.1))
        assert interval.high == pytest.approx(found.metrics[name] * math.exp(0.1))
    assert predict(setting(Calibration())).intervals == {}


def test_the_most_specific_band_holds():
    bands = bands_with(0.1).model_copy(
        update={
            "bands": {
                TPS: {"all": ErrorBand(n=9, half_width=0.1), "agg/nomtp": ErrorBand(n=9, half_width=0.3)}
            }
        }
    )
    stack, calibration = catalog_loader.stack("june"), Calibration(error_bands=bands)
    assert intervals(PREDICTED, RECIPE, 8, stack, calibration)[TPS].high == pytest.approx(100 * math.exp(0.3))
    assert band_groups(RECIPE, 300, "0.5.15")[-1] == "agg/nomtp/c>=256/0.5.15"


def posterior_of(width):
    variance = width**2
    known = ParameterUncertainty(low=0.9, high=1.1, prior_share=0.1, identifiable=True)
    return Posterior(parameters={"decode_slowdown": known}, covariance=[[variance]])


def test_draws_show_parameters_and_seeds_and_widen_where_parameters_decide():
    narrow = setting(calibrated(0.001, posterior_of(0.8)))
    found = with_spread(predict(narrow), narrow, 4)
    spread = found.spread[TPOT]
    assert spread.draws == 4 and spread.parameters > 0.01
    assert found.intervals[TPOT].high >= found.metrics[TPOT] * (1 + spread.parameters) * 0.999
    assert with_spread(predict(narrow), narrow, 4) == found.model_copy(
        update={"wall_s": pytest.approx(0, abs=60)}
    )
    wide = setting(calibrated(1.0, posterior_of(0.8)))
    assert with_spread(predict(wide), wide, 2).intervals == predict(wide).intervals
    assert default_draws(wide) > 0 and default_draws(setting(Calibration())) == 0


def bench(calibration):
    one = setting(calibration)
    return Bench(one.model, one.hardware, one.stack, one.calibration, one.workload)


def request(**changes):
    return PlanRequest(model=RECIPE.model, hardware="b200", **changes)


def test_lower_risk_judges_by_the_worse_end():
    outcome, here = Outcome(PREDICTED), bench(calibrated(0.2))
    lower = judged(request(risk="lower"), here, outcome, RECIPE, 8).metrics
    assert lower[TPS] == pytest.approx(100 / math.exp(0.2)) and lower[TPOT] == pytest.approx(
        20 * math.exp(0.2)
    )
    assert judged(request(), here, outcome, RECIPE, 8) is outcome
    sure = request(risk="lower", objective="throughput")
    assert score(sure, bench(calibrated(0.05)), outcome, RECIPE, 8) > score(sure, here, outcome, RECIPE, 8)


def test_a_lead_within_the_noise_of_pairs_is_a_tie():
    here, asked = bench(calibrated()), request(objective="throughput")
    assert lead(asked, here, 103.0, 100.0, "x").within_noise
    clear = lead(asked, here, 107.0, 100.0, "x")
    assert not clear.within_noise and clear.fraction == pytest.approx(0.07)
    assert lead(request(), here, 107.0, 100.0, "x").within_noise, "the balanced objective squares throughput"
    assert not lead(asked, bench(Calibration()), 100.1, 100.0, "x").within_noise


def test_intervals_of_a_dispatch_row_must_hold_the_prediction():
    with pytest.raises(BadInput, match=r"median_ttft_ms=300\.0 must lie in its interval"):
        PredictedMetrics.parse(
            {**PREDICTED, "mean_tpot_ms": 20, "mean_ttft_ms": 300, "concurrency": 1,
             "median_ttft_ms_low": 310, "median_ttft_ms_high": 320},
            "row",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "data", "wanted"),
    [
        (Posterior, {"parameters": {}, "covariance": [[1.0]]}, r"rows of \[1\] numbers for 0 parameters"),
        (ErrorBands, {"bands": {TPS: {"agg": {"n": 1, "half_width": 0.1}}}}, "no group 'all'"),
        (ErrorBands, {"bands": {TPS: {"all": {"n": 1, "half_width": 50}}}}, "less than or equal to 5"),
        (Calibration, {"posterior": {"parameters": {}, "covariance": [], "extra": 1}}, "unknown key"),
    ],
)
def test_statements_in_a_file_are_checked(kind, data, wanted):
    with pytest.raises(BadInput, match=wanted):
        kind.parse(data, "file")


def test_old_calibration_files_still_load():
    old = Calibration.parse({"name": "old", "decode_slowdown": 1.1}, "file")
    assert old.posterior is None and old.error_bands is None and old.left_out == ()


def test_the_noise_floor_is_what_runs_of_one_recipe_differ_by():
    """Measured 100 / (1 + error): runs of 100, 125 and 80, and one of them published twice."""
    runs = [held(f"r{i}", error, deployment="one") for i, error in enumerate((0.0, -0.2, 0.25, 0.25))]
    alone = held("alone", 0.5, deployment="two")
    other_load = held("elsewhere", 0.5, deployment="one", concurrency=9)
    (found,) = repeats([*runs, alone, other_load], [TPS])
    assert (found.recipes, found.runs) == (1, 3)
    assert found.floor == pytest.approx(0.2) and found.widest == pytest.approx(1.25 / 0.8)
