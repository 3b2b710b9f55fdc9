"""`servecast plan`: from model, rack, workload and SLO to a dispatch table with engine-ready files."""

from __future__ import annotations

from typing import Any

import click

from planner.options import calibration_option, counts_of, example, json_option, report_option

EXAMPLE = example(
    "Example: a GB300 rack at 8K/1K, users get at least 40 tokens a second",
    "  servecast plan --model deepseek-ai/DeepSeek-V4-Pro --hardware gb300 --num-gpus 72 \\",
    "    --isl 8192 --osl 1024 --min-tok-s-user 40 --objective throughput --out plan-gb300",
)


@click.command("plan", epilog=EXAMPLE)
@click.option("--model", required=True, metavar="NAME", help="Model, such as deepseek-ai/DeepSeek-V4-Pro.")
@click.option("--hardware", required=True, metavar="NAME", help="Platform, such as gb300.")
@click.option("--num-gpus", type=int, default=84, show_default=True, help="Most GPUs of one deployment.")
@click.option("--isl", type=int, default=8192, show_default=True, help="Nominal input tokens.")
@click.option("--osl", type=int, default=1024, show_default=True, help="Nominal output tokens.")
@click.option(
    "--random-range-ratio", type=float, default=0.8, show_default=True, help="Shortest length over nominal."
)
@click.option(
    "--concurrency", "concurrencies", multiple=True, callback=counts_of, metavar="N[,..]",
    help="Loads to plan for; those of the public recipes by default.",
)  # fmt: skip
@click.option("--max-ttft-ms", type=float, metavar="MS", help="Limit on median TTFT.")
@click.option("--max-tpot-ms", type=float, metavar="MS", help="Limit on median TPOT.")
@click.option("--max-p99-ttft-ms", type=float, metavar="MS", help="Limit on p99 TTFT.")
@click.option("--max-p99-tpot-ms", type=float, metavar="MS", help="Limit on p99 TPOT.")
@click.option("--min-tok-s-user", type=float, metavar="N", help="Least tokens/s per user.")
@click.option(
    "--objective", type=click.Choice(["balanced", "throughput", "interactivity", "ttft"]), default="balanced",
    show_default=True,
    help="What decides between recipes that meet the SLO at one load. On one platform the least cost or "
    "energy per token is throughput's; for the fewest GPUs at a rate see `size`.",
)  # fmt: skip
@click.option(
    "--risk", type=click.Choice(["expected", "lower"]), default="expected", show_default=True,
    help="Judge recipes by what is expected, or by the worse end of the 80 % interval.",
)  # fmt: skip
@click.option("--mtp/--no-mtp", default=True, show_default=True, help="Whether drafting may be used.")
@click.option("--stack", default="june", show_default=True, metavar="NAME", help="Engine build.")
@click.option(
    "--max-recipes",
    type=int,
    metavar="K",
    help="Most rows of the table, chosen for least regret.  [each load's own recipe]",
)
@click.option(
    "--traffic", multiple=True, metavar="LOAD:SHARE[,..]",
    help="Time spent at each load; rows then minimise the expected loss.",
)  # fmt: skip
@click.option(
    "--switches-per-hour", type=float, default=0.0, show_default=True,
    help="How often the load moves between planned loads; switches then cost drain and warm-up.",
)  # fmt: skip
@click.option(
    "--hysteresis", type=float, default=0.1, show_default=True,
    help="Share of a row's boundary by which the load must pass it before the row is left.",
)  # fmt: skip
@click.option(
    "--warmup-s", type=float, default=900.0, show_default=True, help="Start of a worker to serving."
)
@click.option("--space", metavar="FILE", help="Search spaces of your own instead of the shipped ones.")
@click.option(
    "--warm-start", multiple=True, metavar="DIR",
    help="Folder of an earlier plan, of other lengths, loads or limits say, to begin with.",
)  # fmt: skip
@click.option("--trials", type=int, default=84, show_default=True, help="Trials per load.")
@click.option("--keep", type=int, default=24, show_default=True, help="Screened recipes simulated per load.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of simulation and sampler.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [all cores]")
@click.option(
    "--storage", metavar="URL",
    help="Database that processes on several machines share; run the same command on each.",
)  # fmt: skip
@click.option("--cluster", metavar="URL", help="Simulate on a Dask cluster: dask://host:port.")
@calibration_option
@click.option(
    "--out", required=True, type=click.Path(file_okay=False), help="Folder for the results and the study."
)
@report_option
@json_option
def command(**options: Any) -> None:
    """Search recipes and write a per-concurrency dispatch table with engine-ready recipe files.

    The search prunes by rule, screens by a fluid model, then simulates under Optuna, public recipes
    first. OUT keeps the study and every prediction: after Ctrl-C or a kill, the same command goes on.
    """
    from pathlib import Path

    from tqdm import tqdm

    from engine_adapter.yaml_files import parse_yaml, read_text
    from planner.command_line import command_line
    from planner.commands.report import write_plan_report
    from planner.exporting import load_table
    from planner.file_writer import check_file, write_files
    from planner.plan import plan
    from planner.plan_files import COMMAND_FILE, plan_files
    from planner.plan_text import plan_text
    from planner.plan_types import PlanRequest
    from search_spaces.space import spaces_in

    request = PlanRequest.parse(_request(options), "plan")
    own = options["space"]
    spaces = spaces_in(parse_yaml(read_text(own), own), own) if own else ()
    earlier = [load_table(str(Path(folder) / "dispatch.json")) for folder in options["warm_start"]]
    out = Path(options["out"])
    if options["report"]:
        check_file(Path(options["report"]), "report")
    bar = tqdm(desc="plan", unit="trial", leave=False, disable=None)

    def on_step(label: str, done: int, total: int) -> None:
        bar.set_description(label)
        bar.total = total
        bar.update(done - bar.n)

    try:
        result = plan(
            request, out, options["workers"], on_step, spaces, options["storage"], options["cluster"], earlier
        )
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command goes on from {out}", err=True)
        raise
    finally:
        bar.close()
    notes: list[str] = []
    if result.counts["damaged_cache_lines"]:
        notes.append(
            f"{result.counts['damaged_cache_lines']} damaged lines of predictions.jsonl were simulated anew"
        )
    if result.counts["journals_set_aside"]:
        notes.append(
            "study.journal could not be read; it is kept as study.damaged and the study was replayed"
        )
    asked = command_line(command, options)
    write_files({**plan_files(result, notes), COMMAND_FILE: f"{asked}\n"}, out, force=True)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(result.model_dump_json(indent=1) if options["as_json"] else plan_text(result))
    click.echo(f"wrote {out}", err=True)
    if options["report"]:
        write_plan_report(result, asked, Path(options["report"]), options["workers"])


