"""Traffic to plan capacity for: arrivals or users, how they vary over a day, how they grow."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.errors import BadInput
from search_spaces.units import SECONDS_PER_HOUR
from search_spaces.workload import Workload

DAY_S = 24 * SECONDS_PER_HOUR
STEPS_PER_DAY = 96
"""Of a day by formula: one every quarter of an hour."""


class DayProfile(Noun):
    """Load over a day as a share of its peak, constant from each moment to the next."""

    begin_s: tuple[float, ...] = Field(min_length=1)
    """Rising, from 0."""
    share: tuple[float, ...] = Field(min_length=1)
    """Of the peak; the largest is 1."""
    length_s: float = Field(default=DAY_S, gt=0)
    source: str = ""

    @model_validator(mode="after")
    def _moments(self) -> DayProfile:
        times = self.begin_s
        if len(times) != len(self.share) or times[0] != 0 or list(times) != sorted(set(times)):
            raise ValueError("profile times must rise from 0, one per load; sort the rows and begin at 0")
        if times[-1] >= self.length_s:
            raise ValueError(f"profile time {times[-1]:g} s must lie before its end at {self.length_s:g} s")
        if min(self.share) < 0 or not math.isclose(max(self.share), 1.0):
            raise ValueError("profile shares must lie in [0, 1] and reach 1; divide by the largest")
        return self

    @property
    def durations_s(self) -> list[float]:
        """Seconds of each step."""
        ends = (*self.begin_s[1:], self.length_s)
        return [end - begin for begin, end in zip(self.begin_s, ends, strict=True)]

    @property
    def mean_share(self) -> float:
        """Time average."""
        return sum(s * d for s, d in zip(self.share, self.durations_s, strict=True)) / self.length_s


def diurnal(trough: float, peak_hour: float = 15.0) -> DayProfile:
    """A day as a cosine between `trough` and 1 of the peak; `peak_hour` is when it peaks."""
    if not 0 <= trough <= 1:
        raise BadInput(f"trough={trough:g} must lie in [0, 1]: the lowest load over the peak")
    step = DAY_S / STEPS_PER_DAY
    phase = [2 * math.pi * ((i + 0.5) * step / DAY_S - peak_hour / 24) for i in range(STEPS_PER_DAY)]
    share = [trough + (1 - trough) * (1 + math.cos(x)) / 2 for x in phase]
    most = max(share)
    return DayProfile(
        begin_s=tuple(i * step for i in range(STEPS_PER_DAY)),
        share=tuple(s / most for s in share),
        source=f"cosine, trough {trough:g} of the peak at {peak_hour:g} h",
    )


def read_profile(path: str) -> tuple[DayProfile, float]:
    """The profile in a CSV file with the columns `time_s,requests_per_s`, and its peak in requests/s."""
    try:
        with open(path, newline="") as file:
            rows = [(float(row["time_s"]), float(row["requests_per_s"])) for row in csv.DictReader(file)]
    except OSError as error:
        raise BadInput(f"profile={path!r} cannot be read: {error.strerror}; give a CSV file") from None
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"profile={path!r}: {error!r}; each row needs the columns time_s and requests_per_s"
        ) from None
    peak = max((rate for _, rate in rows), default=0.0)
    if peak <= 0:
        raise BadInput(f"profile={path!r} holds no load above 0; give requests per second over a day")
    times = [at - rows[0][0] for at, _ in rows]
    last = times[-1] - times[-2] if len(times) > 1 else DAY_S
    data = {
        "begin_s": times,
        "share": [rate / peak for _, rate in rows],
        "length_s": times[-1] + last,
        "source": Path(path).name,
    }
    return DayProfile.parse(data, f"profile={path!r}"), peak


class Demand(Noun):
    """What is asked of a fleet at its busiest."""

    workload: Workload
    """Lengths, prefixes, burstiness, or a trace; its concurrency and rate are replaced."""
    request_rate: float | None = Field(default=None, gt=0)
    """Requests per second at the peak."""
    users: float | None = Field(default=None, gt=0)
    """People who each send a request, read the answer and think, in turn."""
    think_s: float = Field(default=0.0, ge=0)
    """Seconds a user pauses between an answer and the next request."""
    growth: tuple[float, ...] = (1.0,)
    """Multiples of the peak to plan for besides."""
    profile: DayProfile | None = None

    @model_validator(mode="after")
    def _either(self) -> Demand:
        if (self.request_rate is None) == (self.users is None):
            raise ValueError("request_rate and users exclude each other; give one of them")
        if not self.growth or min(self.growth) <= 0:
            raise ValueError(f"growth={self.growth} must be factors above 0; write e.g. 1,1.5,2")
        return self

    def rate(self, mean_e2e_s: float) -> float:
        """Requests per second when one takes `mean_e2e_s`.

        With users it follows from the interactive response time law, users = rate x (answer + think time).
        """
        if self.request_rate is not None:
            return self.request_rate
        assert self.users is not None
        return self.users / (mean_e2e_s + self.think_s)
