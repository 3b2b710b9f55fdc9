"""What is asked of a deployment: request lengths, load and the limits that count as good."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from search_spaces.base import Noun


class Workload(Noun):
    """A closed-loop load in the form public harnesses use.

    Lengths are uniform integers in [max(1, ratio x nominal), nominal]: ratio 0.8 is the InferenceX
    and sa-bench form, ratio 0 the `bench_serving` default, ratio 1 fixed lengths.
    """

    isl: int = Field(gt=0)
    """Nominal input length, tokens."""
    osl: int = Field(gt=0)
    """Nominal output length, tokens."""
    random_range_ratio: float = Field(default=0.8, ge=0, le=1)
    concurrency: int = Field(default=1, ge=1)
    """Requests the client keeps in flight."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Measured requests; None means 10 x concurrency."""
    num_warmup: int | None = Field(default=None, ge=0)
    """Requests run and drained before measuring; None means 2 x concurrency."""
    harness: Literal["inferencex", "bench_serving"] = "inferencex"
    """Load generator: decides the pseudo-random lengths that it is known to draw."""
    prompts: Literal["random", "chat"] = "random"
    """`chat` wraps prompts in the chat template, which is what makes drafts acceptable."""

    @model_validator(mode="after")
    def _lengths(self) -> Workload:
        if self.isl + self.osl > 1 << 20:
            raise ValueError(
                f"workload.isl+osl={self.isl + self.osl} exceeds the 1048576-token context; "
                "choose shorter lengths"
            )
        return self

    @property
    def measured_requests(self) -> int:
        """Requests that count."""
        return self.num_prompts or 10 * self.concurrency

    @property
    def warmup_requests(self) -> int:
        """Requests run before the measured ones."""
        return 2 * self.concurrency if self.num_warmup is None else self.num_warmup

    @property
    def mean_isl(self) -> float:
        """Mean input tokens per request."""
        return (max(1, int(self.isl * self.random_range_ratio)) + self.isl) / 2

    @property
    def mean_osl(self) -> float:
        """Mean output tokens per request."""
        return (max(1, int(self.osl * self.random_range_ratio)) + self.osl) / 2

    def at(self, concurrency: int) -> Workload:
        """The same workload at another concurrency."""
        return self.model_copy(update={"concurrency": concurrency})


class Slo(Noun):
    """Limits a recipe must keep; an absent one does not bind."""

    max_median_ttft_ms: float | None = Field(default=None, gt=0)
    max_median_tpot_ms: float | None = Field(default=None, gt=0)
    max_p99_ttft_ms: float | None = Field(default=None, gt=0)
    max_p99_tpot_ms: float | None = Field(default=None, gt=0)
    min_tokens_per_s_per_user: float | None = Field(default=None, gt=0)
    """Lower bound on 1000 / median TPOT in ms."""
