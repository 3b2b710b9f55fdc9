"""`servecast autoscale`: a day of traffic against a dispatch table."""

from __future__ import annotations

from typing import Any

import click

from planner.options import calibration_option, example, json_option, report_option

EXAMPLE = example(
    "Example: the table of a plan through a day with a deep night",
    "  servecast autoscale --table plan-gb300/dispatch.json --request-rate 60 --trough 0.2 \\",
    "      --slo ttft.p90=4000 --slo tpot.p90=50 --out autoscale",
)


@click.command("autoscale", epilog=EXAMPLE)
@click.option("--table", "table_file", required=True, metavar="FILE", help="dispatch.json of a plan.")
@click.option("--request-rate", type=float, metavar="PER_S", help="Arrivals per second at the peak.")
@click.option("--profile", metavar="FILE", help="CSV of a day: time_s,requests_per_s; its peak is the rate.")
@click.option(
    "--trough", type=float, metavar="SHARE", help="A day by formula: its lowest load over the peak."
)
@click.option(
    "--slo", "goals", multiple=True, metavar="METRIC.pNN=MS",
    help="Promise: a percentile of ttft, tpot or e2e in milliseconds, such as ttft.p95=2000.",
)  # fmt: skip
@click.option(
    "--provision-s", type=float, default=600.0, show_default=True, help="Start of a deployment, seconds."
)
@click.option(
    "--decide-every-s", type=float, default=300.0, show_default=True, help="Pause between looks at the load."
)
@click.option("--hold-s", type=float, default=900.0, show_default=True, help="Wait before shrinking.")
@click.option("--margin", type=float, default=1.15, show_default=True, help="Capacity over the load at hand.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the picture (PNG and SVG).")
@calibration_option
@report_option
@json_option
def command(**options: Any) -> None:
    """Replay a day under four policies: a static fleet, its replicas scaled, the table, and an oracle.

    Starting a fleet takes time during which it is paid for and does not serve. Each recipe's service at
    rising arrival rates is simulated; the day is replayed on those curves.
    """
    from pathlib import Path

    from planner.autoscale import autoscale
    from planner.autoscale_text import autoscale_pictures, autoscale_text
    from planner.autoscale_types import AutoscaleRequest
    from planner.command_line import command_line
    from planner.commands.report import check_report, write_result_report
    from planner.exporting import load_table
    from planner.file_writer import write_files
    from planner.service_goal import parse_goal
    from planner.sizing_source import profile_of
    from search_spaces.errors import BadInput

    profile, peak = profile_of(options)
    rate = options["request_rate"] or peak
    if profile is None or rate is None:
        raise BadInput("a day is required: give --profile, or --trough with --request-rate")
    check_report(options["report"])
    same = ("provision_s", "decide_every_s", "hold_s", "margin", "seed", "calibration")
    data = {name: options[name] for name in same}
    data |= {"table": load_table(options["table_file"]), "profile": profile, "peak_rate": rate}
    data["goal"] = parse_goal(options["goals"])
    found = autoscale(AutoscaleRequest.parse(data, "autoscale"), options["workers"])
    found = found.model_copy(update={"command": command_line(command, options)})
    if options["out"]:
        write_files(autoscale_pictures(found), Path(options["out"]), force=True)
        click.echo(f"wrote {options['out']}", err=True)
    click.echo(found.model_dump_json(indent=2) if options["as_json"] else autoscale_text(found))
    write_result_report(found, options["report"], options["workers"])
