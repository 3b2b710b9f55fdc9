"""Formulas in data files: the value of a derived knob, or the condition under which choices hold.

A formula is an expression over named values with arithmetic, comparison, `and`/`or`/`not`, `a if c else b`
and the functions of `FUNCTIONS`. It is checked when it is read; nothing else of Python is reachable.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import ceil, floor
from types import CodeType
from typing import Any, NamedTuple

from search_spaces.errors import BadInput

MARK = "="
"""A string choice that starts with it is a formula; any other string is itself."""


def round_up(value: float, step: int) -> int:
    """The least multiple of `step` that is not below `value`."""
    return ceil(value / step) * step


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "ceil": ceil,
    "floor": floor,
    "round_up": round_up,
}
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.IfExp, ast.Tuple,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.UnaryOp, ast.USub, ast.Not, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
)  # fmt: skip


class Formula(NamedTuple):
    """A checked expression and the values it looks at."""

    text: str
    code: CodeType
    names: frozenset[str]

    def value(self, env: Mapping[str, Any]) -> Any:
        """The result for named values; raises `BadInput` where it cannot be computed."""
        try:
            return eval(self.code, {"__builtins__": {}}, {**FUNCTIONS, **env})
        except (ArithmeticError, TypeError, ValueError) as error:
            raise BadInput(f"formula {self.text!r}: {error}; correct it") from None


@lru_cache(maxsize=4096)
def parse_formula(text: str) -> Formula:
    """The formula in `text`, without the mark.

    Raises:
        BadInput: it is no expression, or uses something that formulas have not.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise BadInput(f"formula {text!r} is not an expression: {error.msg}; correct it") from None
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise BadInput(
                f"formula {text!r} uses {type(node).__name__}, which formulas have not; write arithmetic, "
                f"comparisons, `a if c else b` and {sorted(FUNCTIONS)}"
            )
        if isinstance(node, ast.Call) and (
            node.keywords or not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS
        ):
            raise BadInput(f"formula {text!r} calls an unknown function; choose one of {sorted(FUNCTIONS)}")
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in called}
    return Formula(text, compile(tree, "<formula>", "eval"), frozenset(names))


def formula_of(choice: object) -> Formula | None:
    """The formula that a choice states, or None for a plain value."""
    if isinstance(choice, str) and choice.startswith(MARK):
        return parse_formula(choice.removeprefix(MARK))
    return None
