"""`servecast dispatch`: ask a dispatch table."""

from __future__ import annotations

import click

from planner.options import example, json_option

EXAMPLE = example(
    "Example: what serves 3400 requests in flight, and when row 2 serves now?",
    "  servecast dispatch lookup plan-gb300/dispatch.json 3400",
    "  servecast dispatch lookup plan-gb300/dispatch.json 3400 --serving 2",
)


@click.group("dispatch", epilog=EXAMPLE)
def command() -> None:
    """Use the dispatch tables that `servecast plan` writes."""


@command.command("lookup", epilog=EXAMPLE)
@click.argument("table", metavar="TABLE")
@click.argument("concurrency", type=click.IntRange(min=1))
@click.option(
    "--serving", type=click.IntRange(min=0), metavar="ROW",
    help="Row that serves now, from 0; it is kept within its hysteresis.",
)  # fmt: skip
@json_option
def lookup(table: str, concurrency: int, serving: int | None, as_json: bool) -> None:
    """Say which recipe serves CONCURRENCY, its limits, and the expected TTFT and TPOT.

    The same answer comes from the single file search_spaces/dispatch_lookup.py, which needs no package.
    """
    import json

    from planner.exporting import load_table
    from search_spaces.dispatch_lookup import Table, TableError, answer, answer_text
    from search_spaces.errors import BadInput

    found = load_table(table)
    if serving is not None and serving >= len(found.rows):
        raise BadInput(f"serving={serving} is no row; the table has rows 0 to {len(found.rows) - 1}")
    try:
        told = answer(Table(found.model_dump(mode="json"), table), concurrency, serving)
    except TableError as error:
        raise BadInput(str(error)) from None
    click.echo(json.dumps(told, indent=1) if as_json else answer_text(told))
