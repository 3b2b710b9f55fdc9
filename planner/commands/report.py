"""`servecast report`: the results of a plan as one page for a browser."""

from __future__ import annotations

from typing import Any

import click

from planner.options import example

EXAMPLE = example(
    "Example: a page to send around, from a finished plan",
    "  servecast report plan-gb300 --out plan-gb300.html",
)


@click.command("report", epilog=EXAMPLE)
@click.argument("run_dir", metavar="RUN_DIR")
@click.option(
    "--out", required=True, metavar="FILE.html", type=click.Path(dir_okay=False),
    help="Page to write, in place of one that is there.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
def command(run_dir: str, out: str, workers: int | None) -> None:
    """Write one self-contained page about a finished plan: front, dispatch table, memory, limits, sources.

    RUN_DIR is the folder that `servecast plan` wrote. Its figures are taken as they are; what it does not
    hold (where time goes, what relieving a limit gives) is simulated with the catalog that is installed.
    """
    from pathlib import Path

    from planner.file_writer import check_file
    from planner.plan_files import read_plan

    check_file(Path(out), "out")
    result, asked = read_plan(Path(run_dir))
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
