"""Programs on the loopback address pre-train one model: one is killed and one comes late, or all are killed."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import swarm_machines
import yaml
from helpers import ROOT


@pytest.fixture(scope="module")
def place(tmp_path_factory, synthetic_data):
    folder = tmp_path_factory.mktemp("machines")
    swarm_machines.prepare(folder, synthetic_data)
    return folder


@pytest.fixture
def machine(place):
    yield from swarm_machines.starting(place)


def test_a_run_goes_on_when_a_trainer_is_killed_and_another_comes_late(
    place, machine, morocco, tmp_path, synthetic_data
):
    out = tmp_path / "kept"
    peer = machine("peer", "--out", out, "--every", "4")
    address = peer.says(r"--peers (\S+)")[1]
    stranger = tmp_path / "key"
    stranger.write_text("a guess")
    refused = machine("status", "--peers", address, "--key", stranger)  # the last --key counts
    assert refused.process.wait(60) == 3
    assert "no peer of try answers" in "".join(refused.said)

    first, killed, client = (machine("trainer", "--peers", address, *more) for more in ([], [], ["--client"]))
    for one in (first, killed, client):
        one.says("update [3-9] of 24")
    seen = [one.addresses() for one in (peer, first, killed, client)]
    assert all(seen) and set().union(*seen) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    killed.kill()
    late = machine("trainer", "--peers", address)
    late.says("update [0-9]+ of 24")
    status = machine("status", "--peers", address, "--json")
    rows = json.loads(status.process.communicate(timeout=60)[0])["trainers"]
    assert (
        len(rows) >= 3 and {row["client"] for row in rows} == {True, False} and all(row["epoch"] >= 1 for row in rows)
    )

    assert peer.process.wait(180) == 0, "".join(peer.said)
    assert [one.process.wait(90) for one in (first, client, late)] == [0, 0, 0]
    result = json.loads((out / "pretrain.json").read_text())
    assert result["updates"] == 24 and len(result["evaluations"]) >= 3

    alone = [swarm_machines.job(place, tmp_path / f"alone{seed}", seed).run()["loss"] for seed in (1, 2, 3)]
    spread = max(alone) - min(alone)
    assert min(alone) - 2 * spread <= result["loss"] <= max(alone) + 2 * spread, (alone, result["loss"])
    assert result["loss"] < result["evaluations"][0]["loss"]

    project = tmp_path / "project"
    project.mkdir()
    for name in ("notebooks", "params", "pyproject.toml"):
        (project / name).symlink_to(ROOT / name)
    tuned = {
        "name": "swarm",
        "kind": "transformer",
        "source": str(out / "model"),
        "recipe": {"epochs": 0.2, "eval_every": 10},
    }
    plan = {"name": "tuned", "models": [tuned], "tasks": ["rwsd"], "steps": ["train"]}
    (project / "plan.yaml").write_text(yaml.safe_dump(plan))
    done = morocco("run", project / "plan.yaml", "--out", tmp_path / "tuned", env={"MOROCCO_DATA": str(synthetic_data)})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "tuned/swarm/rwsd").glob("train-*/weights"))


def test_a_peer_that_is_killed_goes_on_from_its_checkpoint_and_alone_holds_what_was_learnt(place, machine, tmp_path):
    out = tmp_path / "kept"
    peer = machine("peer", "--out", out, "--every", "3")
    trainer = machine("trainer", "--peers", peer.says(r"--peers (\S+)")[1])
    peer.says("update ([6-9]|1[0-9]) of 24.*kept")
    trainer.kill(), peer.kill()
    before = json.loads((out / "pretrain.json").read_text())["evaluations"]
    again = machine("peer", "--out", out, "--every", "3")
    update = int(again.says("going on after update ([0-9]+)")[1])
    assert update >= 6
    late = machine("trainer", "--peers", again.says(r"--peers (\S+)")[1])
    assert int(late.says("update ([0-9]+) of 24")[1]) > update
    assert (again.process.wait(120), late.process.wait(60)) == (0, 0)
    after = json.loads((out / "pretrain.json").read_text())["evaluations"]
    assert before[-1]["loss"] < before[0]["loss"] and after[0]["loss"] < (before[0]["loss"] + before[-1]["loss"]) / 2
    finished = machine("peer", "--out", out)
    assert finished.process.wait(60) == 2 and "a result is never overwritten" in "".join(finished.said)
