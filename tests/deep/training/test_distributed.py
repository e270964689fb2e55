"""Two processes under torchrun: one that fails ends the other, and an interrupted training is resumed."""

import json
import time

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from small_training import QUICK, SPOILT, few_records, model_file, trained_by_two

from morocco_lib.training import seeds


@pytest.fixture(scope="module")
def small(tmp_path_factory, synthetic_data):
    return few_records(synthetic_data, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "fault", ['raise torch.OutOfMemoryError("full")', "import os; os._exit(9)"], ids=["memory", "gone"]
)
def test_a_process_that_fails_ends_the_others(fault, small, tmp_path):
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SPOILT.replace("FAULT", fault))
    running = trained_by_two([spoilt], model_file(tmp_path / "project"), small, tmp_path / "out")
    _, printed = running.communicate(timeout=120)
    assert running.returncode != 0 and "seed 2" not in printed
    assert ("out of memory with 8 examples at once" in printed) == ("memory" in fault.lower())
    assert json.loads((tmp_path / "out" / "status.json").read_text())["state"] in ("failed", "killed")


def test_an_interrupted_training_of_two_processes_goes_on_where_it_was(small, tmp_path):
    root = model_file(tmp_path / "project", recipe={**QUICK, "epochs": 40, "eval_every": 50})
    work = seeds.work_folder(tmp_path / "out")
    running = trained_by_two(["-m", "morocco_lib"], root, small, tmp_path / "out")
    until = time.monotonic() + 120
    while not list(work.glob("seed-2/checkpoint-*/trainer_state.json")):
        assert running.poll() is None and time.monotonic() < until, running.communicate()
        time.sleep(0.02)
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode != 0
    again = trained_by_two(["-m", "morocco_lib"], root, small, tmp_path / "out")
    _, printed = again.communicate(timeout=120)
    assert again.returncode == 0, printed
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert printed.count("seed 1: done before") == 1 and result["processes"] == 2 and not work.exists()
    assert [one["updates"] for one in result["seeds"]] == [400, 400] and len(result["seeds"][1]["looks"]) == 8
