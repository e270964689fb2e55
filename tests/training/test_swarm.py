"""Pre-training by many machines: the parts; whole runs are in tests/deep/training/test_swarm_peers.py."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import swarm_machines
import torch
from hivemind.optim.state_averager import initialize_optimizer_state_
from hivemind.proto import dht_pb2

from morocco_lib.errors import UsageError
from morocco_lib.training import swarm


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
    names = {swarm.Membership("run", key=key).prefix for key in (None, b"a", b"b")}
    assert len(names) == 3 and "run" in names


def test_hiveminds_first_step_moves_nothing_and_rates_follow_the_recipe(swarm_folder, tmp_path):
    loop = swarm_machines.job(swarm_folder, tmp_path / "one", weight_decay=0.5).loop
    before = [p.detach().clone() for p in loop.model.parameters()]
    optimizer = swarm._make_optimizer(loop, loop.groups(loop.model))
    initialize_optimizer_state_(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))
    scheduler = swarm._make_scheduler(loop, optimizer)
    assert {float(state["step"]) for state in optimizer.state.values()} == {0.0}
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), scheduler.step()
    assert rates == pytest.approx([0.03 * loop.factor(step) for step in range(4)]) and rates[2] == 0.03


@pytest.mark.parametrize("sequences", [None, 8])
def test_peers_and_trainers_refuse_what_averaging_knows_nothing_of(swarm_folder, tmp_path, sequences):
    loop = swarm_machines.job(swarm_folder, tmp_path / "one", sparsity={"level": 0.5}).loop
    with pytest.raises(UsageError, match="a swarm with masks, a teacher or fp16"):
        swarm.Peer.optimizer(SimpleNamespace(place=swarm.Membership("run")), loop, loop.model, sequences)


def test_averaged_gradients_are_clipped(swarm_folder, tmp_path):
    loop = swarm_machines.job(swarm_folder, tmp_path / "one", optimizer="adamw").loop
    optimizer = swarm._make_optimizer(loop, loop.groups(loop.model))
    for parameter in loop.model.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    optimizer.step()
    assert torch.cat([p.grad.flatten() for p in loop.model.parameters()]).norm() == pytest.approx(1.0, rel=1e-4)
