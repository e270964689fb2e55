"""Synthetic TERRa records: reproducible, learnable, honest about being synthetic."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from morocco_lib.data import synthetic
from morocco_lib.data.synthetic import terra
from morocco_lib.errors import UsageError

SPLITS = ("train", "val", "test")


def as_text(records: list[dict]) -> str:
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)


def joined(records: list[dict]) -> list[str]:
    return [f"{record['premise']} {record['hypothesis']}" for record in records]


def test_same_seed_gives_the_same_bytes(tmp_path):
    first, second = (synthetic.write(tmp_path / name, ["terra"], seed=7) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_records_do_not_depend_on_the_hash_seed(hash_seed):
    code = (
        "import json, sys; from morocco_lib.data import synthetic;"
        "sys.stdout.buffer.write(json.dumps(synthetic.records('terra', 'val', 50, 7)).encode())"
    )
    root = str(Path(synthetic.__file__).parents[3])
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
    output = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True).stdout
    assert json.loads(output) == synthetic.records("terra", "val", 50, 7)


def test_records_are_the_same_on_every_machine():
    # Written down once; a deliberate change of the templates changes it, and with it every number of the demo.
    digest = hashlib.sha256(as_text(synthetic.records("terra", "train", 200, 0)).encode()).hexdigest()
    assert digest == "48c3381bbc4c5e61c65bbbde8da3bd39c1ee552d0a45ae12e6ddacedb9981827"


def test_seeds_and_splits_give_different_records():
    pairs = [
        {(record["premise"], record["hypothesis"]) for record in synthetic.records("terra", split, 300, seed)}
        for split in SPLITS
        for seed in (0, 1)
    ]
    for i, some in enumerate(pairs):
        for others in pairs[i + 1 :]:
            assert len(some & others) <= 3


def test_schema_is_the_official_one():
    for split in SPLITS:
        records = synthetic.records("terra", split, 100, 0)
        keys = ["premise", "hypothesis", "idx"] if split == "test" else ["premise", "hypothesis", "label", "idx"]
        assert all(list(record) == keys for record in records)
        assert [record["idx"] for record in records] == list(range(100))
        assert {record.get("label") for record in records} <= {"entailment", "not_entailment", None}


def test_lengths_are_those_of_news_sentences():
    records = synthetic.records("terra", "train", 2000, 0)
    assert all(39 <= len(record["premise"]) <= 600 and len(record["hypothesis"]) <= 120 for record in records)


def test_quotes_are_doubled_as_in_the_official_csv_export():
    texts = [
        record[key] for record in synthetic.records("terra", "train", 2000, 0) for key in ("premise", "hypothesis")
    ]
    quoted = [text for text in texts if '"' in text]
    assert 0.05 < len(quoted) / len(texts) < 0.5
    assert all(text[0] == text[-1] == '"' and '"' not in text[1:-1].replace('""', "") for text in quoted)


def test_every_slot_is_filled_and_sentences_are_capitalised():
    for text in joined(synthetic.records("terra", "train", 2000, 0)):
        assert not re.search(r"[{}]|  |\.\.|\bNone\b|Row\(", text)
        assert not re.search(r'(^|[.!?] )"*[а-я]', text)


@pytest.mark.parametrize(("split", "share"), [("train", 0.52), ("val", 0.5)])
def test_labels_are_balanced(split, share):
    labels = [record["label"] for record in synthetic.records("terra", split, 1000, 3)]
    assert labels.count("entailment") / 1000 == pytest.approx(share, abs=0.002)


def test_a_tenth_of_the_labels_is_flipped():
    for split, size in (("train", 1500), ("val", 300), ("val", 25)):
        published_and_true = terra.records_with_truth(split, size, 0)
        flipped = sum(record["label"] != true_label for record, true_label in published_and_true)
        assert flipped == round(size / 10)


def test_hypotheses_come_in_eight_kinds_on_both_sides():
    for label in terra.LABELS:
        assert len({kind for scene in terra.SCENES for kind, _ in scene.hypotheses[label]}) >= 8


def test_records_vary():
    records = synthetic.records("terra", "train", 2400, 0)
    assert len({(record["premise"], record["hypothesis"]) for record in records}) == 2400
    assert len({record["premise"] for record in records}) >= 0.95 * 2400


def test_tfidf_learns_the_signal():
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, val = synthetic.records("terra", "train", 2000, 0), synthetic.records("terra", "val", 300, 0)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(joined(train), [record["label"] for record in train])
    accuracy = model.score(joined(val), [record["label"] for record in val])
    assert 0.75 <= accuracy <= 0.9  # above 0.9 the flipped labels would have been guessed


def test_no_single_word_decides():
    words = ("не", "никто", "никогда", "отказались")
    records = terra.records_with_truth("train", 2000, 0)
    for word in words:
        truths = {truth for record, truth in records if word in re.findall(r"\w+", joined([record])[0].lower())}
        assert truths == set(terra.LABELS)


def test_files_are_utf8_with_crlf_and_say_that_they_are_synthetic(tmp_path):
    paths = synthetic.write(tmp_path, ["terra"], seed=5)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "TERRa/train.jsonl",
        "TERRa/val.jsonl",
        "TERRa/test.jsonl",
        "SYNTHETIC.md",
    ]
    for split, path in zip(SPLITS, paths, strict=False):
        lines = path.read_bytes().decode("utf-8").split("\r\n")
        assert lines.pop() == "" and not any("\n" in line or "\\u" in line for line in lines)
        expected = synthetic.records("terra", split, terra.SIZES[split], 5)
        assert [json.loads(line) for line in lines] == expected
    note = paths[-1].read_text(encoding="utf-8")
    assert "synthetic" in note and "seed 5" in note and "no benchmark" in note
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)


def test_unknown_tasks_and_splits_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"terrra.*terra"):
        synthetic.write(tmp_path / "new", ["terra", "terrra"], seed=0)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match=r"dev.*train, val, test"):
        synthetic.records("terra", "dev", 10, 0)


def test_no_sentence_of_the_real_data_is_used(real_data):
    def sentences(records: list[dict]) -> set[str]:
        texts = (re.sub(r"\W+", " ", part).strip().lower() for text in records for key in ("premise", "hypothesis")
                 for part in re.split(r"[.!?]", text[key]))  # fmt: skip
        return {text for text in texts if len(text) > 20}  # shorter ones meet by chance

    real = [json.loads(line) for path in sorted((real_data / "rsg" / "TERRa").glob("*.jsonl"))
            for line in path.read_text(encoding="utf-8-sig").splitlines()]  # fmt: skip
    assert real
    ours = [record for split in SPLITS for record in synthetic.records("terra", split, 2000, 0)]
    assert not sentences(ours) & sentences(real)
