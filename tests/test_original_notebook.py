"""original.ipynb and what it shows: known truth comes out, the published logs say what they are known to say."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path

import matplotlib
import nbformat
import pytest
from conftest import ROOT
from matplotlib import pyplot
from test_original_logs import PUBLISHED, RUBERT_PUBLISHED, TASKS

from morocco_lib import config
from morocco_lib.errors import UsageError
from morocco_lib.legacy import compare, corrected, figures, logs, notebook, stats
from morocco_lib.legacy.corrected import Flag

SOURCE = ROOT / "notebooks" / "original.ipynb"
MIB, GAP_S, START_S, LOST_S, ONSET_S = 2**20, 0.3, 12.0, 3.0, 7.5


# -- logs of known truth -------------------------------------------------------------------------------------------
def write_run(path, work_s, lost_s=0.0, *, extra_s=0.0, gpu=True, peak=2**31):
    """A run whose RAM grows by 90 MiB a second and whose GPU is held after 7.5 s; the clock misses its first seconds."""
    end_s, rows, t = START_S + extra_s + work_s, [], lost_s
    while t <= end_s:
        held = peak if t >= ONSET_S + extra_s + 2 else peak // 4
        on = gpu and t >= ONSET_S + extra_s
        ram = (10 + 90 * min(t, 6)) * MIB
        values = (1.6e9 + t, 0.9, int(ram), 0.85 if on else None, held if on else None)
        rows.append(json.dumps(dict(zip(logs.KEYS, values, strict=True))))
        t += GAP_S
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Logs of two models on two tasks: 100 and 50 records a second, or nearly the same; 3 s lost; two cold starts of five."""
    folder = tmp_path_factory.mktemp("known") / "logs"
    for (model, task), per_s in {
        ("swift", "terra"): 100, ("slow", "terra"): 50, ("swift", "rcb"): 100, ("slow", "rcb"): 99,
    }.items():  # fmt: skip
        for k in range(1, 6):
            write_run(folder / model / task / f"1_1_{k:02d}.jsonl", k / 50, extra_s=8 if k < 3 else 0)
            write_run(folder / model / task / f"2000_32_{k:02d}.jsonl", 2000 / per_s + k / 50, LOST_S, peak=2**32)
        for k in range(1, 4):
            fits = task == "rcb"  # a shorter input that fits into the pipe loses nothing
            lost_s = 0 if fits else LOST_S
            write_run(folder / model / task / f"1000_32_{k:02d}.jsonl", 1000 / per_s + k / 50, lost_s, peak=2**32)
    return folder


@pytest.fixture(scope="module")
def cells(known):
    return compare.read(known)


def test_what_was_lost_is_found_on_the_gpu_and_in_ram(cells):
    for cell in cells:
        found = compare.lost(cell)
        assert found.gpu_s == pytest.approx(LOST_S, abs=GAP_S)
        assert LOST_S - 1e-6 <= found.ram_s <= LOST_S + GAP_S
        assert (found.ram_one_bytes / MIB, found.ram_bytes / MIB) == pytest.approx((10, 10 + 90 * LOST_S))


def test_every_way_of_correcting_finds_the_truth_that_the_originals_rule_misses(cells):
    truth = {("swift", "terra"): 100, ("slow", "terra"): 50, ("swift", "rcb"): 100, ("slow", "rcb"): 99}
    for cell in cells:
        per_s = truth[cell.model, cell.task]
        ways = compare.by_other_ways(cell)
        assert list(ways) == ["onset", "loaded", "ram", "marginal"] and ways["onset"] == cell.point.per_s
        assert ways == pytest.approx(dict.fromkeys(ways, per_s), rel=0.06)
        assert cell.published.rps > 1.06 * per_s and cell.inflation == cell.published.rps / cell.point.per_s


def test_runs_that_lose_nothing_are_told_from_those_that_do(cells):
    table = notebook.beginnings(cells)
    assert list(table.index) == [
        ("1 record, batch 1", "in time"), ("1000 records, batch 32", "in time"), ("1000 records, batch 32", "late"),
        ("2000 records, batch 32", "late"),
    ]  # fmt: skip
    assert list(table["tasks"]) == ["all", "all but terra", "all but rcb", "all"]
    assert list(table["cells"]) == [4, 2, 2, 4]


