"""What is asked of a deployment: request lengths, load and the limits that count as good."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from search_spaces.base import Noun
from search_spaces.traces import Trace

LONGEST_TOKENS = 1 << 20
"""Context that the models serve."""


class Workload(Noun):
    """A load in the form public harnesses use: a closed loop, an arrival rate, or a trace.

    Lengths are uniform integers in [max(1, ratio x nominal), nominal]: ratio 0.8 is the InferenceX
    and sa-bench form, ratio 0 the `bench_serving` default, ratio 1 fixed lengths.
    """

    isl: int = Field(gt=0)
    """Nominal input length, tokens; of the first turn where there are several."""
    osl: int = Field(gt=0)
    """Nominal output length, tokens."""
    random_range_ratio: float = Field(default=0.8, ge=0, le=1)
    concurrency: int = Field(default=1, ge=1)
    """Requests (sessions, where they have turns) the client keeps in flight at most."""
    request_rate: float | None = Field(default=None, gt=0)
    """Mean arrivals per second; None sends a request whenever another completes."""
    burstiness: float = Field(default=1.0, gt=0)
    """Shape of the Gamma law of inter-arrival times: 1 is Poisson, less is burstier."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Measured requests; None means 10 x concurrency."""
    num_warmup: int | None = Field(default=None, ge=0)
    """Requests run and drained before measuring; None means 2 x concurrency."""
    harness: Literal["inferencex", "bench_serving"] = "inferencex"
    """Load generator: decides the pseudo-random lengths that it is known to draw."""
    prompts: Literal["random", "chat"] = "random"
    """`chat` wraps prompts in the chat template, which is what makes drafts acceptable."""
    fresh_server: bool = False
    """The run is the first of a server just started, so that first uses of kernels fall into it. Public
    harnesses start a server per run; a deployment in service is warm."""
    accept_length: float | None = Field(default=None, ge=1)
    """Tokens per verify step, the bonus token included, where that was measured on these prompts; None
    takes what was fitted for the kind of prompt."""
    shared_prefix_tokens: int = Field(default=0, ge=0)
    """Leading tokens of the first prompt that all requests of a group have in common (a system prompt)."""
    prefix_groups: int = Field(default=1, ge=1)
    """Different shared prefixes; requests take them in turn."""
    reused_prompts: int = Field(default=0, ge=0)
    """The first so many prompts were sent before, in a run of their own on the same server, and its prefix
    cache was not flushed: harnesses with a fixed seed do that when one load follows another."""
    turns: int = Field(default=1, ge=1)
    """Requests of one session; each repeats the whole conversation before it."""
    turn_tokens: int | None = Field(default=None, gt=0)
    """Nominal new input tokens of every later turn; None means `isl`."""
    think_s: float = Field(default=0.0, ge=0)
    """Seconds between an answer and the session's next turn."""
    trace: Trace | None = None
    """Replayed instead of drawn lengths and arrivals; the other length fields then describe it."""

    @model_validator(mode="after")
    def _lengths(self) -> Workload:
        longest = self.longest_tokens
        if longest > LONGEST_TOKENS:
            terms = "isl+osl" if self.turns == 1 else "isl+osl of all turns"
            raise ValueError(
                f"workload.{terms}={longest} exceeds the {LONGEST_TOKENS}-token context; "
                f"choose shorter lengths{'' if self.turns == 1 else ' or fewer turns'}"
            )
        shortest = max(1, int(self.isl * self.random_range_ratio))
        if self.trace is None and self.shared_prefix_tokens > 0 and self.shared_prefix_tokens >= shortest:
            raise ValueError(
                f"shared_prefix_tokens={self.shared_prefix_tokens} must be below the shortest prompt of "
                f"{shortest} tokens; lower it or raise isl or random_range_ratio"
            )
        return self

    @model_validator(mode="after")
    def _reused(self) -> Workload:
        if not self.reused_prompts:
            return self
        if self.trace is not None or self.turns > 1:
            raise ValueError(
                f"reused_prompts={self.reused_prompts} needs independent prompts; a trace or turns > 1 state "
                "what they repeat themselves; leave it 0"
            )
        if self.reused_prompts > self.measured_requests:
            raise ValueError(
                f"reused_prompts={self.reused_prompts} exceeds the {self.measured_requests} prompts of the "
                "run; lower it or raise num_prompts"
            )
        return self

    @property
    def later_turn_tokens(self) -> int:
        """Nominal new input tokens of a turn after the first."""
        return self.turn_tokens or self.isl

    @property
    def longest_tokens(self) -> int:
        """Input and output tokens of the longest request."""
        return self.isl + self.osl + (self.turns - 1) * (self.later_turn_tokens + self.osl)

    @property
    def measured_requests(self) -> int:
        """Requests that count, over all turns of all sessions."""
        if self.trace is not None:
            return min(self.num_prompts or self.trace.requests, self.trace.requests)
        asked = self.num_prompts or 10 * self.concurrency
        return -(-asked // self.turns) * self.turns

    @property
    def warmup_requests(self) -> int:
        """Requests run before the measured ones."""
        return 2 * self.concurrency if self.num_warmup is None else self.num_warmup

    @property
    def mean_isl(self) -> float:
        """Mean input tokens per request, over all turns."""
        if self.trace is not None:
            return self.trace.mean_isl
        return self._mean(self.isl) + (self.turns - 1) / 2 * (
            self._mean(self.later_turn_tokens) + self.mean_osl
        )

    @property
    def mean_osl(self) -> float:
        """Mean output tokens per request."""
        return self.trace.mean_osl if self.trace is not None else self._mean(self.osl)

    @property
    def shares_prefixes(self) -> bool:
        """Whether some prompts begin alike, or as prompts of an earlier run did."""
        shared = self.shared_prefix_tokens > 0 or self.turns > 1 or self.reused_prompts > 0
        return shared or (self.trace is not None and self.trace.format == "mooncake")

    def _mean(self, nominal: int) -> float:
        return (max(1, int(nominal * self.random_range_ratio)) + nominal) / 2

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
