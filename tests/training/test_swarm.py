"""Pre-training by many machines: a run of several programs on the loopback address, of which one is killed and one comes late."""

import asyncio
import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import swarm_machines
import torch
import yaml
from helpers import ROOT
from hivemind.optim.state_averager import initialize_optimizer_state_
from hivemind.proto import dht_pb2
from swarm_machines import RECIPE

from morocco_lib.config.model import PretrainingParams
from morocco_lib.config.pretraining import PretrainRecipe
from morocco_lib.training import swarm
from morocco_lib.training.pretraining import pretrain


@pytest.fixture(scope="module")
def place(tmp_path_factory, synthetic_data):
    folder = tmp_path_factory.mktemp("machines")
    swarm_machines.prepare(folder, synthetic_data)
    return folder


def job(place, folder, seed=1, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    given = PretrainingParams(
        recipe=PretrainRecipe(**{**RECIPE, **settings}), corpus=[str(place / "text.txt")], tokenizer=str(place / "tokenizer.json")
    )  # fmt: skip
    return pretrain.prepare(given, folder, folder, seed=seed, say=lambda line: None)


# -- parts ---------------------------------------------------------------------------------------------------------
def signed(key):
    """A request as a peer with this key sends it, and as it arrives."""
    request = dht_pb2.FindRequest(keys=[b"where"])
    asyncio.run(swarm.SharedKey(key).sign_request(request, None))
    return dht_pb2.FindRequest.FromString(request.SerializeToString())


def test_a_request_passes_once_if_it_is_signed_with_the_key_and_unchanged():
    guard = swarm.SharedKey(b"ours")
    request, altered, other = signed(b"ours"), signed(b"ours"), signed(b"theirs")
    altered.keys.append(b"more")
    again = dht_pb2.FindRequest.FromString(request.SerializeToString())
    old = dht_pb2.FindRequest(keys=[b"where"])
    old.auth.time, old.auth.nonce = request.auth.time - 2 * swarm.SKEW_S, b"n"
    old.auth.signature = guard._signature(old)
    passed = [
        asyncio.run(guard.validate_request(one)) for one in (request, again, altered, other, old, dht_pb2.FindRequest())
    ]
    assert passed == [True, False, False, False, False, False]


def test_an_answer_passes_if_it_is_signed_and_to_that_question():
    ours, theirs = swarm.SharedKey(b"ours"), swarm.SharedKey(b"theirs")
    question, another = signed(b"ours"), signed(b"ours")
    for signer, asked, passes in ((ours, question, True), (theirs, question, False), (ours, another, False)):
        answer = dht_pb2.FindResponse()
        asyncio.run(signer.sign_response(answer, asked))
        assert asyncio.run(ours.validate_response(answer, question)) is passes


def test_names_of_a_run_with_a_key_cannot_be_told_without_it():
    names = {swarm.Place("run", key=key).prefix for key in (None, b"a", b"b")}
    assert len(names) == 3 and "run" in names


def test_hiveminds_first_step_moves_nothing_and_rates_follow_the_recipe(place, tmp_path):
    loop = job(place, tmp_path / "one", weight_decay=0.5).loop
    before = [p.detach().clone() for p in loop.model.parameters()]
    optimizer = swarm._made(loop, loop.groups(loop.model))
    initialize_optimizer_state_(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))
    scheduler = swarm._scheduled(loop, optimizer)
    assert {float(state["step"]) for state in optimizer.state.values()} == {0.0}
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), scheduler.step()
    assert rates == pytest.approx([0.03 * loop.factor(step) for step in range(4)]) and rates[2] == 0.03


def test_averaged_gradients_are_clipped(place, tmp_path):
    loop = job(place, tmp_path / "one", optimizer="adamw").loop
    optimizer = swarm._made(loop, loop.groups(loop.model))
    for parameter in loop.model.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    optimizer.step()
    assert torch.cat([p.grad.flatten() for p in loop.model.parameters()]).norm() == pytest.approx(1.0, rel=1e-4)


# -- a run ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def machine(place):
    yield from swarm_machines.starting(place)


@pytest.mark.slow
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
    killed.says("update 3 of 14")
    seen = [one.addresses() for one in (peer, first, killed, client)]
    assert all(seen) and set().union(*seen) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    killed.kill()
    late = machine("trainer", "--peers", address)
    late.says("update [0-9]+ of 14")
    status = machine("status", "--peers", address, "--json")
    rows = json.loads(status.process.communicate(timeout=60)[0])["trainers"]
    assert (
        len(rows) >= 3 and {row["client"] for row in rows} == {True, False} and all(row["epoch"] >= 1 for row in rows)
    )

    assert peer.process.wait(180) == 0, "".join(peer.said)
    assert [one.process.wait(90) for one in (first, client, late)] == [0, 0, 0]
    result = json.loads((out / "pretrain.json").read_text())
    assert result["updates"] == 14 and len(result["evaluations"]) >= 3

    alone = [job(place, tmp_path / f"alone{seed}", seed).run()["loss"] for seed in (1, 2, 3)]
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
