"""Pieces of a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A table; bars within cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def section(title: str, *parts: str, level: int = 2) -> str:
    """A heading and its paragraphs."""
    return "\n\n".join(["#" * level + " " + title, *(part for part in parts if part)])
