"""Facts of the published files that readers must know."""

import gzip
import json
import re

import pytest
from helpers import ROOT

from morocco_lib.errors import UsageError
from morocco_lib.tasks import get_task, task_names

NAMES = task_names("Russian SuperGLUE")
COUNTS = {
    "danetqa": (1366, 654, 653), "parus": (312, 92, 404), "rcb": (346, 181, 361), "terra": (2087, 242, 2571),
    "russe": (15895, 6825, 15059), "rwsd": (488, 151, 115), "muserc": (397, 76, 259),
}  # fmt: skip
CROWD = {"PARus": 404, "RCB": 353, "RUSSE": 918, "RWSD": 115}


@pytest.mark.parametrize("name", COUNTS)
def test_every_official_file_is_read_whole(official, name):
    splits = [official(name, split) for split in ("train", "val", "test")]
    assert tuple(map(len, splits)) == COUNTS[name]
    task = get_task(name)
    assert [sum(task.gold(r) is not None for r in split) for split in splits] == [*COUNTS[name][:2], 0]
    shares = [count / task.sizes[split] for count, split in zip(COUNTS[name], ("train", "val", "test"), strict=True)]
    assert all(0.7 < share < 0.95 for share in shares), shares  # these files are parts of the official ones


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of the tables on a page of the documentation."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]


def number(text: str) -> int:
    return int(re.match(r"\d[\d,]*", text)[0].replace(",", ""))


def test_the_sizes_of_official_splits_are_those_of_the_documentation():
    glue = {row[0]: re.findall(r"\d[\d,]*", row[2]) for row in rows_of("glue.md") if row[0] in task_names("GLUE")}
    assert set(glue) == set(task_names("GLUE"))
    for name, sizes in glue.items():
        assert list(map(number, sizes)) == list(get_task(name).sizes.values())[: len(sizes)], name
    rucola = {row[2].removesuffix(".csv"): number(row[3]) for row in rows_of("rucola.md") if row[2].endswith(".csv")}
    assert rucola == get_task("rucola").sizes


def test_diagnostic_sample_and_crowd_files_have_their_sizes(real_data, official):
    lidirus = official("lidirus")
    assert len(lidirus) == 858 and lidirus == official("lidirus", "test")
    assert all(type(r["idx"]) is str and str(int(r["idx"])) == r["idx"] for r in lidirus)
    assert len(official("rucos")) == 10
    for title, count in CROWD.items():
        rows = [json.loads(line) for line in (real_data / "rsg" / title / "test_crowd.jsonl").open(encoding="utf-8")]
        task = get_task(title.lower())
        assert len({row["idx"] for row in rows}) == len(rows) == count
        assert {row["idx"] for row in rows} <= {r["idx"] for r in official(task.name, "test")}
        assert {task.label_of(row["label"]) for row in rows} == set(task.labels)


def test_muserc_asks_about_running_idx(official):
    for split in ("train", "val", "test"):
        questions = [q for r in official("muserc", split) for q in r["passage"]["questions"]]
        for parts in (questions, [a for q in questions for a in q["answers"]]):
            places = [part["idx"] for part in parts]
            assert len(set(places)) == len(places) and places == sorted(places)
        assert split == "test" or all(any(a["label"] for a in q["answers"]) for q in questions)


def test_the_two_misspelt_rcb_rows_are_read(official):
    rows = {r["idx"]: r for r in official("rcb", "train") if "negation" not in r}
    assert set(rows) == {36, 354} and all("no_negation" in r for r in rows.values())
    assert all(get_task("rcb").gold(r)["label"] in get_task("rcb").labels for r in rows.values())


