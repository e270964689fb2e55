"""The founding logs as entries of a board: corrected speeds with their intervals, marked as what they are."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from morocco_lib.errors import UsageError
from morocco_lib.leaderboard.entry import MEMORY, SPEED, Check, Entry, Outcome
from morocco_lib.legacy import logs, stats
from morocco_lib.legacy.corrected import Point, corrected

UNSIGNED = Check("SIGNATURE", Outcome.MARKED, "logs are not signed")


def entries(path: Path, tasks: tuple[str, ...], blank: Entry) -> list[Entry]:
    """Return an entry for each model of a folder or archive of logs; raises UsageError."""
    points: dict[str, dict[str, Point]] = {}
    for (model, task), members in logs.by_cell(logs.read_all([path])).items():
        found = {(point.input_size, point.batch_size): point for point in corrected(model, task, members)}
        if task in tasks and stats.POINT in found:
            points.setdefault(model, {})[task] = found[stats.POINT]
    if not points:
        raise UsageError(
            f"no run of 2000 records in batches of 32 on {', '.join(tasks)} in {path}", remedy="give other logs"
        )
    return [_entry(replace(blank, model=model), of, tasks) for model, of in points.items()]


def _entry(blank: Entry, points: dict[str, Point], tasks: tuple[str, ...]) -> Entry:
    missing = [task for task in tasks if task not in points]
    flags = Counter(finding.flag for point in points.values() for finding in point.findings)
    listed = ", ".join(f"{count} {flag}" for flag, count in sorted(flags.items())) or "none"
    checks = (
        *(blank.checks or (UNSIGNED,)),
        Check("COMPLETE", Outcome.REFUSED if missing else Outcome.OK, f"no logs of {', '.join(missing)}" if missing else "every task"),
        Check("ONE_POINT", Outcome.OK, "2000 records, batch 32"),
        Check("CORRECTED", Outcome.MARKED, f"speeds corrected from logs of the original (flags: {listed}); no answers, so no score"),
    )  # fmt: skip
    cells = {
        task: {SPEED: [p.per_s, p.low_per_s, p.high_per_s], MEMORY: [p.gpu_ram_bytes, None, None]}
        for task, p in points.items()
    }
    return replace(
        blank, checks=checks, cells=cells, machine=f"whatever {blank.file} was measured on"
    )  # no log says it
