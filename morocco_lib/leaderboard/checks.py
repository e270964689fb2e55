"""One submission -> its entries: named checks, each with its outcome and what it rests on; see docs/submissions.md.

Nothing that the submission says of itself is believed where its files say it, too: numbers are derived again from the runs.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from morocco_lib import data, fileio
from morocco_lib.analysis.run_files import Run, read_run, run_folders
from morocco_lib.artifacts import steps
from morocco_lib.data import workload
from morocco_lib.errors import InvalidResult, Refused, UsageError
from morocco_lib.leaderboard import founding, noise, submission
from morocco_lib.leaderboard.entry import Check, Entry, Outcome, cells_of
from morocco_lib.pipeline.step_kinds import KINDS, verify
from morocco_lib.reasons import DISTURBANCES, INVALID, Reason
from morocco_lib.report import tables
from morocco_lib.tasks import get_task

OK, MARKED, UNTIMED, REFUSED = Outcome
ORDERED = ("start_s", "first_write_s", "first_answer_s", "last_answer_s", "exit_s")  # of the phases of a run
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
        known: Earlier entries: noise that is copied from them is found.
    """
    entry = Entry(fileio.sha256_file(path)[: submission.ID_DIGITS], path.name, (), steps.now())
    try:
        with submission.unpacked(path, terms.signers) as found:
            entry = replace(entry, id=found.id, signer=found.signer and found.signer.name)
            if (found.folder / submission.BENCHES).is_dir():
                return founding.entries(found.folder / submission.BENCHES, terms.tasks, entry)
            signed = Check("SIGNATURE", OK if entry.signer else MARKED, submission.signature_text(found.signer))
            rows = _rows(found.folder / submission.STEPS, found.folder / submission.POINTS)
            entries = []
            for model in dict.fromkeys(row["model"] for row in rows):
                mine = [row for row in rows if row["model"] == model and row["task"] in terms.tasks]
                one = _Judged(found.folder / submission.STEPS, mine, terms, [*known, *entries])
                entries.append(one.entry(replace(entry, model=model, checks=(signed,))))
            return entries
    except (InvalidResult, UsageError) as error:
        code = error.code if isinstance(error, Refused) else "READABLE"
        return [replace(entry, checks=(Check(code, REFUSED, str(error).removeprefix(f"{code}: ")),))]


def _rows(folder: Path, points: Path) -> list[dict[str, Any]]:
    """Return the rows of step folders whose every number was derived again."""
    findings = verify(folder)
    # A file of the same path on this machine is not the one that was read there.
    if wrong := [f for f in findings if not f.ok and f.what != "inputs"]:
        raise Refused("NUMBERS", "; ".join(f"{f.step}: {f.what}: {f.seen}" for f in wrong[:3]))
    rows = tables.collect(folder, KINDS)
    if not points.is_file() or fileio.read_json(points, shape={"points": list})["points"] != submission.points_of(
        folder
    ):
        raise Refused("POINTS", f"{submission.POINTS} does not follow from the steps")
    statuses = {place.relative_to(folder).as_posix(): status for place, status in steps.find_steps(folder)}
    for row in rows:
        row["machine"] = _machine(folder, row, statuses)
    return rows


def _machine(folder: Path, row: Mapping[str, Any], statuses: Mapping[str, Any]) -> str:
    """Return what a row was measured on: processor, cores, GPUs."""
    host = statuses[row["bench_folder"] or row["eval_folder"]]["host"]
    gpus = []
    if row["bench_folder"]:
        gpu = read_run(run_folders(folder / row["bench_folder"])[0]).facts["gpu"]
        gpus = [] if isinstance(gpu, str) else [str(d.get("name")) for d in gpu["devices"] if d["used_by_run"]]
    return ", ".join([str(host.get("cpu")), f"{host.get('cores')} cores", *gpus])


