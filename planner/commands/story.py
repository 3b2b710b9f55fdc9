"""`servecast story`: how serving got faster between two engine builds, measured and simulated."""

from __future__ import annotations

from pathlib import Path

import click

from planner.options import cache_option, calibration_option, example

EXAMPLE = example(
    "Example: the page, with a picture per chapter beside it",
    "  servecast story points.yaml --page docs/story.md",
)


@click.command("story", epilog=EXAMPLE)
@click.argument("points", metavar="POINTS.yaml")
@click.option("--page", required=True, metavar="FILE.md", help="Page to write.")
@calibration_option
@cache_option
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
def command(points: str, page: str, calibration: str | None, cache: str | None, workers: int | None) -> None:
    """Write the published gains from the first engine build to June beside our own curves.

    Each chapter shows measured points and our predictions of them, the factor between the two eras, the
    part of recipes and of each engine optimisation in it, and what is not explained.
    """
    from tqdm import tqdm

    from engine_adapter.points import load_points
    from planner.file_writer import write_files
    from planner.simulation_cache import SimulationCache, default_folder
    from planner.story import CHAPTERS, tell
    from planner.story_page import story_page
    from planner.validation import num_cores
    from simulator.calibration import load_calibration

    loaded = load_points(points)
    fitted = load_calibration(calibration)
    store = SimulationCache(Path(cache) if cache else default_folder(), workers or num_cores())
    with tqdm(desc="story", unit="step", leave=False, disable=None) as bar:
        tellings = [tell(chapter, loaded, fitted, store, bar.update) for chapter in CHAPTERS]
    target = Path(page)
    used = [point for point in loaded if point.usable and point.measured]
    write_files(story_page(tellings, used, fitted, target.stem), target.parent, force=True)
    for telling in tellings:
        found = ", ".join(
            f"{how} {'-' if value is None else f'{value:.2f}'}" for how, value in telling.ratios.items()
        )
        click.echo(f"{telling.chapter.title}: published {telling.chapter.ratio:.2f}, {found}")
    click.echo(f"wrote {target}", err=True)
