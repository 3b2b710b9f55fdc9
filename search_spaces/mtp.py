"""Speculative decoding of one role: which draft, how many tokens, and how the engine is told to behave."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from search_spaces.base import Noun

DSPARK_SINCE = (0, 5, 16)
"""First release with published DSpark results (SGLang cookbook, DeepSeek-V4-Flash-0731); 0.5.15 has none in
its sources."""
MOST_STEPS = 8
"""Longest draft of which acceptance was ever published (InferenceX golden tables)."""


class AdaptiveTier(Noun):
    """Draft lengths that a server chooses from at batches of one size and more, and how eagerly.

    Defaults are those of SGLang's `AdaptiveStepSlot` (0.5.15 and 0.5.23).
    """

    batch: int = Field(ge=1)
    """Smallest batch, padded to its graph, that the tier is for; the first tier also holds below."""
    candidate_steps: tuple[int, ...] = Field(min_length=1)
    """Draft steps to choose from; 0 verifies one token and drafts nothing."""
    ema_alpha: float = Field(default=0.2, gt=0, le=1)
    """Weight of the newest step in the running mean of accepted drafts."""
    update_interval: int = Field(default=5, ge=1)
    """Steps between two decisions."""
    warmup_batches: int = Field(default=10, ge=0)
    """Steps before the first decision."""
    down_hysteresis: float = -0.25
    up_hysteresis: float = 0.0
    ceiling_coeff: float = Field(default=0.0, ge=0)
    """Cap on the steps as a multiple of the running mean; 0 caps nothing."""

    @model_validator(mode="after")
    def _steps(self) -> AdaptiveTier:
        wrong = [s for s in self.candidate_steps if not 0 <= s <= MOST_STEPS]
        if wrong:
            raise ValueError(f"candidate_steps={wrong} must be 0 to {MOST_STEPS}; choose shorter drafts")
        return self


class AdaptiveSteps(Noun):
    """Number of draft steps chosen by observed acceptance (`--speculative-adaptive`)."""

    tiers: tuple[AdaptiveTier, ...] = ()
    """By ascending batch; none means those that the release brings."""
    config_path: str | None = None
    """JSON file with the tiers on the machine that serves; the engine takes other tiers from nowhere else."""

    @model_validator(mode="after")
    def _order(self) -> AdaptiveSteps:
        batches = [tier.batch for tier in self.tiers]
        if batches != sorted(set(batches)):
            raise ValueError(f"tiers.batch={batches} must ascend without repetition; sort the tiers")
        return self

    def tiers_of(self, version: tuple[int, ...]) -> tuple[AdaptiveTier, ...]:
        """The tiers in force under a release."""
        return self.tiers or default_tiers(version)


def default_tiers(version: tuple[int, ...]) -> tuple[AdaptiveTier, ...]:
    """`DEFAULT_ADAPTIVE_CONFIG` of SGLang 0.5.15, or of 0.5.23 from there on."""
    alone = (1, 3, 5, 7) if version >= (0, 5, 23) else (1, 3, 7)
    return (
        AdaptiveTier(batch=1, candidate_steps=alone, down_hysteresis=-0.25),
        AdaptiveTier(batch=8, candidate_steps=(0, 1, 3), down_hysteresis=0.0),
        AdaptiveTier(batch=32, candidate_steps=(0, 1), down_hysteresis=0.0),
        AdaptiveTier(batch=64, candidate_steps=(0,), down_hysteresis=0.0),
    )


class Mtp(Noun):
    """Speculative decoding with the draft that the checkpoint carries (top-k 1)."""

    num_steps: int = Field(ge=1, le=MOST_STEPS)
    """Draft tokens per iteration: EAGLE takes a pass of the MTP layer for each, DSpark one for the block
    (its gamma). With `adaptive` the number to start from."""
    algorithm: Literal["eagle", "dspark"] = "eagle"
    """`eagle` is the MTP layer, one token a pass; `dspark` a layer that proposes a block in one pass."""
    verify: Literal["static", "cap-accept", "compact"] = "static"
    """Which of DSpark's drafts are verified: all, all but fewer may be accepted, or only the likely ones."""
    verify_costs: str | None = None
    """Profiled step-cost table that DSpark weighs verification with; without one it verifies all."""
    adaptive: AdaptiveSteps | None = None
    """Draft steps follow acceptance instead of staying at `num_steps`."""
    simulated_accept_length: float | None = Field(default=None, gt=0)
    """Tokens per step that the engine pretends to accept, the bonus token included (benchmarks only);
    None accepts what the model does."""
    simulated_accept_method: Literal["match-expected", "multinomial"] = "match-expected"
    """How the pretended length is drawn: one of its two neighbours, or a rounded normal of deviation 1."""

    @model_validator(mode="after")
    def _together(self) -> Mtp:
        if self.algorithm != "dspark" and (self.verify != "static" or self.verify_costs is not None):
            raise ValueError(
                f"verify={self.verify} and verify_costs={self.verify_costs} belong to algorithm=dspark; "
                "leave both out or set it"
            )
        if self.algorithm == "dspark" and self.adaptive is not None:
            raise ValueError("adaptive needs algorithm=eagle; remove one of them")
        if self.adaptive is not None and self.adaptive.tiers and self.num_steps not in self.candidates:
            raise ValueError(
                f"num_steps={self.num_steps} must be a candidate of adaptive.tiers, {self.candidates}; "
                "choose one of them"
            )
        return self

    @property
    def candidates(self) -> tuple[int, ...]:
        """Draft steps that an adaptive server may take, ascending; of the newest release if not told."""
        if self.adaptive is None:
            return (self.num_steps,)
        tiers = self.adaptive.tiers_of((0, 5, 23))
        return tuple(sorted({steps for tier in tiers for steps in tier.candidate_steps}))

    @property
    def most_steps(self) -> int:
        """Longest draft that may be verified."""
        return max(self.num_steps, *self.candidates)

    @property
    def num_draft_tokens(self) -> int:
        """Most tokens verified per sequence and step: the drafts and the bonus token."""
        return self.most_steps + 1

    @property
    def draft_passes(self) -> int:
        """Passes of the draft layer per iteration before verification."""
        return 1 if self.algorithm == "dspark" else self.num_steps

    @property
    def trims_verification(self) -> bool:
        """Whether fewer tokens than all are verified: a compact window and costs to weigh it with."""
        return self.verify == "compact" and self.verify_costs is not None

    @property
    def verifies_all(self) -> bool:
        """Whether every drafted token is verified and may be accepted."""
        return self.verify == "static" or (self.verify == "compact" and self.verify_costs is None)

    @property
    def label(self) -> str:
        """`MTP3`, `DSPARK7` or `MTP3A` (adaptive)."""
        name = "DSPARK" if self.algorithm == "dspark" else "MTP"
        return f"{name}{self.num_steps}" + ("A" if self.adaptive is not None else "")

    @property
    def layout(self) -> tuple[str, int]:
        """What the layout of KV state depends on, and both roles of a deployment must have alike."""
        return self.algorithm, self.num_draft_tokens

    def fixed_at(self, num_steps: int) -> Mtp:
        """The same draft at a length that does not change; 0 drafts nothing and verifies one token."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return Mtp.model_construct(**kept | {"num_steps": num_steps, "adaptive": None})

    @property
    def computed(self) -> Mtp:
        """What of it decides the time of a step."""
        return Mtp.model_construct(num_steps=self.num_steps, algorithm=self.algorithm)
