"""The report page in a real browser: figures, filters, sorting, readout, narrow screens, paper, dark mode."""

from __future__ import annotations

import json

import pytest

from planner.html_report import html_page
from planner.report import pareto_front
from planner.text_table import number, percent
from tests.planner_tests.report_samples import HOSTILE, sample_plan, sample_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHART = "#front svg[role=application]"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    path.write_text(html_page(sample_report()))
    return path


@pytest.fixture
def open_page(visit, file):
    """Opens the page with context options."""
    return lambda **options: visit(file, **options)


@pytest.fixture
def page(open_page):
    return open_page()


def column(page, table, label):
    """Texts and raw values of a column of the table with this caption."""
    cells = page.locator(f"table:has(caption:text-is('{table}')) td[data-label='{label}']").all()
    return [cell.inner_text() for cell in cells], [cell.get_attribute("data-value") for cell in cells]


def shown_points(page):
    return page.locator(f"{CHART} .point").count()


def place(page, point):
    """Pixel of a point on the page, from the axes' labels rather than from the script's own scale."""
    script = """() => [...document.querySelectorAll('#front .chart text[text-anchor=end]')]
        .map((label) => [label.textContent, label.getAttribute('x'), label.getAttribute('y')])"""
    labels = [(float(text.replace(",", "")), float(x), float(y)) for text, x, y in page.evaluate(script)]
    left = min(x for _, x, _ in labels)
    rows = [(value, y - 4) for value, x, y in labels if x == left]
    (right,) = [(value, x) for value, x, _ in labels if x != left]
    low, high = min(rows), max(rows)
    y = low[1] + (point.total_tokens_per_s_per_gpu - low[0]) / (high[0] - low[0]) * (high[1] - low[1])
    x = left + 6 + point.tokens_per_s_per_user / right[0] * (right[1] - left - 6)
    box = page.locator(CHART).bounding_box()
    return box["x"] + x, box["y"] + y


def test_figures_of_the_dispatch_table_are_those_of_the_json(page):
    rows = [row.predictions[-1] for row in sample_plan().table.rows]
    for label, name in (
        ("tok/s/user", "tokens_per_s_per_user"),
        ("TPOT ms", "median_tpot_ms"),
    ):
        texts, values = column(page, "Recipes by concurrency", label)
        assert [float(value) for value in values] == [getattr(best, name) for best in rows]
        assert texts == [number(getattr(best, name)) for best in rows]
    texts, _ = column(page, "Recipes by concurrency", "tok/s/GPU")
    assert texts == ["1,235", "987.2\n900.5 to 1,100"]
    assert column(page, "Recipes by concurrency", "lead")[0] == ["–", "+1.5 %\ntie with 2xTP8"]
    assert page.get_by_text("four in five measure within").count() == 1
    switching = page.locator("table:has(caption:has-text('Drain is predicted'))")
    assert switching.locator("td").all_inner_texts() == ["1–2", "3", "1", "7.500", "900", "2.50", "restart"]
    assert column(page, "Recipes by concurrency", "regret")[0] == ["1.2 %", "0.0 %"]
    assert column(page, "Recipes by concurrency", "concurrency")[0] == ["1–2", "3–4"]
    assert column(page, "Recipes by concurrency", "TTFT s")[0] == [number(0.123456)] * 2


def test_figures_of_the_recipes_are_those_of_the_json(page):
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    for index, case in enumerate(sample_report().cases):
        block = page.locator(f"#case-{index}")
        text = block.inner_text()
        for name, gain in case.prediction.gains.items():
            assert name in text and percent(gain, signed=True) in text
        for name, interval in case.prediction.intervals.items():
            assert f"{number(interval.low)} to {number(interval.high)}" in text, name
        for name, spent in case.prediction.stages_ms.items():
            times = block.locator("figure:has(h3:has-text('time goes'))")
            row = times.locator(f"tr:has(:text-is('{name}'))")
            assert float(row.locator("td").nth(1).get_attribute("data-value")) == spent
            assert row.locator("td").nth(1).inner_text() == number(spent)
        for role in case.explanation.roles:
            figure = block.locator(f"figure:has(h3:has-text('Memory: {role.role}'))")
            values = figure.locator("tbody tr:not(:has(.sub)) td[data-label=GB]").all()
            total = sum(float(cell.get_attribute("data-value")) for cell in values)
            assert total == pytest.approx(role.memory.hbm_bytes)
            weights = figure.locator("tr:has(:text-is('weights')) td[data-label=GB]").inner_text()
            assert weights == f"{sum(role.memory.weights_bytes.values()) / 1e9:.2f}"
        assert case.prediction.metrics["total_tokens_per_s_per_gpu"] in [
            float(value) for value in column(block, "Throughput", "value")[1]
        ]


def test_texts_of_recipes_are_shown_and_not_run(page):
    assert page.title() == "deepseek-ai/DeepSeek-V4-Pro on b200: serving plan"
    assert HOSTILE in page.locator("#case-1").text_content()
    assert f"no recipe {HOSTILE}" in page.locator("#dispatch").inner_text()


