"""The parameters of notebooks."""

import difflib
from collections.abc import Container
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, StrictBool, StrictInt, field_validator

from morocco_lib.config.machine import MachineParams
from morocco_lib.config.model import ModelParams
from morocco_lib.config.recipe import Share
from morocco_lib.config.schema import Count, CountOrFound, Schema, Seeds, parse_seeds, validate
from morocco_lib.config.task import TaskParams
from morocco_lib.errors import UsageError
from morocco_lib.options import HEADS, LINEAR, SYNTHETIC


class Common(Schema):
    """Parameters of every notebook of one model and one task."""

    model: ModelParams
    task: TaskParams
    machine: MachineParams = MachineParams()
    data_dir: str = SYNTHETIC
    out_dir: str = ""
    seed: StrictInt = 1


class PretrainParams(Schema):
    """Parameters of pretrain.ipynb: a model with `pretraining`."""

    model: ModelParams
    out_dir: str = ""
    seed: StrictInt = 1

    @field_validator("model")
    @classmethod
    def _is_pretrained(cls, model: ModelParams) -> ModelParams:
        if not model.pretraining:
            raise ValueError(f"{model.name} has no `pretraining`")
        return model


class TrainParams(Common):
    """Parameters of train.ipynb. `seeds` ("1-5", "1,3") trains a transformer with each and keeps the best by val."""

    seeds: Seeds = ""

    @property
    def all_seeds(self) -> list[int]:
        """The seeds to train with: `seeds`, else the one `seed`."""
        return parse_seeds(self.seeds) if self.seeds else [self.seed]


class SearchParams(Common):
    """Parameters of search.ipynb: what is drawn from, how often, and the seeds that the best is trained with again.

    An empty list leaves what the recipe says.
    """

    trials: Count = 8
    learning_rates: tuple[PositiveFloat, PositiveFloat] = (1e-4, 2e-3)
    batch_sizes: list[Count] = Field(default=[16, 32], min_length=1)
    heads: list[Literal[HEADS]] = Field(default=[LINEAR], min_length=1)
    epochs: list[PositiveFloat] = Field(default=[1, 2], min_length=1)
    dropouts: list[Share] = Field(default=[])
    weight_decays: list[NonNegativeFloat] = Field(default=[])
    again: Seeds = "101-103"


class SpeedParams(Common):
    """Parameters of speed.ipynb."""

    steps: Count = 10
    warmup: Count = 3


class ProtocolSettings(Schema):
    """How an operating point is measured: see `benchmark.bench`."""

    input_size: CountOrFound = 2000
    batch_size: Count = 32
    repeats: CountOrFound = 3
    precision: float = Field(default=0.02, gt=0, lt=1)
    max_minutes: float = Field(default=30.0, gt=0)
    quick: StrictBool = False


class TargetParams(Common):
    """The program: `command`, `image`, else the model's weights, fitted first if none are given."""

    weights_dir: str = ""
    command: str = ""
    image: str = ""


class BenchParams(TargetParams, ProtocolSettings):
    """Parameters of bench.ipynb."""


class EvalParams(TargetParams):
    """Parameters of eval.ipynb."""

    batch_size: Count = 32


class ReportParams(Schema):
    """Parameters of report.ipynb. An empty `plan_dir` takes the newest folder of results."""

    plan_dir: str = ""
    out_dir: str = ""


class OriginalParams(Schema):
    """Parameters of original.ipynb: the original's logs, a folder or a .tar.gz."""

    logs: str = "../MOROCCO/bench/data/jiant"


class SwarmParams(Schema):
    """Parameters of swarm.ipynb: the folder of a `morocco swarm peer`, and for how long it is looked at."""

    folder: str = "outputs/peer"
    minutes: float = Field(default=0.0, ge=0)


def of_notebook(schema: type[Schema], title: str, names: dict[str, Any], given: Container[str] | None = None) -> Schema:
    """Return the validated parameters of a notebook from its global names, so that a misspelt one stops it at once.

    Args:
        schema: Of its parameters.
        title: The notebook's name in messages, without ending.
        names: `globals()` of the notebook.
        given: When its cells run again in one kernel: the names that were there the first time, before later cells made
            theirs. Of the others only those count that are a parameter's name, or nearly.
    """
    known = list(schema.model_fields)
    shell = names["get_ipython"]() if "get_ipython" in names else None
    hidden = getattr(shell, "user_ns_hidden", {})  # IPython's own names, and those of a user's start-up files
    values = {
        name: value
        for name, value in names.items()
        if not (name.startswith("_") or isinstance(value, ModuleType) or callable(value))
        and (name in known or name not in hidden)
    }
    if given is not None:
        values = {n: v for n, v in values.items() if n in given or difflib.get_close_matches(n, known, cutoff=0.9)}
    try:
        return validate(schema, values, f"{title}.ipynb")
    except UsageError as error:
        raise UsageError(
            error.seen, remedy="correct the cell and restart the kernel, which still knows the old name"
        ) from None
