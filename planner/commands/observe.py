"""`servecast observe`: predict, run, compare."""

from __future__ import annotations

from typing import Any

import click

from planner.options import (
    STEP_PLAN,
    engine_options,
    example,
    json_option,
    step_plan_options,
    warm_up_option,
)

EXAMPLE = example(
    "Example: three loads on a server that Servecast starts, predicted from its measured steps",
    "  servecast observe recipe.yaml --workload loads.yaml --steps steps.json --out runs.yaml",
    "  servecast validate runs.yaml",
)


@click.command("observe", epilog=EXAMPLE)
@click.argument("recipe", metavar="RECIPE")
@click.option("--workload", required=True, metavar="FILE", help="YAML with one workload, or a list of them.")
@click.option("--steps", metavar="FILE", help="Step profile to predict from, of `servecast profile steps`.")
@click.option(
    "--out", default="observations.yaml", show_default=True, metavar="FILE",
    help="YAML list that the records are appended to.",
)  # fmt: skip
@click.option("--stack", metavar="NAME", help="Engine build to predict for; the recipe's own by default.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of lengths and prompts."
)
@click.option(
    "--max-error", type=click.FloatRange(min=0), metavar="PCT",
    help="Exit 4 if output throughput or mean TPOT is further off.",
)  # fmt: skip
@click.option(
    "--measure-steps",
    is_flag=True,
    help="Measure the steps into --steps first, on the server that then runs the loads.",
)
@step_plan_options
@click.option(
    "--details", metavar="DIR", help="Keep the engine's passes and the requests' times of each run there."
)
@warm_up_option
@engine_options
@json_option
def command(**options: Any) -> None:
    """Predict closed-loop runs of a recipe, make them on a live SGLang server, and compare.

    Predictions are written to OUT before anything runs; each finished run is appended as a record that
    `servecast validate OUT` takes. Of a server that Servecast starts, the record also counts the engine's
    passes and names those that stood still, as for a compilation. The load generator is SGLang's own, so
    --engine-python must have SGLang also where --endpoint names a server elsewhere.
    """
    import json
    from pathlib import Path

    from planner.live import LiveOptions
    from planner.observe import check_errors, comparison_text, observation, observe
    from profiler.steps import StepPlan

    plan = None
    if options["measure_steps"]:
        given = {name: options[name] for name in STEP_PLAN if options[name]}
        plan = StepPlan.parse(given | {"warm_up": options["warm_up"]}, "observe")
    what = observation(
        options["recipe"], options["workload"], options["steps"], options["stack"], options["seed"], plan
    )
    live, out = LiveOptions.from_options(options), Path(options["out"])
    details = Path(options["details"]) if options["details"] else None
    found = observe(what, live, out, lambda text: click.echo(text, err=True), options["warm_up"], details)
    if options["as_json"]:
        click.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
    else:
        click.echo(comparison_text(found))
    click.echo(f"appended to {out}", err=True)
    if options["max_error"] is not None:
        check_errors(found, options["max_error"])
