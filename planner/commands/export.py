"""`servecast export`: recipes as files that an engine or a scheduler starts."""

from __future__ import annotations

import click

from planner.options import counts_of, example

FORMATS = ("srt-slurm", "sglang", "servecast")
ENGINE_VERSIONS = ("0.5.15", "0.5.23")


EXAMPLE = example(
    "Example: launch scripts of a public recipe for SGLang 0.5.23",
    "  servecast export --recipe disagg-high-conc-6p1d-dep4-dep8-mtp --format sglang --out launch \\",
    "      --engine-version 0.5.23",
)


@click.command("export", epilog=EXAMPLE)
@click.option("--recipe", metavar="FILE[:SELECTOR]", help="Recipe file, or a public recipe's name.")
@click.option("--table", metavar="FILE.json", help="Dispatch table of `servecast plan`, instead of --recipe.")
@click.option("--format", "fmt", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option(
    "--engine-version", type=click.Choice(ENGINE_VERSIONS), default=ENGINE_VERSIONS[0], show_default=True,
    help="SGLang release whose flags are written.",
)  # fmt: skip
@click.option("--out", required=True, metavar="DIR", help="Folder to write to; made where absent.")
@click.option(
    "--concurrency",
    multiple=True,
    callback=counts_of,
    metavar="N[,..]",
    help="Loads to benchmark at, with --recipe.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
def command(
    recipe: str | None, table: str | None, fmt: str, engine_version: str, out: str,
    concurrency: tuple[int, ...], force: bool,
) -> None:  # fmt: skip
    """Write a recipe, or every row of a dispatch table, in the form an operator starts.

    What is written is read back and compared first. Rows of a table go to one folder each, named
    after their range of concurrency. All files appear, or none.
    """
    from pathlib import Path

    from planner.exporting import export_recipe, export_table, load_table
    from planner.file_writer import write_files

    if (recipe is None) == (table is None):
        raise click.UsageError("Give either --recipe or --table.")
    if table is not None and concurrency:
        raise click.UsageError("--concurrency goes with --recipe; rows of a table have their own.")
    if recipe is not None:
        files, notes = export_recipe(recipe, fmt, engine_version, concurrency)
    else:
        files, notes = export_table(load_table(str(table)), fmt, engine_version)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    for path in write_files(files, Path(out), force):
        click.echo(str(path))
