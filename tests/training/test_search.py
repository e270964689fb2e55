"""A search draws, ends what is behind, goes on after an interruption, and tells how lucky its best was."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")
pytest.importorskip("optuna", reason="needs the search extra: make setup-torch")

from types import SimpleNamespace

from small_training import plan

from morocco_lib.config import SearchParams
from morocco_lib.errors import InvalidResult
from morocco_lib.training import search

SPACE = {
    "trials": 6,
    "learning_rates": [1e-4, 1e-2],
    "batch_sizes": [8, 16],
    "heads": ["linear"],
    "epochs": [1, 2],
    "again": "7-9",
}


@pytest.fixture
def learn(monkeypatch):
    """Put a job in place of training: two evaluations by `scores(number of the training, its recipe, seed)`; returns what it was given."""
    given = []

    def use(scores):
        def make_job(own, records, val, work, callbacks):
            assert not work.exists()  # with checkpoints of another trial

            def seed(number):
                given.append((own.model.recipe, number))
                for score in (found := scores(len(given), own.model.recipe, number)):
                    for callback in callbacks:
                        callback.on_evaluate(None, None, None, {"eval_score": score})
                return None, {"score": max(found)}

            return SimpleNamespace(seed=seed)

        monkeypatch.setattr(search, "make_job", make_job)
        return given

    return use


def params(small, **changes):
    described = plan(small).model.model_dump()
    return SearchParams(model=described, task={"name": "rwsd"}, **SPACE | changes)


def run(small, folder, **changes):
    folder.mkdir(exist_ok=True)
    return search.search(plan(small), params(small, **changes), folder)


def test_settings_are_drawn_from_what_was_given_and_the_best_is_trained_with_new_seeds(small, learn, tmp_path):
    given = learn(lambda number, recipe, seed: [0.5, 0.9 if number == 4 else 0.6 + number / 100])
    result = run(small, tmp_path / "step")
    drawn = [recipe for recipe, _ in given[:6]]
    assert all(
        1e-4 <= one.learning_rate <= 1e-2 and one.batch_size in (8, 16) and one.epochs in (1, 2) for one in drawn
    )
    assert len({one.learning_rate for one in drawn}) == 6 and {one.dropout for one in drawn} == {0.0}
    best, reruns = result["best"], given[6:]
    assert (best["trial"], best["score"]) == (3, 0.9) and best["settings"]["learning_rate"] == drawn[3].learning_rate
    assert [seed for _, seed in reruns] == [7, 8, 9] and all(recipe == drawn[3] for recipe, _ in reruns)
    assert result["optimism"]["mean"] == pytest.approx(0.68) and result["optimism"]["difference"] == pytest.approx(0.22)
    assert result["optimism"]["sd"] == pytest.approx(0.01)
    assert json.loads((tmp_path / "step/search.json").read_text()) == json.loads(json.dumps(result))


def test_a_trial_below_the_median_of_the_others_is_ended(small, learn, tmp_path):
    given = learn(lambda number, recipe, seed: [0.1 if number == 5 else 0.5 + number / 100, 0.7])
    rows = run(small, tmp_path / "step", again="")["trials"]
    assert [row["state"] for row in rows] == ["done"] * 4 + ["ended early", "done"] and len(given) == 6
    assert (rows[4]["evaluations"], rows[4]["score"], rows[4]["best_evaluation"]) == (1, None, 0.1)


def test_an_interrupted_search_goes_on_and_repeats_nothing_that_was_finished(small, learn, tmp_path):
    def scores(number, recipe, seed):
        if number in (4, 9):
            raise KeyboardInterrupt
        if number == 2:
            raise InvalidResult("the loss is nan")
        return [0.5 + number / 100]

    given = learn(scores)
    for _ in range(2):  # in the search, and among the new seeds
        with pytest.raises(KeyboardInterrupt):
            run(small, tmp_path / "step")
    (tmp_path / "step.study/training").mkdir()
    search._study(tmp_path / "step.study", 1).ask()  # a process that was killed leaves these two
    result = run(small, tmp_path / "step")
    assert len(given) == 6 + 3 + 2  # both interrupted ones twice
    states = [row["state"] for row in result["trials"]]
    assert states == ["done", "failed", "done", "failed", "done", "done", "done", "failed"]
    assert [row["error"] for row in result["trials"] if row["state"] == "failed"] == ["the loss is nan", None, None]
    assert [one["score"] for one in result["again"]] == pytest.approx([0.58, 0.6, 0.61])
    assert run(small, tmp_path / "step") == result and len(given) == 11


def test_a_search_without_a_trial_that_ended_is_invalid(small, learn, tmp_path):
    def scores(number, recipe, seed):
        raise InvalidResult("the loss is nan")

    learn(scores)
    with pytest.raises(InvalidResult, match="none of 6 trials"):
        run(small, tmp_path / "step")


@pytest.mark.slow
def test_a_small_search_trains(small, tmp_path):
    result = run(small, tmp_path / "step", trials=2, batch_sizes=[16], epochs=[0.5], again="7")
    assert [row["state"] for row in result["trials"]] == ["done", "done"] and len(result["again"]) == 1
    assert [path.name for path in (tmp_path / "step.study").iterdir()] == ["study.db"]


def test_dropout_and_weight_decay_are_the_recipes_unless_they_are_drawn(small, tmp_path, learn):
    given = learn(lambda number, recipe, seed: [0.5, 0.5])
    fixed = plan(small).model.recipe
    run(small, tmp_path / "fixed", trials=3)
    assert {(r.dropout, r.weight_decay) for r, _ in given} == {(fixed.dropout, fixed.weight_decay)}
    given.clear()
    result = run(small, tmp_path / "drawn", trials=12, dropouts=[0.1, 0.3], weight_decays=[0.02, 0.2], again="")
    assert {r.dropout for r, _ in given} == {0.1, 0.3} and {r.weight_decay for r, _ in given} == {0.02, 0.2}
    assert {"dropout", "weight_decay"} <= result["best"]["settings"].keys()
