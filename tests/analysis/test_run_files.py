"""The files of a run -> its facts, arrivals and samples."""

import json

import pytest
from run_folders import DISTINCT, answers_of, sample, steady, write_run

from morocco_lib.analysis.run_files import read_run, run_folders
from morocco_lib.errors import UsageError


def test_a_run_is_read_as_it_was_written(tmp_path):
    folder = write_run(tmp_path, [*steady(40, 8), (9.0, 0)])
    run = read_run(folder)
    assert run.arrivals == steady(40, 8) and run.lines == 40  # an arrival that ends no line is no answer
    assert (run.ready_s, len(run.samples), run.truncated) == (1.0, 4, False)
    assert run.workload["size"] == 40


CHUNKS = "chunks.jsonl"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("answers.jsonl", lambda text: text[:-1]),
        (CHUNKS, lambda text: ""),
        (CHUNKS, lambda text: "".join(text.splitlines(keepends=True)[:-1])),
        (CHUNKS, lambda text: text.replace('"lines": 8', '"lines": 7', 1)),
        (CHUNKS, lambda text: text + '{"t_ns": 1, "lin'),
        ("samples.jsonl", lambda text: ""),
        ("samples.jsonl", lambda text: "".join(text.splitlines(keepends=True)[1:])),  # the marks are left
        ("samples.jsonl", lambda text: text + '{"anon'),
    ],
)
def test_a_file_that_ends_too_soon_is_noticed(tmp_path, name, change):
    folder = write_run(tmp_path, steady(40, 8))
    (folder / name).write_text(change((folder / name).read_text()))
    assert read_run(folder).truncated


def test_samples_of_a_gpu_that_end_too_soon_are_noticed(tmp_path):
    folder = write_run(tmp_path, gpu={"devices": []})
    (folder / "gpu.jsonl").write_text('{"gpu": 0}\n')
    assert not read_run(folder).truncated and read_run(folder).gpu_samples == [{"gpu": 0}]
    (folder / "gpu.jsonl").write_text('{"gpu": 0}\n{"gp')
    assert read_run(folder).truncated


def test_output_that_was_cut_on_purpose_is_not_taken_for_truncated(tmp_path):
    folder = write_run(tmp_path, steady(40, 8), stdout_cut=True, stdout_bytes=10**9)
    assert not read_run(folder).truncated
    assert read_run(write_run(tmp_path, steady(40, 8), stdout_bytes=10**9)).truncated


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", None),
        ("run.json", '{"phases": {'),
        ("run.json", "{}"),
        (CHUNKS, None),
        (CHUNKS, '{"t_ns": 1, "lin\n'),
        (CHUNKS, '{"bytes": 1}\n'),
        (CHUNKS, "[1]\n"),
        ("samples.jsonl", "\xff\n"),
    ],
)
def test_a_broken_run_is_named(tmp_path, name, text):
    folder = write_run(tmp_path)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(UsageError, match=f"{folder} cannot be read"):
        read_run(folder)


def test_a_broken_workload_is_named_where_it_is_read(tmp_path):
    folder = write_run(tmp_path)
    (folder / "workload.json").write_text("{")
    with pytest.raises(UsageError, match=f"{folder} cannot be read"):
        read_run(folder).workload  # noqa: B018


@pytest.mark.parametrize("change", [{"others": [20] * 40}, {"others": [0]}, {"order": [20] * 40}, {"size": 41}])
def test_a_workload_of_other_records_is_refused(tmp_path, change):
    folder = write_run(tmp_path)
    load = json.loads((folder / "workload.json").read_text())
    (folder / "workload.json").write_text(json.dumps(load | change))
    with pytest.raises(UsageError, match=r"the order in workload\.json is of other records"):
        read_run(folder).workload  # noqa: B018


def test_the_bytes_of_a_line_are_those_of_the_record_it_answers(tmp_path):
    folder = write_run(tmp_path, steady(40, 8), answers=answers_of(40)[::-1])
    load = json.loads((folder / "workload.json").read_text())
    assert sum(load["fed_bytes"]) == load["bytes"]
    assert read_run(folder).answered_bytes() == load["fed_bytes"][::-1]
    sizes = {"fed_bytes": [], "line_bytes": list(range(DISTINCT))}  # of version 0.3: of each record when first fed
    (folder / "workload.json").write_text(json.dumps(load | sizes))
    assert read_run(folder).answered_bytes() == load["order"][::-1]
    (folder / "answers.jsonl").write_text("no answer\n")
    assert read_run(folder).answered_bytes() is None


def test_finished_runs_come_in_order_and_others_not_at_all(tmp_path):
    for _ in range(11):
        write_run(tmp_path, samples=[sample()])
    (tmp_path / "runs/.12.partial").mkdir()
    (tmp_path / "runs/13").mkdir()
    assert [folder.name for folder in run_folders(tmp_path)] == [f"{k:02d}" for k in range(1, 12)]
    with pytest.raises(UsageError, match="no finished run"):
        run_folders(tmp_path / "runs")
