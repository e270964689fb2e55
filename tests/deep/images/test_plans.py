"""Plans in containers: on real records, and interrupted."""

import json
import signal

import engine
import pytest
from helpers import wait_until

from morocco_lib.pipeline.step_kinds import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_image):
    return engine.Project(tmp_path_factory.mktemp("contained"))


def test_a_plan_on_real_records(project, real_data, docker):
    code, talk = project.run("real", tasks=["terra", "muserc"], quick=True, data_dir=str(real_data / "rsg"))
    assert code == 0, talk
    outputs = project.root / "outputs/real"
    benches = sorted(outputs.glob("tfidf/*/bench-????????/bench.json"))
    assert [path.parts[-3] for path in benches] == ["muserc", "terra"]
    assert all(json.loads(path.read_text())["verdict"] == "VALID" for path in benches)
    assert all(finding.ok for finding in verify(outputs)) and engine.left_containers(docker) == []


def test_a_plan_that_is_interrupted_leaves_no_container_and_goes_on(project, docker):
    cell = project.root / "outputs/ended/tfidf/terra"

    def measuring():
        return list(cell.glob("bench-*")) and docker.api.containers(filters={"label": "morocco.owner"})

    for number in (signal.SIGINT, signal.SIGKILL):
        program = project.start("ended", input_size=20_000, quick=True)
        assert wait_until(measuring, 90)
        program.send_signal(number)
        program.communicate(timeout=60)
        assert program.returncode in (130, -signal.SIGKILL)
        if number == signal.SIGINT:
            assert engine.left_containers(docker) == []
    code, talk = project.run("ended", input_size=20_000, quick=True)
    assert code == 0, talk
    assert engine.left_containers(docker) == [] and "kept" in talk  # what had been trained
