"""A task is one file: what the page's example, a task with options and one with three spans declare is enough for transformers."""

import importlib
import json
import random
import re
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from helpers import ROOT
from small_training import TINY, model_file

from morocco_lib import data, tasks
from morocco_lib.config.model import ModelParams
from morocco_lib.data import synthetic
from morocco_lib.models import weights
from morocco_lib.tasks import get_task
from morocco_lib.training import fit

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
TRIPLE = '''
"""Does the third marked word repeat the first or the second?"""

from morocco_lib.tasks.base import LabelTask
from morocco_lib.tasks.form import TextPair


class Triple(LabelTask):
    name = "triple"
    title = "Triple"
    labels = ("first", "second")
    fields = {"text": str, "places": list}
    spans = 3

    def parts(self, record):
        return [TextPair(record["text"], None, tuple((0, start, end) for start, end in record["places"]))]


TASK = Triple()
'''


def order(rng):
    label, others = rng.randrange(3), ["мыл раму", "пил чай"]
    return {"text": "Кот спал и", "next": [*others[:label], "видел сны", *others[label:]], "label": label}


def triple(rng):
    words, repeated = rng.sample(["кот", "дом", "лес", "сад"], 2), rng.randrange(2)
    text = f"{words[0]} и {words[1]} или {words[repeated]}"
    return {"text": text, "places": [[0, 3], [6, 9], [14, 17]], "label": ("first", "second")[repeated]}


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Put a module into a folder that one of the packages `tasks` and `data.synthetic` reads, too."""
    made = []

    def add(package, name, source):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()
        made.append((package, name))

    yield add
    for package, name in made:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


@pytest.mark.parametrize(
    ("source", "make", "kind", "features"),
    [(ORDER, order, "gpt2", 2), (TRIPLE, triple, "bert", 10)],  # of each three spans: themselves, product and distance
    ids=["order", "triple"],
)
def test_a_transformer_learns_a_new_task_and_its_weights_are_read_back(source, make, kind, features, add, tmp_path):
    add(tasks, make.__name__, source)
    task, rng, records, files = get_task(make.__name__), random.Random(1), {}, {}
    for split, size in (("train", 160), ("val", 40)):
        records[split] = [{**make(rng), "idx": idx} for idx in range(size)]
        files[split] = tmp_path / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(record) + "\n" for record in records[split]), encoding="utf-8")
    recipe = {"epochs": 6, "learning_rate": 5e-3, "batch_size": 16, "max_length": 48}
    recipe |= {"dropout": 0.0, "body_dropout": 0.0, "eval_every": 20}
    model = ModelParams(name="tiny", kind="transformer", scratch=TINY[kind], recipe=recipe)
    result = fit.fit(fit.Plan(model, task.name, files, [1]), tmp_path / "step")
    fitted, _ = weights.load(tmp_path / "step")
    assert fitted.layers.weight.shape[1] == features * 32
    answers = fitted.answer([task.strip_labels(record) for record in records["val"]])
    lines = [f"{task.format(answer)}\n".encode() for answer in answers]
    assert task.check(lines, {record["idx"]: record for record in records["val"]}, "answers").ok
    gold = [task.gold(record) for record in records["val"]]
    assert task.score(gold, answers)["accuracy"] == result["val_score"] == 1.0


def test_the_example_of_the_documentation_is_trained_answered_and_scored(add, main, tmp_path):
    page = (ROOT / "docs/adding-a-task.md").read_text(encoding="utf-8")
    task, generator = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    add(tasks, "tone", task)
    add(synthetic, "tone", generator)
    data.make_synthetic(tmp_path / "data", ["tone"], seed=1)
    root, out, answers = model_file(tmp_path / "project"), tmp_path / "out", tmp_path / "answers.jsonl"
    done = main("train", "small", "tone", "--data", tmp_path / "data", "--out", out, cwd=root)
    assert done.returncode == 0, done.stderr
    gold = data.find_split(tmp_path / "data", get_task("tone"), "val")
    done = main("infer", out / "weights", "tone", input=gold.read_bytes())
    assert done.returncode == 0, done.stderr
    answers.write_text(done.stdout)
    assert main("eval", "tone", answers, gold).returncode == 0
