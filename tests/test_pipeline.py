"""Plans: from one command to verified results, resumed after any death, on synthetic and on official records."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import kills
import pytest
import yaml
from conftest import ROOT

from morocco_lib import fileio
from morocco_lib.artifacts import steps

pytestmark = pytest.mark.slow
DEMO = ROOT / "params/plans/demo.yaml"


@pytest.fixture(scope="module")
def run_plan(main):
    """Run a plan in this process, its kernels as ever in their own; `data_dir` is MOROCCO_DATA."""

    def run(plan, out, *options, data_dir=""):
        return main("run", plan, "--out", out, *options, cwd=ROOT, env={"MOROCCO_DATA": str(data_dir)})

    return run


@pytest.fixture(scope="module")
def verify(main):
    """Verify a folder; returns exit code and what was printed."""

    def run(folder):
        done = main("verify", folder)
        return done.returncode, done.stdout

    return run


@pytest.fixture(scope="module")
def demo(run_plan, tmp_path_factory):
    """The demo plan, run once; tests that change something work on a copy."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    done = run_plan(DEMO, folder, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="module")
def small(run_plan, tmp_path_factory):
    """The smallest plan with every kind of step."""
    folder = tmp_path_factory.mktemp("small")
    done = run_plan(small_plan(folder, models=["tfidf"]), folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def terra(run_plan, tmp_path_factory, real_data):
    folder = tmp_path_factory.mktemp("terra") / "terra"
    done = run_plan(ROOT / "params/plans/terra.yaml", folder, "--json", data_dir=real_data / "rsg")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def small_plan(tmp_path, **changes):
    plan = {"name": "small", "models": ["majority"], "tasks": ["terra"], "input_size": 200, "repeats": 1, **changes}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(plan))
    (tmp_path / "small").mkdir(exist_ok=True)
    return path


# -- what a plan leaves --------------------------------------------------------------------------------------------
def test_every_step_is_done_sealed_and_verified(verify, demo):
    folder, summary = demo
    assert [(s["step"], s["model"], s["task"], s["state"]) for s in summary["steps"]] == [
        (step, model, task, "done")
        for task in ("terra", "muserc", "rwsd")
        for model in ("majority", "tfidf")
        for step in ("train", "bench", "eval")
    ] + [("report", None, None, "done")]
    assert summary["verified"] and summary["exit"] == 0
    code, text = verify(folder)
    assert code == 0 and text.startswith("verified: 20 step folders")


def test_every_step_folder_keeps_its_executed_and_rendered_notebook(demo):
    folder, _ = demo
    for step_folder, status in steps.find_steps(folder):
        if status["step"] != "synthetic":
            assert (step_folder / "notebook.ipynb").is_file() and (step_folder / "notebook.html").is_file()


def test_a_second_run_repeats_nothing(run_plan, demo):
    folder, summary = demo
    before = {f: (f / steps.STATUS).stat().st_mtime_ns for f, _ in steps.find_steps(folder)}
    done = run_plan(DEMO, folder, "--json")
    again = json.loads(done.stdout)
    assert {s["state"] for s in again["steps"]} == {"kept"}
    assert {f: (f / steps.STATUS).stat().st_mtime_ns for f, _ in steps.find_steps(folder)} == before
    assert again["rows"] == summary["rows"]


def test_synthetic_records_are_called_synthetic_wherever_they_show(run_plan, demo):
    folder, summary = demo
    assert all(row["data"]["origin"] == "synthetic" for row in summary["rows"])
    assert (
        "ynthetic"
        in (folder / "report-x")
        .with_name(next(p.name for p in folder.glob("report-*")))
        .joinpath("report.html")
        .read_text()
    )
    for name in ("train", "bench", "eval"):
        (page,) = (folder / "tfidf/terra").glob(f"{name}-*/notebook.html")
        assert "synthetic" in page.read_text()
    assert run_plan(DEMO, folder).stdout.count("Synthetic records") == 1