def test_pairs_of_models_are_judged_by_intervals_that_are_apart(cells):
    found = {pair.task: pair for pair in compare.pairs(cells)}
    assert found["terra"].order == compare.KEPT and not found["terra"].swapped
    assert (found["terra"].faster, found["terra"].corrected_ratio) == ("swift", pytest.approx(2, rel=0.05))
    assert found["rcb"].order == compare.OPEN
    assert list(notebook.orders(cells).index.get_level_values("task")) == ["rcb"]


def test_an_order_that_the_corrected_intervals_contradict_is_turned(known, tmp_path):
    folder = shutil.copytree(known, tmp_path / "logs")
    for k in range(1, 6):
        write_run(folder / f"swift/terra/2000_32_{k:02d}.jsonl", 2000 / 100 + k / 50)
        write_run(folder / f"slow/terra/2000_32_{k:02d}.jsonl", 2000 / 90 + k / 50, 7.2)
    cells = compare.read(folder)
    (pair,) = (p for p in compare.pairs(cells) if p.task == "terra")
    assert (pair.faster, pair.order, pair.swapped) == ("slow", compare.TURNED, True)
    assert notebook.orders(cells).loc[("terra", "slow before swift"), "the logs"] == "say the opposite"
    assert notebook.summary(cells)["turned"] == 1


def test_cold_starts_one_short_of_turning_the_median_are_counted(cells):
    for cell in cells:
        found = compare.starts(cell)
        assert (found.found, found.cold, found.one_more_turns_the_median) == (5, 2, True)
        assert found.times_fastest[:2] == pytest.approx([20 / 12] * 2, rel=0.04) and max(found.times_fastest[2:]) < 1.05
    for (found, cold), turns in {(5, 1): False, (5, 3): False, (4, 1): False, (3, 1): True, (1, 0): True}.items():
        assert compare.Starts(found, cold, ()).one_more_turns_the_median is turns


def test_the_published_interval_is_that_of_drawing_its_runs_again(cells):
    for cell in cells:
        low, high = cell.published_interval
        assert 0 < low <= cell.published.rps and (high is None or high >= cell.published.rps)
        assert cell.published_interval == (low, high)
    by = {(c.model, c.task): c.published_interval for c in cells}
    low, high = by["slow", "terra"]
    # Nine of ten draws of the five one-record runs have the warm median of 12 s, some the cold one of 20 s.
    assert low == pytest.approx(2000 / 37, rel=0.02) and high == pytest.approx(2000 / 29, rel=0.03)


# -- cells that do not tell ----------------------------------------------------------------------------------------
def test_cells_without_a_gpu_are_shown_without_a_corrected_speed(tmp_path):
    for k in range(1, 4):
        write_run(tmp_path / f"m/terra/1_1_{k}.jsonl", 0, gpu=False)
        write_run(tmp_path / f"m/terra/2000_32_{k}.jsonl", 20, gpu=False)
    cells = compare.read(tmp_path)
    assert compare.lost(cells[0]) is None and cells[0].inflation is None and compare.pairs(cells) == []
    assert set(compare.by_other_ways(cells[0]).values()) == {None}
    assert notebook.speeds(cells)["corrected"].tolist() == ["NO_RUN_LEFT"] and notebook.orders(cells).empty
    assert notebook.beginnings(cells).empty and len(notebook.conclusions(cells)) == 7
    assert figures.inflation(cells) is figures.onset(cells) is None
    assert all(draw(cells).axes for draw in (figures.speeds, figures.cold, figures.memory))
    pyplot.close("all")


def test_logs_without_the_published_size_are_refused(known, tmp_path):
    shutil.copytree(known / "swift" / "terra", tmp_path / "m" / "terra", ignore=shutil.ignore_patterns("2000_*"))
    with pytest.raises(UsageError, match="no 2000_32 run in"):
        compare.read(tmp_path)


# -- the published logs --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published(archive):
    return compare.read(archive)


