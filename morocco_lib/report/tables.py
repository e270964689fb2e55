"""The rows of a report as a table, the same in notebook, page, CSV and terminal, and the remarks under it."""

import csv
import io
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from morocco_lib import foreign, formatting
from morocco_lib.reasons import DISTURBED, INVALID
from morocco_lib.report import machines
from morocco_lib.report.points import ESTIMATES, SYNTHETIC, origin_of
from morocco_lib.tasks import get_task, task_names

CSV = "table.csv"
MEASURED = ("program", "weights_sha256", "precision", "backend", "device", "settings", "commit")
TIMED = ("speed_per_s", "init_s", "cpu_s_per_record", "energy_j_per_record")  # what a disturbed machine changes


class Column(NamedTuple):
    """A number of an operating point, wherever results are shown.

    Args:
        head: Its head in notebooks and on the page.
        of: Row -> estimate.
        text: Value of the estimate -> text.
        terminal: Its head on a terminal; "" leaves it out there.
        page: Whether it is a column of the page.
        timed: It depends on time: in a DISTURBED row it is grey, after a "~" on a terminal, and compared with nothing.
    """

    head: str
    of: Callable[[dict[str, Any]], dict[str, Any]]
    text: Callable[[float], str]
    terminal: str = ""
    page: bool = True
    timed: bool = False

    def disturbed(self, row: dict[str, Any]) -> bool:
        """Tell whether its number of a row was disturbed."""
        return self.timed and row["verdict"] == DISTURBED and self.of(row)["value"] is not None


def _majority(row: dict[str, Any]) -> dict[str, Any]:
    return row["score"].get("majority", {"value": None})


COLUMNS = (
    Column("score", itemgetter("score"), formatting.score_text, "score"),
    Column("most frequent answer", _majority, formatting.score_text, "majority", page=False),  # there below the score
    Column("records/s", itemgetter("speed_per_s"), formatting.speed_text, "records/s", timed=True),
    Column("start-up", itemgetter("init_s"), formatting.seconds_text, "start-up", timed=True),
    Column("memory", itemgetter("ram_bytes"), formatting.bytes_text, "memory"),
    Column("GPU memory", itemgetter("gpu_ram_bytes"), formatting.bytes_text),
)


def columns_of(benchmark: str) -> dict[str, list[str]]:
    """Return what a benchmark's total is the mean of: name -> the tasks that are one there (MNLI on both its files)."""
    columns: dict[str, list[str]] = {}
    for name in task_names(benchmark):
        counts_as = get_task(name).counts_as
        if column := name if counts_as is None else counts_as:
            columns.setdefault(column, []).append(name)
    return columns


def mean_of(columns: dict[str, list[str]], values: Mapping[str, float | None]) -> tuple[float | None, list[str]]:
    """Return (the mean over columns of the mean over their tasks, tasks without a value); no mean while any is missing."""
    missing = [name for names in columns.values() for name in names if values.get(name) is None]
    means = [sum(values[name] for name in names) / len(names) for names in columns.values() if not missing]
    return (None if missing else sum(means) / len(means)), missing


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over all tasks of each benchmark for each model, batch size and machine, null while any is missing.

    Each: benchmark, model, batch_size, on, value, tasks (names of what it is the mean of), missing (tasks without a score).
    """
    listed = []
    for benchmark in sorted({get_task(task).benchmark for task in {row["task"] for row in rows}} - {""}):
        columns = columns_of(benchmark)
        names = {name for tasks in columns.values() for name in tasks}
        found: dict[tuple, dict[str, float | None]] = {}
        for row in rows:
            if row["task"] in names:
                key = row["model"], row["batch_size"], row.get("on", "")
                found.setdefault(key, {})[row["task"]] = row["score"]["value"]
        measured = {model for model, batch_size, _ in found if batch_size is not None}
        for (model, batch_size, on), values in sorted(found.items(), key=str):
            if batch_size is None and model in measured:
                continue  # of steps that failed
            value, missing = mean_of(columns, values)
            total = {"benchmark": benchmark, "model": model, "batch_size": batch_size, "on": on}
            listed.append({**total, "value": value, "tasks": [*columns], "missing": missing})
    return listed


def total_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the totals as sentences; none for a single task."""
    if len({row["task"] for row in rows}) < 2:
        return []
    lacking, lines = {}, []
    sampled = any(origin_of(row) == "sample" for row in rows)
    for total in totals(rows):
        what = f"{len(total['tasks'])} tasks of {total['benchmark']}"
        model = name_of(total)
        if total["value"] is None:
            lacking.setdefault((what, *total["missing"]), []).append(model)
        else:
            note = ", on samples, so not comparable with official totals" if sampled else ""
            lines.append(f"{model}: {formatting.score_text(total['value'])}, mean of all {what}{note}.")
    for (what, *missing), models in lacking.items():
        lines.append(f"No total over the {what} for {', '.join(dict.fromkeys(models))}; missing {', '.join(missing)}.")
    return lines


