"""Pre-training: what is hidden, what is off and stays off, and that nothing but time depends on processes, batches and kills."""

import json
import math
import multiprocessing
import resource
import statistics
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from safetensors.torch import load_file
from small_training import plan, run_program
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from morocco_lib.config.model import PretrainingParams
from morocco_lib.config.pretraining import SHAPES, PretrainRecipe
from morocco_lib.errors import InvalidResult, UsageError
from morocco_lib.models import weights as weights_format
from morocco_lib.training import backbones, fit
from morocco_lib.training.pretraining import corpus, distill, loop, pretrain, schedules, sparsity
from morocco_lib.training.pretraining.loop import keep_freed_memory
from morocco_lib.training.pretraining.masking import Masker
from morocco_lib.training.pretraining.pretrain import model_of
from morocco_lib.training.pretraining.sparsity import Masks

LENGTH = 32
SMALL = {
    "num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": LENGTH
}  # fmt: skip

SHORT = {"model": SMALL, "length": LENGTH, "vocabulary": 200, "batch_size": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def text(tmp_path_factory, synthetic_data):
    """A file of sentences, one a line."""
    records = [json.loads(line) for line in (synthetic_data / "RuCoLA/in_domain_train.jsonl").open(encoding="utf-8")]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"{record['sentence']}\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(text):
    return backbones.word_pieces(text.read_text(encoding="utf-8").splitlines(), 200).to_str()


@pytest.fixture(scope="module")
def sequences(text, tokenizer, tmp_path_factory):
    return corpus.split(corpus.encode(corpus.Source((text,)), tokenizer, LENGTH, tmp_path_factory.mktemp("kept")), 0.05)


@pytest.fixture
def job(sequences, tokenizer, tmp_path):
    """Make a small pre-training: settings of its recipe, its folder, its teacher."""

    def make(folder="work", teacher=None, **settings):
        recipe = {
            "model": SMALL,
            "length": LENGTH,
            "steps": 6,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "warmup": 2,
            "dropout": 0.0,
        }
        recipe = PretrainRecipe(**{**recipe, **settings})
        model = model_of(recipe, 200, 1)
        return loop.Pretraining(
            recipe, model, Masker(tokenizer), *sequences, tmp_path / folder, seed=1, teacher=teacher
        )

    return make


def weights(one) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in one.model.parameters()])


# -- corpus --------------------------------------------------------------------------------------------------------
def test_documents_are_concatenated_and_cut_and_only_the_rest_is_lost(text, tokenizer, tmp_path):
    found = corpus.encode(corpus.Source((text,)), tokenizer, LENGTH, tmp_path)
    reader = corpus.Tokenizer.from_str(tokenizer)
    cls, sep = reader.token_to_id("[CLS]"), reader.token_to_id("[SEP]")
    assert (found.lengths == LENGTH).all() and (found.ids[:, 0] == cls).all() and (found.ids[:, -1] == sep).all()
    whole = [id for line in text.read_text().splitlines() for id in reader.encode(line, add_special_tokens=False).ids]
    body = found.ids[:, 1:-1].flatten().tolist()
    assert body == whole[: len(body)] and len(whole) - len(body) < LENGTH - 2


def test_a_line_may_be_a_sequence_of_its_own(text, tokenizer, tmp_path):
    found = corpus.encode(corpus.Source((text,)), tokenizer, 12, tmp_path, form=corpus.LINES)
    assert len(found) == len(text.read_text().splitlines()) and (found.lengths <= 12).all()
    assert (found.ids[np.arange(12) >= found.lengths[:, None]] == 0).all()


def test_what_was_encoded_is_used_again_unless_text_or_tokenizer_changed(text, tokenizer, tmp_path):
    other = backbones.word_pieces(text.read_text().splitlines(), 150).to_str()
    for _ in range(2):
        corpus.encode(corpus.Source((text,)), tokenizer, LENGTH, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    corpus.encode(corpus.Source((text,)), other, LENGTH, tmp_path)
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"story": line}) + "\n" for line in text.read_text().splitlines()))
    same = corpus.encode(corpus.Source((lines,), "story"), tokenizer, LENGTH, tmp_path)
    assert (same.ids == corpus.encode(corpus.Source((text,)), tokenizer, LENGTH, tmp_path).ids).all()
    assert len(list(tmp_path.glob("*.npy"))) == 3
    with pytest.raises(UsageError, match="line 1: no text in 'text'"):
        corpus.encode(corpus.Source((lines,)), tokenizer, LENGTH, tmp_path)


