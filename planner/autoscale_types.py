"""A day of traffic against a dispatch table: what is asked and what is answered."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from planner.capacity_curve import CapacityCurve
from planner.demand import DayProfile
from planner.service_goal import Goal
from search_spaces.base import Noun
from search_spaces.dispatch import DispatchTable
from search_spaces.frames import as_frame


class AutoscaleRequest(Noun):
    """A day, a table and how fast the fleet may change."""

    table: DispatchTable
    profile: DayProfile
    peak_rate: float = Field(gt=0)
    """Requests per second at the profile's peak."""
    goal: Goal
    provision_s: float = Field(default=600.0, ge=0)
    """From the decision to the first request: machines, weights, graph capture. An assumption."""
    decide_every_s: float = Field(default=300.0, gt=0)
    """Pause between looks at the load."""
    margin: float = Field(default=1.15, ge=1)
    """Capacity wanted over the load at hand."""
    hold_s: float = Field(default=900.0, ge=0)
    """How long a smaller fleet must have been enough before the fleet shrinks."""
    step_s: float = Field(default=60.0, gt=0)
    """Step of the replay."""
    seed: int = Field(default=0, ge=0)
    calibration: str | None = None


class Moment(Noun):
    """The fleet at one step."""

    at_s: float
    request_rate: float
    num_gpus: int
    """Paid for, starting ones too."""
    good_share: float


class PolicyDay(Noun):
    """A day under one policy."""

    policy: str
    gpu_hours: float
    dollars: float
    """At the platform's assumed price."""
    requests: float
    missed_share: float
    """Requests outside the goal's milliseconds."""
    peak_gpus: int
    changes: int
    """Fleets that were started."""
    timeline: list[Moment]


class AutoscaleResult(Noun):
    """Policies over the same day."""

    request: AutoscaleRequest
    curves: list[CapacityCurve]
    days: list[PolicyDay]
    command: str = ""
    """Command line that gives it; empty from Python."""

    def frame(self) -> Any:
        """A pandas frame: one row per policy and step of the day."""
        return as_frame(
            [{"policy": day.policy, **moment.model_dump()} for day in self.days for moment in day.timeline]
        )
