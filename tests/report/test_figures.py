"""Figures: what they show of which rows, and that thinning keeps spikes."""

import html

import matplotlib
import pytest
from matplotlib import pyplot

from morocco_lib.report import figures


@pytest.fixture
def drawn():
    matplotlib.use("agg")
    yield
    pyplot.close("all")


def scored(model, task, value):
    return {"model": model, "task": task, "score": {"value": value, "majority": {"value": 0.5}}}


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's own
def test_the_overview_shows_of_every_model_and_task_the_best_operating_point(drawn):
    rows = [scored("a", "rcb", 0.4), scored("a", "rcb", 0.6), scored("a", "terra", 0.7), scored("b", "terra", 0.2)]
    figure = figures.overview([*rows, scored("b", "rcb", None)])
    grid, _ = figure.axes
    names = [[label.get_text() for label in axis.get_ticklabels()] for axis in (grid.yaxis, grid.xaxis)]
    assert names == [["a", "b"], ["rcb", "terra"]]
    assert [text.get_text() for text in grid.texts] == ["0.600", "0.700", "0.200"]


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")  # seaborn's own
def test_a_name_is_no_formula_and_no_markup(drawn):
    names = ("$x", r"$\frac{a$", "a_$_b", "<b>&amp;")
    rows = [scored(model, task, 0.6) for model in names for task in ("rcb", "terra")]
    text = figures.svg(figures.overview(rows))
    assert all(html.escape(name, quote=False) in text for name in names) and "<b>" not in text


@pytest.mark.parametrize("others", [[], [("b", "terra")], [("a", "rcb")]])
def test_one_model_or_one_task_makes_no_overview(drawn, others):
    rows = [scored("a", "terra", 0.5), *(scored(model, task, 0.5) for model, task in others)]
    assert figures.overview(rows) is None


def test_a_long_line_is_thinned_and_loses_no_spike():
    xs, ys = list(range(10_000)), [1.0] * 10_000
    ys[4321], ys[8765] = 99.0, -5.0
    thin_xs, thin_ys = figures._thin(xs, ys)
    assert len(thin_xs) <= figures.POINTS + 2 and thin_xs == sorted(thin_xs)
    assert (thin_xs[0], thin_xs[-1], max(thin_ys), min(thin_ys)) == (0, 9999, 99.0, -5.0)
    assert thin_ys[thin_xs.index(4321)] == 99.0
    assert figures._thin(xs[:300], ys[:300]) == (xs[:300], ys[:300])
