"""The report page in a real browser: nothing asked for from outside, and what a person does on it works."""

import pytest
import run_folders

from morocco_lib.pipeline.report_step import report_step


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of two models: the first faster, the second larger."""
    plan = tmp_path_factory.mktemp("browser") / "plan"
    for model, rate, held in (("small", 500, 20 << 20), ("wide", 100, 80 << 20)):
        samples = [run_folders.sample(held, t_ns=t_ns) for t_ns in (0, 10**9)]
        arrivals = run_folders.steady(60, 4, rate)
        run_folders.bench_step(plan / f"{model}/terra/bench-1", model, arrivals=arrivals, samples=samples)
    return report_step(plan)


def models(page):
    return page.locator("#results tbody tr:not([hidden]) td:nth-child(2)").evaluate_all(
        "cells => cells.map(c => c.firstChild.textContent)"
    )


def test_a_head_sorts_by_number_and_words_filter(report, opened):
    page = opened(report)
    assert models(page) == ["small", "wide"]
    page.get_by_role("button", name="memory", exact=True).press("Enter")  # by the keyboard; the largest first
    assert models(page) == ["wide", "small"]
    page.get_by_role("button", name="memory", exact=True).click()
    assert models(page) == ["small", "wide"]
    page.fill("#filter", "WIDE valid")
    assert models(page) == ["wide"] and page.inner_text("#count") == "1 of 2"
    page.fill("#filter", "nothing like it")
    assert models(page) == []


def test_a_number_leads_to_its_runs_and_its_notebook(report, opened):
    page = opened(report)
    page.locator("#results tbody tr:nth-child(2) td:nth-child(3) a").click()
    page.wait_for_url("**#point-1")
    target = page.locator(":target")
    assert "runs/01" in target.inner_text() and "wide" in target.inner_text()
    target.get_by_role("link").first.click()
    page.wait_for_url("**/notebooks/*wide-terra-bench*")
    assert page.inner_text("body") == "wide ran"


def test_the_chart_tells_of_a_disc_and_leads_to_its_runs(report, opened):
    page = opened(report)
    assert page.locator("#view option").all_inner_texts() == ["terra"]
    page.wait_for_function("() => [...Bokeh.index][0]?.frame?.bbox.width > 0")
    x, y = page.evaluate(
        """() => {
            document.querySelector("#chart").scrollIntoView();
            const plot = [...Bokeh.index][0], { x, y } = plot.model.renderers.at(-1).data_source.data;
            const box = plot.el.getBoundingClientRect(), { x_scale, y_scale } = plot.frame;
            return [box.x + x_scale.compute(x[1]), box.y + y_scale.compute(y[1])];
        }"""
    )
    page.mouse.move(x, y - 1)
    page.mouse.move(x, y)
    told = page.locator(".bk-tooltip-content").first.inner_text(timeout=5000)
    assert "wide, batch 8: VALID" in told and "80.0 MiB" in told and "100.0" in told
    page.mouse.click(x, y)
    page.wait_for_url("**#point-1", timeout=5000)


def test_a_narrow_screen_scrolls_tables_and_not_the_page(report, opened):
    page = opened(report, viewport={"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_dark_screen_gets_light_text_on_dark(report, opened):
    page = opened(report, color_scheme="dark")
    shades = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    text, ground = (sum(map(int, shade[4:-1].split(", "))) for shade in shades)
    assert text > 600 and ground < 150


def test_without_scripts_every_number_and_figure_is_there(report, opened):
    page = opened(report, java_script_enabled=False)
    assert models(page) == ["small", "wide"] and page.locator("figure svg").count() == 2
    assert not page.locator("#tools").is_visible() and not page.locator("#chart-part").is_visible()
