"""Numbers and tables as text."""

import pytest

from morocco_lib import formatting


@pytest.mark.parametrize(
    ("score", "text"),
    [
        ((0.2, 0.3, 0.4), "below the most frequent answer's 0.500"),
        ((0.4, 0.45, 0.6), "below, though not clearly, the most frequent answer's 0.500"),
        ((0.45, 0.55, 0.6), "not clearly above the most frequent answer's 0.500"),
        ((0.6, 0.7, 0.8), "above the most frequent answer's 0.500"),
        ((None, None, None), ""),
    ],
)
def test_a_score_is_held_against_the_most_frequent_answer(score, text):
    low, value, high = score
    assert formatting.majority_text({"value": value, "low": low, "high": high, "majority": {"value": 0.5}}) == text


def test_a_table_is_aligned_and_wraps_long_cells():
    rows = [("name", "n"), ("a", "10"), ("longer", "9")]
    assert formatting.text_table(rows, right={1}) == "name     n\na       10\nlonger   9"
    assert formatting.text_table([("one two", "x")], widths=(4, 1)) == "one   x\ntwo"
