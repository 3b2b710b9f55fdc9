"""`servecast explain`: what a recipe means before a request is sent."""

from __future__ import annotations

from typing import Any

import click

from planner.options import example, json_option, recipe_options, stack_options

EXAMPLE = example(
    "Example: which pool runs out first when prompts are long?",
    "  servecast explain --recipe disagg-gb300-10p1d-dep4-dep32-18-c2500 --isl 65536 --osl 2048",
)


@click.command("explain", epilog=EXAMPLE)
@recipe_options
@stack_options
@json_option
def command(**options: Any) -> None:
    """Show the memory of each rank, its limits, what the engine overrides and what runs out first.

    Nothing is simulated. RECIPE is what `servecast simulate` takes. Broken laws are listed, not refused; a
    role whose memory does not fit ends with exit code 3.
    """
    from planner.explanation import explain
    from planner.explanation_text import explanation_text
    from planner.recipe_source import LoadOptions, find_recipe, stack_for, stack_note, workload_for
    from search_spaces import catalog_loader
    from simulator.calibration import load_calibration

    chosen = options["stack"]
    loaded = find_recipe(
        options["recipe"],
        hardware=options["hardware"],
        model=options["model"],
        engine_version=catalog_loader.stack(chosen).version if chosen else None,
        concurrency=options["concurrency"],
    )
    recipe = loaded.recipe
    load = workload_for(
        loaded, LoadOptions(**{name: options[name] for name in ("concurrency", "isl", "osl")})
    )
    stack = stack_for(recipe, chosen, options["with_"], options["without"])
    if chosen is None and (note := stack_note(recipe, stack)):
        click.echo(f"note: {note}", err=True)
    found = explain(
        recipe,
        catalog_loader.model(recipe.model),
        catalog_loader.hardware(recipe.hardware),
        stack,
        load,
        load_calibration(),
    )
    click.echo(found.model_dump_json(indent=2) if options["as_json"] else explanation_text(found))