@dataclass
class _Judged:
    """The checks of one model.

    Args:
        folder: The step folders.
        rows: Of the model, on the tasks of the board.
    """

    folder: Path
    rows: list[dict[str, Any]]
    terms: Terms
    known: Sequence[Entry]

    def entry(self, blank: Entry) -> Entry:
        """Return the entry: all checks, and what it is ranked by."""
        checks = [*blank.checks, *self._point(), *self._reasons(), *self._records()]
        prints = {}
        if not any(check.outcome is REFUSED for check in checks):
            checks += [*self._labels(), *self._clocks()]
            prints = {name: found for name, run in self._runs() if (found := noise.intervals(run))}
            checks.append(self._noise(prints, blank))
        return replace(
            blank, checks=tuple(checks), machine=self.rows[0]["machine"] if self.rows else None, noise=prints,
            points={row["task"]: {name: _part(row, name) for name in OF_POINT} for row in self.rows},
            cells={row["task"]: cells_of(row) for row in self.rows},
            records={row["task"]: row["data"]["sha256"] for row in self.rows if row["data"]},
        )  # fmt: skip

    def _benches(self) -> Iterator[tuple[dict[str, Any], Path]]:
        return ((row, self.folder / row["bench_folder"]) for row in self.rows if row["bench_folder"])

    def _runs(self) -> Iterator[tuple[str, Run]]:
        for _, folder in self._benches():
            for run in run_folders(folder):
                yield run.relative_to(self.folder).as_posix(), read_run(run)

    def _point(self) -> Iterator[Check]:
        found = [row["task"] for row in self.rows]
        missing = [task for task in self.terms.tasks if task not in found]
        yield Check(
            "COMPLETE", REFUSED if missing else OK, f"no result on {', '.join(missing)}" if missing else "every task"
        )
        several = sorted({task for task in found if found.count(task) > 1})
        differ = [name for name in SAME if len({str(_part(row, name)) for row in self.rows}) > 1]
        seen = [f"{', '.join(several)} more than once"] * bool(several) + [f"{', '.join(differ)} differ"] * bool(differ)
        point = ", ".join(f"{name} {_part(self.rows[0], name)}" for name in SAME[:5]) if self.rows else ""
        yield Check("ONE_POINT", REFUSED if seen else OK, "; ".join(seen) or point)

    def _reasons(self) -> Iterator[Check]:
        def rows(*reasons: Reason) -> str:
            found = [(row["task"], [r for r in row["reasons"] if r in reasons]) for row in self.rows]
            return "; ".join(f"{task}: {', '.join(codes)}" for task, codes in found if codes)

        bad = [f"{row['task']}: {' '.join([str(row['verdict']), *row['reasons']])}" for row in self.rows
               if row["verdict"] in (INVALID, "FAILED")]  # fmt: skip
        broken, quick, cached = rows(Reason.CONTRACT_BROKEN), rows(Reason.QUICK), rows(Reason.CACHED_ANSWERS)
        unmeasured = [row["task"] for row in self.rows if not row["bench_folder"]]
        yield Check("VALID", REFUSED if bad else OK, "; ".join(bad) or "every operating point")
        contract = broken or quick
        yield Check(
            "CONTRACT", REFUSED if broken else UNTIMED if quick else OK, contract or "checked before it was measured"
        )
        cache = REFUSED if cached else UNTIMED if quick else OK
        yield Check("CACHED", cache, cached or quick or "no text was answered faster for coming again")
        timed = rows(*DISTURBANCES)
        yield Check("DISTURBED", UNTIMED if timed else OK, timed or "a quiet machine")
        yield Check("UNPROVEN", UNTIMED if (u := rows(Reason.UNPROVEN)) else OK, u or "all memory was counted")
        single = rows(Reason.SINGLE_RUN) or "; ".join(f"{task}: not measured" for task in unmeasured)
        yield Check("RUNS", UNTIMED if single else OK, single or "several of each")
        bare = sorted({row["task"] for row in self.rows if row["runner"] == "process"})
        isolated = f"a bare process, which could read anything, on {', '.join(bare)}" if bare else "containers"
        yield Check("ISOLATION", MARKED if bare else OK, isolated)

    def _records(self) -> Iterator[Check]:
        agreed = self.terms.records
        other = [row["task"] for row in self.rows
                 if not row["data"] or row["data"]["sha256"] != agreed.get(row["task"], row["data"]["sha256"])]  # fmt: skip
        odd = {
            task: origin for row in self.rows if (origin := tables.origin_of(row)) != "files" for task in [row["task"]]
        }
        seen = [f"other records than the board's on {', '.join(other)}"] * bool(other)
        seen += [
            f"{task}: {'synthetic records' if o == tables.SYNTHETIC else 'part of a split'}" for task, o in odd.items()
        ]
        yield Check("RECORDS", REFUSED if other else MARKED if odd else OK, "; ".join(seen) or "the board's")

    def _labels(self) -> Iterator[Check]:
        """Hold what was fed against the organiser's records: made anew, without labels, it is the same to the byte."""
        wrong, held = [], set()
        for name, run in self._fed():
            stored = run.workload
            if path := self.terms.files.get(stored["task"]):
                held.add(stored["task"])
                made = _stream(path, stored["task"], stored["size"], stored["seed"])
                wrong += [f"{name}: {part}" for part in made if made[part] != stored.get(part)]
            if run.facts["all_fed"] and run.facts["bytes_fed"] != stored["bytes"]:
                wrong.append(f"{name}: {run.facts['bytes_fed']:,} bytes were fed, not {stored['bytes']:,}")
        unknown = [task for task in self.terms.tasks if task not in held]
        seen = f"not held against the records of {', '.join(unknown)}, which are not here (--data)" if unknown else ""
        outcome = REFUSED if wrong else MARKED if unknown else OK
        yield Check("LABELS", outcome, "; ".join(wrong[:3]) or seen or "what was fed is the records without labels")

    def _fed(self) -> Iterator[tuple[str, Run]]:
        yield from self._runs()
        for folder in {row["eval_folder"]: None for row in self.rows if row["eval_folder"]}:
            for run in run_folders(self.folder / folder):
                yield run.relative_to(self.folder).as_posix(), read_run(run)

    def _clocks(self) -> Iterator[Check]:
        wrong = []
        for name, run in self._runs():
            phases = [run.facts["phases"].get(phase) for phase in ORDERED]
            arrivals, samples = (
                [t_s for t_s, _ in run.arrivals],
                [sample["t_ns"] for sample in run.samples if "t_ns" in sample],
            )
            moments = {"phases": [t_s for t_s in phases if t_s is not None], "answers": arrivals, "samples": samples}
            wrong += [f"{name}: {what} go back" for what, times in moments.items() if times != sorted(times)]
            if arrivals and phases[-1] is not None and not 0 <= arrivals[0] <= arrivals[-1] <= phases[-1]:
                wrong.append(f"{name}: answers outside the run")
        yield Check("CLOCKS", REFUSED if wrong else OK, "; ".join(wrong[:3]) or "no time goes back")

    def _noise(self, prints: Mapping[str, list[int]], entry: Entry) -> Check:
        pairs = [((a, prints[a]), (b, prints[b])) for a, b in itertools.combinations(prints, 2)]
        for other in self.known:
            same = entry.signer and (other.signer, other.model) == (entry.signer, entry.model)  # a newer one of its own
            if other.id != entry.id and not same and other.verdict != "refused":
                there = [(f"{name} of {other.model} ({other.id})", found) for name, found in other.noise.items()]
                pairs += itertools.product(prints.items(), there)
        copied = [f"{a} is {b}" for (a, one), (b, two) in pairs if noise.is_copy(one, two)]
        flat = [name for name, found in prints.items() if noise.is_made_up(found)]
        seen = [*copied[:3], *(f"{name} has none: its intervals repeat to the nanosecond" for name in flat[:3])]
        if not seen and not prints:
            return Check("NOISE", MARKED, "too few answers in each run to tell one from another")
        return Check("NOISE", REFUSED if seen else OK, "; ".join(seen) or "every run has its own")


def _part(row: Mapping[str, Any], name: str) -> Any:
    return row[name] if name in row else row["measured"].get(name)


@cache
def _stream(path: Path, task_name: str, size: int, seed: int | None) -> dict[str, Any]:
    """Return what workload.json says of a stream of the organiser's records."""
    task = get_task(task_name)
    records = task.read(path)
    load = workload.in_order(task, records) if seed is None else workload.build(task, records, size, seed)
    described = load.describe()
    return {part: described[part] for part in ("sha256", "order", "gold", "records")}


def organisers_files(data_dir: Path, split: str, tasks: Sequence[str]) -> dict[str, Path]:
    """Return the organiser's file of records of each task; raises UsageError."""
    return {task: data.find_split(data_dir, get_task(task), split) for task in tasks}
