"""What a calibration file says about its own certainty: parameter posteriors and error bands.

Two statements that are kept apart. A *posterior* says how far the measured points leave a parameter free;
it knows nothing of mechanisms that the model lacks. An *error band* says how far predictions were from
measurements that the fit had not seen, and so holds everything: parameters, missing mechanisms, seeds and
the repeat noise of the measurement itself.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from search_spaces.base import Noun

MAX_PARAMETERS = 64
"""More fitted parameters than this in one file is a mistake."""
MAX_BANDS = 256
"""The same for bands of one metric."""
Share = Annotated[float, Field(ge=0, le=1)]


class ParameterUncertainty(Noun):
    """How certain one fitted parameter is."""

    low: float
    """Lower end of the central 80 % interval, in the parameter's own unit."""
    high: float
    """Upper end."""
    prior_share: Share
    """Posterior variance over prior variance: 1 where the points say nothing."""
    identifiable: bool
    """Whether the points narrow the prior to less than `NOT_IDENTIFIABLE` of its spread."""
    pinned_by: dict[str, Share] = Field(default_factory=dict, max_length=8)
    """Lane to its share of the points' information on this parameter, largest first."""

    @model_validator(mode="after")
    def _ends(self) -> ParameterUncertainty:
        if self.low > self.high:
            raise ValueError(f"low={self.low} must not exceed high={self.high}; swap them")
        return self


class Posterior(Noun):
    """Gauss-Newton posterior of the fitted parameters, with the robust weights and the priors of the fit."""

    parameters: dict[str, ParameterUncertainty] = Field(max_length=MAX_PARAMETERS)
    """`grace.prefill_layer_s` or `prefill_slowdown` to what is known of it."""
    covariance: list[list[float]]
    """Lower triangle, row by row, of the unbounded (logit) numbers, in the order of `parameters`."""

    @model_validator(mode="after")
    def _shape(self) -> Posterior:
        rows = [len(row) for row in self.covariance]
        if rows != list(range(1, len(self.parameters) + 1)):
            raise ValueError(
                f"covariance has rows of {rows} numbers for {len(self.parameters)} parameters; "
                "give the lower triangle, row i with i numbers"
            )
        for name, row in zip(self.parameters, self.covariance, strict=True):
            if row[-1] < 0:
                raise ValueError(f"covariance of {name!r} is {row[-1]}; a variance is not negative")
        return self


class ErrorBand(Noun):
    """80 % of unseen points of a group were within this of their prediction."""

    n: int = Field(ge=0)
    """Points of the group."""
    half_width: float = Field(ge=0, le=5)
    """Of |ln(measured / predicted)|; 0.1 is about 10 %. Small groups are drawn towards their parent."""


class ErrorBands(Noun):
    """Error bands by what is known before a run, from predictions of points that the fit had not seen.

    A group is `all`, or the parts `agg|disagg`, `mtp|nomtp`, `c<256|c>=256` and the engine version, joined
    by slashes from the left: `disagg/mtp/c>=256/0.5.15`. The most specific one that exists holds.
    """

    bands: dict[str, Annotated[dict[str, ErrorBand], Field(max_length=MAX_BANDS)]]
    """Metric to group to band."""
    pairs: dict[str, ErrorBand] = Field(default_factory=dict)
    """Metric to the band of the difference of two points' errors within one lane at like loads: what
    separates two recipes less than this may be noise."""
    hardware: list[str] = Field(default_factory=list, max_length=MAX_BANDS)
    """Platforms with points in the fit."""
    transfer: dict[str, Annotated[float, Field(ge=1, le=10)]] = Field(default_factory=dict)
    """Metric to the factor on a band where the platform has no points: leave-one-platform-out errors over
    the others."""
    data: str = ""
    """Which points, and how they were held out."""

    @model_validator(mode="after")
    def _root(self) -> ErrorBands:
        for metric, groups in self.bands.items():
            if "all" not in groups:
                raise ValueError(f"bands of {metric!r} have no group 'all'; add it, it holds for the rest")
        return self
