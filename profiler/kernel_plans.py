"""What one rank of each parallel plan computes: which slices of which matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.space import load_spaces, plan_width

SCALE_BLOCK = 128
"""Block FP8 weights carry one scale per 128 x 128; a slice narrower than that has no scales of its own."""


@dataclass(frozen=True, slots=True)
class RankPlan:
    """How one plan, such as `TP8` or `DEP16`, slices a model."""

    name: str
    attention_tp: int
    """Ranks that share the heads of one attention."""
    dense_tp: int
    """Ranks that share the shared expert."""
    moe_tp: int
    """Ranks that share each routed expert."""
    moe_ep: int
    """Ranks that share the list of routed experts."""

    def fits(self, model: ModelSpec) -> bool:
        """Whether heads, output groups and experts divide evenly."""
        return not any(
            (
                model.num_heads % self.attention_tp,
                model.o_groups % self.attention_tp,
                model.num_experts % self.moe_ep,
                model.expert_inner % self.moe_tp,
            )
        )


def rank_plan(name: str) -> RankPlan:
    """The slices of a plan `TPn`, `DEPn` or `DPAn`; raises `BadInput` for another word."""
    width = plan_width(name)
    if name.startswith("TP"):
        return RankPlan(name, attention_tp=width, dense_tp=width, moe_tp=width, moe_ep=1)
    if name.startswith("DEP"):
        return RankPlan(name, attention_tp=1, dense_tp=1, moe_tp=1, moe_ep=width)
    return RankPlan(name, attention_tp=1, dense_tp=width, moe_tp=width, moe_ep=1)


def plans_of(hw: Hardware, extra: Iterable[str] = ()) -> tuple[RankPlan, ...]:
    """Every plan of the platform's search spaces, by name and width, then `extra`."""
    names: list[str] = []
    for space in load_spaces(hw.name):
        for role in (space.prefill, space.decode, space.aggregated):
            names.extend(role.plans if role is not None else ())
    ordered = sorted(set(names), key=lambda name: (name.rstrip("0123456789"), plan_width(name)))
    return tuple(rank_plan(name) for name in dict.fromkeys((*ordered, *extra)))
