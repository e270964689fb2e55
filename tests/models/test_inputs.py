"""What a transformer reads of each task: nothing of the answer, and nothing that matters is truncated away."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from tokenizers import Tokenizer

from morocco_lib import data
from morocco_lib.models.transformer.heads import ClassHead, head_of
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


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("lidirus", "stsb")])
def test_every_sequence_has_a_target_and_right_logits_give_the_right_answer(name, synthetic_data):
    task, head = get_task(name), head_of(get_task(name))
    for record in val(synthetic_data, name):
        targets = torch.tensor(task.targets(record))
        assert len(targets) == len(task.parts(record))
        logits = torch.nn.functional.one_hot(targets, head.outputs) if head.outputs > 1 else targets[:, None] - 0.5
        scores = task.score([task.gold(record)], [head.predict(record, logits.float())])
        assert head.predict(record, logits.float())["idx"] == task.key(record)
        if name != "muserc" or 1 in targets:  # without a right answer F1 is 0 however it is answered
            assert all(
                value == 1 for key, value in scores.items() if key in task.metric_names and key not in ("f1", "mcc")
            )
        assert head.loss(8 * logits.float(), targets, [len(targets)]) < head.loss(
            -8 * logits.float(), targets, [len(targets)]
        )


def test_a_number_is_the_one_output_and_learnt_by_its_distance(synthetic_data):
    task = get_task("stsb")
    head = head_of(task)
    for record in val(synthetic_data, "stsb")[:20]:
        (target,) = targets = torch.tensor(task.targets(record))
        near, far = (head.loss(target + torch.tensor([[by]]), targets, [1]).item() for by in (0.1, 2.0))
        assert head.outputs == 1 and [near, far] == pytest.approx([0.01, 4], abs=1e-4)
        assert head.predict(record, targets[None]) == task.gold(record)


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


# -- truncation ----------------------------------------------------------------------------------------------------
def test_of_two_texts_the_longer_is_truncated_first_and_both_to_the_same_length():
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


FILLER = "и еще немного слов о погоде " * 200


def lengthened(task, record):
    """A record with texts far longer than 64 tokens around what matters in them."""
    if task.name == "muserc":
        record["passage"]["text"] = FILLER
        return record
    if task.name == "rucos":
        record["passage"]["text"] += FILLER
        record["qas"][0]["query"] = FILLER + record["qas"][0]["query"] + FILLER
        return record
    longer = task.recombine(record, record, lambda text, before: (FILLER + text, len(FILLER)))
    last = task.text_fields[-1]
    return {**longer, last: longer[last] + FILLER}


@pytest.mark.parametrize("name", ["muserc", "rucos", "russe", "rwsd"])
def test_the_marked_word_the_answer_and_the_candidate_are_never_truncated_away(name, reader, synthetic_data):
    task, read, count = get_task(name), reader(max_length=64), 0
    for record in val(synthetic_data, name)[:10]:
        parts = task.parts(lengthened(task, record))
        for part, sequence in zip(parts, read([parts])[0], strict=True):
            count += 1
            assert len(sequence.ids) <= 64
            for (number, start, end), (low, high) in zip(part.marks, sequence.spans, strict=True):
                marked = (part.first, part.second)[number][start:end].replace(" ", "")
                assert text_of(read, sequence.ids[low:high]).replace(" ", "") == marked
            for number, start, end in part.kept:
                whole = read.tokenizer.encode((part.first, part.second)[number][start:end], add_special_tokens=False)
                assert text_of(read, whole.ids).replace(" ", "") in text_of(read, sequence.ids).replace(" ", "")
    assert read.truncated == count


def test_of_a_question_longer_than_all_the_room_its_beginning_is_read(reader, synthetic_data):
    record = val(synthetic_data, "muserc")[0]
    record["passage"]["questions"] = [{**record["passage"]["questions"][0], "question": FILLER}]
    read = reader(max_length=64)
    for sequence in read([get_task("muserc").parts(record)])[0]:
        low, high = sequence.spans[0]
        pooled = text_of(read, sequence.ids[low:high]).replace(" ", "")
        assert len(sequence.ids) <= 64 and len(pooled) >= 40 and FILLER.replace(" ", "").startswith(pooled)


def test_sequences_of_a_record_have_the_same_shared_beginning(reader, synthetic_data):
    for max_length in (64, 512):
        read = reader(max_length, causal=True)
        for name in ("muserc", "rucos", "parus"):
            task = get_task(name)
            for record in val(synthetic_data, name)[:10]:
                (sequences,) = read([task.parts(record)])
                first = sequences[0]
                assert all(
                    s.shared == first.shared > 1 and s.ids[: s.shared] == first.ids[: s.shared] for s in sequences
                )
                assert all(len(s.ids) > s.shared for s in sequences)


def test_the_texts_that_differ_take_three_quarters_of_a_sequence_at_most(reader):
    read = reader(max_length=64)
    parts = [TextPair(FILLER, FILLER), TextPair(FILLER, "да")]
    for one in read([parts])[0]:
        assert one.second == 64 - len(read.template.end) - int((64 - read.template.size) * 0.75)


def test_a_decoder_pools_four_tokens_behind_a_marked_word(reader):
    text = "слово " * 20  # of two tokens each
    for start, more in ((0, 4), (6 * 18, 2), (6 * 19, 0)):
        part = TextPair(text, marks=((0, start, start + 5),))
        encoder, decoder = (reader(causal=causal)([[part]])[0][0].spans[0] for causal in (False, True))
        assert decoder == (encoder[0], encoder[1] + more)


def test_odd_texts_are_sequences_all_the_same(reader):
    read = reader(max_length=64)
    for first, second in product(["", "\x00", "\u200b\u200b", "👩‍👩‍👧 семья", "ы" * 3000], ["", "да"]):
        parts = [TextPair(first, second), TextPair(first), TextPair(first, second, marks=((0, 0, 1), (1, 0, 1)))]
        for (one,) in read([[part] for part in parts]):
            assert 0 < len(one.ids) <= 64 and 0 <= one.second <= len(one.ids)
            assert all(0 <= low < high <= len(one.ids) for low, high in one.spans)


def test_a_text_of_100_000_characters_is_truncated_and_counted(reader):
    read = reader(max_length=256)
    ((sequence,),) = read([[TextPair("слово " * 17_000, "вопрос")]])
    assert len(sequence.ids) == 256 and read.truncated == 1
    assert "вопрос" in text_of(read, sequence.ids)


def test_a_tokenizer_that_puts_nothing_around_a_text_is_refused():
    with pytest.raises(ValueError, match="no special token"):
        Template((), (5,), ())


def test_marks_of_all_options_in_the_text_they_share_are_truncated_last(reader):
    first = " ".join(f"слово{k}" for k in range(200))
    spans = [(first.index(word), first.index(word) + len(word)) for word in ("слово50", "слово150")]
    pairs = [TextPair(first, "да", marks=((0, *span),)) for span in spans]
    read = reader(max_length=64)
    for sequence, span in zip(read([pairs])[0], spans, strict=True):
        ((low, high),) = sequence.spans
        assert text_of(read, sequence.ids[low:high]).replace(" ", "") == first[slice(*span)]


def test_options_that_are_one_text_each_are_read_alone(reader):
    one, other = reader()([[TextPair("дом"), TextPair("дом")], []])
    assert [len(one), len(other)] == [2, 0] and one[0] == one[1] and one[0].second == len(one[0].ids)


def test_a_head_sees_every_span_and_compares_each_two():
    for spans, width in ((0, 1), (1, 2), (3, 10)):
        head = ClassHead(get_task("terra"), 2, spans)
        features = torch.randn(4, (1 + spans) * 3)
        assert head.inputs(features).shape == (4, width * 3) and head.width(3) == width * 3
    whole, one, other = torch.randn(3, 4, 3).unbind()
    found = ClassHead(get_task("terra"), 2, 2).inputs(torch.cat([whole, one, other], dim=1))
    assert torch.equal(found, torch.cat([whole, one, other, one * other, (one - other).abs()], dim=1))
