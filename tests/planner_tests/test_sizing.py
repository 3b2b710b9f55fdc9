"""`servecast size`: fleets keep what they promise, one deployment fewer would not, and refusals say why."""

from __future__ import annotations

import json
from math import ceil
from types import SimpleNamespace

import numpy as np
import pytest

from planner.demand import DayProfile, Demand, diurnal, read_profile
from planner.open_loop import Served, Stream, serve, smallest_fleet
from planner.service_goal import Goal, judge, parse_goal
from planner.sizing import size
from planner.sizing_screen import loads_for
from planner.sizing_source import prices_of, size_request
from planner.sizing_text import size_text
from planner.sizing_types import SizeResult
from search_spaces.errors import BadInput, Infeasible
from search_spaces.workload import Workload
from simulator import loop_state as ls
from tests.planner_tests.samples import servecast
from tests.simulator_tests.worlds import aggregated, setting

SHORT = Workload(isl=2048, osl=64)
OPTIONS = {
    "model": "DeepSeek-V4-Flash",
    "hardware": ("b200",),
    "request_rate": 150.0,
    "users": None,
    "think_s": 0.0,
    "isl": 2048,
    "osl": 64,
    "random_range_ratio": 0.8,
    "burstiness": 1.0,
    "trace": None,
    "growth": "1",
    "profile": None,
    "trough": None,
    "goals": ("ttft.p90=1000", "tpot.p90=30"),
    "goodput": 0.0,
    "max_gpus": 100_000,
    "deployment_gpus": 8,
    "spare": "none",
    "prices": (),
    "mtp": False,
    "stack": "june",
    "seed": 0,
    "calibration": None,
}


def sized(**changes):
    return size(size_request(OPTIONS | changes), workers=1)


@pytest.fixture(scope="module")
def result():
    # Deployments of two GPUs, so that nodes of eight are shared.
    return sized(spare="node", trough=0.2, deployment_gpus=2)


def table(sent, first, done, osl=11):
    """A finished run, as much of it as a goal looks at."""
    times = np.zeros((len(sent), ls.NUM_TIMES))
    times[:, ls.SEND], times[:, ls.FIRST], times[:, ls.DONE] = sent, first, done
    ints = np.full((len(sent), ls.NUM_REQ_INTS), osl)
    return SimpleNamespace(reqs=SimpleNamespace(t=times, i=ints))


def test_a_goal_judges_percentiles_and_goodput_by_hand():
    sent = np.arange(100.0)
    ttft = np.where(np.arange(100) % 10 == 0, 5.0, 1.0)
    done = table(sent, sent + ttft, sent + ttft + 0.5)
    goal = parse_goal(["ttft.p95=2000", "tpot.median=60"], goodput=0.85)
    found = judge(goal, done, since_s=0.0)
    assert found.goodput == pytest.approx(0.9)
    assert found.attained_ms["ttft.p95"] == pytest.approx(5000)
    assert found.attained_ms["tpot.p50"] == pytest.approx(50)
    assert set(found.misses) == {"ttft.p95"} and found.worst == "ttft.p95" and not found.is_kept
    assert found.mean_in_flight == pytest.approx(100 * 1.9 / 99)
    assert judge(parse_goal(["ttft.p50=2000"], goodput=0.95), done, 0.0).misses.keys() == {"goodput"}


def test_a_growing_backlog_is_unstable_however_loose_the_goal():
    sent = np.linspace(0, 100, 1000)
    steady, late = table(sent, sent + 1, sent + 2), table(sent, sent + 1, 2 * sent + 2)
    goal = parse_goal(["e2e.p99=1e9".replace("1e9", "1000000000")])
    assert judge(goal, steady).is_kept
    assert not judge(goal, late).is_stable and judge(goal, late).worst == "throughput"


@pytest.mark.parametrize(
    "text", ["ttft=3", "ttft.95=3", "itl.p95=3", "ttft.p95=", "ttft.p101=5", "e2e.p50=0"]
)
def test_wrong_goals_are_refused(text):
    with pytest.raises(BadInput, match="slo"):
        parse_goal([text])


def test_goals_are_needed_once_each():
    with pytest.raises(BadInput, match="required"):
        parse_goal([])
    with pytest.raises(BadInput, match="twice"):
        parse_goal(["ttft.p95=3", "ttft.p95=4"])


