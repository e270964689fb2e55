"""Which evaluation of a run and which run of several is kept, as the recipe says; every row of val is scored, whatever the batch."""

import json

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from helpers import ROOT
from safetensors.numpy import load_file
from small_training import QUICK, TINY, run_program

from morocco_lib.config import model as model_config
from morocco_lib.config.recipe import Recipe
from morocco_lib.data import synthetic
from morocco_lib.models import weights
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import deciding_value
from morocco_lib.training import finetune, fit


def planned(folder, name, seeds=(1,), train=64, val=71, **recipe):
    """A tiny BERT to be fitted on few synthetic records of a task."""
    files = {}
    for split, size in (("train", train), ("val", val)):
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text(
            "".join(f"{json.dumps(record)}\n" for record in synthetic.records(name, split, size, 1))
        )
    model = model_config.ModelParams(name="small", kind="transformer", recipe={**QUICK, **recipe}, scratch=TINY["bert"])
    return fit.Plan(model, name, files, list(seeds))


@pytest.fixture
def scripted(monkeypatch):
    """Let the evaluations of MRPC have these F1 and accuracies, in turn; then 0."""

    def script(*pairs):
        left = list(pairs)

        def found(self, gold, given):
            return dict(zip(("f1", "accuracy"), left.pop(0) if left else (0.0, 0.0), strict=True))

        monkeypatch.setattr(type(get_task("mrpc")), "score", found)

    return script


RISE_AND_FALL = [(0.2, 0.9), (0.8, 0.1), (0.6, 0.7), (0.5, 0.5)]


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [({}, 2), ({"select_by": "first"}, 1), ({"select_by": "last"}, 0), ({"select": "last", "select_by": "first"}, 3)],
)
def test_the_evaluation_that_the_recipe_selects_is_kept(recipe, kept, scripted, tmp_path):
    scripted(*RISE_AND_FALL)
    (tmp_path / "step").mkdir()
    result = fit.fit(planned(tmp_path, "mrpc", eval_every=1, epochs=1, **recipe), tmp_path / "step")
    (one,) = result["seeds"]
    assert one["metrics"] == dict(zip(("f1", "accuracy"), RISE_AND_FALL[kept], strict=True))
    assert one["score"] == pytest.approx(sum(RISE_AND_FALL[kept]) / 2) and one["updates"] == len(one["looks"]) == 4


def test_the_end_of_training_is_evaluated_and_its_weights_are_kept(tmp_path):
    found = []
    for name, recipe in (("best", {}), ("last", {"select": "last"}), ("end", {"eval_every": 5})):
        (tmp_path / name).mkdir()
        result = fit.fit(planned(tmp_path, "mrpc", epochs=1.25, **{"eval_every": 2, **recipe}), tmp_path / name)
        found.append((result["seeds"][0], load_file(tmp_path / name / "weights/model.safetensors")))
    (best, _), (last, ours), (end, theirs) = found
    assert [update for update, _ in last["looks"]] == [2, 4, 5] == [update for update, _ in best["looks"]]
    assert last["score"] == last["looks"][-1][1] == end["score"] and best["score"] == max(s for _, s in best["looks"])
    assert all((ours[name] == theirs[name]).all() for name in ours)
    model, task = weights.load(tmp_path / "last")
    val = task.read(tmp_path / "val.jsonl")
    assert task.score([task.gold(record) for record in val], model.answer(val)) == pytest.approx(last["metrics"])


@pytest.mark.parametrize(("choose_by", "chosen"), [("mean", 3), ("first", 2), ("last", 1)])
def test_the_run_that_the_recipe_chooses_is_kept_with_all_its_metrics(choose_by, chosen, scripted, tmp_path):
    scripted((0.2, 0.9), (0.8, 0.1), (0.6, 0.7))
    (tmp_path / "step").mkdir()
    result = fit.fit(planned(tmp_path, "mrpc", seeds=(1, 2, 3), choose_by=choose_by, epochs=0.25), tmp_path / "step")
    assert result["chosen_seed"] == chosen
    scores = {one["seed"]: deciding_value(get_task("mrpc"), one["metrics"], choose_by) for one in result["seeds"]}
    assert {one["seed"]: one["score"] for one in result["seeds"]} == scores and result["val_score"] == max(
        scores.values()
    )


