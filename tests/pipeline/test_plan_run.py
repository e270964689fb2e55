"""Plans: from one command to verified results; what is done is kept, what fails is named and repeated."""

import json
import os
import shutil
import sys
import threading
import time

import pytest
from helpers import ROOT, copy_project, wait_until, write_plan

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.verify import table
from morocco_lib.errors import InvalidResult
from morocco_lib.pipeline import notebook_runner, plan_folder, plan_run, scheduler, synthetic_step
from morocco_lib.pipeline.notebook_runner import Stalled
from morocco_lib.pipeline.plan_run import PlanRun
from morocco_lib.pipeline.step_kinds import KINDS, verify
from morocco_lib.report import seeds_table

DEMO = ROOT / "params/plans/demo.yaml"


@pytest.fixture
def run_plan(main):
    """Run a plan in this process, its kernels in their own as ever; `data_dir` is MOROCCO_DATA."""

    def run(plan, out, *options, data_dir=""):
        return main("run", plan, "--out", out, *options, cwd=ROOT, env={"MOROCCO_DATA": str(data_dir)})

    return run


# -- what a plan leaves --------------------------------------------------------------------------------------------
def test_every_step_is_done_verified_and_keeps_its_notebook(quick_plan):
    folder, summary = quick_plan.folder, quick_plan.summary
    cells = [(s["step"], s["model"], s["task"], s["state"]) for s in summary["steps"]]
    assert cells == [
        (step, model, "terra", "done") for model in ("majority", "tfidf") for step in ("train", "bench", "eval")
    ] + [("report", None, None, "done")]
    assert summary["verified"] and summary["exit"] == 0
    schemas = {(path.name, json.loads(path.read_text())["schema"]) for path in folder.rglob("*.json")}
    names = ("status", "train", "model", "protocol", "run", "workload", "bench", "score", "report")
    assert schemas == {(f"{name}.json", 1) for name in names}
    for step_folder, status in steps.find_steps(folder):
        made = {path.name for path in step_folder.iterdir()}
        assert status["step"] == "synthetic" or {"notebook.ipynb", "notebook.html"} <= made


def test_a_dry_run_lists_the_steps_in_the_order_they_are_run_in(run_plan, quick_plan, tmp_path):
    done = run_plan(quick_plan.file, tmp_path / "new", "--dry-run")
    listed = [line.removeprefix("to do").split() for line in done.stdout.splitlines() if line.startswith("to do")]
    progress = [line for line in quick_plan.stderr.splitlines() if line.startswith("[")]
    run = [line.partition("] ")[2].partition(":")[0].split() for line in progress]
    run[2:4] = sorted(run[2:4])  # measured together: any may end first
    assert run == listed and len(run) == 7 and not (tmp_path / "new").exists()


def test_a_second_run_repeats_nothing(run_plan, quick_plan):
    before = {f: (f / steps.STATUS).read_text() for f, _ in steps.find_steps(quick_plan.folder)}
    done = run_plan(quick_plan.file, quick_plan.folder)
    assert done.returncode == 0 and done.stderr.count(": kept in") == 7
    assert {f: (f / steps.STATUS).read_text() for f, _ in steps.find_steps(quick_plan.folder)} == before
    assert done.stdout.count("Synthetic records") == 1 and "kept steps: digests checked" in done.stdout


def test_a_moved_plan_verifies(quick_plan, tmp_path):
    findings = verify(shutil.copytree(quick_plan.folder, tmp_path / "deep" / "copy"))
    assert all(f.ok for f in findings) and len({f.step for f in findings}) == 1 + 7 + 1  # records, steps, results.tsv
    assert "note  " not in table(findings)


# -- one run of a plan, its notebooks replaced ---------------------------------------------------------------------
@pytest.fixture
def planned(tmp_path, monkeypatch, synthetic_data):
    """Make a PlanRun whose steps do nothing but what `act(job)` does, and end as done."""
    monkeypatch.setattr(seeds_table, "write", lambda plan_dir, kinds: None)

    def make(act=lambda job: None, force=False, **changes) -> PlanRun:
        def run_notebook(job, root, check, slot=None, stall_s=0):
            with job.begin():
                act(job)
            return 0

        monkeypatch.setattr(plan_run, "run_notebook", run_notebook)
        plan = config.load_plan(write_plan(tmp_path, data_dir=str(synthetic_data), **changes), KINDS)
        return PlanRun(plan, ROOT, tmp_path / "out", force=force)

    return make


def run(job: PlanRun) -> dict[tuple, str]:
    return {(s.model, s.step): s.state for s in job.run(lambda this, moment: None).steps}


