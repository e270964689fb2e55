"""Metrics against values worked out by hand, and the intervals of those that are no share."""

import numpy as np
import pytest

from morocco_lib.tasks import get_task, metrics

GOLD, GIVEN = list("aaaabc"), list("aaabbb")  # F1: a 6/7, b 1/2 (2 x 1 / (1 + 3)), c 0


def test_macro_f1_counts_every_label_alike():
    assert metrics.macro_f1(GOLD, GIVEN, "abc") == pytest.approx((6 / 7 + 1 / 2 + 0) / 3)  # micro: 4 / 6
    assert metrics.macro_f1(list("ab"), list("ab"), "abc") == pytest.approx(2 / 3)  # c is neither right nor given


def test_binary_f1_is_that_of_one_label():
    assert metrics.binary_f1(GOLD, GIVEN, "b") == pytest.approx(1 / 2)
    assert metrics.binary_f1(list("aa"), list("aa"), "b") == 0


def test_mcc_is_that_of_a_table_and_0_where_one_side_has_one_class():
    gold, given = [1] * 5 + [0] * 5, [1] * 4 + [0] + [0] * 3 + [1] * 2  # 4 and 3 right, 2 and 1 wrong
    assert metrics.mcc(gold, given) == pytest.approx((4 * 3 - 2 * 1) / (6 * 5 * 5 * 4) ** 0.5)
    assert metrics.mcc(gold, [1 - label for label in gold]) == -1
    assert metrics.mcc(gold, [1] * 10) == metrics.mcc([0] * 10, given) == 0


@pytest.mark.parametrize("labels", ["ab", "abc"])
def test_values_of_sums_are_those_of_the_records(labels):
    rng = np.random.default_rng(1)
    gold, given = ([labels[k] for k in rng.integers(len(labels), size=60)] for _ in range(2))
    sums = metrics.confusion_cells(gold, given, labels).sum(0, keepdims=True)
    assert metrics.accuracy_of(sums) == pytest.approx(metrics.accuracy(gold, given))
    assert metrics.macro_f1_of(sums) == pytest.approx(metrics.macro_f1(gold, given, labels))
    assert metrics.mcc_of(sums) == pytest.approx(metrics.mcc(gold, given))
    alone = metrics.confusion_cells(gold, [labels[0]] * 60, labels).sum(0, keepdims=True)
    assert metrics.mcc_of(alone) == 0


@pytest.mark.parametrize(
    ("gold", "given", "exact", "f1"),
    [
        ("Москва", "москва!", 1, 1),
        ("the big house", "a house", 0, 2 * 1 / (2 + 1)),
        ("да да нет", "да нет нет", 0, 2 * 2 / (3 + 3)),  # each token as often as both have it
        ("дом", "сад", 0, 0),
        ("", "сад", 0, 0),
    ],
)
def test_answers_in_words_are_compared_after_normalisation(gold, given, exact, f1):
    assert (metrics.exact_match(gold, given), metrics.token_f1(gold, given)) == (exact, pytest.approx(f1))


def test_bootstrap_interval_is_that_of_the_normal_limit():
    units = [[1.0, 1.0]] * 400 + [[0.0, 1.0]] * 600
    low, high, method = metrics.bootstrap_interval(units, lambda sums: sums[:, 0] / sums[:, 1])
    half = 1.96 * (0.4 * 0.6 / 1000) ** 0.5  # at 90 % it would be a sixth narrower
    assert (low, high) == (pytest.approx(0.4 - half, abs=half * 0.08), pytest.approx(0.4 + half, abs=half * 0.08))
    assert method == "bootstrap 95 %"


def test_bootstrap_interval_is_drawn_as_published_results_were():
    # By another way: the units themselves are counted, with the same generator, seed 0 and 2000 draws, 200 at a time.
    units = np.array([[k * 0.37 % 1] for k in range(50)])
    rng, means = np.random.default_rng(0), []
    for _ in range(10):
        means += [sum(n * unit for n, (unit,) in zip(counts, units, strict=True)) / 50
                  for counts in rng.multinomial(50, [1 / 50] * 50, size=200)]  # fmt: skip
    means.sort()
    interval = metrics.bootstrap_interval(units, lambda sums: sums[:, 0] / 50)
    for found, share in ((interval.low, 0.025), (interval.high, 0.975)):
        place = share * 1999
        below, above = means[int(place)], means[int(place) + 1]
        assert found == pytest.approx(below + (above - below) * (place - int(place)), rel=1e-9)


# -- what tasks do with them, and with idx and spellings ---------------------------------------------------------
@pytest.fixture
def passage():
    """A record of MuSeRC with two questions of two answers each."""
    answers = [[{"idx": 10, "text": "да", "label": 1}, {"idx": 11, "text": "нет", "label": 0}],
               [{"idx": 12, "text": "он", "label": 0}, {"idx": 13, "text": "она", "label": 1}]]  # fmt: skip
    questions = [{"idx": 5 + k, "question": "Кто?", "answers": two} for k, two in enumerate(answers)]
    return {"idx": 3, "passage": {"text": "Дом.", "questions": questions}}


def idx_of(prediction):
    """Return every idx of a prediction or record of MuSeRC: of questions and of answers."""
    questions = prediction["passage"]["questions"]
    return [q["idx"] for q in questions], [a["idx"] for q in questions for a in q["answers"]]


def test_every_question_and_answer_has_an_idx_of_its_own_and_gets_its_old_one_back(passage):
    task = get_task("muserc")
    made = [task.reindex(passage, position) for position in (0, 1)]
    questions, answers = ([idx for record in made for idx in idx_of(record)[k]] for k in (0, 1))
    assert len(set(questions)) == 4 and len(set(answers)) == 8
    restored = task.restore(task.gold(made[1]), passage)
    assert restored["idx"] == 3 and idx_of(restored) == ([5, 6], [10, 11, 12, 13])
    assert restored == task.gold(passage)


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
