"""Models: tfidf answers as scikit-learn would, weights are equal for equal fits, and broken ones are refused."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import morocco_lib
from morocco_lib import data
from morocco_lib.errors import UsageError
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import LabelTask

TERRA = get_task("terra")


class Colours(LabelTask):
    """A task with three labels, as none of the kit's has yet."""

    name, title = "colours", "Colours"
    labels = ("red", "blue", "green")  # not in alphabetical order
    fields = {"text": str}  # noqa: RUF012

    def bow_text(self, record):
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
    return pipeline.fit([task.bow_text(r) for r in records], [r["label"] for r in records])


@pytest.fixture(scope="module")
def pair(synthetic_data):
    """(our model, scikit-learn's), fitted on the same synthetic records."""
    _, records = data.read_split(synthetic_data, TERRA, "train")
    return model_class("tfidf").fit(TERRA, records, 1), reference(TERRA, records)


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


def test_answers_do_not_depend_on_what_else_is_in_the_batch(pair, synthetic_data):
    _, val = data.read_split(synthetic_data, TERRA, "val")
    together = pair[0].answer(val)
    assert together == [pair[0].answer([r])[0] for r in val]
    assert [p["idx"] for p in together] == [r["idx"] for r in val]
    assert {p["label"] for p in together} == set(TERRA.labels)


def test_official_val_accuracy_is_sklearns_and_below_the_most_frequent_label(real_data):
    records, val = (data.read_split(real_data / "rsg", TERRA, split)[1] for split in ("train", "val"))
    ours, theirs = model_class("tfidf").fit(TERRA, records, 1), reference(TERRA, records)
    gold = [TERRA.gold(r) for r in val]
    accuracy = TERRA.score(gold, ours.answer(val))["accuracy"]
    assert accuracy == theirs.score([TERRA.bow_text(r) for r in val], [r["label"] for r in val])
    assert accuracy == pytest.approx(0.3843, abs=5e-5)
    majority = model_class("majority").from_state(TERRA, {"answer": TERRA.majority(gold)}, {})
    bar = TERRA.score(gold, majority.answer(val))["accuracy"]
    assert bar == pytest.approx(0.5289, abs=5e-5) and accuracy < bar


def test_three_labels_are_answered_as_sklearn_does_and_survive_being_saved(tmp_path, monkeypatch):
    records, others = colour_records(200), [r["text"] for r in colour_records(50, seed=1)] + ["", "нечто", "мак лес"]
    ours, theirs = model_class("tfidf").fit(COLOURS, records, 0), reference(COLOURS, records)
    assert_same_decisions(ours, theirs, others)
    answers = ours.answer([{"text": text, "idx": idx} for idx, text in enumerate(others)])
    assert [p["label"] for p in answers] == theirs.predict(others).tolist()
    assert {p["label"] for p in answers} == set(COLOURS.labels)
    monkeypatch.setattr(weights, "get_task", lambda name: COLOURS)
    weights.save(ours, COLOURS, tmp_path / "weights", name="tfidf", trained_on={})
    again, _ = weights.load(tmp_path / "weights")
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


@pytest.mark.parametrize("kind", ["majority", "tfidf"])
def test_equal_fits_give_equal_bytes(kind, synthetic_data, tmp_path):
    _, records = data.read_split(synthetic_data, TERRA, "train")
    for name in ("a", "b"):
        model = model_class(kind).fit(TERRA, records[:300], 1)
        weights.save(model, TERRA, tmp_path / name, name=kind, trained_on={"records": 300})
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [f.name for f in first] == [f.name for f in second] and first
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_the_folder_of_a_train_step_serves_as_well(fitted):
    assert weights.locate(fitted.parent) == weights.locate(fitted) == fitted
    assert weights.describe(fitted.parent)["kind"] == "tfidf"
    assert [f.name for f in weights.files(fitted.parent)] == ["model.json", "model.safetensors"]


def change(value, *keys):
    def edit(folder):
        path = folder / weights.VALUES
        place = description = json.loads(path.read_text(encoding="utf-8"))
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        path.write_text(json.dumps(description), encoding="utf-8")

    return edit


