"""Plans whose models run in containers: built, checked, measured and scored."""

import json
import os
import re

import engine
import pytest

from morocco_lib import config
from morocco_lib.artifacts import steps, verify
from morocco_lib.pipeline import resolve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_image):
    return engine.Project(tmp_path_factory.mktemp("contained"))


def test_a_plan_builds_checks_measures_and_scores(project, docker):
    code, talk = project.run("whole", models=["tfidf"])
    assert code == 0, talk
    outputs = project.root / "outputs/whole"
    (bench,) = outputs.glob("tfidf/terra/bench-????????/bench.json")
    result = json.loads(bench.read_text())
    digest = docker.images.get("tfidf-terra").id
    assert (result["verdict"], result["runner"], result["image_digest"]) == ("VALID", "docker", digest)
    assert result["ram_bytes"]["value"] and result["speed_per_s"]["value"] and result["score"]["value"] > 0
    assert "building tfidf-terra" in (bench.parent / "notebook.html").read_text()
    (score,) = outputs.glob("tfidf/terra/eval-????????/score.json")
    assert json.loads(score.read_text())["score"]["value"] == result["score"]["value"]
    assert all(finding.ok for finding in verify.verify(outputs))
    assert engine.left_containers(docker) == []
    assert project.run("whole")[1].count("kept") == 4  # every step, nothing is built or measured again


def test_an_engine_that_is_gone_fails_the_step_and_the_next_run_does_the_rest(project, monkeypatch):
    address = os.environ["DOCKER_HOST"]
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    code, talk = project.run("gone")
    assert code == 3 and "cannot reach the Docker Engine" in talk and "Traceback" not in talk
    monkeypatch.setenv("DOCKER_HOST", address)
    code, talk = project.run("gone")
    assert code == 0 and len(re.findall("train.*kept", talk)) == 1, talk


def test_auto_takes_the_engine_that_holds_the_base_and_reports_it(project, tiny_image, monkeypatch):
    machine = config.MachineParams(runner="auto", base=tiny_image)
    absent = resolve.settle(machine.model_copy(update={"base": "not-here:1"}))
    assert absent.runner == "process" and "does not hold the base image not-here:1" in absent.chosen
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    gone = resolve.settle(machine)
    assert gone.runner == "process" and "cannot reach the Docker Engine" in gone.chosen
    monkeypatch.undo()
    code, talk = project.run("chosen", machine="auto", models=["majority"])
    assert code == 0, talk
    assert "auto: docker, for an engine answers at unix://" in talk
    (bench,) = (project.root / "outputs/chosen/majority/terra").glob("bench-????????")
    assert "auto: docker, for an engine answers" in (bench / "notebook.html").read_text()
    assert steps.read_status(bench)["parameters"]["machine"]["runner"] == "docker"
