"""A board: a folder for a repository, that keeps every entry and every ranking it ever had.

board.json      what is ranked: tasks, and the digest of the records of each
entries/        <id>-<number>.json: each model of each submission, accepted or not, with every check
reruns/         step folders of what was measured again
history/        0001.json ...: the ranking as it was after each `morocco rank`
README.md       the newest ranking as a page
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import morocco_lib
from morocco_lib import data, fileio
from morocco_lib.analysis import pareto
from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.leaderboard import checks, founding, page, ranks, submission
from morocco_lib.leaderboard.entry import MEMORY, METRICS, SCORE, SPEED, Entry, Outcome
from morocco_lib.leaderboard.rerun import rerun
from morocco_lib.tasks import get_task, task_names

BOARD, ENTRIES, HISTORY, RERUNS, PAGE = "board.json", "entries", "history", "reruns", "README.md"
PLACES = ("rank", "last", "subset_rank", "subset_last")
BENCHMARK = "Russian SuperGLUE"


def terms(
    folder: Path, tasks: Sequence[str] | None, data_dir: Path | None, split: str, signers: Path | None
) -> checks.Terms:
    """Return what a board ranks: as it was begun, or for a new one as it is requested.

    Raises:
        UsageError: it ranks other tasks, or other records than those in `data_dir`; a file is missing.
    """
    if signers and not signers.is_file():
        raise UsageError(f"no file {signers}", rule="a line of it is a name and a public key of ssh")
    shape = {"tasks": [str], "records": {str: str}}
    begun = fileio.read_json(folder / BOARD, shape=shape) if (folder / BOARD).exists() else {}
    chosen = tuple(get_task(task).name for task in tasks or begun.get("tasks") or task_names(BENCHMARK))
    if begun and set(chosen) != set(begun["tasks"]):
        raise UsageError(f"{folder} ranks {', '.join(begun['tasks'])}", remedy="give -o another folder")
    files = {task: data.find_split(data_dir, get_task(task), split) for task in chosen} if data_dir else {}
    records = {task: fileio.sha256_file(path) for task, path in files.items()}
    known = begun.get("records", {})
    if other := [task for task in records if records[task] != known.get(task, records[task])]:
        raise UsageError(
            f"{folder} ranks answers to other records of {', '.join(other)}", remedy="give -o another folder"
        )
    return checks.Terms(chosen, known | records, files, signers)


def add(
    paths: Sequence[Path],
    folder: Path,
    terms: checks.Terms,
    image: str | None = None,
    say: Callable[[str], None] = print,
) -> list[Entry]:
    """Judge submissions, one after the other, and keep their entries; returns them.

    Args:
        image: Measure it again for the entries that it made.
        say: Called with the progress of that.
    """
    (folder / ENTRIES).mkdir(parents=True, exist_ok=True)
    (folder / HISTORY).mkdir(exist_ok=True)
    judged = []
    for path in paths:
        found = checks.judge(path, terms, entries(folder)) if path.suffix == ".zip" else _founding(path, terms)
        if image:
            found = [e if e.verdict == "refused" else rerun(e, image, terms, folder / RERUNS, say) for e in found]
        for old in (folder / ENTRIES).glob(f"{found[0].id}-*.json"):
            old.unlink()
        for number, entry in enumerate(found, 1):
            entry.write(folder / ENTRIES, number)
            if entry.verdict != "refused":
                terms = replace(terms, records={**entry.records, **terms.records})
        records = {task: digest for task, digest in terms.records.items() if task in terms.tasks}
        fileio.write_json(folder / BOARD, {"schema": 1, "tasks": terms.tasks, "records": records})
        judged += found
    return judged


def _founding(path: Path, terms: checks.Terms) -> list[Entry]:
    whole = path.is_dir() and hashlib.sha256(fileio.canonical(submission.digests_of(path)).encode()).hexdigest()
    digest = whole or fileio.sha256_file(path)
    return founding.entries(path, terms.tasks, Entry(digest[: submission.ID_DIGITS], path.name, (), steps.now()))


def entries(folder: Path) -> list[Entry]:
    """Return every entry that a board keeps, the oldest first."""
    return sorted(map(Entry.read, (folder / ENTRIES).glob("*.json")), key=lambda entry: (entry.judged, entry.id))


def current(every: Sequence[Entry]) -> list[Entry]:
    """Return the entries that are ranked: those not refused, of each model of a signer the newest."""
    newest = {(e.model, e.signer or e.id): e for e in every if e.verdict != "refused"}
    return list(newest.values())


# -- ranking -------------------------------------------------------------------------------------------------------
def ranking(every: Sequence[Entry], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each current entry: what it is, its place and number by each metric, its share of the front."""
    found = current(every)
    rows = [_row(entry) for entry in found]
    draws: dict[str, dict[int, np.ndarray]] = {metric: {} for metric in METRICS}
    for seed, metric in enumerate(METRICS, 1):
        for group in _comparable(found, metric, tasks):
            cells = [[found[k].cells[task][metric] for task in tasks] for k in group]
            numbers = np.array([[_number(metric, cell) for cell in of_model] for of_model in cells])
            result = ranks.rank(numbers[..., 0], numbers[..., 1], seed)
            for at, k in enumerate(group):
                low, high = sorted(_shown(metric, end[at]) for end in (result.low, result.high))
                places = {name: int(getattr(result, name)[at]) for name in PLACES}
                rows[k][metric] = {**places, "value": _shown(metric, result.total[at]), "low": low, "high": high}
                draws[metric][k] = result.draws[:, at]
    for group in _comparable(found, SPEED, tasks):
        both = [k for k in group if k in draws[SCORE]]
        if both:
            drawn = np.array([[draws[metric][k] for metric in (SCORE, SPEED)] for k in both])
            shares = pareto.undominated(drawn.transpose(2, 0, 1)).mean(axis=0)
            for k, share in zip(both, shares, strict=True):
                rows[k]["front"] = float(share)
    return sorted(
        rows, key=lambda row: [(row[m] or {"rank": math.inf})["rank"] for m in METRICS] + [row["model"], row["id"]]
    )


