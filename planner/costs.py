"""What tokens cost: GPU-hours at an assumed price over the tokens that they serve."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.base import Noun
from search_spaces.units import SECONDS_PER_HOUR, TOKENS_PER_MILLION


class TokenCost(Noun):
    """US dollars; the price per GPU-hour is an assumption of the catalog or of the caller."""

    dollars_per_hour: float
    """All GPUs of the deployment."""
    per_million_tokens: float
    """Over input and output tokens alike."""
    per_million_input_tokens: float
    """All cost charged to input tokens alone."""
    per_million_output_tokens: float
    """All cost charged to output tokens alone."""


def token_cost(num_gpus: int, price_per_gpu_hour: float, metrics: Mapping[str, float]) -> TokenCost:
    """Cost of the tokens that `num_gpus` serve.

    Args:
        num_gpus: GPUs paid for.
        price_per_gpu_hour: US dollars.
        metrics: as `serving_metrics` gives them, per GPU of the same `num_gpus`.
    """
    hourly = num_gpus * price_per_gpu_hour
    total = metrics["total_tokens_per_s_per_gpu"] * num_gpus
    output = metrics["output_tokens_per_s_per_gpu"] * num_gpus
    return TokenCost(
        dollars_per_hour=hourly,
        per_million_tokens=_per_million(hourly, total),
        per_million_input_tokens=_per_million(hourly, total - output),
        per_million_output_tokens=_per_million(hourly, output),
    )


def _per_million(hourly: float, tokens_per_s: float) -> float:
    return hourly / (tokens_per_s * SECONDS_PER_HOUR) * TOKENS_PER_MILLION
