"""Models: tfidf answers as scikit-learn would, weights are equal for equal fits, and broken ones are refused."""

import ast
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import morocco_lib
from morocco_lib import data
from morocco_lib.errors import UsageError
from morocco_lib.models import KINDS, model_class, weights
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import LabelTask

TERRA = get_task("terra")
PACKAGE = Path(morocco_lib.__file__).parent


class Colours(LabelTask):
    """A task with three labels, as none of the kit's has yet."""

    name, title = "colours", "Colours"
    labels = ("red", "blue", "green")  # not in alphabetical order
    fields = {"text": str}  # noqa: RUF012

    def bag_text(self, record):
        return record["text"]


COLOURS = Colours()


def colour_records(size: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    words = {"red": "мак кровь закат огонь", "blue": "море небо лёд река", "green": "лес трава лист мох"}
    records = []
    for idx in range(size):
        label = rng.choice(COLOURS.labels)
        text = " ".join(rng.choices([*words[label].split(), "и", "ещё", "вот", "это"], k=6))
        records.append({"text": text, "label": label, "idx": idx})
    return records


def reference(task, records):
    """Fit scikit-learn's own pipeline on the same text."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return pipeline.fit([task.bag_text(r) for r in records], [r["label"] for r in records])


@pytest.fixture(scope="module")
def pair(synthetic_data):
    """(our model, scikit-learn's), fitted on the same synthetic records."""
    _, records = data.read_split(synthetic_data, TERRA, "train")
    return model_class("tfidf").fit(TERRA, records, 1), reference(TERRA, records)


@pytest.fixture(scope="module")
def real_pair(real_data):
    """(our model, scikit-learn's, val records), fitted on the official records."""
    _, records = data.read_split(real_data / "rsg", TERRA, "train")
    _, val = data.read_split(real_data / "rsg", TERRA, "val")
    return model_class("tfidf").fit(TERRA, records, 1), reference(TERRA, records), val


def assert_same_decisions(ours, theirs, texts):
    expected = theirs.decision_function(texts)
    expected = expected[:, None] if expected.ndim == 1 else expected
    values = ours.decision(texts)
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


ODD = {
    "empty": "",
    "spaces": " \t\n ",
    "no known term": "qwertyuiop zxcvbnm",
    "one letter": "я",
    "emoji": "🙂 театр 🎭🎭 открыли",
    "digits": "12 345 2021 3:1 10",
    "underscore": "театр_открыли _театр_ __",
    "Latin, Cyrillic and case": "İstanbul STRAẞE ẞ ß ТЕАТР Театр ĳ ǅ ЁЛКА ёлка K Å",
    "combining accents": "теа́тр и\u0306 é e\u0301",
    "separators": "театр\u2028открыли\x85город\u00a0газета\u200bдень\u00adдень",
    "100,000 characters": "театр открыли в городе и не закрыли " * 2800,
    "one word of 100,000 characters": "а" * 100_000,
    "NUL": "театр\x00открыли",
}


@pytest.mark.parametrize("kind", ODD)
def test_decisions_equal_sklearn_on_odd_texts(pair, kind):
    assert_same_decisions(*pair, [ODD[kind]])


def test_decisions_of_a_batch_equal_sklearn(pair):
    assert_same_decisions(*pair, list(ODD.values()))


def test_decisions_equal_sklearn_where_odd_texts_are_the_vocabulary():
    records = [
        {"premise": text, "hypothesis": "", "idx": i, "label": TERRA.labels[i % 2]}
        for i, text in enumerate(ODD.values())
    ]
    ours, theirs = model_class("tfidf").fit(TERRA, records, 1), reference(TERRA, records)
    assert {"straße", "театр_открыли"} <= ours.vocabulary.keys()
    assert_same_decisions(
        ours, theirs, [*ODD.values(), "strasse", "STRASSE straße STRAẞE", "i̇stanbul istanbul İSTANBUL"]
    )


WORDS = st.one_of(
    st.text(max_size=12), st.sampled_from(["театр", "ТЕАТР", "не", "цены", "команда", "в", "10", "İ", "ẞ", "\u0301"])
)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.lists(WORDS, max_size=20).map(" ".join), min_size=1, max_size=4))
def test_decisions_equal_sklearn_on_any_text(pair, texts):
    assert_same_decisions(*pair, texts)


def test_answers_do_not_depend_on_what_else_is_in_the_batch(pair, synthetic_data):
    _, val = data.read_split(synthetic_data, TERRA, "val")
    together = pair[0].answer(val)
    assert together == [pair[0].answer([r])[0] for r in val]
    assert [p["idx"] for p in together] == [r["idx"] for r in val]
    assert {p["label"] for p in together} == set(TERRA.labels)


def test_official_val_records_get_sklearns_decisions(real_pair):
    ours, theirs, val = real_pair
    assert_same_decisions(ours, theirs, [TERRA.bag_text(r) for r in val])


