"""Each row of docs/from-the-original.md does what it says; those that need a server are tried beside that server's other tests."""

import json
import random
import re
import shutil
import subprocess

import founding
import pytest
from complete_runs import write_bench
from helpers import ROOT
from run_folders import bench_step

from morocco_lib import fileio, formatting
from morocco_lib.artifacts import steps
from morocco_lib.legacy import published as published_numbers
from morocco_lib.report import build
from morocco_lib.tasks import get_task

PLACES = {"here", "plan", "engine", "registry", "S3 server", "cloud", "sshd"}
MODELS = published_numbers.read("founding")["models"]


@pytest.fixture
def home(tmp_path, synthetic_data):
    """A project that is also the home, with records where the founding documents have them."""
    for name in ("params", "notebooks", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/public").symlink_to(synthetic_data)
    return tmp_path


def test_every_row_is_tried_somewhere():
    found = founding.rows()
    assert len(found) > 30 and {place for row in found for place in row.tried} == PLACES
    assert all(row.founding and row.differs and (row.commands or row.shown) for row in found)


def test_models_are_trained_answer_and_are_scored_as_typed(main, home):
    printed = {}
    for row in founding.rows(section="Models"):
        for command in row.commands:
            done = founding.typed(command, main, home, *(["--dry-run"] if "plan" in row.tried else []))
            assert done.returncode == 0, (command, done.stderr)
            printed[command.split(" ")[1]] = done.stdout
    assert len((home / "preds.jsonl").read_text().splitlines()) == 300
    assert {"all_mcc", "accuracy", "lex_sem"} <= json.loads(printed["eval"]).keys()
    assert "rugpt3-large" in printed["morocco"] and "rucos" in printed["morocco"]


def test_founding_logs_give_both_kinds_of_speeds(main, known, home):
    shutil.copytree(known, home / "benches")
    ((first, second),) = (row.commands for row in founding.rows("here", "Measuring"))
    theirs, ours = (founding.typed(command, main, home) for command in (first, second))
    assert (theirs.returncode, ours.returncode) == (0, 0), theirs.stderr + ours.stderr
    assert {"task", "gpu_ram", "rps"} <= json.loads(theirs.stdout.splitlines()[0]).keys() and "swift" in ours.stdout


# -- tables and figures ----------------------------------------------------------------------------------------------
def measured(made, folder, model, task, theirs) -> None:
    """Write a step whose numbers are those that were published of a model on a task."""
    speed, memory = theirs.get("speed_per_s"), theirs["gpu_ram_gib"] * 2**30
    missing = {"value": None, "reason": "NO_VALID_RUN"}
    names, value = get_task(task).metric_names, sum(theirs["container"]) / len(theirs["container"])
    score = {"value": value, "low": None, "high": None, "metrics": dict(zip(names, theirs["container"], strict=True))}
    result = json.loads((made / "bench.json").read_text()) | {
        "task": task, "model": model, "batch_size": 32, "verdict": "VALID", "reasons": [],
        "speed_per_s": {"value": speed, "low": speed, "high": speed} if speed else missing,
        "gpu_ram_bytes": {"value": memory, "low": None, "high": None}, "score": {**score, "n": 9, "majority": {"value": 0.1}},
    }  # fmt: skip
    place = folder / model / task / "bench-1"
    place.mkdir(parents=True)
    fileio.write_json(place / "bench.json", result)
    status = {**steps.read_status(made), "task": task, "model": model, "outputs": {}}
    fileio.write_json(place / steps.STATUS, steps.seal(status))


def test_the_tables_and_the_chart_are_on_the_page_as_they_stand_there(main, home, monkeypatch):
    monkeypatch.setattr(build, "MOST_DRAWN", 0)  # single figures of nine tasks take long
    made = bench_step(home / "made")
    for model, numbers in MODELS.items():
        for task, theirs in numbers["tasks"].items():
            measured(made, home / "outputs/russian-superglue", model, task, theirs)
    section = founding.rows("here", "Tables and figures")
    done = founding.typed(
        next(c for row in section for c in row.commands if c.startswith("morocco report")), main, home
    )
    assert done.returncode == 0, done.stderr
    page = (home / done.stdout.strip()).read_text(encoding="utf-8")
    text = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    assert all(f">{name}<" in text for row in section for name in row.shown)
    cells = {
        name: re.findall(rf"{name}.*?</table>", text, re.DOTALL)[0]
        for name in ("Scores: ", "GPU memory: ", "Records a second: ")
    }
    for model in MODELS.values():
        for theirs in model["tasks"].values():
            scores = " ".join("/".join(f"{v:.3f}" for v in theirs[of]) for of in ("leaderboard", "container"))
            assert f" {scores}</span>" in cells["Scores: "]
            assert f">{theirs['gpu_ram_gib']:.2f} GiB {theirs['gpu_ram_gib']:.2f} GiB<" in cells["GPU memory: "]
            speed = formatting.speed_text(theirs["speed_per_s"] or 0)
            assert not theirs["speed_per_s"] or f">{speed} {speed}<" in cells["Records a second: "]
    assert 0.25 <= cells["Scores: "].count("✗ ") / 54 <= 0.3  # those of the mean of tasks included
    mean = json.loads(re.search(r'id="points">(.*?)</script>', page)[1])[0]
    assert mean["name"].startswith("mean of ") and len(mean["points"]) == 6
    speed, score = ({p["model"]: p[of][0] for p in mean["points"]} for of in ("speed", "score"))
    assert (
        speed["rugpt3-small"] > speed["rugpt3-medium"] > speed["rugpt3-large"]
        and speed["bert-multilingual"] < speed["rubert"]
    )
    assert max(score["rugpt3-medium"], score["rugpt3-large"]) < min(score["rubert"], score["rubert-conversational"])


def test_a_submission_is_packed_checked_and_ranked_as_typed(main, home, val):
    write_bench(home / "outputs/night/m/terra/bench-1", val, chance=random.Random(1))
    (home / ".ssh").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh/id_ed25519"], check=True)
    for command in (c for row in founding.rows("here", "Submitting") for c in row.commands):
        done = founding.typed(command, main, home)
        assert done.returncode == 0, (command, done.stdout + done.stderr)
    assert "marked: m" in done.stdout and (home / "board/README.md").is_file()