def test_force_repeats_and_keeps_what_was_there(planned, tmp_path):
    assert run(planned(steps=["train"])) == {("majority", "train"): "done"}
    assert run(planned(steps=["train"])) == {("majority", "train"): "kept"}
    assert run(planned(steps=["train"], force=True)) == {("majority", "train"): "done"}
    names = sorted(f.name for f in (tmp_path / "out/majority/terra").iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}.1"


def test_a_failed_step_takes_only_the_later_steps_of_its_cell_with_it(planned):
    def act(job):
        if (job.kind.name, job.p.model.name) == ("bench", "majority"):
            raise InvalidResult("no answers")

    assert run(planned(act, models=["majority", "tfidf"], steps=["bench", "eval"])) == {
        ("majority", "bench"): "failed", ("majority", "eval"): "skipped",
        ("tfidf", "bench"): "done", ("tfidf", "eval"): "done",
    }  # fmt: skip


@pytest.mark.parametrize(("stalls", "state"), [(2, "done"), (3, "failed")])
def test_a_training_that_stalls_is_tried_three_times_and_what_it_left_is_kept(planned, tmp_path, stalls, state):
    tried = []

    def act(job):
        tried.append(job)
        if len(tried) <= stalls:
            raise Stalled("no update for 4 s", rule="updates follow each other")

    (step,) = planned(act, steps=["train"]).run(lambda this, moment: None).steps
    assert (step.state, step.exit, len(tried)) == (state, 0 if state == "done" else 3, 3)
    assert step.error.startswith("stalled 2 times (no update for 4 s)" if state == "done" else "no update for 4 s")
    assert len(list((tmp_path / "out/majority/terra").glob("train-*.[12]"))) == 2


