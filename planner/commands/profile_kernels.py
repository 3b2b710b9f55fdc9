"""`servecast profile kernels`, `report` and `import records`: own kernel measurements."""

from __future__ import annotations

from typing import Any

import click

from planner.options import example, json_option, names_of

KERNELS_EXAMPLE = example(
    "Example: measure what an hour allows on this GPU; the same command goes on where it stopped",
    "  servecast profile kernels --out kernels.jsonl --warm 12 --budget-s 3600",
)
REPORT_EXAMPLE = example(
    "Example: the records that ship, with a picture",
    "  servecast profile report --out kernel-report",
)
RECORDS_EXAMPLE = example(
    "Example: predict with own measurements of this platform",
    "  servecast profile import records kernels.jsonl --out own-kernels",
    "  SERVECAST_KERNEL_PROFILES=own-kernels servecast plan --hardware h200 --num-gpus 8 …",
)
MODELS = ("deepseek-v4-pro", "deepseek-v4-flash")


@click.command("kernels", epilog=KERNELS_EXAMPLE)
@click.option(
    "--out", metavar="FILE", help="Records, one JSON per line; appended to.  [needed but for --list]"
)
@click.option(
    "--models", multiple=True, callback=names_of, metavar="NAME[,..]", help="Models to measure for.  [all]"
)
@click.option("--hardware", metavar="NAME", help="Platform whose plans and peaks apply.  [the GPU's]")
@click.option(
    "--plans", multiple=True, callback=names_of, metavar="PLAN[,..]",
    help="Parallel plans beside those of the platform's search space, such as TP1.",
)  # fmt: skip
@click.option("--only", multiple=True, callback=names_of, metavar="FAMILY[,..]", help="Families.  [all]")
@click.option("--level", "deepest", type=click.IntRange(0, 9), default=9, help="Deepest refinement.  [all]")
@click.option(
    "--budget-s", type=click.FloatRange(min=0), default=720.0, show_default=True, metavar="S",
    help="Stop after this long, compiling included.",
)  # fmt: skip
@click.option(
    "--warm", "processes", type=click.IntRange(min=0), default=0, metavar="N",
    help="Compile first, with N processes side by side.  [no]",
)  # fmt: skip
@click.option(
    "--warm-limit-s", type=click.FloatRange(min=1), default=600.0, show_default=True, metavar="S",
    help="End compiling after this long.",
)  # fmt: skip
@click.option("--list", "listing", is_flag=True, help="Print the cases; needs no GPU with --hardware.")
def kernels(**options: Any) -> None:
    """Measure DeepSeek-V4's kernels on this machine's NVIDIA GPU.

    Shapes follow from the models and the parallel plans of the platform's search space. Every output
    is compared with a high-precision reference before it is timed. Finished cases are skipped, so a
    stopped run, or one at the end of its budget, goes on with the same command. Exit code 5 without a
    GPU.
    """
    import time
    from pathlib import Path

    from profiler.kernel_bench import GpuBench, platform_of, run_cases
    from profiler.kernel_cases import kernel_cases
    from profiler.kernel_gpu import find_gpu
    from profiler.kernel_plans import plans_of
    from search_spaces import catalog_loader
    from search_spaces.errors import BadInput

    if not options["listing"] and not options["out"]:
        raise BadInput("--out is missing: name the file that records are appended to, or --list the cases")
    models = [catalog_loader.model(name) for name in options["models"] or MODELS]
    gpu = None if options["listing"] and options["hardware"] else find_gpu()
    known = catalog_loader.hardware(options["hardware"]) if options["hardware"] else None
    hw = known or (platform_of(gpu.name) if gpu else None)
    if hw is None:
        raise BadInput(
            f"the catalog has no platform for {gpu.name if gpu else '?'}; name one with --hardware"
        )
    plans = plans_of(hw, options["plans"])
    cases = [c for c in kernel_cases(models, plans, options["only"]) if c.level <= options["deepest"]]
    if options["listing"] or gpu is None:
        for case in cases:
            click.echo(f"{case.level} {case.family} {case.key}")
        return
    out, begun = Path(options["out"]), time.monotonic()
    if options["processes"]:
        from profiler.kernel_warm import warm

        names = [plan.name for plan in plans], options["only"], options["deepest"]
        limit = min(options["warm_limit_s"], options["budget_s"])
        summary = warm(options["processes"], [m.name for m in models], *names, limit, out)
        click.echo(summary, err=True)
    compiling_s = time.monotonic() - begun
    result = run_cases(cases, GpuBench(gpu, hw), out, max(0.0, options["budget_s"] - compiling_s))
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.counts.items()))
    click.echo(
        f"{out}: {counts or 'nothing new'}; {result.skipped} done before, {result.left} left; "
        f"{compiling_s:.0f} s of compiling ahead, {result.seconds:.0f} s of measuring"
    )


@click.command("report", epilog=REPORT_EXAMPLE)
@click.argument("records", nargs=-1, metavar="[RECORDS]...")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the picture (PNG and SVG).")
@click.option("--force", is_flag=True, help="Replace a picture that is there.")
@json_option
def report(**options: Any) -> None:
    """Compare measured kernels with their rooflines: from RECORDS, or from those that ship.

    The ratio is measured time over the longest of FLOPs over peak, bytes over HBM bandwidth and bytes
    over NVLink bandwidth. The spread is that of repeated replays. Where a shape is also in a kernel table
    that predictions use, the two times are compared.
    """
    import json
    from pathlib import Path

    from planner.file_writer import write_files
    from planner.kernel_report_text import report_data, report_text
    from profiler.kernel_report import against_tables, load_records, summaries
    from search_spaces.catalog_loader import all_models

    found = load_records([Path(name) for name in options["records"]])
    rows = summaries(found)
    shown = found, rows, against_tables(found, list(all_models().values()))
    click.echo(json.dumps(report_data(*shown), indent=1) if options["as_json"] else report_text(*shown))
    if found.damaged:
        click.echo(f"note: {found.damaged} damaged lines were skipped", err=True)
    if options["out"]:
        from planner.kernel_picture import kernel_picture

        for path in write_files(kernel_picture(rows), Path(options["out"]), options["force"]):
            click.echo(f"wrote {path}", err=True)


@click.command("records", epilog=RECORDS_EXAMPLE)
@click.argument("records", nargs=-1, required=True, metavar="RECORDS...")
@click.option("--out", required=True, metavar="DIR", help="Folder of the profile; made where absent.")
@click.option("--name", metavar="NAME", help="Name of the profile.  [the platform's]")
@click.option("--device", metavar="NAME", help="GPU, where the records are of several.")
def import_records(records: tuple[str, ...], out: str, name: str | None, device: str | None) -> None:
    """Turn kernel records into a profile: own rows over those of the platform's shipped profile.

    Set the environment variable SERVECAST_KERNEL_PROFILES to the folder, and predictions for the
    platform use it. Whole attention layers stay those of the shipped profile.
    """
    from pathlib import Path

    from profiler.kernel_records import to_profile
    from profiler.kernel_report import load_records
    from search_spaces.catalog_loader import all_models
    from search_spaces.kernel_profile import save_profile

    found = load_records([Path(file) for file in records])
    profile = to_profile(found, all_models().values(), name, device)
    path = Path(out) / f"{profile.name}.npz"
    save_profile(profile, path)
    rows = ", ".join(f"{count} {table}" for table, count in profile.meta["own_rows"].items())
    click.echo(f"{path}: own rows: {rows}")
