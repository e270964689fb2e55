"""Gives every record the most frequent answer of the training records: the bar every model has to clear."""

from collections.abc import Sequence

from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.jsonl import Record


class Majority:
    kind = "majority"

    def __init__(self, task: Task, answer: Prediction):
        self.task, self._answer = task, answer

    def __repr__(self) -> str:
        return f"<Majority of {self.task.title}: {self._answer!r:.60}>"

    @classmethod
    def fit(cls, task: Task, records: Sequence[Record], seed: int) -> "Majority":
        return cls(task, task.majority([task.gold(record) for record in records]))

    def state(self) -> tuple[dict, dict]:
        return {"answer": self._answer}, {}

    @classmethod
    def from_state(cls, task: Task, values: dict, arrays: dict) -> "Majority":
        answer = values["answer"]
        if task.labels and answer.get("label") not in task.labels:
            raise ValueError(f"answer {answer} is none of {task.title}")
        return cls(task, answer)

    def answer(self, records: Sequence[Record]) -> list[Prediction]:
        return [self.task.constant(self._answer, record) for record in records]
