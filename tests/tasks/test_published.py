"""What was published comes out again: predictions, scores and the TF-IDF baseline, next to plain computations here."""

import functools
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.pipeline import make_pipeline

from morocco_lib import data
from morocco_lib.legacy import scoring
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task, task_names
from morocco_lib.tasks.base import task_value
from morocco_lib.tasks.checking import check_file

NINE = task_names("Russian SuperGLUE")
TOTALS = {
    "rubert": 0.5477, "rubert-conversational": 0.5191, "rugpt3-medium": 0.5014, "rugpt3-large": 0.4948,
    "rugpt3-small": 0.4831, "bert-multilingual": 0.4620,
}  # fmt: skip


@pytest.fixture(scope="module")
def archive(real_data, tmp_path_factory):
    """Unpack an archive of published files; returns its folder."""

    @functools.cache
    def unpack(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with tarfile.open(real_data / "morocco" / f"morocco-{name}.tar.gz") as packed:
            packed.extractall(folder, filter="data")
        return folder

    return unpack


@functools.cache
def records_of(root: Path, name: str, split: str) -> list[dict]:
    return get_task(name).read(data.find_split(root / "rsg", get_task(name), split))


def objects(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def restricted(path: Path, records, folder: Path) -> Path:
    """Write those predictions of a published file that answer the records at hand."""
    asked = {int(record["idx"]) for record in records}
    kept = [json.dumps(p) for p in objects(path) if int(p["idx"]) in asked]
    (folder / "kept.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return folder / "kept.jsonl"


def scored(task, path: Path, records) -> dict:
    checked = check_file(task, path, records)
    assert checked.ok, checked.error()
    return task.score([task.gold(r) for r in records], [checked.predictions[task.key(r)] for r in records])


# -- published predictions and scores ------------------------------------------------------------------------------
@pytest.mark.parametrize("model", TOTALS)
def test_lidirus_scores_of_the_published_predictions_are_the_reference(real_data, official, archive, tmp_path, model):
    task, records = get_task("lidirus"), official("lidirus")
    reference = json.loads((real_data / "rsg/LiDiRus/reference_mcc.json").read_text(encoding="utf-8"))[model]["rows"]
    path = restricted(archive("jiant-preds") / "best" / model / "lidirus.jsonl", records, tmp_path)
    assert reference["n"] == len(records)
    for scores in (scored(task, path, records), scoring.score_file(task, path, records)):
        for metric in ("all_mcc", "accuracy"):
            assert scores[metric] == pytest.approx(reference[metric], abs=1e-12)


def same(value) -> str:
    return str(value).lower()


@pytest.mark.parametrize("name", ["danetqa", "lidirus", "parus", "rcb", "russe", "rwsd", "terra"])
def test_published_tfidf_predictions_score_as_plain_loops_say(official, archive, tmp_path, name):
    task, records = get_task(name), official(name)
    path = restricted(archive("tfidf-preds") / f"{name}.jsonl", records, tmp_path)
    given = {same(p["idx"]): same(p["label"]) for p in objects(path)}
    assert len(given) == len(records)
    right = [same(r["label"]) for r in records]
    answered = [given[same(r["idx"])] for r in records]
    accuracy = sum(g == p for g, p in zip(right, answered, strict=True)) / len(right)
    expected = {"acc" if name == "rwsd" else "accuracy": accuracy}
    if name == "lidirus":
        expected["all_mcc"] = matthews_corrcoef(right, answered)
    elif name == "rcb":
        expected["f1"] = f1_score(right, answered, average="macro")
    elif name == "rwsd":
        expected["f1"] = f1_score(right, answered, pos_label="true")
    scores = scored(task, path, records)
    assert {metric: scores[metric] for metric in expected} == pytest.approx(expected, abs=1e-12)
    assert name == "lidirus" or set(scores) == set(expected)
    assert 0.4 < accuracy < 0.7


def test_published_tfidf_predictions_of_muserc_score_as_plain_loops_say(official, archive, tmp_path):
    task, records = get_task("muserc"), official("muserc")
    path = restricted(archive("tfidf-preds") / "muserc.jsonl", records, tmp_path)
    given = {
        (p["idx"], q["idx"], a["idx"]): a["label"]
        for p in objects(path) for q in p["passage"]["questions"] for a in q["answers"]
    }  # fmt: skip
    cells, questions = Counter(), {}
    for record in records:
        for question in record["passage"]["questions"]:
            for answer in question["answers"]:
                pair = answer["label"], given[record["idx"], question["idx"], answer["idx"]]
                cells[pair] += 1
                questions.setdefault(question["idx"], []).append(pair[0] == pair[1])
    assert cells.total() == len(given)
    precision, recall = (cells[1, 1] / (cells[1, 1] + cells[other]) for other in ((0, 1), (1, 0)))
    expected = {
        "ans_f1": 2 * precision * recall / (precision + recall),
        "em": sum(map(all, questions.values())) / len(questions),
    }
    assert scored(task, path, records) == pytest.approx(expected, abs=1e-12)
    assert scoring.score_file(task, path, records) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("model", TOTALS)
def test_the_published_evaluations_give_the_published_totals(archive, model):
    folder = archive("jiant-eval") / "best" / model
    assert sorted(path.stem for path in folder.iterdir()) == NINE
    scores = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in NINE}
    total = sum(task_value(get_task(name), scores[name]) for name in NINE) / 9
    assert round(total, 4) == TOTALS[model]


# -- the TF-IDF baseline on official records -----------------------------------------------------------------------
def joined(*keys):
    return lambda record: " ".join(record[key] for key in keys)


QUESTIONS = {"cause": "Что было ПРИЧИНОЙ этого?", "effect": "Что случилось в РЕЗУЛЬТАТЕ?"}
TEXTS = {
    "danetqa": joined("question"),
    "rcb": joined("premise", "hypothesis"),
    "terra": joined("premise", "hypothesis"),
    "lidirus": joined("sentence1", "sentence2"),
    "russe": joined("sentence1", "sentence2", "word"),
    "parus": lambda r: " ".join([r["premise"], QUESTIONS[r["question"]], r["choice1"], r["choice2"]]),
    "rwsd": lambda r: " ".join([r["text"], r["target"]["span1_text"], r["target"]["span2_text"]]),
}
ACCURACY = {"danetqa": 0.569, "rcb": 0.492, "parus": 0.457, "russe": 0.690, "rwsd": 0.536, "terra": 0.384}


@pytest.fixture(scope="module")
def kept(official, tmp_path_factory):
    """Fit tfidf on a task's train records and keep it; returns the weights folder."""

    @functools.cache
    def fit(name: str) -> Path:
        task, records = get_task(name), official(name, "train")
        folder = tmp_path_factory.mktemp(name) / "weights"
        model = model_class("tfidf").fit(task, records, 1)
        weights.save(model, task, folder, name="tfidf", trained_on={"origin": "official"})
        return folder

    return fit


@functools.cache
def plain(official, name: str):
    """Fit scikit-learn's own pipeline on texts joined here."""
    records = official(name, "train")
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return pipeline.fit([TEXTS[name](r) for r in records], [same(r["label"]) for r in records])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "russe" else []) for name in ACCURACY]
)
def test_kept_weights_answer_as_a_plain_pipeline(official, kept, name):
    model, task = weights.load(kept(name), name)
    records = official(name)
    answers = model.answer([task.strip_labels(r) for r in records])
    expected = plain(official, name).predict([TEXTS[name](r) for r in records]).tolist()
    assert [same(a["label"]) for a in answers] == expected
    accuracy = accuracy_score([same(r["label"]) for r in records], expected)
    scores = task.score([task.gold(r) for r in records], answers)
    assert scores[task.metric_names[-1]] == pytest.approx(accuracy, abs=1e-12)
    assert accuracy == pytest.approx(ACCURACY[name], abs=5e-4)


