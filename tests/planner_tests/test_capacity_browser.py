"""Pages of the capacity commands in a real browser: figures, controls, readouts, narrow screens, paper."""

from __future__ import annotations

import pytest

from planner.text_table import number, percent
from planner.whatif_picture import bars
from tests.planner_tests.capacity_samples import (
    SAMPLES,
    sample_compare,
    sample_day,
    sample_grid,
    sample_page,
    sample_size,
    sample_whatif,
)

TOTAL = "total_tokens_per_s_per_gpu"
COST = "cost_per_million_tokens"


@pytest.fixture
def open_sample(visit, tmp_path):
    """Opens the page of a sample with context options."""

    def opened(name, **options):
        file = tmp_path / f"{name}.html"
        file.write_text(sample_page(name))
        return visit(file, **options)

    return opened


def cells(page, table, label):
    return page.locator(f"table:has(caption:has-text('{table}')) td[data-label='{label}']").all()


def values(page, table, label):
    """Raw values of a column of the table whose caption holds this text."""
    found = [cell.get_attribute("data-value") for cell in cells(page, table, label)]
    return [None if value is None else float(value) for value in found]


def texts(page, table, label):
    return [cell.inner_text() for cell in cells(page, table, label)]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_opens_on_phones_and_on_paper(open_sample, name):
    page = open_sample(name, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    assert page.locator("#reproduce code").inner_text() == f"servecast {name}"
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert page.locator("form.controls").first.is_hidden()
    page.set_viewport_size({"width": 700, "height": 990})  # A4 within its margins
    cut = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    assert page.evaluate(f"{cut}.map((e) => e.getAttribute('aria-label'))") == []
    assert page.pdf(format="A4").startswith(b"%PDF")
    nameless = """[...document.querySelectorAll('button, select, input, a, [tabindex="0"], [role=img]')]
        .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"""
    assert page.evaluate(nameless) == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", SAMPLES)
def test_without_scripts_the_result_is_there_as_text(open_sample, name):
    page = open_sample(name, java_script_enabled=False)
    assert len(page.locator("noscript pre").inner_text()) > 300


def test_scenarios_and_their_changes_are_those_of_the_json(open_sample):
    page, found = open_sample("whatif"), sample_whatif()
    everything = [found.base, *found.scenarios]
    assert texts(page, "Scenarios", "scenario") == [one.name for one in everything]
    assert values(page, "Scenarios", "tok/s/GPU") == [
        one.prediction.metrics[TOTAL] if one.prediction else None for one in everything
    ]
    assert values(page, "Scenarios", "$/M tokens") == [
        one.cost.per_million_tokens if one.cost else None for one in everything
    ]
    row = page.locator("table:has(caption:text-is('Scenarios')) tbody tr", has_text="workload.isl=1024")
    longer = next(one for one in found.scenarios if one.name == "workload.isl=1024")
    assert longer.prediction is not None and longer.cost is not None
    interval = longer.prediction.intervals[TOTAL]
    for text in (
        f"{number(interval.low)} to {number(interval.high)}",
        percent(longer.differences[TOTAL], signed=True),
        number(longer.cost.per_million_tokens),
    ):
        assert text in row.inner_text()
    limits = page.locator("table:has(caption:has-text('gained by a tenth')) tbody tr")
    limits = limits.filter(has_text="workload.isl=1024")
    assert percent(longer.prediction.gains["decode step time"], signed=True) in limits.first.inner_text()
    assert "cannot run" in texts(page, "Scenarios", "limit")
    assert "Outage: aggregated:0 after" in page.inner_text("main")


def test_bars_follow_the_metric_and_tell_their_scenario(open_sample):
    page, found = open_sample("whatif"), sample_whatif()
    page.select_option("#w-metric", COST)
    order = [name for name, _ in bars(found, COST)][::-1]
    assert page.locator("#tornado .name").all_inner_texts()[:3] == order[:3]
    price = page.get_by_role("button", name="price=x2")
    price.hover()
    said = page.locator(".readout").inner_text()
    assert "$ per million tokens" in said and "(+100.0 %)" in said and "price=x2" in said
    assert price.bounding_box()["width"] > 20 and "worse" in price.get_attribute("class")


def test_filters_leave_scenarios_that_matter(open_sample):
    page, found = open_sample("whatif"), sample_whatif()
    page.check("#w-noise")
    loud = [one.name for one in found.scenarios if abs(one.differences.get(TOTAL, 1)) >= 0.02]
    counted = f"{len(loud)} of {len(found.scenarios)} scenarios shown"
    assert page.locator("#whatif-count").inner_text() == counted
    assert texts(page, "Scenarios", "scenario") == ["base", *loud]
    page.uncheck("#w-noise")
    page.check("#w-limit")
    other = [one.name for one in found.scenarios if one.limit != found.base.limit]
    assert texts(page, "Scenarios", "scenario") == ["base", *other]


def test_cells_of_the_heat_map_are_scenarios(open_sample):
    page, found = open_sample("grid"), sample_grid()
    shown = [float(cell.get_attribute("data-value")) for cell in page.locator("#heat td").all()]
    assert shown == [one.differences[TOTAL] for one in found.scenarios]
    page.locator("#heat button").nth(4).focus()
    said = page.locator(".readout").inner_text()
    assert found.scenarios[4].name in said
    chosen = found.scenarios[4].prediction
    assert chosen is not None and number(chosen.metrics[TOTAL]) in said
    page.select_option("#w-metric", "median_ttft_ms")
    worst = max(range(6), key=lambda i: found.scenarios[i].differences["median_ttft_ms"])
    assert "worse" in page.locator("#heat button").nth(worst).get_attribute("class")


def test_fleets_of_a_level_are_those_of_the_json_at_the_price_that_is_typed(open_sample):
    page, found, table = open_sample("size"), sample_size(), "Fleets of the level"
    for index, level in enumerate(found.levels):
        page.select_option("#s-level", str(index))
        assert values(page, table, "GPUs") == [fleet.num_gpus for fleet in level.fleets]
        assert values(page, table, "nodes") == [fleet.nodes for fleet in level.fleets]
        assert values(page, "What they cost", "$/M in+out") == pytest.approx(
            [fleet.cost.per_million_tokens for fleet in level.fleets]
        )
    page.select_option("#s-level", "0")
    fleets = found.levels[0].fleets
    hourly = {fleet.hardware: fleet.cost.dollars_per_hour for fleet in fleets}
    page.fill("#price-h200", "10")
    assert values(page, "What they cost", "$/h") == pytest.approx([hourly["b200"], 2 * hourly["h200"]])
    page.fill("#price-h200", "")
    assert texts(page, "What they cost", "$/h")[1] == "–"
    page.uncheck("#s-h200")
    assert texts(page, table, "platform") == ["b200"]
    lost = {text for text in texts(page, fleets[0].topology, "that is")}
    assert lost == {loss.label for loss in fleets[0].losses}
    assert "h200: what it can lose" not in page.locator("#size").inner_text()


def test_memory_of_fleets_and_sources_of_platforms_are_there(open_sample):
    page = open_sample("size")
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    blocks = page.locator("#recipes figure:has(h3:has-text('Memory:'))")
    assert blocks.count() == sum(len(f.recipe.groups) for f in sample_size().levels[0].fleets)
    assert page.locator("#assumptions h3:has-text('Platform:')").count() == 2
    assert "Limit:" in page.locator("#case-1").inner_text()


def test_fronts_by_throughput_and_by_cost(open_sample):
    page, found, table = open_sample("compare"), sample_compare(), "Members of the fronts"
    points = [point for front in found.fronts for point in front.points]
    assert page.locator("#fronts-chart .point").count() == len(points)
    assert values(page, table, "tok/s/user") == [point.tokens_per_s_per_user for point in points]
    assert values(page, table, "$/M tokens") == pytest.approx([p.per_million_tokens for p in points])
    page.locator("#fronts-chart").focus()
    for _ in found.fronts[0].points:
        page.keyboard.press("ArrowRight")
    tip = page.locator("#compare .tip")
    last = found.fronts[0].points[-1]
    assert number(last.tokens_per_s_per_user) in tip.inner_text() and last.topology in tip.inner_text()
    interval = last.intervals[TOTAL]
    assert f"{number(interval.low)} to {number(interval.high)} tok/s/GPU" in tip.inner_text()
    page.keyboard.press("ArrowDown")
    assert "h200" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.select_option("#c-axis", "cost")
    assert "$ per million tokens" in page.locator("#fronts-chart").text_content()
    page.uncheck("#c-h200")
    assert page.locator("#fronts-chart .point").count() == len(found.fronts[0].points)


def test_the_cheapest_that_is_fast_enough(open_sample):
    page, found = open_sample("compare"), sample_compare()
    for speed in (1, 100, 1000000):
        page.fill("#c-speed", str(speed))
        best = [front.cheapest(speed) for front in found.fronts]
        for shown, point in zip(values(page, "Least dollars", "$/M tokens"), best, strict=True):
            assert shown == (None if point is None else pytest.approx(point.per_million_tokens))


def test_the_day_by_policy(open_sample):
    page, found = open_sample("autoscale"), sample_day()
    assert values(page, "Policies", "GPU-hours") == [day.gpu_hours for day in found.days]
    assert values(page, "Policies", "outside the goal") == [day.missed_share for day in found.days]
    assert page.locator("#day-chart .series").count() == 4
    page.locator("#day-chart").focus()
    page.keyboard.press("ArrowDown")
    said = page.locator("#autoscale .tip").inner_text()
    assert f"{found.days[0].timeline[0].num_gpus} GPUs paid for" in said
    page.select_option("#d-what", "rate")
    assert "requests/s" in page.locator("#day-chart").text_content()
    page.uncheck("#d-oracle")
    assert page.locator("#day-chart .series").count() == 3
