"""A task that was added by a module alone is learnt, answered and scored by transformers, whatever its form."""

import importlib
import json
import re
import sys

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import yaml
from helpers import ROOT

from morocco_lib import data, tasks
from morocco_lib.data import synthetic
from morocco_lib.models import weights
from morocco_lib.tasks import get_task

TRIPLE = '''
"""Triple: does the third marked word repeat the first or the second?"""

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

    def bag_text(self, record):
        return record["text"]


TASK = Triple()
'''


def triple(idx):
    """Return a record whose third word is the first or the second again."""
    words = ["кот", "дом"] if idx % 4 < 2 else ["лес", "сад"]
    text = f"{words[0]} и {words[1]} или {words[idx % 2]}"
    places = [[0, 3], [6, 9], [14, 17]]
    return {"text": text, "places": places, "label": ("first", "second")[idx % 2], "idx": idx}


@pytest.fixture
def added(tmp_path, monkeypatch):
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


@pytest.fixture
def project(tmp_path):
    """A project whose model `tiny` is `tiny-bert`, smaller and trained for a few updates."""
    model = yaml.safe_load((ROOT / "params/models/tiny-bert.yaml").read_text())["model"] | {"name": "tiny"}
    model["scratch"] |= {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    model["recipe"] |= {"epochs": 0.5, "batch_size": 16, "tasks": {}}
    folder = tmp_path / "project"
    for name in ("notebooks", "params/models"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    (folder / "params/models/tiny.yaml").write_text(yaml.safe_dump({"model": model}))
    return folder


def learn_and_answer(name, folder, project, main, tmp_path):
    """Run train, infer and eval as a user does; return (task, records of val, fitted model)."""
    task, out, answers = get_task(name), tmp_path / "out", tmp_path / "answers.jsonl"
    done = main("train", "tiny", name, "--data", folder, "--out", out, cwd=project)
    assert done.returncode == 0, done.stderr
    gold = data.find_split(folder, task, "val")
    records = task.read(gold)
    fed = "".join(json.dumps(task.strip_labels(record)) + "\n" for record in records)
    done = main("infer", out / "weights", name, input=fed)
    assert done.returncode == 0, done.stderr
    answers.write_text(done.stdout)
    given = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["idx"] for one in given] == [record["idx"] for record in records]
    done = main("eval", name, answers, gold)
    assert done.returncode == 0, done.stderr
    right = sum(one["label"] == record["label"] for one, record in zip(given, records, strict=True))
    assert right / len(records) in json.loads(done.stdout).values()
    return task, records, weights.load(out, name)[0]


def test_the_example_of_the_documentation_is_learnt_and_answered(added, project, main, tmp_path):
    page = (ROOT / "docs/adding-a-task.md").read_text(encoding="utf-8")
    task, generator = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    added(tasks, "tone", task)
    added(synthetic, "tone", generator)
    data.make_synthetic(tmp_path / "data", ["tone"], seed=1)
    _, _, model = learn_and_answer("tone", tmp_path / "data", project, main, tmp_path)
    assert model.weight.shape == (2, 32)


def test_a_tenth_task_of_three_marked_spans_is_learnt_and_answered(added, project, main, tmp_path):
    added(tasks, "triple", TRIPLE)
    folder = tmp_path / "data" / "Triple"
    folder.mkdir(parents=True)
    for split, places in (("train", range(100, 220)), ("val", range(40))):
        lines = [json.dumps(triple(idx), ensure_ascii=False) + "\n" for idx in places]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    task, records, model = learn_and_answer("triple", folder.parent, project, main, tmp_path)
    assert model.weight.shape == (2, 4 * 32)  # the whole and each span
    ((sequence,),) = model.reader([task.parts(records[0])])
    assert len(set(sequence.spans)) == 3
    wrong = [json.dumps({"idx": record["idx"], "label": "third"}).encode() for record in records]
    checked = task.check(wrong, {record["idx"]: record for record in records}, "answers")
    assert not checked.ok and checked.counts["label"] == 40
