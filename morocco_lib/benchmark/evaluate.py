"""Feed every record of a split exactly once, check and score the predictions: preds.jsonl and score.json."""

import secrets
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis.summary import PREDICTIONS, SCORE, derive_eval
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Target
from morocco_lib.data import workload
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.checking import check_file
from morocco_lib.tasks.form import AnswerKind


def answers_table(task: Task, source: Path, folder: Path):
    """Return a DataFrame of the answered records: the record's own columns, `right` (None without label) and `given`.

    Of probabilities the most probable label is shown; other answers that are more than a label as their line of the submission.
    """
    import pandas

    records = task.read(source)
    predictions = check_file(task, folder / PREDICTIONS, records).predictions

    def shown(prediction):
        if prediction is None:
            return None
        if task.answer_kind is AnswerKind.PROBABILITIES:
            return task.labels_in(prediction)[0]
        return prediction.get("label", task.format(prediction))

    right = [shown(task.gold(r)) for r in records]
    columns = {"right": right, "given": [shown(predictions[task.key(r)]) for r in records]}
    return pandas.DataFrame([task.strip_labels(r) for r in records]).set_index("idx").assign(**columns)


def facets_table(task: Task, source: Path, folder: Path):
    """Return a DataFrame of the groups of labelled records that the task tells apart: records, and how many of them were answered right.

    Its index is (facet, group); it is empty where the task has no `facets`, or no record a label.
    """
    import pandas

    answers = answers_table(task, source, folder)
    found = [
        (facet, group, right == given)
        for record, right, given in zip(task.read(source), answers["right"], answers["given"], strict=True)
        if pandas.notna(right)
        for facet, group in task.facets(record).items()
    ]
    grouped = pandas.DataFrame(found, columns=["facet", "group", "right"]).groupby(["facet", "group"])["right"]
    return grouped.agg(["size", "sum", "mean"]).set_axis(["records", "right", "accuracy"], axis=1)


def evaluate(target: Target, task: Task, source: Path, folder: Path, *, batch_size: int = 32) -> dict[str, Any]:
    """Answer a file of records once, write preds.jsonl (submission format) and score.json, and return the latter.

    Where the task's leaderboard takes a table, that is written beside preds.jsonl.

    The records are shuffled, anew each time; preds.jsonl is in the order of the file.

    Args:
        target: The program, its runner and its limits.
        source: A file of the task's records; labels, if any, are stripped before feeding and used for the score.
        folder: An existing folder without runs; gets runs/01/, preds.jsonl and score.json.
        batch_size: Records answered together.
    Raises:
        InvalidResult: the program failed or its answers are wrong; there is no score then.
        UsageError: the file of records cannot be read, no such program.
        EnvironmentFailure: the folder cannot be written, the engine failed.
    """
    records = task.read(source)
    load = workload.build(task, records, len(records), secrets.randbits(48))
    with RunSeries(target, load, source, folder, batch_size=batch_size) as series:
        series.run(folder, "eval")
    texts, result = derive_eval(folder)
    for name, text in texts.items():
        fileio.write_text(folder / name, text)
    fileio.write_json(folder / SCORE, result)
    return result
