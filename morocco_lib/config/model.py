"""Model files (params/models) and the recipes that they name (params/recipes)."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationError, model_serializer, model_validator

from morocco_lib.config.pretraining import PretrainRecipe, load_pretraining, read_pretraining
from morocco_lib.config.recipe import Recipe
from morocco_lib.config.schema import Schema, Seeds, extended, find_root, load, read_under, refuse, validate
from morocco_lib.errors import UsageError
from morocco_lib.options import BACKENDS, INFERENCE_PRECISIONS, INT8, KINDS, OPENVINO
from morocco_lib.tasks import get_task

TRANSFORMER, TFIDF, PROGRAM = "transformer", "tfidf", "program"
NONE: Mapping[str, Any] = MappingProxyType({})
OF_PROGRAMS = ("command", "image", "cwd", "env")


class TfidfParams(Schema):
    """How a tf-idf model is fitted: see `models.tfidf`. Of several `c` the best on val is taken."""

    ngrams: StrictInt = Field(default=1, ge=1, le=5)
    lowercase: StrictBool = True
    min_df: StrictInt = Field(default=1, ge=1)
    max_df: float = Field(default=1.0, gt=0, le=1)
    c: list[Annotated[float, Field(gt=0)]] = Field(default=[1.0], min_length=1)


class PretrainingParams(Schema):
    """How a model is pre-trained before it is trained on a task: see `training.pretraining`.

    Attributes:
        recipe: A name in params/pretraining, or what such a file holds.
        corpus: Files of text or JSON Lines, or folders that `datasets` saved; relative ones count from the project root.
        field: The key of a document.
        tokenizer: A tokenizer.json or its folder; "": one is trained on the corpus.
        seeds: "1-3": a plan pre-trains it with each, and goes on from the first; "": with the plan's own.
    """

    recipe: PretrainRecipe | str
    corpus: list[str] = Field(min_length=1)
    field: str = "text"
    tokenizer: str = ""
    seeds: Seeds = ""


class ModelParams(Schema):
    """A model config: a params/models file. One of the kit's kinds, or a program of one's own with `command` or `image`.

    Attributes:
        command: A program: one string, split like a shell would, given no shell; `--batch-size N` is appended.
        image: A program: a container image that the engine holds.
        cwd: Working folder of the command; relative ones count from the project root.
        env: Names of environment variables that the program needs; a container is handed these and no others, a command
            these and what most programs need (`runners.process.HANDED`).
        source: A hub id, a folder as transformers saves it (relative ones count from the project root), or `package:NAME/FOLDER`
            in an installed package.
        revision: Of the hub's repository.
        scratch: Instead of a source: `model_type` and settings of a model with random weights.
        pretraining: Instead of a source: how it is pre-trained.
        recipe: How it is trained: a name in params/recipes, or what such a file holds.
        tfidf: How a tf-idf model is fitted.
        precision, backend: Of inference.
        parameters: How many parameters it has, about; for the cost preview of a dry run.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal[(*KINDS, PROGRAM)] = PROGRAM
    command: str = ""
    image: str = ""
    cwd: str = ""
    env: list[str] = Field(default_factory=list)
    source: str = ""
    revision: str = ""
    scratch: dict[str, Any] = Field(default_factory=dict)
    pretraining: PretrainingParams | None = None
    recipe: Recipe | str = ""
    tfidf: TfidfParams = Field(default_factory=TfidfParams)
    precision: Literal[INFERENCE_PRECISIONS] = "fp32"
    backend: Literal[BACKENDS] = "torch"
    parameters: StrictInt = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> "ModelParams":
        program = self.model_dump(include=set(OF_PROGRAMS))
        own = self.model_dump(include=set(type(self).model_fields) - {"name", "kind", "tfidf", *OF_PROGRAMS})
        if self.kind == PROGRAM and bool(self.command) == bool(self.image):
            raise ValueError("a model has a kind, or either command or image")
        if self.kind != PROGRAM and program:
            raise ValueError(f"{', '.join(program)}: for a program, which has no kind")
        if self.image and self.cwd:
            raise ValueError("cwd: of a command; an image has its own working folder")
        if self.kind != TRANSFORMER and own:
            raise ValueError(f"{', '.join(own)}: for transformers only")
        if self.kind != TFIDF and self.tfidf != TfidfParams():
            raise ValueError("tfidf: for models of that kind only")
        if self.kind == TRANSFORMER and sum(map(bool, (self.source, self.scratch, self.pretraining))) != 1:
            raise ValueError("a transformer has either source, scratch or pretraining")
        if self.precision == INT8 and self.backend != OPENVINO:
            raise ValueError(f"precision {INT8}: with backend {OPENVINO} only")
        if self.scratch and not isinstance(self.scratch.get("model_type"), str):
            raise ValueError("scratch has a model_type, as bert or gpt2")
        return self

    @model_serializer(mode="wrap")
    def _chosen(self, whole) -> dict[str, Any]:
        """Leave out what equals its default."""
        fields = type(self).model_fields
        left = {n: field.get_default(call_default_factory=True) for n, field in fields.items()}
        kept = {n: v for n, v in whole(self).items() if getattr(self, n) != left[n]}
        if isinstance(self.recipe, Recipe) and "recipe" in kept:
            kept["recipe"] = self.recipe.model_dump(exclude_defaults=True)
        if "tfidf" in kept:
            kept["tfidf"] = self.tfidf.model_dump(exclude_defaults=True)
        return kept


