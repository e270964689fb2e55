"""Searches settings of a recipe with Optuna, and tells how optimistic the best of many trials is.

Trials that are behind the median of the others after as many evaluations are ended. Beside the step folder `<step folder>.study/` holds
Optuna's SQLite file: an interrupted search goes on from it, finished trials are not repeated.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from transformers import TrainerCallback

from morocco_lib import fileio
from morocco_lib.config.notebooks import SearchParams
from morocco_lib.config.schema import parse_seeds
from morocco_lib.errors import InvalidResult
from morocco_lib.tasks import get_task
from morocco_lib.training.fit import Plan, make_job, read_labelled, say

RESULT, STUDY = "search.json", "study.db"
FIRST = 3  # trials that are not ended early
ERROR, AGAIN = "error", "again"  # attributes in the study
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}


class _Ending(TrainerCallback):
    """Tells the study each score, and ends a trial that is behind."""

    def __init__(self, trial: optuna.Trial):
        self.trial, self.evaluations = trial, 0

    def on_evaluate(self, args, state, control, metrics, **_) -> None:
        self.evaluations += 1
        self.trial.report(metrics["eval_score"], self.evaluations)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def search(plan: Plan, p: SearchParams, folder: Path) -> dict[str, Any]:
    """Search, train the best settings again with other seeds, and write `search.json` into a step folder.

    Args:
        plan: The model whose recipe is searched around, its files, and the seed of the search and of its trainings.
        p: What is drawn from, how many trials, and the other seeds.
    Returns:
        What `search.json` holds: the trials, the best settings, their scores with the other seeds, and by how much the best
        trial's score is above the mean of these.
    Raises:
        InvalidResult: no trial came to its end.
    """
    task = get_task(get_task(plan.task).trained_on)
    records, val = (read_labelled(task, plan.files[split]) for split in ("train", "val"))
    work = folder.with_name(f"{folder.name}.study")
    work.mkdir(exist_ok=True)
    study = _study(work, plan.seeds[0])

    def trained(settings: dict[str, Any], seed: int, callbacks: Sequence[TrainerCallback] = ()) -> float:
        shutil.rmtree(work / "training", ignore_errors=True)  # of a trial that was killed: no checkpoint of this one
        recipe = plan.model.recipe.of_task(task.name).model_copy(update=settings)
        own = Plan(plan.model.model_copy(update={"recipe": recipe}), plan.task, plan.files, [seed], plan.root)
        try:
            return make_job(own, records, val, work / "training", callbacks=callbacks).seed(seed)[1]["score"]
        finally:
            shutil.rmtree(work / "training", ignore_errors=True)

    def objective(trial: optuna.Trial) -> float:
        choices = {
            "batch_size": p.batch_sizes,
            "head": p.heads,
            "epochs": p.epochs,
            "dropout": p.dropouts,
            "weight_decay": p.weight_decays,
        }
        settings = {"learning_rate": trial.suggest_float("learning_rate", *p.learning_rates, log=True)}
        settings |= {name: trial.suggest_categorical(name, some) for name, some in choices.items() if some}
        try:
            score = trained(settings, plan.seeds[0], [_Ending(trial)])
        except InvalidResult as error:
            trial.set_user_attr(ERROR, str(error))
            raise
        say(f"trial {trial.number}: {score:.4f} on val with {settings}")
        return score

    ended = [trial for trial in study.trials if trial.state != TrialState.FAIL or ERROR in trial.user_attrs]
    study.optimize(objective, n_trials=max(p.trials - len(ended), 0), catch=(InvalidResult,))
    if not (done := study.get_trials(states=(TrialState.COMPLETE,))):
        raise InvalidResult(f"none of {len(study.trials)} trials came to its end")
    best = max(done, key=lambda trial: trial.value)
    again = study.user_attrs.get(f"{AGAIN} {best.number}", {})
    for seed in map(str, parse_seeds(p.again) if p.again else []):
        if seed not in again:
            again = again | {seed: trained(best.params, int(seed))}
            study.set_user_attr(f"{AGAIN} {best.number}", again)
            say(f"seed {seed}: {again[seed]:.4f} on val with the best settings")
    result = {
        "schema": 1,
        "model": plan.model.name,
        "task": task.name,
        "val_records": len(val),
        "trials": [_row(trial) for trial in study.trials],
        "best": {"trial": best.number, "score": best.value, "settings": best.params},
        "again": [{"seed": int(seed), "score": score} for seed, score in again.items()],
        "optimism": optimism(best.value, list(again.values())),
    }
    fileio.write_json(folder / RESULT, result)
    return result


def optimism(best: float, again: Sequence[float]) -> dict[str, float | None]:
    """Return mean and spread of the scores with other seeds, and how far the score that was chosen for being best is above the mean."""
    mean = fmean(again) if again else None
    return {
        "mean": mean,
        "sd": stdev(again) if len(again) > 1 else None,
        "difference": best - mean if again else None,
    }


def _study(work: Path, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{work / STUDY}", study_name="search", direction="maximize", load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST),
    )  # fmt: skip
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    for left in study.get_trials(states=(TrialState.RUNNING,)):  # of an interrupted search
        study.tell(left.number, state=TrialState.FAIL)
    return study


def _row(trial: FrozenTrial) -> dict[str, Any]:
    scores = list(trial.intermediate_values.values())
    took = trial.datetime_complete - trial.datetime_start
    return {
        "trial": trial.number,
        "state": STATES[trial.state],
        **trial.params,
        "evaluations": len(scores),
        "score": trial.value if trial.state == TrialState.COMPLETE else None,
        "best_evaluation": max(scores, default=None),
        "wall_s": took.total_seconds(),
        "error": trial.user_attrs.get(ERROR),
    }
