"""A small plan made by hand, and its report: what the page tests look at."""

from __future__ import annotations

from functools import cache
from typing import Any

from planner.plan_types import EvaluatedPoint, PlanRequest, PlanResult, PublicComparison
from planner.report_data import ReportData, plan_report
from search_spaces.dispatch import DispatchRow, DispatchTable, PredictedMetrics, Switch
from search_spaces.recipe import Recipe
from tests.planner_tests.samples import SINGLE, TP8

HOSTILE = "</script><script>document.title='taken'</script><!--"
"""A text that would end the script element that holds it."""
TOTAL = "total_tokens_per_s_per_gpu"
TIE = {"runner_up": "2xTP8", "lead": 0.015, "tie": True}
PLAIN = Recipe.model_validate(SINGLE)
DRAFTING = Recipe.model_validate(
    {
        "name": HOSTILE,
        "model": SINGLE["model"],
        "hardware": "b200",
        "prefill": TP8,
        "decode": TP8 | {"mtp": {"num_steps": 3}},
        "transfer_backend": "nixl",
    }
)
REQUEST = PlanRequest(
    model="deepseek-ai/DeepSeek-V4-Pro",
    hardware="b200",
    num_gpus=16,
    isl=256,
    osl=16,
    concurrencies=(1, 2, 4),
    trials=0,
)


def _predicted(load: int, total: float, user: float, **more: Any) -> PredictedMetrics:
    times = {"median_tpot_ms": 1000 / user, "mean_tpot_ms": 1001 / user}
    waits = {"median_ttft_ms": 123.456, "mean_ttft_ms": 130.0}
    return PredictedMetrics.model_validate(
        {
            "concurrency": load,
            "total_tokens_per_s_per_gpu": total,
            "output_tokens_per_s_per_gpu": total / 9,
            "tokens_per_s_per_user": user,
            "limit": "decode step time",
            **times,
            **waits,
            **more,
        }
    )


def _point(recipe: Recipe, load: int, total: float, user: float, **changes: Any) -> EvaluatedPoint:
    values = {
        "recipe": recipe.name,
        "topology": recipe.topology,
        "digest": recipe.digest,
        "mtp_steps": recipe.mtp.num_steps if recipe.mtp else 0,
        "origin": "search",
        "num_gpus": recipe.num_gpus,
        "concurrency": load,
        "total_tokens_per_s_per_gpu": total,
        "tokens_per_s_per_user": user,
        "median_ttft_ms": 123.456,
        "usable": True,
        "full": True,
    }
    return EvaluatedPoint.model_validate(values | changes)


@cache
def sample_plan() -> PlanResult:
    """Two rows; seven points, one of them unusable; one public recipe; one load without a recipe."""
    rows = (
        DispatchRow(
            min_concurrency=1,
            max_concurrency=2,
            recipe=PLAIN,
            predictions=(_predicted(1, 801.25, 120.5), _predicted(2, 1234.5678, 98.7654)),
            regret=0.0125,
            switch_up_at=3,
            to_next=Switch(summary="restart", steps=(), drain_s=7.5, warmup_s=900, lost_gpu_s=9000),
        ),
        DispatchRow(
            min_concurrency=3,
            max_concurrency=4,
            recipe=DRAFTING,
            predictions=(
                _predicted(4, 987.25, 45.625, **{f"{TOTAL}_low": 900.5, f"{TOTAL}_high": 1100}, **TIE),
            ),
            regret=0.0,
            switch_down_at=1,
        ),
    )
    points = [
        _point(PLAIN, 1, 801.25, 120.5),
        _point(PLAIN, 2, 1234.5678, 98.7654, origin="public"),
        _point(PLAIN, 4, 1500.5, 60.25, full=False),
        _point(PLAIN, 4, 2000.0, 10.0, usable=False),
        _point(DRAFTING, 1, 200.5, 180.125),
        _point(DRAFTING, 2, 950.75, 90.5),
        _point(DRAFTING, 4, 987.25, 45.625),
    ]
    table = DispatchTable(
        model=REQUEST.model,
        hardware="b200",
        stack="june",
        isl=256,
        osl=16,
        num_gpus=16,
        rows=rows,
    )
    comparison = PublicComparison(
        concurrency=2,
        public="ix/open-recipe",
        recommended="single",
        public_tokens_per_s_per_gpu=1100.5,
        recommended_tokens_per_s_per_gpu=1234.5678,
        public_tokens_per_s_per_user=90.25,
        recommended_tokens_per_s_per_user=98.7654,
    )
    counts: dict[str, int | dict[str, int]] = {
        "considered": 10,
        "pruned_by_rule": {"memory": 3},
        "screened_by_fluid_model": 7,
        "simulations": 7,
    }
    return PlanResult(
        request=REQUEST,
        table=table,
        regret_by_recipes=[0.25, 0.0],
        counts=counts,
        points=points,
        comparisons=[comparison],
        skipped={9: f"no recipe {HOSTILE}"},
    )


@cache
def sample_report() -> ReportData:
    """The report of the plan; its recipes are simulated."""
    return plan_report(sample_plan(), "servecast plan --out 'plan out'")
