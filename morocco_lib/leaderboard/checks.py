"""One submission -> its entries: named checks, each with its outcome and what it rests on; see docs/submissions.md.

Nothing that the submission says of itself is believed where its files say it, too: numbers are derived again from the runs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis.run_files import Run, read_run, readable, run_folders
from morocco_lib.artifacts import steps
from morocco_lib.data import workload
from morocco_lib.errors import InvalidResult, Refused, UsageError
from morocco_lib.leaderboard import founding, noise, submission
from morocco_lib.leaderboard.entry import Check, Entry, Outcome, cells_of
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.reasons import DISTURBANCES, INVALID, Reason
from morocco_lib.report.points import collect, origin_of
from morocco_lib.tasks import get_task

OK, MARKED, UNTIMED, REFUSED = Outcome
ORDERED = ("start_s", "first_write_s", "first_answer_s", "last_answer_s")  # of the phases of a run
OF_POINT = ("batch_size", "input_size", "repeats", "runner", "precision", "backend", "device", "image_digest")
SAME = ("batch_size", "runner", "precision", "backend", "device", "settings", "machine")  # of an operating point


@dataclass(frozen=True)
class Terms:
    """What a board ranks.

    Args:
        tasks: Each entry has all of them.
        records: Task -> sha256 of the records to answer; of tasks that it lacks, the first submission decides.
        files: Task -> the organiser's file of these records, where it is known.
        signers: The organiser's file of allowed signers.
    """

    tasks: tuple[str, ...]
    records: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    signers: Path | None = None


def judge(path: Path, terms: Terms, known: Sequence[Entry]) -> list[Entry]:
    """Return an entry for each model of a submission; for one that is refused as a whole a single entry without a model.

    Args:
        known: Earlier entries: times that are copied from them are found.
    """
    entry = Entry(fileio.sha256_file(path)[: submission.ID_DIGITS], path.name, (), steps.now())
    try:
        with submission.unpacked(path, terms.signers) as found, readable(path):
            entry = replace(entry, id=found.id, signer=found.signer and found.signer.name)
            signed = Check("SIGNATURE", OK if entry.signer else MARKED, submission.signature_text(found.signer))
            entry = replace(entry, checks=(signed,))
            if (found.folder / submission.BENCHES).is_dir():
                return founding.entries(found.folder / submission.BENCHES, terms.tasks, entry)
            folder, entries, known = found.folder / submission.STEPS, [], [e for e in known if e.id != found.id]
            rows = _rows(found.folder)
            for model in dict.fromkeys(row["model"] for row in rows):
                mine = [row for row in rows if row["model"] == model and row["task"] in terms.tasks]
                judged = _Judged(folder, mine, terms, [*known, *entries])
                entries.append(judged.entry(replace(entry, model=model)))
            return entries
    except (InvalidResult, UsageError) as error:
        code = error.code if isinstance(error, Refused) else "READABLE"
        return [replace(entry, checks=(Check(code, REFUSED, str(error).removeprefix(f"{code}: ")),))]


def _rows(submitted: Path) -> list[dict[str, Any]]:
    """Return the rows of a submission whose every number was derived again, each with the machine it was measured on."""
    if wrong := [f for f in submission.findings_of(submitted) if not f.ok]:
        seen = "; ".join(f"{f.step}: {f.what}: {f.seen}" for f in wrong[:3])
        raise Refused("POINTS", seen) if wrong[0].what == "points" else Refused("NUMBERS", seen)
    folder = submitted / submission.STEPS
    rows = collect(folder, KINDS)
    hosts = {place.relative_to(folder).as_posix(): status["host"] for place, status in steps.find_steps(folder)}
    for row in rows:
        host, gpu = hosts[row["bench_folder"] or row["eval_folder"]], "NO_GPU"
        if row["bench_folder"]:
            gpu = read_run(run_folders(folder / row["bench_folder"])[0]).facts["gpu"]
        gpus = [] if isinstance(gpu, str) else [str(d.get("name")) for d in gpu["devices"] if d["used_by_run"]]
        row["machine"] = ", ".join([str(host.get("cpu")), f"{host.get('cores')} cores", *gpus])
    return rows


def _check(name: str, fine: str, *, refused: str = "", untimed: str = "", marked: str = "") -> Check:
    """Return a check with the worst that was found, or with what is fine."""
    found = {REFUSED: refused, UNTIMED: untimed, MARKED: marked, OK: fine}
    outcome = next(outcome for outcome, seen in found.items() if seen)
    return Check(name, outcome, found[outcome])


@dataclass
class _Judged:
    """The checks of one model.

    Args:
        folder: The step folders.
        rows: Of the model, on the tasks of the board.
        known: Entries of other archives, and of other models of this one.
    """

    folder: Path
    rows: list[dict[str, Any]]
    terms: Terms
    known: Sequence[Entry]

    def entry(self, blank: Entry) -> Entry:
        """Return the entry: all checks, and what it is ranked by."""
        checks, prints = [*blank.checks, *self._points(), *self._reasons()], {}
        if not any(check.outcome is REFUSED for check in checks):
            prints = {name: found for _, name, run in self._runs() if (found := noise.intervals(run))}
            checks += [self._labels(), self._clocks(), self._noise(prints, blank)]
        return replace(
            blank, checks=tuple(checks), machine=self.rows[0]["machine"] if self.rows else None, noise=prints,
            points={row["task"]: {name: _part(row, name) for name in OF_POINT} for row in self.rows},
            cells={row["task"]: cells_of(row) for row in self.rows},
            records={row["task"]: digest for row in self.rows if (digest := _records(row))},
        )  # fmt: skip

    def _runs(self, kind: str = "bench_folder") -> Iterator[tuple[str, str, Run]]:
        """Yield (task, name, run) of every timed run, or of evals."""
        for row in self.rows:
            for run in run_folders(self.folder / row[kind]) if row[kind] else ():
                yield row["task"], run.relative_to(self.folder).as_posix(), read_run(run)

    def _points(self) -> Iterator[Check]:
        found, agreed = [row["task"] for row in self.rows], self.terms.records
        missing = ", ".join(task for task in self.terms.tasks if task not in found)
        yield _check("COMPLETE", "every task", refused=missing and f"no result on {missing}")
        several = [f"{task} more than once" for task in self.terms.tasks if found.count(task) > 1]
        several += [f"{name} differs" for name in SAME if len({str(_part(row, name)) for row in self.rows}) > 1]
        yield _check("ONE_POINT", "the same on every task", refused="; ".join(several))
        other = [
            t for t, row in zip(found, self.rows, strict=True) if (d := _records(row)) is None or d != agreed.get(t, d)
        ]
        odd = {row["task"]: origin_of(row) for row in self.rows if origin_of(row) != "files"}
        marked = "; ".join(
            f"{task}: {'part of a split' if o == 'sample' else f'{o} records'}" for task, o in odd.items()
        )
        refused = other and f"other records than the board's on {', '.join(other)}"
        yield _check("RECORDS", "the board's", refused=refused, marked=marked)

    def _reasons(self) -> Iterator[Check]:
        def of(*reasons: Reason) -> str:
            found = [(row["task"], [r for r in row["reasons"] if r in reasons]) for row in self.rows]
            return "; ".join(f"{task}: {', '.join(codes)}" for task, codes in found if codes)

        bad = [row for row in self.rows if row["verdict"] in (INVALID, "FAILED")]
        bare = ", ".join(sorted({row["task"] for row in self.rows if row["runner"] == "process"}))
        alone = "; ".join(f"{row['task']}: not measured" for row in self.rows if not row["bench_folder"])
        quick = of(Reason.QUICK)
        yield _check("VALID", "every run", refused="; ".join(f"{r['task']}: {' '.join(r['reasons'])}" for r in bad))
        yield _check("CONTRACT", "checked before it was measured", refused=of(Reason.CONTRACT_BROKEN), untimed=quick)
        yield _check("CACHED", "nothing was faster for coming again", refused=of(Reason.CACHED_ANSWERS), untimed=quick)
        yield _check("DISTURBED", "a quiet machine", untimed=of(*DISTURBANCES))
        yield _check("UNPROVEN", "all memory was counted", untimed=of(Reason.UNPROVEN))
        yield _check("RUNS", "several", untimed=of(Reason.SINGLE_RUN) or alone)
        yield _check("ISOLATION", "containers", marked=bare and f"a bare process, which may read anything, on {bare}")

    def _labels(self) -> Check:
        """Hold what was fed against the organiser's records: made anew, without labels, it is the same to the byte."""
        wrong = []
        for task, name, run in (*self._runs(), *self._runs("eval_folder")):
            stored = run.workload
            if stored["task"] != task:
                wrong.append(f"{name}: {stored['task']} was fed")
            elif path := self.terms.files.get(task):
                made = _stream(path, task, stored["size"], stored["seed"], stored["distinct"])
                wrong += [f"{name}: {part} is not of these records" for part in made if made[part] != stored.get(part)]
        unknown = ", ".join(task for task in self.terms.tasks if task not in self.terms.files)
        marked = unknown and f"not held against the records of {unknown}, which are not here (--data)"
        return _check(
            "LABELS", "what was fed is the records without labels", refused="; ".join(wrong[:3]), marked=marked
        )

    def _clocks(self) -> Check:
        """Find answers before anything was fed; other times that go back are contradictions, found by `verify`."""
        wrong = []
        for _, name, run in self._runs():
            phases = [t_s for phase in ORDERED if (t_s := run.facts["phases"].get(phase)) is not None]
            wrong += [f"{name}: phases go back"] if phases != sorted(phases) else []
        return _check("CLOCKS", "no time goes back", refused="; ".join(wrong[:3]))

    def _noise(self, prints: Mapping[str, list[int]], entry: Entry) -> Check:
        pairs = list(itertools.combinations(prints.items(), 2))
        for other in self.known:
            newer = entry.signer and (other.signer, other.model) == (entry.signer, entry.model)
            if not newer and other.verdict != "refused":
                there = [(f"{name} of {other.model} ({other.id})", found) for name, found in other.noise.items()]
                pairs += itertools.product(prints.items(), there)
        seen = [f"{name} has none: its times repeat to the ns" for name, one in prints.items() if noise.is_made_up(one)]
        seen += [f"{a} is {b}" for (a, one), (b, two) in pairs if noise.is_copy(one, two)]
        few = "" if prints else "too few answers in each run to tell one from another"
        return _check("NOISE", "every run has its own", refused="; ".join(seen[:3]), marked=few)


def _records(row: Mapping[str, Any]) -> str | None:
    return (row["data"] or {}).get("sha256")


def _part(row: Mapping[str, Any], name: str) -> Any:
    return row[name] if name in row else row["measured"].get(name)


@cache
def _stream(path: Path, task_name: str, size: int, seed: int | None, distinct: int) -> dict[str, Any]:
    """Return what workload.json says of a stream of the organiser's records."""
    task = get_task(task_name)
    described = workload.rebuilt(task, task.read(path), {"size": size, "seed": seed, "distinct": distinct})
    return {part: described[part] for part in ("sha256", "order", "gold", "records")}
