"""The cost preview of a dry run: downloads, disk and time, as far as they are known."""

from dataclasses import dataclass
from types import SimpleNamespace

from helpers import ROOT

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.pipeline import cost_preview


@dataclass
class Listed:
    step: str
    model: str | None
    task: str | None
    state: str = "to do"


PLAN = [Listed(step, "big", task) for task in ("terra", "lidirus") for step in ("train", "bench", "eval")]


def model(source="nobody/none"):
    return {"big": config.ModelParams(name="big", kind="transformer", source=source, parameters=2**28)}


def test_downloads_disk_and_time_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_preview.shutil, "disk_usage", lambda folder: SimpleNamespace(free=7 * 2**30))
    down, disk, time = cost_preview.lines(model(), tmp_path, PLAN, 10, tmp_path)
    assert down == "downloads: about 1.00 GiB of weights for big"
    assert disk == "disk: about 1.00 GiB of weights, and 6.00 GiB more while one trains"  # LiDiRus takes TERRa's
    assert time == "time: 2 bench steps of at most 10 min, 20 min; 3 steps unknown until run once"


def test_a_disk_that_is_too_small_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_preview.shutil, "disk_usage", lambda folder: SimpleNamespace(free=7 * 2**30 - 1))
    _, disk, _ = cost_preview.lines(model(), tmp_path / "not/there", PLAN, 10, tmp_path)
    assert disk.endswith(f"more while one trains; too much: 7.00 GiB are free in {tmp_path}, give --out another disk")


def test_a_local_folder_is_not_downloaded_and_kept_steps_cost_nothing(tmp_path):
    first, *_ = cost_preview.lines(model(source=str(tmp_path)), tmp_path, PLAN, 10, tmp_path)
    assert first.startswith("disk")
    kept = [Listed(one.step, one.model, one.task, "kept") for one in PLAN]
    assert cost_preview.lines(model(), tmp_path, kept, 10, tmp_path) == []


def test_finished_steps_say_how_long_the_next_ones_take(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_preview, "durations", lambda folder: {("train", "big"): 3600.0, ("bench", "big"): 60.0})
    assert cost_preview.lines(model(), tmp_path, PLAN, None, tmp_path)[-1] == (
        "time: 3 steps as before, 1 h 2 min; 2 steps unknown until run once"
    )


def test_durations_are_those_of_finished_steps(tmp_path):
    with steps.Step.begin(tmp_path / "a", "train", model="m", task="t", parameters={}, inputs={}):
        pass
    assert 0 <= cost_preview.durations(tmp_path)["train", "m"] < 5
    assert cost_preview.durations(tmp_path / "none") == {}


def test_the_full_board_is_a_plan(main, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = main("run", "params/plans/russian-superglue.yaml", "--dry-run")
    assert done.returncode == 0 and done.stdout.count("\n") == 6 * 9 * 3 + 1 + 3
    assert done.stdout.count("kept    train") == 6  # LiDiRus is answered by what TERRa trained
    assert "rugpt3-large" in done.stdout and "downloads: about 6." in done.stdout