def csv_text(lines: Iterable[Iterable[Any]], delimiter: str = ",") -> str:
    """Return a table as CSV that a spreadsheet computes nothing of."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerows(map(foreign.cell, line) for line in lines)
    return out.getvalue()


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Return the rows as CSV: plain SI numbers, empty where null, with the reason in a column beside."""
    lines, several = [], any(row.get("on") for row in rows)
    for row in rows:
        line = {
            name: row[name] for name in ("task", "model", "batch_size", "input_size", "repeats", "runner", "verdict")
        }
        line |= {"reasons": " ".join(row["reasons"]), "origin": origin_of(row), "score": row["score"]["value"]}
        line |= {f"score_{part}": row["score"].get(part) for part in ("low", "high", "n")}
        line["majority"] = _majority(row)["value"]
        for name in ESTIMATES:
            e = row[name]
            disturbed = DISTURBED if name in TIMED and row["verdict"] == DISTURBED else None
            line |= {name: e["value"], f"{name}_low": e.get("low"), f"{name}_high": e.get("high")}
            line[f"{name}_note"] = e.get("reason") or disturbed or e.get("method")
        line |= {name: row[name] for name in ("bench_folder", "eval_folder")}
        texts = {**row["measured"], "program": program_text(row), "settings": settings_text(row)}
        line |= {name: texts.get(name) for name in MEASURED}
        lines.append(line | ({"machine": f"{row['on']}: {row['machine']}"} if several else {}))
    return csv_text([*lines[:1], *(line.values() for line in lines)])


def name_of(row: dict[str, Any]) -> str:
    """Return the model of a row, and its machine where there are several."""
    return f"{row['model']} ({row['on']})" if row.get("on") else row["model"]


def program_text(row: dict[str, Any]) -> str:
    """Return the image digest or the command that a row was measured of."""
    return row["measured"].get("image_digest") or shlex.join(row["measured"].get("argv") or [])


def settings_text(row: dict[str, Any]) -> str:
    """Return what decides a row's speed beside its program."""
    return ", ".join(f"{name}={value}" for name, value in (row["measured"].get("settings") or {}).items())


def settings_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each setting in which operating points of a machine differ, so that their speeds are not comparable."""
    lines = []
    for machine in dict.fromkeys(row.get("on", "") for row in rows):
        known = [row for row in rows if row["measured"].get("settings") and row.get("on", "") == machine]
        for name in dict.fromkeys(name for row in known for name in row["measured"]["settings"]):
            values: dict[str, list[dict[str, Any]]] = {}
            for row in known:
                values.setdefault(str(row["measured"]["settings"].get(name, "not set")), []).append(row)
            if len(values) > 1:
                listed = "; ".join(f"{value}: {points_text(chosen, known)}" for value, chosen in values.items())
                lines.append(f"Measured with different {name}, so speeds are not comparable: {listed}.")
    return lines


def points_text(chosen: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return which of the rows are meant: all, a model on all of its tasks, or one by one."""
    if len(chosen) == len(rows) > 2:
        return f"all {len(rows)} operating points"
    meant, known = defaultdict(dict), defaultdict(set)  # model -> its tasks
    for row in chosen:
        meant[name_of(row)][row["task"]] = None
    for row in rows:
        known[name_of(row)].add(row["task"])
    texts = []
    for model, tasks in meant.items():
        whole = 2 < len(known[model]) == len(tasks)
        texts += [f"{model} on all tasks"] if whole else [f"{model} on {task}" for task in tasks]
    return ", ".join(texts)


