"""Look up a dispatch table without any package: copy this one file beside a router or an operator.

    python dispatch_lookup.py dispatch.json 3400
    python dispatch_lookup.py dispatch.json 3400 --serving 2

Needs the standard library of Python 3.9 or later alone, and reads `dispatch.json` of `servecast plan`
(schema: `dispatch.schema.json`). Figures between two simulated loads are interpolated and say so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from typing import Any, NamedTuple

SCHEMA_VERSIONS = (1, 2)
METRICS = (
    "total_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu", "tokens_per_s_per_user", "median_tpot_ms",
    "mean_tpot_ms", "median_ttft_ms", "mean_ttft_ms",
)  # fmt: skip


class TableError(ValueError):
    """The file is no dispatch table, or the load is outside of it."""


class Expectation(NamedTuple):
    """What a recipe is predicted to give at a load."""

    metrics: dict[str, float]
    limit: str
    source: str
    """`simulated` at a load of the table, `interpolated` between two, `nearest` outside of them."""


class Decision(NamedTuple):
    """What should serve, and whether that is a change."""

    row: int
    recipe: dict[str, Any]
    """The recipe as the table holds it; its `name` is the name of the exported files."""
    min_concurrency: int
    max_concurrency: int
    switched: bool
    summary: str
    """What a switch does to workers, or an empty text."""
    drain_s: float | None
    warmup_s: float | None


class Table:
    """A dispatch table in memory."""

    def __init__(self, data: dict[str, Any], where: str = "table") -> None:
        """Args: the parsed JSON, and its name for messages."""
        try:
            version, rows = data["schema_version"], data["rows"]
            bounds = [(int(r["min_concurrency"]), int(r["max_concurrency"])) for r in rows]
            names = [str(r["recipe"]["name"]) for r in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{where}: not a dispatch table: {error!r} is absent or wrong") from None
        if version not in SCHEMA_VERSIONS:
            raise TableError(f"{where}: schema_version={version!r} is not read; update this file")
        if not bounds or any(low > high for low, high in bounds):
            raise TableError(f"{where}: rows are absent or have a minimum above their maximum")
        if any(b[0] <= a[1] for a, b in itertools.pairwise(bounds)):
            raise TableError(f"{where}: rows overlap or are not in rising order")
        self.data: dict[str, Any] = data
        self.rows: list[dict[str, Any]] = rows
        self.bounds: list[tuple[int, int]] = bounds
        self.names: list[str] = names

    @classmethod
    def load(cls, path: str) -> Table:
        """The table in a JSON file; raises `TableError` where it is none."""
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        except (OSError, ValueError) as error:
            raise TableError(f"{path}: {error}") from None
        if not isinstance(data, dict):
            raise TableError(f"{path}: not a dispatch table: expected an object")
        return cls(data, path)

    def row_for(self, concurrency: int) -> int:
        """Index of the row that serves a load; raises `TableError` outside every row."""
        for index, (low, high) in enumerate(self.bounds):
            if low <= concurrency <= high:
                return index
        ranges = ", ".join(f"{low}-{high}" for low, high in self.bounds)
        raise TableError(f"concurrency={concurrency} is in no row; the table has {ranges}")

    def nearest_row(self, concurrency: int) -> int:
        """The same, with loads outside every row served by the nearest."""
        return min(
            range(len(self.bounds)),
            key=lambda i: max(self.bounds[i][0] - concurrency, concurrency - self.bounds[i][1], 0),
        )

    def expect(self, concurrency: int, row: int | None = None) -> Expectation | None:
        """Predicted figures of a row at a load; None where the table has none."""
        index = self.row_for(concurrency) if row is None else row
        points = sorted(self.rows[index].get("predictions") or [], key=lambda p: int(p["concurrency"]))
        if not points:
            return None
        below = [p for p in points if p["concurrency"] <= concurrency]
        above = [p for p in points if p["concurrency"] >= concurrency]
        if below and above:
            a, b = below[-1], above[0]
            same = a["concurrency"] == b["concurrency"]
            share = 0.0 if same else _log_share(concurrency, a["concurrency"], b["concurrency"])
            metrics = {m: a[m] + share * (b[m] - a[m]) for m in METRICS if m in a and m in b}
            return Expectation(metrics, str(b.get("limit", "")), "simulated" if same else "interpolated")
        nearest = (below or above)[-1 if below else 0]
        metrics = {m: nearest[m] for m in METRICS if m in nearest}
        return Expectation(metrics, str(nearest.get("limit", "")), "nearest")

    def serving(self, name: str) -> int:
        """Index of the row whose recipe has a name."""
        if name not in self.names:
            raise TableError("no row serves {!r}; the table has {}".format(name, ", ".join(self.names)))
        return self.names.index(name)


def _log_share(value: float, low: float, high: float) -> float:
    """Where a load lies between two others, on a logarithmic axis."""
    return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))


class Dispatcher:
    """Follows the load with hysteresis: a row is left only beyond the loads that its table says.

    A row without `switch_up_at` or `switch_down_at` is left at the end of its range.
    """

    def __init__(self, table: Table, row: int | None = None) -> None:
        """Args: the table, and the row that serves now; None lets the first load choose."""
        self.table, self.row = table, row

    def update(self, concurrency: int) -> Decision:
        """What should serve at a load, from what serves now."""
        before = self.row
        if before is None:
            self.row = self.table.nearest_row(concurrency)
            return self._decision(self.row, False, None)
        row = self.table.rows[before]
        low, high = self.table.bounds[before]
        up = row.get("switch_up_at") or high + 1
        down = row.get("switch_down_at")
        down = low - 1 if down is None else down
        leaves_up = concurrency >= up and before + 1 < len(self.table.rows)
        leaves_down = concurrency <= down and before > 0
        if leaves_up or leaves_down:
            self.row = self.table.nearest_row(concurrency)
        chosen = before if self.row is None else self.row
        if chosen == before:
            return self._decision(before, False, None)
        adjacent = abs(chosen - before) == 1
        name = "to_next" if chosen > before else "to_previous"
        return self._decision(chosen, True, row.get(name) if adjacent else None)

    def _decision(self, row: int, switched: bool, switch: dict[str, Any] | None) -> Decision:
        low, high = self.table.bounds[row]
        found = switch or {}
        return Decision(
            row,
            self.table.rows[row]["recipe"],
            low,
            high,
            switched,
            str(found.get("summary", "")),
            found.get("drain_s"),
            found.get("warmup_s"),
        )


def answer(table: Table, concurrency: int, serving: int | None = None) -> dict[str, Any]:
    """Everything the table says about a load, in plain form."""
    if serving is None:
        table.row_for(concurrency)
    decision = Dispatcher(table, serving).update(concurrency)
    row = table.rows[decision.row]
    expected = table.expect(concurrency, decision.row)
    return {
        "concurrency": concurrency,
        "row": decision.row,
        "recipe": decision.recipe["name"],
        "min_concurrency": decision.min_concurrency,
        "max_concurrency": decision.max_concurrency,
        "max_running": row.get("max_running"),
        "switched": decision.switched,
        "switch": decision.summary,
        "drain_s": decision.drain_s,
        "warmup_s": decision.warmup_s,
        "switch_up_at": row.get("switch_up_at"),
        "switch_down_at": row.get("switch_down_at"),
        "expected": expected.metrics if expected else None,
        "limit": expected.limit if expected else "",
        "source": expected.source if expected else "",
    }


def answer_text(found: dict[str, Any]) -> str:
    """The answer as lines for a person."""
    lines = [
        f"recipe      {found['recipe']}",
        f"serves      concurrency {found['min_concurrency']}-{found['max_concurrency']}",
    ]
    if found["max_running"]:
        lines.append(f"limit       {found['limit'] or '-'}; {found['max_running']} requests decode at once")
    if found["expected"]:
        e = found["expected"]
        lines.append(
            f"expected    TTFT {e['median_ttft_ms']:.0f} ms, TPOT {e['median_tpot_ms']:.2f} ms (medians), "
            f"{e['tokens_per_s_per_user']:.1f} tok/s/user, {e['total_tokens_per_s_per_gpu']:.0f} tok/s/GPU "
            f"({found['source']})"
        )
    up, down = found["switch_up_at"], found["switch_down_at"]
    if up or down is not None:
        lines.append(f"hysteresis  up at {up or '-'}, down at {'-' if down is None else down}")
    if found["switched"]:
        times = ""
        if found["drain_s"] is not None and found["warmup_s"] is not None:
            times = f" (drain {found['drain_s']:.0f} s, warm-up {found['warmup_s']:.0f} s)"
        lines.append(f"switch      {found['switch'] or 'several rows away: restart all'}{times}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; 2 after a wrong table or load."""
    parser = argparse.ArgumentParser(description="Which recipe serves a load?")
    parser.add_argument("table", help="dispatch.json")
    parser.add_argument("concurrency", type=int, help="requests in flight")
    parser.add_argument("--serving", type=int, metavar="ROW", help="row that serves now, counted from 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    try:
        table = Table.load(given.table)
        if given.serving is not None and not 0 <= given.serving < len(table.rows):
            raise TableError(f"serving={given.serving} is no row; the table has {len(table.rows)}")
        found = answer(table, given.concurrency, given.serving)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if given.json else answer_text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
