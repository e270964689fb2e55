"""Programs on the loopback address pre-train one model; one is killed and one comes late."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import swarm_machines
import yaml
from helpers import ROOT

from morocco_lib.training.swarm import Membership, Peer


@pytest.fixture
def machine(swarm_folder):
    yield from swarm_machines.starting(swarm_folder)


@pytest.mark.long
def test_a_run_goes_on_when_a_trainer_is_killed_and_another_comes_late(
    swarm_folder, machine, morocco, tmp_path, synthetic_data
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
        one.says("update [3-9] of 20")
    seen = [one.addresses() for one in (peer, first, killed, client)]
    assert all(seen) and set().union(*seen) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    killed.kill()
    late, status = machine("trainer", "--peers", address), machine("status", "--peers", address, "--json")
    printed = status.process.stdout.read()
    assert status.process.wait(60) == 0, "".join(status.said)
    rows = json.loads(printed)["trainers"]
    assert (
        len(rows) >= 3 and {row["client"] for row in rows} == {True, False} and all(row["epoch"] >= 1 for row in rows)
    )

    late.says("update [0-9]+ of 20")
    peer.ends(180)
    for one in (first, client, late):
        one.ends()
    result = json.loads((out / "pretrain.json").read_text())
    assert result["updates"] == 20 and len(result["evaluations"]) >= 3

    alone = [swarm_machines.job(swarm_folder, tmp_path / f"alone{seed}", seed).run()["loss"] for seed in (1, 2, 3)]
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


def test_the_way_to_a_peer_is_measured_as_long_as_it_is_there():
    with Peer(Membership("try")) as one, Peer(Membership("try", tuple(one.addresses()))) as other:
        assert other.bandwidth() > 0
        one.dht.shutdown()
        assert other.bandwidth() is None
