"""Recipes of earlier plans, to begin a search with: of other lengths, loads, limits or engine builds."""

from __future__ import annotations

from collections.abc import Sequence

from planner.evaluate import Bench
from planner.screen import Candidate, Tally, lawful, lawful_candidate
from search_spaces import catalog_loader
from search_spaces.dispatch import DispatchRow, DispatchTable
from search_spaces.errors import BadInput
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace
from search_spaces.space_points import Site, locate
from search_spaces.workload import Workload

ORIGIN = "earlier plan"


def check_tables(bench: Bench, tables: Sequence[DispatchTable]) -> None:
    """Refuse tables of another model or platform, whose recipes say nothing here.

    Raises:
        BadInput: names what differs.
    """
    for table in tables:
        of = catalog_loader.model(table.model).name, catalog_loader.hardware(table.hardware).name
        if of != (bench.model.name, bench.hardware.name):
            raise BadInput(
                f"warm_start: a table of {of[0]} on {of[1]} cannot start a plan for {bench.model.name} on "
                f"{bench.hardware.name}; give a plan of the same model and platform"
            )


def earlier_recipes(
    bench: Bench,
    spaces: Sequence[SearchSpace],
    tables: Sequence[DispatchTable],
    concurrency: int,
    num_gpus: int,
    tally: Tally,
) -> list[Candidate]:
    """Recipes of rows that hold a load or lie next to it, with knobs that follow from the load derived anew.

    Args:
        bench: what is planned for.
        spaces: in which recipes are looked for; others are taken as they are, where the laws allow.
        tables: earlier ones, checked.
        concurrency: the load.
        num_gpus: most GPUs.
        tally: counts what is considered.
    """
    found: dict[str, Candidate] = {}
    for table in tables:
        lengths = Workload(isl=table.isl, osl=table.osl, random_range_ratio=table.random_range_ratio)
        for row in _near(table.rows, concurrency):
            site = Site(bench.model, bench.hardware, lengths.at(row.max_concurrency))
            candidate = _candidate(bench, spaces, row.recipe, site, concurrency, num_gpus, tally)
            if candidate is not None:
                found.setdefault(candidate.recipe.digest, candidate)
    return list(found.values())


def _near(rows: Sequence[DispatchRow], concurrency: int) -> list[DispatchRow]:
    """The rows around a load: the one that holds it, and those before and behind."""
    home = min(
        range(len(rows)),
        key=lambda i: max(rows[i].min_concurrency - concurrency, concurrency - rows[i].max_concurrency, 0),
    )
    return list(rows[max(0, home - 1) : home + 2])


def _candidate(
    bench: Bench,
    spaces: Sequence[SearchSpace],
    recipe: Recipe,
    site: Site,
    concurrency: int,
    num_gpus: int,
    tally: Tally,
) -> Candidate | None:
    for space in spaces:
        point, lacking = locate(space, recipe, site)
        if not lacking:
            found = lawful_candidate(bench, space, point, concurrency, num_gpus, tally)
            return found and Candidate(found.recipe, ORIGIN, found.point, found.space)
    if recipe.num_gpus > num_gpus or lawful(bench, recipe, concurrency) is not None:
        return None
    return Candidate(recipe, ORIGIN)
