"""`servecast report`: the results of a plan as one page for a browser."""

from __future__ import annotations

from typing import Any

import click

from planner.options import example

EXAMPLE = example(
    "Example: a page to send around, from a finished plan",
    "  servecast report plan-gb300 --out plan-gb300.html",
    "Example: the same of a fleet",
    "  servecast size --model deepseek-ai/DeepSeek-V4-Pro --hardware gb300 --request-rate 40 \\",
    "      --slo ttft.p90=3000 --json > fleet.json",
    "  servecast report fleet.json --out fleet.html",
)


@click.command("report", epilog=EXAMPLE)
@click.argument("run", metavar="RUN_DIR|FILE.json")
@click.option(
    "--out", required=True, metavar="FILE.html", type=click.Path(dir_okay=False),
    help="Page to write, in place of one that is there.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
def command(run: str, out: str, workers: int | None) -> None:
    """Write one self-contained page about a finished plan, or about what a command printed with --json.

    RUN_DIR is the folder that `servecast plan` wrote; FILE.json what whatif, size, compare or autoscale
    printed. Their figures are taken as they are; what they do not hold (where time goes, what relieving a
    limit gives) is simulated with the catalog that is installed.
    """
    from pathlib import Path

    from planner.capacity_report import read_result
    from planner.file_writer import check_file
    from planner.plan_files import read_plan

    check_file(Path(out), "out")
    if Path(run).is_file():
        write_result_report(read_result(Path(run)), out, workers)
        return
    result, asked = read_plan(Path(run))
    write_plan_report(result, asked, Path(out), workers)


def write_plan_report(result: Any, asked: str, file: Any, workers: int | None) -> None:
    """Build the page of a `PlanResult`, with a progress bar where stderr is a terminal, and write it.

    Args:
        result: the plan.
        asked: command line that gives it.
        file: path of the page.
        workers: processes; None takes all cores.
    """
    import os

    from tqdm import tqdm

    from planner.file_writer import write_file
    from planner.html_report import html_page
    from planner.report_data import plan_report

    with tqdm(desc="report", unit="recipe", leave=False, disable=None, total=len(result.table.rows)) as bar:
        data = plan_report(
            result, asked, workers or os.cpu_count() or 1, lambda done: bar.update(done - bar.n)
        )
    write_file(html_page(data), file, "report")
    click.echo(f"wrote {file}", err=True)


def check_report(file: str | None) -> None:
    """Refuse early a page that could not be written; raises as `check_file` does."""
    from pathlib import Path

    from planner.file_writer import check_file

    if file:
        check_file(Path(file), "report")


def write_result_report(result: Any, file: str | None, workers: int | None) -> None:
    """Write the page of a what-if, a sizing, a comparison or a day, where one is wanted.

    Args:
        result: what the command found.
        file: path of the page; None writes none.
        workers: processes; None takes all cores.
    """
    from pathlib import Path

    from planner.capacity_report import result_report
    from planner.file_writer import write_file
    from planner.html_report import html_page

    if file:
        write_file(html_page(result_report(result, workers)), Path(file), "report")
        click.echo(f"wrote {file}", err=True)
