"""`servecast waterfall`: the contribution of each engine optimisation to one recipe."""

from __future__ import annotations

from typing import Any

import click

from planner.options import calibration_option, example, json_option, recipe_options

EXAMPLE = example(
    "Example: what made the difference between the first build and June?",
    "  servecast waterfall --recipe disagg-gb300-14p1d-dep4-dep16-18-c8192 --from day0 --to june",
)


@click.command("waterfall", epilog=EXAMPLE)
@recipe_options
@click.option(
    "--from", "start", default="day0", show_default=True, metavar="STACK", help="Stack to begin with."
)
@click.option("--to", "end", default="june", show_default=True, metavar="STACK", help="Stack to arrive at.")
@calibration_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the chart (PNG and SVG).")
@json_option
def command(**options: Any) -> None:
    """Turn the optimisations between two stacks on one by one, and each off alone, and simulate.

    The recipe stays the same; only the engine build changes.
    """
    from pathlib import Path

    from planner.file_writer import write_files
    from planner.recipe_source import LoadOptions, find_recipe, workload_for
    from planner.waterfall import waterfall
    from planner.waterfall_text import waterfall_text
    from search_spaces import catalog_loader
    from simulator.calibration import load_calibration
    from simulator.world import Setting

    loaded = find_recipe(
        options["recipe"],
        hardware=options["hardware"],
        model=options["model"],
        concurrency=options["concurrency"],
    )
    load = LoadOptions(**{name: options[name] for name in ("concurrency", "isl", "osl")})
    start, end = catalog_loader.stack(options["start"]), catalog_loader.stack(options["end"])
    setting = Setting(
        loaded.recipe,
        workload_for(loaded, load),
        catalog_loader.model(loaded.recipe.model),
        catalog_loader.hardware(loaded.recipe.hardware),
        end,
        load_calibration(options["calibration"]),
        options["seed"],
    )
    found = waterfall(setting, start, end)
    if options["out"]:
        from planner.report import waterfall_picture

        write_files(waterfall_picture(found), Path(options["out"]), force=True)
        click.echo(f"wrote {options['out']}", err=True)
    click.echo(found.model_dump_json(indent=2) if options["as_json"] else waterfall_text(found))
