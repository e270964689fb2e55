"""A row of bench and eval: joined by what they ran and were fed, not by a name; and they must have given the same answers."""

import json
from pathlib import Path

import pytest
from run_folders import DISTINCT, NO, answers_of, derived, steady, write_run

from morocco_lib import fileio
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import points, tables

DATA = {"sha256": "0" * 64, "origin": "files", "records": DISTINCT, "official_records": 307, "sample": True}


def argv(*words: str, batch: int = 8) -> dict:
    return {"argv": [*words, "--batch-size", str(batch)], "batch_size": batch}


def step(folder: Path, kind: str, *, model: str = "m", weights: str = "", **run) -> Path:
    """Write a finished bench or eval step."""
    run = {**argv("m"), **run}
    made = steps.Step.begin(
        folder, kind, model=model, task="terra", parameters={"batch_size": run["batch_size"]}, inputs={}
    )
    if kind == "bench":
        result = derived(folder, run, run)
    else:
        write_run(folder, steady(DISTINCT, 4), **run)
        result = json.loads(json.dumps(summary.derive_eval(folder)[1]))
    fileio.write_json(folder / KINDS[kind].result, result | {"data": DATA})
    if weights:
        (folder / "weights").mkdir()
        (folder / "weights/model.json").write_text(weights)
    made.finish(steps.DONE, 0)
    return folder


def rows(plan: Path) -> list[tuple[str, bool, bool]]:
    return [(row["model"], bool(row["bench_folder"]), bool(row["eval_folder"])) for row in points.collect(plan, KINDS)]


JOINED, APART = [("timed", True, True)], [("scored", False, True), ("timed", True, False)]
IMAGE = {"image_digest": "sha256:1"}


@pytest.mark.parametrize(
    ("timed", "scored", "expected"),
    [
        ({}, {}, JOINED),
        ({}, argv("n"), APART),
        ({}, argv("m", batch=1), APART),
        ({}, {"image_digest": "sha256:1"}, APART),
        (IMAGE | argv(), IMAGE | argv(), JOINED),
        (IMAGE | argv(), {"image_digest": "sha256:2"} | argv(), APART),
        (IMAGE | argv("--precision=fp32"), IMAGE | argv("--precision=bf16"), APART),
        (argv("m", "/a/weights") | {"weights": "1"}, argv("m", "/b/weights") | {"weights": "1"}, JOINED),
        (argv("m", "/a/weights") | {"weights": "1"}, argv("m", "/a/weights") | {"weights": "2"}, APART),
        (argv("m", "/a/weights") | {"weights": "1"}, argv("m", "/b/weights", "--x") | {"weights": "1"}, APART),
        (argv("m", "/a/model"), argv("m", "/b/model"), APART),
    ],
)
def test_bench_and_eval_are_joined_by_what_they_ran_and_not_by_a_name(tmp_path, timed, scored, expected):
    step(tmp_path / "timed/terra/bench-1", "bench", model="timed", **timed)
    step(tmp_path / "scored/terra/eval-1", "eval", model="scored", **scored)
    assert rows(tmp_path) == expected


def test_of_other_records_nothing_is_joined(tmp_path, monkeypatch):
    step(tmp_path / "timed/terra/bench-1", "bench", model="timed")
    folder = step(tmp_path / "scored/terra/eval-1", "eval", model="scored")
    load = fileio.read_json(folder / "runs/01/workload.json")
    fileio.write_json(folder / "runs/01/workload.json", load | {"source": {"sha256": "1" * 64}})
    assert rows(tmp_path) == APART


def test_two_sizes_of_a_bench_share_an_eval(tmp_path):
    for number in (1, 2):
        step(tmp_path / f"timed/terra/bench-{number}", "bench", model="timed")
    step(tmp_path / "scored/terra/eval-1", "eval")
    assert rows(tmp_path) == JOINED * 2


def test_a_bench_gets_the_eval_of_its_own_machine_and_else_that_of_another(tmp_path, monkeypatch):
    facts = steps.host_facts()
    for cpu in ("a", "b", "c"):
        monkeypatch.setattr(steps, "host_facts", lambda cpu=cpu: {**facts, "cpu": cpu})
        step(tmp_path / f"{cpu}/terra/bench-1", "bench", model=cpu)
        if cpu != "c":
            step(tmp_path / f"{cpu}/terra/eval-1", "eval", model=cpu)
    found = {row["bench_folder"][0]: row["eval_folder"][0] for row in points.collect(tmp_path, KINDS)}
    assert found == {"a": "a", "b": "b", "c": "b"}


@pytest.mark.parametrize(("flips", "limit", "reasons"), [(1, 0.05, []), (1, 0.049, ["EVAL_FLIPS"])])
def test_an_eval_that_answers_otherwise_makes_the_row_invalid(tmp_path, monkeypatch, flips, limit, reasons):
    monkeypatch.setattr(points, "EVAL_SHARE", limit)
    step(tmp_path / "m/terra/bench-1", "bench")
    step(tmp_path / "m/terra/eval-1", "eval", answers=answers_of(DISTINCT, dict.fromkeys(range(flips), NO)))
    (row,) = points.collect(tmp_path, KINDS)
    assert row["reasons"] == reasons and row["verdict"] == ("INVALID" if reasons else "VALID")
    assert row["score"]["value"] in (0.7, 0.8) and row["speed_per_s"]["value"]
    assert any("EVAL_FLIPS" in line for line in tables.remarks([row])) == bool(reasons)