def test_official_val_accuracy_is_sklearns_and_below_the_most_frequent_label(real_pair):
    ours, theirs, val = real_pair
    gold = [TERRA.gold(r) for r in val]
    accuracy = TERRA.score(gold, ours.answer(val))["accuracy"]
    assert accuracy == theirs.score([TERRA.bag_text(r) for r in val], [r["label"] for r in val])
    assert accuracy == pytest.approx(0.3843, abs=5e-5)
    majority = model_class("majority").from_state(TERRA, {"answer": TERRA.majority(gold)}, {})
    bar = TERRA.score(gold, majority.answer(val))["accuracy"]
    assert bar == pytest.approx(0.5289, abs=5e-5) and accuracy < bar


def test_three_labels_survive_being_saved(tmp_path, monkeypatch):
    model = model_class("tfidf").fit(COLOURS, colour_records(300), 1)
    monkeypatch.setattr(weights, "get_task", lambda name: COLOURS)
    weights.save(model, COLOURS, tmp_path / "weights", name="tfidf", trained_on={})
    again, _ = weights.load(tmp_path / "weights")
    texts = [COLOURS.bag_text(r) for r in colour_records(50, seed=1)]
    assert np.array_equal(again.decision(texts), model.decision(texts))


def test_three_labels_are_answered_as_sklearn_does():
    records, others = colour_records(200), [r["text"] for r in colour_records(50, seed=1)] + ["", "нечто", "мак лес"]
    ours, theirs = model_class("tfidf").fit(COLOURS, records, 0), reference(COLOURS, records)
    assert_same_decisions(ours, theirs, others)
    answers = ours.answer([{"text": text, "idx": idx} for idx, text in enumerate(others)])
    assert [p["label"] for p in answers] == theirs.predict(others).tolist()
    assert {p["label"] for p in answers} == set(COLOURS.labels)
    again = model_class("tfidf").from_state(COLOURS, *json.loads(json.dumps(ours.state()[:1])), ours.state()[1])
    assert (again.decision(others) == ours.decision(others)).all()


def test_majority_answers_the_most_frequent_label_of_the_training_records():
    model = model_class("majority").fit(TERRA, [
        {"premise": "", "hypothesis": "", "idx": i, "label": TERRA.labels[i % 3 > 0]} for i in range(9)
    ], 0)  # fmt: skip
    assert model.answer([{"premise": "", "hypothesis": "", "idx": 77}]) == [{"idx": 77, "label": TERRA.labels[1]}]


def test_a_training_set_nothing_can_be_learnt_from_is_refused_in_words():
    same = [{"premise": "театр", "hypothesis": "", "idx": i, "label": TERRA.labels[0]} for i in range(5)]
    wordless = [{"premise": "", "hypothesis": "!", "idx": i, "label": TERRA.labels[i % 2]} for i in range(5)]
    for records in (same, wordless):
        with pytest.raises(UsageError, match="cannot be fitted"):
            model_class("tfidf").fit(TERRA, records, 0)


def test_an_unknown_kind_is_refused_and_the_nearest_is_named():
    with pytest.raises(UsageError, match=r"no model 'tf-idf'.*did you mean 'tfidf'\?"):
        model_class("tf-idf")


# -- weights -------------------------------------------------------------------------------------------------------
def test_loaded_weights_answer_as_the_fitted_model(fitted, pair, synthetic_data):
    _, val = data.read_split(synthetic_data, TERRA, "val")
    model, task = weights.load(fitted, "terra")
    assert task is TERRA
    assert (model.decision(list(ODD.values())) == pair[0].decision(list(ODD.values()))).all()
    assert model.answer(val) == pair[0].answer(val)


FITTED_AT_ONCE = [kind for kind in KINDS if kind != "transformer"]


@pytest.mark.parametrize("kind", FITTED_AT_ONCE)
def test_equal_fits_give_equal_bytes(kind, synthetic_data, tmp_path):
    _, records = data.read_split(synthetic_data, TERRA, "train")
    for name in ("a", "b"):
        model = model_class(kind).fit(TERRA, records[:300], 1)
        weights.save(model, TERRA, tmp_path / name, name=kind, trained_on={"records": 300})
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [f.name for f in first] == [f.name for f in second] and first
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_other_training_records_give_other_bytes(synthetic_data, tmp_path):
    _, records = data.read_split(synthetic_data, TERRA, "train")
    for size in (300, 301):
        model = model_class("tfidf").fit(TERRA, records[:size], 1)
        weights.save(model, TERRA, tmp_path / str(size), name="tfidf", trained_on={})
    assert (tmp_path / "300" / weights.ARRAYS).read_bytes() != (tmp_path / "301" / weights.ARRAYS).read_bytes()


def test_the_folder_of_a_train_step_serves_as_well(fitted):
    assert weights.locate(fitted.parent) == weights.locate(fitted) == fitted
    assert weights.describe(fitted.parent)["kind"] == "tfidf"
    assert [f.name for f in weights.files(fitted.parent)] == ["model.json", "model.safetensors"]


