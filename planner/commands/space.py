"""`servecast space`: search spaces as data."""

from __future__ import annotations

from typing import Any

import click

from planner.options import example, json_option

EXAMPLE = example(
    "Examples: every shipped lane of a platform; a space of your own",
    "  servecast space check gb300",
    "  servecast space check my-space.yaml --hardware gb300 --num-gpus 32",
)


@click.group("space", epilog=EXAMPLE)
def command() -> None:
    """Look at the spaces that `servecast plan` searches."""


@command.command("check", epilog=EXAMPLE)
@click.argument("targets", nargs=-1, metavar="[FILE|LANE]...")
@click.option("--hardware", metavar="NAME", help="Platform of a FILE.")
@click.option("--model", metavar="NAME", help="Model of a FILE that names none.")
@click.option("--num-gpus", type=click.IntRange(min=1), default=72, show_default=True, help="Most GPUs.")
@click.option("--isl", type=int, default=8192, show_default=True, help="Nominal input tokens.")
@click.option("--osl", type=int, default=1024, show_default=True, help="Nominal output tokens.")
@click.option(
    "--concurrency", type=int, default=1024, show_default=True, help="Load that formulas and laws look at."
)
@click.option("--stack", default="june", show_default=True, metavar="NAME", help="Engine build.")
@click.option("--strict", is_flag=True, help="End with exit code 4 where a public recipe is outside.")
@json_option
def check(targets: tuple[str, ...], **options: Any) -> None:
    """Validate search spaces, count them exactly and find the public recipes in them.

    A LANE is a shipped space: gb300, gb300-disagg, gb300-disagg-pro or gb300-disagg-pro-mtp; without a
    target all are checked. Counts are of distinct recipes; a recipe that breaks two laws counts in both.
    """
    import json

    from planner.space_check import all_lanes, lanes
    from planner.space_check import check as check_space
    from planner.space_text import space_text
    from search_spaces import catalog_loader
    from search_spaces.errors import OutOfTolerance
    from search_spaces.workload import Workload

    workload = Workload.parse({k: options[k] for k in ("isl", "osl", "concurrency")}, "space check")
    stack = catalog_loader.stack(options["stack"])
    found = [lane for target in targets for lane in lanes(target, options["hardware"], options["model"])]
    reports = []
    for lane in found if targets else all_lanes():
        reports.append(check_space(lane, options["num_gpus"], workload, stack))
        if not options["as_json"]:
            click.echo(("\n" if len(reports) > 1 else "") + space_text(reports[-1]))
    if options["as_json"]:
        click.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=1))
    outside = [f"{r.space}: {a.recipe}" for r in reports for part in r.public for a in part.absent]
    if outside and options["strict"]:
        raise OutOfTolerance(f"{len(outside)} public operating points are outside, such as {outside[0]}")


@command.command("certify", epilog=EXAMPLE)
@click.argument("target", metavar="FILE|LANE")
@click.option("--hardware", metavar="NAME", help="Platform of a FILE.")
@click.option("--model", metavar="NAME", help="Model of a FILE that names none.")
@click.option("--num-gpus", type=click.IntRange(min=1), default=72, show_default=True, help="Most GPUs.")
@click.option("--isl", type=int, default=8192, show_default=True, help="Nominal input tokens.")
@click.option("--osl", type=int, default=1024, show_default=True, help="Nominal output tokens.")
@click.option("--concurrency", type=click.IntRange(min=1), required=True, help="Load to certify.")
@click.option("--stack", default="june", show_default=True, metavar="NAME", help="Engine build.")
@click.option(
    "--objective", type=click.Choice(["front", "balanced", "throughput", "interactivity"]),
    default="front", show_default=True, help="What to prove: the front, or the best recipe.",
)  # fmt: skip
@click.option(
    "--max-recipes", type=click.IntRange(min=1), default=2000, show_default=True, help="Most lawful recipes."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@json_option
def certify_command(target: str, **options: Any) -> None:
    """Prove the front of an enumerable space within the model, or its best recipe by an objective.

    Every recipe is counted once: over the GPUs, removed by its first broken law, unable to run, removed
    because its upper bound is dominated by simulated recipes, or simulated in full.
    """
    import json
    import os

    from planner.certificate import certificate_text, certify
    from planner.evaluate import Evaluator
    from planner.plan import bench_of
    from planner.plan_types import PlanRequest
    from planner.space_check import lanes

    found = []
    for lane in lanes(target, options["hardware"], options["model"]):
        asked = {k: options[k] for k in ("isl", "osl", "stack", "num_gpus")}
        bench = bench_of(
            PlanRequest.parse({**asked, "model": lane.model, "hardware": lane.hardware}, "certify")
        )
        evaluator = Evaluator(bench, None, options["workers"] or os.cpu_count() or 1)
        try:
            proven = certify(
                lane.space, bench, options["concurrency"], options["num_gpus"], evaluator,
                options["max_recipes"], options["objective"],
            )  # fmt: skip
        finally:
            evaluator.close()
        found.append(proven)
    if options["as_json"]:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
    else:
        click.echo("\n\n".join(map(certificate_text, found)))


@command.command("experts", epilog=EXAMPLE)
@click.argument("lane_name", metavar="LANE")
@click.option("--isl", type=int, default=8192, show_default=True, help="Nominal input tokens.")
@click.option("--osl", type=int, default=1024, show_default=True, help="Nominal output tokens.")
@click.option("--stack", default="june", show_default=True, metavar="NAME", help="Engine build.")
@click.option(
    "--trials", type=click.IntRange(min=0), default=32, show_default=True, help="Per recipe and load."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@click.option("--page", metavar="FILE.md", type=click.Path(dir_okay=False), help="Write the table as a page.")
@json_option
def experts_command(lane_name: str, **options: Any) -> None:
    """Set each public recipe of a lane beside the best found for its GPUs, load and interactivity.

    LANE is a lane of public recipes such as gb300-disagg-mtp. Both sides are simulated.
    """
    import json
    import os
    from pathlib import Path

    from planner.evaluate import Evaluator
    from planner.experts import duels, experts_page
    from planner.file_writer import check_file, write_file
    from planner.plan import bench_of
    from planner.plan_types import PlanRequest
    from search_spaces.public_recipes import lane

    if options["page"]:
        check_file(Path(options["page"]), "page")
    experts = lane(lane_name)
    asked = {k: options[k] for k in ("isl", "osl", "stack", "trials")}
    request = PlanRequest.parse(
        {**asked, "model": experts[0].model, "hardware": experts[0].hardware}, "experts"
    )
    bench = bench_of(request)
    evaluator = Evaluator(bench, None, options["workers"] or os.cpu_count() or 1)
    try:
        found = duels(request, bench, evaluator, experts)
    finally:
        evaluator.close()
    shown = f"servecast space experts {lane_name}" + (f" --page {options['page']}" if options["page"] else "")
    page = experts_page(lane_name, shown, request, found)
    if options["page"]:
        write_file(page, Path(options["page"]), "page")
    if options["as_json"]:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
    else:
        click.echo(page)
