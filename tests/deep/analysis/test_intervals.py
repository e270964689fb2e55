"""Intervals hold the truth as often as they say: simulated experiments with fixed seeds."""

import json
import random
import subprocess
import sys

import pytest
from helpers import ROOT

from morocco_lib.analysis.intervals import ratio_estimate


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_the_interval_of_a_speed_holds_the_truth_in_95_of_100_experiments(runs):
    noise, held = random.Random(f"coverage/{runs}"), 0
    for _ in range(2000):
        seconds = [4.0 * (1 + 0.03 * noise.gauss(0, 1)) for _ in range(runs)]
        estimate = ratio_estimate([2000] * runs, seconds)
        held += estimate.low <= 500 <= estimate.high
    assert 0.93 <= held / 2000 <= 0.97


@pytest.mark.parametrize("seed", ["21", "22"])
@pytest.mark.parametrize("method", ["stream", "ready"])
def test_intervals_of_each_method_hold_the_truth_in_95_of_100_simulated_benches(method, seed):
    command = [sys.executable, ROOT / "benchmarks/intervals.py", "--json"]
    options = ["--seeds", seed, "--methods", method]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["outside"] == 0, result["rows"]
    if method == "stream":
        steady = [row for row in result["rows"] if not row["drift"]]
        assert max(seed["alarms"] for row in steady for seed in row["seeds"]) <= 0.01