# -- masks of tokens -----------------------------------------------------------------------------------------------
def test_whole_words_are_hidden_about_as_many_tokens_as_asked(sequences, tokenizer):
    masker, train = Masker(tokenizer), sequences[0]
    batch = masker(train, np.arange(len(train)), 1)
    share = batch.hidden.sum() / (train.lengths - 2).sum()
    assert 0.12 < share <= 0.15
    ids, hidden = torch.from_numpy(np.array(train.ids, np.int64)), batch.hidden
    continues = torch.from_numpy(masker.continues)[ids]
    assert continues.any() and (hidden[:, 2:] == hidden[:, 1:-1])[continues[:, 2:]].all()
    assert not hidden[torch.from_numpy(masker.special)[ids]].any()
    assert (batch.labels == ids[hidden]).all() and (batch.ids[~hidden] == ids[~hidden]).all()
    shown = batch.ids[hidden]
    assert abs((shown == masker.mask).float().mean() - 0.8) < 0.03
    assert abs((shown == batch.labels).float().mean() - 0.1) < 0.03


def test_what_is_hidden_depends_on_the_sequence_and_not_on_its_batch(sequences, tokenizer):
    masker, train = Masker(tokenizer), sequences[0]
    whole = masker(train.part(slice(9)), np.arange(9), 1)
    alone = masker(train.part(slice(4, 5)), np.arange(4, 5), 1)
    assert (whole.ids[4] == alone.ids[0]).all() and (whole.hidden[4] == alone.hidden[0]).all()
    assert (masker(train.part(slice(9)), np.arange(9), 2).hidden != whole.hidden).any()


