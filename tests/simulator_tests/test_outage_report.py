"""What is said of an outage is what the requests' times say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from search_spaces.outage import Outage
from search_spaces.workload import Workload
from simulator import loop_state as ls
from simulator.outage_report import outage_report
from simulator.run import run
from simulator.simulate import predict
from tests.simulator_tests.worlds import group, setting, split

RECIPE = split(group("TP4", num_workers=2), group("DEP4", num_workers=2))


def load(rate):
    return Workload(isl=4000, osl=100, concurrency=600, num_prompts=600, request_rate=rate)


def capacity_per_s():
    return 1 / np.diff(np.sort(run(setting(RECIPE, load(1e4))).reqs.t[:, ls.FIRST])).mean()


@pytest.fixture(scope="module")
def tight():
    """Load that two prefill workers carry and one does not."""
    rate = 0.75 * capacity_per_s()
    return setting(RECIPE, load(rate)), 600 / rate


def test_a_loss_that_one_worker_cannot_carry_queues_and_recovers(tight):
    what, span_s = tight
    gone = Outage(role="prefill", at_s=span_s / 4, back_s=span_s / 5)
    done = run(replace(what, outages=(gone,)))
    report = outage_report(done)
    before, during, after = report.phases
    assert before.median_ttft_ms and during.median_ttft_ms and gone.back_s
    assert during.median_ttft_ms > 2 * before.median_ttft_ms
    assert report.queue_peak > 2 * report.queue_before and during.mean_queue > before.mean_queue
    assert report.recovery_s is not None and gone.back_s < report.recovery_s < span_s
    assert before.end_s == gone.at_s and during.end_s == pytest.approx(gone.at_s + gone.back_s)
    sent = done.reqs.t[:, ls.SEND]
    assert during.sent == ((sent >= gone.at_s) & (sent < gone.at_s + gone.back_s)).sum()
    assert after.end_s == sent.max()
    peak = max(((sent <= t) & (done.reqs.t[:, ls.FIRST] > t)).sum() for t in sent[sent >= gone.at_s])
    assert report.queue_peak == peak


def test_the_mean_queue_is_littles_law(tight):
    what, span_s = tight
    done = run(replace(what, outages=(Outage(role="prefill", at_s=span_s / 2, back_s=1.0),)))
    before = outage_report(done).phases[0]
    waits = done.reqs.t[:, ls.FIRST] - done.reqs.t[:, ls.SEND]
    mine = (done.reqs.t[:, ls.SEND] >= before.begin_s) & (done.reqs.t[:, ls.SEND] < before.end_s)
    rate = before.sent / (before.end_s - before.begin_s)
    assert before.mean_queue == pytest.approx(rate * waits[mine].mean(), rel=0.15)


def test_a_worker_that_stays_away_leaves_no_phase_after(tight):
    what, span_s = tight
    report = outage_report(run(replace(what, outages=(Outage(role="prefill", at_s=span_s / 4),))))
    assert [phase.name for phase in report.phases] == ["before", "during"]
    assert report.recovery_s is None


def test_a_prediction_carries_the_report_only_with_outages(tight):
    what, _ = tight
    assert predict(what).outage is None
    found = predict(replace(what, outages=(Outage(role="decode", at_s=5.0, back_s=5.0),)))
    assert found.outage is not None and found.outage.resent > 0
