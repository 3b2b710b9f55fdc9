"""`servecast compare`: platforms side by side."""

from __future__ import annotations

from typing import Any

import click

from planner.options import calibration_option, counts_of, example, json_option, names_of, report_option

EXAMPLE = example(
    "Example: which platform serves DeepSeek-V4-Pro cheapest at which speed?",
    "  servecast compare --model deepseek-ai/DeepSeek-V4-Pro --hardware gb300,gb200,b300,b200,h200 \\",
    "      --out compare",
)


@click.command("compare", epilog=EXAMPLE)
@click.option("--model", required=True, metavar="NAME", help="Model, such as deepseek-ai/DeepSeek-V4-Pro.")
@click.option(
    "--hardware", required=True, multiple=True, callback=names_of, metavar="NAME[,..]", help="Platforms."
)
@click.option("--isl", type=int, default=8192, show_default=True, help="Nominal input tokens.")
@click.option("--osl", type=int, default=1024, show_default=True, help="Nominal output tokens.")
@click.option(
    "--random-range-ratio", type=float, default=0.8, show_default=True, help="Shortest length over nominal."
)
@click.option(
    "--concurrency", "concurrencies", multiple=True, callback=counts_of, metavar="N[,..]",
    help="Loads of one deployment.  [4,32,256,2048]",
)  # fmt: skip
@click.option("--num-gpus", type=int, default=72, show_default=True, help="Most GPUs of one deployment.")
@click.option("--max-ttft-ms", type=float, metavar="MS", help="Limit on median TTFT.")
@click.option("--min-tok-s-user", type=float, metavar="N", help="Least tokens/s per user.")
@click.option(
    "--price", "prices", multiple=True, metavar="NAME=USD", help="Price per GPU-hour of a platform."
)
@click.option("--members", type=int, default=8, show_default=True, help="Simulated points per platform.")
@click.option("--mtp/--no-mtp", default=True, show_default=True, help="Whether drafting may be used.")
@click.option("--stack", default="june", show_default=True, metavar="NAME", help="Engine build.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the picture (PNG and SVG).")
@calibration_option
@report_option
@json_option
def command(**options: Any) -> None:
    """Find the Pareto front of each platform and put throughput, speed and cost side by side."""
    from pathlib import Path

    from planner.command_line import command_line
    from planner.commands.report import check_report, write_result_report
    from planner.comparing import DEFAULT_LOADS, CompareRequest, compare
    from planner.comparing_text import compare_pictures, compare_text
    from planner.file_writer import write_files
    from planner.sizing_source import prices_of

    check_report(options["report"])
    same = (
        "model", "hardware", "isl", "osl", "random_range_ratio", "num_gpus", "members", "mtp", "stack",
        "seed", "calibration",
    )  # fmt: skip
    data = {name: options[name] for name in same} | {"prices": prices_of(options["prices"])}
    data["concurrencies"] = options["concurrencies"] or DEFAULT_LOADS
    data["slo"] = {
        "max_median_ttft_ms": options["max_ttft_ms"],
        "min_tokens_per_s_per_user": options["min_tok_s_user"],
    }
    found = compare(CompareRequest.parse(data, "compare"), options["workers"])
    found = found.model_copy(update={"command": command_line(command, options)})
    if options["out"]:
        write_files(compare_pictures(found), Path(options["out"]), force=True)
        click.echo(f"wrote {options['out']}", err=True)
    click.echo(found.model_dump_json(indent=2) if options["as_json"] else compare_text(found))
    write_result_report(found, options["report"], options["workers"])
