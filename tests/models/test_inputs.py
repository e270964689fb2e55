"""What a transformer reads of each task: nothing of the answer, and nothing that matters is cut away."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from tokenizers import Tokenizer

from morocco_lib import data
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.inputs import Reader, Template, truncate
from morocco_lib.tasks import get_task, task_names
from morocco_lib.tasks.form import TextPair
from morocco_lib.training import backbones

TASKS = task_names()


@pytest.fixture(scope="module")
def tokenizer(synthetic_data):
    texts = []
    for name in TASKS:
        task = get_task(name)
        _, records = data.read_split(synthetic_data, task, "val")
        texts += backbones.texts_of(records, task)
    return backbones.word_pieces(texts, 8000)


@pytest.fixture(scope="module")
def reader(tokenizer):
    def make(max_length=512, causal=False):
        own = Tokenizer.from_str(tokenizer.to_str())
        return Reader(own, backbones.template_of(own, "test"), max_length, causal)

    return make


def val(synthetic_data, name, split="val"):
    return data.read_split(synthetic_data, get_task(name), split)[1]


def text_of(reader, ids):
    return reader.tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("name", TASKS)
def test_labels_change_nothing_of_what_is_read(name, synthetic_data):
    task = get_task(name)
    for record in val(synthetic_data, name)[:50]:
        parts = task.parts(record)
        assert parts and parts == task.parts(task.strip_labels(record))
        assert all(len(part.marks) == task.spans for part in parts)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "lidirus"])
def test_every_sequence_has_a_target_and_right_logits_give_the_right_answer(name, synthetic_data):
    task, head = get_task(name), head_of(get_task(name))
    for record in val(synthetic_data, name):
        targets = torch.tensor(task.targets(record))
        assert len(targets) == len(task.parts(record))
        logits = torch.nn.functional.one_hot(targets, head.outputs) if head.outputs > 1 else targets[:, None] - 0.5
        scores = task.score([task.gold(record)], [head.predict(record, logits.float())])
        assert head.predict(record, logits.float())["idx"] == task.key(record)
        if name != "muserc" or 1 in targets:  # without a right answer F1 is 0 however it is answered
            assert all(value == 1 for key, value in scores.items() if key in task.metric_names and key != "f1")
        assert head.loss(8 * logits.float(), targets, [len(targets)]) < head.loss(
            -8 * logits.float(), targets, [len(targets)]
        )


def test_marked_words_are_where_they_are_read(reader, synthetic_data):
    read = reader()
    for name in ("russe", "rwsd"):
        task = get_task(name)
        for record in val(synthetic_data, name)[:100]:
            (part,) = task.parts(record)
            ((sequence,),) = read([[part]])
            for (number, start, end), (low, high) in zip(part.marks, sequence.spans, strict=True):
                meant = (part.first, part.second)[number][start:end]
                assert text_of(read, sequence.ids[low:high]).replace(" ", "") == meant.replace(" ", "")


def test_a_pair_is_read_as_the_tokenizer_would(reader, synthetic_data):
    read = reader()
    for record in val(synthetic_data, "terra")[:20]:
        ((sequence,),) = read([get_task("terra").parts(record)])
        expected = read.tokenizer.encode(record["premise"], record["hypothesis"])
        assert sequence.ids == expected.ids
        assert [int(k >= sequence.second) for k in range(len(sequence.ids))] == expected.type_ids


def test_equal_entities_are_one_candidate_and_offsets_end_where_they_say(synthetic_data):
    task = get_task("rucos")
    record = val(synthetic_data, "rucos")[0]
    span = record["passage"]["entities"][0]
    record["passage"]["entities"].append(dict(span))
    parts = get_task("rucos").parts(record)
    names = list(dict.fromkeys(task.entities(record)))
    assert len(parts) == len(names) < len(record["passage"]["entities"])
    for part, name in zip(parts, names, strict=True):
        ((_, start, end),) = part.kept
        assert part.second[start:end] == name and "@" not in part.second
        assert name == name.strip()


# -- cutting -------------------------------------------------------------------------------------------------------
def test_of_two_texts_the_longer_is_cut_first_and_both_to_the_same_length():
    assert [len(kept) for kept in truncate([(100, ()), (10, ())], 60)] == [50, 10]
    assert [len(kept) for kept in truncate([(100, ()), (90, ())], 60)] == [30, 30]
    assert truncate([(100, ()), (10, ())], 60)[0] == list(range(50))


def test_of_two_spans_that_do_not_fit_the_shorter_is_whole():
    (kept,) = truncate([(100, [(0, 80), (90, 100)])], 30)
    assert kept == [*range(20), *range(90, 100)]


sizes = st.integers(0, 60)


@settings(deadline=None)
@given(
    st.lists(st.tuples(sizes, st.lists(st.tuples(sizes, st.integers(1, 5)), max_size=3)), min_size=1, max_size=3), sizes
)
def test_what_is_kept_is_in_order_fills_the_room_and_holds_the_spans(texts, room):
    texts = [(size, [(a, min(a + n, size)) for a, n in spans if a < size]) for size, spans in texts]
    kept = truncate(texts, room)
    assert sum(map(len, kept)) == min(room, sum(size for size, _ in texts))
    for places, (size, _) in zip(kept, texts, strict=True):
        assert list(places) == sorted(set(places)) and all(0 <= place < size for place in places)
    inside = [{p for a, b in spans for p in range(a, b)} for _, spans in texts]
    starts = sum(size > 0 for size, spans in texts if not spans)  # their first tokens are as near
    if sum(map(len, inside)) + starts <= room:
        assert all(marked <= set(places) for marked, places in zip(inside, kept, strict=True))


def long_records(synthetic_data):
    """(task, record, what must still be read), with texts far longer than 64 tokens."""
    filler = "и еще немного слов о погоде " * 200
    rng = random.Random(1)
    for name in ("muserc", "rucos", "russe", "rwsd"):
        task = get_task(name)
        for record in val(synthetic_data, name)[:10]:
            if name == "muserc":
                record["passage"]["text"] = filler
                record["passage"]["questions"][0]["question"] = filler
                yield task, record
            elif name == "rucos":
                record["passage"]["text"] += filler
                record["qas"][0]["query"] = filler[: rng.randrange(2000)] + record["qas"][0]["query"] + filler
                yield task, record
            elif name == "russe":
                tag = filler[: rng.randrange(10, 2000)].rsplit(" ", 1)[0]
                yield task, task.tag({**record, "sentence1": record["sentence1"] + " " + filler}, tag)
            else:
                yield task, task.tag(record, filler.strip())


def test_the_marked_word_the_answer_and_the_candidate_are_never_cut_away(reader, synthetic_data):
    read = reader(max_length=64)
    count = 0
    for task, record in long_records(synthetic_data):
        parts = task.parts(record)
        for part, sequence in zip(parts, read([parts])[0], strict=True):
            count += 1
            assert len(sequence.ids) <= 64
            seen = text_of(read, sequence.ids).replace(" ", "")
            for place, ((number, start, end), (low, high)) in enumerate(zip(part.marks, sequence.spans, strict=True)):
                meant = (part.first, part.second)[number][start:end].replace(" ", "")
                pooled = text_of(read, sequence.ids[low:high]).replace(" ", "")
                if task.name == "muserc" and place == 0:  # a question may be longer than all the room
                    assert len(pooled) >= 40 and meant.startswith(pooled) if len(meant) > 200 else pooled == meant
                else:
                    assert pooled == meant
            for number, start, end in part.kept:
                whole = read.tokenizer.encode((part.first, part.second)[number][start:end], add_special_tokens=False)
                if len(whole.ids) <= 40:
                    assert text_of(read, whole.ids).replace(" ", "") in seen
    assert read.truncated > count / 2


def test_sequences_of_a_record_have_the_same_shared_beginning(reader, synthetic_data):
    for max_length in (64, 512):
        read = reader(max_length, causal=True)
        for name in ("muserc", "rucos"):
            task = get_task(name)
            for record in val(synthetic_data, name)[:10]:
                (sequences,) = read([task.parts(record)])
                first = sequences[0]
                assert all(
                    s.shared == first.shared > 1 and s.ids[: s.shared] == first.ids[: s.shared] for s in sequences
                )
                assert all(len(s.ids) > s.shared for s in sequences)


ODD = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\u200b\u200b",
    "👩‍👩‍👧 семья",
    "שלום עולם",
    "\u202eобратно",
    "е\u0301",
    "\ufeff",
    "ы" * 3000,
]


@pytest.mark.parametrize("first", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("second", ["", "да", "\u200b"])
def test_odd_texts_are_sequences_all_the_same(first, second, reader):
    read = reader(max_length=64)
    parts = [TextPair(first, second), TextPair(first), TextPair(first, second, marks=((0, 0, 1), (1, 0, 1)))]
    for sequence in read([[part] for part in parts]):
        (one,) = sequence
        assert 0 < len(one.ids) <= 64 and 0 <= one.second <= len(one.ids)
        assert all(0 <= low < high <= len(one.ids) for low, high in one.spans)


def test_a_text_of_100_000_characters_is_cut_and_counted(reader):
    read = reader(max_length=256)
    ((sequence,),) = read([[TextPair("слово " * 17_000, "вопрос")]])
    assert len(sequence.ids) == 256 and read.truncated == 1
    assert "вопрос" in text_of(read, sequence.ids)


def test_a_tokenizer_that_puts_nothing_around_a_text_is_refused():
    with pytest.raises(ValueError, match="no special token"):
        Template((), (5,), ())
