"""The interval of corrected speeds holds the truth as often as it says."""

import math
import random

import pytest

from morocco_lib.legacy import corrected, logs

GAP_S = 0.33


def log(size, aligned_s, generator):
    """A run sampled every 0.33 s that holds the GPU from some moment on, for `aligned_s`."""
    onset_s, phase = 5 + generator.random(), generator.random() * GAP_S
    end_s = onset_s + aligned_s
    stamps = [phase + k * GAP_S for k in range(math.floor((end_s - phase) / GAP_S) + 1)]
    columns = {"timestamp": stamps, "gpu_ram": [1 if stamp >= onset_s else None for stamp in stamps]}
    return logs.Log("f", "d", "m", "t", size, 32, 1, columns)


@pytest.mark.parametrize(("starts", "runs", "spread_s"), [(3, 5, 0.5), (2, 5, 0.05), (5, 5, 0.5), (5, 5, 0.05)])
def test_the_interval_holds_the_truth_in_95_of_100_experiments(starts, runs, spread_s):
    # Start-ups about 6 s after the onset, spread by `spread_s`; about 5 s of work, spread by 1 %.
    generator, hits, rounds = random.Random(1), 0, 800
    for _ in range(rounds):
        start_s, work_s = 6 + generator.random(), 5 + generator.random()
        warm = [log(1, start_s + abs(generator.gauss(0, spread_s)), generator) for _ in range(starts)]
        good = []
        for _ in range(runs):
            begun_s = start_s + abs(generator.gauss(0, spread_s))
            good.append(log(2000, begun_s + work_s * generator.gauss(1, 0.01), generator))
        _, low, high, _ = corrected._speed(good, warm)
        hits += low <= 2000 / work_s and (high is None or high >= 2000 / work_s)
    assert hits / rounds >= 0.94
