"""`servecast whatif`: named changes of a scenario beside its base."""

from __future__ import annotations

from typing import Any

import click

from planner.options import (
    calibration_option,
    example,
    json_option,
    recipe_options,
    report_option,
    stack_options,
    traffic_options,
)

EXAMPLE = example(
    "Example: longer prompts, worse drafts and one more prefill worker, one at a time",
    "  servecast whatif --recipe disagg-gb300-10p1d-dep4-dep32-18-c2500 --set isl=16384 \\",
    "      --set mtp.acceptance=0.57 --set prefill.workers=11",
    "Example: a grid over two ranges, with a heat map",
    "  servecast whatif --recipe disagg-high-conc-6p1d-dep4-dep8-mtp --set concurrency=512,1024,2048 \\",
    "      --set prefill.workers=4:8:5 --chart whatif",
)


@click.command("whatif", epilog=EXAMPLE)
@recipe_options
@traffic_options
@stack_options
@calibration_option
@click.option(
    "--set", "changes", multiple=True, metavar="FIELD=VALUE[,..]",
    help="Change of a field by its dotted path or a short form of it: a value, several (a,b,c), a range "
    "(LOW:HIGH:COUNT), or relative (x1.5, +10%).  [scale what moves most deployments]",
)  # fmt: skip
@click.option("--combine", is_flag=True, help="All changes at once instead of one at a time.")
@click.option("--explain", is_flag=True, help="Relieve each resource by a tenth in every scenario.")
@click.option("--chart", metavar="DIR", type=click.Path(file_okay=False), help="Folder for pictures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all draws.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@report_option
@json_option
def command(**options: Any) -> None:
    """Simulate a recipe with fields of its scenario changed, beside the unchanged one.

    Any field of the recipe, workload, hardware, model, stack, calibration or relief may change; so may
    mtp.acceptance (of the first draft), prefix_hit, price and price.PLATFORM. Fields with several values
    make one scenario each; exactly two such fields make a grid.
    """
    from pathlib import Path

    from tqdm import tqdm

    from planner.command_line import command_line
    from planner.commands.report import check_report, write_result_report
    from planner.field_changes import parse_changes
    from planner.file_writer import write_files
    from planner.setting_source import setting_from
    from planner.whatif import combinations, default_drivers, whatif
    from planner.whatif_text import whatif_text
    from search_spaces.errors import Infeasible

    check_report(options["report"])
    setting, notes = setting_from(options)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    fields = parse_changes(setting, options["changes"]) or default_drivers(setting)
    count = len(combinations(fields, options["combine"])[0])
    with tqdm(total=count + 1, desc="whatif", leave=False, disable=None) as bar:
        found = whatif(
            setting, fields, options["combine"], options["explain"], options["workers"], bar.update
        )
    found = found.model_copy(update={"command": command_line(command, options)})
    if options["chart"]:
        from planner.whatif_picture import whatif_pictures

        write_files(whatif_pictures(found), Path(options["chart"]), force=True)
        click.echo(f"wrote {options['chart']}", err=True)
    click.echo(found.model_dump_json(indent=2) if options["as_json"] else whatif_text(found))
    write_result_report(found, options["report"], options["workers"])
    if all(scenario.prediction is None for scenario in found.scenarios):
        raise Infeasible(f"no scenario can run: {found.scenarios[0].refused}", rule="scenario")
