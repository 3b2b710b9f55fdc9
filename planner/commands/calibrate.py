"""`servecast calibrate`: fit the physical parameters to measured points, and say how surely."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from planner.options import cache_option, calibration_option, evaluations_option, example

EXAMPLE = example(
    "Example: refit to your own measurements, starting from the shipped values",
    "  servecast calibrate points.yaml --out mine.json",
    "",
    "Example: keep the shipped values and say how certain they are",
    "  servecast calibrate points.yaml --only-uncertainty --out mine.json",
)


@click.command("calibrate", epilog=EXAMPLE)
@click.argument("points", metavar="POINTS.yaml")
@click.option("--out", required=True, metavar="FILE", help="Calibration JSON to write.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="Derivative evaluations."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@click.option("--from-priors", is_flag=True, help="Start at the priors instead of a calibration.")
@click.option(
    "--only-uncertainty", is_flag=True, help="Keep the values; work out posterior and error bands alone."
)
@click.option(
    "--leave-out", multiple=True, metavar="ID", help="Points that the fit must not use, by id or pattern."
)
@click.option(
    "--bands/--no-bands", default=True, show_default=True,
    help="Cross-validate, for the 80 % intervals of predictions.",
)  # fmt: skip
@click.option("--folds", type=click.IntRange(min=2), default=10, show_default=True, help="Of those.")
@evaluations_option
@calibration_option
@cache_option
def command(**options: Any) -> None:
    """Fit host, kernel and acceptance parameters to the usable points and write a calibration file.

    Every value stays within its physical bounds. The table says what the points pin, through which lanes,
    with an 80 % interval, and `not identifiable` where they add little to the prior. The file also keeps
    the posterior and the error bands that intervals of predictions come from.
    """
    from engine_adapter.points import load_points
    from planner.calibrate import calibration_json
    from planner.file_writer import write_files
    from planner.posterior import HEADER, described
    from planner.text_table import table
    from simulator.calibration import load_calibration

    points = load_points(options["points"])
    start = load_calibration(options["calibration"])
    left_out = _left_out(points, options["leave_out"]) or list(start.left_out)
    start = start.model_copy(update={"left_out": tuple(left_out)})
    fitted = start if options["only_uncertainty"] else _fit(points, start, options)
    found = _with_uncertainty(points, fitted, options)
    target = Path(options["out"])
    write_files({target.name: calibration_json(found)}, target.parent, force=True)
    assert found.posterior is not None
    click.echo(table(described(found, found.posterior), HEADER))
    click.echo(f"wrote {target}", err=True)


def _left_out(points: list[Any], patterns: tuple[str, ...]) -> list[str]:
    """Ids that match; raises `BadInput` for a pattern without any."""
    import fnmatch

    from search_spaces.errors import BadInput

    found: set[str] = set()
    for pattern in patterns:
        ids = fnmatch.filter([point.id for point in points if point.usable], pattern)
        if not ids:
            raise BadInput(f"leave_out={pattern!r} matches no usable point; check its id")
        found |= set(ids)
    return sorted(found)


def _fit(points: list[Any], start: Any, options: dict[str, Any]) -> Any:
    """The calibration fitted to all points but those left out."""
    from planner.calibrate import fitted_to, parameters
    from planner.cross_validation import comparable
    from planner.linear_fit import at_priors, host_of
    from planner.refit import fitted
    from search_spaces.errors import MissingData

    usable = [p for p in comparable(points) if p.id not in start.left_out]
    if not usable:
        raise MissingData(
            f"{options['points']}: no point can be compared with a prediction; add measured points"
        )
    if options["from_priors"]:
        start = at_priors(start, parameters(sorted({host_of(p) for p in usable})))

    def on_round(count: int, before: float, after: float) -> None:
        click.echo(
            f"round {count} of at most {options['rounds']}: robust cost {before:.1f} to {after:.1f}", err=True
        )

    with _stages(options) as (cache, on_stage):
        found = fitted(
            usable,
            start,
            cache,
            options["rounds"],
            on_done=lambda done, total: on_stage("fit", done, total),
            on_round=on_round,
        )
    return found.calibration.model_copy(update={"data": fitted_to(usable)})


@contextmanager
def _stages(options: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The cache of simulations, and a progress callback."""
    from planner.progress import stages
    from planner.simulation_cache import SimulationCache, default_folder
    from planner.validation import num_cores

    folder = Path(options["cache"]) if options["cache"] else default_folder()
    cache = SimulationCache(folder, options["workers"] or num_cores())
    with stages("calibrate", folder) as on_stage:
        yield cache, on_stage


def _with_uncertainty(points: list[Any], fitted: Any, options: dict[str, Any]) -> Any:
    """The calibration with its posterior, and with error bands where they are wanted."""
    from planner.cross_validation import cross_validate, split_of
    from planner.error_bands import error_bands
    from planner.posterior import posterior

    bands = None
    with _stages(options) as (cache, on_stage):
        split = split_of(points, fitted, cache, on_stage)
        if options["bands"]:
            found = cross_validate(split, cache, options["folds"], options["evaluations"], on_stage=on_stage)
            data = (
                f"{len(found.points)} points in {options['folds']} folds of {found.num_groups} groups, "
                f"and by platform; digest of points {found.points_digest}, of the simulator "
                f"{found.source_digest}"
            )
            bands = error_bands(found.points, found.platforms, data)
    return fitted.model_copy(update={"posterior": posterior(split.fit), "error_bands": bands})
