"""All programs of a swarm are killed, and go on."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import swarm_machines


@pytest.fixture
def machine(swarm_folder):
    yield from swarm_machines.starting(swarm_folder)


def test_a_peer_that_is_killed_goes_on_from_its_checkpoint_and_alone_holds_what_was_learnt(
    swarm_folder, machine, tmp_path
):
    out = tmp_path / "kept"
    peer = machine("peer", "--out", out, "--every", "3")
    trainer = machine("trainer", "--peers", peer.says(r"--peers (\S+)")[1])
    peer.says("update ([6-9]|1[0-9]) of 20.*kept")
    trainer.kill(), peer.kill()
    before = json.loads((out / "pretrain.json").read_text())["evaluations"]
    again = machine("peer", "--out", out, "--every", "3")
    update = int(again.says("going on after update ([0-9]+)")[1])
    assert update >= 6
    late = machine("trainer", "--peers", again.says(r"--peers (\S+)")[1])
    assert int(late.says("update ([0-9]+) of 20")[1]) > update
    assert (again.process.wait(120), late.process.wait(60)) == (0, 0)
    after = json.loads((out / "pretrain.json").read_text())["evaluations"]
    assert after[: len(before)] == before  # what was seen before is kept
    assert (
        before[-1]["loss"] < before[0]["loss"]
        and after[len(before)]["loss"] < (before[0]["loss"] + before[-1]["loss"]) / 2
    )
    finished = machine("peer", "--out", out)
    assert finished.process.wait(60) == 2 and "a result is never overwritten" in "".join(finished.said)