def load_model(name: str, root: Path | None = None, own: Mapping[str, dict[str, Any]] = NONE) -> ModelParams:
    """Return a model config, its recipe read.

    Args:
        own: Configs that stand in a plan; they and those of files may extend others of both.
        name: Of params/models/<name>.yaml; else a kind of the kit that needs no settings, a folder as transformers saves
            it, or a hub id.
    """
    root = root or find_root(Path.cwd())
    path = root / "params" / "models" / f"{name}.yaml" if root else None
    if name in own or (path and path.is_file()):
        return with_recipe(validate(ModelParams, _extended(name, root, own), name if name in own else str(path)), root)
    if "/" in name or Path(name).is_dir():
        short = re.sub(r"[^a-z0-9._-]+", "-", Path(name).resolve().name.lower()).strip("-._") or "model"
        return ModelParams(name=short, kind=TRANSFORMER, source=name, recipe=Recipe())
    if name == TRANSFORMER:
        raise UsageError(
            f"{TRANSFORMER} is a kind of models", remedy="name one of params/models, a hub id, or a model folder"
        )
    if name not in KINDS:
        known = sorted({*(file.stem for file in path.parent.glob("*.yaml")), "majority", "tfidf"} if path else KINDS)
        near = difflib.get_close_matches(name.lower(), known, n=1)
        raise UsageError(
            f"no model {name!r}",
            rule=f"models: {', '.join(known)}; or a hub id, or a folder",
            remedy=f"did you mean {near[0]!r}?" if near else "",
        )
    return ModelParams(name=name, kind=name)


def _extended(name: str, root: Path | None, own: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the values of a model config, and of the pre-training recipe in it, with what they extend."""

    def find(name: str) -> dict[str, Any]:
        path = (root or Path()) / "params" / "models" / f"{name}.yaml"
        if name not in own and not path.is_file():
            raise UsageError(f"no model {name!r} to extend", rule="a model of the plan, or of params/models")
        values = own[name] if name in own else read_under("model", path)
        if not isinstance(values, dict):
            validate(ModelParams, values, str(path))
        given = values.get("pretraining")
        if isinstance(given, dict) and isinstance(given.get("recipe"), str):  # so that a part of it can be replaced
            values = values | {"pretraining": given | {"recipe": {"extends": given["recipe"]}}}
        return values

    values = extended({"extends": name}, find)
    given = values.get("pretraining")
    if isinstance(given, dict) and isinstance(given.get("recipe"), dict):
        recipe = extended(given["recipe"], lambda one: read_pretraining(one, root))
        values = values | {"pretraining": given | {"recipe": recipe}}
    return values


def with_recipe(model: ModelParams, root: Path | None) -> ModelParams:
    """Return a model config with its recipe read; raises UsageError."""
    if model.kind != TRANSFORMER:
        return model
    if model.pretraining and isinstance(model.pretraining.recipe, str):
        read = load_pretraining(model.pretraining.recipe, root)
        model = model.model_copy(update={"pretraining": model.pretraining.model_copy(update={"recipe": read})})
    if isinstance(model.recipe, Recipe):
        check_tasks(model.recipe, f"{model.name}: recipe")
        return model
    recipe = load_recipe(model.recipe, root) if model.recipe else Recipe()
    return model.model_copy(update={"recipe": recipe})


def load_recipe(name: str, root: Path | None) -> Recipe:
    """Return params/recipes/<name>.yaml, or the recipe of a file; raises UsageError."""
    folder = root / "params" / "recipes" if root else Path("params/recipes")
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
        raise UsageError(f"no recipe {name!r}", rule=f"recipes in {folder}: {known}")
    recipe = load("recipe", Recipe, path)
    check_tasks(recipe, str(path))
    return recipe


def check_tasks(recipe: Recipe, where: str) -> None:
    """Refuse a recipe that changes an unknown setting or task; raises UsageError."""
    for task in recipe.tasks:
        get_task(task)
        try:
            recipe.of_task(task)
        except ValidationError as error:
            raise refuse(error, f"{where}: tasks.{task}", Recipe) from None
