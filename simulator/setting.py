"""Everything one simulated run depends on."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.outage import Outage
from search_spaces.recipe import EngineGroup, Recipe
from search_spaces.stack import StackVersion
from search_spaces.step_profile import StepProfile
from search_spaces.workload import Workload
from simulator.calibration import Calibration, HostCosts
from simulator.measured_tables import no_host
from simulator.step_cost import Scenario


@dataclass(frozen=True)
class Relief:
    """Factors on single resources, for asking what relaxing one of them would give."""

    prefill_time: float = 1.0
    decode_time: float = 1.0
    swa_pool: float = 1.0
    full_pool: float = 1.0
    slots: float = 1.0
    frontend_time: float = 1.0
    transfer_time: float = 1.0


@dataclass(frozen=True)
class Setting:
    """Everything a run depends on."""

    recipe: Recipe
    workload: Workload
    model: ModelSpec | None
    """None only beside `steps`, for an architecture that the catalog does not hold."""
    hardware: Hardware | None
    """None only beside `steps`, for a platform that the catalog does not hold."""
    stack: StackVersion
    calibration: Calibration
    seed: int = 0
    relief: Relief = Relief()
    steps: StepProfile | None = None
    """Measured steps that stand for the kernel model, the host and the memory arithmetic."""
    outages: tuple[Outage, ...] = ()
    """Workers that die during the run."""

    @property
    def host(self) -> HostCosts:
        """CPU costs beside the cost tables."""
        if self.steps is not None:
            return no_host(self.steps)
        assert self.hardware is not None
        return self.calibration.host(self.hardware.host_cpu)

    def scenario(self, group: EngineGroup) -> Scenario:
        """Cost scenario of one role."""
        assert self.model is not None and self.hardware is not None
        return Scenario(self.model, self.hardware, group, self.stack, self.calibration)


def keeps_tail_only(stack: StackVersion, group: EngineGroup) -> bool:
    """Whether a request in the radix cache holds its prompt's last window, rather than its last chunk."""
    return group.swa_tail_lock or stack.has("swa_evict_per_request")


def setting_for(
    recipe: Recipe,
    workload: Workload,
    stack: StackVersion,
    calibration: Calibration,
    seed: int = 0,
    steps: StepProfile | None = None,
) -> Setting:
    """A setting with the recipe's model and platform from the catalog.

    Raises:
        BadInput: the catalog does not hold them, and no measured steps stand for them.
    """
    model: ModelSpec | None = None
    hardware: Hardware | None = None
    try:
        model, hardware = catalog_loader.model(recipe.model), catalog_loader.hardware(recipe.hardware)
    except BadInput:
        if steps is None:
            raise
    return Setting(recipe, workload, model, hardware, stack, calibration, seed, steps=steps)
