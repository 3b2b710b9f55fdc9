"""`servecast autoscale`: the day's sums by hand, delays that cost, and curves that simulation gives."""

from __future__ import annotations

import json

import pytest

from planner.autoscale import _Replay, autoscale
from planner.autoscale_text import autoscale_pictures, autoscale_text
from planner.autoscale_types import AutoscaleRequest, AutoscaleResult
from planner.capacity_curve import CapacityCurve, capacity_curve
from planner.demand import DayProfile, diurnal
from planner.evaluate import Bench
from planner.service_goal import parse_goal
from search_spaces import catalog_loader
from search_spaces.dispatch import DispatchRow, DispatchTable
from search_spaces.errors import Infeasible
from search_spaces.workload import Workload
from tests.planner_tests.samples import servecast
from tests.simulator_tests.worlds import CALIBRATION, FLASH, JUNE, aggregated

SMALL = aggregated("TP4", model="flash", hardware="b200")
LARGE = aggregated("DEP8", model="flash", hardware="b200")
TABLE = DispatchTable(
    model=FLASH.name,
    hardware="b200",
    stack="june",
    isl=2048,
    osl=64,
    num_gpus=8,
    rows=(
        DispatchRow(min_concurrency=1, max_concurrency=20, recipe=SMALL),
        DispatchRow(min_concurrency=21, max_concurrency=1000, recipe=LARGE),
    ),
)
STEP_DAY = DayProfile(begin_s=(0.0, 36000.0, 72000.0), share=(0.2, 1.0, 0.2))


def curve(recipe, good, stable):
    return CapacityCurve(
        recipe=recipe,
        rates=(0.0, good, stable),
        goodput=(1.0, 1.0, 0.5),
        good_rate=good,
        stable_rate=stable,
        e2e_s=2.0,
    )


def replay(profile=STEP_DAY, peak=50.0, **changes):
    request = AutoscaleRequest(
        table=TABLE,
        profile=profile,
        peak_rate=peak,
        goal=parse_goal(["ttft.p90=2000"]),
        margin=1.0,
        **changes,
    )
    return _Replay(request, [curve(SMALL, 5.0, 6.0), curve(LARGE, 30.0, 32.0)], 3.0)


def test_fleets_are_the_fewest_gpus_and_the_tables_choice():
    day = replay()
    assert (day.smallest(4.0).curve, day.smallest(4.0).replicas) == (0, 1)
    assert (day.smallest(50.0).curve, day.smallest(50.0).replicas) == (1, 2)
    assert day.dispatched(9.0).curve == 0, "18 requests in flight"
    assert day.dispatched(11.0).curve == 1, "22 requests in flight"


def test_static_and_oracle_by_hand():
    day = replay(provision_s=600.0)
    static = day.reactive("static", lambda rate: day.smallest(50.0))
    assert static.gpu_hours == pytest.approx(16 * 24) and static.missed_share == 0
    assert static.dollars == pytest.approx(3 * 16 * 24) and static.changes == 0
    assert static.requests == pytest.approx(50 * (36000 + 0.2 * 50400))
    oracle = day.oracle()
    assert oracle.missed_share == 0
    assert oracle.gpu_hours == pytest.approx((8 * (86400 - 36600) + 16 * 36600) / 3600)


def test_a_late_start_misses_promises_and_a_longer_one_misses_more():
    """Two starts: the large recipe's for the peak, the small one's after it, while the large one serves."""
    missed, hours = [], []
    for provision_s in (0.0, 600.0, 3600.0):
        day = replay(provision_s=provision_s)
        found = day.reactive("dispatch", day.dispatched)
        missed.append(found.missed_share)
        hours.append(found.gpu_hours)
        assert found.changes == 2 and found.peak_gpus == (16 if provision_s == 0 else 24)
    assert missed[0] == 0 and 0 < missed[1] < missed[2]
    assert hours[0] < hours[1] < hours[2] < 16 * 24
    assert hours[0] == pytest.approx((8 * (86400 - 36900) + 16 * 36900) / 3600, rel=0.02)


def test_backlog_is_worked_off_before_promises_hold_again():
    """18 requests/s beyond one deployment for 600 s, worked off at 14 requests/s by two."""
    day = replay(provision_s=600.0)
    found = day.reactive("replicas", lambda rate: day.of(1, rate))
    bad = [m.at_s for m in found.timeline if m.good_share == 0]
    backlog = (50 - 32) * 600
    patience = 2.0 * 64
    assert bad[0] == 36000 and bad[-1] - 36600 == pytest.approx((backlog - patience) / 14, abs=120)


def test_a_fleet_shrinks_only_after_the_hold():
    for hold_s in (0.0, 3600.0):
        found = replay(hold_s=hold_s, provision_s=0.0)
        day = found.reactive("replicas", lambda rate, found=found: found.of(1, rate))
        last = max(m.at_s for m in day.timeline if m.num_gpus == 16)
        assert last == pytest.approx(72000 + hold_s, abs=360)


def test_curves_are_simulated_and_fall():
    bench = Bench(FLASH, catalog_loader.hardware("b200"), JUNE, CALIBRATION, Workload(isl=2048, osl=64))
    found = capacity_curve((bench, SMALL, 64, parse_goal(["ttft.p90=500"])))
    assert 0 < found.good_rate <= found.stable_rate and found.e2e_s > 0
    assert found.share_at(found.good_rate) >= 0.9 and found.share_at(10 * found.stable_rate) == 0
    assert list(found.rates) == sorted(found.rates)


def test_the_whole_day(tmp_path):
    request = AutoscaleRequest(
        table=TABLE, profile=diurnal(0.1), peak_rate=60.0, goal=parse_goal(["ttft.p90=1000"])
    )
    found = autoscale(request, workers=1)
    by_name = {day.policy: day for day in found.days}
    assert by_name["oracle"].gpu_hours <= by_name["replicas"].gpu_hours <= by_name["static"].gpu_hours
    assert "outside the goal" in autoscale_text(found)
    assert set(autoscale_pictures(found)) == {"autoscale.png", "autoscale.svg"}
    assert AutoscaleResult.parse(json.loads(found.model_dump_json()), "json") == found
    file = tmp_path / "dispatch.json"
    file.write_text(TABLE.model_dump_json())
    options = ("autoscale", "--table", file, "--slo", "ttft.p90=1000", "--workers", 1)
    done = servecast(*options, "--request-rate", 60, "--trough", 0.1, "--json")
    assert AutoscaleResult.parse(json.loads(done.stdout), "stdout").days == found.days
    assert servecast(*options, "--request-rate", 60).exit_code == 2


def test_a_goal_that_no_recipe_keeps_is_infeasible():
    request = AutoscaleRequest(
        table=TABLE, profile=diurnal(0.1), peak_rate=60.0, goal=parse_goal(["tpot.p50=0.1"])
    )
    with pytest.raises(Infeasible, match="no recipe of the table"):
        autoscale(request, workers=1)
