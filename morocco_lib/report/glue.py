"""The results of GLUE as the founding project's README prints them: a model a line, both averages, and what several runs say."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from morocco_lib import foreign
from morocco_lib.report import tables
from morocco_lib.tasks import get_task

NAME = "glue"  # of the files beside table.csv
BENCHMARK = "GLUE"
AVERAGES = {"average_bert": ("wnli",), "average_glue": ()}  # without these
UNITS = {
    "average_bert": "Average w/o wnli", "average_glue": "Average all tasks", "cola": "Matthew's corr", "mnli": "Matched acc./Mismatched acc.",
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


def results(rows: Sequence[dict[str, Any]], trainings: Sequence[dict[str, Any]]) -> Results | None:
    """Return the tables of a report's rows and trainings; None without a task of GLUE.

    A score that is not of every record of its file is not shown, and counts as missing. Of several operating points of a
    model on a task it is that of the VALID one with the most records a second.
    """
    columns = tables.columns_of(BENCHMARK)
    of_glue = [row for row in rows if get_task(row["task"]).benchmark == BENCHMARK]
    if not of_glue:
        return None
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(of_glue, key=lambda r: (r["verdict"] == "VALID", r["speed_per_s"]["value"] or 0)):
        whole = row["score"]["value"] is not None and row["score"].get("n") == row["data"]["records"]
        found.setdefault(row["model"], {})[row["task"]] = row["score"] if whole else {"value": None}
    lines, notes = [], []
    for model, scores in sorted(found.items()):
        values = {task: score["value"] for task, score in scores.items()}
        cells, lacking = [], []
        for left_out in AVERAGES.values():
            value, lacking = tables.mean_of({c: names for c, names in columns.items() if c not in left_out}, values)
            cells.append(_percent(value))
        if lacking:
            notes.append(f"{model}: no average of all tasks; missing {', '.join(lacking)}.")
        for names in columns.values():
            parts = [
                scores.get(name, {}).get("metrics", {}).get(m) for name in names for m in get_task(name).metric_names
            ]
            cells.append("/".join(_percent(part) or "-" for part in parts) if any(p is not None for p in parts) else "")
        lines.append([model, *cells, *("" for _ in PRETRAINING)])
    scored = {
        row["task"]: f"{row['task']} {row['score']['n']} of {row['data']['records']}"
        for row in of_glue
        if row["score"].get("n")
    }
    notes.append(f"Records scored, of those in the file: {', '.join(scored.values()) or 'none'}.")
    heads = ["model", *AVERAGES, *columns, *PRETRAINING]
    return Results(heads, [UNITS.get(head, "Accuracy") for head in heads], lines, _runs(trainings), notes)


def _runs(trainings: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return what the runs of each training say: their spread, and all metrics of the one run that was kept."""
    lines = []
    for one in trainings:
        if get_task(one["task"]).benchmark == BENCHMARK and one["metrics"]:
            spread = [
                "/".join(_percent(m[name]) or "-" for m in one["metrics"].values()) for name in ("mean", "sd", "kept")
            ]
            lines.append(
                [
                    one["task"],
                    one["model"],
                    PROTOCOLS.get(one["kept"], "-"),
                    str(one["seeds"]),
                    *spread,
                    _percent(one["gain"]) or "-",
                ]
            )
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def files(found: Results | None) -> dict[str, str]:
    """Return file name -> text: the table as CSV, the runs as CSV, and both as Markdown."""
    if found is None:
        return {}
    table = _markdown([found.heads, found.units, *found.lines])
    runs = f"\n{_markdown([RUNS, *found.runs])}" if found.runs else ""
    texts = {
        f"{NAME}.csv": _csv([found.heads, *found.lines]),
        f"{NAME}.md": f"{table}{runs}\n{chr(10).join(found.notes)}\n",
    }
    return texts | ({f"{NAME}-runs.csv": _csv([RUNS, *found.runs])} if found.runs else {})


def _csv(lines: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([map(foreign.cell, line) for line in lines])
    return out.getvalue()


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
    return head + "|:---" * len(lines[0]) + "|\n" + "".join(rest)
