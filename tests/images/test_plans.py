"""Plans whose models run in containers: built, checked, measured and scored."""

import json
import shutil

import engine
import pytest
from helpers import ROOT

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.pipeline import targets
from morocco_lib.pipeline.plan_run import PlanRun
from morocco_lib.pipeline.step_kinds import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_image):
    return engine.Project(tmp_path_factory.mktemp("contained"))


def test_a_plan_builds_checks_measures_and_scores(project, docker):
    code, talk = project.run("whole", machine="auto")
    assert code == 0, talk
    assert "auto: docker, for an engine answers at unix://" in talk
    outputs = project.root / "outputs/whole"
    (bench,) = outputs.glob("tfidf/terra/bench-????????/bench.json")
    result = json.loads(bench.read_text())
    digest = docker.images.get("tfidf-terra").id
    assert (result["verdict"], result["runner"], result["image_digest"]) == ("VALID", "docker", digest)
    assert result["ram_bytes"]["value"] and result["speed_per_s"]["value"] and result["score"]["value"] > 0
    page = (bench.parent / "notebook.html").read_text()
    assert "building tfidf-terra" in page and "auto: docker, for an engine answers" in page
    assert steps.read_status(bench.parent)["parameters"]["machine"]["runner"] == "docker"
    (score,) = outputs.glob("tfidf/terra/eval-????????/score.json")
    assert json.loads(score.read_text())["score"]["value"] == result["score"]["value"]
    assert all(finding.ok for finding in verify(outputs))
    assert engine.left_containers(docker) == []
    assert project.run("whole", machine="auto")[1].count("kept") == 4  # every step, nothing is built or measured again


def test_a_tag_that_moves_to_another_image_is_another_step(tmp_path, docker, image_of, synthetic_data):
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "params/models/own.yaml").write_text("model: {name: own, image: morocco-tests/moves}\n")
    plan = config.PlanParams(name="moves", models=["own"], tasks=["terra"], steps=["bench"])

    def folder(program):
        docker.images.get(image_of(program)).tag("morocco-tests/moves")
        (step,) = PlanRun(plan, tmp_path, tmp_path / "out", str(synthetic_data)).preview()
        return step.folder

    first, other = folder("print(1)"), folder("print(2)")
    assert first and other and first != other and folder("print(1)") == first


def test_auto_takes_an_engine_only_if_it_answers_and_holds_the_base(tiny_image, monkeypatch):
    machine = config.MachineParams(runner="auto", base=tiny_image)
    assert targets.resolve_runner(machine).runner == "docker"
    absent = targets.resolve_runner(machine.model_copy(update={"base": "not-here:1"}))
    assert absent.runner == "process" and "does not hold the base image not-here:1" in absent.chosen
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    gone = targets.resolve_runner(machine)
    assert gone.runner == "process" and "cannot reach the Docker Engine" in gone.chosen
