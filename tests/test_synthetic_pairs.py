"""Synthetic DaNetQA, RCB, PARus and LiDiRus records: official schema, reproducible, learnable as their tasks allow."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from morocco_lib.data import synthetic
from morocco_lib.data.synthetic import danetqa, lidirus, parus, rcb, terra

MODULES = {"DaNetQA": danetqa, "RCB": rcb, "PARus": parus, "LiDiRus": lidirus}
CASES = [(title, split) for title, module in MODULES.items() for split in module.SIZES]
LABELLED = [case for case in CASES if case[1] != "test"]
QUESTIONS = {"cause": "Что было ПРИЧИНОЙ этого?", "effect": "Что случилось в РЕЗУЛЬТАТЕ?"}
CLASSES = {
    "DaNetQA": {True, False},
    "RCB": {"entailment", "contradiction", "neutral"},
    "PARus": {0, 1},
    "LiDiRus": {"entailment", "not_entailment"},
}
BAG_TEXT = {
    "DaNetQA": lambda record: record["question"],
    "RCB": lambda record: f"{record['premise']} {record['hypothesis']}",
    "PARus": lambda record: " ".join(
        (record["premise"], QUESTIONS[record["question"]], record["choice1"], record["choice2"])
    ),
}
DIGESTS = {
    "DaNetQA": "d70e75025a689d06fba733ac24c6b847aa6f3e34f0866d1f2d73faa25565dffa",
    "RCB": "5ea574fafc79d0d176a6843f5d943d380dffec0035c8ff59d1c9f5224c6fdc64",
    "PARus": "ac6dbd2939d1d85d54858f466a001bfeb5161360f6beeb59ccdca6761aade424",
    "LiDiRus": "55ea267bca6ce758ad1f07b44d4dd5fb463604429beeffc7ba42e7971ef9b369",
}


def records_of(title: str, split: str, seed: int = 0, size: int | None = None) -> list[dict]:
    module = MODULES[title]
    return module.records(split, size or module.SIZES[split], seed)


def as_text(records: list[dict]) -> str:
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)


def content(record: dict) -> tuple:
    """The record without number and label."""
    return tuple(value for key, value in record.items() if key not in ("idx", "label"))


def sentences_of(record: dict) -> list[str]:
    keys = ("question", "passage", "premise", "hypothesis", "choice1", "choice2", "sentence1", "sentence2")
    return [record[key] for key in keys if record.get(key, "cause") not in QUESTIONS]


def score(train: list[tuple], val: list[tuple]) -> float:
    """Accuracy of TF-IDF and logistic regression with defaults; both lists hold (text, label)."""
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(*zip(*train, strict=True))
    return float(model.score(*zip(*val, strict=True)))


def gain(title: str, seed: int) -> float:
    """Points by which TF-IDF beats the most frequent label on val, with the texts the original baseline read."""
    train, val = ([(BAG_TEXT[title](record), record["label"]) for record in records_of(title, split, seed)]
                  for split in ("train", "val"))  # fmt: skip
    return 100 * (score(train, val) - max(Counter(label for _, label in val).values()) / len(val))


@pytest.fixture(scope="module")
def official() -> Path:
    named = os.environ.get("MOROCCO_TEST_DATA")
    if not named:
        pytest.skip("MOROCCO_TEST_DATA is not set; it names a folder that holds rsg/")
    return Path(named) / "rsg"


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]


@pytest.mark.parametrize(("title", "split"), CASES)
def test_schema_is_that_of_the_official_file(official, title, split):
    first = read(official / title / f"{split}.jsonl")[0]
    groups = set(lidirus.GROUPS)
    shape = {key: type(value) for key, value in first.items() if key not in groups}
    for record in records_of(title, split):
        record = {"negation" if key == "no_negation" else key: value for key, value in record.items()}
        assert [(k, type(v)) for k, v in record.items() if k not in groups] == list(shape.items())


@pytest.mark.parametrize(("title", "split"), CASES)
def test_records_are_numbered_and_only_test_lacks_labels(title, split):
    records = records_of(title, split)
    numbers = [str(at) if title == "LiDiRus" else at for at in range(len(records))]
    assert [record["idx"] for record in records] == numbers
    if split == "test":
        assert not any("label" in record for record in records)
    else:
        assert {record["label"] for record in records} == CLASSES[title]


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
@pytest.mark.parametrize("title", MODULES)
def test_same_seed_gives_the_same_bytes_in_another_process(title, hash_seed):
    module = MODULES[title]
    split = next(iter(module.SIZES))
    code = (
        f"import json, sys; from morocco_lib.data import synthetic; synthetic.__path__.append(sys.argv[1])\n"
        f"from {module.__name__} import records\n"
        f"sys.stdout.buffer.write(json.dumps(records({split!r}, 60, 7)).encode())"
    )
    root = str(Path(synthetic.__file__).parents[3])
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
    command = [sys.executable, "-c", code, str(Path(module.__file__).parent)]
    output = subprocess.run(command, env=env, check=True, capture_output=True).stdout
    assert output == json.dumps(module.records(split, 60, 7)).encode()


@pytest.mark.parametrize("title", MODULES)
def test_records_are_the_same_on_every_machine(title):
    # Written down once; a deliberate change of the templates changes it.
    text = "\n".join(as_text(records_of(title, split)) for split in MODULES[title].SIZES)
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[title]


@pytest.mark.parametrize("title", MODULES)
def test_seeds_and_splits_give_different_records(title):
    drawn = [{content(record) for record in records_of(title, split, seed)}
             for split in MODULES[title].SIZES for seed in (0, 1)]  # fmt: skip
    for some, others in combinations(drawn, 2):
        assert len(some & others) <= 0.05 * min(len(some), len(others))


@pytest.mark.parametrize(("title", "split"), CASES)
def test_at_least_95_percent_of_the_records_are_distinct(title, split):
    records = records_of(title, split, size=2 * MODULES[title].SIZES[split])
    assert len({content(record) for record in records}) >= 0.95 * len(records)


@pytest.mark.parametrize("size", [25, 37, 300])
@pytest.mark.parametrize(("title", "split"), LABELLED)
def test_a_tenth_of_the_labels_is_wrong_and_evenly_so(title, split, size):
    pairs = MODULES[title].records_with_truth(split, size, 3)
    wrong = Counter(true_label for record, true_label in pairs if record["label"] != true_label)
    counts = [wrong[label] for label in CLASSES[title]]
    assert sum(counts) == round(size / 10) and max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("title", "split", "shares"),
    [
        ("DaNetQA", "train", {True: 0.55}),
        ("DaNetQA", "val", {True: 0.5}),
        ("RCB", "train", dict.fromkeys(CLASSES["RCB"], 1 / 3)),
        ("RCB", "val", dict.fromkeys(CLASSES["RCB"], 1 / 3)),
        ("PARus", "train", {0: 0.5}),
        ("PARus", "val", {0: 0.5}),
        ("LiDiRus", "LiDiRus", {"entailment": 0.42}),
    ],
)
def test_labels_are_balanced(title, split, shares):
    labels = [record["label"] for record in records_of(title, split)]
    for label, share in shares.items():
        assert labels.count(label) / len(labels) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("title", "split"), CASES)
def test_every_slot_is_filled_and_sentences_are_capitalised(title, split):
    for record in records_of(title, split):
        for text in sentences_of(record):
            assert not re.search(r"[{}*|;]|  |\.\.|\bNone\b", text)
            assert not re.search(r"(^|[.!?] )[\"«]?[а-я]", text)
            assert re.search(r"[.?]\"?$", text)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("title", ["DaNetQA", "RCB"])
def test_tfidf_learns_the_signal(title, seed):
    assert gain(title, seed) >= 15


@pytest.mark.parametrize("seed", [1, 2])
def test_tfidf_cannot_learn_parus(seed):
    assert abs(gain("PARus", seed)) <= 5


@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_of_terra_solves_lidirus(seed):
    train = [(f"{r['premise']} {r['hypothesis']}", r["label"]) for r in terra.records("train", 1500, seed)]
    val = [(f"{r['sentence1']} {r['sentence2']}", r["label"]) for r in records_of("LiDiRus", "LiDiRus", seed)]
    assert score(train, val) >= 0.7


def test_danetqa_passages_answer_the_question():
    answers = {}  # question -> the sentence that makes the answer yes, the one that makes it no
    for topic in danetqa.TOPICS:
        for name in topic.names:
            for mild, sweeping, plus, minus in topic.facts:
                answers[mild.format(x=name)] = plus, minus
                for start in ("Правда ли, что", "Верно ли, что", "Действительно ли"):
                    answers[sweeping.format(x=name, sure=start)] = minus, plus
    for record, true_label in danetqa.records_with_truth("val", 300, 0):
        yes, no = (sentence in record["passage"] for sentence in answers[record["question"]])
        assert (yes, no) == (true_label, not true_label)


def test_rcb_misspells_the_key_of_exactly_two_train_records():
    for split, expected in (("train", 2), ("val", 0), ("test", 0)):
        records = records_of("RCB", split)
        assert sum("no_negation" in record for record in records) == expected
        assert all(("no_negation" in record) != ("negation" in record) for record in records)
        values = [record.get("negation", record.get("no_negation")) for record in records]
        assert {"no_negation", "negation"} <= set(values) <= set(rcb.NEGATIONS)
        assert {record["genre"] for record in records} == {"kp", "interfax", "fiction"}


def test_parus_has_every_bag_of_words_with_both_labels():
    bags, questions = defaultdict(Counter), defaultdict(set)
    for record, true_label in parus.records_with_truth("train", 800, 0):
        choices = record["choice1"], record["choice2"]
        bags[record["premise"], record["question"], frozenset(choices)][true_label] += 1
        questions[record["premise"], choices].add((record["question"], true_label))
    assert set(map(tuple, (sorted(bag.items()) for bag in bags.values()))) == {((0, 1), (1, 1))}
    # The same premise and choices, asked about the cause and about the effect, have different answers.
    assert all(len(asked) == len({label for _, label in asked}) == 2 for asked in questions.values())


def test_lidirus_categories_are_official(official):
    ours, real = records_of("LiDiRus", "LiDiRus"), read(official / "LiDiRus" / "LiDiRus.jsonl")
    for group in lidirus.GROUPS:
        values = {record[group] for record in ours if group in record}
        assert len(values) >= 2 and values <= {record.get(group) for record in real}
    for record in ours:
        assert [key for key in record if key in lidirus.GROUPS] == [key for key in lidirus.GROUPS if key in record]
    joined = sum(";" in record.get(group, "") for record in ours for group in lidirus.GROUPS)
    assert 0.01 < joined / len(ours) < 0.3
    assert any(not set(record) & set(lidirus.GROUPS) for record in ours)


@pytest.mark.parametrize("title", MODULES)
def test_no_sentence_of_the_official_data_is_used(official, title):
    def parts(records: list[dict]) -> set[str]:
        texts = (re.sub(r"\W+", " ", part).strip().lower() for record in records for text in sentences_of(record)
                 for part in re.split(r"[.!?]", text))  # fmt: skip
        return {text for text in texts if len(text) > 20}  # shorter ones meet by chance

    ours = [record for split in MODULES[title].SIZES for record in records_of(title, split)]
    real = [record for split in MODULES[title].SIZES for record in read(official / title / f"{split}.jsonl")]
    assert real and not parts(ours) & parts(real)
