"""Who answers. A model is fitted on one task, kept as a folder of JSON and safetensors, and answers records.

May import `tasks` and what stands below it: a container holds this package.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from morocco_lib.options import KINDS, check_kind
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.jsonl import Record


class Model(Protocol):
    """A model of one task.

    A kind that reads more than JSON values and NumPy arrays has `from_folder(task, values, folder, options)` instead of
    `from_state`, and is fitted in a room of its own. One that answers best in windows of many records has
    `stream(records, batch_size)`, which yields lists of predictions in order.
    """

    kind: str

    @classmethod
    def fit(cls, task: Task, records: Sequence[Record], seed: int) -> "Model":
        """Return a model fitted on labelled records."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (JSON values, name -> NumPy array): all that `from_state` needs."""

    @classmethod
    def from_state(cls, task: Task, values: dict[str, Any], arrays: dict[str, Any]) -> "Model":
        """Return the model that `state` described; raises KeyError or ValueError if it does not fit."""

    def answer(self, records: Sequence[Record]) -> list[Prediction]:
        """Return one prediction a record, in order; labels in the records are not looked at."""


def model_class(kind: str) -> type[Model]:
    """Return the class of a kind of model.

    Raises:
        UsageError: no such kind; the nearest known one is named.
    """
    check_kind(kind)
    module, _, name = KINDS[kind].rpartition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
