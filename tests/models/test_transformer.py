"""Answering: the same answers whatever the batch, the window or the backend, in the order of the records, in bounded memory."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from architectures import (
    SIZES,
    check_that_padding_changes_nothing,
    check_that_passages_are_computed_once,
    loaded,
    sequences_of,
    untrained,
)
from safetensors.torch import load_file, save_file

from morocco_lib import data
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer import model as transformer
from morocco_lib.models.transformer.model import backbone_weights, batches, check_capability
from morocco_lib.models.transformer.padded import Padded, _floats, backbone_of
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import Options
from morocco_lib.tasks import get_task

CONFIGS = {
    "bert": {"model_type": "bert", **SIZES},
    "gpt2": {"model_type": "gpt2", "vocab_size": 800, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "distilbert": {"model_type": "distilbert", "vocab_size": 800, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(synthetic_data, tmp_path_factory):
    """(kind, task name) -> a weights folder with random weights."""
    folders = {}

    def make(kind, name):
        if (kind, name) not in folders:
            task = get_task(name)
            folder = tmp_path_factory.mktemp("weights") / f"{kind}-{name}"
            fitted = untrained(CONFIGS[kind], task, records_of(synthetic_data, name, 60), max_length=128)
            weights.save(fitted, task, folder, name=kind, trained_on={})
            folders[kind, name] = folder
        return folders[kind, name]

    return make


def records_of(synthetic_data, name, count=40):
    return data.read_split(synthetic_data, get_task(name), "val")[1][:count]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert", "terra"),  # classes
        ("gpt2", "russe"),  # marked spans
        ("distilbert", "parus"),  # one of N, through transformers
        ("gpt2", "muserc"),  # each of N, the passage computed once
        ("bert", "rucos"),  # free text
    ],
)
def test_answers_do_not_depend_on_batch_window_or_place(kind, name, made, synthetic_data, monkeypatch):
    model, task = weights.load(made(kind, name), name)
    records = records_of(synthetic_data, name)
    answers = model.answer(records)
    assert [task.key(r) for r in records] == [a["idx"] for a in answers]
    checked = task.check([task.format(a).encode() for a in answers], {task.key(r): r for r in records}, "answers")
    assert checked.ok and not sum(checked.noncanonical.values())
    assert model.answer([task.strip_labels(r) for r in records[::-1]])[::-1] == answers
    monkeypatch.setattr(transformer, "WINDOW_BATCHES", 2)
    for batch_size in (3, 64):
        assert model.answer(records, batch_size) == answers


@pytest.mark.parametrize(("kind", "name"), [("bert", "russe"), ("gpt2", "muserc")])
def test_logits_are_those_of_transformers_own_forward(kind, name, made, synthetic_data):
    model, _ = weights.load(made(kind, name), name)
    sequences = sequences_of(model, records_of(synthetic_data, name, 12))
    fast = model.logits(sequences, 16)
    backbone = backbone_weights(load_file(made(kind, name) / weights.ARRAYS))
    model.backend = Padded(backbone_of(model.values["config"], backbone), model.values["pooling"])
    plain = model.logits(sequences, 16)
    assert (fast - plain).abs().max() / plain.std() < 1e-3


def test_a_decoder_computes_with_a_passage_once_and_answers_the_same(synthetic_data, monkeypatch):
    records = records_of(synthetic_data, "muserc", 6)
    gemma = {"model_type": "gemma2", **SIZES, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 24}
    check_that_passages_are_computed_once(loaded(gemma, get_task("muserc"), records), records, monkeypatch)


def test_a_backbone_that_keeps_a_state_computes_everything_anew(synthetic_data):
    records = records_of(synthetic_data, "muserc", 2)
    config = {"model_type": "mamba", "vocab_size": 800, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    model = loaded(config, get_task("muserc"), records)
    assert len(model.answer(records)) == 2 and not model.backend.share


def test_what_padding_would_change_is_computed_without(synthetic_data):
    records = records_of(synthetic_data, "terra", 12)
    fnet = {"model_type": "fnet", **SIZES, "max_position_embeddings": 512}
    check_that_padding_changes_nothing(loaded(fnet, get_task("terra"), records, "mean"), records)


@pytest.mark.parametrize(("precision", "remedy"), [("fp16", "fp32 instead of fp16"), ("fp32", "lower learning_rate")])
def test_logits_that_are_not_finite_are_no_answers(precision, remedy, made, synthetic_data, tmp_path, main):
    for name in (weights.VALUES, weights.TOKENIZER):
        (tmp_path / name).write_bytes((made("bert", "terra") / name).read_bytes())
    tensors = load_file(made("bert", "terra") / weights.ARRAYS)
    tensors["head.weight"] = tensors["head.weight"] * (float("nan") if precision == "fp32" else 1)
    tensors["body.encoder.layer.1.output.dense.weight"] *= 1e6  # finite in fp32, not in fp16
    save_file(tensors, tmp_path / weights.ARRAYS)
    fed = "".join(f"{json.dumps(r)}\n" for r in records_of(synthetic_data, "terra", 3))
    done = main("infer", tmp_path, "--precision", precision, input=fed)
    assert done.returncode == 1 and not done.stdout
    assert "are not finite" in done.stderr and remedy in done.stderr


def test_less_precise_answers_are_nearly_the_same(made, synthetic_data):
    folder, records = made("bert", "russe"), records_of(synthetic_data, "russe", 200)
    exact, less = (weights.load(folder, "russe", options)[0] for options in (None, Options("bf16")))
    assert less.backend.words.dtype == torch.bfloat16
    same = sum(a == b for a, b in zip(exact.answer(records), less.answer(records), strict=True))
    assert same >= 0.9 * len(records)


# -- batches and windows -------------------------------------------------------------------------------------------
def test_batches_hold_like_lengths_within_their_budgets():
    sequences = [EncodedSequence([1] * n, n) for n in (5, 90, 7, 300, 6, 88, 2000, 5, 5)]
    found = batches(sequences, 3, 200)
    assert sorted(place for batch in found for place in batch) == list(range(len(sequences)))
    assert found[0] == [6] and found[1] == [3]  # longer than the budget: alone
    assert all(len(batch) <= 3 for batch in found)
    assert all(sum(len(sequences[p].ids) for p in batch) <= 200 or len(batch) == 1 for batch in found)
    assert {1, 5} <= set(found[2])


def test_sequences_that_share_a_beginning_stay_together_where_they_fit_into_one_batch():
    groups = [[EncodedSequence([first] * 50 + [k] * 5, 50, shared=50) for k in range(6)] for first in (7, 8, 9)]
    sequences = [one for group in groups for one in group]
    one, two, three = list(range(6)), list(range(6, 12)), list(range(12, 18))
    assert batches(sequences, 10, 2048) == [one, two, three]
    assert batches(sequences, 12, 2048) == [one + two, three]
    assert batches(sequences, 32, 120) == [one, two, three]  # the beginning counts once
    assert batches(sequences, 4, 2048)[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # none fits: batches are full
    assert batches(groups[0], 32, 70) == [[0, 1, 2, 3], [4, 5]]  # 50 + 4 * 5, and the beginning anew


def test_a_batch_may_fill_its_budget_and_what_is_longer_is_alone():
    assert batches([EncodedSequence([1] * 100, 100)] * 4, 10, 200) == [[0, 1], [2, 3]]
    assert batches([EncodedSequence([1] * 300, 300)] * 3, 10, 200) == [[0], [1], [2]]


def test_out_of_memory_halves_the_step_and_says_so(made, synthetic_data, monkeypatch, capsys):
    model, _ = weights.load(made("bert", "terra"), "terra")
    records = records_of(synthetic_data, "terra")
    answers, whole = model.answer(records), model.backend.features

    def small_device(batch):
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(batch)

    monkeypatch.setattr(model.backend, "features", small_device)
    assert model.answer(records) == answers
    assert "out of memory with " in capsys.readouterr().err
    monkeypatch.setattr(model.backend, "features", lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(torch.OutOfMemoryError):
        model.answer(records[:1])


def test_windows_are_bounded_in_records_and_in_text(made, synthetic_data, monkeypatch):
    model, _ = weights.load(made("bert", "terra"), "terra")
    record = records_of(synthetic_data, "terra", 1)[0]
    read = []

    def endless():
        for number in range(10_000):
            read.append(number)
            yield record

    stream = model.stream(endless(), 4)
    assert [len(next(stream)) for _ in range(6)] == [4, 8, 16, 32, 64, 64]  # the first answers come soon
    assert len(read) <= 4 + 8 + 16 + 32 + 3 * 64 + 1  # the next one is read ahead
    stream.close()
    monkeypatch.setattr(transformer, "WINDOW_CHARACTERS", 1)
    assert [len(window) for window in model.stream([record] * 3, 4)] == [1, 1, 1]


# -- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d, t: d["values"].update(labels=["a", "b"]), "labels a, b do not fit TERRa"),
        (lambda d, t: t.update({"head.weight": torch.zeros(3, 32)}), "does not fit TERRa, which takes {'bias': (2,), 'weight': (2, 32)"),
        (lambda d, t: t.update({"head.weight": torch.zeros(2, 160)}), "'weight': (2, 160)} does not fit"),
        (lambda d, t: t.pop("head.bias"), "bias"),
        (lambda d, t: t.pop("body.encoder.layer.1.output.dense.weight"), "encoder.layer.1.output.dense.weight"),
        (lambda d, t: d["values"]["config"].pop("hidden_size"), "do not fit a bert"),
        (lambda d, t: d["values"].update(pooling="middle"), "no pooling 'middle'; there are first, last"),
        (lambda d, t: d["values"].update(max_length=4), "max_length 4"),
        (lambda d, t: d["values"]["template"].update(end=[10**6]), "ids from 0 to 1000000 do not fit a vocabulary"),
        (lambda d, t: d["values"]["template"].update(start=[-1]), "ids from -1 to"),
        (lambda d, t: d["values"]["config"].update(num_hidden_layers=1), "have 2 layers; the configuration asks for 1"),
    ],
    ids=["labels", "head", "width", "bias", "backbone", "config", "pooling", "length", "id", "negative", "layers"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_in_words(spoil, message, made, tmp_path):
    source = made("bert", "terra")
    description, tensors = json.loads((source / weights.VALUES).read_text()), load_file(source / weights.ARRAYS)
    spoil(description, tensors)
    (tmp_path / weights.VALUES).write_text(json.dumps(description))
    (tmp_path / weights.TOKENIZER).write_bytes((source / weights.TOKENIZER).read_bytes())
    save_file(tensors, tmp_path / weights.ARRAYS)
    with pytest.raises(UsageError) as caught:
        weights.load(tmp_path, "terra")
    assert message in str(caught.value)


def test_weights_without_a_tokenizer_are_refused_and_so_are_options_of_another_kind(made, fitted, tmp_path):
    for name in (weights.VALUES, weights.ARRAYS):
        (tmp_path / name).write_bytes((made("bert", "terra") / name).read_bytes())
    with pytest.raises(UsageError, match=weights.TOKENIZER):
        weights.load(tmp_path)
    with pytest.raises(UsageError, match="computes in one way only"):
        weights.load(fitted, options=Options("bf16"))


def test_decoders_are_told_from_encoders():
    for kind in ("gpt2", "openai-gpt", "llama", "xglm", "falcon", "gemma2", "biogpt"):
        assert transformer.is_causal({"model_type": kind}), kind
    for kind in ("bert", "xlm-roberta", "modernbert", "distilbert", "deberta-v2", "no such architecture"):
        assert not transformer.is_causal({"model_type": kind}), kind
    assert transformer.is_causal({"model_type": "bert", "is_decoder": True})


@pytest.mark.parametrize(
    ("capability", "built_for", "served"),
    [
        ((9, 0), ["sm_80", "sm_90a"], True), ((8, 6), ["sm_80", "sm_90"], True), ((8, 0), ["sm_75", "sm_86"], False),
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False), ((12, 0), ["sm_90", "compute_90"], True), ((7, 0), [], False),
    ],
)  # fmt: skip
def test_a_gpu_that_torch_was_not_built_for_is_refused_with_the_remedy(capability, built_for, served):
    if served:
        check_capability(capability, built_for, "GPU")
        return
    with pytest.raises(EnvironmentFailure, match="TORCH_VARIANT=cu126"):
        check_capability(capability, built_for, "Tesla V100-SXM2-32GB")


# -- the program ---------------------------------------------------------------------------------------------------
def test_the_program_reports_how_it_computes_and_what_it_truncated(made, synthetic_data, main):
    records = records_of(synthetic_data, "terra", 3)
    records[1]["premise"] = "слово " * 17_000
    fed = "".join(f"{json.dumps(record)}\n" for record in records)
    done = main("infer", made("bert", "terra"), "--precision=bf16", input=fed)
    first, last = done.stderr.splitlines()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ready = {"event": "ready", "precision": "bf16", "backend": "torch", "device": device, "threads": 1}
    assert json.loads(first.removeprefix("morocco: ")) == ready
    assert last == "1 sequences were longer than the model takes and were truncated"
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3


def test_records_before_a_bad_one_are_answered(made, synthetic_data, main):
    lines = [json.dumps(r) for r in records_of(synthetic_data, "terra", 5)]
    done = main("infer", made("bert", "terra"), input="\n".join([*lines[:3], "{", lines[4]]))
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 3 and "stdin, line 4" in done.stderr


@pytest.mark.parametrize("kind", ["bert", "distilbert"])  # without padding and with it
def test_odd_texts_are_answered(kind, made):
    odd = ["", "\x00", "\u200b", "👩‍👩‍👧", "שלום", "\u202eобратно", "\ufeff", "ы " * 5_000]
    pairs = zip(odd, [*odd[1:], ""], strict=True)
    records = [{"idx": n, "premise": text, "hypothesis": other} for n, (text, other) in enumerate(pairs)]
    model, _ = weights.load(made(kind, "terra"), "terra")
    assert len(model.answer(records)) == len(odd)  # of finite logits
    assert model.truncated


def test_nothing_of_transformers_is_imported_to_answer_with_a_known_architecture(made, synthetic_data):
    record = json.dumps(records_of(synthetic_data, "terra", 1)[0])
    code = (
        "import sys; from morocco_lib.cli.entry import main; code = main(sys.argv[1:])\n"
        "slow = {'transformers', 'pandas', 'sklearn', 'pydantic'}; print(sorted(slow & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "infer", made("bert", "terra")], input=record, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_numbers_that_json_lacks_are_read_as_transformers_writes_them():
    limits = [0.5, {"__float__": "Infinity"}, {"low": {"__float__": "-Infinity"}}]
    assert _floats({"limits": limits, "kind": "mamba2"}) == {
        "limits": [0.5, float("inf"), {"low": float("-inf")}],
        "kind": "mamba2",
    }