def test_lidirus_is_answered_with_the_weights_of_terra(official, kept):
    model, task = weights.load(kept("terra"), "lidirus")
    records = official("lidirus")
    answers = model.answer([task.strip_labels(r) for r in records])
    expected = plain(official, "terra").predict([TEXTS["lidirus"](r) for r in records]).tolist()
    assert [a["label"] for a in answers] == expected and len(set(expected)) == 2
    assert [a["idx"] for a in answers] == [r["idx"] for r in records]
    mcc = matthews_corrcoef([r["label"] for r in records], expected)
    assert task.score([task.gold(r) for r in records], answers)["all_mcc"] == pytest.approx(mcc, abs=1e-12)


def test_muserc_calls_the_two_answers_nearest_to_the_passage_right(official, kept):
    texts = []
    for record in official("muserc", "train"):
        texts.append(record["passage"]["text"])
        for question in record["passage"]["questions"]:
            texts[-1] += " ".join(["", question["question"], *(a["text"] for a in question["answers"])])
    vectorizer = TfidfVectorizer().fit(texts)
    model, task = weights.load(kept("muserc"), "muserc")
    records = official("muserc")
    answers = model.answer([task.strip_labels(r) for r in records])
    for record, answer in zip(records, answers, strict=True):
        context = vectorizer.transform([record["passage"]["text"]])
        for asked, answered in zip(record["passage"]["questions"], answer["passage"]["questions"], strict=True):
            options = vectorizer.transform([f"{asked['question']} {a['text']}" for a in asked["answers"]])
            near = cosine_similarity(context, options)[0].round(12)
            best = sorted(range(len(near)), key=lambda k: -near[k])[:2]
            assert [a["label"] for a in answered["answers"]] == [int(k in best) for k in range(len(near))]
            assert [a["idx"] for a in answered["answers"]] == [a["idx"] for a in asked["answers"]]


def test_rucos_takes_the_name_whose_query_is_nearest_to_the_passage(official, kept):
    records = official("rucos", "train")
    passages = [" ".join(r["passage"]["text"].replace("@highlight", " ").split()) for r in records]
    queries = [r["qas"][0]["query"] for r in records]
    texts = [f"{p} {q.replace('@placeholder', '')}" for p, q in zip(passages, queries, strict=True)]
    vectorizer = TfidfVectorizer().fit(texts)
    model, task = weights.load(kept("rucos"), "rucos")
    answers = model.answer([task.strip_labels(r) for r in records])
    for record, passage, query, answer in zip(records, passages, queries, answers, strict=True):
        text = record["passage"]["text"]
        names = [text[span["start"] : span["end"]] for span in record["passage"]["entities"]]
        options = vectorizer.transform([query.replace("@placeholder", name) for name in names])
        near = cosine_similarity(vectorizer.transform([passage]), options)[0].round(12)
        assert answer == {"idx": record["qas"][0]["idx"], "label": names[int(np.argmax(near))]}
