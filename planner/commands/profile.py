"""`servecast profile`: where kernel times come from."""

from __future__ import annotations

import click

from planner.commands import profile_kernels
from planner.options import example

EXAMPLE = example(
    "Example: kernel profiles of one platform from a wheel",
    "  servecast profile import aiconfigurator --source aiconfigurator_core.whl --system gb300 --out kernels",
)


@click.group("profile", epilog=EXAMPLE)
def command() -> None:
    """Measure, import and show the kernel times that predictions rest on."""


@command.group("import", epilog=EXAMPLE)
def import_group() -> None:
    """Read kernel times that others measured."""


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
command.add_command(profile_kernels.report)
import_group.add_command(profile_kernels.import_records)
