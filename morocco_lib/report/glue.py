"""The results of GLUE as the founding project's README prints them: a model a line, both averages, and what several runs say."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from morocco_lib.report import tables
from morocco_lib.report.points import SYNTHETIC, origin_of
from morocco_lib.tasks import get_task

NAME = "glue"  # of the files beside table.csv
BENCHMARK = "GLUE"
AVERAGES = {"average_bert": ("wnli",), "average_glue": ()}  # without these
UNITS = {
    "average_bert": "Average without wnli", "average_glue": "Average all tasks", "cola": "Matthew's corr", "mnli": "Matched acc./Mismatched acc.",
    "mrpc": "F1/Accuracy", "qqp": "Accuracy/F1", "stsb": "Pearson/Spearman corr.", "eval loss": "log(perplexity)", "model": "", "perplexity": "",
}  # fmt: skip
PROTOCOLS = {"end of training": "seed: end of training", "best checkpoint": "final: best checkpoint"}
PRETRAINING = ("perplexity", "eval loss")  # of the model before it was fine-tuned
RUNS = ("task", "model", "protocol", "runs", "mean", "sd", "maximum", "expected gain of the maximum")


class Results(NamedTuple):
    """Tables as text: `lines` a model, `runs` a training of several or one; `notes` say what is missing, and what was scored."""

    heads: list[str]
    units: list[str]
    lines: list[list[str]]
    runs: list[list[str]]
    notes: list[str]


def results(
    rows: Sequence[dict[str, Any]], trainings: Sequence[dict[str, Any]], pretrainings: Sequence[dict[str, Any]] = ()
) -> Results | None:
    """Return the tables of a report's rows, trainings and pre-trainings; None without a task of GLUE.

    A score that is not of every record of its file is not shown, and counts as missing. Of several operating points of a
    model on a task it is that of the VALID one with the most records a second.
    """
    columns = tables.columns_of(BENCHMARK)
    of_glue = rows_of(rows)
    if not of_glue:
        return None
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(of_glue, key=lambda r: (_whole(r), r["verdict"] == "VALID", r["speed_per_s"]["value"] or 0)):
        found.setdefault(row["model"], {})[row["task"]] = row["score"] if _whole(row) else {"value": None}
    lines, lacking = [], {}
    for model, scores in sorted(found.items()):
        values = {task: score["value"] for task, score in scores.items()}
        cells, missing = [], []
        for left_out in AVERAGES.values():
            value, missing = tables.mean_of({c: names for c, names in columns.items() if c not in left_out}, values)
            cells.append(_percent(value))
        if missing:
            lacking.setdefault(", ".join(missing), []).append(model)
        for names in columns.values():
            metrics = [
                (scores.get(name, {}).get("metrics", {}), metric)
                for name in names
                for metric in get_task(name).metric_names
            ]
            cells.append(_joined([known.get(metric) for known, metric in metrics]))
        made = next((one for one in pretrainings if one["model"] == model), None)
        lines.append([model, *cells, *([f"{made['perplexity']:.3f}", f"{made['loss']:.3f}"] if made else ["", ""])])
    heads = ["model", *AVERAGES, *columns, *PRETRAINING]
    notes = [f"{', '.join(models)}: no average of all tasks; missing {names}." for names, models in lacking.items()]
    units = [UNITS.get(head, "Accuracy") for head in heads]
    return Results(heads, units, lines, _runs(trainings), notes + _of_what(of_glue))


def rows_of(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of its tasks."""
    return [row for row in rows if get_task(row["task"]).benchmark == BENCHMARK]


def _whole(row: dict[str, Any]) -> bool:
    """Tell whether a row has a score of every record of its file."""
    return row["score"]["value"] is not None and row["score"].get("n") == row["data"]["records"]


def _of_what(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the scores are of: how many records of each file, the least of all models, and whether the files are official."""
    scored: dict[str, tuple[int, int]] = {}
    for row in rows:
        if n := row["score"].get("n"):
            scored[row["task"]] = min((n, row["data"]["records"]), scored.get(row["task"], (n, row["data"]["records"])))
    notes = [
        f"Records scored, of those in the file: {', '.join(f'{t} {n} of {all_}' for t, (n, all_) in scored.items()) or 'none'}."
    ]
    origins = {row["task"]: origin_of(row) for row in rows if row["data"]}
    for origin, what in (
        ("sample", "Not the official files, so not comparable with published scores"),
        (SYNTHETIC, "Synthetic records"),
    ):
        if names := [task for task, one in origins.items() if one == origin]:
            notes.append(f"{what}: {', '.join(names)}.")
    return notes


def _runs(trainings: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return what the runs of each training say: their spread, and all metrics of the one run that was kept."""
    lines = []
    for one in trainings:
        if one["metrics"] and get_task(one["task"]).benchmark == BENCHMARK:
            spread = [_joined([metric[name] for metric in one["metrics"].values()]) for name in ("mean", "sd", "kept")]
            protocol, gain = PROTOCOLS.get(one["kept"], ""), _percent(one["gain"])
            lines.append([one["task"], one["model"], protocol, str(one["seeds"]), *spread, gain])
    return lines


def _joined(values: Sequence[float | None]) -> str:
    """Return the metrics of a task as a cell, "" without any."""
    return "/".join(_percent(value) or "-" for value in values) if any(v is not None for v in values) else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def files(found: Results | None) -> dict[str, str]:
    """Return file name -> text: the table as CSV, the runs as CSV, and both as Markdown."""
    if found is None:
        return {}
    table = _markdown([found.heads, found.units, *found.lines])
    runs = f"\n{_markdown([RUNS, *found.runs])}" if found.runs else ""
    texts = {
        f"{NAME}.csv": tables.csv_text([found.heads, *found.lines]),
        f"{NAME}.md": f"{table}{runs}\n{chr(10).join(found.notes)}\n",
    }
    return texts | ({f"{NAME}-runs.csv": tables.csv_text([RUNS, *found.runs])} if found.runs else {})


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
    return head + "|:---" * len(lines[0]) + "|\n" + "".join(rest)