def _row(entry: Entry) -> dict[str, Any]:
    marks = [check.name for check in (*entry.of(Outcome.UNTIMED), *entry.of(Outcome.MARKED))]
    row = {name: getattr(entry, name) for name in ("model", "id", "signer", "machine", "verdict")}
    return row | {"front": None, "marks": marks, **dict.fromkeys(METRICS)}


def _comparable(found: Sequence[Entry], metric: str, tasks: Sequence[str]) -> list[list[int]]:
    """Return the places of entries that are ranked together: by score all of them, else those of one machine."""
    groups: dict[str | None, list[int]] = {}
    for k, entry in enumerate(found):
        if entry.counts(metric, tasks):
            groups.setdefault(None if metric == SCORE else entry.machine, []).append(k)
    return list(groups.values())


def _number(metric: str, cell: Sequence[float | None]) -> tuple[float, float]:
    """Return (value, spread) such that more is better and a mean makes sense: logarithms of speed and of memory."""
    if metric != SCORE:
        cell = [math.log(end) if end else None for end in cell]
    value, low, high = cell
    return (-value if metric == MEMORY else value), ranks.spread_of(value, low, high)


def _shown(metric: str, number: float) -> float:
    return float(number) if metric == SCORE else math.exp(-number if metric == MEMORY else number)


# -- written -------------------------------------------------------------------------------------------------------
def write(folder: Path) -> dict[str, Any]:
    """Rank the entries of a board, write the page, add the ranking to the history, and return it."""
    every, tasks = entries(folder), fileio.read_json(folder / BOARD)["tasks"]
    number = 1 + len(list((folder / HISTORY).glob("*.json")))
    about = {"schema": 1, "number": number, "ranked": steps.now(), "version": morocco_lib.__version__, "tasks": tasks}
    result = {**about, "rows": ranking(every, tasks), "refused": [e.id for e in every if e.verdict == "refused"]}
    fileio.write_json(folder / HISTORY / f"{number:04d}.json", result)
    fileio.write_text(folder / PAGE, page.page(result, every))
    return result
