"""Predictions of points that the fit had not seen: the nouns of a cross-validation."""

from __future__ import annotations

import math

from pydantic import Field

from planner.validation import THROUGHPUT
from search_spaces.base import Noun
from search_spaces.units import MS_PER_S
from simulator.intervals import BANDED, Interval, regime_of

STANDS_IN = {"median_tpot_ms": "mean_tpot_ms", "median_ttft_ms": "mean_ttft_ms"}
"""What is compared where a source publishes no median."""
NEVER = "never fitted"
"""Fold of points that the calibration itself leaves out."""


class HeldOut(Noun):
    """One point predicted by a fit that neither it nor its siblings had a part in."""

    id: str
    lane: str
    """`gb300-disagg-pro-mtp`."""
    hardware: str
    topology: str
    deployment: str
    """Digest of the recipe."""
    groups: list[str]
    """Error-band groups, from `all` to the most specific."""
    workload: str
    """Nominal lengths, `8192/1024`."""
    prompts: str
    """`random` or `chat`, as in `Workload.prompts`."""
    mean_isl: float
    mean_osl: float
    concurrency: int
    num_gpus: int
    batch_per_rank: float
    """Concurrency over the attention ranks that decode."""
    moe_ep: int
    """Expert-parallel width where tokens are decoded."""
    mtp_steps: int
    host: str
    """Kind of CPU."""
    stack: str
    fold: str
    """What was held out: a fold's number, a platform, or `never fitted`."""
    predicted: dict[str, float]
    measured: dict[str, float]
    in_sample: dict[str, float]
    """Prediction of the full fit."""
    intervals: dict[str, Interval] = Field(default_factory=dict)
    """80 % intervals from the errors of other folds' points."""

    def error(self, metric: str, in_sample: bool = False) -> float | None:
        """Predicted / measured - 1, on request of the full fit; None where it was not measured."""
        value, predicted = self.measured.get(metric), self.in_sample if in_sample else self.predicted
        return None if not value or metric not in predicted else predicted[metric] / value - 1

    def log_error(self, metric: str, in_sample: bool = False) -> float | None:
        """ln(predicted / measured) of a metric, of the mean where no median was published."""
        found = self.error(metric, in_sample)
        if found is None and metric in STANDS_IN:
            found = self.error(STANDS_IN[metric], in_sample)
        return None if found is None else math.log1p(found)

    @property
    def interactivity(self) -> float | None:
        """Measured tok/s/user, from the median TPOT or else the mean."""
        tpot = self.measured.get("median_tpot_ms") or self.measured.get("mean_tpot_ms")
        return MS_PER_S / tpot if tpot else None

    def covered(self, metric: str) -> bool | None:
        """Whether the measurement lies in the interval; None without either."""
        band, error = self.intervals.get(metric), self.log_error(BANDED.get(metric, metric))
        if band is None or error is None:
            return None
        ratio = math.exp(error if metric == "tokens_per_s_per_user" else -error)
        value = self.predicted[metric]
        return band.low <= value * ratio <= band.high

    @property
    def unexplained_fraction(self) -> float | None:
        """Share of the measured run that neither the measured TPOT nor the simulated rest accounts for.

        By Little's law throughput fixes the mean time of a request. Putting the measured TPOT into the
        simulated run should give the measured duration; what is left is time in which nothing was
        decoded or prefilled as the engine does it in steady state, such as compilation at first use, or a
        mean TPOT far above the median. None without measured tok/s/GPU and TPOT.
        """
        error, tpot = self.error(THROUGHPUT), "median_tpot_ms"
        if tpot not in self.measured:
            tpot = STANDS_IN[tpot]
        if error is None or tpot not in self.measured:
            return None
        requests_per_s = self.predicted[THROUGHPUT] * self.num_gpus / (self.mean_isl + self.mean_osl)
        slower_s = (self.mean_osl - 1) * (self.measured[tpot] - self.predicted[tpot]) / MS_PER_S
        stretched = 1 + slower_s * requests_per_s / self.concurrency
        return 1 - stretched / (1 + error)

    @property
    def part(self) -> str:
        """Lane, split by load regime where prefill and decode are apart."""
        split = "-disagg-" in self.lane
        return f"{self.lane} {regime_of(self.concurrency)}" if split else self.lane


class FoldFit(Noun):
    """One refit."""

    name: str
    n: int
    """Points held out."""
    cost_before: float
    """Robust cost of the other points under the full fit."""
    cost: float
    """The same after the refit."""
    moved: dict[str, tuple[float, float]]
    """Parameters that moved by more than `MOVED` logit units: value in the full fit and here."""

    @property
    def moves(self) -> list[tuple[str, tuple[float, float]]]:
        """These, by their change over the larger value, largest first."""
        return sorted(self.moved.items(), key=lambda move: -_change(*move[1]))


def _change(before: float, after: float) -> float:
    return abs(after - before) / max(abs(before), abs(after), 1e-12)


class CrossValidation(Noun):
    """Everything a cross-validation found."""

    calibration: str
    """Digest of the full fit."""
    points_digest: str
    """Sixteen hex digits over ids and measured values of the points."""
    source_digest: str
    """Of the simulator's code and kernel times."""
    sources: dict[str, int]
    """Publication to points."""
    evaluations: int
    """Simulations of the remaining points per refit; 0 took the linear form at its word."""
    num_groups: int
    """Groups of points that were never split."""
    folds: list[FoldFit]
    points: list[HeldOut]
    """k-fold, grouped by source and topology."""
    platforms: list[HeldOut]
    """Leave one platform out."""