def test_terra_on_official_records_gives_the_known_scores(terra):
    folder, summary = terra
    rows = {row["model"]: row for row in summary["rows"]}
    assert rows["tfidf"]["score"]["value"] == pytest.approx(0.384, abs=5e-4)
    assert rows["tfidf"]["score"]["n"] == 242
    assert rows["tfidf"]["score"]["majority"]["value"] == pytest.approx(128 / 242)
    assert rows["tfidf"]["input_size"] == 2000 and rows["tfidf"]["verdict"] == "VALID"
    (trained,) = (folder / "tfidf/terra").glob("train-*/train.json")
    assert json.loads(trained.read_text())["data"]["records"] == 2087
    assert all(row["data"]["sample"] for row in rows.values())
    assert "terra 242 of 307 records" in next(folder.glob("report-*/report.html")).read_text()
    page = next(folder.glob("report-*/report.html")).read_text()
    assert "tfidf on terra scores 0.384, below the 0.529" in page


def test_both_baselines_run_on_all_nine_tasks_of_official_records(run_plan, tmp_path, real_data):
    folder = tmp_path / "tfidf"
    began = time.monotonic()
    done = run_plan(ROOT / "params/plans/tfidf.yaml", folder, "--json", data_dir=real_data / "rsg")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 360
    summary = json.loads(done.stdout)
    metrics = {row["task"]: row["score"]["metrics"] for row in summary["rows"] if row["model"] == "tfidf"}
    known = {"danetqa": 0.569, "rcb": 0.492, "parus": 0.457, "russe": 0.690, "terra": 0.384}
    assert {task: round(metrics[task]["accuracy"], 3) for task in known} == known
    assert round(metrics["rwsd"]["acc"], 3) == 0.536
    assert len(metrics) == 9 and {row["verdict"] for row in summary["rows"]} == {"VALID"}
    assert all(row["data"]["sample"] for row in summary["rows"])
    page = next(folder.glob("report-*/report.html")).read_text()
    assert "mean of all 9 tasks of Russian SuperGLUE, on samples" in page and "rucos 10 of more" in page
    assert len(page.encode()) <= 1_000_000
    trained = [s for s in summary["steps"] if s["step"] == "train" and s["task"] == "lidirus"]
    assert [s["state"] for s in trained] == ["kept", "kept"]


def test_the_notebook_says_what_it_read(terra, real_data):
    folder, _ = terra
    notebook = json.loads(next((folder / "tfidf/terra").glob("eval-*/notebook.ipynb")).read_text())
    assert notebook["metadata"]["papermill"]["parameters"]["data_dir"] == str((real_data / "rsg").resolve())


# -- the page ------------------------------------------------------------------------------------------------------
class References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.scripts = [], 0

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.found += [
            value
            for name, value in attributes
            if name in ("src", "href", "srcset", "data", "action", "xlink:href") and value
        ]


def test_pages_load_nothing_from_outside_and_the_report_is_small(demo):
    folder, _ = demo
    pages = [
        *folder.rglob("notebook.html"),
        *folder.glob("report-*/report.html"),
        *folder.glob("report-*/notebooks/*.html"),
    ]
    assert len(pages) >= 19 + 1 + 6
    for page in pages:
        text = page.read_text()
        references = References()
        references.feed(text)
        assert references.scripts == 0
        outside = [r for r in references.found if not r.startswith(("data:", "#")) and not (page.parent / r).exists()]
        assert outside == [], page
        assert not re.search(r"@import|url\((?!['\"]?(#|data:))", text)
    assert next(folder.glob("report-*/report.html")).stat().st_size <= 1_000_000


def test_the_report_shows_every_number_with_its_interval_and_verdict(demo):
    folder, summary = demo
    text = next(folder.glob("report-*/report.html")).read_text()
    assert text.count("<svg") >= 5
    for row in summary["rows"]:
        assert row["model"] in text and f"{row['score']['value']:.3f}" in text
        assert f"{row['score']['low']:.3f} to {row['score']['high']:.3f}" in text
    assert text.count(">VALID<") == 6


