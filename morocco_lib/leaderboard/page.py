"""A ranking as people read it: a table for a terminal, a page in Markdown for a repository."""

import html
import re
from collections.abc import Sequence
from typing import Any

from morocco_lib import foreign, formatting
from morocco_lib.leaderboard.entry import HEAD, MEMORY, METRICS, SCORE, SPEED, Entry, Outcome

TEXT = {SCORE: formatting.score_text, SPEED: formatting.speed_text, MEMORY: formatting.bytes_text}
RANKS = [head for metric in METRICS for head in ("rank", HEAD[metric])]
HEADS = ["model", *RANKS, "front", "subsets", "signed by", "submission", "marks"]
NOTES = """\
A rank is a range: two models whose ranges overlap are tied, as their measurements do not tell them apart (95 %, all pairs jointly;
runs, records and tasks are drawn anew). Score: mean over the tasks. Records/s and memory: geometric means over the tasks, ranked
among what was measured on the same machine. Front: in how many draws no other model of that machine is both better and faster.
Subsets: the places by score over any half of the tasks or more.

Digests show that nothing was changed after it was packed. A signature shows who packed it. That a program did what its files say is shown only
by measuring it again: `RERUN`.
"""


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a ranking as cells of a table, the heads first."""
    table = [HEADS]
    for row in rows:
        numbers = [text for metric in METRICS for text in _texts(metric, row[metric])]
        places = _range(row[SCORE], "subset_rank", "subset_last") if row[SCORE] else "—"
        front = "—" if row["front"] is None else f"{row['front']:.0%}"
        table.append(
            [row["model"], *numbers, front, places, row["signer"] or "—", row["id"], " ".join(row["marks"]) or "—"]
        )
    return table


def _texts(metric: str, found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "—", "—"
    value, low, high = (TEXT[metric](found[part]) for part in ("value", "low", "high"))
    return _range(found, "rank", "last"), value if low == high else f"{value} ({low} to {high})"


def _range(found: dict[str, Any], first: str, last: str) -> str:
    return str(found[first]) if found[first] == found[last] else f"{found[first]}-{found[last]}"


def page(result: dict[str, Any], every: Sequence[Entry]) -> str:
    def table(*rows: Sequence[str]) -> list[str]:
        head, *lines = (f"| {' | '.join(map(_plain, row))} |" for row in rows)
        return [head, "|" + " --- |" * len(rows[0]), *lines, ""]

    about = f"{result['ranked']}, morocco {result['version']}, on {', '.join(result['tasks'])}."
    lines = [f"# Ranking {result['number']}", "", about, "", *table(*cells(result["rows"])), NOTES]
    lines += table(
        ("submission", "model", "measured on"), *((r["id"], r["model"], r["machine"] or "—") for r in result["rows"])
    )
    ranked = {(row["id"], row["model"]) for row in result["rows"]}
    shown = [entry for entry in every if (entry.id, entry.model) in ranked]
    refused = [entry for entry in every if entry.verdict == "refused"]
    for title, found, wanted in (("Marks", shown, False), ("Refused", refused, True)):
        seen = [
            (entry.id, entry.model or entry.file, check.name, check.seen)
            for entry in found
            for check in entry.checks
            if check.outcome is not Outcome.OK and (check.outcome is Outcome.REFUSED) == wanted
        ]
        lines += [f"## {title}", "", *table(("submission", "model", "check", "seen"), *seen)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]#!|~])", r"\\\1", html.escape(foreign.shown(text).replace("\n", " ")))