@pytest.mark.parametrize("split", ["val", "test"])
def test_russe_words_are_found_whatever_the_end_says(official, split):
    task, records = get_task("russe"), official("russe", split)
    spans = [task.word_spans(r) for r in records]
    both = sum(None not in pair for pair in spans)
    assert both >= 0.98 * len(records), f"both words found in {both} of {len(records)} {split} records"
    for record, pair in zip(records, spans, strict=True):
        moved = {**record, "end1": record["end1"] + 9, "end2": 0}
        assert task.word_spans(moved) == pair
        for number, span in zip("12", pair, strict=True):
            sentence = record[f"sentence{number}"]
            if span:
                word = sentence[span.start : span.end]
                assert word[0].isalnum() and word[-1].isalnum() and word[0].lower() == record["word"][0].lower()
                assert not sentence[span.start - 1 : span.start].isalnum() and not sentence[span.end :][:1].isalnum()


def test_rwsd_spans_are_as_many_words_as_the_text_of_the_span(official):
    task = get_task("rwsd")
    for split in ("train", "val", "test"):
        for record in official("rwsd", split):
            target, words = record["target"], record["text"].split()
            for number, span in zip("12", task.word_spans(record), strict=True):
                place, size = target[f"span{number}_index"], len(target[f"span{number}_text"].split())
                assert record["text"][span.start : span.end].split() == words[place : place + size] != []
    record = official("rwsd", "test")[0]
    assert [record["text"][a:b] for a, b in task.word_spans(record)] == ["Мод и Дора", "они появились"]


def test_rucos_ends_are_exclusive(official):
    task, unmarked = get_task("rucos"), {}
    for record in official("rucos"):
        text, answers = record["passage"]["text"], record["qas"][0]["answers"]
        assert [text[a["start"] : a["end"]] for a in answers] == [a["text"] for a in answers] != []
        assert task.gold(record)["answers"] == list(dict.fromkeys(a["text"] for a in answers))
        if odd := [answer for answer in task.gold(record)["answers"] if answer not in task.entities(record)]:
            unmarked[record["idx"]] = odd
        assert all(name == name.strip() and name[-1].isalnum() for name in task.entities(record))
        assert "@placeholder" in record["qas"][0]["query"]
    # An answer need not be among the passage's entities; the second record has no other.
    assert unmarked == {80: ["Пхеньян"], 780: ["МИДа Олег Волошин"]}


def test_rucos_spans_outside_the_text_are_refused(official):
    task, record = get_task("rucos"), official("rucos")[0]
    size = len(record["passage"]["text"])
    task.validate({**record, "passage": {**record["passage"], "entities": [{"start": 0, "end": size}]}})
    for span in ({"start": 0, "end": size + 1}, {"start": -1, "end": 3}, {"start": 3, "end": 3}, {"start": 0}, 5):
        with pytest.raises(ValueError, match="does not lie in the text"):
            task.validate({**record, "passage": {**record["passage"], "entities": [span]}})
    for answers in (None, 5, {}):
        with pytest.raises(ValueError, match=r"'answers' is .*; it is list"):
            task.validate({**record, "qas": [{**record["qas"][0], "answers": answers}]})


SAME_SCHEMA = {("rcb", "terra"), ("terra", "rcb")}  # told apart by their labels only


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_refuses_the_records_of_every_other_task(official, tmp_path, name):
    task = get_task(name)
    for other in set(NAMES) - {name}:
        for record in official(other)[:20]:
            known = record.get("label") in task.labels
            if (name, other) in SAME_SCHEMA and known:
                continue
            (tmp_path / "other.jsonl").write_text(json.dumps(record), encoding="utf-8")
            with pytest.raises(UsageError, match=rf"other\.jsonl, line 1: .*give a {task.title} file"):
                task.read(tmp_path / "other.jsonl")


def test_plain_and_zipped_files_are_the_same(real_data, official, tmp_path):
    source = real_data / "rsg/RUSSE/val.jsonl.gz"
    (tmp_path / "val.jsonl").write_bytes(gzip.decompress(source.read_bytes()))
    assert get_task("russe").read(tmp_path / "val.jsonl") == official("russe")