def test_the_verb_report_builds_the_page_of_the_plan_from_the_same_steps(main, demo, tmp_path):
    folder, _ = demo
    (page,) = folder.glob("report-*/report.html")
    done = main("report", folder, "--out", tmp_path / "page")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'page/report.html'}\n"), done.stderr
    assert (tmp_path / "page/table.csv").read_bytes() == (page.parent / "table.csv").read_bytes()
    text = (tmp_path / "page/report.html").read_text()
    assert text.count("<svg") == page.read_text().count("<svg") and text.count(">VALID<") == 6
    assert len(list((tmp_path / "page/notebooks").iterdir())) == 18


# -- evidence ------------------------------------------------------------------------------------------------------
def test_one_changed_byte_in_any_kept_file_is_found_and_named(small, tmp_path):
    from morocco_lib.artifacts.verify import verify as check

    folder = shutil.copytree(small, tmp_path / "copy")
    assert all(f.ok for f in check(folder))
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 40
    for file in files:
        content = file.read_bytes()
        where = len(content) // 2
        file.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
        bad = [f for f in check(folder) if not f.ok]
        assert any(str(file) in f.seen for f in bad), (file, bad)
        file.write_bytes(content)
    assert all(f.ok for f in check(folder))


def test_a_missing_and_an_added_file_are_found(verify, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "copy")
    (answers,) = (folder / "tfidf/terra").glob("bench-*/runs/01/answers.jsonl")
    content = answers.read_bytes()
    answers.unlink()
    code, text = verify(folder)
    assert code == 1 and f"{answers} is missing" in text
    answers.write_bytes(content)
    (answers.parent / "extra.txt").write_text("x")
    code, text = verify(folder)
    assert code == 1 and "extra.txt was added" in text


def test_a_number_that_does_not_follow_from_the_runs_is_found_even_if_its_digest_is_right(verify, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "copy")
    (result,) = (folder / "tfidf/terra").glob("bench-*/bench.json")
    value = json.loads(result.read_text())
    value["speed_per_s"]["value"] *= 1.01
    fileio.write_json(result, value)
    step = steps.Step(result.parent, steps.read_status(result.parent))
    step.finish("done", 0)
    code, text = verify(folder)
    assert code == 1 and "speed_per_s.value" in text and "rebuilt" in text


def test_a_moved_plan_folder_still_verifies(verify, small, tmp_path):
    code, text = verify(shutil.copytree(small, tmp_path / "elsewhere" / "deep" / "copy"))
    assert code == 0 and "note" not in text


