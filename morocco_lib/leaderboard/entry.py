"""What the board keeps of a submission: one model of one archive, what each check found, and the numbers it is ranked by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from morocco_lib import fileio

SCORE, SPEED, MEMORY = METRICS = ("score", "speed_per_s", "memory_bytes")
HEAD = {SCORE: "score", SPEED: "records/s", MEMORY: "memory"}
NUMBER = (float, None)
SHAPE = {
    "schema": int, "id": str, "file": str, "model": (str, None), "signer": (str, None), "machine": (str, None), "judged": str,
    "checks": [{"name": str, "outcome": str, "seen": str}], "cells": {str: {str: [NUMBER]}}, "records": {str: str},
    "noise": {str: [int]}, "points": {str: {str: (str, float, None)}},
}  # fmt: skip


class Outcome(StrEnum):
    """What a check concludes, from the best to the worst."""

    OK = "ok"
    MARKED = "marked"  # it is ranked, and the mark is shown
    UNTIMED = "untimed"  # the score is ranked; speed, and memory if it is unproven, are not
    REFUSED = "refused"


WORST = list(Outcome)


@dataclass(frozen=True)
class Check:
    """One named check of a submission."""

    name: str
    outcome: Outcome
    seen: str


@dataclass(frozen=True)
class Entry:
    """One model of one submission.

    Args:
        id: Of the archive.
        file: Its name.
        model: None where the archive was refused as a whole.
        signer: A name that the organiser vouches for.
        machine: What it was measured on: speeds and memory of different machines are not compared.
        points: Task -> batch size, image and the like.
        cells: Task -> SCORE, SPEED, MEMORY -> [value, low, high].
        records: Task -> sha256 of the records that were answered.
        noise: Run -> what lies between its answers, in ns.
    """

    id: str
    file: str
    checks: tuple[Check, ...]
    judged: str
    model: str | None = None
    signer: str | None = None
    machine: str | None = None
    points: dict[str, dict[str, Any]] = field(default_factory=dict)
    cells: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)
    noise: dict[str, list[int]] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """accepted, marked or refused."""
        worst = max((check.outcome for check in self.checks), key=WORST.index)
        return {Outcome.OK: "accepted", Outcome.UNTIMED: "marked"}.get(worst, str(worst))

    def of(self, outcome: Outcome) -> list[Check]:
        return [check for check in self.checks if check.outcome is outcome]

    def counts(self, metric: str, tasks: Sequence[str]) -> bool:
        """Tell whether it is ranked by a metric."""
        untimed = {check.name for check in self.of(Outcome.UNTIMED)}
        stopped = {SCORE: False, SPEED: bool(untimed), MEMORY: "UNPROVEN" in untimed}[metric]
        values = [self.cells.get(task, {}).get(metric, [None])[0] for task in tasks]
        known = all(value is not None and (value > 0 or metric == SCORE) for value in values)
        return self.verdict != "refused" and not stopped and known

    def write(self, folder: Path, number: int) -> None:
        fileio.write_json(folder / f"{self.id}-{number}.json", {"schema": 1, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "Entry":
        value = fileio.read_json(path, shape=SHAPE)
        checks = tuple(Check(c["name"], Outcome(c["outcome"]), c["seen"]) for c in value.pop("checks"))
        value.pop("schema")
        return cls(**value, checks=checks)


def cells_of(result: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return SCORE, SPEED and MEMORY of bench.json, or of a row of a report, each as [value, low, high]."""
    memory = "gpu_ram_bytes" if result["gpu_ram_bytes"]["value"] is not None else "ram_bytes"
    names = {SCORE: "score", SPEED: "speed_per_s", MEMORY: memory}
    return {metric: [result[name].get(part) for part in ("value", "low", "high")] for metric, name in names.items()}