def readable(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as text: task, model, the heads of COLUMNS, verdict."""
    return {
        "task": row["task"] + (" (sample)" if origin_of(row) == "sample" else ""),
        "model": name_of(row) + (f" (batch {row['batch_size']})" if row["batch_size"] else ""),
        **{c.head: "~" * c.disturbed(row) + formatting.with_interval(c.of(row), c.text) for c in COLUMNS},
        "verdict": " ".join([row["verdict"] or "—", *row["reasons"]]),
    }


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Return the remarks under the table: samples, leaks, scores below the majority, reasons, failures."""
    lines = []
    if any(origin_of(row) == SYNTHETIC for row in rows):
        lines.append(
            "Synthetic records, a tenth of them labelled wrong on purpose: the scores say nothing about real language."
        )
    samples = {
        row["task"]: f"{row['task']} {row['data']['records']} of {row['data']['official_records'] or 'more'}"
        for row in rows
        if origin_of(row) == "sample"
    }
    if samples:
        lines.append(f"Samples, not the official splits: {', '.join(samples.values())} records.")
    if leaked := sorted({row["task"] for row in rows if row["trained_on_these"]}):
        lines.append(f"{', '.join(leaked)}: scored on the training records themselves.")
    if selected := sorted({f"{name_of(row)} on {row['task']}" for row in rows if row["chosen_by_these"]}):
        lines.append(
            f"Scored on the records that selected the checkpoint and seed, so slightly too high: {', '.join(selected)}."
        )
    lines += machines.lines(rows)
    spans = {row["task"]: row["data"]["unaligned_spans"] for row in rows if (row["data"] or {}).get("unaligned_spans")}
    lines += [f"{task}: {count} marked spans do not match the text of their records." for task, count in spans.items()]
    lines += total_lines(rows)
    lines += disturbance_lines(rows) + settings_lines(rows)
    reasons: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name, value, majority = f"{name_of(row)} on {row['task']}", row["score"]["value"], _majority(row)
        if value is not None and value < majority["value"]:
            label = f" ({majority['label']})" if "label" in majority else ""
            lines.append(
                f"{name} scores {formatting.score_text(value)}, below the {formatting.score_text(majority['value'])} "
                f"of always giving the most frequent answer of these records{label}."
            )
        for line in formatting.reason_lines(row["reasons"]):
            reasons.setdefault(line, []).append(row)
        lines += [
            f"{name}: {f['step']} {f['state']}: {(f['error'] or 'it did not end').splitlines()[0]}"
            for f in row["failed"]
        ]
    return lines + [f"{points_text(chosen, rows)}: {line}" for line, chosen in reasons.items()]


def disturbance_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return one line that says what was disturbed, by which processes, and what to do; none where nothing was."""
    disturbed = [row for row in rows if row["verdict"] == DISTURBED]
    if not disturbed:
        return []
    shares: dict[tuple[str, int], float] = {}
    for process in (process for row in disturbed for process in row["disturbed_by"]):
        key = process["name"], process["pid"]
        shares[key] = max(shares.get(key, 0.0), process["share"])
    most = sorted(shares, key=shares.get, reverse=True)[:3]
    by = formatting.disturbers_text([{"name": name, "pid": pid, "share": shares[name, pid]} for name, pid in most])
    of = f"{len(disturbed)} of {formatting.counted(len(rows), 'operating point')}"
    return [
        f"DISTURBED: speed and start-up (grey, or marked ~) of {of} were disturbed{by} and are not to be compared; scores and "
        "memory hold. Run it again when the machine is quiet."
    ]


def text_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows for a terminal, without intervals."""
    shown = [column for column in COLUMNS if column.terminal]
    cells = [("task", "model", *(column.terminal for column in shown), "verdict")]
    for row in rows:
        values = ((column, column.of(row)["value"]) for column in shown)
        numbers = ("—" if value is None else "~" * c.disturbed(row) + c.text(value) for c, value in values)
        task = row["task"] + ("*" if origin_of(row) == "sample" else "")
        cells.append((task, name_of(row), *numbers, row["verdict"] or "—"))
    return formatting.text_table(cells, right=range(2, 2 + len(shown)))


def styled(rows: list[dict[str, Any]]):
    """Return the readable rows as a table for notebooks: INVALID rows and disturbed numbers in grey."""
    import pandas

    grey, columns = "color: #999999", {column.head: column for column in COLUMNS}

    def colours(cells):
        column = columns.get(cells.name)
        faint = (row["verdict"] == INVALID or (column and column.disturbed(row)) for row in rows)
        return [grey if found else "" for found in faint]

    frame = pandas.DataFrame([readable(row) for row in rows])
    return frame.style.apply(colours).hide(axis="index").format(escape="html")