# -- the loop ------------------------------------------------------------------------------------------------------
def test_a_killed_training_goes_on_to_the_same_weights(job):
    settings = {
        "dropout": 0.1,
        "eval_every": 2,
        "save_every": 2,
        "steps": 8,
        "sparsity": {"level": 0.5},
        "rigl": {"every": 2},
    }
    whole = job("whole", **settings)
    whole.run()
    killed = job("killed", **settings)
    real, killed.evaluate = (
        killed.evaluate,
        lambda: real() if killed.progress.step < 6 else (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    again = job("killed", **settings)
    again.run()
    losses = [[(e["step"], e["train_loss"], e["loss"]) for e in one.progress.evaluations] for one in (whole, again)]
    assert losses[0] == losses[1] and torch.equal(weights(whole), weights(again))
    assert all(torch.equal(mask, again.masks.on[name]) for name, mask in whole.masks.on.items())
    assert whole.progress.hidden == again.progress.hidden


def test_its_heartbeat_is_there_and_renewed_at_every_update_and_evaluation_and_gone_at_the_end(job, monkeypatch):
    one, beats = job(steps=3, eval_every=1), []
    monkeypatch.setattr(
        loop.heartbeat, "beat", lambda work: beats.append(one.progress.step) or (work / "heartbeat").touch()
    )
    one.run()
    assert beats == [0, 1, 1, 2, 2, 3] and not (one.folder / "heartbeat").exists()


def test_passes_that_share_an_update_change_nothing(job):
    one, four = job("one"), job("four", accumulation=4)
    one.run(), four.run()
    assert torch.allclose(weights(one), weights(four), atol=1e-6)


PROGRAM = """
import sys
from pathlib import Path
from morocco_lib.config.model import PretrainingParams
from morocco_lib.training.pretraining import pretrain
given = PretrainingParams.model_validate_json(sys.argv[1])
pretrain.prepare(given, Path(), Path(sys.argv[2]), say=lambda text: None).run()
"""


@pytest.mark.slow
def test_two_processes_make_the_weights_of_one(text, tmp_path):
    recipe = PretrainRecipe(
        model=SMALL, length=LENGTH, steps=8, batch_size=8, warmup=2, learning_rate=1e-3, dropout=0.0, vocabulary=200,
        sparsity={"level": 0.5}, rigl={"every": 2},
    )  # fmt: skip
    program, results = tmp_path / "program.py", []
    program.write_text(PROGRAM)
    given = PretrainingParams(recipe=recipe, corpus=[str(text)]).model_dump_json()
    for count, name in ((1, "one"), (2, "two")):
        (tmp_path / name).mkdir()
        run_program(count, program, given, tmp_path / name, XDG_STATE_HOME=str(tmp_path))
        results.append(json.loads((tmp_path / name / "pretrain.json").read_text()))
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(value, two[name], atol=1e-6) for name, value in one.items())
    masks = [Masks.load(tmp_path / name / "model").on for name in ("one", "two")]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    assert results[0]["perplexity"] == pytest.approx(results[1]["perplexity"], rel=1e-6)
    assert [r["processes"] for r in results] == [1, 2] and results[0]["masked"] == results[1]["masked"]


def test_perplexity_weighs_tokens_whatever_the_batch(job, monkeypatch):
    one = job()
    first = one.evaluate()
    monkeypatch.setattr(loop, "EVALUATED", 3)
    assert one.evaluate()["loss"] == pytest.approx(first["loss"], rel=1e-6)
    batch = one.masker(one.val, np.arange(len(one.val)), 0)
    labels = torch.full(batch.ids.shape, -100)
    labels[batch.hidden] = batch.labels
    with torch.no_grad():
        theirs = one.model(input_ids=batch.ids, attention_mask=batch.attention, labels=labels).loss
    assert first["loss"] == pytest.approx(theirs.item(), rel=1e-5) and first["perplexity"] == pytest.approx(
        math.exp(first["loss"])
    )
    assert first["tokens"] == len(batch.labels)


def test_every_sequence_is_seen_once_an_epoch(job):
    one = job(batch_size=16)
    n = len(one.train)
    seen = np.concatenate([one.places(step)[0] for step in range(2 * n // 16 + 1)])
    assert sorted(seen[:n]) == sorted(seen[n : 2 * n]) == list(range(n)) and (seen[:n] != seen[n : 2 * n]).any()


def test_an_epoch_is_ordered_once(job, monkeypatch):
    one, real, asked = job(), np.random.default_rng, []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: asked.append(seed) or real(seed))
    found = np.concatenate([one.places(step)[0] for step in range(4)])
    assert asked == [(1, 0)] and len(set(found)) == 32


def test_a_loss_that_is_not_finite_ends_it(job):
    one = job(learning_rate=1e30, warmup=0)
    with pytest.raises(InvalidResult, match=r"the loss is (nan|inf) at update \d"):
        one.run()


# -- sparsity ------------------------------------------------------------------------------------------------------
WEIGHTS = {"tiny": 4_124_928, "mini": 10_615_808, "small": 27_523_072, "base": 107_719_680}


def on_meta(shape: str) -> BertForMaskedLM:
    heads, layers, hidden, inner, positions = SHAPES[shape]
    with torch.device("meta"):
        return BertForMaskedLM(
            BertConfig(
                vocab_size=28996, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                intermediate_size=inner, max_position_embeddings=positions,
            )
        )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_models_have_the_published_numbers_of_weights(shape):
    assert sparsity.count(on_meta(shape).base_model) == WEIGHTS[shape]


@pytest.mark.parametrize(
    ("level", "on", "real"), [(0.8, 21_994_216, 79.58), (0.85, 16_577_932, 84.61), (0.9, 11_255_156, 89.55)]
)
def test_base_has_the_published_number_of_weights_on(level, on, real):
    model = on_meta("base")
    counts = {n: w.shape[0] * sparsity.kept(w.shape[1], level) for n, w in sparsity.chosen(model, "fully").items()}
    may = sum(weight.numel() for weight in sparsity.chosen(model, "fully").values())
    whole = WEIGHTS["base"]
    assert whole - may + sum(counts.values()) == on and round(100 * (1 - on / whole), 2) == real
    assert sparsity.kept(768, 0.8) == 154 and whole - may == 516_096
    assert sparsity.level_for(on, model.base_model, "fully") == pytest.approx(level, abs=2e-3)


def test_rows_have_equal_numbers_on_and_what_is_off_stays_zero(job):
    one = job(sparsity={"level": 0.8})
    one.run()
    parameters = dict(one.model.base_model.named_parameters())
    assert one.model.cls.predictions.decoder.weight is parameters["embeddings.word_embeddings.weight"]
    for name, mask in one.masks.on.items():
        assert (mask.sum(dim=1) == round(0.2 * mask.shape[1])).all()
        assert (parameters[name][~mask] == 0).all() and (parameters[name][mask] != 0).float().mean() > 0.99
    assert not any("LayerNorm" in name or "position" in name or "bias" in name for name in one.masks.on)


def test_a_wished_number_of_weights_on_and_a_level_for_each_weight(job):
    dense = job(sparsity={"level": 0.0})
    wished = round(0.6 * sparsity.count(dense.model.base_model))
    one = job(sparsity={"weights_on": wished})
    on = sparsity.count(one.model.base_model) - one.masks.weights_off()
    assert on == pytest.approx(wished, rel=0.02)
    levels = dict.fromkeys(one.masks.on, 0.5) | {"encoder.layer.0.output.dense.weight": 0.75}
    density = job(sparsity={"level": levels}).masks.density()
    assert density.pop("encoder.layer.0.output.dense.weight") == 0.25 and set(density.values()) == {0.5}
    with pytest.raises(UsageError, match="no sparsity for embeddings"):
        job(sparsity={"level": {"encoder.layer.0.output.dense.weight": 0.75}})
    with pytest.raises(ValueError, match="either level or weights_on"):
        PretrainRecipe(sparsity={"level": 0.5, "weights_on": 9})


def test_growth_is_by_gradient_and_pruning_by_size_over_all_layers(job):
    one = job(sparsity={"level": 0.5})
    pairs = one.masks._pairs(one.model)
    before = {name: mask.clone() for name, mask in one.masks.on.items()}
    for weight, _ in pairs:
        weight.grad = torch.rand(weight.shape)
    sizes = torch.cat([weight[mask].abs() for weight, mask in pairs]).sort().values
    moved = one.masks.regrow(one.model, 0.1)
    assert moved == int(0.1 * len(sizes)) and one.masks.weights_on() == len(sizes)
    limit = sizes[moved - 1]
    for (weight, mask), old in zip(pairs, before.values(), strict=True):
        assert (weight[mask & ~old] == 0).all() and (weight[~mask] == 0).all()
        kept = mask & old & (weight != 0)
        assert (weight[kept].abs() > limit).all()
    grown = torch.cat([weight.grad[mask & (weight == 0)] for weight, mask in pairs])
    still_off = torch.cat([weight.grad[~mask] for weight, mask in pairs])
    assert grown.min() >= still_off.max()


def test_the_share_that_moves_is_a_cosine_after_the_first_period():
    assert sparsity.rigl_share(99, 1000, 0.3, 100) == 0
    assert sparsity.rigl_share(100, 1000, 0.3, 100) == pytest.approx(0.3)
    assert sparsity.rigl_share(999, 1000, 0.3, 100) == pytest.approx(0, abs=1e-9)
    assert sparsity.rigl_share(100 + 899 // 2, 1000, 0.3, 100) == pytest.approx(0.15, abs=1e-3)


def test_weights_move_once_a_period_however_many_passes_an_update_has(job, monkeypatch):
    asked = []
    monkeypatch.setattr(Masks, "regrow", lambda self, model, share: asked.append(share))
    job(sparsity={"level": 0.5}, rigl={"every": 2, "share": 0.3}, accumulation=4).run()
    assert len(asked) == 3 and asked[0] == 0 < asked[2] < asked[1]


def test_gradual_pruning_ends_at_its_level(job):
    one = job(gradual={"level": 0.7, "every": 2})
    one.run()
    may = sum(mask.numel() for mask in one.masks.on.values())
    assert one.masks.weights_on() == round(0.3 * may)
    assert [sparsity.gradual_on(step, 10, 100, 20) for step in (0, 5, 10)] == [100, 30, 20]


def test_a_sparse_model_is_still_sparse_after_fine_tuning(job, tokenizer, small, tmp_path):
    one, start = job(sparsity={"level": 0.8}, steps=1), tmp_path / "start"
    one.run()
    one.model.save_pretrained(start)
    (start / "tokenizer.json").write_text(tokenizer)
    one.masks.save(start)
    (tmp_path / "fitted").mkdir()
    fit.fit(plan(small, begin={"source": str(start)}, max_length=LENGTH), tmp_path / "fitted")
    fitted = load_file(tmp_path / "fitted/weights" / weights_format.ARRAYS)
    for name, mask in one.masks.on.items():
        assert (fitted[f"body.{name}"][~mask] == 0).all() and (fitted[f"body.{name}"][mask] != 0).any()
    learnt = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(fitted[f"body.{learnt}"], load_file(start / "model.safetensors")[f"bert.{learnt}"])


# -- schedules and distillation ------------------------------------------------------------------------------------
def test_one_cycle_is_torchs():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, total_steps=50, pct_start=0.3, anneal_strategy="linear"
    )
    for step in range(50):
        group = optimizer.param_groups[0]
        assert 2.0 * schedules.one_cycle(step, 50, 0.3) == pytest.approx(group["lr"], rel=1e-9)
        assert schedules.one_cycle_beta(step, 50, 0.3) == pytest.approx(group["betas"][0], rel=1e-9)
        optimizer.step()
        if step < 49:
            theirs.step()


def test_a_range_test_finds_where_the_loss_turns_up_and_leaves_no_model(job, text, tmp_path):
    settings = {"schedule": "range_test", "lowest": 1e-4, "learning_rate": 10.0, "eval_every": 1, "steps": 60}
    one = job(**settings)
    found = one.run().evaluations
    rates = [each["learning_rate"] for each in found]
    assert rates[0] == pytest.approx(1e-4) and rates[9] / rates[8] == pytest.approx(rates[1] / rates[0])
    said, losses = schedules.suggest(found), [each["loss"] for each in found]
    assert rates[losses.index(min(losses))] == pytest.approx(said["turns_up_at"], rel=1.0)
    assert said["suggested"] == said["turns_up_at"] / 2 and 1e-3 < said["suggested"] < 1.0
    assert schedules.suggest(found[: losses.index(min(losses))])["reason"].startswith("the loss still falls")
    with pytest.raises(ValueError, match="evaluates each update"):
        PretrainRecipe(**{**settings, "eval_every": 2})
    (made := tmp_path / "made").mkdir()
    given = PretrainingParams(recipe=PretrainRecipe(**{**settings, **SHORT}), corpus=[str(text)])
    result = pretrain.prepare(given, tmp_path, made, say=lambda text: None).run()
    assert set(result["range_test"]) >= {"turns_up_at", "suggested"} and not (made / "model").exists()


def test_a_range_test_ends_where_the_loss_has_diverged():
    def falls_then(last):
        return [{"loss": 8.0}, {"loss": 4.0}, {"loss": last}]

    assert schedules.has_diverged(falls_then(8.1)) and not schedules.has_diverged(falls_then(7.9))


def test_a_teacher_is_learnt_from_with_its_temperature_and_true_labels_with_the_rest(monkeypatch):
    monkeypatch.setattr(distill, "CACHED", 14)  # two rows at a time
    logits, teacher, labels = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7), torch.randint(7, (5,))
    told = functional.cross_entropy(logits, labels, reduction="sum")
    taught = functional.cross_entropy(logits, (teacher / 2).softmax(1), reduction="sum")
    assert distill.loss(logits, teacher, labels, 1.0, 2.0).item() == pytest.approx(taught.item(), rel=1e-6)
    assert distill.loss(logits, teacher, labels, 0.0, 2.0).item() == pytest.approx(told.item(), rel=1e-6)
    mixed = 0.25 * taught.item() + 0.75 * told.item()
    assert distill.loss(logits, teacher, labels, 0.25, 2.0).item() == pytest.approx(mixed, rel=1e-6)
    (ours,) = torch.autograd.grad(3 * distill.loss(logits, teacher, labels, 0.25, 2.0), logits)
    (theirs,) = torch.autograd.grad(3 * (0.25 * taught + 0.75 * told), logits)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert [distill.between(1.0, 0.0, step, 5) for step in (0, 2, 4)] == [1.0, 0.5, 0.0]


def test_evaluations_are_of_true_labels_and_do_not_end_distillation(job):
    teacher = model_of(PretrainRecipe(model=SMALL, length=LENGTH, dropout=0.0), 200, 9)
    settings = {"distill": {"teacher": "given"}, "steps": 5}
    often, never = job("often", teacher, eval_every=1, **settings), job("never", teacher, **settings)
    often.run(), never.run()
    assert torch.equal(weights(often), weights(never))
    plain = job("plain", steps=5)
    plain.run()
    assert not torch.equal(weights(plain), weights(never))
    batch = never.masker(never.val, np.arange(len(never.val)), 0)
    with torch.no_grad():
        loss = functional.cross_entropy(never.net.eval()(batch)[0], batch.labels)
    assert never.evaluate()["loss"] == pytest.approx(loss.item(), rel=1e-5)


# -- memory --------------------------------------------------------------------------------------------------------
def page_faults() -> list[int]:
    """Return those of each of eleven matrices of 40 MB."""
    keep_freed_memory()
    faults = []
    for _ in range(11):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytes([1]) * 40_000_000
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return faults


def test_large_matrices_are_not_fetched_anew_from_the_system(job, kept_memory):
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as process:
        faults = process.submit(page_faults).result(60)
    # Each of 9,766 pages; now and then something small is put where a matrix was, which the next one does not fit.
    assert statistics.median(faults) < 1000, faults
    kept_memory.clear()
    job("kept", steps=1).run()
    assert kept_memory == ["kept"]