def test_demand_of_users_follows_the_interactive_response_time_law():
    demand = Demand(workload=SHORT, users=600, think_s=20)
    assert demand.rate(10.0) == pytest.approx(20.0)
    with pytest.raises(ValueError, match="exclude"):
        Demand(workload=SHORT, users=1, request_rate=1)
    with pytest.raises(ValueError, match="exclude"):
        Demand(workload=SHORT)


def test_day_profiles(tmp_path):
    day = diurnal(0.25)
    assert max(day.share) == 1 and min(day.share) == pytest.approx(0.25, abs=0.01)
    assert day.mean_share == pytest.approx(0.625, abs=0.01) and sum(day.durations_s) == 86400
    file = tmp_path / "day.csv"
    file.write_text("time_s,requests_per_s\n0,5\n3600,10\n7200,2.5\n")
    profile, peak = read_profile(str(file))
    assert peak == 10 and profile.share == (0.5, 1.0, 0.25) and profile.length_s == 3 * 3600
    for text in ("time_s,rate\n0,1\n", "time_s,requests_per_s\n0,x\n", "time_s,requests_per_s\n0,0\n",
                 "time_s,requests_per_s\n5,1\n5,2\n"):  # fmt: skip
        file.write_text(text)
        with pytest.raises(BadInput, match="profile"):
            read_profile(str(file))
    with pytest.raises(BadInput):
        diurnal(1.5)
    with pytest.raises(ValueError, match="reach 1"):
        DayProfile(begin_s=(0.0,), share=(0.5,))


def test_loads_cover_the_requests_in_flight():
    goal = parse_goal(["ttft.p50=1000", "tpot.p50=20"])
    few, many = (loads_for(goal, Demand(workload=SHORT, request_rate=r)) for r in (1, 2000))
    assert max(few) <= 16 and max(many) >= 4 * 1024 and len(many) == 4


def test_a_fleet_keeps_its_goal_and_one_deployment_fewer_does_not(result):
    fleet = result.levels[0].fleets[0]
    assert fleet.service.is_kept and fleet.replicas > 1
    assert fleet.num_gpus == fleet.replicas * fleet.recipe.num_gpus
    assert fleet.recipe.aggregated is not None and fleet.recipe.num_gpus == 2
    assert fleet.nodes == ceil(fleet.replicas / 4)
    what = setting(fleet.recipe, result.request.demand.workload)
    from planner.sizing_screen import bench_for, setting_at

    bench = bench_for(result.request, "b200")
    stream = Stream(setting_at(bench, fleet.recipe), result.request.goal, 2.0)
    again = serve(stream, 150.0 / fleet.replicas)
    fewer = serve(stream, 150.0 / (fleet.replicas - 1))
    assert isinstance(again, Served) and again.service.is_kept
    assert isinstance(fewer, Served) and not fewer.service.is_kept
    assert what.recipe == fleet.recipe


def test_smallest_fleet_is_the_same_from_any_guess():
    load = Workload(isl=2048, osl=64)
    stream = Stream(setting(aggregated("TP4", model="flash"), load), parse_goal(["ttft.p90=800"]), 2.0)
    counts = {smallest_fleet(stream, 60.0, guess, 50)[0] for guess in (1, 3, 9)}
    assert len(counts) == 1 and None not in counts


def test_costs_and_power_follow_from_the_fleet(result):
    fleet, request = result.levels[0].fleets[0], result.request
    load = request.demand.workload
    # Nodes of eight are paid for whole.
    assert fleet.cost.dollars_per_hour == pytest.approx(3.2 * 8 * ceil(fleet.num_gpus / 8))
    per_hour = 150 * 3600 * (load.mean_isl + load.mean_osl) / 1e6
    assert fleet.cost.per_million_tokens == pytest.approx(fleet.cost.dollars_per_hour / per_hour)
    assert fleet.cost_per_user_hour == pytest.approx(fleet.cost.dollars_per_hour / fleet.concurrency)
    assert fleet.power_kw == pytest.approx(fleet.num_gpus * 1.0)
    assert fleet.racks is None


