"""Answering: the same answers whatever the batch, the window or the engine, in the order of the records, in bounded memory."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch

from morocco_lib import data
from morocco_lib.errors import UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer import model as transformer
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.model import Transformer, batches
from morocco_lib.models.transformer.padded import Padded, body_of
from morocco_lib.options import Options
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, finetune

SIZES = {
    "vocab_size": 800,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
CONFIGS = {
    "bert": {"model_type": "bert", **SIZES},
    "gpt2": {"model_type": "gpt2", "vocab_size": 800, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 800,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
    },
}
SPREAD = 0.3  # of the random weights: with the usual 0.02 the answers of an untrained model hang on the last digit


class Made:
    """Random weights as `weights.save` takes them."""

    kind = "transformer"

    def __init__(self, body, task, max_length=128):
        head = head_of(task)
        torch.manual_seed(1)
        self.tokenizer_text = body.tokenizer
        self.values = finetune.values_of(body, task, "last" if body.causal else "first", max_length)
        self.tensors = {f"body.{name}": tensor for name, tensor in body.model.state_dict().items()}
        self.tensors["head.weight"] = torch.randn(head.outputs, head.width(body.model.config.hidden_size))
        self.tensors["head.bias"] = torch.randn(head.outputs)

    def state(self):
        return self.values, {name: tensor.numpy() for name, tensor in self.tensors.items()}


@pytest.fixture(scope="module")
def made(synthetic_data, tmp_path_factory):
    """(kind, task name) -> a weights folder with random weights."""
    folders = {}

    def make(kind, name):
        if (kind, name) not in folders:
            task = get_task(get_task(name).trained_on)
            texts = backbones.texts_of(data.read_split(synthetic_data, task, "val")[1][:60], task)
            folder = tmp_path_factory.mktemp("weights") / f"{kind}-{name}"
            body = backbones.from_scratch({**CONFIGS[kind], "initializer_range": SPREAD}, texts, 1)
            weights.save(Made(body, task), task, folder, name=kind, trained_on={})
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
    assert model.answer(records[::-1])[::-1] == answers
    for batch_size in (3, 64):
        monkeypatch.setattr(transformer, "WINDOW_BATCHES", 2)
        assert model.answer(records, batch_size) == answers
    assert model.answer([task.strip_labels(r) for r in records]) == answers


@pytest.mark.parametrize(("kind", "name"), [("bert", "russe"), ("gpt2", "muserc")])
def test_logits_are_those_of_transformers_own_forward(kind, name, made, synthetic_data):
    model, _ = weights.load(made(kind, name), name)
    sequences = sequences_of(model, records_of(synthetic_data, name, 12))
    fast = model.logits(sequences, 16)
    body = {n.removeprefix("body."): t for n, t in load_tensors(made(kind, name)).items() if n.startswith("body.")}
    model.engine = Padded(body_of(model.values["config"], body), model.values["pooling"])
    plain = model.logits(sequences, 16)
    assert (fast - plain).abs().max() / plain.std() < 1e-3


GEMMA = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 24}


def test_a_decoder_computes_with_a_passage_once_and_answers_the_same(synthetic_data, monkeypatch):
    task = get_task("muserc")
    records = records_of(synthetic_data, "muserc", 6)
    config = {"model_type": "gemma2", "initializer_range": SPREAD, **GEMMA}
    model = fitted_by_hand(config, task, records, pooling="last")
    sequences = sequences_of(model, records)
    seen = []
    model.engine.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    fast = model.logits(sequences, 64)
    shared, seen[:] = sum(seen), []
    monkeypatch.setattr(model.engine, "share", False)
    plain = model.logits(sequences, 64)
    assert (fast - plain).abs().max() / plain.std() < 1e-4
    assert shared < sum(seen) / 3


def fitted_by_hand(config, task, records, **changes):
    """A model of a configuration with random weights, and what its weights folder would say."""
    made = Made(backbones.from_scratch(config, backbones.texts_of(records, task), 1), task, 512)
    body, head = (
        {name.removeprefix(part): tensor for name, tensor in made.tensors.items() if name.startswith(part)}
        for part in ("body.", "head.")
    )
    return Transformer(task, made.values | changes, body, head, made.tokenizer_text)


def test_what_padding_would_change_is_computed_without(synthetic_data):
    task, records = get_task("terra"), records_of(synthetic_data, "terra", 12)
    model = fitted_by_hand(
        {"model_type": "fnet", "initializer_range": SPREAD, **SIZES, "max_position_embeddings": 512},
        task,
        records,
        pooling="mean",
    )
    sequences = sequences_of(model, records)
    together, alone = model.logits(sequences, 32), model.logits(sequences, 1)
    assert (together - alone).abs().max() / alone.std() < 1e-3


@pytest.mark.parametrize(("precision", "remedy"), [("fp16", "fp32 instead of fp16"), ("fp32", "lower learning_rate")])
def test_logits_that_are_not_finite_are_no_answers(precision, remedy, made, synthetic_data, tmp_path, main):
    from safetensors.torch import save_file

    for name in (weights.VALUES, weights.TOKENIZER):
        (tmp_path / name).write_bytes((made("bert", "terra") / name).read_bytes())
    tensors = load_tensors(made("bert", "terra"))
    tensors["head.weight"] = tensors["head.weight"] * (float("nan") if precision == "fp32" else 1)
    tensors["body.encoder.layer.1.output.dense.weight"] *= 1e6  # finite in fp32, not in fp16
    save_file(tensors, tmp_path / weights.ARRAYS)
    fed = "".join(f"{json.dumps(r)}\n" for r in records_of(synthetic_data, "terra", 3))
    done = main("infer", tmp_path, "--precision", precision, input=fed)
    assert done.returncode == 1 and not done.stdout
    assert "are not finite" in done.stderr and remedy in done.stderr


def test_a_body_that_keeps_a_state_computes_everything_anew(synthetic_data):
    task, records = get_task("muserc"), records_of(synthetic_data, "muserc", 2)
    config = {"model_type": "mamba", "vocab_size": 800, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    model = fitted_by_hand(config, task, records)
    assert len(model.answer(records)) == 2 and not model.engine.share


def sequences_of(model, records):
    return [one for found in model.reader([model.task.parts(r) for r in records]) for one in found]


def load_tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / weights.ARRAYS)


@pytest.mark.parametrize("precision", ["bf16"])
def test_less_precise_answers_are_nearly_the_same(precision, made, synthetic_data):
    folder, records = made("bert", "terra"), records_of(synthetic_data, "terra", 200)
    exact, less = (weights.load(folder, "terra", options)[0] for options in (None, Options(precision)))
    assert less.reported["precision"] == precision
    same = sum(a == b for a, b in zip(exact.answer(records), less.answer(records), strict=True))
    assert same >= 0.9 * len(records)


def test_batches_hold_like_lengths_within_their_budgets():
    from morocco_lib.models.transformer.sequences import Tokens

    sequences = [Tokens([1] * n, n) for n in (5, 90, 7, 300, 6, 88, 2000, 5, 5)]
    found = batches(sequences, 3, 200)
    assert sorted(place for batch in found for place in batch) == list(range(len(sequences)))
    assert found[0] == [6] and found[1] == [3]  # longer than the budget: alone
    assert all(len(batch) <= 3 for batch in found)
    assert all(sum(len(sequences[p].ids) for p in batch) <= 200 or len(batch) == 1 for batch in found)
    assert {1, 5} <= set(found[2])


def test_a_shared_beginning_is_counted_once_and_stays_together():
    from morocco_lib.models.transformer.sequences import Tokens

    group = [Tokens([7] * 50 + [k] * 5, 50, shared=50) for k in range(6)]
    other = [Tokens([8] * 50 + [k] * 5, 50, shared=50) for k in range(6)]
    assert sorted(map(sorted, batches([*group, *other], 32, 120))) == [list(range(6)), list(range(6, 12))]


def test_a_shared_beginning_is_not_computed_with_twice_where_it_fits_into_one_batch():
    from morocco_lib.models.transformer.sequences import Tokens

    groups = [[Tokens([first] * 50 + [k] * 5, 50, shared=50) for k in range(6)] for first in (7, 8, 9)]
    sequences = [one for group in groups for one in group]
    assert batches(sequences, 10, 2048) == [list(range(6)), list(range(6, 12)), list(range(12, 18))]
    assert batches(sequences, 12, 2048) == [list(range(12)), list(range(12, 18))]
    assert batches(sequences, 4, 2048)[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # none fits: batches are full


def test_out_of_memory_halves_the_step_and_says_so(made, synthetic_data, monkeypatch, capsys):
    model, _ = weights.load(made("bert", "terra"), "terra")
    records = records_of(synthetic_data, "terra")
    answers, whole = model.answer(records), model.engine.features

    def small_device(batch):
        if len(batch) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(batch)

    monkeypatch.setattr(model.engine, "features", small_device)
    assert model.answer(records) == answers
    assert "out of memory with " in capsys.readouterr().err
    monkeypatch.setattr(model.engine, "features", lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d, t: d["values"].update(labels=["a", "b"]), "labels a, b do not fit TERRa"),
        (lambda d, t: t.update({"head.weight": torch.zeros(3, 32)}), "does not give 2 logits"),
        (lambda d, t: t.update({"head.weight": torch.zeros(2, 160)}), "over 160 features does not fit TERRa, which takes 32"),
        (lambda d, t: t.pop("head.bias"), "bias"),
        (lambda d, t: t.pop("body.encoder.layer.1.output.dense.weight"), "encoder.layer.1.output.dense.weight"),
        (lambda d, t: d["values"]["config"].pop("hidden_size"), "do not fit a bert"),
        (lambda d, t: d["values"].update(pooling="middle"), "middle"),
        (lambda d, t: d["values"].update(template={"start": [], "middle": [], "end": []}), "no special token"),
        (lambda d, t: d["values"].update(max_length=4), "max_length 4"),
        (lambda d, t: d["values"]["template"].update(end=[10**6]), "ids from 0 to 1000000 do not fit a vocabulary"),
        (lambda d, t: d["values"]["template"].update(start=[-1]), "ids from -1 to"),
        (lambda d, t: d["values"]["config"].update(num_hidden_layers=1), "have 2 layers; the configuration asks for 1"),
        (lambda d, t: d["values"]["config"].update(num_hidden_layers=0), "asks for 0"),
    ],
    ids=["labels", "head", "width", "bias", "body", "config", "pooling", "template", "length", "id", "negative", "layers", "none"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_in_words(spoil, message, made, tmp_path):
    from safetensors.torch import save_file

    source = made("bert", "terra")
    description, tensors = json.loads((source / weights.VALUES).read_text()), load_tensors(source)
    spoil(description, tensors)
    (tmp_path / weights.VALUES).write_text(json.dumps(description))
    (tmp_path / weights.TOKENIZER).write_bytes((source / weights.TOKENIZER).read_bytes())
    save_file(tensors, tmp_path / weights.ARRAYS)
    with pytest.raises(UsageError) as caught:
        weights.load(tmp_path, "terra")
    assert message in str(caught.value)


def test_a_head_of_a_wrong_width_is_refused_whatever_the_architecture_calls_it(made, tmp_path):
    from safetensors.torch import save_file

    source = made("distilbert", "terra")
    assert weights.load(source)[0].answer([{"premise": "Дом.", "hypothesis": "Сад.", "idx": 7}])[0]["idx"] == 7
    for name in (weights.VALUES, weights.TOKENIZER):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    save_file(load_tensors(source) | {"head.weight": torch.zeros(2, 160)}, tmp_path / weights.ARRAYS)
    with pytest.raises(UsageError, match="over 160 features does not fit TERRa, which takes 32"):
        weights.load(tmp_path, "terra")


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        *(({"model_type": kind}, True) for kind in ("gpt2", "openai-gpt", "llama", "xglm", "falcon", "gemma2", "phi3", "biogpt")),
        *(({"model_type": kind}, False) for kind in ("bert", "xlm-roberta", "modernbert", "distilbert", "deberta-v2", "albert")),
        ({"model_type": "bert", "is_decoder": True}, True),
        ({"model_type": "roberta", "is_decoder": False}, False),
        ({"model_type": "no such architecture"}, False),
    ],
    ids=str,
)  # fmt: skip
def test_decoders_are_told_from_encoders(config, causal):
    assert transformer.is_causal(config) is causal


def test_weights_without_tokenizer_of_another_task_or_kind_are_refused(made, tmp_path, synthetic_data, main):
    source = made("bert", "terra")
    for name in (weights.VALUES, weights.ARRAYS):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(UsageError, match=weights.TOKENIZER):
        weights.load(tmp_path)
    with pytest.raises(UsageError, match="answers terra, not rcb"):
        weights.load(source, "rcb")
    fitted = tmp_path / "majority"
    assert main("train", "majority", "terra", "--data", synthetic_data, "--out", fitted).returncode == 0
    done = main("infer", fitted, "--precision", "bf16")
    assert done.returncode == 2 and "computes in one way only" in done.stderr


def infer(folder, lines, *options):
    return subprocess.run(
        [sys.executable, "-m", "morocco_lib", "infer", folder, *options],
        input="\n".join(lines).encode(), capture_output=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_program_says_how_it_computes_and_what_it_cut(made, synthetic_data):
    records = records_of(synthetic_data, "terra", 3)
    records[1]["premise"] = "слово " * 17_000
    done = infer(made("bert", "terra"), map(json.dumps, records), "--precision=bf16")
    first, last = done.stderr.decode().splitlines()
    ready = {
        "event": "ready",
        "precision": "bf16",
        "backend": "torch",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    assert json.loads(first.removeprefix("morocco: ")) == ready
    assert last == "1 sequences were longer than the model takes and were truncated"
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3


def test_records_before_a_bad_one_are_answered(made, synthetic_data):
    lines = [json.dumps(r) for r in records_of(synthetic_data, "terra", 5)]
    done = infer(made("bert", "terra"), [*lines[:3], "{", lines[4]])
    assert done.returncode == 2 and len(done.stdout.splitlines()) == 3 and "stdin, line 4" in done.stderr.decode()


ODD = ["", "\x00", "\u200b", "👩‍👩‍👧", "שלום", "\u202eобратно", "\ufeff", "ы " * 5_000]


def test_a_passage_without_questions_or_answers_is_answered_with_none(made, synthetic_data, main):
    asked = records_of(synthetic_data, "muserc", 1)[0]
    nothing = {"idx": 1, "passage": {"text": "Дом.", "questions": []}}
    little = {"idx": 2, "passage": {"text": "Дом.", "questions": [{"idx": 10**6, "question": "Что?", "answers": []}]}}
    fed = "".join(f"{json.dumps(record)}\n" for record in (nothing, asked, little))
    done = main("infer", made("bert", "muserc"), input=fed)
    none, some, empty = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and some["idx"] == asked["idx"]
    assert none == {"idx": 1, "passage": {"questions": []}}
    assert empty["passage"]["questions"] == [{"idx": 10**6, "answers": []}]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])  # without padding and with it
def test_odd_texts_are_answered(kind, made, synthetic_data):
    record = records_of(synthetic_data, "terra", 1)[0]
    records = [
        {**record, "idx": n, "premise": text, "hypothesis": other}
        for n, (text, other) in enumerate(zip(ODD, [*ODD[1:], ""], strict=True))
    ]
    model, _ = weights.load(made(kind, "terra"), "terra")
    assert len(model.answer(records)) == len(ODD)
    assert model.truncated
    assert all(map(torch.isfinite, model.logits(sequences_of(model, records), 8).flatten()))


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


def test_a_model_shows_itself_in_a_line(made):
    model, _ = weights.load(made("bert", "terra"), "terra")
    assert repr(model) == "<Transformer of TERRa: bert, fp32>" and isinstance(model, Transformer)
