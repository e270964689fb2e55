"""Metrics against values worked out by hand and scikit-learn's, and their intervals."""

import string
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from morocco_lib.tasks import metrics

LABELS = ("a", "b", "c")


def table(gold, given, labels=LABELS):
    return metrics.confusion_cells(gold, given, labels).sum(axis=0, keepdims=True)


# -- tables of right and given labels --------------------------------------------------------------------------------
def test_scores_of_a_table_by_hand():
    sums = table("aaaabc", "aaabbb")
    assert metrics.f1_of(sums)[0] == pytest.approx([6 / 7, 1 / 2, 0])  # of b: 2 x 1 / (1 + 3)
    assert metrics.macro_f1_of(sums) == pytest.approx((6 / 7 + 1 / 2) / 3)
    assert metrics.accuracy_of(sums) == pytest.approx(4 / 6)
    assert metrics.macro_f1_of(table("ab", "ab")) == pytest.approx(2 / 3)  # c is neither right nor given


def test_mcc_by_hand_and_0_without_a_warning_where_one_side_has_one_class():
    # 4 right and 1 missed, 2 wrongly given and 3 rightly not: (4 x 3 - 2 x 1) / sqrt(6 x 5 x 5 x 4)
    assert metrics.mcc_of(table("aaaaabbbbb", "aaaabaabbb", "ab")) == pytest.approx(10 / 600**0.5)
    assert metrics.mcc_of(table("aabb", "bbaa", "ab")) == -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for gold, given_ in (("aaaa", "aaab"), ("aabb", "aaaa"), ("aaaa", "aaaa"), ("aaaa", "bbbb")):
            assert metrics.mcc_of(table(gold, given_, "ab")) == [0.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40))
def test_scores_of_a_table_are_scikit_learns(pairs):
    gold, given_ = map(list, zip(*pairs, strict=True))
    sums = table(gold, given_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a single class
        expected = {
            metrics.accuracy_of: accuracy_score(gold, given_),
            metrics.macro_f1_of: f1_score(gold, given_, labels=LABELS, average="macro", zero_division=0),
            metrics.mcc_of: matthews_corrcoef(gold, given_),
        }
    assert metrics.accuracy(gold, given_) == expected[metrics.accuracy_of]
    for of, value in expected.items():
        assert of(np.concatenate([sums, 2 * sums])) == pytest.approx([value] * 2, abs=1e-12)


def test_an_accuracy_of_no_records_is_refused():
    with pytest.raises(ValueError, match="no records"):
        metrics.accuracy([], [])


# -- answers in words ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("gold", "answer", "f1", "em"),
    [
        ("Северная Корея", "северная корея!", 1, 1),
        ("Северная Корея", "Корея", 2 / 3, 0),
        ("Северная Корея", "Южная Корея", 0.5, 0),
        ("the Financial Times", "Financial  Times", 1, 1),
        ("«Зенит»", "Зенит", 0, 0),  # Russian quotes are no ASCII punctuation and stay
        ("США", "Россия", 0, 0),
        ("да да нет", "да нет нет", 2 * 2 / (3 + 3), 0),  # each token as often as both have it
        ("a", "the", 0, 1),  # both are empty after normalisation: equal, but no token is shared
    ],
)
def test_answers_in_words_are_compared_after_normalisation(gold, answer, f1, em):
    assert (metrics.token_f1(gold, answer), metrics.exact_match(gold, answer)) == (pytest.approx(f1), em)
    assert metrics.token_f1(answer, gold) == pytest.approx(f1)


def test_every_ascii_punctuation_mark_is_dropped():
    assert metrics.normalise_answer(f"Кре{string.punctuation}мль — an «The»") == "кремль — « »"


# -- intervals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # n = 1 by hand: with z^2 = 3.8415 all of it is z^2 / (1 + z^2)
        (0, 1, 0.0000, 0.7935),
        (1, 1, 0.2065, 1.0000),
        # p = 1/2 by hand: 0.5 -+ z / (2 sqrt(n + z^2))
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_interval_has_the_published_values(successes, n, low, high):
    interval = metrics.wilson_interval(successes, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert interval.low >= 0 and interval.high <= 1


def test_bootstrap_interval_is_that_of_the_normal_limit():
    units = [[1.0, 1.0]] * 400 + [[0.0, 1.0]] * 600
    low, high, method = metrics.bootstrap_interval(units, lambda sums: sums[:, 0] / sums[:, 1])
    half = 1.96 * (0.4 * 0.6 / 1000) ** 0.5  # at 90 % it would be a sixth narrower
    assert (low, high) == (pytest.approx(0.4 - half, abs=half * 0.08), pytest.approx(0.4 + half, abs=half * 0.08))
    assert method == "bootstrap 95 %"


def test_bootstrap_interval_is_drawn_as_published_results_were():
    # By another way: the units themselves are counted, with the same generator, seed 0 and 2000 draws, 200 at a time.
    units = np.array([[k * 0.37 % 1] for k in range(50)])
    rng = np.random.default_rng(0)
    draws = np.concatenate([rng.multinomial(50, [1 / 50] * 50, size=200) for _ in range(10)])
    means = [np.repeat(units[:, 0], counts).mean() for counts in draws]
    low, high, _ = metrics.bootstrap_interval(units, lambda sums: sums[:, 0] / 50)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), rel=1e-9)
