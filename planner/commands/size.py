"""`servecast size`: GPUs for given traffic and promises."""

from __future__ import annotations

from typing import Any

import click

from planner.options import calibration_option, example, json_option, names_of, report_option

EXAMPLE = example(
    "Example: 40 requests a second, nine of ten answered within 3 s and at 25 tokens a second",
    "  servecast size --model deepseek-ai/DeepSeek-V4-Pro --hardware gb300,b300 --request-rate 40 \\",
    "      --slo ttft.p90=3000 --slo tpot.p90=40",
    "Example: people who read for half a minute, twice as many next year, and a day's swing",
    "  servecast size --model deepseek-ai/DeepSeek-V4-Flash --hardware gb300 --users 20000 --think-s 30 \\",
    "      --growth 1,2 --trough 0.3 --slo ttft.p95=2000 --goodput 0.9",
)


@click.command("size", epilog=EXAMPLE)
@click.option("--model", required=True, metavar="NAME", help="Model, such as deepseek-ai/DeepSeek-V4-Pro.")
@click.option(
    "--hardware", required=True, multiple=True, callback=names_of, metavar="NAME[,..]",
    help="Platforms to choose from.",
)  # fmt: skip
@click.option("--request-rate", type=float, metavar="PER_S", help="Arrivals per second at the peak.")
@click.option("--users", type=float, metavar="N", help="People instead: each asks, reads and asks again.")
@click.option(
    "--think-s", type=float, default=0.0, show_default=True, help="Pause of a user between requests."
)
@click.option("--isl", type=int, default=8192, show_default=True, help="Nominal input tokens.")
@click.option("--osl", type=int, default=1024, show_default=True, help="Nominal output tokens.")
@click.option(
    "--random-range-ratio", type=float, default=0.8, show_default=True, help="Shortest length over nominal."
)
@click.option("--burstiness", type=float, default=1.0, show_default=True, help="Gamma shape of arrivals.")
@click.option("--trace", metavar="FILE", help="Lengths and arrivals of a Mooncake or Azure trace.")
@click.option(
    "--growth", default="1", show_default=True, metavar="X[,..]", help="Multiples of the peak to plan for."
)
@click.option("--profile", metavar="FILE", help="CSV of a day: time_s,requests_per_s; its peak is the rate.")
@click.option(
    "--trough", type=float, metavar="SHARE", help="A day by formula: its lowest load over the peak."
)
@click.option(
    "--slo", "goals", multiple=True, metavar="METRIC.pNN=MS",
    help="Promise: a percentile of ttft, tpot or e2e in milliseconds, such as ttft.p95=2000.",
)  # fmt: skip
@click.option(
    "--goodput", type=float, default=0.0, show_default=True,
    help="Least share of requests within the milliseconds of all promises.",
)  # fmt: skip
@click.option("--max-gpus", type=int, default=100_000, show_default=True, help="Most GPUs of the fleet.")
@click.option(
    "--deployment-gpus", type=int, default=72, show_default=True, help="Most GPUs of one deployment."
)
@click.option(
    "--spare", type=click.Choice(["none", "worker", "node", "rack"]), default="node", show_default=True,
    help="Loss that must break nothing.",
)  # fmt: skip
@click.option(
    "--price", "prices", multiple=True, metavar="NAME=USD", help="Price per GPU-hour of a platform."
)
@click.option("--mtp/--no-mtp", default=True, show_default=True, help="Whether drafting may be used.")
@click.option("--stack", default="june", show_default=True, metavar="NAME", help="Engine build.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@calibration_option
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the picture (PNG and SVG).")
@report_option
@json_option
def command(**options: Any) -> None:
    """Find the fewest GPUs that keep promises under given traffic, on each of several platforms.

    Recipes are screened by the fluid model, then simulated with open-loop arrivals; one deployment is
    repeated as often as needed. The losses of a worker and of a node are simulated too.
    """
    from pathlib import Path

    from planner.command_line import command_line
    from planner.commands.report import check_report, write_result_report
    from planner.file_writer import write_files
    from planner.sizing import size
    from planner.sizing_picture import size_pictures
    from planner.sizing_source import size_request
    from planner.sizing_text import size_text

    check_report(options["report"])
    request = size_request(options)
    result = size(request, options["workers"], lambda label: click.echo(f"{label} ...", err=True))
    result = result.model_copy(update={"command": command_line(command, options)})
    if options["out"]:
        write_files(size_pictures(result), Path(options["out"]), force=True)
        click.echo(f"wrote {options['out']}", err=True)
    click.echo(result.model_dump_json(indent=2) if options["as_json"] else size_text(result))
    write_result_report(result, options["report"], options["workers"])
