"""Points averaged over tasks: which tasks, which means, which intervals."""

from math import sqrt

import pytest

from morocco_lib.report.averages import averaged


def row(model, task, score, speed, half=0.0, verdict="VALID", batch=32):
    def estimate(value, width):
        return {"value": value, "low": value - width if half else None, "high": value + width if half else None}

    return {
        "model": model, "task": task, "batch_size": batch, "verdict": verdict, "score": estimate(score, half),
        "speed_per_s": estimate(speed, half * speed), "ram_bytes": {"value": 2.0}, "gpu_ram_bytes": {"value": None},
    }  # fmt: skip


def test_scores_are_averaged_plainly_and_speeds_as_time_a_record():
    tasks, (point,) = averaged([row("a", "terra", 0.5, 100, 0.03), row("a", "rcb", 0.7, 300, 0.04)])
    assert tasks == ["rcb", "terra"] and point["score"]["value"] == pytest.approx(0.6)
    assert point["speed_per_s"]["value"] == pytest.approx(2 / (1 / 100 + 1 / 300)) and point["ram_bytes"]["value"] == 2
    assert point["score"]["low"] == pytest.approx(0.6 - sqrt(0.03**2 + 0.04**2) / 2)
    assert point["speed_per_s"]["low"] < 150 < point["speed_per_s"]["high"]
    assert point["gpu_ram_bytes"] == {"value": None}


def test_a_mean_with_a_number_without_interval_has_none():
    _, (point,) = averaged([row("a", "terra", 0.5, 100, 0.03), row("a", "rcb", 0.7, 300)])
    assert point["score"] == {"value": pytest.approx(0.6), "low": None, "high": None}


def test_only_tasks_that_all_points_have_count_and_points_of_few_tasks_are_left_out():
    rows = [row("a", task, 0.5, 100) for task in ("terra", "rcb", "rwsd")] + [
        row("b", t, 0.4, 9) for t in ("terra", "rcb")
    ]
    tasks, points = averaged([*rows, row("c", "rwsd", 0.9, 7)])
    assert tasks == ["rcb", "terra"] and [p["model"] for p in points] == ["a", "b"]
    assert averaged([row("a", "terra", 0.5, 100)]) == ([], []) and averaged([]) == ([], [])


def test_a_mean_over_a_disturbed_point_is_not_valid():
    _, (point,) = averaged([row("a", "terra", 0.5, 100), row("a", "rcb", 0.7, 300, verdict="DISTURBED")])
    assert point["verdict"] == "DISTURBED"
