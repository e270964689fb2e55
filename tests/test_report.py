"""The page and its tables: what is said beside the numbers, and what becomes of results that are no longer whole."""

import csv
import json
import shutil
import sys

import matplotlib
import pytest
from conftest import ROOT
from matplotlib import pyplot

from morocco_lib import formatting
from morocco_lib.report import figures, tables

PROGRAM = f"{sys.executable} {ROOT / 'docs/example_model.py'}"


def bench_args(data, out, *options):
    return ("bench", "--command", PROGRAM, "terra", "--data", data, "--out", out, "--repeats", 1, *options)


@pytest.fixture(scope="module")
def point(main, synthetic_data, tmp_path_factory):
    """A folder with one bench."""
    folder = tmp_path_factory.mktemp("point")
    done = main(*bench_args(synthetic_data / "TERRa/val.jsonl", folder / "bench", "--input-size", 300))
    assert done.returncode == 0, done.stderr
    return folder


def page_of(done):
    """Return the text of the page that `morocco report` named."""
    assert done.returncode == 0, done.stderr
    with open(done.stdout.strip(), encoding="utf-8") as page:
        return page.read()


# -- rows ----------------------------------------------------------------------------------------------------------
def test_a_report_holds_the_numbers_of_a_bench(main, point, tmp_path):
    text = page_of(main("report", point, "--out", tmp_path / "page"))
    result = json.loads((point / "bench/bench.json").read_text())
    with (tmp_path / "page/table.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["speed_per_s"]) == result["speed_per_s"]["value"]
    assert (float(row["score"]), row["model"], row["verdict"]) == (result["score"]["value"], "example_model", "VALID")
    assert f"{result['score']['value']:.3f}" in text and "example_model" in text and text.count("<svg") == 2


def test_what_is_invalid_stands_in_grey_with_its_reason(main, point, tmp_path):
    (row,) = tables.collect(point)
    valid, invalid = row | {"model": "one"}, row | {"model": "other", "verdict": "INVALID", "reasons": ["DRIFT"]}
    styles = tables.styled([valid, invalid])._compute().ctx
    assert {place[0] for place, style in styles.items() if ("color", "#999999") in style} == {1}
    assert "INVALID DRIFT" in tables.styled([valid, invalid, invalid]).to_html()  # two of one name


@pytest.mark.parametrize("broken", ["{", "[]", "without a speed"])
def test_a_result_that_is_no_longer_whole_is_named(main, point, tmp_path, broken):
    folder = shutil.copytree(point, tmp_path / "copy")
    path = folder / "bench/bench.json"
    result = json.loads(path.read_text())
    del result["speed_per_s"]
    path.write_text(json.dumps(result) if broken == "without a speed" else broken)
    done = main("report", folder)
    assert done.returncode == 2 and str(path) in done.stderr and "run the step again" in done.stderr
    assert not list(folder.glob("report-*/report.html"))


def test_without_a_bench_or_an_eval_there_is_nothing_to_report(main, synthetic_data, tmp_path):
    done = main("train", "majority", "terra", "--data", synthetic_data, "--out", tmp_path / "plan/train")
    assert done.returncode == 0, done.stderr
    done = main("report", tmp_path / "plan")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no result in {tmp_path / 'plan'}; a report shows bench and eval steps" in done.stderr


def test_a_step_that_failed_is_in_the_report_with_its_reason(main, synthetic_data, tmp_path):
    (tmp_path / "train.jsonl").symlink_to(synthetic_data / "TERRa/test.jsonl")
    done = main("train", "majority", "terra", "--data", tmp_path, "--out", tmp_path / "plan/train")
    assert done.returncode == 2
    text = page_of(main("report", tmp_path / "plan"))
    assert "FAILED" in text and "majority on terra: train failed: " in text and "have no label" in text


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_score_on_the_records_of_training_is_called_that(main, synthetic_data, tmp_path, split):
    done = main("train", "majority", "terra", "--data", synthetic_data, "--out", tmp_path / "trained")
    assert done.returncode == 0, done.stderr
    data = synthetic_data / f"TERRa/{split}.jsonl"
    done = main(*bench_args(data, tmp_path / "benched", "--model", "majority", "--input-size", 50))
    assert done.returncode == 0, done.stderr
    text = page_of(main("report", tmp_path))
    assert ("terra: scored on the very records that were given for training" in text) == (split == "train")


# -- words ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("score", "said"),
    [
        ((0.2, 0.3, 0.4), "below the most frequent answer's 0.500"),
        ((0.4, 0.45, 0.6), "below, though not clearly, the most frequent answer's 0.500"),
        ((0.45, 0.55, 0.6), "not clearly above the most frequent answer's 0.500"),
        ((0.6, 0.7, 0.8), "above the most frequent answer's 0.500"),
        ((None, None, None), ""),
    ],
)
def test_a_score_is_held_against_the_most_frequent_answer(score, said):
    low, value, high = score
    assert formatting.majority_words({"value": value, "low": low, "high": high, "majority": {"value": 0.5}}) == said


# -- figures -------------------------------------------------------------------------------------------------------
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


def test_a_folder_without_results_is_refused_and_left_as_it_was(main, tmp_path):
    done = main("report", tmp_path)
    assert done.returncode == 2 and f"no result in {tmp_path}" in done.stderr
    assert list(tmp_path.iterdir()) == []
