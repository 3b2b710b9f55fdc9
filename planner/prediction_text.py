"""A prediction as a report for people."""

from __future__ import annotations

from planner.text_table import number, percent, table
from search_spaces.units import MS_PER_S
from search_spaces.workload import Workload
from simulator.outage_report import OutageReport
from simulator.simulate import Prediction, RoleUse
from simulator.world import Setting

INTERVAL_NAMES = {
    "total_tokens_per_s_per_gpu": "tok/s/GPU, total",
    "output_tokens_per_s_per_gpu": "tok/s/GPU, output",
    "tokens_per_s_per_user": "tok/s per user",
    "median_tpot_ms": "median TPOT ms",
    "median_ttft_ms": "median TTFT ms",
}
SHOWN_FRACTION = 0.0005
"""Smaller shares of blocked time round to 0.0 % and are left out."""


def prediction_text(prediction: Prediction, setting: Setting) -> str:
    """The whole report; the same for equal inputs, so without the time it took."""
    parts = [
        _head(setting),
        _headline(prediction),
        _latencies(prediction),
        _intervals(prediction),
        _limit(prediction),
        _stages(prediction),
        _roles(prediction.roles),
        *_breakdown(prediction),
        *_ceiling(prediction),
    ]
    if prediction.outage:
        parts.insert(4, outage_text(prediction.outage))
    parts = [part for part in parts if part]
    if prediction.warnings:
        parts.append("Warnings\n" + "\n".join(f"  - {text}" for text in prediction.warnings))
    return "\n\n".join(parts)


def _head(setting: Setting) -> str:
    recipe, load, stack = setting.recipe, setting.workload, setting.stack
    rows = [
        ("recipe", f"{recipe.name}: {recipe.topology}, {recipe.num_gpus} GPUs"),
        ("serves", f"{recipe.model} on {_platform(setting)}"),
        ("load", f"{_load(load)}, seed {setting.seed}"),
        ("stack", f"{stack.name} (SGLang {stack.version}), {_costs(setting)}"),
    ]
    return table(rows, indent=0)


def _load(load: Workload) -> str:
    """What is asked: lengths, arrivals, sessions and what prompts share."""
    if load.trace is not None:
        return (
            f"{load.measured_requests} requests of the {load.trace.format} trace {load.trace.path} at "
            f"x{load.trace.rate_scale:g}, mean {load.mean_isl:.0f}/{load.mean_osl:.0f} tokens"
        )
    text = (
        f"{load.isl}/{load.osl} tokens x [{load.random_range_ratio:g}, 1], concurrency "
        f"{load.concurrency}, {load.measured_requests} {load.prompts} prompts"
    )
    if load.request_rate is not None:
        text += f", {load.request_rate:g} arrivals/s (Gamma shape {load.burstiness:g})"
    if load.turns > 1:
        text += f", {load.turns} turns of +{load.later_turn_tokens} tokens after {load.think_s:g} s"
    if load.shared_prefix_tokens:
        text += f", {load.shared_prefix_tokens} tokens shared in {load.prefix_groups} groups"
    if load.reused_prompts:
        text += f", {load.reused_prompts} of them sent before"
    return text


def _platform(setting: Setting) -> str:
    if setting.hardware is None:
        return setting.recipe.hardware
    return f"{setting.hardware.name} ({setting.hardware.gpu})"


def _costs(setting: Setting) -> str:
    """Where step times come from."""
    if setting.steps is not None:
        return f"steps measured on {setting.steps.measured_on} ({setting.steps.name})"
    return f"calibration {setting.calibration.name}"


def _headline(prediction: Prediction) -> str:
    metrics = prediction.metrics
    rows = [
        ("total tok/s/GPU", number(metrics["total_tokens_per_s_per_gpu"])),
        ("output tok/s/GPU", number(metrics["output_tokens_per_s_per_gpu"])),
        ("tok/s/user", number(metrics["tokens_per_s_per_user"])),
        ("requests/s", number(metrics["requests_per_s"])),
    ]
    return "Throughput\n" + table(rows)


def _latencies(prediction: Prediction) -> str:
    kinds = ("median", "mean", "p90", "p99")
    rows = [
        (name.upper(), *(number(prediction.metrics[f"{kind}_{name}_ms"]) for kind in kinds))
        for name in ("ttft", "tpot", "e2e")
    ]
    return "Latency\n" + table(rows, ("ms", *kinds))


def _intervals(prediction: Prediction) -> str:
    """80 % intervals, and what parameters and seeds alone contribute; empty without error bands."""
    if not prediction.intervals:
        return ""
    rows = []
    for name, interval in prediction.intervals.items():
        spread = prediction.spread.get(name)
        rows.append(
            (
                INTERVAL_NAMES[name],
                f"{number(interval.low)} to {number(interval.high)}",
                "-" if spread is None else f"+-{percent(spread.parameters)}",
                "-" if spread is None else f"+-{percent(spread.seeds)}",
            )
        )
    header = ("four in five such deployments measure", "80 %", "parameters alone", "seeds alone")
    return "Intervals, from errors on points that the fit had not seen\n" + table(rows, header)


