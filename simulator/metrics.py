"""One definition of each metric, for simulated and for live requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_spaces.units import MS_PER_S

Floats = NDArray[np.float64]


def serving_metrics(
    isl: NDArray[np.int64],
    osl: NDArray[np.int64],
    sent_s: Floats,
    first_s: Floats,
    done_s: Floats,
    num_gpus: int,
) -> dict[str, float]:
    """End-to-end metrics as InferenceX and sglang's load generator define them.

    Args:
        isl: input tokens per request.
        osl: output tokens per request.
        sent_s: when the client sent each request.
        first_s: when its first token came back.
        done_s: when its last token came back.
        num_gpus: GPUs of the whole deployment.

    Returns:
        Throughput over the time from the first send to the last token, per GPU of all GPUs; TTFT is
        first token minus send; TPOT is (E2E - TTFT) / (output tokens - 1), over requests with more than
        one output token; interactivity is 1000 / median TPOT in ms.
    """
    duration = float(done_s.max() - sent_s.min())
    ttft, e2e = first_s - sent_s, done_s - sent_s
    several = osl > 1
    tpot = (e2e[several] - ttft[several]) / (osl[several] - 1) if several.any() else np.zeros(1)
    found = {
        "duration_s": duration,
        "completed": float(len(osl)),
        "requests_per_s": len(osl) / duration,
        "total_tokens_per_s_per_gpu": float(isl.sum() + osl.sum()) / duration / num_gpus,
        "output_tokens_per_s_per_gpu": float(osl.sum()) / duration / num_gpus,
    }
    for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        found[f"mean_{name}_ms"] = float(values.mean()) * MS_PER_S
        for label, value in zip(("median", "p90", "p99"), np.percentile(values, (50, 90, 99)), strict=True):
            found[f"{label}_{name}_ms"] = float(value) * MS_PER_S
    found["tokens_per_s_per_user"] = (
        MS_PER_S / found["median_tpot_ms"] if found["median_tpot_ms"] > 0 else 0.0
    )
    return found
