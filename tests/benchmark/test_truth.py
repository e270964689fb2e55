"""Speeds, start-ups and memory that are known, measured in one short run each.

The bounds hold on a busy machine; tests/deep/benchmark has many runs and narrow bounds.
"""

import pytest
from truth import pool
from truth.pool import Setting

SHORT = {"init_s": 0.4, "work_s": 0.8}


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        (Setting(**SHORT, spread=0.2, late_stdin=True), "stream"),
        (Setting(**SHORT, flush="buffer", ready=False, late_stdin=True, rate=2000), "stream"),
        (Setting(**SHORT, flush="end"), "ready"),
    ],
    ids=["late-stdin", "unflushed-without-readiness", "held-back"],
)
def test_speed_and_start_up_of_one_run_are_near_the_truth(setting, method, tmp_path):
    trial = pool.ours(setting, tmp_path / "run")
    speed = trial.result["speed_per_s"]
    assert abs(trial.error) <= 0.1 and (speed["method"], speed["scope"]) == (method, "run")
    assert abs(trial.init_error_s) <= 0.25


def test_memory_that_is_held_is_measured(tmp_path):
    quick = {"init_s": 0.2, "work_s": 0.3}
    without, held = (pool.ours(Setting(**quick, memory_mib=m), tmp_path / str(m)) for m in (0, 100))
    found = held.result["ram_bytes"]["value"] - without.result["ram_bytes"]["value"]
    assert (
        found == pytest.approx(held.truths[0]["held_bytes"], rel=0.02) and held.truths[0]["held_bytes"] == 100 * 2**20
    )
