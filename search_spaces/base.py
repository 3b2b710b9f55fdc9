"""The base of every type that is read or written, and how a validation error is worded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from search_spaces.errors import BadInput


class Noun(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @cached_property
    def _content_hash(self) -> int:
        return hash((type(self).__name__, self.model_dump_json()))

    def __hash__(self) -> int:
        """Hash of the content, so that nouns with mappings inside can key a cache."""
        return self._content_hash

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; what was worked out from the old fields does not come along."""
        found = super().model_copy(update=update, deep=deep)
        for name in set(found.__dict__) - set(type(self).model_fields):
            del found.__dict__[name]
        return found

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """Validate `data`; on failure raise `BadInput` that names field, value and rule.

        Args:
            data: a mapping as read from a file.
            where: the file or option the data came from, for the message.
        """
        if not isinstance(data, dict):
            raise BadInput(
                f"{where}: expected a mapping of {cls.__name__} fields, "
                f"got {type(data).__name__}; see `servecast catalog`"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise BadInput(describe(error, where, cls)) from None


def describe(error: ValidationError, where: str, cls: type[BaseModel]) -> str:
    """One line per broken rule: `where: field=value rule; remedy`."""
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or cls.__name__
        if item["type"] == "extra_forbidden":
            known = ", ".join(sorted(cls.model_fields))
            lines.append(
                f"{where}: unknown key {field}={item['input']!r}; remove it (top-level keys: {known})"
            )
        elif item["type"] == "missing":
            lines.append(f"{where}: {field} is required and absent; add it")
        elif item["type"] == "value_error":
            lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
        else:
            shown = repr(item["input"])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            lines.append(f"{where}: {field}={shown}: {item['msg']}; change it to fit")
    return "\n".join(lines)
