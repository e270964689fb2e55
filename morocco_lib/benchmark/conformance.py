"""Does a program keep the contract? Few records, five starts; each rule gets pass, warn, fail or open.

    start           what is fed                               compared with    what it shows
    batch size 8    all at once                                                the form of the answers, exit and end
    batch size 1    the same                                  batch size 8     answers that depend on the batch
    batch size 3    the same, no line feed at the end         batch size 8     the same
    moved           shuffled, other idx, batch size 1, late,  batch size 1     answers that depend on idx or place,
                    the last record held back                                  answers that are not flushed
    no records      nothing                                                    how it ends then

A start that breaks a rule may be followed by one more to find the cause; a program that does not end or answers nothing is
not started again. A failed rule makes measurements wrong, a warning does not. Nothing is timed here.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from morocco_lib.benchmark.contract_run import ContractRun, differing, plain, run_once
from morocco_lib.benchmark.target import Target, hiding
from morocco_lib.errors import UsageError
from morocco_lib.formatting import counted
from morocco_lib.runners.contract import Runner
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record

RECORDS = 25  # one more than a multiple of 3 and 8: the last batch holds a single record
SAME_MOMENT_NS = 50_000_000  # an engine may deliver stderr later than stdout
TOLERATED = 0.01  # share of answers that may depend on the batch or the place
PASS, WARN, FAIL, OPEN = "pass", "warn", "fail", "open"

RULES = {  # rule -> what holds, what to do where it does not
    "batch-option": ("`--batch-size N` is taken", "accept the option, even if it is not used"),
    "exit-code": ("the exit code is 0 when every record was answered, and only then", "see stderr"),
    "ends": ("it ends when stdin ends", "leave the loop at the end of stdin; raise --timeout if it is only slow"),
    "complete": ("every record is answered", "answer the last batch too: it is seldom full"),
    "unique": ("a record is answered once", "print one line a record"),
    "known-idx": ("an answer has the idx of its record, in the record's own type", "copy idx from the record"),
    "valid": ("an answer is one of the task's", ""),
    "utf-8": ("stdin and stdout are UTF-8 whatever the locale", "name the encoding, in Python set PYTHONUTF8=1"),
    "json": ("a line of stdout is one JSON object", "print json.dumps(...)"),
    "only-answers": ("stdout holds predictions and nothing else", "print everything else to stderr"),
    "no-label": ("records come without labels", "do not read what gives the answer away"),
    "offline": ("it runs without network", "put weights and tokenizer into the image when it is built"),
    "read-only": ("it writes to memory alone: /tmp and its volumes", "write to /tmp (HOME, HF_HOME, caches); let everybody read the rest"),
    "same-batches": ("batch sizes 1, 3 and 8 give the same answers", "mask padding, switch dropout off"),
    "place": ("an answer depends on its record, not on idx, place or neighbours", "keep nothing between records"),
    "repeatable": ("the same input gets the same answers", "fix the seed, switch dropout off"),
    "late-stdin": ("records may come late and one by one", "read stdin until it ends, without a time limit"),
    "last-line": ("the last record may lack a line feed", "treat what remains at the end of stdin as a line"),
    "empty-input": ("without records it prints nothing and ends with 0", "exit with 0 on empty input"),
    "order": ("the order is free: idx names the record", "pair answers by idx, never by line"),
    "flush": ("answers come batch by batch: speed is read from their arrival", "do not read all of stdin first; flush"),
    "ready": ("the ready line is optional; start-up is exact with it", 'print morocco: {"event": "ready"} to stderr'),
    "left-processes": ("it leaves no process behind", "end helpers and wait for them"),
}  # fmt: skip
# rule -> those of `Task.check`
PROBLEMS = {"known-idx": ("idx", "unknown-idx"), "unique": ("duplicate-idx",), "valid": ("label",)}

# What programs print on stderr when they need what a container does not provide.
NETWORK = re.compile(
    r"name resolution|Name or service not known|Network is unreachable|could not resolve|getaddrinfo|EAI_AGAIN|"
    r"No address associated|NameResolutionError|couldn't connect to|outgoing traffic has been disabled",
    re.IGNORECASE,
)
READ_ONLY = re.compile(r"Read-only file system|EROFS|(PermissionError|permission denied|EACCES).*/", re.IGNORECASE)
ENCODING = re.compile(r"Unicode(De|En)codeError|invalid utf-8", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """The result for one rule: pass, warn, fail, or open where it could not be judged; `seen` says what was observed."""

    rule: str
    state: str
    seen: str
    rule_text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.state}  {self.rule:14}  " + "; ".join(p for p in (self.seen, self.rule_text, self.remedy) if p)


@dataclass(frozen=True)
class Report:
    """What `check` found, in the order of RULES.

    `stderr` holds the first and last lines of the first faulty start; `shown` what was fed and answered of the requested
    record, one entry a start.
    """

    model: str
    task: str
    runner: str
    image_digest: str | None
    records: int
    starts: int
    findings: tuple[Finding, ...]
    stderr_of: str | None
    stderr: tuple[str, ...]
    shown: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        return not self.rules(FAIL)

    def rules(self, state: str) -> list[str]:
        """Return the rules in a state."""
        return [f.rule for f in self.findings if f.state == state]

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `morocco check --json` prints."""
        return {"schema": 1, "ok": self.ok, **asdict(self)}

    def summary(self) -> str:
        """Return the verdict in one line."""
        counts = ", ".join(f"{len(self.rules(state))} {state}" for state in (PASS, WARN, FAIL, OPEN))
        fed = f"{counted(self.records, 'record')}, {counted(self.starts, 'start')}"
        return f"{'PASS' if self.ok else 'FAIL'}: {self.model} on {self.task}, {fed}: {counts}"

    def text(self) -> str:
        """Return what `morocco check` prints: a line a rule, the verdict last."""
        lines = [str(f) for f in self.findings]
        if self.stderr:
            lines += [f"stderr, {self.stderr_of}:", *(f"  {line}" for line in self.stderr)]
        for part in self.shown:
            lines += [f"{part['start']}:", f"  fed       {part['fed']}"]
            lines += [f"  answered  {line}" for line in part["answered"] or ["nothing"]]
        return "\n".join([*lines, self.summary()])

    def __repr__(self) -> str:
        return self.text()  # also in a notebook


