"""Which engine build serves: a version and the optimisations that are switched on in it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from search_spaces.base import Noun

Switch = Literal[
    "mhc_fusion",
    "mhc_prewarm",
    "mhc_fused_post_pre",
    "kv_compression_v2",
    "w4a4_megamoe",
    "swa_tail_prealloc",
    "swa_budget",
    "c128_state_per_request",
    "breakable_prefill_graph",
    "ue8m0_scale_fix",
    "draft_extend_graph",
    "draft_window_transfer",
    "swa_evict_per_request",
    "padded_page_pools",
    "aligned_bootstrap_rooms",
]


class StackVersion(Noun):
    """An engine build as a set of named switches."""

    name: str
    engine: Literal["sglang"] = "sglang"
    version: str
    """Release whose flags and memory arithmetic hold, such as `0.5.15`."""
    since: str
    """First date (ISO) of builds that behave so; a dated build belongs to the latest earlier stack."""
    switches: tuple[Switch, ...] = ()
    sources: dict[str, str] = Field(default_factory=dict)

    def has(self, switch: Switch) -> bool:
        """Whether an optimisation is on."""
        return switch in self.switches

    def toggled(self, on: tuple[Switch, ...] = (), off: tuple[Switch, ...] = ()) -> StackVersion:
        """This stack with some switches changed; the name records the change."""
        switches = tuple(s for s in self.switches if s not in off) + tuple(
            s for s in on if s not in self.switches
        )
        marks = "".join(f"+{s}" for s in on) + "".join(f"-{s}" for s in off)
        return self.model_copy(update={"switches": switches, "name": self.name + marks})
