"""Training by one process or by two that is killed at any place ends with the bytes of training that was not."""

import functools
import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from small_training import half_removed, half_written, plan, trained

RECIPE = {
    "learning_rate": 2e-3, "epochs": 4, "eval_every": 4, "patience": 3, "accumulation": 2, "group_by_length": True,
    "dropout": 0.1, "body_dropout": 0.1,
}  # fmt: skip
RECIPES = {
    "patience": RECIPE,  # 10 updates an epoch, 28 or 32 in all; a checkpoint after each evaluation
    "shuffled": {**RECIPE, "group_by_length": False},
    "short": {**RECIPE, "epochs": 0.7, "patience": 0},  # 7 updates, evaluated after 4 and 7
}
TRAINER, SEEDS = "morocco_lib.training.trainer.ScoredTrainer", "morocco_lib.training.seeds"
PLACES = [  # recipe, where, before which call of which function, what is done in its place, which process ends alone
    ("patience", "at the first step", f"{TRAINER}.training_step", 1),
    ("patience", "in an accumulation", f"{TRAINER}.training_step", 12),
    ("patience", "at an evaluation", "morocco_lib.training.finetune.Fit._score", 2),
    ("patience", "one alone at an evaluation", "morocco_lib.training.finetune.Fit._score", 3, None, 1),
    ("patience", "before a checkpoint", f"{TRAINER}._save_checkpoint", 2),
    ("patience", "in a checkpoint", f"{TRAINER}._save_optimizer_and_scheduler", 2),
    ("patience", "one alone in a checkpoint", f"{TRAINER}._save_rng_state", 2, None, 1),
    ("patience", "in the state of a checkpoint", "transformers.trainer.TrainerState.save_to_json", 2, half_written),
    ("patience", "in the removal of a checkpoint", "shutil.rmtree", 1, half_removed),
    ("patience", "after a checkpoint", f"{TRAINER}.training_step", 17),
    ("patience", "in the second epoch", f"{TRAINER}.training_step", 28),
    ("shuffled", "in the second epoch", f"{TRAINER}.training_step", 28),
    ("short", "at the last step", f"{TRAINER}.training_step", 14),
    ("short", "after the last step", f"{TRAINER}._load_best_model", 1),
    ("patience", "after the last step", f"{TRAINER}._load_best_model", 1),
    ("patience", "before the best weights are put away", f"{SEEDS}.weights.save", 1),
    ("patience", "before a seed is noted", f"{SEEDS}.fileio.write_json", 1),
    ("patience", "before a seed's checkpoints are removed", f"{SEEDS}._remove_outdated", 1),
    ("patience", "before the weights are handed over", f"{SEEDS}.shutil.copytree", 1),
]
CASES = [(processes, *place) for processes in (1, 2) for place in PLACES if processes == 2 or len(place) < 6]


@pytest.fixture(scope="module")
def train(small):
    """Train by a recipe in so many processes, which end at a place if one is given; returns whether they came to the end."""
    return lambda recipe, *rest: not any(trained(plan(small, seeds=[2], **RECIPES[recipe]), *rest))


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """What comes of training that is not interrupted."""

    @functools.cache
    def result(recipe, processes):
        folder = tmp_path_factory.mktemp("whole")
        assert train(recipe, folder, processes)
        return result_of(folder)

    return result


def result_of(folder):
    found = json.loads((folder / "train.json").read_text())
    seeds = [(one["seed"], one["looks"], one["updates"]) for one in found["seeds"]]
    return seeds, (folder / "weights/model.safetensors").read_bytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_training_that_is_killed_goes_on_to_the_same_bytes(case, train, whole, tmp_path):
    processes, recipe, _, *place = case
    assert not train(recipe, tmp_path, processes, place)
    assert train(recipe, tmp_path, processes)
    assert result_of(tmp_path) == whole(recipe, processes)
    trained_to_the_end = place[0].startswith((SEEDS, f"{TRAINER}._load_best_model"))
    assert ((tmp_path / "steps").read_text() == "0") == trained_to_the_end
