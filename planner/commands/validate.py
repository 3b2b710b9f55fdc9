"""`servecast validate`: how far predictions are from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from planner.options import cache_option, calibration_option, evaluations_option, example, json_option

EXAMPLE = example(
    "Example: fail unless every gb300 lane is within 10 %",
    "  servecast validate points.yaml --only 'gb300-*' --max-error 10",
    "",
    "Example: accuracy on points that the fit had not seen, as a page with a picture",
    "  servecast validate points.yaml --cross-validate --page docs/accuracy.md",
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
@click.option(
    "--cross-validate", is_flag=True,
    help="Predict each point by a fit that saw neither it nor its siblings, and check the targets.",
)  # fmt: skip
@click.option(
    "--folds", type=click.IntRange(min=2), default=10, show_default=True,
    help="Folds of points that share source and topology, or deployment.",
)  # fmt: skip
@evaluations_option
@click.option(
    "--relinearise", type=click.IntRange(min=0), default=0, show_default=True,
    help="New derivatives per refit; each costs some sixty simulations of every point.",
)  # fmt: skip
@click.option("--page", metavar="FILE.md", help="Write the cross-validation as a page with a parity plot.")
@click.option("--out", metavar="FILE", help="Write the result as JSON.")
@cache_option
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@json_option
def command(**options: Any) -> None:
    """Simulate measured points and print errors per point and per lane.

    A lane is <hardware>-<disagg|agg>-<pro|flash>-<mtp|dspark|nomtp>. Points that cannot be compared are
    listed with the reason. An error is predicted / measured - 1.

    With --cross-validate every error is out of fold: folds keep siblings together, and each platform is
    also held out as a whole. Simulations are kept in a folder, so that Ctrl-C loses nothing.
    """
    from engine_adapter.points import load_points
    from planner.validation import only_lanes
    from search_spaces.errors import BadInput

    if options["page"] and not options["cross_validate"]:
        raise BadInput(f"page={options['page']!r} shows a cross-validation; add --cross-validate")
    chosen = load_points(options["points"])
    if options["only"] is not None:
        chosen = only_lanes(chosen, options["only"])
    if options["cross_validate"]:
        _cross_validate(chosen, options)
    else:
        _validate(chosen, options)


def _validate(chosen: list[Any], options: dict[str, Any]) -> None:
    from tqdm import tqdm

    from planner.validation import check_tolerance, report, simulate_all
    from planner.validation_text import validation_text
    from simulator.calibration import load_calibration

    fitted = load_calibration(options["calibration"])
    with tqdm(desc="validate", unit="setting", leave=False, disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        outcomes = simulate_all(chosen, fitted, options["workers"], advance)
    found = report(chosen, outcomes, fitted)
    _print(found.model_dump_json(indent=2), validation_text(found), options)
    spent = sum(outcome.wall_s or 0.0 for outcome in outcomes.values())
    click.echo(f"simulated {len(outcomes)} settings in {spent:.1f} s of processor time", err=True)
    if options["max_error"] is not None:
        check_tolerance(found, options["max_error"])


def _cross_validate(chosen: list[Any], options: dict[str, Any]) -> None:
    from planner.accuracy import accuracy, check_lanes
    from planner.accuracy_text import accuracy_text
    from planner.cross_validation import cross_validate, split_of
    from planner.file_writer import write_files
    from planner.progress import stages
    from planner.simulation_cache import SimulationCache, default_folder
    from planner.validation import num_cores
    from simulator.calibration import load_calibration

    folder = Path(options["cache"]) if options["cache"] else default_folder()
    cache = SimulationCache(folder, options["workers"] or num_cores())
    with stages("cross-validate", folder) as on_stage:
        split = split_of(chosen, load_calibration(options["calibration"]), cache, on_stage)
        found = cross_validate(
            split, cache, options["folds"], options["evaluations"], options["relinearise"], on_stage
        )
    tables = accuracy(found)
    document = tables.document(found)
    _print(document, accuracy_text(found, tables), options)
    click.echo(f"simulated {cache.simulated} settings, the rest was known in {folder}", err=True)
    if options["page"]:
        from planner.accuracy_page import accuracy_page

        page = Path(options["page"])
        write_files(accuracy_page(found, tables, page.stem), page.parent, force=True)
        click.echo(f"wrote {page}", err=True)
    if options["max_error"] is not None:
        check_lanes(tables, options["max_error"])


def _print(document: str, text: str, options: dict[str, Any]) -> None:
    """Text or JSON to stdout, and JSON to a file where one is named."""
    from planner.file_writer import write_files

    click.echo(document if options["as_json"] else text)
    if options["out"]:
        out = Path(options["out"])
        write_files({out.name: document + "\n"}, out.parent, force=True)
        click.echo(f"wrote {out}", err=True)
