"""What can be learnt from synthetic records, and what cannot: as their tasks allow, whatever the templates become."""

import json
import re

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from morocco_lib.data import read_split, synthetic
from morocco_lib.tasks import get_task, task_names

every_seed = pytest.mark.parametrize("seed", [1, 2])


def tfidf_accuracy(name: str, seed: int, val_name: str, val_split: str) -> float:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    train = synthetic.records(name, "train", synthetic.generator(name).SIZES["train"], seed)
    val = synthetic.records(val_name, val_split, 400, seed)
    model.fit([get_task(name).bow_text(record) for record in train], [record["label"] for record in train])
    return model.score([get_task(val_name).bow_text(record) for record in val], [record["label"] for record in val])


@every_seed
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("terra", 0.75, 0.9),  # above 0.9 the flipped labels would have been guessed
        ("danetqa", 0.65, 0.9),
        ("rcb", 0.5, 0.9),
        ("parus", 0.45, 0.55),
        ("russe", 0.45, 0.55),
        ("rwsd", 0.45, 0.55),
    ],
)
def test_word_counts_tell_as_much_as_they_should(name, low, high, seed):
    assert low <= tfidf_accuracy(name, seed, name, "val") <= high


@every_seed
def test_a_model_of_terra_solves_lidirus(seed):
    assert tfidf_accuracy("terra", seed, "lidirus", "LiDiRus") >= 0.7


WHERE = {"rucola": "rucola", "rucola_ood": "rucola", "gap": "gap", **dict.fromkeys(task_names("GLUE"), "glue")}
LEFT_OUT = (
    "rucos",
    "qnli",
    "mnli",
    "mnli_mm",
    "qqp",
    "ax",
)  # of which only samples under other names, or no labels, are here


@pytest.mark.parametrize("name", [name for name in synthetic.generator_names() if name not in LEFT_OUT])
def test_no_sentence_of_the_official_data_is_used(real_data, name):
    letter = "[a-z]" if WHERE.get(name) in ("glue", "gap") else "[а-яё]"

    def sentences(records: list[dict]) -> set[str]:
        parts = [part.strip() for part in re.split(r'[".!?\\]', json.dumps(records, ensure_ascii=False).lower())]
        return {part for part in parts if len(part) > 20 and re.match(letter, part)}  # shorter ones may coincide

    task, split = get_task(name), next(iter(synthetic.generator(name).SIZES))
    real, ours = read_split(real_data / WHERE.get(name, "rsg"), task, split)[1], synthetic.records(name, split, 400, 0)
    assert len(sentences(real)) > 100 and not sentences(ours) & sentences(real)
