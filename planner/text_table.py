"""Plain text tables: columns padded with spaces, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence

Cell = str | float | int | None


def number(value: float, digits: int = 4) -> str:
    """A number with about `digits` significant digits, whole from 10**(digits-1) on, no exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    places = 0
    while size < 10 ** (digits - 1) and places < digits + 2:
        size, places = size * 10, places + 1
    return f"{value:,.{places}f}"


def percent(fraction: float | None, signed: bool = False) -> str:
    """A fraction in per cent with one decimal; a dash for None."""
    if fraction is None:
        return "-"
    return f"{100 * fraction:{'+' if signed else ''}.1f} %"


def table(rows: Sequence[Sequence[Cell]], header: Sequence[str] = (), indent: int = 2) -> str:
    """Rows as aligned lines.

    A column is right-aligned when all its cells but dashes and blanks start like numbers.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    lines = [list(header), *cells] if header else cells
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    right = [all(_numeric(row[i]) for row in cells) for i in range(len(widths))]
    return "\n".join(
        (
            " " * indent
            + "  ".join(
                text.rjust(width) if is_right else text.ljust(width)
                for text, width, is_right in zip(line, widths, right, strict=True)
            )
        ).rstrip()
        for line in lines
    )


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return cell if isinstance(cell, str) else number(float(cell))


def _numeric(text: str) -> bool:
    return text in ("", "-") or text.lstrip("+-")[:1].isdigit()
