"""What a service promises its users, and whether a run kept it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.units import MS_PER_S
from search_spaces.workload import Slo
from simulator import loop_state as ls
from simulator.run import Run

Floats = NDArray[np.float64]
Metric = Literal["ttft", "tpot", "e2e"]
FORM = re.compile(r"(ttft|tpot|e2e)\.(?:p(\d+(?:\.\d+)?)|(median))=([\d.]+)")
SETTLED = 0.2
"""Share of the requests, the first ones, that an empty start serves too well to count."""
GROWTH = 0.05
"""Share of arrivals of the later half by which the requests in flight may grow in a stable run."""


class Limit(Noun):
    """One promise: a percentile of a latency."""

    metric: Metric
    percentile: float = Field(gt=0, le=100)
    max_ms: float = Field(gt=0)

    @property
    def name(self) -> str:
        """Such as `ttft.p95`."""
        return f"{self.metric}.p{self.percentile:g}"


class Goal(Noun):
    """Promises that must all be kept."""

    limits: tuple[Limit, ...] = Field(min_length=1)
    goodput: float = Field(default=0.0, ge=0, le=1)
    """Least share of requests that keep the milliseconds of every named metric."""

    @model_validator(mode="after")
    def _once(self) -> Goal:
        names = [limit.name for limit in self.limits]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"slo {twice[0]} is given twice; state it once")
        return self

    @property
    def loosest(self) -> dict[Metric, float]:
        """Milliseconds that one request must keep, by metric: the largest stated for it."""
        found: dict[Metric, float] = {}
        for limit in self.limits:
            found[limit.metric] = max(limit.max_ms, found.get(limit.metric, 0.0))
        return found

    def screening(self) -> Slo:
        """The limits in the form the fluid model is screened by; it knows no spread, and no E2E."""
        tightest: dict[str, float] = {}
        for limit in self.limits:
            if limit.metric != "e2e":
                name = f"max_{'median' if limit.percentile <= 50 else 'p99'}_{limit.metric}_ms"
                tightest[name] = min(limit.max_ms, tightest.get(name, np.inf))
        return Slo.model_validate(tightest)


class Service(Noun):
    """What a run gave its users, over requests after its start."""

    requests: int
    attained_ms: dict[str, float]
    """Limit by name, such as `ttft.p95`, to what was reached."""
    goodput: float
    """Share of requests within the milliseconds of every metric."""
    is_stable: bool
    """Whether requests in flight stopped growing; else the load is above capacity."""
    misses: dict[str, float]
    """Broken promise to the factor by which it is missed."""
    mean_e2e_ms: float
    mean_in_flight: float
    """Requests under way (Little's law)."""

    @property
    def is_kept(self) -> bool:
        """Whether every promise is."""
        return self.is_stable and not self.misses

    @property
    def worst(self) -> str:
        """The promise that is missed most."""
        if self.misses:
            return max(self.misses, key=lambda name: self.misses[name])
        return "" if self.is_stable else "throughput"


def parse_goal(texts: Iterable[str], goodput: float = 0.0) -> Goal:
    """The goal of `METRIC.pNN=MS` texts, such as `ttft.p95=2000` and `tpot.median=25`."""
    limits = []
    for text in texts:
        match = FORM.fullmatch(text.strip().lower())
        if match is None:
            raise BadInput(f"slo={text!r} is not METRIC.pNN=MS; write e.g. ttft.p95=2000, tpot.p50=25")
        limits.append({"metric": match[1], "percentile": 50.0 if match[3] else match[2], "max_ms": match[4]})
    if not limits:
        raise BadInput("slo is required: state what users are promised, e.g. --slo ttft.p95=2000")
    return Goal.parse({"limits": limits, "goodput": goodput}, "slo")


def latencies(done: Run) -> dict[Metric, Floats]:
    """Milliseconds of every request; TPOT is NaN where there is one output token."""
    times, osl = done.reqs.t, done.reqs.i[:, ls.OSL]
    ttft = times[:, ls.FIRST] - times[:, ls.SEND]
    e2e = times[:, ls.DONE] - times[:, ls.SEND]
    tpot = np.where(osl > 1, (e2e - ttft) / np.maximum(osl - 1, 1), np.nan)
    return {"ttft": ttft * MS_PER_S, "tpot": tpot * MS_PER_S, "e2e": e2e * MS_PER_S}


def judge(goal: Goal, done: Run, since_s: float | None = None) -> Service:
    """Hold a run against a goal.

    Args:
        goal: what was promised.
        done: an open-loop run.
        since_s: count requests sent from then on; None leaves out the first fifth.
    """
    sent = done.reqs.t[:, ls.SEND]
    begin = float(np.quantile(sent, SETTLED)) if since_s is None else since_s
    mine = sent >= begin
    values = {name: found[mine] for name, found in latencies(done).items()}
    attained = {
        limit.name: float(np.nan_to_num(np.nanpercentile(values[limit.metric], limit.percentile)))
        for limit in goal.limits
    }
    good = np.ones(int(mine.sum()), dtype=bool)
    for metric, most in goal.loosest.items():
        good &= ~(values[metric] > most)
    share = float(good.mean())
    misses = {x.name: attained[x.name] / x.max_ms for x in goal.limits if attained[x.name] > x.max_ms}
    if share < goal.goodput:
        misses["goodput"] = goal.goodput / max(share, 1e-3)
    e2e = values["e2e"]
    span = float(sent.max() - begin)
    return Service(
        requests=int(mine.sum()),
        attained_ms=attained,
        goodput=share,
        is_stable=_is_stable(sent, done.reqs.t[:, ls.DONE], begin),
        misses=misses,
        mean_e2e_ms=float(e2e.mean()),
        mean_in_flight=float(e2e.sum()) / MS_PER_S / span if span > 0 else 0.0,
    )


def _is_stable(sent: Floats, finished: Floats, begin: float) -> bool:
    """Whether the requests in flight grow no more over the later half of the arrivals."""
    end, middle = float(sent.max()), float((sent.max() + begin) / 2)
    early, late = (float(((sent <= t) & (finished > t)).sum()) for t in (middle, end))
    arrivals = float((sent > middle).sum())
    return late - early <= max(GROWTH * arrivals, 3.0 * float(np.sqrt(early + 1.0)))
