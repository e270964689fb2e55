"""The rows of a report as a table, the same in notebook, page, CSV and terminal, and the remarks under it."""

import csv
import io
import shlex
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

from morocco_lib import foreign, formatting
from morocco_lib.reasons import DISTURBED, INVALID
from morocco_lib.report.points import ESTIMATES, SYNTHETIC, origin_of
from morocco_lib.tasks import get_task, task_names

CSV = "table.csv"
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


<<<<<<< HEAD
=======
def collect(plan_dir: Path, kinds: Kinds, folders: Collection[Path] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a folder of results, sorted by task, model and batch size.

    A row holds task, model, batch_size, input_size, repeats, runner, data, verdict, reasons, score, every estimate as
    in bench.json, and the folders it came from. The score is eval's where an eval fed the same records to the same
    weights or command at the same batch size, else the timed runs'; an eval that fits no bench is a row of its own.

    Args:
        kinds: The kinds of steps: which of them are operating points, scores, trainings.
        folders: Only these step folders (resolved); None: all that were not set aside.
    """
    cells: dict[tuple, list[tuple[Path, dict]]] = {}
    for folder, status in steps.find_steps(plan_dir, folders):
        if status["task"] and (folders is not None or not steps.is_retired(folder, status)):
            foreign.check_tree(folder, steps.STATUS)
            cells.setdefault((status["task"], status["model"]), []).append((folder, status))
    finished = [one for found in cells.values() for one in found if one[1]["state"] == steps.DONE]
    subjects = {f: _subject(f, s) for f, s in finished if shown_as(s, kinds) in (POINT, SCORE)}
    evals = {subjects[f]: (f, s) for f, s in finished if shown_as(s, kinds) == SCORE}
    measured = {subjects[f] for f, s in finished if shown_as(s, kinds) == POINT}
    rows = []
    for (task, model), found in cells.items():
        done = [(folder, status) for folder, status in found if status["state"] == steps.DONE]
        here = []
        for folder, status in done:
            if shown_as(status, kinds) == POINT:
                row, scored = _point(folder, status, plan_dir, kinds), evals.get(subjects[folder])
                here.append(row | _joined(row, folder, *scored, plan_dir, kinds) if scored else row)
            elif shown_as(status, kinds) == SCORE and subjects[folder] not in measured:
                here.append({**_empty(), **_score(folder, status, plan_dir, kinds)})
        failed = [
            {"step": s["step"], "folder": _name(f, plan_dir), "state": s["state"], "error": s["error"]}
            for f, s in found
            if s["state"] != steps.DONE
        ]
        if failed and not here:
            here = [{**_empty(), "verdict": "FAILED"}]
        fitted = [read_result(f, s, kinds) for f, s in done if shown_as(s, kinds) == TRAINING]
        trained, selected = ({one.get(name, {}).get("sha256") for one in fitted} for name in ("data", "val"))
        for row in here:
            digest = (row["data"] or {}).get("sha256", "")
            known = {"trained_on_these": digest in trained, "chosen_by_these": digest in selected}
            rows.append({"task": task, "model": model, **row, **known, "failed": failed})
    return sorted(rows, key=lambda row: (row["task"], row["model"], row["batch_size"] or 0, row["bench_folder"] or ""))


def _subject(folder: Path, status: dict[str, Any]) -> Any:
    """Return what identifies an operating point: records, image or else weights, arguments with batch size; not its name."""
    for path in sorted(folder.glob("runs/[0-9]*/run.json")):
        facts = foreign.read_json(path, folder, {"argv": [str], "image_digest": (str, None)})
        records, argv = read_workload(path.parent)["source"].get("sha256"), facts["argv"]
        image, weights = facts["image_digest"], _weights(status)
        if weights and not image:
            argv = [Path(word).name for word in argv]  # each step may have weights in a folder of its own
        of_files = image or weights or frozenset(status["inputs"].values())  # of a script
        return records, of_files, tuple(argv)
    return folder


def _weights(status: dict[str, Any]) -> str | None:
    """Return the digest of the weights that a step was given or made."""
    files = {Path(path).name: sha256 for path, sha256 in (status["outputs"] | status["inputs"]).items()}
    return next((files[name] for name in WEIGHTS_FILES if name in files), None)


def _joined(
    row: dict[str, Any], folder: Path, scored: Path, status: dict[str, Any], plan_dir: Path, kinds: Kinds
) -> dict[str, Any]:
    """Return what an eval makes of the row of a bench: its score, and INVALID where it answered the same records otherwise."""
    ours, theirs = (read_answers(read_run(run_folders(one)[0])).first for one in (folder, scored))
    differ, compared = differing(ours, theirs)
    scored_as = _score(scored, status, plan_dir, kinds)
    if differ <= EVAL_SHARE * compared:
        return scored_as
    return scored_as | {"verdict": INVALID, "reasons": [*row["reasons"], Reason.EVAL_FLIPS]}


def _name(folder: Path, plan_dir: Path) -> str:
    return folder.relative_to(plan_dir).as_posix()


def _empty() -> dict[str, Any]:
    null = {"value": None, "reason": None}
    return {
        "verdict": None, "reasons": [], "disturbed_by": [], "measured": {}, "batch_size": None, "input_size": None,
        "repeats": None, "runner": None, "proven": None, "data": None, "flips": None, "bench_folder": None, "eval_folder": None,
        "score": dict(null), **{name: dict(null) for name in ESTIMATES},
    }  # fmt: skip


def read_result(folder: Path, status: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Return the result that a step left; raises UsageError unless everything can be shown."""
    path, shown = folder / kinds[status["step"]].result, shown_as(status, kinds)
    result = foreign.read_json(path, folder, SHAPES.get(shown, ...))
    try:
        if shown in (POINT, SCORE):
            _check_values(result)
        return result
    except ValueError as error:
        raise UsageError(f"the result in {folder} is broken ({error})", remedy="run the step again") from None


def _check_values(result: dict[str, Any]) -> None:
    estimates = [result[name] for name in ("score", *ESTIMATES) if name in result]
    for code in (*result.get("reasons", ()), *(one["reason"] for one in estimates if one.get("reason"))):
        Reason(code)
    if result.get("verdict", VALID) not in EXIT_CODES:
        raise ValueError(f"verdict {result['verdict']!r:.40}")
    if any((one.get(part) or 0) < 0 for one in estimates[1:] for part in ("value", "low", "high")):
        raise ValueError("a measured number below 0")
    if result["score"]["value"] is not None and "majority" not in result["score"]:
        raise ValueError("a score without that of the most frequent answer")


def _point(folder: Path, status: dict[str, Any], plan_dir: Path, kinds: Kinds) -> dict[str, Any]:
    names = _empty().keys() - {"bench_folder", "eval_folder", "disturbed_by", "measured", "proven"}
    result = read_result(folder, status, kinds)
    later = {
        "disturbed_by": result.get("disturbed_by", []),
        "measured": _measured(result, status),
        "proven": result.get("proven"),
    }  # older ones lack it
    return {**_empty(), **_read(folder, status, kinds, names), **later, "bench_folder": _name(folder, plan_dir)}


def _measured(result: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    """Return what an operating point was measured of: program, weights, how it computed, what decides its speed."""
    measured = {
        name: result.get(name) for name in ("argv", "image_digest", "precision", "backend", "device", "settings")
    }
    return {**measured, "weights_sha256": _weights(status), "commit": status["code"]["commit"]}


def _score(folder: Path, status: dict[str, Any], plan_dir: Path, kinds: Kinds) -> dict[str, Any]:
    return {**_read(folder, status, kinds, ("score", "batch_size", "data")), "eval_folder": _name(folder, plan_dir)}


def _read(folder: Path, status: dict[str, Any], kinds: Kinds, names: Iterable[str]) -> dict[str, Any]:
    result = read_result(folder, status, kinds)
    try:
        return {name: result[name] for name in names}
    except (KeyError, TypeError) as error:
        raise UsageError(f"the result in {folder} is broken ({error})", remedy="run the step again") from None


def origin_of(row: dict[str, Any]) -> str | None:
    """Return where a row's records come from: synthetic, files, or sample for part of an official split."""
    data = row["data"]
    return None if data is None else "sample" if data["sample"] else data["origin"]


>>>>>>> one
def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over all tasks of each benchmark for each model and batch size, null while any is missing.

    Each: benchmark, model, batch_size, value, tasks (names), missing (names of those without a score).
    """
    listed = []
    for benchmark in sorted({get_task(task).benchmark for task in {row["task"] for row in rows}} - {""}):
        names = task_names(benchmark)
        found: dict[tuple, dict[str, float | None]] = {}
        for row in rows:
            if row["task"] in names:
                found.setdefault((row["model"], row["batch_size"]), {})[row["task"]] = row["score"]["value"]
        for (model, batch_size), values in sorted(found.items(), key=str):
            missing = [name for name in names if values.get(name) is None]
            value = None if missing else sum(values[name] for name in names) / len(names)
            total = {"model": model, "batch_size": batch_size, "value": value, "tasks": names, "missing": missing}
            listed.append({"benchmark": benchmark, **total})
    return listed


def total_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the totals as sentences; none for a single task."""
    if len({row["task"] for row in rows}) < 2:
        return []
    lacking, lines = {}, []
    sampled = any(origin_of(row) == "sample" for row in rows)
    for total in totals(rows):
        what = f"{len(total['tasks'])} tasks of {total['benchmark']}"
        if total["value"] is None:
            lacking.setdefault((what, *total["missing"]), []).append(total["model"])
        else:
            note = ", on samples, so not comparable with official totals" if sampled else ""
            lines.append(f"{total['model']}: {formatting.score_text(total['value'])}, mean of all {what}{note}.")
    for (what, *missing), models in lacking.items():
        lines.append(f"No total over the {what} for {', '.join(dict.fromkeys(models))}; missing {', '.join(missing)}.")
    return lines


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Return the rows as CSV: plain SI numbers, empty where null, with the reason in a column beside."""
    out = io.StringIO()
    plain = ["task", "model", "batch_size", "input_size", "repeats", "runner", "verdict", "reasons", "origin"]
    score = ["score", "score_low", "score_high", "score_n", "majority"]
    estimates = [f"{name}{part}" for name in ESTIMATES for part in ("", "_low", "_high", "_note")]
    writer = csv.writer(out, lineterminator="\n")
    measured = ["program", "weights_sha256", "precision", "backend", "device", "settings", "commit"]
    writer.writerow([*plain, *score, *estimates, "bench_folder", "eval_folder", *measured])
    for row in rows:
        s = row["score"]
        values = [row[name] for name in plain[:-2]] + [" ".join(row["reasons"]), origin_of(row)]
        values += [s["value"], s.get("low"), s.get("high"), s.get("n"), s.get("majority", {}).get("value")]
        for name in ESTIMATES:
            e = row[name]
            disturbed = DISTURBED if name in TIMED and row["verdict"] == DISTURBED else None
            values += [e["value"], e.get("low"), e.get("high"), e.get("reason") or disturbed or e.get("method")]
        texts = {**row["measured"], "program": program_text(row), "settings": settings_text(row)}
        values += [row["bench_folder"], row["eval_folder"], *(texts.get(name) for name in measured)]
        writer.writerow(map(foreign.cell, values))
    return out.getvalue()


def program_text(row: dict[str, Any]) -> str:
    """Return the image digest or the command that a row was measured of."""
    return row["measured"].get("image_digest") or shlex.join(row["measured"].get("argv") or [])


def settings_text(row: dict[str, Any]) -> str:
    """Return what decides a row's speed beside its program."""
    return ", ".join(f"{name}={value}" for name, value in (row["measured"].get("settings") or {}).items())


def settings_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each setting in which operating points differ, so that their speeds are not comparable."""
    known = [row for row in rows if row["measured"].get("settings")]
    lines = []
    for name in dict.fromkeys(name for row in known for name in row["measured"]["settings"]):
        values = {str(row["measured"]["settings"].get(name, "not set")): [] for row in known}
        for row in known:
            values[str(row["measured"]["settings"].get(name, "not set"))].append(f"{row['model']} on {row['task']}")
        if len(values) > 1:
            listed = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
            lines.append(f"Measured with different {name}, so speeds are not comparable: {listed}.")
    return lines


def memory_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line that names the rows of before mapped files counted as memory, where other rows count them."""
    older = [row for row in rows if row["ram_bytes"].get("method") in ("cgroup v1", "cgroup v2", "proc")]
    if not older or all(row in older for row in rows if row["ram_bytes"]["value"]):
        return []
    names = ", ".join(f"{row['model']} on {row['task']}" for row in older)
    return [
        f"Measured before mapped files counted as memory, so their memory is not comparable with the others': {names}."
    ]


def readable(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as text: task, model, the heads of COLUMNS, verdict."""
    return {
        "task": row["task"] + (" (sample)" if origin_of(row) == "sample" else ""),
        "model": row["model"] + (f" (batch {row['batch_size']})" if row["batch_size"] else ""),
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
    if selected := sorted({f"{row['model']} on {row['task']}" for row in rows if row["chosen_by_these"]}):
        lines.append(
            f"Scored on the records that selected the checkpoint and seed, so slightly too high: {', '.join(selected)}."
        )
    spans = {row["task"]: row["data"]["unaligned_spans"] for row in rows if (row["data"] or {}).get("unaligned_spans")}
    lines += [f"{task}: {count} marked spans do not match the text of their records." for task, count in spans.items()]
    lines += total_lines(rows)
    lines += disturbance_lines(rows) + settings_lines(rows) + memory_lines(rows)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        name, value, majority = f"{row['model']} on {row['task']}", row["score"]["value"], _majority(row)
        if value is not None and value < majority["value"]:
            label = f" ({majority['label']})" if "label" in majority else ""
            lines.append(
                f"{name} scores {formatting.score_text(value)}, below the {formatting.score_text(majority['value'])} "
                f"of always giving the most frequent answer of these records{label}."
            )
        for line in formatting.reason_lines(row["reasons"]):
            reasons.setdefault(line, []).append(name)
        lines += [
            f"{name}: {f['step']} {f['state']}: {(f['error'] or 'it did not end').splitlines()[0]}"
            for f in row["failed"]
        ]
    return lines + [f"{', '.join(dict.fromkeys(names))}: {line}" for line, names in reasons.items()]


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
        cells.append((task, row["model"], *numbers, row["verdict"] or "—"))
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
