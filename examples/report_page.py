"""A page to send around: what longer prompts and a dearer platform do to a public recipe.

Run `python examples/report_page.py [FOLDER]`; without a folder the page goes to a temporary one.
"""

import sys
import tempfile
from pathlib import Path

from planner.api import report, whatif


def main(folder: Path) -> None:
    """Write the page and say where it is."""
    found = whatif(
        "disagg-high-conc-6p1d-dep4-dep8-mtp",
        "workload.isl=4096,16384",
        "price=x1.5",
        concurrency=256,
        num_prompts=512,
        explain=True,
    )
    page = folder / "whatif.html"
    report(found, page)
    for scenario in found.scenarios:
        if scenario.cost is not None:
            print(f"{scenario.name}: {scenario.cost.per_million_tokens:.3f} $/M tokens, {scenario.limit}")
    print(f"wrote {page} ({page.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) == 2 else tempfile.mkdtemp()))