def test_the_published_numbers_are_those_of_the_originals_table(published):
    by = {(cell.model, cell.task): cell for cell in published}
    for model, speeds in PUBLISHED.items():
        for task, per_s in zip(TASKS, speeds, strict=True):
            assert per_s is None or round(by[model, task].published.rps) == per_s
    for task, per_s in zip(TASKS, RUBERT_PUBLISHED, strict=True):
        assert by["rubert", task].published.rps == pytest.approx(per_s, rel=0.01)


def test_the_key_figures_of_the_published_logs(published, archive):
    found = notebook.summary(published)
    cells = logs.by_cell(logs.read_all([archive]))
    points = [point for cell, members in cells.items() for point in corrected.corrected(*cell, members)]
    ratios = [stats.original(cells[p.model, p.task], "table").rps / p.per_s for p in points]
    assert found["inflation"] == (min(ratios), max(ratios)) and max(ratios) == pytest.approx(3.17, abs=0.005)
    shifts = [p.onset_shift_s for p in points]
    assert found["lost_s"] == pytest.approx((min(shifts), max(shifts))) and found["shifted"] == len(points) == 36
    assert found["first_ram_one_bytes"][1] < 13 * MIB and found["first_ram_bytes"][0] > 280 * MIB
    assert (found["one_record_runs"], found["cold"]) == (180, 51)
    assert (found["pairs"], found["kept"], found["open"], found["turned"]) == (54, 48, 6, 0)
    memory = [p.gpu_ram_bytes / p.gpu_ram_one_bytes for p in points]
    assert found["memory"] == (min(memory), max(memory)) and max(memory) > 3


def test_other_ways_of_correcting_agree_with_each_other_and_not_with_what_was_published(published):
    for cell in published:
        ways = compare.by_other_ways(cell)
        low, high = cell.point.low_per_s, cell.point.high_per_s
        assert low <= ways["loaded"] <= high and 0.93 <= ways["ram"] / ways["onset"] <= 1 and ways["marginal"] is None
        if cell.inflation > 1.1:
            assert cell.published.rps > high and max(ways["loaded"], ways["ram"]) < cell.published.rps


def test_every_first_sample_tells_which_kind_of_run_it_is_of(published):
    one = [run.begins_with("ram") for cell in published for run in cell.ones]
    many = [run.begins_with("ram") for cell in published for run in cell.longer]
    assert len(many) == 179 and max(ram for ram in one if ram is not None) < 16 * MIB < 280 * MIB < min(many)


# -- the notebook --------------------------------------------------------------------------------------------------
def code_cells():
    return [c for c in nbformat.read(SOURCE, as_version=4).cells if c.cell_type == "code"]


def test_the_notebook_is_clean_and_thin_and_holds_no_number_of_its_own():
    source = nbformat.read(SOURCE, as_version=4)
    code = code_cells()
    assert source.cells[0].source.startswith("# ") and source.cells[0].source.splitlines()[0].endswith("?")
    assert not any(c.outputs or c.execution_count for c in code) and len(code) <= 15
    assert max(len(c.source.splitlines()) for c in code) <= 12 and "papermill" not in source.metadata
    assert not any(re.search(r"\d", c.source) for c in code)
    text = " ".join(c.source for c in source.cells if c.cell_type == "markdown")
    known = {"2,000", "32", "95", "1_1_01", "2000_32_01"}  # the sizes that were published, and the level of an interval
    assert set(re.findall(r"\d[\d,._]*\d|\d", text)) <= known


def test_its_parameter_is_the_librarys_and_an_unknown_one_is_refused():
    (line,) = code_cells()[0].source.splitlines()
    (statement,) = ast.parse(line).body
    assert code_cells()[0].metadata["tags"] == ["parameters"] and "  # " in line
    assert {statement.target.id: ast.literal_eval(statement.value)} == config.OriginalParams().model_dump()
    with chdir(ROOT), pytest.raises(UsageError, match="unknown parameter 'log'; did you mean 'logs'"):
        notebook.start({"logs": "x", "log": "y"})