def test_the_front_is_the_one_that_the_plan_computes(page):
    page.locator("#front summary").click()
    texts, values = column(page, "Points of the front, of what the filters show", "tok/s/GPU")
    front = pareto_front(sample_plan().points)
    assert [float(value) for value in values] == [point.total_tokens_per_s_per_gpu for point in front]
    assert texts == [number(p.total_tokens_per_s_per_gpu) for p in front] and shown_points(page) == 6


def test_filters_leave_the_points_that_fit(page):
    for control, value, left in (
        ("f-low", "2", 4),
        ("f-high", "1", 2),
        ("f-mtp", "on", 3),
        ("f-mtp", "off", 3),
        ("f-gpus", "8", 3),
        ("f-origin", "public", 1),
    ):
        page.select_option(f"#{control}", value)
        assert shown_points(page) == left, (control, value)
        assert page.locator("#front-count").inner_text().startswith(f"{left} of 6 points")
        page.get_by_role("button", name="Reset").click()
        playwright.expect(page.locator(f"{CHART} .point")).to_have_count(6)


def test_filters_that_leave_nothing_say_so(page):
    page.select_option("#f-origin", "public")
    page.select_option("#f-mtp", "on")
    assert page.locator("#front-count").inner_text() == "0 of 6 points shown, 0 on the front"
    page.locator(CHART).press("ArrowRight")
    assert page.locator(".tip").is_hidden()


def test_sorting_by_mouse_and_keyboard_changes_the_order(page):
    def shown():
        return column(page, "Recipes by concurrency", "tok/s/GPU")[0]

    before = shown()
    head = page.locator("#dispatch table").first.locator("th:has-text('tok/s/GPU')")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and shown() == before[::-1]
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and shown() == before


def test_pointing_at_a_point_shows_its_recipe_and_leaving_hides_it(page):
    public = next(p for p in sample_plan().points if p.origin == "public")
    page.locator(CHART).scroll_into_view_if_needed()
    page.mouse.move(*place(page, public))
    tip = page.locator(".tip")
    text = tip.inner_text()
    assert public.topology in text and f"digest {public.digest}" in text and "public: single" in text
    assert f"{number(public.total_tokens_per_s_per_gpu)} tok/s/GPU" in text
    assert "dispatched for concurrency 1–2" in text
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_arrow_keys_walk_the_front_and_escape_ends_it(page):
    front = pareto_front(sample_plan().points)
    page.locator(CHART).focus()
    for point in front[:3]:
        page.keyboard.press("ArrowRight")
        assert number(point.tokens_per_s_per_user) in page.locator(".tip").inner_text()
    page.keyboard.press("End")
    assert front[-1].digest in page.locator(".tip").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".tip").is_hidden()


def test_the_price_changes_costs_and_nothing_else(page):
    best = [row.predictions[-1] for row in sample_plan().table.rows]
    rate = sample_report().assumptions.hardware.price_per_gpu_hour
    for price in (rate, 2 * rate):
        page.fill("#price", str(price))
        _, values = column(page, "Recipes by concurrency", "$/M tokens")
        wanted = [price / 3600 / p.total_tokens_per_s_per_gpu * 1e6 for p in best]
        assert [float(value) for value in values] == pytest.approx(wanted)
    page.fill("#price", "")
    assert column(page, "Recipes by concurrency", "$/M tokens")[0] == ["–", "–"]


def test_copy_buttons_copy_digest_and_command(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    for label, text in (
        ("Copy the digest of 1xTP8", sample_report().cases[0].digest),
        ("Copy the command", sample_report().command),
    ):
        button = page.get_by_role("button", name=label)
        button.click()
        button.filter(has_text="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == text
    assert page.locator("#command").inner_text() == sample_report().command


def test_a_phone_scrolls_down_only_and_answers_a_tap(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = (
        "[...document.querySelectorAll('#dispatch *')].filter((e) => e.getBoundingClientRect().right > 360)"
    )
    assert page.evaluate(f"{wide}.length") == 0
    page.locator(CHART).scroll_into_view_if_needed()
    page.touchscreen.tap(*place(page, sample_plan().points[1]))
    assert "public: single" in page.locator(".tip").inner_text()


def test_paper_is_light_complete_and_without_controls(open_page):
    page = open_page(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
    assert page.locator("#price").is_visible()  # costs on paper are at the price that stands there
    for hidden in ("nav", "form.controls", "button.copy"):
        assert page.locator(hidden).first.is_hidden()
    folded = page.locator("details:not([open])").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded > 0 and page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_every_control_has_a_name_and_ids_are_unique(page):
    nameless = """[...document.querySelectorAll('button, select, input, a, [tabindex="0"], [role=img]')]
        .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"""
    assert page.evaluate(nameless) == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    linked = page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map((e) => e.hash.slice(1))")
    assert set(linked) <= set(ids)


def test_without_scripts_the_result_is_there_as_text(open_page):
    page = open_page(java_script_enabled=False)
    assert "Dispatch table: deepseek-ai/DeepSeek-V4-Pro on b200" in page.locator("noscript").inner_text()


def test_a_link_to_a_recipe_opens_it(page):
    assert page.locator("#case-1").get_attribute("open") is None
    page.locator("#dispatch a[href='#case-1']").click()
    assert page.locator("#case-1").get_attribute("open") is not None
    assert json.loads(page.locator("#data").text_content())["kind"] == "plan"
