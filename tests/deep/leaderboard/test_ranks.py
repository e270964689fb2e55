"""Ranks say no more than they may: equal models are seldom put in an order, and joint intervals hold all truths at once."""

import numpy as np
import pytest

from morocco_lib.leaderboard import ranks

ROUNDS = 300


@pytest.mark.parametrize(
    ("models", "tasks", "between"), [(6, 9, 1.0), (12, 9, 0.5), (4, 3, 0.5), (20, 9, 1.0), (6, 1, 0.0)]
)
def test_equal_models_are_tied_and_all_intervals_hold(models, tasks, between):
    # Tasks differ, and models on them by `between`, in the mean over many tasks not at all.
    generator, ordered, held = np.random.default_rng(models), 0, 0
    for seed in range(ROUNDS):
        truth = 3 * generator.normal(size=tasks) + between * generator.normal(size=(models, tasks))
        spreads = generator.uniform(0.2, 0.6, (models, tasks))
        result = ranks.rank(truth + spreads * generator.normal(size=truth.shape), spreads, seed)
        ordered += (result.rank > 1).any()
        held += ((result.low <= truth.mean(axis=1)) & (truth.mean(axis=1) <= result.high)).all()
    assert ordered <= 0.08 * ROUNDS and held >= 0.92 * ROUNDS
