"""The sizing request that options mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from planner.demand import DayProfile, Demand, diurnal, read_profile
from planner.service_goal import parse_goal
from planner.sizing_types import SizeRequest
from search_spaces import catalog_loader
from search_spaces.errors import BadInput
from search_spaces.traces import open_trace, trace_rows
from search_spaces.workload import Workload

SAME = (
    "model", "hardware", "max_gpus", "deployment_gpus", "spare", "mtp", "stack", "seed", "calibration",
)  # fmt: skip

SIZE_DEFAULTS: dict[str, Any] = {
    "request_rate": None,
    "users": None,
    "think_s": 0.0,
    "isl": 8192,
    "osl": 1024,
    "random_range_ratio": 0.8,
    "burstiness": 1.0,
    "trace": None,
    "growth": "1",
    "profile": None,
    "trough": None,
    "goodput": 0.0,
    "max_gpus": 100_000,
    "deployment_gpus": 72,
    "spare": "node",
    "prices": (),
    "mtp": True,
    "stack": catalog_loader.DEFAULT_STACK,
    "seed": 0,
    "calibration": None,
}
"""Options that a caller may leave out."""


def size_request(options: Mapping[str, Any]) -> SizeRequest:
    """The request of the options of `servecast size`.

    Raises:
        BadInput: a value that makes no sense.
    """
    data = {name: options[name] for name in SAME}
    data["demand"] = demand_of(options)
    data["goal"] = parse_goal(options["goals"], options["goodput"])
    data["prices"] = prices_of(options["prices"])
    return SizeRequest.parse(data, "size")


def demand_of(options: Mapping[str, Any]) -> Demand:
    """Traffic of the options."""
    profile, peak = profile_of(options)
    users = options["users"]
    rate = options["request_rate"] or (peak if users is None else None)
    try:
        growth = tuple(float(text) for text in str(options["growth"]).split(","))
    except ValueError:
        raise BadInput(f"growth={options['growth']!r} must be factors; write e.g. 1,1.5,2") from None
    data = {
        "workload": _workload(options),
        "request_rate": rate,
        "users": users,
        "think_s": options["think_s"],
        "growth": growth,
        "profile": profile,
    }
    return Demand.parse(data, "size")


def profile_of(options: Mapping[str, Any]) -> tuple[DayProfile | None, float | None]:
    """The day's profile, and its peak where a file states one."""
    if options["profile"] and options["trough"] is not None:
        raise BadInput("profile and trough exclude each other; give one of them")
    if options["profile"]:
        return read_profile(options["profile"])
    return (None if options["trough"] is None else diurnal(options["trough"])), None


def _workload(options: Mapping[str, Any]) -> Workload:
    data = {name: options[name] for name in ("isl", "osl", "random_range_ratio", "burstiness")}
    if options["trace"]:
        trace = open_trace(options["trace"])
        rows = trace_rows(trace)
        data |= {"trace": trace, "isl": int(rows.isl.max()), "osl": int(rows.osl.max())}
    return Workload.parse(data, "size")


def prices_of(texts: Iterable[str]) -> dict[str, float]:
    """Platform to US dollars per GPU-hour, of `NAME=USD` texts."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            price = float(value)
        except ValueError:
            price = 0.0
        if not 0 < price < float("inf"):
            raise BadInput(f"price={text!r} must be NAME=USD above 0; write e.g. gb300=4.2")
        found[catalog_loader.hardware(name).name] = price
    return found
