"""`servecast profile`: where kernel times come from."""

from __future__ import annotations

import click

from planner.commands import profile_kernels, profile_steps
from planner.options import example

EXAMPLE = example(
    "Example: kernel profiles of one platform from a wheel",
    "  servecast profile import aiconfigurator --source aiconfigurator_core.whl --system gb300 --out kernels",
)

STEPS_EXAMPLE = example(
    "Example: a recording of four layers on one GPU",
    "  servecast profile import steps --source recording --name h200-flash4 --model dsv4-flash \\",
    "    --layers 4 --hardware h200 --device 'NVIDIA H200' --out profiles",
)
CHECK_EXAMPLE = example(
    "Example: two shipped recordings", "  servecast profile check h200-flash8-triton h200-flash4-triton"
)


@click.group("profile", epilog=EXAMPLE)
def command() -> None:
    """Measure, import and show the kernel times that predictions rest on."""


@command.group("import", epilog=EXAMPLE)
def import_group() -> None:
    """Read kernel times that others measured."""


@import_group.command("steps", epilog=STEPS_EXAMPLE)
@click.option("--source", required=True, metavar="DIR", help="Folder of the recording.")
@click.option("--name", required=True, help="Name of the profile.")
@click.option("--model", required=True, metavar="MODEL", help="Model whose layers ran.")
@click.option("--layers", required=True, type=click.IntRange(min=1), help="Layers that ran.")
@click.option("--hardware", required=True, metavar="NAME", help="Platform.")
@click.option("--device", required=True, metavar="NAME", help="Device as the driver names it.")
@click.option("--note", default="", help="Versions and switches to keep with the rows.")
@click.option("--out", required=True, metavar="DIR", help="Gets steps/NAME.json and live/NAME.json.")
def steps(
    source: str, name: str, model: str, layers: int, hardware: str, device: str, note: str, out: str
) -> None:
    """Turn the recorded passes of a running engine into a step profile."""
    from pathlib import Path

    from planner.file_writer import write_files
    from profiler.step_records import read_live_runs, read_profile
    from search_spaces import catalog_loader
    from search_spaces.live_run import live_runs_json
    from search_spaces.step_profile import step_profile_json

    spec, platform = catalog_loader.model(model), catalog_loader.hardware(hardware)
    profile = read_profile(Path(source), name, spec.name, layers, platform.name, device, note)
    files: dict[str, str | bytes] = {f"steps/{name}.json": step_profile_json(profile)}
    if runs := read_live_runs(Path(source), name):
        files[f"live/{name}.json"] = live_runs_json(runs)
    for path in write_files(files, Path(out), force=True):
        click.echo(str(path))


@command.command("check", epilog=CHECK_EXAMPLE)
@click.argument("profiles", nargs=-1, metavar="[PROFILE]...")
@click.option("--write", metavar="FILE.md", help="Also write the tables into this document's section.")
@click.option(
    "--max-error", type=click.FloatRange(min=0), metavar="PCT",
    help="Exit 4 if the median absolute error of a kind of step is above this.",
)  # fmt: skip
def check(profiles: tuple[str, ...], write: str | None, max_error: float | None) -> None:
    """Fit the step model to half of recorded engine steps and predict the other half.

    PROFILE is the name of a shipped step profile or a .json file; all shipped ones without it.
    """
    from pathlib import Path

    from planner.file_writer import write_files
    from planner.step_check import check_steps
    from planner.step_check_text import check_markdown, check_text, with_section
    from profiler.step_fit import fit
    from search_spaces.step_profile import load_step_profile, shipped_step_profiles

    found = fit([load_step_profile(name) for name in profiles or shipped_step_profiles()])
    click.echo(check_text(found))
    if write is not None:
        file = Path(write)
        document = file.read_text() if file.is_file() else ""
        write_files({file.name: with_section(document, check_markdown(found))}, file.parent, force=True)
    if max_error is not None:
        check_steps(found, max_error)


@import_group.command("aiconfigurator", epilog=EXAMPLE)
@click.option(
    "--source", metavar="PATH", help="Wheel of aiconfigurator-core, or its unpacked folder.  [installed]"
)
@click.option("--out", required=True, metavar="DIR", help="Folder of the profiles; made where absent.")
@click.option("--system", "systems", multiple=True, metavar="NAME", help="Platform, may be repeated.  [all]")
def aiconfigurator(source: str | None, out: str, systems: tuple[str, ...]) -> None:
    """Distil the tables of NVIDIA's aiconfigurator-core into one profile per platform.

    Needs the extra `servecast[profile]`. Each profile names its source and the digests of its tables.
    """
    from pathlib import Path

    from profiler.aiconfigurator import SYSTEMS, import_profiles

    for path in import_profiles(
        Path(source) if source else None, Path(out), systems or tuple(SYSTEMS)
    ).values():
        click.echo(str(path))


command.add_command(profile_kernels.kernels)
command.add_command(profile_steps.steps)
command.add_command(profile_kernels.report)
import_group.add_command(profile_kernels.import_records)
