"""`servecast catalog`: what ships with the package."""

from __future__ import annotations

import click

from planner.options import example, json_option

KINDS = ("hardware", "models", "stacks", "recipes")


EXAMPLE = example(
    "Examples: recipes for Flash on H200; one platform with the source of each number",
    "  servecast catalog recipes --hardware h200 --model deepseek-v4-flash",
    "  servecast catalog hardware gb300",
)


@click.command("catalog", epilog=EXAMPLE)
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.argument("name", required=False)
@click.option("--hardware", metavar="NAME", help="Recipes of this platform only.")
@click.option("--model", metavar="NAME", help="Recipes of this model only.")
@json_option
def command(
    kind: str | None, name: str | None, hardware: str | None, model: str | None, as_json: bool
) -> None:
    """List platforms, models, stacks and public recipes, or show one with its sources."""
    import json

    from planner.catalog_text import entries, entry, entry_text, list_text, overview_text

    if (hardware or model) and (kind != "recipes" or name):
        raise click.UsageError("--hardware and --model filter the list `servecast catalog recipes`.")
    if kind is None:
        found = {k: list(entries(k)) for k in KINDS}
        click.echo(json.dumps(found, indent=2) if as_json else overview_text())
    elif name is not None:
        one = entry(kind, name)
        click.echo(one.model_dump_json(indent=2) if as_json else entry_text(one))
    else:
        listed = entries(kind, hardware, model)
        dumped = {n: e.model_dump(mode="json") for n, e in listed.items()} if as_json else {}
        click.echo(json.dumps(dumped, indent=2) if as_json else list_text(kind, listed))