def test_recipes_say_both_founding_protocols():
    seed, final = (model_config.load_recipe(f"glue-{name}", ROOT) for name in ("seed", "final"))
    assert (seed.select, seed.choose_by, final.select, final.select_by, final.choose_by) == (
        "last",
        "first",
        "best",
        "first",
        "last",
    )
    for name, epochs, every in (
        ("cola", 5, 50), ("sst2", 3, 50), ("mrpc", 5, 50), ("stsb", 3, 50), ("qqp", 3, 1000), ("mnli", 3, 1000), ("qnli", 3, 300),
        ("rte", 3, 50), ("wnli", 5, 50),
    ):  # fmt: skip
        for recipe in (seed.of_task(name), final.of_task(name)):
            assert (recipe.epochs, recipe.eval_every, recipe.batch_size, recipe.max_length) == (epochs, every, 32, 128)
            assert (recipe.learning_rate, recipe.warmup, recipe.schedule) == (2e-5, 0, "linear")


def test_recipes_of_before_have_the_same_key():
    assert Recipe().model_dump(exclude_defaults=True) == {}


# -- coverage ------------------------------------------------------------------------------------------------------
SCORED = """
import json, sys
from pathlib import Path
from morocco_lib.config import model as model_config
from morocco_lib.tasks import get_task
from morocco_lib.training import distributed, finetune, fit
plan, out = json.loads(sys.argv[1]), Path(sys.argv[2])
seen, task = [], type(get_task("wnli"))
score, arguments = task.score, finetune.Fit._arguments
def noted(self, gold, given):
    seen.append([len(gold), len({one["idx"] for one in given})])
    return score(self, gold, given)
def noted_arguments(self, *args):
    made = arguments(self, *args)
    seen.append(made.dataloader_drop_last)
    return made
task.score, finetune.Fit._arguments = noted, noted_arguments
files = {name: Path(path) for name, path in plan["files"].items()}
fit.fit(fit.Plan(model_config.ModelParams(**plan["model"]), "wnli", files, [1]), out)
(out / f"seen-{distributed.rank()}.json").write_text(json.dumps(seen))
"""


COVERED = {"train": 100, "batch_size": 64, "epochs": 2, "eval_every": 1}


def test_71_rows_at_batch_64_are_all_scored_and_predicted_with_drop_last(tmp_path, main, monkeypatch):
    task, seen = type(get_task("wnli")), []
    score, arguments = task.score, finetune.Fit._arguments
    monkeypatch.setattr(
        task, "score", lambda self, gold, given: seen.append((len(gold), len(given))) or score(self, gold, given)
    )
    made = []
    monkeypatch.setattr(finetune.Fit, "_arguments", lambda *args: made.append(arguments(*args)) or made[-1])
    (tmp_path / "step").mkdir()
    assert fit.fit(planned(tmp_path, "wnli", **COVERED), tmp_path / "step")["val_records"] == 71
    assert made[0].dataloader_drop_last and made[0].per_device_train_batch_size == 64
    assert len(seen) >= 2 and set(seen) == {(71, 71)}
    answered = main("infer", tmp_path / "step", "--batch-size", "64", input=(tmp_path / "val.jsonl").read_bytes())
    assert answered.returncode == 0 and len(answered.stdout.splitlines()) == 71


@pytest.mark.slow
def test_two_processes_score_all_71_rows_too(tmp_path):
    described = planned(tmp_path, "wnli", **COVERED)
    (tmp_path / "scored.py").write_text(SCORED)
    (tmp_path / "step").mkdir()
    plan = {"model": described.model.model_dump(), "files": {n: str(p) for n, p in described.files.items()}}
    run_program(2, tmp_path / "scored.py", json.dumps(plan), tmp_path / "step")
    for rank in range(2):
        drop_last, *scored = json.loads((tmp_path / "step" / f"seen-{rank}.json").read_text())
        assert drop_last is True and len(scored) >= 2 and all(one == [71, 71] for one in scored)
    assert json.loads((tmp_path / "step/train.json").read_text())["processes"] == 2
