"""How a role spreads its experts over ranks, and what it hides of their communication."""

from __future__ import annotations

from search_spaces.base import Noun
from search_spaces.law_case import RoleCase
from simulator.batch_overlap import overlaps_one_batch, splits_prefill
from simulator.calibration import Calibration
from simulator.expert_load import group_placement, load_factor, rebalance_s, replicas_used


class ExpertUse(Noun):
    """Experts of one expert-parallel worker; loads are means over layers, without the chance of a batch."""

    slots_per_rank: int
    idle_slots: int
    """Redundant slots of the worker that no token is sent to."""
    routing_alpha: float
    """Exponent of expert popularity that the loads are for."""
    load_factor: float
    """Tokens of the most loaded rank over an even share, as placed."""
    load_factor_in_order: float
    """The same with one slot per expert, in order."""
    rebalance_s_per_step: float
    """Moving experts and deciding where, spread over the steps between."""
    overlap: tuple[str, ...]
    """What runs beside communication."""


def expert_use(case: RoleCase, calibration: Calibration) -> ExpertUse | None:
    """Loads and overlap of a role; None where no rank has experts of its own."""
    group, model, alpha = case.group, case.model, calibration.routing_alpha(not case.decodes)
    if group.moe_ep == 1:
        return None
    in_order = group.model_copy(
        update={"redundant_experts": 0, "eplb": False, "expert_location": "trivial", "expert_dispatch": None}
    )
    overlap = []
    if case.prefills and splits_prefill(group):
        overlap.append("halves of a prefill step")
    if any(overlaps_one_batch(group, prefill) for prefill in (True, False)):
        overlap.append("shared expert and second expert GEMM")
    return ExpertUse(
        slots_per_rank=(model.num_experts + group.redundant_experts) // group.moe_ep,
        idle_slots=0 if replicas_used(group) else group.redundant_experts,
        routing_alpha=alpha,
        load_factor=load_factor(group_placement(model, group, alpha)),
        load_factor_in_order=load_factor(group_placement(model, in_order, alpha)),
        rebalance_s_per_step=rebalance_s(model, case.hardware, group, alpha),
        overlap=tuple(overlap),
    )