def change(key, value):
    def edit(folder):
        path = folder / weights.VALUES
        description = json.loads(path.read_text(encoding="utf-8"))
        if value is None:
            del description[key]
        else:
            description[key] = value
        path.write_text(json.dumps(description), encoding="utf-8")

    return edit


def change_values(**changes):
    def edit(folder):
        values = json.loads((folder / weights.VALUES).read_text(encoding="utf-8"))["values"]
        change("values", {**values, **changes})(folder)

    return edit


def replace_arrays(make):
    def edit(folder):
        from safetensors.numpy import load_file, save_file

        save_file(make(load_file(folder / weights.ARRAYS)), folder / weights.ARRAYS)

    return edit


def cut(name, keep):
    return lambda folder: os.truncate(folder / name, int(keep * (folder / name).stat().st_size))


DAMAGES = {
    "task unknown": (change("task", "terrra"), r"no task 'terrra'"),
    "task is no text": (change("task", 7), r"broken"),
    "task missing": (change("task", None), r"broken.*'task'"),
    "kind unknown": (change("kind", "magic"), r"no model 'magic'"),
    "kind is no text": (change("kind", ["tfidf"]), r"broken"),
    "kind missing": (change("kind", None), r"broken.*'kind'"),
    "kind of another model": (change("kind", "majority"), r"broken"),
    "schema newer": (change("schema", 2), r"schema 2.*reads schema 1"),
    "schema missing": (change("schema", None), r"broken.*'schema'"),
    "values missing": (change("values", None), r"broken.*'values'"),
    "labels of another task": (change_values(labels=["yes", "no"]), r"broken.*labels"),
    "a label too many": (change_values(labels=[*TERRA.labels, "neutral"]), r"broken"),
    "terms missing": (change_values(terms=["театр"]), r"broken.*1 terms"),
    "JSON cut": (cut(weights.VALUES, 0.5), r"model\.json is broken"),
    "JSON empty": (cut(weights.VALUES, 0), r"model\.json is broken"),
    "JSON not UTF-8": (lambda f: (f / weights.VALUES).write_bytes(b"\xff\xfe{}"), r"model\.json is broken"),
    "JSON is a list": (lambda f: (f / weights.VALUES).write_text("[]"), r"model\.json is broken"),
    "JSON missing": (lambda f: (f / weights.VALUES).unlink(), r"no model in"),
    "arrays cut": (cut(weights.ARRAYS, 0.9), r"broken.*Safetensor"),
    "arrays' header cut": (cut(weights.ARRAYS, 0.001), r"broken"),
    "arrays empty": (cut(weights.ARRAYS, 0), r"broken"),
    "arrays missing": (lambda f: (f / weights.ARRAYS).unlink(), r"broken.*'(idf|coef)'"),
    "an array missing": (replace_arrays(lambda a: {k: v for k, v in a.items() if k != "coef"}), r"broken.*'coef'"),
    "an array short": (replace_arrays(lambda a: {**a, "idf": a["idf"][:-1].copy()}), r"broken.*idf"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused_in_words(fitted, tmp_path, damage):
    edit, message = DAMAGES[damage]
    folder = tmp_path / "weights"
    shutil.copytree(fitted, folder)
    weights.load(folder)
    edit(folder)
    with pytest.raises(UsageError, match=message):
        weights.load(folder)


def test_weights_of_another_task_are_refused(fitted):
    with pytest.raises(UsageError, match=r"answers terra, not rcb; train one for rcb"):
        weights.load(fitted, "rcb")


def test_a_folder_without_a_model_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=r"no model in .*morocco train"):
            weights.load(folder)


# -- what must not be there ----------------------------------------------------------------------------------------
def test_no_module_of_the_kit_can_unpickle():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [k.arg for k in node.keywords if k.arg == "allow_pickle"] if isinstance(node, ast.Call) else []
            bad = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "allow_pickle"}
            found += [f"{path.name}:{node.lineno} {name}" for name in names if name.split(".")[0] in bad]
    assert not found
    assert list(PACKAGE.rglob("*.py"))


def test_weights_are_json_and_safetensors_only(fitted):
    assert sorted(f.name for f in fitted.iterdir()) == [weights.VALUES, weights.ARRAYS]
    json.loads((fitted / weights.VALUES).read_text(encoding="utf-8"))
    raw = (fitted / weights.ARRAYS).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert {k: v["dtype"] for k, v in header.items()} == dict.fromkeys(("coef", "idf", "intercept"), "F64")


def test_loading_and_answering_import_no_sklearn(fitted):
    code = (
        "import sys; from morocco_lib.models import weights;"
        "model, task = weights.load(sys.argv[1]);"
        "print(model.answer([{'premise': 'театр', 'hypothesis': 'открыли', 'idx': 5}]));"
        "assert 'sklearn' not in sys.modules and 'scipy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, fitted], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert done.returncode == 0 and done.stdout.startswith("[{'idx': 5,"), done.stderr
