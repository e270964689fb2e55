"""Differences of models on the same records."""

from math import sqrt

import numpy as np
import pytest

from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import pairs
from morocco_lib.report.points import collect
from morocco_lib.tasks import get_task, metrics


def test_the_best_model_of_a_task_is_compared_with_the_next_on_the_records_of_both(quick_plan):
    rows = collect(quick_plan.folder, KINDS)
    (found,) = pairs.differences(quick_plan.folder, rows)
    by_model = {row["model"]: row["score"]["value"] for row in rows}
    assert (found["task"], found["best"], found["other"], found["n"]) == ("terra", "tfidf", "majority", 300)
    assert found["value"] == pytest.approx(by_model["tfidf"] - by_model["majority"])
    assert 0 < found["low"] < found["value"] < found["high"]


def test_records_that_both_answer_alike_do_not_widen_a_difference():
    """Against the variance of a difference of paired shares (McNemar): b + c discordant pairs alone count."""
    task, n, b, c = get_task("terra"), 400, 30, 10
    right, wrong = ({"idx": 0, "label": label} for label in task.labels)
    gold = [right] * n
    one = [right] * b + [wrong] * c + [right] * (n - b - c)
    other = [wrong] * b + [right] * c + [right] * (n - b - c)
    (left, value), (across, _) = task.units(gold, one), task.units(gold, other)
    low, high, _ = metrics.paired_interval(left, across, value)
    half = 1.96 * sqrt(b + c - (b - c) ** 2 / n) / n
    assert (low + high) / 2 == pytest.approx((b - c) / n, abs=0.004)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)  # unpaired intervals would be 0.037
    assert metrics.paired_interval(left, left, value)[:2] == (0, 0)


@pytest.mark.parametrize("name", ["rcb", "muserc", "rucos", "lidirus", "terra"])
def test_the_value_of_all_units_is_the_tasks_own(name, synthetic_data):
    from morocco_lib.data import find_split
    from morocco_lib.tasks.base import task_value

    task = get_task(name)
    records = task.read(find_split(synthetic_data, task, "val"))[:60]
    gold = [task.gold(record) for record in records]
    given = gold[1:] + gold[:1] if name not in ("muserc", "rucos") else gold
    units, value = task.units(gold, given)
    assert value(np.sum(units, axis=0, keepdims=True))[0] == pytest.approx(task_value(task, task.score(gold, given)))
