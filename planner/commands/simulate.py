"""`servecast simulate`: one recipe, one load, one prediction."""

from __future__ import annotations

from typing import Any

import click

from planner.options import (
    calibration_option,
    example,
    json_option,
    recipe_options,
    report_option,
    stack_options,
    traffic_options,
)

EXAMPLE = example(
    "Example: a public recipe at twice its load, without one optimisation",
    "  servecast simulate --recipe disagg-high-conc-6p1d-dep4-dep8-mtp --concurrency 4096 \\",
    "      --without swa_budget",
)


@click.command("simulate", epilog=EXAMPLE)
@recipe_options
@traffic_options
@stack_options
@calibration_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all random draws."
)
@click.option(
    "--explain/--no-explain", default=True, show_default=True,
    help="Rerun with each resource relieved by a tenth, and break steps into components.",
)  # fmt: skip
@click.option(
    "--draws", type=click.IntRange(min=0), metavar="N",
    help="Posterior draws, and seeds, to simulate for the spread.  [what takes about 3 s, at most 4]",
)  # fmt: skip
@click.option(
    "--outage", "outages", multiple=True, metavar="ROLE[:N]@S[+S]",
    help="A worker dies, such as decode:0@60+120: the first decode worker after 60 s, back 120 s later; "
    "/migrate at the end keeps the tokens that are out.",
)  # fmt: skip
@report_option
@json_option
def command(**options: Any) -> None:
    """Predict throughput and latency of one recipe under one load, and say what limits it.

    RECIPE is a Servecast YAML, an srt-slurm YAML (with :SELECTOR for one of its overrides) or a shell
    script with SGLang commands; or the name of a public recipe, also written catalog:NAME.
    """
    from pathlib import Path

    from planner.file_writer import check_file
    from planner.prediction_text import prediction_text
    from planner.setting_source import setting_from

    if options["report"]:
        check_file(Path(options["report"]), "report")
    setting, notes = setting_from(options)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    prediction = _predict(setting, options["explain"], options["draws"])
    if options["report"]:
        _write_report(setting, prediction, options)
    if options["as_json"]:
        click.echo(prediction.model_dump_json(indent=2))
    else:
        click.echo(prediction_text(prediction, setting))
        click.echo(f"simulated in {prediction.wall_s:.1f} s of processor time", err=True)


def _predict(setting: Any, explain: bool, draws: int | None) -> Any:
    """Predict with a progress bar where stderr is a terminal."""
    from tqdm import tqdm

    from planner.spread import default_draws, with_spread
    from simulator.simulate import predict

    with tqdm(total=100, unit="%", desc="simulate", leave=False, disable=None) as bar:
        found = predict(setting, explain, lambda share: bar.update(int(100 * share) - bar.n))
    return with_spread(found, setting, default_draws(setting) if draws is None else draws)


def _write_report(setting: Any, prediction: Any, options: dict[str, Any]) -> None:
    from pathlib import Path

    from planner.command_line import command_line
    from planner.file_writer import write_file
    from planner.html_report import html_page
    from planner.report_data import prediction_report

    data = prediction_report(setting, prediction, command_line(command, options))
    write_file(html_page(data), Path(options["report"]), "report")
    click.echo(f"wrote {options['report']}", err=True)
