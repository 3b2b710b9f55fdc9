"""A report as one HTML page that needs nothing else: no network, no server.

The page is a frame, a style sheet and scripts from `planner/html`, and the report as JSON. The scripts
build everything a reader sees from that JSON. A content security policy forbids every request and every
script but these, by hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

from planner.autoscale_text import autoscale_text
from planner.comparing_text import compare_text
from planner.explanation_text import POOL_NAMES
from planner.plan_text import plan_text
from planner.report_data import ReportData
from planner.sizing_text import size_text
from planner.whatif_text import whatif_text

SCRIPTS = (
    "format.js", "elements.js", "fields.js", "front.js", "front_chart.js", "dispatch.js", "bars.js",
    "recipes.js", "assumptions.js", "lines_chart.js", "whatif.js", "heat_map.js", "sizing.js", "comparing.js",
    "day.js", "main.js",
)  # fmt: skip
"""In the order in which they are joined; each defines functions that later ones use."""
UNTOLD = {"prediction": {"wall_s", "roles", "breakdown", "stages_ms", "spread"}}
"""Parts of a scenario's prediction that the page shows of its case."""
NOT_SHOWN: dict[str, Any] = {
    "cases": {"__all__": {"prediction": {"wall_s"}}},
    "whatif": {"setting": True, "base": UNTOLD, "scenarios": {"__all__": UNTOLD}},
}
"""How long simulating took, which is all that differs between runs, and what is there twice."""


def html_page(data: ReportData) -> str:
    """The page of a report; the same for equal reports."""
    style = _part("report.css")
    script = '(() => {\n"use strict";\n' + "\n".join(_part(name) for name in SCRIPTS) + "})();\n"
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html.escape(title(data)),
        "STYLE": style,
        "PLAIN": html.escape(plain_text(data)),
        "DATA": json_in_html({**data.model_dump(mode="json", exclude=NOT_SHOWN), "pool_names": POOL_NAMES}),
        "SCRIPT": script,
    }
    page = _part("report.html")
    # Split first, so that what is put in is not searched for further places.
    first, *rest = page.split("{{")
    filled = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [parts[name], after]
    return "".join(filled)


def title(data: ReportData) -> str:
    """What the report is about, for the window and the heading."""
    if data.plan is not None:
        table = data.plan.table
        return f"{table.model} on {table.hardware}: serving plan"
    if data.whatif is not None:
        return f"{data.whatif.recipe}: what if"
    if data.size is not None:
        return f"{data.size.request.model}: fleets for given traffic"
    if data.compare is not None:
        return f"{data.compare.request.model}: platforms side by side"
    if data.autoscale is not None:
        day = data.autoscale.request
        return f"{day.table.model} on {day.table.hardware}: a day of traffic"
    case = data.cases[0].prediction
    return f"{case.recipe} at concurrency {case.concurrency}: predicted serving"


def plain_text(data: ReportData) -> str:
    """The result as the command prints it, for readers without scripts."""
    if data.plan is not None:
        return plan_text(data.plan)
    if data.whatif is not None:
        return whatif_text(data.whatif)
    if data.size is not None:
        return size_text(data.size)
    if data.compare is not None:
        return compare_text(data.compare)
    return autoscale_text(data.autoscale) if data.autoscale is not None else data.command


def json_in_html(value: Any) -> str:
    """JSON that stands in a script element: no `<`, `>` or `&`, and no line end that old parsers trip on."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _part(name: str) -> str:
    return (files("planner") / "html" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source expression of a content security policy that allows this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
