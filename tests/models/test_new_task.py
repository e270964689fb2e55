"""A task is one file: what the page's example and a task with options declare is enough for every model."""

import importlib
import json
import random
import re
import sys

import pytest
from helpers import ROOT

from morocco_lib import tasks
from morocco_lib.config.model import ModelParams
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task, task_names

NINE = task_names()
PAGE = (ROOT / "docs/adding-a-task.md").read_text(encoding="utf-8")
TONE = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "LabelTask" in block)
ORDER = '''
"""Which of three sentences comes next? The options' marked words differ in the text that they share."""

from morocco_lib.tasks.base import LabelTask
from morocco_lib.tasks.form import AnswerKind, TextPair


class Order(LabelTask):
    name = "order"
    title = "Order"
    labels = (0, 1, 2)
    answer_kind = AnswerKind.ONE_OF
    fields = {"text": str, "next": list}
    spans = 1

    def parts(self, record):
        return [TextPair(record["text"], option, ((0, k, k + 3),)) for k, option in enumerate(record["next"])]


TASK = Order()
'''


def tone(rng):
    label = rng.choice(("kind", "unkind"))
    return {"review": {"kind": "отличный роман", "unkind": "скучный роман"}[label], "label": label}


def order(rng):
    label, others = rng.randrange(3), ["мыл раму", "пил чай"]
    return {"text": "Кот спал и", "next": [*others[:label], "видел сны", *others[label:]], "label": label}


CASES = {"tone": (TONE, tone), "order": (ORDER, order)}


@pytest.fixture(params=CASES)
def added(request, tmp_path, monkeypatch):
    """(a task whose file was put on the package's path, its labelled records by split, their files)."""
    source, make = CASES[request.param]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / f"{request.param}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path / "tasks")])
    importlib.invalidate_caches()
    rng, records, files = random.Random(1), {}, {}
    for split, size in (("train", 160), ("val", 40)):
        records[split] = [{**make(rng), "idx": idx} for idx in range(size)]
        files[split] = tmp_path / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(record) + "\n" for record in records[split]), encoding="utf-8")
    yield get_task(request.param), records, files
    sys.modules.pop(f"{tasks.__name__}.{request.param}", None)
    vars(tasks).pop(request.param, None)


def score_of(task, model, records):
    answers = model.answer([task.strip_labels(record) for record in records])
    lines = [f"{task.format(answer)}\n".encode() for answer in answers]
    checked = task.check(lines, {record["idx"]: record for record in records}, "answers")
    assert checked.ok and not checked.noncanonical.total()
    return task.score([task.gold(record) for record in records], answers)["accuracy"]


@pytest.fixture(scope="module")
def fit():
    """`training.fit` with all that it imports, which takes a while."""
    pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
    pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")
    from morocco_lib.training import finetune, fit

    assert finetune.Fit
    return fit


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_transformer_learns_a_new_task_and_its_weights_are_read_back(kind, added, fit, tmp_path):
    task, records, files = added
    assert task_names() == sorted([*NINE, task.name])
    sizes = {
        "bert": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
        "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64},
    }[kind]
    recipe = {"epochs": 4, "learning_rate": 5e-3, "batch_size": 16, "max_length": 48}
    recipe |= {"dropout": 0.0, "body_dropout": 0.0, "eval_every": 20}
    scratch = {"model_type": kind, "vocab_size": 300, **sizes}
    model = ModelParams(name="tiny", kind="transformer", scratch=scratch, recipe=recipe)
    result = fit.fit(fit.Plan(model, task.name, files, [1]), tmp_path / "step")
    assert score_of(task, weights.load(tmp_path / "step")[0], records["val"]) == result["val_score"] == 1.0


def test_models_of_words_fit_a_new_task(added):
    task, records, _ = added
    constant, words = (
        score_of(task, model_class(kind).fit(task, records["train"], 1), records["val"])
        for kind in ("majority", "tfidf")
    )
    assert constant < 0.8 and (words == 1.0) == (task.name == "tone")  # in the others the words are always the same