def test_a_speed_never_gets_the_score_of_other_records(run_plan, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "small")
    other = tmp_path / "other"
    other.mkdir()
    done = run_plan(small_plan(other, models=["tfidf"], seed=5), folder, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 2 and len({row["data"]["sha256"] for row in rows}) == 2
    for row in rows:
        own = json.loads((folder / row["bench_folder"] / "bench.json").read_text())
        scored = json.loads((folder / row["eval_folder"] / "score.json").read_text())
        assert row["data"]["sha256"] == own["data"]["sha256"] == scored["data"]["sha256"]
        assert row["score"] == scored["score"]


def test_a_report_still_verifies_when_something_is_added_to_its_plan(main, verify, small, tmp_path, synthetic_data):
    folder = shutil.copytree(small, tmp_path / "small")
    program = f"{sys.executable} {ROOT / 'docs/example_model.py'}"
    options = (
        "--data",
        synthetic_data / "TERRa/val.jsonl",
        "--out",
        folder / "mine",
        "--repeats",
        1,
        "--input-size",
        2000,
    )
    done = main("bench", "--command", program, "terra", *options)
    assert done.returncode == 0, done.stderr
    code, text = verify(folder)
    assert code == 0, text


# -- deaths --------------------------------------------------------------------------------------------------------
def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def running(folder, step):
    for path in folder.glob(f"*/terra/{step}-*/status.json"):
        if json.loads(path.read_text())["state"] == "running" and (path.parent / "runs").exists():
            return path.parent
    return None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_resumes_and_says_what_was_killed(run_plan, verify, tmp_path, number):
    plan, folder = small_plan(tmp_path, input_size=400_000), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(folder)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed = wait_for(lambda: running(folder, "bench"))
    process.send_signal(number)
    _, talk = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in talk
    (trained,) = folder.glob("majority/terra/train-*")
    stamp = (trained / steps.STATUS).stat().st_mtime_ns
    if number == signal.SIGKILL:
        assert verify(folder)[0] == 1
    small_plan(tmp_path, input_size=400_000)
    done = run_plan(plan, folder, "--json")
    assert done.returncode == 0, done.stderr
    assert [s["state"] for s in json.loads(done.stdout)["steps"]] == ["kept", "done", "done", "done"]
    aside = killed.with_name(f"{killed.name}.1")
    assert steps.read_status(aside)["state"] == "killed"
    assert not list((aside / "runs").glob("[0-9]*/run.json"))
    assert (trained / steps.STATUS).stat().st_mtime_ns == stamp
    assert verify(folder)[0] == 0


def test_killed_at_random_moments_a_plan_loses_and_repeats_nothing(tmp_path):
    hits = kills.kill_often(6, seed=11, folder=tmp_path)  # `python tests/kills.py` does it fifty times
    assert sum(hits[str(way)] for way in kills.WAYS) >= 6


def test_a_second_run_of_a_plan_is_refused_and_names_the_first(run_plan, tmp_path):
    plan, folder = small_plan(tmp_path, input_size=400_000), tmp_path / "out"
    argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(folder), "--quiet"]
    first = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: running(folder, "bench"))
        before = {f for f, _ in steps.find_steps(folder)}
        second = run_plan(plan, folder)
        assert second.returncode == 3 and f"process {first.pid} on " in second.stderr and "--out" in second.stderr
        assert {f for f, _ in steps.find_steps(folder)} == before
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert run_plan(plan, folder).returncode == 0  # the lock went with its owner


def test_one_failing_cell_does_not_stop_the_others(run_plan, tmp_path, synthetic_data):
    broken = tmp_path / "records" / "TERRa"
    shutil.copytree(synthetic_data / "TERRa", broken)
    (broken / "bad.jsonl").write_text('{"premise": "a"\n')
    plan = small_plan(
        tmp_path,
        models=["majority", "tfidf"],
        data_dir=str(broken.parent),
        overrides=[{"model": "majority", "files": {"train": "TERRa/bad.jsonl"}}],
    )
    done = run_plan(plan, tmp_path / "out", "--json")
    summary = json.loads(done.stdout)
    states = {(s["model"], s["step"]): s["state"] for s in summary["steps"]}
    assert done.returncode == 2 == summary["exit"]
    assert states[("majority", "train")] == "failed" and states[("majority", "eval")] == "skipped"
    assert states[("tfidf", "eval")] == "done" and states[(None, "report")] == "done"
    failed = next(s for s in summary["steps"] if s["state"] == "failed")
    assert "bad.jsonl, line 1: broken JSON" in failed["error"]
    assert "Traceback" not in done.stderr
    page = next((tmp_path / "out").glob("report-*/report.html")).read_text()
    assert "bad.jsonl" in page


def test_force_repeats_and_keeps_what_was_there(run_plan, verify, tmp_path):
    plan, folder = small_plan(tmp_path, steps=["train"]), tmp_path / "out"
    assert run_plan(plan, folder).returncode == 0
    (first,) = folder.glob("majority/terra/train-*")
    assert run_plan(plan, folder, "--force").returncode == 0
    assert sorted(f.name for f in first.parent.iterdir()) == [first.name, f"{first.name}.1"]
    assert verify(folder)[0] == 0


def test_dry_run_lists_the_steps_and_writes_nothing(run_plan, tmp_path):
    done = run_plan(DEMO, tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    *listed, time = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in listed] == [["to", "do"]] * 19
    assert time == ["time:", "18", "steps", "not", "known", "before", "they", "ran", "once"]
    assert not (tmp_path / "out").exists()


def test_a_data_folder_that_is_not_there_is_named(run_plan, tmp_path):
    done = run_plan(DEMO, tmp_path / "out", data_dir=tmp_path / "nowhere")
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
