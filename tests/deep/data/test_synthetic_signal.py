"""What can be learnt from synthetic records, and what cannot: as their tasks allow, whatever the templates become."""

import json
import re
from collections import Counter

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from morocco_lib.data import read_split, synthetic
from morocco_lib.tasks import get_task

every_seed = pytest.mark.parametrize("seed", [1, 2])


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


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


@every_seed
def test_russe_is_learnable_from_the_words_around_the_marks(seed):
    def key(record: dict, number: str) -> tuple[str, ...]:
        sentence, start = record["sentence" + number], record["start" + number]
        return record["word"], words(sentence[:start])[-1], *words(sentence[start:])[:2]

    counts = {}
    for record in synthetic.records("russe", "train", 2000, seed):
        for number in "12":
            counts.setdefault(key(record, number), Counter())[record["gold_sense" + number]] += 1
    senses = {context: found.most_common(1)[0][0] for context, found in counts.items()}
    val = synthetic.records("russe", "val", 400, seed)
    right = sum((senses[key(r, "1")] == senses[key(r, "2")]) == r["label"] for r in val)
    assert 0.85 <= right / len(val) <= 0.9


@every_seed
def test_rwsd_is_learnable_from_the_link_and_the_role(seed):
    right = 0
    for record in synthetic.records("rwsd", "val", 200, seed):
        before = record["text"].split()[: record["target"]["span1_index"]]
        acted_upon = any(re.fullmatch(r"[а-я]+[аеиуя]ла?", word) for word in before)  # the verb comes before it
        right += record["label"] == (acted_upon == bool(re.search("потому что|ведь|узнав", record["text"])))
    assert right == 180


@every_seed
def test_rucos_needs_the_right_sentence(seed):
    by_sentence = by_frequency = 0
    for record in synthetic.records("rucos", "train", 400, seed):
        text, query = record["passage"]["text"], set(words(record["qas"][0]["query"]))
        right = {answer["text"] for answer in record["qas"][0]["answers"]}
        forms = [text[entity["start"] : entity["end"]] for entity in record["passage"]["entities"]]
        nearest = max(re.split(r"[.\n]", text), key=lambda part, query=query: len(query & set(words(part))))
        by_sentence += any(form in nearest for form in forms if form in right)
        by_frequency += Counter(form[:4] for form in forms).most_common(1)[0][0] in {form[:4] for form in right}
    assert by_sentence >= 0.85 * 400 and by_frequency <= 0.5 * 400


@every_seed
def test_muserc_needs_a_sentence_and_not_only_the_words_of_the_passage(seed):
    records = synthetic.records("muserc", "val", 50, seed)
    vectorizer, pairs = TfidfVectorizer().fit([record["passage"]["text"] for record in records]), []
    for record in records:
        for question in record["passage"]["questions"]:
            answers = question["answers"]
            asked = vectorizer.transform([f"{question['question']} {answer['text']}" for answer in answers])
            best = (asked @ vectorizer.transform([record["passage"]["text"]]).T).toarray()[:, 0].argsort()[-2:]
            pairs += [(answer["label"], at in best) for at, answer in enumerate(answers)]
    hits = sum(label and chosen for label, chosen in pairs)
    assert 2 * hits / (sum(label for label, _ in pairs) + sum(chosen for _, chosen in pairs)) <= 0.65


@pytest.mark.parametrize(
    "name", [name for name in synthetic.generator_names() if name != "rucos"]
)  # it has a sample only
def test_no_sentence_of_the_official_data_is_used(real_data, name):
    def sentences(records: list[dict]) -> set[str]:
        parts = [part.strip() for part in re.split(r'[".!?\\]', json.dumps(records, ensure_ascii=False).lower())]
        return {part for part in parts if len(part) > 20 and re.match("[а-яё]", part)}  # shorter ones may coincide

    task, split = get_task(name), next(iter(synthetic.generator(name).SIZES))
    real, ours = read_split(real_data / "rsg", task, split)[1], synthetic.records(name, split, 400, 0)
    assert len(sentences(real)) > 100 and not sentences(ours) & sentences(real)
