"""A step check as text for a terminal and as a section of a Markdown document."""

from __future__ import annotations

from collections.abc import Sequence

from planner.live_check import live_results
from planner.step_check import UNEXPLAINED, kernel_checks, slopes, summaries, unexplained
from planner.text_table import number, percent, table
from profiler.step_fit import StepFit, Target
from search_spaces.step_profile import StepProfile
from search_spaces.units import US_PER_S, ms

Rows = list[list[str]]

BEGIN, END = "<!-- recorded steps: begin -->", "<!-- recorded steps: end -->"
"""Marks of the generated section inside a document."""

NOTES = (
    "A shape (mode, sequences, new tokens) is on one side only: every second one of a profile, in order "
    "of size, is held out. Errors are predicted / observed - 1.",
    "`decode` is the time from one pass to the next; `prefill` the GPU's time from start to end of an "
    "eager pass, host waits included; `verify` the target's pass over drafted tokens on the GPU; "
    "`iteration` that pass with drafts and draft extension.",
    "One host speed per profile is fitted from its calibrating half: hosts differ by up to a factor of "
    "two. Everything else is common to all profiles.",
)
LIVE_NOTE = (
    "The simulator with the fitted step model, against `sglang.bench_serving`. One number outside the engine "
    "is fitted, the delay of a request, and only to the load of one request in flight (*)."
)
MISSING = (
    "Sustained load at the power limit adds 2 to 3 % at 64 sequences and more, and cards of one kind "
    "differ by 2 to 4 %; neither is modelled.",
    "A host is not equally fast throughout a run: eager prefill below about 3,000 tokens scatters by 10 to "
    "25 % around its floor, and one recording was slower on small prompts than on larger ones.",
    "FP8 GEMMs that fill about one wave of large tiles run up to 2.4 times slower than larger ones (m = 768 "
    "to 1024 at n = 4096). The tables rise with work everywhere, so that these shapes are predicted too "
    "short; prefill of such sizes waits for the host in all recordings.",
    "Mean TTFT of loads that start all their requests at once is predicted too short; where that time goes "
    "was not traced.",
    "Dummy weights route uniformly and accept no draft: skewed routing and acceptance are not tested here.",
)


def check_text(fit: StepFit) -> str:
    """Everything for a terminal."""
    parts = [
        "Profiles",
        table(_profiles(fit.profiles), ("profile", "device", "recorded", "layers", "rows", "digest")),
        "Fitted on the calibrating half",
        table(_parameters(fit), ("of", "quantity", "value", "bounds")),
        "Errors on the held-out half",
        table(_errors(fit), _ERROR_HEADER),
    ]
    if checks := _kernels(fit):
        parts += ["Fitted expert kernel against the same kernel timed alone", table(checks, _KERNEL_HEADER)]
    if depth := _slopes(fit):
        parts += ["Milliseconds per layer between two depths", table(depth, _SLOPE_HEADER)]
    if live := _live(fit):
        parts += ["Loads driven against the engine, simulated", table(live, _LIVE_HEADER)]
    wrong = _settings(unexplained(fit))
    if wrong:
        parts += [f"Not explained ({percent(UNEXPLAINED)} or more off)", table(wrong, _SETTING_HEADER)]
    return "\n".join(parts)


def check_markdown(fit: StepFit) -> str:
    """The section of a document, between its marks."""
    held = [(t, e) for t, e in zip(fit.targets, fit.errors, strict=True) if t.held_out]
    parts = [
        BEGIN,
        "## Recorded engine steps against the step model",
        "Written by `servecast profile check --write`; the model explains forward passes of a real engine "
        "that were recorded on one GPU. " + " ".join(NOTES),
        _markdown(_profiles(fit.profiles), ("profile", "device", "recorded", "layers", "rows", "digest")),
        "\n".join(f"- `{p.name}`: {p.source}" for p in fit.profiles),
        "### Errors on the held-out half",
        _markdown(_errors(fit), _ERROR_HEADER),
        "### Fitted quantities",
        _markdown(_parameters(fit), ("of", "quantity", "value", "bounds")),
    ]
    if checks := _kernels(fit):
        parts += ["### Fitted expert kernel against the same kernel timed alone"]
        parts += [_markdown(checks, _KERNEL_HEADER)]
    if depth := _slopes(fit):
        parts += ["### Milliseconds per layer between two depths", _markdown(depth, _SLOPE_HEADER)]
    if live := _live(fit):
        parts += ["### Loads driven against the engine, simulated", LIVE_NOTE, _markdown(live, _LIVE_HEADER)]
    parts += ["### What is not explained", "\n".join(f"- {line}" for line in MISSING)]
    if wrong := _settings(unexplained(fit)):
        parts += [
            f"Settings {percent(UNEXPLAINED)} or more off, in either half:",
            _markdown(wrong, _SETTING_HEADER),
        ]
    parts += ["### Held-out settings", _markdown(_settings(held), _SETTING_HEADER), END]
    return "\n\n".join(parts)


