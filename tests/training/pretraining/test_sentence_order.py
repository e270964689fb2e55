"""RuLeanALBERT's way of pre-training: pairs of texts in order or swapped, LAMB whose moments take 8 bits, its schedule."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from morocco_lib.config.model import PretrainingParams
from morocco_lib.config.pretraining import PretrainRecipe
from morocco_lib.errors import UsageError
from morocco_lib.training import backbones
from morocco_lib.training.pretraining import lamb, pretrain, schedules, sentences
from morocco_lib.training.pretraining.masking import Masker

LENGTH = 24
LEAN = {
    "model_type": "lean_albert", "embedding_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": None,
}  # fmt: skip
RECIPE = {
    "model": LEAN, "length": LENGTH, "vocabulary": 200, "sentence_order": True, "optimizer": "lamb_8bit", "betas": (0.9, 0.95),
    "eps": 1e-6, "dropout": 0.0, "batch_size": 8, "steps": 6, "learning_rate": 1e-2, "warmup": 2, "idle": 1, "floor": 0.02,
}  # fmt: skip


# -- LAMB ----------------------------------------------------------------------------------------------------------
def test_lamb_is_what_its_formula_says():
    rng = np.random.default_rng(1)
    weight, rate, decay, (b1, b2), eps = rng.normal(size=(7, 5)), 0.1, 0.01, (0.9, 0.95), 1e-6
    tensor = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    one = lamb.Lamb([tensor], rate, (b1, b2), eps, decay)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, 6):
        gradient = rng.normal(size=weight.shape)
        tensor.grad = torch.from_numpy(gradient)
        one.step()
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        delta = first / (np.sqrt(second) + eps) + decay * weight
        ratio = np.linalg.norm(weight) / np.linalg.norm(delta)
        weight = weight - rate * np.sqrt(1 - b2**step) / (1 - b1**step) * ratio * delta
        np.testing.assert_allclose(tensor.detach(), weight, rtol=1e-6)


def test_weights_that_are_all_zero_move():
    weight = torch.nn.Parameter(torch.zeros(4))
    weight.grad = torch.ones(4)
    lamb.Lamb([weight], 0.1).step()
    assert (weight < 0).all()


def test_in_8_bits_large_tensors_take_a_quarter_of_the_state_and_steps_are_alike():
    pytest.importorskip("bitsandbytes", reason="needs the collaborative extra")
    torch.manual_seed(1)
    start, wanted, made = torch.randn(lamb.LEAST // 64, 64), torch.randn(lamb.LEAST // 64, 64), {}
    for eight in (False, True):
        large, small = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(64))
        one = lamb.Lamb([large, small], 0.02, eight_bits=eight)
        for step in range(40):
            one.zero_grad()
            ((large + small - wanted) ** 2).mean().backward()
            one.step()
            if step == 20:  # kept and read back
                kept, one = one.state_dict(), lamb.Lamb([large, small], 0.02, eight_bits=eight)
                one.load_state_dict(kept)
        sizes = [sum(t.nbytes for name, t in one.state[p].items() if name != "step") for p in (large, small)]
        made[eight] = large.detach(), sizes
    (full, (bytes32, small32)), (coarse, (bytes8, small8)) = made[False], made[True]
    assert (
        bytes32 == 8 * lamb.LEAST
        and bytes8 == 2 * lamb.LEAST + 8 * lamb.LEAST // lamb.BLOCK
        and small8 == small32 == 512
    )
    assert 0 < (coarse - full).norm() < 0.1 * (full - start).norm()


def test_where_bitsandbytes_is_not_32_bits_are_taken_and_why_is_said(monkeypatch, text, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    said = []
    loop = prepared(text, tmp_path, said.append).loop
    assert not loop.optimizer.eight_bits
    assert any("32 bits: the package bitsandbytes is not installed" in line for line in said)


def test_the_founding_schedule_idles_rises_and_keeps_a_floor():
    at = {step: schedules.linear(step, 15_625, 3_125, 50, 0.02) for step in (0, 49, 50, 3_125, 9_375, 15_500, 15_624)}
    assert at[0] == at[49] == at[50] == 0 and at[3_125] == 1 and at[9_375] == 0.5 and at[15_500] == at[15_624] == 0.02


# -- pairs ---------------------------------------------------------------------------------------------------------
def test_sentences_end_before_a_capital():
    text = "Мама мыла раму. «Где она?» — спросил он. В 2019 г. было тепло! It rained... and stopped."
    assert sentences.split(text) == [
        "Мама мыла раму.",
        "«Где она?» — спросил он.",
        "В 2019 г. было тепло!",
        "It rained... and stopped.",
    ]


def test_pairs_hold_neighbours_in_order_or_swapped_and_nothing_is_lost():
    documents = [[[n * 100 + k] * 3 for k in range(8)] for n in range(300)]
    made = list(sentences.pairs(documents, 12))
    assert len(made) == 600  # four sentences fill a sequence
    orders = [first[0] > second[0] for first, second, _ in made]
    assert orders == [swapped for *_, swapped in made] and 0.43 < np.mean(orders) < 0.57
    assert sorted(id for first, second, _ in made for id in first + second) == sorted(
        id for d in documents for s in d for id in s
    )
    assert {len(first) for first, *_ in made} == {3, 6, 9}


def test_a_text_that_stands_alone_is_dropped_and_the_longer_one_of_a_pair_is_cut():
    assert list(sentences.pairs([[[1] * 50], [[1] * 4]], 12)) == []
    ((first, second, _),) = sentences.pairs([[[1] * 9, [2] * 30]], 12)
    assert len(first) == len(second) == 6
    ((first, second, _),) = sentences.pairs([[[1] * 2, [2] * 30]], 12)
    assert sorted((len(first), len(second))) == [2, 10]


def test_words_of_a_tokenizer_that_marks_where_they_begin_are_hidden_whole():
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "▁ma", "ma", "▁my", "la", ",", "<unk>"]
    reader = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 9))
    reader.pre_tokenizer = pre_tokenizers.Metaspace()
    masker = Masker(reader.to_str())
    assert [pieces[k] for k in np.flatnonzero(masker.continues)] == ["ma", "la"]


# -- training ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def text(tmp_path_factory, synthetic_data):
    """A file of documents of several sentences, one a line."""
    records = [json.loads(line) for line in (synthetic_data / "RuCoLA/in_domain_train.jsonl").open(encoding="utf-8")]
    lines = [record["sentence"] for record in records]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(" ".join(lines[k : k + 6]) + "\n" for k in range(0, len(lines), 6)), encoding="utf-8")
    return path


def prepared(text, folder, say=lambda line: None, **settings):
    folder.mkdir(exist_ok=True)
    given = PretrainingParams(recipe=PretrainRecipe(**{**RECIPE, **settings}), corpus=[str(text)])
    return pretrain.prepare(given, folder, folder, say=say)


def test_second_texts_have_the_second_type_and_labels_are_the_swapped_ones(text, tmp_path):
    loop = prepared(text, tmp_path / "one").loop
    batch = loop.masker(loop.val, np.arange(len(loop.val)), 0)
    assert batch.swapped.tolist() == list(loop.val.swapped) and 0 < batch.swapped.sum() < len(loop.val)
    for ids, types, attention in zip(loop.val.ids, batch.types.tolist(), batch.attention.tolist(), strict=True):
        first, second = np.flatnonzero(ids == loop.masker.end)
        assert types == [0] * (first + 1) + [1] * (second - first) + [0] * (len(types) - second - 1)
        assert sum(attention) == second + 1


def test_a_killed_training_with_8_bit_moments_goes_on_to_the_same_weights(text, tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs the collaborative extra")

    class Killed(Exception):
        pass

    def die(step):
        if step == 4:
            raise Killed

    settings = {
        "save_every": 2,
        "model": {**LEAN, "hidden_size": 256, "intermediate_size": 256},
    }  # some large enough for 8 bits
    whole, killed = (prepared(text, tmp_path / name, **settings).loop for name in ("whole", "killed"))
    whole.run()
    assert any("exp_avg_scale" in state for state in whole.optimizer.state.values())
    places, killed.places = killed.places, lambda step: die(step) or places(step)
    with pytest.raises(Killed):
        killed.run()
    again = prepared(text, tmp_path / "killed", **settings).loop
    again.run()
    for (name, ours), theirs in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_order_is_learnt_and_the_model_is_read_back_with_and_without_gradient_checkpointing(text, tmp_path):
    jobs = [prepared(text, tmp_path / str(on), gradient_checkpointing=on, steps=3) for on in (False, True)]
    results = [job.run() for job in jobs]
    one, other = (next(iter(job.loop.model.parameters())) for job in jobs)
    torch.testing.assert_close(one, other)
    assert 0 <= results[0]["evaluations"][-1]["order_accuracy"] <= 1
    assert jobs[0].loop.model.sop_classifier.classifier.weight.abs().max() > 0
    read = backbones.load(str(tmp_path / "False/model"))
    assert read.model.config.model_type == "lean_albert"
    torch.testing.assert_close(read.model.matrices.qkv_weight, jobs[0].loop.model.albert.matrices.qkv_weight.cpu())


def test_the_order_counts_in_the_loss(text, tmp_path):
    loop = prepared(text, tmp_path / "one").loop
    (batch,) = loop._batches(0)
    with torch.no_grad():
        words, order = loop.net.eval()(batch)
        expected = torch.nn.functional.cross_entropy(words, batch.labels) + torch.nn.functional.cross_entropy(
            order, batch.swapped
        )
        found = loop.loss(batch, 0, len(batch.labels) / 8) / len(batch.labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_bert_does_not_tell_the_order(text, tmp_path):
    with pytest.raises(UsageError, match="lean_albert tells it"):
        prepared(text, tmp_path, model="tiny")