def _limit(prediction: Prediction) -> str:
    text = f"Limit: {prediction.limit}"
    if not prediction.gains:
        return text
    ordered = sorted(prediction.gains.items(), key=lambda item: -item[1])
    rows = [(name, percent(gain, signed=True)) for name, gain in ordered]
    return f"{text}\n" + table(rows, ("a tenth more of (noise of one run: 2 %)", "tok/s/GPU"))


def outage_text(report: OutageReport) -> str:
    """Phases of a run in which workers died, and how long the queue took."""
    rows = [
        (
            phase.name,
            f"{phase.begin_s:.1f}-{phase.end_s:.1f}",
            str(phase.sent),
            number(phase.total_tokens_per_s_per_gpu),
            "-" if phase.median_ttft_ms is None else number(phase.median_ttft_ms),
            "-" if phase.p99_ttft_ms is None else number(phase.p99_ttft_ms),
            number(phase.mean_queue),
        )
        for phase in report.phases
    ]
    header = ("phase", "seconds", "sent", "tok/s/GPU", "TTFT ms", "p99 TTFT ms", "mean queue")
    back = "not by the last send" if report.recovery_s is None else f"after {report.recovery_s:.1f} s"
    lost = ", ".join(f"{o.role}:{o.worker}@{o.at_s:g}" for o in report.outages)
    return (
        f"Outage of {lost}: {report.resent} requests sent again; the queue for a first token peaks at "
        f"{report.queue_peak:.0f} and is back at {report.queue_before:.0f} {back}\n" + table(rows, header)
    )


def _stages(prediction: Prediction) -> str:
    total = sum(prediction.stages_ms.values()) or 1.0
    rows = [(name, number(ms), percent(ms / total)) for name, ms in prediction.stages_ms.items()]
    return "Where a request's time goes\n" + table(rows, ("stage", "mean ms", "share"))


def _roles(roles: list[RoleUse]) -> str:
    rows = []
    for use in roles:
        blocked = [f"{n} {percent(s)}" for n, s in use.blocked_fraction.items() if s >= SHOWN_FRACTION]
        rows.append(
            (
                use.role,
                percent(use.prefill_busy_fraction) if use.mean_prefill_tokens_per_rank else "-",
                percent(use.decode_busy_fraction) if use.mean_batch_per_rank else "-",
                number(use.mean_batch_per_rank) if use.mean_batch_per_rank else "-",
                number(use.largest_batch_per_rank) if use.mean_batch_per_rank else "-",
                number(use.mean_context_tokens) if use.mean_batch_per_rank else "-",
                number(use.mean_prefill_tokens_per_rank) if use.mean_prefill_tokens_per_rank else "-",
                percent(use.idle_rank_fraction) if use.mean_prefill_tokens_per_rank else "-",
                percent(use.prefix_hit_fraction) if use.prefix_hit_fraction else "-",
                ", ".join(blocked) or "-",
            )
        )
    header = (
        "role", "prefilling", "decoding", "batch/rank", "largest", "context", "prefill tok/rank", "idle",
        "cached", "queue waits for",
    )  # fmt: skip
    return "Roles (means over the run)\n" + table(rows, header)


def _breakdown(prediction: Prediction) -> list[str]:
    found = []
    for step, parts in prediction.breakdown.items():
        role, _, kind = step.partition(" ")
        seconds = {name: float(part["seconds"]) for name, part in parts.items()}
        total = sum(seconds.values())
        if not total:
            continue
        rows = [
            (
                name.replace("_", " "),
                number(MS_PER_S * seconds[name]),
                percent(seconds[name] / total),
                str(part["source"]),
            )
            for name, part in sorted(parts.items(), key=lambda item: -seconds[item[0]])
        ]
        title = kind if kind.startswith(role) else f"{role} {kind}"
        found.append(
            f"Mean {title}: {number(MS_PER_S * total)} ms of GPU time\n"
            + table(rows, ("component", "ms", "share", "source"))
        )
    return found


def _ceiling(prediction: Prediction) -> list[str]:
    if prediction.ceiling_fraction is None:
        return []
    highest = prediction.metrics["total_tokens_per_s_per_gpu"] / prediction.ceiling_fraction
    rows = [(name, percent(share)) for name, share in prediction.ceiling_split.items()]
    return [
        f"Ceiling: {percent(prediction.ceiling_fraction)} of the {number(highest)} tok/s/GPU that the "
        "platform's FLOPs allow\n" + table(rows, ("time at the ceiling", "share"))
    ]
