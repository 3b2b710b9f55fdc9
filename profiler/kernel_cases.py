"""The grid of kernel measurements of a platform: every shape its models and parallel plans ask for.

Shapes come from `ModelSpec` and the platform's search spaces, so a new model or plan brings its own
cases. The order makes an interrupted run useful: first every family on a coarse grid, then the
refinements. Shapes that several models or plans share appear once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from profiler import kernel_cases_attention as attention
from profiler import kernel_cases_dense as dense
from profiler import kernel_cases_links as links
from profiler import kernel_cases_moe as moe
from profiler.kernel_case import KernelCase
from profiler.kernel_plans import RankPlan
from search_spaces.errors import BadInput
from search_spaces.model import ModelSpec

FAMILIES = (
    "ceilings",
    "gemm",
    "moe",
    "flashmla",
    "indexer",
    "topk",
    "mhc",
    "compress",
    "elementwise",
    "router",
    "fp4",
    "links",
    "deepep",
)
"""Families in the order in which one level walks through them."""


def kernel_cases(
    models: Sequence[ModelSpec], plans: Sequence[RankPlan], families: Iterable[str] = ()
) -> list[KernelCase]:
    """Every case once, coarse levels first, families taken in turn within a level.

    Args:
        models: whose shapes to measure.
        plans: how ranks slice them; a plan that does not divide a model is left out for it.
        families: only these; all where empty.

    Raises:
        BadInput: a family that does not exist.
    """
    wanted = tuple(families) or FAMILIES
    unknown = sorted(set(wanted) - set(FAMILIES))
    if unknown:
        raise BadInput(f"only={unknown[0]!r} is no kernel family; choose among {', '.join(FAMILIES)}")
    found: dict[str, KernelCase] = {}
    for case in _all(models, plans):
        if case.family in wanted:
            known = found.get(case.key)
            if known is None or case.level < known.level:
                found[case.key] = case
    return ordered(found.values())


def ordered(cases: Iterable[KernelCase]) -> list[KernelCase]:
    """By level; within a level one case of each family in turn."""
    levels: dict[int, dict[str, list[KernelCase]]] = {}
    for case in cases:
        levels.setdefault(case.level, {name: [] for name in FAMILIES})[case.family].append(case)
    return [
        case
        for _, queues in sorted(levels.items())
        for turn in zip_longest(*queues.values())
        for case in turn
        if case is not None
    ]


def _all(models: Sequence[ModelSpec], plans: Sequence[RankPlan]) -> Iterator[KernelCase]:
    yield from dense.ceiling_cases()
    for model in models:
        fitting = [plan for plan in plans if plan.fits(model)]
        yield from dense.gemm_cases(model, fitting)
        yield from dense.elementwise_cases(model, fitting)
        yield from dense.mhc_cases(model)
        yield from attention.flashmla_cases(model, fitting)
        yield from attention.indexer_cases(model)
        yield from attention.topk_cases(model)
        yield from attention.compress_cases(model)
        yield from moe.moe_cases(model, fitting)
        yield from moe.router_cases(model)
        yield from moe.fp4_cases(model, fitting)
        yield from links.deepep_cases(model)
    yield from links.link_cases()