def test_lower_levels_take_no_more_gpus_and_the_day_is_cheaper(result):
    sizes = [level.fleets[0].num_gpus for level in result.levels]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]
    assert result.static_gpu_hours_per_day == pytest.approx(24 * sizes[0])
    assert result.scaled_gpu_hours_per_day < result.static_gpu_hours_per_day


def test_losses_are_simulated_and_a_spare_is_named(result):
    fleet = result.levels[0].fleets[0]
    # Workers of two GPUs: four share a node of eight, and the last node holds what is left.
    lost = [(loss.kind, loss.lost) for loss in fleet.losses]
    rest = fleet.replicas % 4
    assert lost[:2] == [("worker", ({"aggregated": 1},)), ("node", ({"aggregated": 1},) * 4)]
    assert lost[2:] == ([("node", ({"aggregated": 1},) * rest)] if rest else [])
    for loss in fleet.losses:
        ways = [s for s in (loss.in_place, loss.shared) if s is not None]
        assert loss.survives == any(s.is_kept for s in ways)
    broken = [len(loss.lost) for loss in fleet.losses if not loss.survives]
    assert max(broken) == 4 == fleet.spare_replicas
    assert fleet.spare_nodes == ceil((fleet.replicas + 4) / 4) - fleet.nodes
    text = size_text(result)
    assert (
        "N+4 needs 8 GPUs on 1 node more" in text
        and "4 x (1 aggregated)" in text
        and "25 % of the peak" in text
        and "GPU-hours" in text
    )
    assert SizeResult.parse(json.loads(result.model_dump_json()), "json") == result


def test_more_traffic_takes_more_and_users_who_think_longer_take_less():
    one, two = (sized(growth="1,2").levels[i].fleets[0].num_gpus for i in (0, 1))
    assert two > one
    users = [sized(request_rate=None, users=400.0, think_s=t).levels[0] for t in (2.0, 20.0)]
    assert users[0].request_rate > users[1].request_rate
    assert users[0].fleets[0].num_gpus >= users[1].fleets[0].num_gpus
    fleet = users[1].fleets[0]
    e2e_s = fleet.service.mean_e2e_ms / 1000
    assert fleet.request_rate == pytest.approx(400 / (20 + e2e_s), rel=0.05)
    assert fleet.cost_per_user_hour == pytest.approx(fleet.cost.dollars_per_hour / 400)


def test_too_few_gpus_name_the_nearest_load():
    with pytest.raises(Infeasible, match=r"throughput|ttft") as caught:
        sized(request_rate=400.0, max_gpus=8)
    assert "nearest:" in str(caught.value) and "requests/s keep the goal" in str(caught.value)


def test_an_impossible_promise_names_what_binds():
    with pytest.raises(Infeasible, match=r"misses tpot.p90 by a factor .*no load keeps the goal"):
        sized(request_rate=2.0, goals=("tpot.p90=1",))


def test_command_line(tmp_path):
    basic = ("size", "--model", "DeepSeek-V4-Flash", "--hardware", "b200", "--deployment-gpus", 8, "--isl",
             2048, "--osl", 64, "--no-mtp", "--workers", 1)  # fmt: skip
    done = servecast(*basic, "--request-rate", 5, "--slo", "ttft.p90=1000", "--price", "b200=1", "--json")
    found = SizeResult.parse(json.loads(done.stdout), "stdout")
    assert found.levels[0].fleets[0].cost.dollars_per_hour == 8 * found.levels[0].fleets[0].nodes
    wrong = servecast(*basic, "--request-rate", 5, "--slo", "tpot.p90=1")
    assert wrong.exit_code == 3 and "misses tpot.p90" in wrong.stderr
    assert servecast(*basic, "--slo", "ttft.p90=1000").exit_code == 2
    assert prices_of(["gb300=2.5"]) == {"gb300": 2.5}
    with pytest.raises(BadInput):
        prices_of(["gb300"])


def test_a_goal_screens_by_its_tightest_limits():
    goal = Goal.parse(
        {
            "limits": [
                {"metric": "ttft", "percentile": p, "max_ms": m} for p, m in ((50, 9), (90, 7), (99, 8))
            ]
        },
        "goal",
    )
    assert goal.screening().max_median_ttft_ms == 9 and goal.screening().max_p99_ttft_ms == 7
    assert goal.loosest == {"ttft": 9}
