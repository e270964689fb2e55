"""All nine tasks on official records: one promise a test, kept by every task, and facts of the published files."""

import copy
import json
import math
import random

import pytest

from morocco_lib.data import workload
from morocco_lib.report import tables
from morocco_lib.tasks import get_task, task_names
from morocco_lib.tasks.base import task_value
from morocco_lib.tasks.recombine import Opening, vocabulary

NAMES = task_names("Russian SuperGLUE")
HIDDEN = {"muserc": {"label"}, "rucos": {"answers"}, "russe": {"label", "gold_sense1", "gold_sense2"}}
every_task = pytest.mark.parametrize("name", NAMES)


def respond(task, record: dict, rng: random.Random) -> dict:
    """Return any valid answer to a record, spelt as a submission spells it."""
    if task.name == "rucos":
        return {"idx": task.key(record), "label": rng.choice(task.entities(record))}
    if task.name == "muserc":
        questions = [
            {"idx": q["idx"], "answers": [{"idx": a["idx"], "label": rng.choice((0, 1))} for a in q["answers"]]}
            for q in record["passage"]["questions"]
        ]
        return {"idx": record["idx"], "passage": {"questions": questions}}
    return {"idx": record["idx"], "label": rng.choice(task.labels)}


def leaves(value, path: tuple = ()):
    """Yield (path of keys and places, value) of everything in a JSON value that is neither object nor array."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    else:
        yield path, value


def by_key(task, records) -> dict:
    return {task.key(record): record for record in records}


def check(task, predictions, records):
    lines = [p if isinstance(p, bytes) else json.dumps(p, ensure_ascii=False).encode() for p in predictions]
    return task.check([line + b"\n" for line in lines], by_key(task, records), "preds.jsonl")


# -- scores --------------------------------------------------------------------------------------------------------
@every_task
def test_gold_scores_1_against_itself(official, name):
    task = get_task(name)
    gold = [task.gold(record) for record in official(name)]
    scores = task.score(gold, gold)
    assert task_value(task, scores) == pytest.approx(1, abs=1e-12)
    assert all(scores[metric] == pytest.approx(1, abs=1e-12) for metric in task.metric_names)
    low, high, _ = task.interval(gold, gold)
    assert 0 <= low <= high <= 1 and high == pytest.approx(1, abs=1e-12)


@every_task
def test_answers_survive_a_file_of_lines_in_any_order(official, name):
    task, rng = get_task(name), random.Random(2)
    official = official(name)
    records = rng.sample(official, min(40, len(official)))
    answers = {task.key(record): respond(task, record, rng) for record in records}
    lines = [task.format(answer).encode() for answer in rng.sample(list(answers.values()), len(answers))]
    assert not any(b"\n" in line for line in lines)
    for asked in (records, [task.skeleton(record) for record in records]):
        checked = check(task, lines, asked)
        assert checked.ok and checked.predictions == answers
        assert checked.noncanonical.total() == 0
        assert (checked.read, checked.expected) == (len(records), len(records))
    gold = [task.gold(record) for record in records]
    scores = task.score(gold, list(answers.values()))
    assert scores == pytest.approx(task.score(gold[::-1], list(answers.values())[::-1]), abs=1e-12)


@every_task
def test_the_interval_holds_the_value_and_is_no_point(official, name):
    task, rng = get_task(name), random.Random(5)
    records = official(name)[:300]
    gold = [task.gold(record) for record in records]
    given = [g if rng.random() < 0.3 else respond(task, r, rng) for g, r in zip(gold, records, strict=True)]
    value = task_value(task, task.score(gold, given))
    low, high, _ = task.interval(gold, given)
    assert low < value < high and 0 < value < 1


# -- one record's way there and back -------------------------------------------------------------------------------
@every_task
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_stripped_records_hold_nothing_that_gives_the_answer_away(official, name, split):
    task, hidden = get_task(name), HIDDEN.get(name, {"label"})
    found = set()
    for record in official(name, "val" if name == "lidirus" else split)[:2000]:
        before = copy.deepcopy(record)
        stripped = task.strip_labels(record)
        assert record == before
        task.validate(stripped)
        assert task.gold(stripped) is None
        names = {key for path, _ in leaves(stripped) for key in path}
        assert not names & ({"label", "gold_sense1", "gold_sense2"} | hidden)
        kept = {path: value for path, value in leaves(record) if not hidden & set(path)}
        assert dict(leaves(stripped)) == kept
        found |= {key for path, _ in leaves(record) for key in path} & hidden
    assert found == (set() if split == "test" and name not in ("lidirus", "rucos") else hidden)


@every_task
def test_skeletons_hold_no_text_and_no_label(official, name):
    task = get_task(name)
    for record in official(name)[:1000]:
        skeleton = task.skeleton(record)
        assert skeleton == task.skeleton(task.strip_labels(record))
        assert task.key(skeleton) == task.key(record)
        for path, value in leaves(skeleton):
            allowed = {"lidirus": path == ("idx",), "rucos": path[0] == "mentions"}.get(name, False)
            assert type(value) is int or allowed, (path, value)
            assert not {"label", "text", "gold_sense1", "gold_sense2"} & set(path)
        if name == "rucos":  # the names to choose from are needed to check an answer; nothing says which is right
            assert skeleton["mentions"] == [
                record["passage"]["text"][span["start"] : span["end"]] for span in record["passage"]["entities"]
            ]


@every_task
@pytest.mark.parametrize("position", [0, 1, 70_000])
def test_answers_to_reindexed_records_map_back_at_every_depth(official, name, position):
    task = get_task(name)
    record = official(name)[5]
    answer = respond(task, record, random.Random(7))
    for given in (record, task.skeleton(record)):
        before = copy.deepcopy(given)
        fed = task.reindex(task.strip_labels(given), position)
        assert task.key(fed) == task.idx_type(position) and type(task.key(fed)) is type(task.key(record))
        own, other = ({path: v for path, v in leaves(r) if path[-1] == "idx"} for r in (fed, task.reindex(fed, 0)))
        assert own.keys() == other.keys() == {path for path, _ in leaves(record) if path[-1] == "idx"}
        assert position == 0 or all(own[path] != other[path] for path in own)
        assert task.restore(respond(task, fed, random.Random(7)), given) == answer
        assert given == before
    task.validate(task.reindex(task.strip_labels(record), position))
    assert task.restore(task.gold(task.reindex(record, position)), record) == task.gold(record)


def texts_of(task, record):
    """Every free text of a record that is made anew, in reading order."""
    if task.name == "muserc":
        return [record["passage"]["text"], *(question["question"] for question in record["passage"]["questions"])]
    if task.name == "rucos":
        return [record["passage"]["text"], record["qas"][0]["query"]]
    return [record[name] for name in task.text_fields]


@every_task
def test_recombined_records_are_valid_without_labels_and_as_well_aligned_as_those_of_the_file(official, name, tmp_path):
    task, records = get_task(name), official(name)[:200]
    load, path = workload.build(task, records, 400, 3, true=0), tmp_path / "made.jsonl"
    path.write_bytes(b"".join(load.lines()))
    made = task.read(path)
    assert [task.key(record) for record in made] == list(load)
    assert all(task.gold(record) is None and task.strip_labels(record) == record for record in made)
    texts = [text for record in made for text in texts_of(task, record)]
    known = {text for record in records for text in texts_of(task, record)}
    assert len(set(texts)) == len(texts) and known.isdisjoint(texts)
    if task.unaligned(records) is not None:
        assert task.unaligned(made) / 400 <= task.unaligned(records) / len(records) + 0.05
    sizes = [
        sum(len(json.dumps(task.strip_labels(record), ensure_ascii=False)) for record in kind) / len(kind)
        for kind in (records, made)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_openings_are_of_common_lower_case_words_or_of_all_where_these_are_few():
    plain = [f"слово{'а' * number}" for number in range(30)]
    assert set(vocabulary([" ".join([*plain, "Имя", "12"])])) == set(plain)
    assert set(vocabulary([" ".join([*plain[:29], "Имя", "12"])])) == {*plain[:29], "имя", "12"}


@every_task
def test_a_recombined_record_asks_of_another_what_its_record_asks(official, name):
    task, records = get_task(name), [get_task(name).strip_labels(record) for record in official(name)[:60]]
    words = vocabulary(map(task.bow_text, records))
    for code, record in enumerate(records):
        other = next((one for one in records[code + 1 :] if task.kin(one) == task.kin(record)), record)
        before = json.dumps([record, other])
        made = task.recombine(record, other, Opening(words, 7 * code, 3))
        assert json.dumps([record, other]) == before and task.skeleton(made) == task.skeleton(record)
        sources = {
            "rucos": (record, other), "russe": (other, record), "rwsd": (record,), "muserc": (other, *[record] * 99),
        }.get(name, (other, *[record] * 9))  # fmt: skip
        for source, text, place in zip(sources, texts_of(task, made), range(99), strict=False):
            assert text.split()[-1] == texts_of(task, source)[place].split()[-1]
        if name == "russe":
            assert [made[f"sentence{n}"][made[f"start{n}"] : made[f"end{n}"]] for n in "12"] == [
                one[f"sentence{n}"][one[f"start{n}"] : one[f"end{n}"]]
                for n, one in zip("12", (other, record), strict=True)
            ]
        if name == "rwsd":
            target = made["target"]
            new, old = task.word_spans(made), task.word_spans(record)
            assert made["text"][slice(*new[0])] == target["span1_text"]
            assert old[1] is None or made["text"][slice(*new[1])] == record["text"][slice(*old[1])]
        if name == "rucos":
            assert task.entities(made) == task.entities(record)
            assert made["qas"][0]["query"].count("@placeholder") == other["qas"][0]["query"].count("@placeholder")


def test_what_is_asked_about_stays_where_a_text_begins_with_it():
    opening = ["а", "б", "в", "г"]
    target = {"span1_text": "чемодан", "span1_index": 4, "span2_text": "не влез", "span2_index": 1}
    record = {"text": "Кубок не влез в чемодан.", "target": target}
    made = get_task("rwsd").recombine(record, record, Opening(opening, 0 + 1 * 4 + 2 * 16, 3))
    assert made["text"] == "А б в не влез в чемодан." and made["target"]["span2_index"] == 3
    passage = {"text": "Рим взят. Готы ушли.", "entities": [{"start": 0, "end": 3}, {"start": 10, "end": 14}]}
    record = {"passage": passage, "qas": [{"query": "Город @placeholder пал в пятом веке", "idx": 1}]}
    made = get_task("rucos").recombine(record, record, Opening(opening, 0 + 1 * 4 + 2 * 16, 3))
    assert made["passage"]["text"].startswith("А б в Рим взят.")
    assert made["qas"][0]["query"] == "Б в г @placeholder пал в пятом веке"


@pytest.mark.parametrize(
    ("text", "before", "opened"),
    [
        ("Один два три четыре пять", None, "А б в четыре пять"),
        ("один два", None, "а б в два"),
        ("(1) Один два три четыре", None, "(1) А б в четыре"),
        ("Один два три четыре", 9, "А б в три четыре"),
        ("Один два три четыре", 8, "А б в два три четыре"),  # inside the second word
        ("12 Один", 1, "А б в 12 Один"),
        ("«Один» два три четыре", 0, "А б в «Один» два три четыре"),
        ("", None, "а б в "),
    ],
)
def test_a_text_opens_with_other_words_as_many_as_it_loses(text, before, opened):
    made, moved = Opening(["а", "б", "в", "г"], 0 + 1 * 4 + 2 * 16, 3)(text, before)
    assert made == opened and moved == len(made) - len(text)


def test_each_text_of_a_record_opens_otherwise():
    opening = Opening(["а", "б", "в"], 0, 2)
    assert [opening("один")[0] for _ in range(3)] == ["а а один", "б б один", "в в один"]


# -- parts by hand -------------------------------------------------------------------------------------------------
def test_marked_words_are_where_the_record_says():
    target = {"span1_text": "Кубок", "span1_index": 0, "span2_text": "не влез", "span2_index": 1}
    record = {"text": "Кубок не влез в чемодан.", "target": target, "idx": 0}
    (part,) = get_task("rwsd").parts(record)
    assert part.marks == ((0, 0, 5), (0, 6, 13))
    (part,) = get_task("rwsd").parts({**record, "target": {**target, "span2_index": 5}})
    assert part.marks == ((0, 0, 5), (0, 0, 0))  # beyond the text
    places = {"start1": 6, "end1": 10, "start2": 0, "end2": 2}
    (part,) = get_task("russe").parts(
        {"word": "дом", "sentence1": "Белый дома.", "sentence2": "Нет", "idx": 0, **places}
    )
    assert part.marks == ((0, 6, 10), (1, 0, 2))  # the second is no form of it: as given


def test_muserc_asks_each_answer_with_its_question_and_the_baseline_calls_two_right():
    answers = [{"text": text, "idx": k} for k, text in enumerate(("Он", "Она", "Никто"))]
    record = {
        "passage": {"text": "Он и она.", "questions": [{"question": "Кто?", "answers": answers, "idx": 0}]},
        "idx": 3,
    }
    task = get_task("muserc")
    assert [(part.first, part.second, part.marks) for part in task.parts(record)] == [
        ("Он и она.", "Кто? Он", ((1, 0, 4), (1, 5, 7))),
        ("Он и она.", "Кто? Она", ((1, 0, 4), (1, 5, 8))),
        ("Он и она.", "Кто? Никто", ((1, 0, 4), (1, 5, 10))),
    ]
    assert task.groups(record) == [("Он и она.", ["Кто? Он", "Кто? Она", "Кто? Никто"])]
    assert task.labels_in(task.pick(record, [[2, 0, 1]])) == [1, 0, 1]


def test_rucos_puts_each_entity_into_the_gap_or_behind_a_query_without_one():
    spans = [{"start": 0, "end": 3}, {"start": 6, "end": 11}, {"start": 24, "end": 27}]
    passage = {"text": "США и Корея.\n@highlight\nСША тут", "entities": spans}
    record = {"passage": passage, "qas": [{"query": "Лидер @placeholder едет", "idx": 7}], "idx": 7}
    task, text, asked = get_task("rucos"), "США и Корея. США тут", ["Лидер США едет", "Лидер Корея едет"]
    parts = task.parts(record)
    assert [(part.first, part.second) for part in parts] == [(text, one) for one in asked]
    assert [part.kept for part in parts] == [((1, 6, 9),), ((1, 6, 11),)]
    assert task.groups(record) == [(text, asked)] and task.bow_text(record) == f"{text} Лидер  едет"
    assert task.pick(record, [[1, 0]]) == task.prediction(record, [1]) == {"idx": 7, "label": "Корея"}
    record["qas"][0] |= {"query": "Кто", "answers": spans[:1]}
    assert [(part.second, part.kept) for part in task.parts(record)][1] == ("Кто Корея", ((1, 4, 9),))
    assert task.targets(record) == [1, 0] and task.constant({}, record)["label"] == "США"


def test_a_muserc_passage_is_labelled_as_a_whole_or_not_at_all(official):
    task, record = get_task("muserc"), json.loads(json.dumps(official("muserc")[0]))
    task.validate(record)
    del record["passage"]["questions"][0]["answers"][0]["label"]
    with pytest.raises(ValueError, match="some answers of the passage have a label and some have none"):
        task.validate(record)


def test_every_muserc_question_and_answer_has_an_idx_of_its_own(official):
    task = get_task("muserc")
    fed = [task.reindex(record, place) for place, record in enumerate(official("muserc")[:3])]
    questions = [question for record in fed for question in record["passage"]["questions"]]
    for parts in (questions, [answer for question in questions for answer in question["answers"]]):
        assert len({part["idx"] for part in parts}) == len(parts) > 3


# -- faults --------------------------------------------------------------------------------------------------------
WRONG_LABELS = {  # null, a list and none at all are tried with every task
    "danetqa": ["maybe", "TRUE", 1, 0],
    "lidirus": ["Entailment", "neutral", True],
    "parus": [2, -1, "0", True, 0.0],
    "rcb": ["Neutral", "not_entailment", 0],
    "rucos": ["", "   ", 5],
    "russe": ["maybe", "TRUE", 1, 0],
    "rwsd": ["maybe", "TRUE", 1, 0],
    "terra": ["Entailment", "neutral", True],
}


def planted(official, name):
    """Return (task, four records, right lines, key of the second record), where each fault is planted."""
    task = get_task(name)
    records = official(name)[:4]
    lines = [respond(task, record, random.Random(3)) for record in records]
    return task, records, lines, task.key(records[1])


TWICE = b'{"idx": 1, "label": {"a": 0, "a": 1}}'  # one parser takes the first value, another the last


def found(checked) -> list:
    assert checked.counts.total() == len(checked.problems) and checked.ok == (not checked.problems)
    assert all(problem.seen and problem.remedy and problem.rule in str(problem) for problem in checked.problems)
    return sorted(((p.rule, p.line, p.idx) for p in checked.problems), key=str)


@every_task
def test_missing_duplicate_unknown_and_broken_lines_are_found(official, name):
    task, records, lines, key = planted(official, name)
    unknown = task.idx_type(10**9)
    faults = [
        (lines[:1] + lines[2:], [("missing-idx", None, key)]),
        ([*lines, lines[1]], [("duplicate-idx", 5, key)]),
        ([*lines, {**lines[1], "idx": unknown}], [("unknown-idx", 5, unknown)]),
        ([lines[0], b"[1]", *lines[2:]], [("broken-line", 2, None), ("missing-idx", None, key)]),
        *(
            ([*lines, broken], [("broken-line", 5, None)])
            for broken in (b"{", b"{} {}", b"", b'{"idx": NaN}', b"\xe4", TWICE)
        ),
    ]
    for faulty, expected in faults:
        for asked in (records, [task.skeleton(record) for record in records]):
            assert found(check(task, faulty, asked)) == expected


@every_task
def test_an_idx_of_the_wrong_type_is_found(official, name):
    task, records, lines, key = planted(official, name)
    wrong = [True, 1.0, None, [1], {"idx": 1}, *([] if name == "lidirus" else [str(key)])]
    for idx in [*wrong, ...]:
        line = {k: v for k, v in lines[1].items() if k != "idx"} if idx is ... else {**lines[1], "idx": idx}
        expected = [("idx", 2, None), ("missing-idx", None, key)]
        assert found(check(task, [lines[0], line, *lines[2:]], records)) == expected, idx


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_a_wrong_label_and_one_of_the_wrong_type_are_found(official, name):
    task, records, lines, key = planted(official, name)
    wrong = [*WRONG_LABELS[name], None, [lines[1]["label"]], {}]
    for line in [{"idx": key}, *({"idx": key, "label": label} for label in wrong)]:
        checked = check(task, [lines[0], line, *lines[2:]], records)
        assert found(checked) == [("label", 2, key)], line
        assert checked.predictions[key] is None and checked.noncanonical.total() == 0


MUSERC_FAULTS = {
    "a question is missing": (lambda q: q.pop(0), "missing-idx"),
    "an answer is missing": (lambda q: q[0]["answers"].pop(), "missing-idx"),
    "an unknown answer": (lambda q: q[0]["answers"].append({"idx": 10**9, "label": 0}), "unknown-idx"),
    "an answer under another question": (lambda q: q[0]["answers"].append(q[1]["answers"].pop()), "unknown-idx"),
    "an answer twice": (lambda q: q[0]["answers"].append({**q[0]["answers"][0]}), "duplicate-idx"),
    "an answer's idx as text": (lambda q: q[0]["answers"][0].update(idx=str(q[0]["answers"][0]["idx"])), "idx"),
    "a question's idx as float": (lambda q: q[0].update(idx=float(q[0]["idx"])), "idx"),
    "an idx that is a list": (lambda q: q[0]["answers"][0].update(idx=[]), "label"),
    "no answers": (lambda q: q[0].pop("answers"), "label"),
    "a question that is text": (lambda q: q.append("?"), "label"),
    "no label": (lambda q: q[0]["answers"][0].pop("label"), "label"),
    "the label true": (lambda q: q[0]["answers"][0].update(label=True), "label"),
    "the label 2": (lambda q: q[0]["answers"][0].update(label=2), "label"),
}


@pytest.mark.parametrize("fault", MUSERC_FAULTS)
def test_faults_inside_a_muserc_answer_are_found(official, fault):
    task, records, lines, key = planted(official, "muserc")
    change, rule = MUSERC_FAULTS[fault]
    faulty = copy.deepcopy(lines)
    change(faulty[1]["passage"]["questions"])
    assert json.dumps(faulty[1]) != json.dumps(lines[1])
    for asked in (records, [task.skeleton(record) for record in records]):
        assert found(check(task, faulty, asked)) == [(rule, 2, key)]
    for passage in (None, [], {}, {"questions": None}, {"questions": 5}, {"questions": {"a": 1}}):
        faulty[1]["passage"] = passage
        assert found(check(task, faulty, records)) == [("label", 2, key)]


def test_a_muserc_answer_may_list_a_question_in_parts(official):
    task, records, lines, _ = planted(official, "muserc")
    parts = copy.deepcopy(lines)
    for line in parts:
        line["passage"]["questions"] = [
            {"idx": q["idx"], "answers": [answer]} for q in line["passage"]["questions"] for answer in q["answers"]
        ]
    checked = check(task, parts, records)
    assert checked.ok and list(checked.predictions.values()) == lines


PUBLISHED = [
    *((name, {True: "true", False: "false", "True": "true", "False": "false"}) for name in ("danetqa", "russe")),
    ("rwsd", {True: "True", False: "False", "true": "True", "false": "False"}),
]


@pytest.mark.parametrize(("name", "spellings"), PUBLISHED, ids=[name for name, _ in PUBLISHED])
def test_published_spellings_are_accepted_and_counted(official, name, spellings):
    task, records, _, _ = planted(official, name)
    for spelt, label in spellings.items():
        checked = check(task, [{"idx": r["idx"], "label": spelt} for r in records], records)
        assert checked.ok and checked.noncanonical == {"label": 4}
        assert checked.predictions == {r["idx"]: {"idx": r["idx"], "label": label} for r in records}
    assert set(spellings.values()) == set(task.labels)
    lines = [{"idx": r["idx"], "label": task.labels[k % 2]} for k, r in enumerate(records)]
    assert check(task, lines, records).noncanonical.total() == 0


def test_an_integer_idx_of_lidirus_is_accepted_and_counted(official):
    task, records, lines, _ = planted(official, "lidirus")
    checked = check(task, [{**line, "idx": int(line["idx"])} for line in lines[:3]] + lines[3:], records)
    assert checked.ok and checked.noncanonical == {"idx": 3, "label": 0}
    assert list(checked.predictions.values()) == lines


def test_an_answer_that_names_no_entity_is_accepted_and_counted(official):
    task, records, lines, key = planted(official, "rucos")
    checked = check(task, [lines[0], {"idx": key, "label": "никто"}, *lines[2:]], records)
    assert checked.ok and checked.noncanonical == {"label": 1} and checked.predictions[key]["label"] == "никто"


@pytest.mark.parametrize(
    ("name", "answer", "line"),
    [
        ("terra", "entailment", '{"idx": 7, "label": "entailment"}'),
        ("rcb", "neutral", '{"idx": 7, "label": "neutral"}'),
        ("danetqa", "true", '{"idx": 7, "label": "true"}'),
        ("russe", "false", '{"idx": 7, "label": "false"}'),
        ("rwsd", "True", '{"idx": 7, "label": "True"}'),
        ("parus", 1, '{"idx": 7, "label": 1}'),
        ("lidirus", "not_entailment", '{"idx": "7", "label": "not_entailment"}'),
    ],
)
def test_a_submission_is_spelt_as_the_leaderboard_reads_it(name, answer, line):
    task = get_task(name)
    assert answer in task.labels
    assert task.format({"idx": task.idx_type(7), "label": answer}) == line


# -- the stream ----------------------------------------------------------------------------------------------------
@every_task
def test_a_stream_is_mapped_back_from_its_description_alone(official, name):
    task, records = get_task(name), official(name)[:25]
    load = workload.build(task, records, 2 * len(records) + 3, seed=4)
    description = json.loads(json.dumps(load.describe(), ensure_ascii=False))
    back = workload.from_description(task, description)
    fed = [json.loads(line) for line in load.lines()]
    assert [task.key(record) for record in fed] == list(load) == list(back)
    assert [task.key(back[idx]) for idx in back] == list(load)
    for record in fed:
        task.validate(record)
        assert task.gold(record) is None
    assert back.gold == [task.gold(record) for record in records]
    right = [task.gold(task.reindex(records[place], position)) for position, place in enumerate(load.order)]
    lines = [task.format(answer).encode() for answer in right]
    checked = task.check(lines, back, "answers.jsonl")
    assert checked.ok and list(checked.predictions) == list(load)
    restored = [back.restore(checked.predictions[idx]) for idx in back]
    assert [one is not None for one in restored] == [load.is_true(position) for position in range(len(load))]
    places, answers = zip(*filter(None, restored), strict=True)
    assert sorted(places) == list(range(len(records)))
    for place, answer in zip(places, answers, strict=True):
        assert json.loads(task.format(answer)) == json.loads(task.format(task.gold(records[place])))
    assert task_value(task, task.score([back.gold[place] for place in places], answers)) == pytest.approx(1)


# -- scores by hand ------------------------------------------------------------------------------------------------
def test_a_rucos_question_takes_its_best_answer_and_0_without():
    task = get_task("rucos")
    gold = [{"idx": k, "label": "", "answers": answers} for k, answers in enumerate((["США", "Северная Корея"], []))]
    given = [{"idx": 0, "label": "Корея"}, {"idx": 1, "label": "Корея"}]
    assert task.score(gold, given) == {"f1": pytest.approx(1 / 3), "em": 0.0}
    given[0]["label"] = "сша."
    assert task.score(gold, given) == {"f1": 0.5, "em": 0.5}


def test_rcb_divides_by_three_labels_whatever_is_there():
    task = get_task("rcb")
    gold = [{"idx": k, "label": label} for k, label in enumerate(["neutral", "neutral", "entailment"])]
    scores = task.score(gold, [*gold[:2], {"idx": 2, "label": "neutral"}])
    assert scores == {"f1": pytest.approx(0.8 / 3), "accuracy": pytest.approx(2 / 3)}  # 4 / 5, 0 and 0
    assert task.score(gold, gold)["f1"] == pytest.approx(2 / 3)


def muserc_answer(*questions: str) -> dict:
    """Return a prediction from the labels of each question: "10" for a right and a wrong answer."""
    return {
        "idx": 0,
        "passage": {
            "questions": [
                {"idx": q, "answers": [{"idx": k, "label": int(label)} for k, label in enumerate(labels)]}
                for q, labels in enumerate(questions)
            ]
        },
    }


def test_muserc_scores_by_hand():
    task = get_task("muserc")
    gold = [muserc_answer("110", "01"), muserc_answer("1000")]
    given = [muserc_answer("100", "01"), muserc_answer("1100")]
    # pooled: 3 rightly called right, 1 wrongly, 1 missed; one of three questions is wholly right
    assert task.score(gold, given) == {"ans_f1": pytest.approx(6 / 8), "em": pytest.approx(1 / 3)}
    assert task.score(gold, [muserc_answer("000", "00"), muserc_answer("0000")]) == {"ans_f1": 0.0, "em": 0.0}
    low, high, method = task.interval(gold, given)
    assert low < (6 / 8 + 1 / 3) / 2 < high and method == "bootstrap 95 %"


def test_lidirus_scores_every_category_whole():
    task = get_task("lidirus")
    tags = ["Factivity", "Factivity;Quantifiers", "Factivity", None, "Factivity"]
    labels = ["entailment", "entailment", "not_entailment", "not_entailment", "entailment"]
    gold = [
        {"idx": str(k), "label": label} | ({"lexical-semantics": tag} if tag else {})
        for k, (tag, label) in enumerate(zip(tags, labels, strict=True))
    ]
    scores = task.score(gold, [*gold[:4], {"idx": "4", "label": "not_entailment"}])
    assert scores == {
        "all_mcc": pytest.approx(4 / 6),  # (2 x 2 - 0) / sqrt(2 x 3 x 2 x 3)
        "accuracy": 0.8,
        "lex_sem": pytest.approx(2 / math.sqrt(2 * 3 * 1 * 2)),
        "lex_sem__Factivity": pytest.approx(1 / 2),
        "lex_sem__Factivity;Quantifiers": 0.0,
    }


def test_a_total_is_the_mean_over_one_benchmark_and_null_while_a_task_is_missing():
    rows = [
        {"task": name, "model": "m", "batch_size": 8, "score": {"value": k / 10}, "data": None}
        for k, name in enumerate(NAMES)
    ]
    (total,) = tables.totals(rows)
    assert total["value"] == pytest.approx(0.4) and total["missing"] == []
    assert tables.total_lines(rows) == ["m: 0.400, mean of all 9 tasks of Russian SuperGLUE."]
    rows[3]["score"] = {"value": None}
    (total,) = tables.totals(rows)
    assert total["value"] is None and total["missing"] == [NAMES[3]]
    assert tables.total_lines(rows) == [f"No total over the 9 tasks of Russian SuperGLUE for m; missing {NAMES[3]}."]


def test_a_task_of_no_benchmark_counts_in_no_total(monkeypatch):
    monkeypatch.setattr(type(get_task("terra")), "benchmark", "")
    rows = [{"task": name, "model": "m", "batch_size": 8, "score": {"value": 0.5}, "data": None} for name in NAMES]
    (total,) = tables.totals(rows)
    assert total["tasks"] == [name for name in NAMES if name != "terra"] and total["value"] == 0.5
