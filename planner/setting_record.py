"""Everything one simulation depends on, in a form that files hold."""

from __future__ import annotations

from dataclasses import asdict

from search_spaces.base import Noun
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.outage import Outage
from search_spaces.recipe import Recipe
from search_spaces.stack import StackVersion
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from simulator.world import Relief, Setting


class SettingRecord(Noun):
    """A setting by the kernel model, with catalog entries as they were."""

    recipe: Recipe
    workload: Workload
    model: ModelSpec
    hardware: Hardware
    stack: StackVersion
    calibration: Calibration
    seed: int
    relief: dict[str, float]
    """Factor by resource."""
    outages: tuple[Outage, ...]

    @classmethod
    def of(cls, setting: Setting) -> SettingRecord:
        """The record of a setting whose model and platform are known."""
        assert setting.model is not None and setting.hardware is not None and setting.steps is None
        return cls(
            recipe=setting.recipe,
            workload=setting.workload,
            model=setting.model,
            hardware=setting.hardware,
            stack=setting.stack,
            calibration=setting.calibration,
            seed=setting.seed,
            relief=asdict(setting.relief),
            outages=setting.outages,
        )

    @property
    def setting(self) -> Setting:
        """The setting that predicts the same."""
        return Setting(
            self.recipe,
            self.workload,
            self.model,
            self.hardware,
            self.stack,
            self.calibration,
            self.seed,
            Relief(**self.relief),
            outages=self.outages,
        )