def with_section(document: str, section: str) -> str:
    """`document` with its generated section replaced, or appended where it has none."""
    before, begin, rest = document.partition(BEGIN)
    if not begin:
        return f"{document.rstrip()}\n\n{section}\n" if document.strip() else f"{section}\n"
    _, _, after = rest.partition(END)
    return f"{before}{section}{after}"


_ERROR_HEADER = ("profile", "step", "calibrating", "held out", "median abs", "worst", "bias")
_KERNEL_HEADER = ("platform", "backend", "shapes", "median abs", "worst")
_SLOPE_HEADER = ("step", "sequences", "new tokens", "context", "observed", "predicted", "error")
_LIVE_HEADER = ("profile", "isl", "osl", "in flight", "metric", "observed", "predicted", "error")
_SETTING_HEADER = (
    "profile", "step", "sequences", "new tokens", "context", "observed ms", "predicted ms", "error",
)  # fmt: skip


def _profiles(profiles: Sequence[StepProfile]) -> Rows:
    return [
        [p.name, p.device, p.measured_on, str(p.num_layers), str(len(p.rows)), p.digest] for p in profiles
    ]


def _parameters(fit: StepFit) -> Rows:
    rows = []
    for param, value in zip(fit.parameters, fit.values, strict=True):
        time = param.name.endswith("_s")
        scale, unit = (US_PER_S, " us") if time else (1.0, "")
        low, high = number(param.low * scale, 3), number(param.high * scale, 3)
        rows.append(
            [param.host or "", param.name, f"{number(value * scale, 3)}{unit}", f"{low} .. {high}{unit}"]
        )
    return rows


def _errors(fit: StepFit) -> Rows:
    return [
        [
            s.profile,
            s.kind,
            str(s.calibrating),
            str(s.held_out),
            percent(s.median_abs),
            percent(s.worst, signed=True),
            percent(s.bias, signed=True),
        ]
        for s in summaries(fit)
    ]


def _kernels(fit: StepFit) -> Rows:
    return [
        [c.hardware, c.backend, str(c.shapes), percent(c.median_abs), percent(c.worst, signed=True)]
        for c in kernel_checks(fit)
    ]


def _slopes(fit: StepFit) -> Rows:
    return [
        [
            s.kind,
            str(s.sequences),
            str(s.new_tokens),
            f"{s.context:.0f}",
            number(ms(s.observed_s)),
            number(ms(s.predicted_s)),
            percent(s.predicted_s / s.observed_s - 1, signed=True),
        ]
        for s in slopes(fit)
    ]


def _live(fit: StepFit) -> Rows:
    return [
        [
            r.run.profile,
            str(r.run.workload.isl),
            str(r.run.workload.osl),
            f"{r.run.workload.concurrency}{'*' if r.calibrating else ''}",
            r.metric,
            number(r.observed),
            number(r.predicted),
            percent(r.error, signed=True),
        ]
        for r in live_results(fit)
    ]


def _settings(rows: Sequence[tuple[Target, float]]) -> Rows:
    found = []
    for target, error in rows:
        row = target.row
        found.append(
            [
                target.profile,
                target.kind,
                str(row.sequences),
                str(row.new_tokens),
                f"{row.context:.0f}",
                number(ms(target.seconds)),
                number(ms(target.seconds * (1 + error))),
                percent(error, signed=True),
            ]
        )
    return found


def _markdown(rows: Rows, header: Sequence[str]) -> str:
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
