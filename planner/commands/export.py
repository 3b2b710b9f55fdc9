"""`servecast export`: recipes as files that an engine or a scheduler starts."""

from __future__ import annotations

import click

from planner.options import counts_of, example, json_option

FORMATS = ("srt-slurm", "sglang", "sglang-nodes", "dynamo-k8s", "inferencex", "servecast")
ENGINE_VERSIONS = ("0.5.15", "0.5.23")


EXAMPLE = example(
    "Example: launch scripts of a public recipe for SGLang 0.5.23",
    "  servecast export --recipe disagg-high-conc-6p1d-dep4-dep8-mtp --format sglang --out launch \\",
    "      --engine-version 0.5.23",
    "What changes between two public recipes?",
    "  servecast export --diff disagg-mid-curve-2p1d-dep4-dep8-mtp disagg-mid-curve-4p1d-dep4-dep8-mtp",
)


@click.command("export", epilog=EXAMPLE)
@click.option("--recipe", metavar="FILE[:SELECTOR]", help="Recipe file, or a public recipe's name.")
@click.option("--table", metavar="FILE.json", help="Dispatch table of `servecast plan`, instead of --recipe.")
@click.option(
    "--diff", nargs=2, metavar="A B", help="Show what changes from recipe A to B, instead of writing."
)
@click.option("--format", "fmt", type=click.Choice(FORMATS), help="What to write.")
@click.option(
    "--one-file", is_flag=True, help="With --table and srt-slurm: one override file for the whole curve."
)
@click.option(
    "--engine-version", type=click.Choice(ENGINE_VERSIONS), default=ENGINE_VERSIONS[0], show_default=True,
    help="SGLang release whose flags are written.",
)  # fmt: skip
@click.option("--out", metavar="DIR", help="Folder to write to; made where absent.")
@click.option(
    "--concurrency",
    multiple=True,
    callback=counts_of,
    metavar="N[,..]",
    help="Loads to benchmark at, with --recipe.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@json_option
def command(
    recipe: str | None, table: str | None, diff: tuple[str, str] | None, fmt: str | None, one_file: bool,
    engine_version: str, out: str | None, concurrency: tuple[int, ...], force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a recipe, or every row of a dispatch table, in the form an operator starts.

    What is written is read back and compared first. Rows of a table go to one folder each, named
    after their range of concurrency. All files appear, or none.

    --diff shows the fields by role in which two recipes differ, and which workers that restarts.
    """
    from pathlib import Path

    from planner.diff_text import diff_text
    from planner.exporting import export_recipe, export_table, export_table_as_curve, load_table
    from planner.file_writer import write_files
    from planner.recipe_source import find_recipe
    from search_spaces.transition import transition

    if diff is not None:
        if recipe or table or out or fmt:
            raise click.UsageError("--diff stands alone; leave out --recipe, --table, --format and --out.")
        first, second = (find_recipe(name).recipe for name in diff)
        found = transition(first, second)
        click.echo(found.model_dump_json(indent=2) if as_json else diff_text(first, second, found))
        return
    if fmt is None or out is None:
        raise click.UsageError("Give --format and --out.")
    if (recipe is None) == (table is None):
        raise click.UsageError("Give either --recipe or --table.")
    if one_file and (table is None or fmt != "srt-slurm"):
        raise click.UsageError("--one-file goes with --table and --format srt-slurm.")
    if table is not None and concurrency:
        raise click.UsageError("--concurrency goes with --recipe; rows of a table have their own.")
    if recipe is not None:
        files, notes = export_recipe(recipe, fmt, engine_version, concurrency)
    elif one_file:
        files, notes = export_table_as_curve(load_table(str(table)), engine_version)
    else:
        files, notes = export_table(load_table(str(table)), fmt, engine_version)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    for path in write_files(files, Path(out), force):
        click.echo(str(path))
