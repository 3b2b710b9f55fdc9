"""Measured engine steps: how long forward passes of one engine configuration took."""

from __future__ import annotations

import hashlib
import json
from functools import cache, cached_property
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from pydantic import Field

from search_spaces.base import Noun
from search_spaces.catalog_loader import catalog_root
from search_spaces.errors import BadInput, MissingData
from search_spaces.recipe import EngineGroup

_FOLDER = "steps"

StepMode = Literal["prefill", "decode", "verify", "draft", "draft_extend"]


class StepRow(Noun):
    """Forward passes of one shape. All times are seconds per pass."""

    mode: StepMode
    """`verify` is the target model's pass over drafted tokens."""
    sequences: int = Field(ge=1)
    """Sequences of one attention rank in the pass."""
    new_tokens: int = Field(ge=1)
    """Tokens computed, all sequences together."""
    context: float = Field(ge=0)
    """Tokens cached before the pass, mean per sequence."""
    wall_s: float = Field(gt=0)
    """Median time from this pass's start to the next one's, or GPU time where only that was recorded."""
    low_s: float = Field(gt=0)
    """Tenth percentile."""
    high_s: float = Field(gt=0)
    """Ninetieth percentile."""
    count: int = Field(ge=1)
    """Passes behind the row; first passes of a shape (compilation) are left out."""
    gpu_s: float | None = Field(default=None, gt=0)
    """Median time on the GPU's stream of the pass, and of the draft extension behind it."""
    gap_s: float | None = Field(default=None, ge=0)
    """Median GPU idle time before the pass."""
    host_s: float | None = Field(default=None, gt=0)
    """Median CPU time until the pass had been launched, and the draft extension behind it."""
    graph: bool = False
    """Whether a CUDA graph was replayed."""
    beside: int = Field(default=0, ge=0)
    """Sequences that decode before and after a prefill pass; `wall_s` is then the time that it adds."""


class StepProfile(Noun):
    """Steps of one engine configuration on one device."""

    name: str
    model: str
    """Catalog name, or the name of an architecture that the catalog does not hold."""
    num_layers: int = Field(ge=1)
    """Layers of the model as it ran; profiles at two depths give a slope per layer."""
    hardware: str
    """Catalog name of the platform, or `cpu`."""
    device: str
    """Device name as the driver prints it."""
    engine: str = "sglang"
    engine_version: str
    group: EngineGroup
    """Layout and settings of the worker."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Cache tokens per rank that the server reported."""
    max_running_requests: int | None = Field(default=None, ge=1)
    """Running requests per rank that the server reported."""
    request_s: float | None = Field(default=None, ge=0)
    """Seconds of a request outside passes, at one request in flight: client, HTTP, hand-over, detokenizer."""
    request_token_s: float | None = Field(default=None, ge=0)
    """Seconds that each token of its prompt adds to that, in a process that takes one request at a time."""
    prefill_turn_s: float | None = Field(default=None, ge=0)
    """Host seconds between the results of a pass and the start of the next; a prefill is on either side.
    None with drafts."""
    decode_turn_s: float | None = Field(default=None, ge=0)
    """The same between decode passes."""
    prefill_launch_s: float | None = Field(default=None, gt=0)
    """Mean host seconds that launching an eager prefill pass takes while others decode."""
    measured_on: str
    """Date, ISO."""
    source: str
    """Command or file that the rows come from."""
    rows: tuple[StepRow, ...]

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits over what differs from defaults, so that a new field changes no digest."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:12]


def step_profile_json(profile: StepProfile) -> str:
    """The file form: one row a line, so that two recordings can be compared by eye."""
    head = json.loads(profile.model_dump_json(exclude={"rows"}))
    text = json.dumps(head, indent=1).removesuffix("\n}")
    rows = ",\n  ".join(row.model_dump_json(exclude_none=True) for row in profile.rows)
    return f'{text},\n "rows": [\n  {rows}\n ]\n}}\n'


def shipped_step_profiles() -> list[str]:
    """Names of the step profiles in the catalog, sorted."""
    folder = catalog_root() / _FOLDER
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.is_file())


@cache
def load_step_profile(name_or_path: str) -> StepProfile:
    """The shipped profile of that name, or the one in that `.json` file; read once per process.

    Raises:
        MissingData: no such profile or file.
        BadInput: the file is not a step profile.
    """
    file: Path | Traversable = catalog_root() / _FOLDER / f"{name_or_path.lower()}.json"
    if name_or_path.endswith(".json"):
        file = Path(name_or_path)
    if not file.is_file():
        raise MissingData(
            f"step_profile={name_or_path!r} does not exist; choose one of {shipped_step_profiles()} "
            "or give the path of a .json file"
        )
    try:
        data = json.loads(file.read_text())
    except ValueError as error:
        raise BadInput(f"{name_or_path}: not JSON ({error}); import the recording again") from None
    return StepProfile.parse(data, name_or_path)
