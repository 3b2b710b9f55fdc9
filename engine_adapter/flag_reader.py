"""SGLang flags and variables of one worker while they are read, each taken once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from engine_adapter.flag_table import Kind
from search_spaces.errors import BadInput

FlagValue = str | int | float | bool | list[str]


def parse_bool(value: object, where: str) -> bool:
    """A YAML or environment boolean."""
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on", ""):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise BadInput(f"{where}={value!r} must be a boolean; write true or false")


def parse_value(value: object, kind: Kind, where: str) -> FlagValue:
    """One scalar as `kind`; a wrong one raises `BadInput` that names the flag."""
    if kind == "bool":
        return parse_bool(value, where)
    if kind == "str":
        return str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadInput(f"{where}={value!r} must be a single number; write --{where} N")
    try:
        number = float(value)
    except ValueError:
        raise BadInput(f"{where}={value!r} must be a number; write digits only") from None
    if kind == "float":
        return number
    if not number.is_integer():
        raise BadInput(f"{where}={value!r} must be a whole number; round it")
    return int(number)


@dataclass
class FlagReader:
    """Flags and variables not yet consumed, while one group is read."""

    flags: dict[str, object]
    env: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)

    def flag(self, name: str, kind: Kind) -> FlagValue | None:
        """Take one flag; None when absent."""
        value = self.flags.pop(name, None)
        return None if value is None else parse_value(value, kind, name)

    def int_flag(self, name: str, default: int) -> int:
        """Take one whole-number flag."""
        value = self.flag(name, "int")
        return default if value is None else int(cast(int, value))

    def on(self, name: str) -> bool:
        """Take one switch."""
        return bool(self.flag(name, "bool"))

    def env_on(self, name: str) -> bool:
        """Take one boolean variable."""
        value = self.env.pop(name, None)
        return value is not None and parse_bool(value, name)
