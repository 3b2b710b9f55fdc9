"""The Prometheus text format, as far as a scraper of one server needs it."""

from __future__ import annotations

import re

SAMPLE = re.compile(
    r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?$'
)


def parse_metrics(text: str) -> dict[str, float]:
    """Samples by name, labels included as the server wrote them; comments are left out.

    Source: Prometheus text exposition format 0.0.4. A line that is none of its forms raises ValueError.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        sample = SAMPLE.match(line.strip())
        if sample is None:
            raise ValueError(f"{line!r} is no Prometheus sample")
        found[sample[1] + (sample[2] or "")] = float(sample[3])
    return found


def sample(samples: dict[str, float], name: str) -> float | None:
    """The sum over labels of the metric called `name`; None where it is absent."""
    values = [value for key, value in samples.items() if key.split("{", 1)[0] == name]
    return sum(values) if values else None