def replace_arrays(make):
    def edit(folder):
        from safetensors.numpy import load_file, save_file

        save_file(make(load_file(folder / weights.ARRAYS)), folder / weights.ARRAYS)

    return edit


def truncate(name, keep):
    return lambda folder: os.truncate(folder / name, int(keep * (folder / name).stat().st_size))


DAMAGES = {
    "task unknown": (change("terrra", "task"), r"no task 'terrra'"),
    "task is no text": (change(7, "task"), r"broken"),
    "kind unknown": (change("magic", "kind"), r"no model 'magic'"),
    "kind of another model": (change("majority", "kind"), r"broken"),
    "schema newer": (change(2, "schema"), r"schema 2.*reads schema 1"),
    "labels of another task": (change(["yes", "no"], "values", "labels"), r"broken.*labels"),
    "terms missing": (change(["театр"], "values", "terms"), r"broken.*1 terms"),
    "JSON truncated": (truncate(weights.VALUES, 0.5), r"model\.json is broken"),
    "JSON is a list": (lambda f: (f / weights.VALUES).write_text("[]"), r"model\.json is broken"),
    "arrays truncated": (truncate(weights.ARRAYS, 0.9), r"broken.*Safetensor"),
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
    unpickling = re.compile(r"^\s*(import|from) (pickle|joblib|dill|cloudpickle|shelve|marshal)|allow_pickle", re.M)
    modules = list(Path(morocco_lib.__file__).parent.rglob("*.py"))
    assert modules and not [path for path in modules if unpickling.search(path.read_text(encoding="utf-8"))]


def test_terms_of_several_words_in_their_own_case_are_sklearns(real_data, tmp_path):
    task, folder = get_task("rucola"), real_data / "rucola"
    records, val = (task.read(folder / f"in_domain_{split}.csv")[:1500] for split in ("train", "dev"))
    settings = {"ngrams": 3, "lowercase": False, "min_df": 5, "max_df": 0.9, "c": 3.0}
    ours = model_class("tfidf").fit(task, records, 1, **settings)
    vectorizer = TfidfVectorizer(ngram_range=(1, 3), lowercase=False, min_df=5, max_df=0.9)
    theirs = make_pipeline(vectorizer, LogisticRegression(C=3.0))
    theirs.fit([r["sentence"] for r in records], [r["label"] for r in records])
    assert any(" " in term for term in ours.vocabulary)
    assert_same_decisions(ours, theirs, [r["sentence"] for r in val])
    weights.save(ours, task, tmp_path / "weights", name="tfidf", trained_on={})
    again, _ = weights.load(tmp_path / "weights")
    assert again.answer(val) == ours.answer(val)


def test_the_best_c_on_val_is_kept_and_every_fit_is_on_record(main, tmp_path, synthetic_data):
    model = tmp_path / "params/models/grid.yaml"
    model.parent.mkdir(parents=True)
    model.write_text("model: {name: grid, kind: tfidf, tfidf: {ngrams: 2, c: [0.001, 1.0]}}\n")
    (tmp_path / "pyproject.toml").touch(), (tmp_path / "notebooks").mkdir()
    data_of = synthetic_data / "RuCoLA"
    done = main("train", "grid", "rucola", "--data", data_of, "--out", "fitted", "--seeds", "1-2", cwd=tmp_path)
    assert done.returncode == 0 and "the best of 4 fits" in done.stderr
    result = json.loads((tmp_path / "fitted/train.json").read_text())
    scores = {(one["c"], one["seed"]): one["score"] for one in result["grid"]}
    assert result["chosen"] == {"c": 1.0, "seed": 1, "score": max(scores.values())}
    assert scores[1.0, 1] == scores[1.0, 2] > scores[0.001, 1]
    task = get_task("rucola")
    val = task.read(data_of / "in_domain_dev.jsonl")
    kept, _ = weights.load(tmp_path / "fitted/weights")
    assert task.score([task.gold(r) for r in val], kept.answer(val))["mcc"] == scores[1.0, 1]
