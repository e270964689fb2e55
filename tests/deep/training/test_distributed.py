"""Two processes under torchrun: one that fails ends the other, and an interrupted training is resumed."""

import json
import time

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from small_training import QUICK, SPOILT, model_file, trained_by_two

from morocco_lib.artifacts import steps
from morocco_lib.training import heartbeat


@pytest.mark.parametrize(
    "fault", ['raise torch.OutOfMemoryError("full")', "import os; os._exit(9)"], ids=["memory", "gone"]
)
def test_a_process_that_fails_ends_the_others(fault, small, tmp_path):
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SPOILT.replace("FAULT", fault))
    running = trained_by_two([spoilt], model_file(tmp_path / "project"), small, tmp_path / "out")
    _, messages = running.communicate(timeout=120)
    assert running.returncode != 0 and "seed 2" not in messages
    assert ("out of memory with 8 examples at once" in messages) == ("memory" in fault.lower())
    status = steps.read_status(tmp_path / "out")
    assert status["state"] != steps.DONE and not steps.is_alive(status)  # torchrun may end it before it can say so


def test_a_training_of_two_processes_that_is_interrupted_again_and_again_ends_with_the_same_bytes(small, tmp_path):
    recipe = {
        **QUICK,
        "epochs": 10,
        "eval_every": 10,
        "patience": 8,
        "accumulation": 2,
        "group_by_length": True,
        "dropout": 0.1,
    }
    root, out = model_file(tmp_path / "project", recipe=recipe), tmp_path / "out"
    work = heartbeat.work_folder(out)

    def updates():  # of seed 2 that are behind its newest evaluation
        return max(
            (int(path.parent.name[11:]) for path in work.glob("seed-2/checkpoint-*/trainer_state.json")), default=0
        )

    for update in (10, 70):
        running = trained_by_two(["-m", "morocco_lib"], root, small, out)
        until = time.monotonic() + 120
        while updates() < update:
            assert running.poll() is None and time.monotonic() < until, running.communicate()
            time.sleep(0.02)
        running.terminate()
        running.communicate(timeout=60)
        assert running.returncode != 0
    again = trained_by_two(["-m", "morocco_lib"], root, small, out)
    _, messages = again.communicate(timeout=120)
    assert again.returncode == 0, messages
    assert messages.count("seed 1: done before") == 1 and not work.exists()
    whole = trained_by_two(["-m", "morocco_lib"], root, small, tmp_path / "whole")
    assert whole.wait(120) == 0
    found, expected = (json.loads((place / "train.json").read_text()) for place in (out, tmp_path / "whole"))
    assert found["processes"] == 2 and [one["updates"] for one in found["seeds"]] == [100, 100]
    assert [one["looks"] for one in found["seeds"]] == [one["looks"] for one in expected["seeds"]]
    one, other = (place / "weights/model.safetensors" for place in (out, tmp_path / "whole"))
    assert one.read_bytes() == other.read_bytes()
