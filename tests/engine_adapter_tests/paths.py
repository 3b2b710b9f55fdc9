"""Where the fixtures lie."""

from pathlib import Path

DATA = Path(__file__).parent.parent / "data"
NO_MTP = DATA / "disagg-gb300-10p1d-dep4-dep32-18-c2500.yaml"
MTP = DATA / "disagg-mid-curve-4p1d-dep4-dep8-mtp.yaml"
