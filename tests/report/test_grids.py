"""The original's tables: models and tasks, published numbers and marks."""

from morocco_lib.legacy import published
from morocco_lib.report.grids import grids

PUBLISHED = published.read(published.FOUNDING)["models"]


def row(model, task, metrics, speed=10.0, verdict="VALID", batch=32):
    value = sum(metrics.values()) / len(metrics)
    return {
        "model": model, "task": task, "batch_size": batch, "verdict": verdict, "score": {"value": value, "metrics": metrics},
        "speed_per_s": {"value": speed}, "ram_bytes": {"value": 2**20}, "gpu_ram_bytes": {"value": None},
    }  # fmt: skip


def cells(grid):
    return {model: dict(zip(grid.tasks, (c and c["text"] for c in line), strict=True)) for model, line in grid.lines}


def test_the_published_numbers_are_those_of_the_founding_tables():
    assert len(PUBLISHED) == 6 and all(len(model["tasks"]) == 9 for model in PUBLISHED.values())
    rubert = PUBLISHED["rubert"]
    assert rubert["total"] == {"leaderboard": 0.521, "container": 0.548}
    assert rubert["tasks"]["muserc"] == {
        "leaderboard": [0.711, 0.324], "container": [0.732, 0.361], "gpu_ram_gib": 2.4, "speed_per_s": 4.0,
    }  # fmt: skip
    assert PUBLISHED["rugpt3-small"]["tasks"]["rucos"]["speed_per_s"] is None


def test_a_score_is_marked_by_whether_it_reaches_the_published_one():
    rows = [row("rubert", "muserc", {"ans_f1": 0.7, "em": 0.34}), row("rubert", "terra", {"accuracy": 0.6419})]
    rows.append(row("mine", "terra", {"accuracy": 0.9}))
    score, memory, speed = grids(rows, PUBLISHED)
    assert cells(score) == {
        "mine": {"mean of tasks": None, "muserc": None, "terra": "0.900"},
        "rubert": {"mean of tasks": "0.521 —", "muserc": "✓ 0.711/0.324 0.700/0.340", "terra": "✗ 0.642 0.642"},
    }
    assert cells(speed)["rubert"] == {"muserc": "4.000 10.00", "terra": "297.0 10.00"}
    assert cells(memory)["rubert"]["terra"] == "1.00 MiB" and memory.name == "Memory: published, measured here"


def test_of_several_batch_sizes_the_fastest_valid_one_is_shown():
    found = [("INVALID", 99.0, 8), ("VALID", 20.0, 16), ("VALID", 30.0, 32)]
    rows = [
        row("a", task, {"accuracy": 0.5}, speed, verdict, batch)
        for verdict, speed, batch in found
        for task in ("terra", "rwsd")
    ]
    rows[0]["task"] = rows[2]["task"] = rows[4]["task"] = "parus"
    _, _, speed = grids(rows)
    assert set(cells(speed)["a"].values()) == {"30.00"}


def test_one_task_alone_is_no_grid_unless_its_model_is_published():
    assert grids([row("a", "terra", {"accuracy": 0.5})]) == []
    assert grids([row("a", "terra", {"accuracy": 0.5})], PUBLISHED) == []
    assert len(grids([row("rubert", "terra", {"accuracy": 0.5})], PUBLISHED)) == 3
