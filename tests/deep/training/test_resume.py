"""Training that is interrupted anywhere ends with the bytes of training that was not."""

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from small_training import few_records, plan

from morocco_lib.training import finetune, fit

RECIPE = {"epochs": 2.4, "eval_every": 4, "dropout": 0.1, "body_dropout": 0.1}  # 24 updates
RECIPES = {
    "patience": {**RECIPE, "patience": 4},
    "accumulation": {**RECIPE, "accumulation": 2, "patience": 4},
    "by-length": {**RECIPE, "accumulation": 2, "group_by_length": True, "patience": 4},
}
PLACES = (1, 3, 4, 5, 8, 11, 12, 13, 15, 16)  # updates: before, at and after evaluations, and between them


@pytest.fixture(scope="module")
def small(tmp_path_factory, synthetic_data):
    return few_records(synthetic_data, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module", params=RECIPES)
def whole(request, small, tmp_path_factory):
    """A recipe, and what training by it gives without an interruption: (train.json, the bytes of the weights)."""
    recipe = RECIPES[request.param]
    return recipe, trained(plan(small, **recipe), tmp_path_factory.mktemp("whole"))


def trained(described, folder):
    result = fit.fit(described, folder)
    return result["seeds"][0]["looks"], (folder / "weights/model.safetensors").read_bytes()


@pytest.mark.parametrize("update", PLACES)
def test_training_interrupted_at_an_update_goes_on_to_the_same_bytes(whole, update, small, tmp_path, monkeypatch):
    recipe, expected = whole
    step, calls = finetune._Trainer.training_step, []

    def ended(*args, **kwargs):
        calls.append(args)
        if len(calls) == update * recipe.get("accumulation", 1):
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetune._Trainer, "training_step", ended)
        fit.fit(plan(small, **recipe), tmp_path)
    assert trained(plan(small, **recipe), tmp_path) == expected
