"""`servecast profile steps`: measure the steps of a running engine."""

from __future__ import annotations

from typing import Any

import click

from planner.options import STEP_PLAN, engine_options, example, step_plan_options, warm_up_option

EXAMPLE = example(
    "Example: the steps of a server that Servecast starts from a recipe",
    "  servecast profile steps --recipe recipe.yaml --batches 1,8,64 --contexts 1024,8192 --out steps.json",
)


@click.command("steps", epilog=EXAMPLE)
@click.option("--recipe", required=True, metavar="FILE", help="Recipe with one aggregated worker.")
@click.option("--out", required=True, metavar="FILE", help="Step profile to write (JSON).")
@step_plan_options
@warm_up_option
@engine_options
def steps(**options: Any) -> None:
    """Measure decode steps over batch x context and prefill steps over prompt length into a step profile.

    A server started here runs a recorder, so that its own passes are read; of one attached to with
    --endpoint, token times as a client sees them. Finished points are kept in OUT.jsonl: after Ctrl-C or a
    kill, the same command goes on.
    """
    from pathlib import Path

    from planner.live import LiveOptions, profile_steps
    from profiler.steps import StepPlan

    given = {name: options[name] for name in STEP_PLAN if options[name]}
    plan = StepPlan.parse(given | {"warm_up": options["warm_up"]}, "profile steps")
    live = LiveOptions.from_options(options)
    found = profile_steps(
        options["recipe"], plan, live, Path(options["out"]), lambda t: click.echo(t, err=True)
    )
    click.echo(f"{len(found.rows)} rows: {options['out']}")
