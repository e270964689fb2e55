"""original.ipynb and its tables: known truth comes out, and its conclusions are what the published logs give."""

import ast
import re
from contextlib import chdir
from pathlib import Path

import nbformat
import pytest
from matplotlib import pyplot

import morocco_lib
from morocco_lib import config
from morocco_lib.errors import UsageError
from morocco_lib.legacy import figures, notebook
from morocco_lib.report.figures import svg

ROOT = Path(morocco_lib.__file__).parents[1]
SOURCE = ROOT / "notebooks/original.ipynb"


@pytest.fixture(scope="module")
def source():
    return nbformat.read(SOURCE, as_version=4)


@pytest.fixture(scope="module")
def code(source):
    return [cell for cell in source.cells if cell.cell_type == "code"]


@pytest.fixture
def listed(known_cells):
    return list(known_cells.values())


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


# -- tables --------------------------------------------------------------------------------------------------------
def test_the_tables_of_known_logs(listed):
    speeds = notebook.speeds(listed)
    assert list(speeds.index)[2:] == [("terra", "swift"), ("terra", "slow")]
    assert float(speeds.loc[("terra", "slow"), "corrected"]) == pytest.approx(50, rel=0.03)
    assert set(speeds["runs used"]) == {"5/5 + 3/5"}
    assert notebook.losses(listed).to_dict() == {model: {"rcb": "3.0", "terra": "3.0"} for model in ("slow", "swift")}
    assert list(notebook.orders(listed).index.get_level_values("task")) == ["rcb"]
    assert list(notebook.flags(listed).rows) == ["COLD, 8", "ONSET_SHIFT, 4"]
    other = notebook.other_rules(listed)
    assert list(other["cells"]) == list(other["inside the corrected interval"]) == [4, 4]
    assert list(other["nearer to corrected than to published"]) == [4, 4]


def test_key_figures_of_known_logs(listed):
    value = notebook.key_figures(listed)["value"]
    assert value["start-up lost, s"] == "3.0 to 3.0" and value["cold single-record runs"] == "8 of 20"
    assert value["cells in which one more cold start makes the median cold"] == "4 of 4"
    assert value["pairs with a confirmed order"] == "1 of 2" and value["pairs with an unclear order"] == "1"
    assert value["GPU memory at the speed's point / published"] == "2.0 to 2.0"


def test_cells_without_a_gpu_are_shown_without_a_corrected_speed(blind_cells):
    assert notebook.speeds(blind_cells)["corrected"].tolist() == ["NO_RUN_LEFT"]
    assert notebook.losses(blind_cells).to_numpy().tolist() == [["—"]]
    assert notebook.orders(blind_cells).empty and list(notebook.other_rules(blind_cells)["cells"]) == [0, 0]
    assert notebook.key_figures(blind_cells)["value"]["published / corrected speed"] == "not known"
    assert figures.inflation(blind_cells) is figures.first_samples(blind_cells) is None
    assert figures.speeds(blind_cells).axes


def test_labels_are_plain_text(listed):
    for draw in (figures.speeds, figures.first_samples, figures.inflation):
        assert "mathdefault" not in svg(draw(listed))


def test_the_figures_hold_the_speeds_and_ratios(listed):
    *_, axis = figures.speeds(listed).axes
    drawn = {round(float(line.get_xdata()[0]), 6) for line in axis.lines if len(line.get_xdata()) == 1}
    of_task = [cell for cell in listed if cell.task == "terra"]
    assert axis.get_title(loc="left") == "terra"
    assert drawn == {round(v, 6) for c in of_task for v in (c.published.rps, c.point.per_s)}
    (axis,) = figures.inflation(listed).axes
    marks = [y for line in axis.lines if line.get_label() in ("swift", "slow") for y in line.get_ydata()]
    assert sorted(marks) == sorted(cell.inflation for cell in listed)


# -- the notebook --------------------------------------------------------------------------------------------------
def test_every_figure_has_what_to_look_for_and_what_to_worry_about(source):
    drawn = [n for n, cell in enumerate(source.cells) if cell.cell_type == "code" and "figures." in cell.source]
    for number in drawn:
        before = source.cells[number - 1].source
        assert "**Look for** " in before and "**Worry if** " in before, source.cells[number].source
    assert len(drawn) == 3


def test_the_conclusions_are_the_key_figures_of_the_published_logs(source, published):
    (conclusions,) = (cell.source for cell in source.cells if cell.source.startswith("## Conclusions"))
    stated = [bold for bold in re.findall(r"\*\*(.+?)\*\*", conclusions) if re.search(r"\d", bold)]
    assert stated == list(notebook.key_figures(list(published.values()))["value"])


def test_its_parameter_is_the_librarys_and_an_unknown_one_is_refused(code):
    (statement,) = ast.parse(code[0].source).body
    assert code[0].metadata["tags"] == ["parameters"]
    assert {statement.target.id: ast.literal_eval(statement.value)} == config.OriginalParams().model_dump()
    with chdir(ROOT), pytest.raises(UsageError, match="unknown parameter 'log'; did you mean 'logs'"):
        notebook.start({"logs": "x", "log": "y"})


def test_missing_logs_are_named_with_where_to_find_them(tmp_path):
    with chdir(ROOT), pytest.raises(UsageError) as caught:
        notebook.start({"logs": str(tmp_path / "none.tar.gz")})
    assert f"no logs in {tmp_path}/none.tar.gz" in str(caught.value)
    assert "github.com/RussianNLP/MOROCCO" in str(caught.value) and "give the path as `logs`" in str(caught.value)


def test_all_cells_run_twice_in_one_kernel(code, known):
    names = {}
    with chdir(SOURCE.parent):
        for _ in range(2):
            for number, cell in enumerate(code):
                exec(cell.source.removesuffix(";"), names)
                if number == 0:
                    names["logs"] = str(known)
    assert len(pyplot.get_fignums()) == 6
    provenance = names["session"].provenance().rows
    assert re.fullmatch(r".*/logs  sha256 [0-9a-f]{12}", provenance["logs"])
    assert provenance["holds"] == "40 runs of 2 models on 2 tasks"
    assert provenance["recorded"] == "2020-09-13 to 2020-09-13, on 1 day"
