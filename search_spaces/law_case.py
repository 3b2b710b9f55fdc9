"""One role of a recipe with all that its laws look at, and what a broken law says."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup
from search_spaces.workload import Workload

Severity = Literal["hard", "soft"]

V0523 = (0, 5, 23)
BLACKWELL_SM = 100
"""First compute capability (times ten) with FP4 tensor cores and SM100 kernels."""


class Violation(NamedTuple):
    """One broken law: `hard` cannot run (or corrupts), `soft` runs but nobody would choose it."""

    rule: str
    severity: Severity
    message: str


class RoleCase(NamedTuple):
    """One role with everything its laws may look at."""

    role: str
    group: EngineGroup
    model: ModelSpec
    hardware: Hardware
    workload: Workload | None
    version: tuple[int, ...]
    engine_version: str

    @property
    def prefills(self) -> bool:
        """Whether the role runs prompts."""
        return self.role != "decode"

    @property
    def decodes(self) -> bool:
        """Whether the role generates."""
        return self.role != "prefill"

    def hard(self, rule: str, text: str) -> Violation:
        """A hard violation whose message starts with the role."""
        return Violation(rule, "hard", f"{self.role}.{text}")

    def soft(self, rule: str, text: str) -> Violation:
        """A soft violation whose message starts with the role."""
        return Violation(rule, "soft", f"{self.role}.{text}")


@cache
def release(version: str) -> tuple[int, ...]:
    """`0.5.15` as a tuple that orders; raises `BadInput` where there is no leading release number."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    if match is None:
        raise BadInput(f"engine_version={version!r} must start with a release number; write e.g. 0.5.15")
    return tuple(int(part) for part in match.group(1).split("."))


def redundant_experts_for(num_experts: int, moe_ep: int) -> int:
    """Fewest redundant experts that spread `num_experts` evenly over `moe_ep` ranks."""
    return -num_experts % moe_ep
