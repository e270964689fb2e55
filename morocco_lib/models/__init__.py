"""Who answers. A model is fitted on one task, kept as a folder of JSON and safetensors, and answers records."""

import difflib
import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.records import Record

KINDS = {"majority": "Majority", "tfidf": "Tfidf", "transformer": "Transformer"}  # module in this room -> class in it


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
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise UsageError(
            f"no model {kind!r}",
            rule=f"models: {', '.join(KINDS)}",
            remedy=f"did you mean {near[0]!r}?" if near else "",
        )
    return getattr(importlib.import_module(f"{__name__}.{kind}"), KINDS[kind])