def test_a_step_is_stalled_where_its_heartbeat_stays_the_same_while_it_is_there(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(notebook_runner.time, "monotonic", lambda: now[0])
    file = tmp_path / "heartbeat"
    file.touch()
    watch = notebook_runner.Watch(file, 10)
    assert not file.exists()  # it was of an attempt before

    def after(seconds, stamp=None):
        now[0] += seconds
        if stamp is not None:
            file.touch()
            os.utime(file, ns=(stamp, stamp))
        watch()

    after(100)
    after(1, stamp=1)
    after(9)
    after(9, stamp=2)
    after(9)
    file.unlink()
    after(100)
    after(1, stamp=2)
    after(9)
    with pytest.raises(Stalled, match="no update for 10 s"):
        after(2)


def test_more_models_than_slots_are_measured_in_groups(planned, monkeypatch):
    together, most = [], []
    lock = threading.Lock()

    def act(job):
        with lock:
            together.append(job.p.model.name)
            most.append(len(together))
        wait_until(lambda: max(most) >= 2, 10)
        time.sleep(0.1)
        with lock:
            together.remove(job.p.model.name)

    monkeypatch.setattr(scheduler, "SLOTS", 2)
    run(planned(act, models=["majority", "tfidf", "tiny-bert"], steps=["bench"]))
    assert len(most) == 3 and max(most) == 2


def test_nothing_is_measured_while_steps_are_uploaded(planned):
    underway, seen = [], []

    def act(job):
        underway.append(job)
        time.sleep(0.05)
        underway.remove(job)

    job = planned(act, models=["majority", "tfidf"], steps=["bench", "eval", "report"])
    job.run(lambda this, moment: None, between=lambda: seen.append(len(underway)))
    assert seen == [0] * 4  # after those that were measured in turn, and each other one


def test_overrides_apply_to_their_cells_in_the_order_of_the_plan(planned):
    overrides = [{"batch_size": 4}, {"model": "tfidf", "batch_size": 8}, {"task": "terra", "split": "test"}]
    job = planned(models=["majority", "tfidf"], tasks=["terra", "rwsd"], overrides=overrides)
    given = {cell: job.parameters("bench", *cell, "") for cell in job.cells()}
    sizes = {cell: (p.batch_size, p.task.split) for cell, p in given.items()}
    assert sizes == {
        ("majority", "terra"): (4, "test"), ("tfidf", "terra"): (8, "test"),
        ("majority", "rwsd"): (4, "val"), ("tfidf", "rwsd"): (8, "val"),
    }  # fmt: skip


def test_synthetic_records_that_were_changed_are_made_anew(tmp_path):
    folder = synthetic_step.synthetic_step(tmp_path, ["terra"], 1)
    assert synthetic_step.synthetic_step(tmp_path, ["terra"], 1) == folder
    before = (folder / "TERRa/val.jsonl").read_bytes()
    (folder / "TERRa/val.jsonl").write_text("")
    assert synthetic_step.synthetic_step(tmp_path, ["terra"], 1) == folder
    assert (folder / "TERRa/val.jsonl").read_bytes() == before
    assert folder.with_name(f"{folder.name}.1").is_dir()


# -- refusals ------------------------------------------------------------------------------------------------------
def test_a_second_run_of_a_plan_is_refused_and_names_the_first(run_plan, tmp_path):
    with plan_folder.lock(tmp_path / "out"):
        done = run_plan(DEMO, tmp_path / "out")
    assert done.returncode == 3 and "is being worked on by process " in done.stderr and "--out" in done.stderr
    with plan_folder.lock(tmp_path / "out"):  # the lock went with its owner
        pass


def test_a_data_folder_that_is_not_there_is_named(run_plan, tmp_path):
    done = run_plan(DEMO, tmp_path / "out", data_dir=tmp_path / "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and not (tmp_path / "out").exists()


def test_a_plan_that_is_invalid_starts_nothing(run_plan, tmp_path):
    done = run_plan(write_plan(tmp_path, repeat=3), tmp_path / "out")
    assert done.returncode == 2 and "did you mean 'repeats'?" in done.stderr and done.stdout == ""
    assert not (tmp_path / "out").exists()


# -- failures, with real kernels ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_one_failing_cell_does_not_stop_the_others(run_plan, tmp_path, synthetic_data):
    records = shutil.copytree(synthetic_data / "TERRa", tmp_path / "records/TERRa")
    (records / "bad.jsonl").write_text('{"premise": "a"\n')
    override = {"model": "majority", "files": {"train": "TERRa/train.jsonl", "val": "TERRa/bad.jsonl"}}
    plan = write_plan(tmp_path, models=["majority", "tfidf"], data_dir=str(records.parent), overrides=[override])
    done = run_plan(plan, tmp_path / "out", "--json")
    listed = json.loads(done.stdout)["steps"]
    states = {(s["model"], s["step"]): s["state"] for s in listed}
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (states["majority", "bench"], states["majority", "eval"]) == ("failed", "skipped")
    assert states["tfidf", "bench"] == states["tfidf", "eval"] == states[None, "report"] == "done"
    assert "bad.jsonl, line 1: broken JSON" in next(s["error"] for s in listed if s["state"] == "failed")
    assert "bad.jsonl" in next((tmp_path / "out").glob("report-*/report.html")).read_text()


# -- programs of one's own -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_program_stands_in_a_plan_beside_the_kits_models(tmp_path, main):
    root = copy_project(tmp_path / "morocco")
    (root / "mine").mkdir()
    shutil.copy(root / "docs/example_model.py", root / "mine/model.py")
    described = {"name": "mine", "command": f"{sys.executable} model.py", "cwd": "mine", "env": ["HOME"]}
    (root / "params/models/mine.yaml").write_text(json.dumps({"model": described}))
    (root / "mine/bad.py").write_text("import sys\nfor line in sys.stdin:\n    print('no JSON')\n")
    bad = described | {"name": "bad", "command": f"{sys.executable} bad.py"}
    (root / "params/models/bad.yaml").write_text(json.dumps({"model": bad}))
    plan = write_plan(tmp_path, models=["majority", "mine", "bad"])
    done = main("run", plan, "--out", tmp_path / "out", "--json", cwd=root, env={"MOROCCO_DATA": ""})
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    states = {s["step"]: (s["state"], s["exit"]) for s in summary["steps"] if s["model"] == "bad"}
    assert states == {"bench": ("done", 1), "eval": ("failed", 1)}  # what a program does wrong is no failure of ours
    (row,) = (row for row in summary["rows"] if row["model"] == "bad")
    assert row["verdict"] == "INVALID" and {"BROKEN_LINE", "MISSING_IDX"} < set(row["reasons"])
    assert [(s["step"], s["model"]) for s in summary["steps"][:5]] == [
        ("train", "majority"), ("bench", "majority"), ("eval", "majority"), ("bench", "mine"), ("eval", "mine"),
    ]  # fmt: skip
    (row,) = (row for row in summary["rows"] if row["model"] == "mine")
    assert row["verdict"] == "VALID" and row["ram_bytes"]["value"] and row["eval_folder"] and row["bench_folder"]
    (bench,) = (tmp_path / "out/mine/terra").glob("bench-*")
    assert "model.py" in " ".join(steps.read_status(bench)["inputs"])
    with (root / "mine/model.py").open("a") as file:
        file.write("# another program\n")
    again = main("run", plan, "--out", tmp_path / "out", "--dry-run", cwd=root, env={"MOROCCO_DATA": ""})
    listed = [line.split() for line in again.stdout.splitlines() if " mine terra" in line]
    assert [line[0] for line in listed] == ["to", "to"], again.stdout
