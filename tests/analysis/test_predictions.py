"""stdout of a run -> predictions, checked and mapped back to the records they answer."""

import json

import pytest
from run_folders import DISTINCT, NO, RECORDS, TERRA, YES, answers_of, cycled, steady, write_run

from morocco_lib.analysis.predictions import Answers, differing, read_answers
from morocco_lib.analysis.run_files import read_run
from morocco_lib.data import workload
from morocco_lib.errors import UsageError

SIZE = 2 * DISTINCT


def read(tmp_path, answers, load=None):
    return read_answers(read_run(write_run(tmp_path, steady(SIZE, 8), load=load or cycled(SIZE), answers=answers)))


def test_the_first_answer_to_a_record_is_the_one_that_counts_with_the_records_own_idx(tmp_path):
    answers = read(tmp_path, answers_of(SIZE, dict.fromkeys(range(DISTINCT, SIZE), NO)))
    assert answers.first == {place: {"idx": record["idx"], "label": YES} for place, record in enumerate(RECORDS)}
    assert (answers.repeated, answers.flips) == (DISTINCT, DISTINCT)


def test_the_first_answer_is_the_one_to_the_first_feed_whatever_the_order_of_the_lines(tmp_path):
    lines = answers_of(SIZE, dict.fromkeys(range(DISTINCT, SIZE), NO))
    answers = read(tmp_path, lines[::-1])
    assert {answer["label"] for answer in answers.first.values()} == {YES}


def test_an_answer_belongs_to_the_record_that_was_fed_with_its_idx(tmp_path):
    answers = read(tmp_path, answers_of(SIZE, {3: NO}))
    assert answers.first[answers.load.order[3]]["label"] == NO and answers.flips == 1
    assert sum(answer["label"] == NO for answer in answers.first.values()) == 1


def test_wrong_answers_are_counted_and_neither_compared_nor_scored(tmp_path):
    lines = answers_of(SIZE)
    lines[2] = json.dumps({"idx": 2, "label": "maybe"})
    answers = read(tmp_path, lines)
    assert answers.checked.counts == {"label": 1}
    assert len(answers.first) == DISTINCT and (answers.repeated, answers.flips) == (DISTINCT - 1, 0)


def test_of_records_that_were_made_the_form_of_an_answer_is_checked_and_nothing_else_is_said(tmp_path):
    load = workload.build(TERRA, RECORDS, SIZE, 1)
    made = [position for position in range(SIZE) if not load.is_true(position)]
    answers = read(tmp_path, answers_of(SIZE, dict.fromkeys(made, NO)), load)
    assert {answer["label"] for answer in answers.first.values()} == {YES} and len(answers.first) == DISTINCT
    assert (answers.repeated, answers.flips, answers.checked.ok) == (0, 0, True)
    answers = read(tmp_path, answers_of(SIZE, {made[0]: "maybe"}), load)
    assert answers.checked.counts == {"label": 1} and len(answers.first) == DISTINCT


@pytest.mark.parametrize("name", ["workload.json", "answers.jsonl"])
def test_files_that_cannot_be_read_are_named(tmp_path, name):
    folder = write_run(tmp_path)
    run = read_run(folder)
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"{folder} cannot be read"):
        read_answers(run)


def test_only_records_that_both_answered_are_compared():
    def answers(**labels):
        first = {int(place[1:]): {"label": label} for place, label in labels.items()}
        return Answers(TERRA, None, None, first, 0, 0)

    assert differing(answers(_0=YES, _1=YES, _2=YES), answers(_1=NO, _2=YES)) == (1, 2)