def run_cells(path):
    """Run the code cells in this process, as a kernel would; returns what they show and what they print."""
    shown, printed, names = [], io.StringIO(), {}
    matplotlib.use("agg")
    with chdir(SOURCE.parent), redirect_stdout(printed):
        for number, cell in enumerate(code_cells()):
            body = ast.parse(cell.source).body
            last = body.pop() if isinstance(body[-1], ast.Expr) and not cell.source.endswith(";") else None
            exec(compile(ast.Module(body, []), "original", "exec"), names)
            if last and (value := eval(compile(ast.Expression(last.value), "original", "eval"), names)) is not None:
                shown.append(value)
            if number == 0:
                names["logs"] = str(path)
    return shown, printed.getvalue()


def test_the_notebook_shows_what_the_functions_give(known, cells):
    pyplot.close("all")
    shown, printed = run_cells(known)
    lines = [*notebook.flags(cells), *notebook.conclusions(cells)]
    assert printed.splitlines() == [f"- {line}" for line in lines] and lines[0].startswith("COLD, 8: ")
    tables = [table for table in shown if hasattr(table, "columns")]
    made = [make(cells) for make in (notebook.speeds, notebook.beginnings, notebook.other_ways, notebook.orders)]
    assert len(tables) == 4 and all(ours.equals(theirs) for ours, theirs in zip(tables, made, strict=True))
    (provenance,) = (value for value in shown if not hasattr(value, "columns"))
    assert re.search(r"^logs .*/logs  sha256 [0-9a-f]{12}$", repr(provenance), re.MULTILINE)
    assert "52 runs of 2 models on 2 tasks" in repr(provenance)
    assert "2020-09-13; the one-record and the longer runs of a cell up to 0 hours apart" in repr(provenance)
    drawn = [pyplot.figure(number) for number in pyplot.get_fignums()]
    assert len(drawn) == 5
    panels = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in panels] == ["rcb", "terra"]
    points = {round(float(line.get_xdata()[0]), 6) for line in panels[1].lines if len(line.get_xdata()) == 1}
    truth = {round(v, 6) for c in cells if c.task == "terra" for v in (c.published.rps, c.point.per_s)}
    assert points == truth
    pyplot.close("all")


def test_a_missing_archive_says_where_the_logs_are_to_be_had(tmp_path):
    with chdir(SOURCE.parent), pytest.raises(UsageError) as caught:
        notebook.start({"logs": str(tmp_path / "none.tar.gz")})
    assert f"no logs in {tmp_path}/none.tar.gz" in str(caught.value)
    assert "github.com/RussianNLP/MOROCCO" in str(caught.value) and "give the path as `logs`" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_papermill_runs_it_from_the_root_and_from_its_own_folder(archive, published, tmp_path, folder):
    out = tmp_path / "out.ipynb"
    argv = [sys.executable, "-m", "papermill", str(SOURCE), str(out), "-k", "python3", "--no-progress-bar"]
    relative = archive.relative_to(ROOT.parent) if archive.is_relative_to(ROOT.parent) else archive
    argv += ["-p", "logs", str(Path("..") / relative)]
    done = subprocess.run(argv, cwd=ROOT / folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ran = [c for c in nbformat.read(out, as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in ran) and not any(o.get("name") == "stderr" for c in ran for o in c.outputs)
    assert ran[-1].outputs[0]["text"].splitlines() == [f"- {line}" for line in notebook.conclusions(published)]
    assert sum("image/png" in output.get("data", {}) for c in ran for output in c.outputs) == 5


def test_when_the_published_logs_were_made_is_told(published):
    session = notebook.Session(SOURCE, published, frozenset())
    assert "2021-01-21 to 2021-01-29, on 3 days; " in repr(session.provenance())
    assert repr(session) == f"<36 cells of {SOURCE}>"


def test_every_flag_of_the_published_logs_is_counted(published):
    text = "\n".join(notebook.flags(published))
    counts = {Flag.BLIND: 6, Flag.TRUNCATED: 4, Flag.COLD: 57, Flag.MISSING: 1, Flag.ONSET_SHIFT: 36}
    for flag, number in counts.items():
        assert re.search(rf"^{flag}, {number}: ", text, re.MULTILINE)
