"""Which fields of a role a law looks at, read off its code.

A law that looks at few fields has to be asked once per combination of those alone, which is what makes
an exact count of a large space possible.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from search_spaces.recipe import EngineGroup


@cache
def fields_read(function: Callable[..., Any]) -> frozenset[str]:
    """Fields of `EngineGroup` that a function, the functions it calls and the properties it uses name."""
    assert isinstance(function, FunctionType)
    return _of_code(function.__code__, function.__globals__)


def _of_code(code: CodeType, known: dict[str, Any]) -> frozenset[str]:
    found: set[str] = set()
    for name in code.co_names:
        owner = EngineGroup.__dict__.get(name)
        if name in EngineGroup.model_fields:
            found.add(name)
        elif isinstance(owner, property) and isinstance(owner.fget, FunctionType):
            found |= fields_read(owner.fget)
        elif isinstance(known.get(name), FunctionType) and known[name].__module__.startswith("search_spaces"):
            found |= fields_read(known[name])
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _of_code(constant, known)
    return frozenset(found)
