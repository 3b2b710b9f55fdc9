"""`servecast calibrate`: fit the physical parameters to measured points."""

from __future__ import annotations

import click

from planner.options import example

EXAMPLE = example(
    "Example: refit to your own measurements, starting from the shipped values",
    "  servecast calibrate points.yaml --out mine.json",
)


@click.command("calibrate", epilog=EXAMPLE)
@click.argument("points", metavar="POINTS.yaml")
@click.option("--out", required=True, metavar="FILE", help="Calibration JSON to write.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="Derivative evaluations."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@click.option("--from-priors", is_flag=True, help="Start at the priors instead of the shipped calibration.")
def command(points: str, out: str, rounds: int, workers: int | None, from_priors: bool) -> None:
    """Fit host, kernel and acceptance parameters to the usable points and write a calibration file.

    Every value stays within its physical bounds. The table says what the points pin: an 80 % interval, and
    `not identifiable` where they add little to the prior.
    """
    from pathlib import Path

    from engine_adapter.points import load_points
    from planner.calibrate import calibration_json, described, fit
    from planner.file_writer import write_files
    from planner.text_table import table
    from planner.validation import num_cores
    from search_spaces.errors import MissingData
    from simulator.calibration import load_calibration

    usable = [p for p in load_points(points) if p.usable and p.measured and p.steps is None]
    if not usable:
        raise MissingData(
            f"{points}: no point can be compared with a prediction; add measured DeepSeek-V4 points"
        )

    def on_round(count: int, error: float) -> None:
        click.echo(f"round {count} of at most {rounds}: median weighted error {error:.2f}", err=True)

    found = fit(
        usable, workers or num_cores(), rounds, on_round, start=None if from_priors else load_calibration()
    )
    target = Path(out)
    write_files({target.name: calibration_json(found.calibration)}, target.parent, force=True)
    click.echo(
        table(described(found, usable), ("parameter", "value", "80 % interval", "prior", "bounds", "note"))
    )
    click.echo(f"wrote {out}", err=True)
