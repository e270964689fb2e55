"""A swarm whose machines are all killed."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import swarm_machines


@pytest.fixture(scope="module")
def place(tmp_path_factory, synthetic_data):
    folder = tmp_path_factory.mktemp("machines")
    swarm_machines.prepare(folder, synthetic_data)
    return folder


@pytest.fixture
def machine(place):
    yield from swarm_machines.starting(place)


def test_a_peer_that_is_killed_goes_on_from_its_checkpoint_and_alone_holds_what_was_learnt(place, machine, tmp_path):
    out = tmp_path / "kept"
    peer = machine("peer", "--out", out, "--every", "2")
    trainer = machine("trainer", "--peers", peer.says(r"--peers (\S+)")[1])
    peer.says("update ([6-9]|10) of 14.*kept")
    trainer.kill(), peer.kill()
    before = json.loads((out / "pretrain.json").read_text())["evaluations"]
    again = machine("peer", "--out", out, "--every", "2")
    update = int(again.says("going on after update ([0-9]+)")[1])
    assert update >= 6
    late = machine("trainer", "--peers", again.says(r"--peers (\S+)")[1])
    assert int(late.says("update ([0-9]+) of 14")[1]) > update
    assert (again.process.wait(120), late.process.wait(60)) == (0, 0)
    after = json.loads((out / "pretrain.json").read_text())["evaluations"]
    assert before[-1]["loss"] < before[0]["loss"] and after[0]["loss"] < (before[0]["loss"] + before[-1]["loss"]) / 2
    finished = machine("peer", "--out", out)
    assert finished.process.wait(60) == 2 and "a result is never overwritten" in "".join(finished.said)
