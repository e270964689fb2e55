"""Pre-training by many machines: a run of several programs on the loopback address, of which one is killed and one comes late."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("hivemind", reason="needs the collaborative extra: make setup-torch")

import psutil
import torch
import yaml
from hivemind.optim.state_averager import initialize_optimizer_state_
from hivemind.proto import dht_pb2

from morocco_lib.config.model import PretrainingParams
from morocco_lib.config.pretraining import PretrainRecipe
from morocco_lib.training import backbones, swarm
from morocco_lib.training.pretraining import pretrain

ROOT = Path(__file__).resolve().parents[2]
LEAN = {
    "model_type": "lean_albert", "embedding_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": None,
}  # fmt: skip
RECIPE = {
    "model": LEAN, "length": 24, "sentence_order": True, "optimizer": "lamb_8bit", "betas": [0.9, 0.95], "eps": 1.0e-6, "dropout": 0.0,
    "batch_size": 512, "steps": 14, "learning_rate": 0.03, "warmup": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, synthetic_data):
    """A folder with what all machines have: recipe.yaml, text.txt, tokenizer.json and key."""
    folder = tmp_path_factory.mktemp("machines")
    records = [json.loads(line) for line in (synthetic_data / "RuCoLA/in_domain_train.jsonl").open(encoding="utf-8")]
    lines = [record["sentence"] for record in records]
    (folder / "text.txt").write_text(
        "".join(" ".join(lines[k : k + 6]) + "\n" for k in range(0, len(lines), 6)), encoding="utf-8"
    )
    (folder / "tokenizer.json").write_text(backbones.word_pieces(lines, 200).to_str(), encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"pretraining": RECIPE}))
    (folder / "key").write_text("no stranger knows\n")
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
class Machine:
    """A program with all its processes; what it says is read as it comes."""

    def __init__(self, place, verb, *options):
        argv = [sys.executable, "-m", "morocco_lib", "swarm", verb]
        if verb != "status":
            argv += ["recipe.yaml", "--corpus", "text.txt", "--tokenizer", "tokenizer.json", "--matchmaking", "2"]
        argv += ["--run", "try", "--key", "key", *map(str, options)]
        self.process = subprocess.Popen(
            argv, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = []
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def says(self, pattern, timeout_s=120):
        """Wait for a line that matches, and return the match."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            if found := next((m for line in list(self.said) if (m := re.search(pattern, line))), None):
                return found
            assert not ended, f"ended with {self.process.returncode}: {''.join(self.said)[-2000:]}"
            time.sleep(0.1)
        raise AssertionError(f"no {pattern!r} in {timeout_s} s: {''.join(self.said)[-2000:]}")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def addresses(self):
        """The addresses of this machine that its processes use."""
        found = set()
        for process in (psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)):
            found |= {one.laddr.ip for one in process.net_connections("inet")}
        return found


@pytest.fixture
def machine(place):
    started = []

    def start(*argv):
        started.append(Machine(place, *argv))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()


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


@pytest.mark.slow
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
