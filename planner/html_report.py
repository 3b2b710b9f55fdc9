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

from planner.explanation_text import POOL_NAMES
from planner.plan_text import plan_text
from planner.report_data import ReportData

SCRIPTS = (
    "format.js", "elements.js", "front.js", "front_chart.js", "dispatch.js", "bars.js", "recipes.js",
    "assumptions.js", "main.js",
)  # fmt: skip
"""In the order in which they are joined; each defines functions that later ones use."""
NOT_SHOWN = {"cases": {"__all__": {"prediction": {"wall_s"}}}}
"""How long simulating took: the only part that differs between runs."""


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
        "PLAIN": html.escape(plan_text(data.plan) if data.plan else data.command),
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
    case = data.cases[0].prediction
    return f"{case.recipe} at concurrency {case.concurrency}: predicted serving"


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