def check(
    target: Target,
    task: Task,
    source: Path | str | Sequence[Record],
    *,
    count: int = RECORDS,
    show: str | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Check a program against the contract.

    Args:
        target: The program, its runner and its limits, of which `timeout_s` is of one start.
        task: `get_task("terra")`.
        source: A JSONL file of the task's records, or records; labels, if any, are never fed.
        count: Records fed, the first ones; one or two fewer where the last batch would be full.
        show: idx of a record whose lines the report shows; it is fed even if it is not among the first.
        progress: Called with a line of text before each start.
    Returns:
        The report: `ok`, `text()` and `as_dict()`.
    Raises:
        UsageError: no such program, unreadable records, no record with idx `show`.
        EnvironmentFailure: nothing can be started here, or the engine was lost; nothing was concluded.
    """
    if isinstance(source, Path | str):
        target = hiding(target, task, source)
    program, runner = target.program, target.runner
    records = _pick(task, task.read(source) if isinstance(source, Path | str) else source, count, show)
    draw = random.Random("conformance")
    numbers = draw.sample(range(len(records) + 1, 12 * len(records) + 12), 2 * len(records))  # idx that no line has
    plain_stream = list(enumerate(numbers[: len(records)]))
    moved_stream = list(enumerate(numbers[len(records) :]))
    draw.shuffle(moved_stream)
    runs: list[ContractRun] = []

    def start(name: str, argv: list[str], stream: list[tuple[int, int]] = plain_stream, **how) -> ContractRun | None:
        if any(run.hung or run.flooded for run in runs):
            return None  # each further start would take as long
        progress(f"start {len(runs) + 1}: {name}")
        runs.append(run_once(name, argv, runner, target.limits, task, records, stream, **how))
        return runs[-1]

    judge = _Judge(task, records, runner)
    base = start("batch size 8", program.with_batch(8))
    one = three = moved = empty = bare = None
    if base.answers:
        one = start("batch size 1", program.with_batch(1))
        three = start("batch size 3, no line feed at the end", program.with_batch(3), cut=True)
        hold_back_s = 2 + 2 * one.seconds if one else 0.0
        moved = start("batch size 1, shuffled and late", program.with_batch(1), moved_stream, hold_back_s=hold_back_s)
        empty = start("no records", program.with_batch(8), [])
    elif "exit-code" in judge.faults(base) and not base.out:
        bare = start("without --batch-size", program.argv)
    judge.form(base, bare)
    for run, rule in ((one, "same-batches"), (three, "last-line"), (moved, "late-stdin"), (empty, "empty-input")):
        if run:
            judge.variant(run, rule, one)
    batches = [run for run in (one, three) if run]
    if moved and differing(task, moved, one) and any(differing(task, run, base) for run in batches):
        judge.again(start("batch size 1, again", program.with_batch(1)), one)
    for run in batches:
        judge.compare("same-batches", run, base)
    if moved:
        judge.compare("place", moved, one)
    judge.finish(runs, one, three, moved, empty)
    faulty = next((run for run in runs if judge.faults(run)), None)
    shown = next((place for place, record in enumerate(records) if str(task.key(record)) == show), 0)
    return Report(
        program.model,
        task.name,
        runner.name,
        program.image_digest,
        len(records),
        len(runs),
        tuple(judge.found[rule] for rule in RULES),
        faulty and faulty.name,
        faulty.excerpt() if faulty else (),
        () if show is None else tuple(run.lines_of(shown) for run in runs if run.fed),
    )


def _pick(task: Task, records: Sequence[Record], count: int, show: str | None) -> list[Record]:
    if not records or count < 1:
        raise UsageError(f"{count} of {counted(len(records), 'record')}", rule="at least one record is fed")
    count = min(count, len(records))
    while count > 2 and (count % 3 == 0 or count % 8 == 0):
        count -= 1  # the last batch is not to be full
    used = list(records[:count])
    if show is not None and show not in [str(task.key(record)) for record in used]:
        found = next((record for record in records if str(task.key(record)) == show), None)
        if found is None:
            raise UsageError(f"no record has idx {show}", rule="--show takes an idx of the file")
        used[-1] = found
    return used


# -- the rules -----------------------------------------------------------------------------------------------------
class _Judge:
    """Collects findings; the first one of a rule stays."""

    def __init__(self, task: Task, records: Sequence[Record], runner: Runner):
        self.task, self.records, self.contained = task, records, runner.name == "docker"
        self.broken: dict[str, tuple[str, str]] = {}
        self.found: dict[str, Finding] = {}

    def put(self, rule: str, state: str, seen: str, remedy: str = "") -> None:
        text, usual = RULES[rule]
        self.found.setdefault(rule, Finding(rule, state, seen, text, remedy or usual * (state in (WARN, FAIL))))

    def of(self, places: Sequence[int], what: str) -> str:
        names = [str(self.task.key(self.records[place])) for place in places[:5]] + ["..."] * (len(places) > 5)
        return f"{len(places)} of {counted(len(self.records), 'record')} {what} (idx {', '.join(names)})"

    def faults(self, run: ContractRun) -> dict[str, tuple[str, str]]:
        """Return rule -> (seen, remedy) of what a start breaks, without what only follows from another fault."""
        found: dict[str, tuple[str, str]] = {}
        counts, end = run.checked.counts, run.conversation.exit
        lacking = f", {self.of(run.missing, 'not answered')}" if run.missing else ""
        if run.flooded:
            found["only-answers"] = (f"{len(run.out):,} bytes and no end of it", "")
        elif run.hung:
            cause = "exit-code" if run.answers else self._cause(run)  # it may try the network for ever
            found["ends" if cause == "exit-code" else cause] = (run.hung + lacking, "")
        elif end.code != 0 or end.oom_killed:
            found[self._cause(run)] = (run.ending() + lacking, "")
        crashed = bool(found)
        for rule, lines in run.unread.items():
            found.setdefault(rule, (f"{counted(len(lines), 'line')}: {lines[0]}", ""))
        for rule, names in PROBLEMS.items():
            if first := next((p for p in run.checked.problems if p.rule in names), None):
                number, place = sum(counts[name] for name in names), run.places.get(first.idx)
                who = f"idx {first.idx!r:.40}" if place is None else f"record idx {self.task.key(self.records[place])}"
                seen = plain(f"{number} of {run.checked.read} answers, first {who}: {first.seen}")
                found[rule] = (seen, first.remedy if rule == "valid" else "")
        unusable = sum(map(len, run.unread.values())) + counts["idx"] + counts["unknown-idx"]
        if not crashed and len(run.missing) > unusable:
            found["complete"] = (lacking[2:], "")
        elif not crashed and counts["missing-idx"] > len(run.missing):
            found["complete"] = ("records were answered in part", "")
        return found

    def _cause(self, run: ContractRun) -> str:
        # The cause as far as its stderr shows.
        last = next((line for line in reversed(run.stderr) if not line.startswith("morocco: ")), "")
        hidden = "|".join(self.task.hidden)
        if self.contained and any(map(NETWORK.search, run.stderr)):
            return "offline"
        if self.contained and any(map(READ_ONLY.search, run.stderr)):
            return "read-only"
        if re.search(rf"""['"`]({hidden})['"`]""", last):
            return "no-label"
        return "utf-8" if ENCODING.search(last) else "exit-code"

    def form(self, base: ContractRun, bare: ContractRun | None) -> None:
        """Judge the first start by itself."""
        self.broken = self.faults(base)
        if bare and bare.answers:
            self.broken = {"batch-option": (f"{base.ending()}; without the option it answers", "")}
        for rule, (seen, remedy) in self.broken.items():
            self.put(rule, FAIL, f"{base.name}: {seen}", remedy)

    def variant(self, run: ContractRun, rule: str, one: ContractRun) -> None:
        """Judge what a further start breaks and those it is compared with do not."""
        known = self.broken.keys() | (self.faults(one).keys() if rule == "late-stdin" else set())
        new = {broken: seen for broken, (seen, _) in self.faults(run).items() if broken not in known}
        if not new:
            return
        if "ends" in new:
            rule = "ends"
        elif rule == "last-line" and not (run.missing and min(run.missing) >= (len(self.records) - 1) // 3 * 3):
            rule = "same-batches"  # not only the last batch is missing
        remedy = "see stderr" if rule == "same-batches" else ""
        self.put(rule, WARN if rule == "empty-input" else FAIL, f"{run.name}: {'; '.join(new.values())}", remedy)

    def again(self, again: ContractRun | None, one: ContractRun) -> None:
        """Judge whether a program whose answers differ everywhere is deterministic at all."""
        if again and (places := differing(self.task, again, one)):
            self.put("repeatable", FAIL, f"{again.name}: {self.of(places, 'answered differently')}")
            for rule in ("same-batches", "place"):
                self.put(rule, OPEN, "answers change from start to start")

    def compare(self, rule: str, run: ContractRun, other: ContractRun) -> None:
        """Judge whether two starts gave the same answers."""
        places = differing(self.task, run, other)
        if places:
            state = WARN if len(places) <= TOLERATED * len(self.records) else FAIL
            seen = f"{run.name}: {self.of(places, f'answered differently than at {other.name}')}"
            show = f"--show {self.task.key(self.records[places[0]])} shows one, --records 1000 shows the share"
            self.put(rule, state, seen, f"{RULES[rule][1]}; {show}")

    def finish(self, runs: list[ContractRun], *others: ContractRun | None) -> None:
        """Judge its other behaviour, and mark every rule left as passed or open.

        Args:
            others: The starts with batch size 1, 3, moved records and no records; None for those not made.
        """
        base, total = runs[0], len(self.records)
        one, three, moved, empty = others
        left = sum(len(run.conversation.exit.left_pids) for run in runs)
        unordered, starts = [run.name for run in runs if not run.in_order], counted(len(runs), "start")
        ready, first = base.conversation.ready_ns, base.conversation.first_answer_ns
        if left:
            self.put("left-processes", WARN, f"{left} outlived it and were killed")
        if unordered:
            self.put("order", WARN, f"answers come in another order than records ({len(unordered)} of {starts})")
        if moved and moved.answers and not moved.answered_early and total > 1:
            self.put("flush", WARN, f"no answer within {moved.waited_s:.1f} s while stdin was open")
        if ready and first and ready > first + SAME_MOMENT_NS:
            self.put("ready", WARN, "printed after the first answer")
        if not ready:
            self.put("ready", OPEN, "not printed", RULES["ready"][1])
        for rule in () if self.contained else ("offline", "read-only"):
            self.put(rule, OPEN, "not checked: a bare process is not isolated, an image is")
        if mounts := sorted({mount for run in runs for mount in run.conversation.exit.disk_mounts or ()}):
            self.put("read-only", FAIL, f"it may write to the disk at {plain(', '.join(mounts))}")
        zeros = sum(run.conversation.exit.code == 0 for run in runs)
        answered, read = bool(base.answers), base.checked.read
        lines = read + sum(map(len, base.unread.values()))
        compared = all(run and run.answers for run in (base, one, three, moved))
        passes = {
            "batch-option": (answered, "it answers with it"),
            "exit-code": (base.conversation.exit.code == 0, f"0 in {zeros} of {starts}"),
            "ends": (not any(run.hung or run.flooded for run in runs), f"in {starts}"),
            "complete": (not base.missing, f"{total} of {total}"),
            **dict.fromkeys(("unique", "known-idx"), (read > 0, counted(read, "answer"))),
            **dict.fromkeys(("utf-8", "json", "only-answers"), (lines > 0, counted(lines, "line"))),
            "valid": (answered, f"{len(base.answers)} of {read}"),
            "no-label": (answered, "it answers without"),
            "offline": (answered, "it answers in a container without network"),
            "read-only": (answered, "it answers, and no mount outside memory may be written"),
            "same-batches": (compared, f"0 of {len(base.answers)} answers differ"),
            "place": (compared, f"0 of {len(base.answers)} answers differ, shuffled and with other idx"),
            "repeatable": (compared, f"no answer changed by itself in {starts}"),
            "late-stdin": (bool(moved and moved.answers), "answered late and one by one, and all at once"),
            "last-line": (bool(three and total - 1 in three.answers), "it is answered"),
            "empty-input": (bool(empty and not self.faults(empty)), "exit code 0, nothing printed"),
            "order": (answered, "answers come in the order of the records"),
            "flush": (bool(moved and moved.answered_early), "it answers while stdin is open"),
            "ready": (True, "printed before the first answer"),
            "left-processes": (not base.hung, "none"),
        }
        culprit = next((rule for rule, finding in self.found.items() if finding.state == FAIL), None)
        why = f"not judged, see {culprit}" if culprit else "nothing to judge it by"
        for rule, (holds, seen) in passes.items():
            self.put(rule, PASS if holds else OPEN, seen if holds else why)
