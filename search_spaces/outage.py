"""A worker that dies while it serves, and when it comes back."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from search_spaces.base import Noun
from search_spaces.errors import BadInput

FORM = re.compile(
    r"(?P<role>prefill|decode|aggregated)(?::(?P<worker>\d+))?@(?P<at>[\d.]+)(?:\+(?P<back>[\d.]+))?"
    r"(?:/(?P<retry>restart|migrate))?"
)


class Outage(Noun):
    """One worker is gone from `at_s` on; its requests are sent again to the others."""

    role: Literal["prefill", "decode", "aggregated"]
    worker: int = Field(default=0, ge=0)
    """Index among the workers of the role."""
    at_s: float = Field(ge=0)
    """When it dies, seconds from the first request."""
    back_s: float | None = Field(default=None, gt=0)
    """Seconds until it serves again, with empty pools and caches; None means never."""
    retry: Literal["restart", "migrate"] = "restart"
    """`restart`: the client sends the request again and all its tokens are computed anew; `migrate`: the
    router sends the prompt with the tokens that are out already, as Dynamo's request migration does."""
    detect_s: float = Field(default=1.0, ge=0)
    """Until the loss is noticed and requests are sent again; an assumption, no measurement."""


def parse_outage(text: str) -> Outage:
    """The outage of `ROLE[:WORKER]@SECONDS[+BACK_SECONDS][/restart|/migrate]`, such as `decode:1@60+120`."""
    match = FORM.fullmatch(text.strip())
    if match is None:
        raise BadInput(
            f"outage={text!r} is not ROLE[:WORKER]@SECONDS[+BACK_SECONDS][/migrate]; "
            "write e.g. prefill:0@60+120"
        )
    data = {"role": match["role"], "worker": match["worker"] or 0, "at_s": match["at"]}
    data |= {"back_s": match["back"]} if match["back"] else {}
    data |= {"retry": match["retry"]} if match["retry"] else {}
    return Outage.parse(data, f"outage={text!r}")
