"""`servecast validate`: how far predictions are from measurements."""

from __future__ import annotations

import click

from planner.options import calibration_option, example, json_option

EXAMPLE = example(
    "Example: fail unless every gb300 lane is within 10 %",
    "  servecast validate points.yaml --only 'gb300-*' --max-error 10",
)


@click.command("validate", epilog=EXAMPLE)
@click.argument("points", metavar="POINTS.yaml")
@calibration_option
@click.option(
    "--only", metavar="LANE", help="One lane or a pattern, such as gb300-disagg-pro-mtp or 'h200-*'."
)
@click.option(
    "--max-error", type=click.FloatRange(min=0), metavar="PCT",
    help="Exit 4 if a lane's median absolute error of tok/s/GPU is above this.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@json_option
def command(
    points: str,
    calibration: str | None,
    only: str | None,
    max_error: float | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Simulate measured points and print errors per point and per lane.

    A lane is <hardware>-<disagg|agg>-<pro|flash>-<mtp|nomtp>. Points that cannot be compared are
    listed with the reason. An error is predicted / measured - 1.
    """
    from tqdm import tqdm

    from engine_adapter.points import load_points
    from planner.validation import check_tolerance, only_lanes, report, simulate_all
    from planner.validation_text import validation_text
    from simulator.calibration import load_calibration

    fitted = load_calibration(calibration)
    chosen = load_points(points)
    if only is not None:
        chosen = only_lanes(chosen, only)
    with tqdm(desc="validate", unit="setting", leave=False, disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        outcomes = simulate_all(chosen, fitted, workers, advance)
    found = report(chosen, outcomes, fitted)
    click.echo(found.model_dump_json(indent=2) if as_json else validation_text(found))
    spent = sum(outcome.wall_s or 0.0 for outcome in outcomes.values())
    click.echo(f"simulated {len(outcomes)} settings in {spent:.1f} s of processor time", err=True)
    if max_error is not None:
        check_tolerance(found, max_error)