def _request(options: dict[str, Any]) -> dict[str, Any]:
    same = (
        "model", "hardware", "num_gpus", "isl", "osl", "random_range_ratio", "concurrencies", "objective",
        "risk", "mtp", "stack", "max_recipes", "trials", "keep", "seed", "calibration", "switches_per_hour",
        "hysteresis", "warmup_s",
    )  # fmt: skip
    slo = {
        "max_median_ttft_ms": options["max_ttft_ms"],
        "max_median_tpot_ms": options["max_tpot_ms"],
        "max_p99_ttft_ms": options["max_p99_ttft_ms"],
        "max_p99_tpot_ms": options["max_p99_tpot_ms"],
        "min_tokens_per_s_per_user": options["min_tok_s_user"],
    }
    return {**{name: options[name] for name in same}, "slo": slo, "traffic": _traffic(options["traffic"])}


def _traffic(texts: tuple[str, ...]) -> dict[int, float]:
    from search_spaces.errors import BadInput

    found: dict[int, float] = {}
    for item in (part for text in texts for part in text.split(",")):
        load, colon, share = item.partition(":")
        try:
            if not colon or int(load) < 1 or float(share) < 0:
                raise ValueError(item)
            found[int(load)] = float(share)
        except ValueError:
            raise BadInput(f"traffic={item!r} must be LOAD:SHARE; write e.g. 64:3,512:1") from None
    if found and not sum(found.values()) > 0:
        raise BadInput(f"traffic={list(texts)} has no share above 0; raise one")
    return found
