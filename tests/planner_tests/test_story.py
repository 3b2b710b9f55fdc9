"""Curves of two eras and the factor between them, on a platform with few recipes and on made-up curves."""

import pytest

from planner.simulation_cache import SimulationCache
from planner.story import CHAPTERS, Chapter, CurvePoint, Era, front, tell, throughput_at
from planner.story_page import story_page
from search_spaces.recipe import Recipe
from search_spaces.workload import Workload
from simulator.calibration import Calibration
from tests.planner_tests.samples import SINGLE, measured

RECIPE = Recipe.model_validate(SINGLE)
LOAD = Workload(isl=8192, osl=1024, concurrency=1, num_prompts=4)


def at(user, gpu):
    return CurvePoint("r", user, gpu, 1, RECIPE, LOAD, "june")


def test_only_unbeaten_points_are_on_the_front():
    assert [p.gpu for p in front([at(10, 100), at(20, 50), at(15, 40), at(5, 90)])] == [100, 50]


def test_throughput_is_interpolated_and_never_extrapolated():
    curve = [at(10, 100), at(40, 25)]
    assert throughput_at(curve, 20) == pytest.approx(50)
    assert throughput_at(curve, 9) is None and throughput_at(curve, 41) is None
    assert throughput_at(curve, None) == 100 and throughput_at([], None) is None


def test_published_factors_are_those_of_their_numbers():
    assert [round(chapter.ratio, 2) for chapter in CHAPTERS] == [2.12, 5.01, 5.0]


@pytest.fixture(scope="module")
def told():
    chapter = Chapter(
        "B200, one worker", RECIPE.model, "b200", False, Era("day 0", ("day0",), False),
        Era("June", ("june",), False), None, "a made-up claim", 9.0,
    )  # fmt: skip
    cache, points = SimulationCache(None), []
    for stack in ("day0", "june"):
        load = Workload(isl=8192, osl=1024, concurrency=2, num_prompts=4)
        point = measured(stack, total_tokens_per_s_per_gpu=1.0, median_tpot_ms=1.0)
        point = point.model_copy(update={"stack": stack, "workload": load})
        (metrics,) = cache.metrics([point], Calibration())
        assert metrics is not None
        points.append(point.model_copy(update={"measured": {k: metrics[k] for k in point.measured}}))
    return points, tell(chapter, points, Calibration(), cache)


def test_factor_is_split_into_recipe_and_switches(told):
    _, telling = told
    assert telling.ratios["measured points"] == pytest.approx(telling.ratios["ours, the same points"])
    steps = telling.steps
    first, last = steps.start_tokens_per_s_per_gpu, steps.end_tokens_per_s_per_gpu
    whole = telling.ratios["ours, with all public recipes of the later era"]
    assert telling.retuning * last / first == pytest.approx(whole)


def test_page_shows_what_is_not_explained(told):
    points, telling = told
    files = story_page([telling], points, Calibration(), "story")
    page = str(files["story.md"])
    assert files["story-1.png"][:4] == b"\x89PNG" and "(story-1.png)" in page
    assert "against 9.00 published" in page and "mhc_fusion" in page and Calibration().digest in page
