"""Plans whose models run in containers: built, checked, measured and scored; interrupted, and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engine
import pytest
from test_repository import copy_project

from morocco_lib import config
from morocco_lib.artifacts import steps, verify
from morocco_lib.pipeline import resolve
from morocco_lib.runners import engine as engines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_image):
    """A copy of the project with machines whose base is the tiny image."""
    root = copy_project(tmp_path_factory.mktemp("contained") / "morocco")
    for runner in ("docker", "auto"):
        text = f"machine:\n  name: {runner}\n  runner: {runner}\n  base: {tiny_image}\n  timeout_s: 120\n"
        (root / f"params/machines/{runner}.yaml").write_text(text)
    return root


def write_plan(root, name: str, **values) -> str:
    plan = {"name": name, "models": ["tfidf"], "machine": "docker", "input_size": 400, "repeats": 2} | values
    (root / f"params/plans/{name}.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in plan.items()))
    return f"params/plans/{name}.yaml"


def start(root, plan: str, **options) -> subprocess.Popen:
    argv = [sys.executable, "-m", "morocco_lib", "run", plan]
    return subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(root, plan: str) -> tuple[int, str]:
    program = start(root, plan)
    _, talk = program.communicate(timeout=500)
    return program.returncode, talk


def ours() -> list:
    client = engines.connect()
    try:
        return client.containers.list(all=True, filters={"label": engines.OWNER}, ignore_removed=True)
    finally:
        client.close()


def test_a_plan_on_real_records_builds_checks_measures_and_scores(project, real_data):
    plan = write_plan(project, "real", tasks=["terra", "rcb", "muserc"], data_dir=str(real_data / "rsg"))
    code, talk = run(project, plan)
    assert code == 0, talk
    outputs = project / "outputs/real"
    benches = sorted(outputs.glob("tfidf/*/bench-????????/bench.json"))
    assert [path.parts[-3] for path in benches] == ["muserc", "rcb", "terra"]
    for path in benches:
        result = json.loads(path.read_text())
        image = engines.find_image(engines.connect(), f"tfidf-{path.parts[-3]}")
        assert (result["verdict"], result["runner"], result["image_digest"]) == ("VALID", "docker", image.id)
        assert result["ram_bytes"]["value"] and result["speed_per_s"]["value"] and result["score"]["value"] > 0
        assert f"building tfidf-{path.parts[-3]}" in (path.parent / "notebook.html").read_text()
    scores = [json.loads(p.read_text())["score"]["value"] for p in sorted(outputs.glob("tfidf/*/eval-*/score.json"))]
    assert len(scores) == 3
    assert all(finding.ok for finding in verify.verify(outputs))
    assert ours() == []
    assert run(project, plan)[1].count("kept") == 10  # every step, nothing is built or measured again


def test_a_transformer_in_an_image_answers_as_its_process_does(project, synthetic_data):
    pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
    machine = "machine:\n  name: debian\n  runner: docker\n  base: debian\n  timeout_s: 300\n"
    (project / "params/machines/debian.yaml").write_text(machine)
    values = {"models": ["tiny-bert"], "tasks": ["terra"], "machine": "debian", "input_size": 300, "repeats": 1}
    code, talk = run(project, write_plan(project, "torch", **values))
    assert code == 0, talk
    outputs = project / "outputs/torch"
    (bench,) = outputs.glob("tiny-bert/terra/bench-*/bench.json")
    result = json.loads(bench.read_text())
    assert (result["verdict"], result["runner"], result["score"]["value"] > 0) == ("VALID", "docker", True)
    assert (result["precision"], result["backend"], result["device"]) == ("fp32", "torch", "cpu")
    (trained,) = outputs.glob("tiny-bert/terra/train-*")
    bare = [sys.executable, "-m", "morocco_lib", "infer", str(trained)]
    val, answers = synthetic_data / "TERRa" / "val.jsonl", []
    for words in (["docker", "run", "-i", "--rm", "tiny-bert-terra"], bare):
        with val.open("rb") as records:
            answers.append(subprocess.run(words, stdin=records, capture_output=True, check=True).stdout)
    assert answers[0] == answers[1] and answers[0].count(b"\n") == val.read_bytes().count(b"\n")
    assert all(finding.ok for finding in verify.verify(outputs))
    assert ours() == []


def test_a_plan_that_is_interrupted_leaves_no_container_and_goes_on(project):
    plan = write_plan(project, "ended", tasks=["terra"], input_size=20_000)
    for by in (signal.SIGINT, signal.SIGKILL):
        program = start(project, plan)
        wait_for(
            lambda: (project / "outputs/ended").is_dir() and benching(project / "outputs/ended") and ours(), program
        )
        program.send_signal(by)
        program.communicate(timeout=60)
        assert program.returncode in (130, -signal.SIGKILL)
        assert by == signal.SIGKILL or ours() == []
    code, talk = run(project, plan)
    assert code == 0, talk
    assert ours() == [] and "kept" in talk  # what had been trained


def benching(folder) -> bool:
    return any(re.fullmatch(r"bench-[0-9a-f]{8}", path.name) for path in folder.glob("tfidf/terra/*"))


def wait_for(condition, program, seconds=90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert program.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def test_an_engine_that_is_gone_fails_the_step_and_the_next_run_does_the_rest(project, monkeypatch):
    plan = write_plan(project, "gone", tasks=["terra"])
    address = os.environ["DOCKER_HOST"]
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    code, talk = run(project, plan)
    assert code == 3 and "cannot reach the Docker Engine" in talk and "Traceback" not in talk
    monkeypatch.setenv("DOCKER_HOST", address)
    code, talk = run(project, plan)
    assert code == 0, talk
    assert len(re.findall(r"train-\w+: kept|train.*kept", talk)) == 1


def test_an_engine_that_stops_in_the_middle_of_a_plan_costs_one_step(project, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="mt-", ignore_cleanup_errors=True) as name:
        address, daemon = engine.start(Path(name) / "e")
        try:
            monkeypatch.setenv("DOCKER_HOST", address)
            with engine.client(address) as client:
                engine.tiny_image(client)
            plan = write_plan(project, "stops", tasks=["terra"], input_size=50_000)
            program = start(project, plan)
            runs = project / "outputs/stops/tfidf/terra"
            wait_for(lambda: list(runs.glob("bench-????????/runs/01/run.json")), program)
            engine.stop(daemon)
            _, talk = program.communicate(timeout=120)
            assert program.returncode == 3 and "Traceback" not in talk, talk
            (bench,) = runs.glob("bench-????????")
            assert steps.read_status(bench)["state"] == "failed" and (bench / "runs/01/run.json").exists()
            address, daemon = engine.start(Path(name) / "e")
            code, talk = run(project, plan)
            assert code == 0 and "train tfidf terra: kept" in talk, talk
            assert (bench.with_name(f"{bench.name}.1") / "runs/01/run.json").exists()  # set aside, not lost
        finally:
            engine.stop(daemon)


# -- auto ----------------------------------------------------------------------------------------------------------
def test_auto_takes_the_engine_that_holds_the_base_and_says_so(tiny_image, monkeypatch):
    machine = config.MachineParams(runner="auto", base=tiny_image)
    settled = resolve.settle(machine)
    assert settled.runner == "docker" and settled.chosen.startswith("auto: docker, for an engine answers at unix://")
    absent = resolve.settle(machine.model_copy(update={"base": "not-here:1"}))
    assert absent.runner == "process" and "does not hold the base image not-here:1" in absent.chosen
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    gone = resolve.settle(machine)
    assert gone.runner == "process" and "cannot reach the Docker Engine" in gone.chosen
    assert resolve.settle(config.MachineParams()).chosen == ""


def test_what_auto_has_chosen_is_said_and_written_down(project):
    plan = write_plan(project, "chosen", tasks=["terra"], machine="auto", models=["majority"])
    code, talk = run(project, plan)
    assert code == 0, talk
    assert "auto: docker, for an engine answers" in talk
    (bench,) = (project / "outputs/chosen/majority/terra").glob("bench-????????")
    assert "auto: docker, for an engine answers" in (bench / "notebook.html").read_text()
    assert steps.read_status(bench)["parameters"]["machine"]["runner"] == "docker"


# -- an engine whose disk is full ----------------------------------------------------------------------------------
def test_an_engine_without_room_is_an_environment_failure(project, short_tmpfs, monkeypatch, synthetic_data):
    address, daemon = engine.start(short_tmpfs)
    try:
        monkeypatch.setenv("DOCKER_HOST", address)
        with engine.client(address) as client:
            engine.tiny_image(client)
        (short_tmpfs / "filler").write_bytes(b"\0" * (int(os.statvfs(short_tmpfs).f_bavail) * 4096 - 200_000))
        code, talk = run(project, write_plan(project, "full", tasks=["terra"]))
        assert code == 3 and "docker system df" in talk and "Traceback" not in talk, talk
        (short_tmpfs / "filler").unlink()
        code, talk = run(project, "params/plans/full.yaml")
        assert code == 0, talk
    finally:
        engine.stop(daemon)


@pytest.fixture
def short_tmpfs(tmp_path_factory, docker_engine):
    """A small disk of its own for an engine."""
    place = tmp_path_factory.mktemp("e")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=False)
