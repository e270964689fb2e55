"""Rebuild every number from the step folders, check every byte against its digest, and count what was not checked.

Reads step folders and the files that they name as read. What a digest cannot show is who made it.
"""

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import morocco_lib
from morocco_lib import fileio, foreign
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.memory import Memory
from morocco_lib.artifacts.step_kind import PLAN, Kinds, StepKind
from morocco_lib.errors import MoroccoError, UsageError
from morocco_lib.formatting import counted

LINES = "lines"  # the check of a file beside the step folders
UNCHECKED = "unchecked"
BEFORE = "before"  # the numbers were rebuilt then, and not now
REL_TOLERANCE = 1e-9  # numbers rebuilt on another machine may differ in their last bits


@dataclass(frozen=True)
class Finding:
    """One check: the step folder, what was checked, whether it holds, what was observed."""

    step: str
    what: str
    ok: bool
    seen: str


class Unchecked(NamedTuple):
    """What is held against nothing: 4 "run"s "not held against the data", as "val.jsonl is not here"."""

    count: int
    noun: str
    how: str
    why: str = ""

    @classmethod
    def of(cls, finding: Finding) -> "Unchecked":
        """Return what a finding's text says."""
        text, _, why = finding.seen.partition(": ")
        count, noun, how = text.split(" ", 2)
        return cls(int(count), noun if count == "1" else noun.removesuffix("s"), how, why)

    def __str__(self) -> str:
        return f"{counted(self.count, self.noun)} {self.how}" + (f": {self.why}" if self.why else "")


def verify(
    outputs: Path,
    kinds: Kinds,
    rebuild: Container[Path] | None = None,
    tables: Mapping[str, Callable[[Path], Iterable[int]]] = MappingProxyType({}),
    each: Callable[[list[Path], list[bool]], Iterable["Step"]] | None = None,
) -> list[Finding]:
    """Return the findings for every step folder at or below a folder.

    Args:
        outputs: Folder of step folders, or one.
        kinds: The kinds of steps: how the numbers of each are rebuilt.
        rebuild: Rebuild the numbers of these step folders (resolved) only; None: of all. Digests are always checked.
        tables: Name of a file beside the step folders -> function that gives the numbers of its lines that follow from no
            step; checked only if everything is rebuilt.
        each: (folders, whether to rebuild the numbers of each) -> what `verify_step` returns for each; None: one by one, here.
    Raises:
        UsageError: there is no step folder.
    """
    outputs = Path(outputs)
    folders = sorted(path.parent for path in steps.find_files(outputs, steps.STATUS))
    if not folders:
        raise UsageError(
            f"no step folder in {outputs}", rule=f"a step folder holds {steps.STATUS}", remedy="give outputs/<plan>"
        )
    findings, known = [], []
    rebuilt = [rebuild is None or folder.resolve() in rebuild for folder in folders]
    verified = each(folders, rebuilt) if each else map(partial(verify_step, kinds=kinds), folders, rebuilt)
    for folder, step in zip(folders, verified, strict=True):
        name = folder.relative_to(outputs).as_posix() if folder != outputs else folder.name
        findings += [Finding(name, *one) for one in step.found]
        known += [(folder, step.status)] if step.status else []
    if rebuild is None:
        findings += _left_out(outputs, known, kinds)
        places = (
            (path, wrong_lines) for name, wrong_lines in tables.items() for path in steps.find_files(outputs, name)
        )
        findings += [_verify_lines(path, path.relative_to(outputs).as_posix(), wrong) for path, wrong in places]
    return findings


def _left_out(outputs: Path, known: list[tuple[Path, dict[str, Any]]], kinds: Kinds) -> Iterator[Finding]:
    """Yield for each report the results that were there before it and are not in it, as one left out on purpose is."""
    current = [(f, s) for f, s in known if s["state"] == steps.DONE and not steps.is_retired(s) and s["step"] in kinds]
    for report, status in current:
        if kinds[status["step"]].scope == PLAN and status["inputs"] and report != outputs:
            used = {(report / name).parent.resolve() for name in status["inputs"]}
            shown = [f for f, s in current if kinds[s["step"]].shows and (s.get("ended") or "~") < status["started"]]
            if missing := [f.relative_to(outputs).as_posix() for f in shown if f.resolve() not in used]:
                left = Unchecked(len(missing), "step", "left out of a report", ", ".join(missing))
                yield Finding(report.relative_to(outputs).as_posix(), UNCHECKED, True, str(left))


def _verify_lines(path: Path, name: str, wrong_lines: Callable[[Path], Iterable[int]]) -> Finding:
    try:
        wrong = [f"line {number}" for number in wrong_lines(path)]
    except (MoroccoError, OSError, ValueError, LookupError, TypeError) as error:
        wrong = [repr(error)]
    problem = f"{path}: {', '.join(wrong[:5])} does not follow from the steps; `morocco run` rewrites it"
    return Finding(name, LINES, not wrong, problem if wrong else "follows from the steps")


class Step(NamedTuple):
    """What was found of a step folder: (what was checked, whether it holds, what was observed), and its status if it has one."""

    found: list[tuple[str, bool, str]]
    status: dict[str, Any] | None


def verify_step(folder: Path, rebuild: bool, kinds: Kinds, memory: Memory | None = None) -> Step:
    """Check one step folder.

    Args:
        rebuild: Its numbers, too.
        memory: What was rebuilt before, from the same bytes by the same code; None: all is rebuilt now.
    """
    path = folder / steps.STATUS
    try:
        status = steps.read_status(folder)
        raw = foreign.read_bytes(path, within=folder)
        sealed = steps.seal(status)["seal"] == status.get("seal") and raw == fileio.dump(status).encode()
    except (MoroccoError, OSError, ValueError) as error:
        return Step([("status", False, f"{path}: {error}")], None)
    if not sealed:
        return Step([("status", False, f"{path} was changed after it was written")], status)
    found, here = _bytes(folder, status)
    kind = kinds.get(status["step"])
    if not here or not rebuild:
        return Step(found, status)
    key = None
    with suppress(Exception):  # what cannot be read is a finding of its own
        alone = len(steps.find_files(folder, steps.STATUS)) == 1  # the digests are of nothing in another step folder
        if memory and alone and status["state"] == steps.DONE and all(ok for _, ok, _ in found):
            key = memory.key(str(folder.resolve()), status["seal"], found, kind.rests_on(folder) if kind else None)
    if key and (before := memory.get(key)):
        return Step([*found, *map(tuple, before)], status)
    made = list(_numbers(folder, status, kind))
    if key:
        follow = all(ok for _, ok, _ in made)
        memory.add(key, [(BEFORE, True, f"rebuilt at {steps.now()}"), *made] if follow else None)
    return Step([*found, *made], status)


def _bytes(folder: Path, status: dict[str, Any]) -> tuple[list[tuple[str, bool, str]], bool]:
    """Hold every byte against its digest; return what was found, and whether numbers can be rebuilt from it."""
    if status["state"] == steps.RUNNING:
        killed = "was killed while it ran; its files cannot be verified until it is run again"
        return [("status", False, "still running" if steps.is_alive(status) else killed)], False
    version, aside = status["code"]["version"], ", set aside" if steps.is_retired(status) else ""
    found = [("version", True, _written_by(version))] if version != morocco_lib.__version__ else []
    found.append(("status", True, f"{status['state']}, exit {status['exit']}{aside}"))
    try:
        found.append(_files(folder, status))
    except (MoroccoError, OSError) as error:  # too much, too large, or unreadable
        return [*found, ("files", False, str(error))], False
    if aside or steps.NO_FILE in found[-1][2]:
        return found + [(UNCHECKED, True, str(Unchecked(1, "step", "set aside")))] * bool(aside), False
    return [*found, *_inputs(folder, status)], True


def _numbers(folder: Path, status: dict[str, Any], kind: StepKind | None) -> Iterator[tuple[str, bool, str]]:
    """Rebuild what follows from the files."""
    if not kind and status["task"]:
        yield "kind", True, f"this version has no step {status['step']!r}; its numbers were not rebuilt"
    for one in _unchecked(folder, status, kind):
        yield UNCHECKED, True, str(one)
    if kind and status["state"] == steps.DONE:
        yield from _contradictions(folder, status, kind)
        if kind.rebuild:
            yield _rebuilt(folder, status, kind.rebuild)


def _unchecked(folder: Path, status: dict[str, Any], kind: StepKind | None) -> Iterator[Unchecked]:
    if "notebook.ipynb" in status["outputs"]:
        yield Unchecked(1, "notebook", "not executed again")
    if status["state"] != steps.DONE:
        yield Unchecked(1, "step", f"that {'was killed' if status['state'] == steps.KILLED else 'failed'}")
    elif not kind or not kind.rebuild:
        yield Unchecked(1, "step", "without numbers to rebuild")
    if kind and status["state"] == steps.DONE:
        with suppress(Exception):  # what cannot be read is a finding of its own
            yield from kind.unchecked(folder, status)


def _contradictions(folder: Path, status: dict[str, Any], kind: StepKind) -> Iterator[tuple[str, bool, str]]:
    def found(folder: Path) -> tuple[int, list[str]]:
        wrong = kind.contradictions(folder, status)
        if (code := kind.exit_code(folder)) != status["exit"]:
            wrong.append(f"exit is {status['exit']}, by its result {code}")
        if status["started"] > (status.get("ended") or ""):
            wrong.append("it ended before it started")
        return 0, wrong

    _, ok, seen = _rebuilt(folder, status, found)
    if not ok:
        yield "records", False, f"{folder}: {seen}"


def _files(folder: Path, status: dict[str, Any]) -> tuple[str, bool, str]:
    now, then = steps.digest_outputs(folder), status["outputs"]
    wrong = [f"{folder / name} was changed" for name in sorted(now.keys() & then.keys()) if now[name] != then[name]]
    wrong += [f"{folder / name} is missing" for name in sorted(then.keys() - now.keys())]
    wrong += [f"{folder / name} was added" for name in sorted(now.keys() - then.keys())]
    wrong += [f"{folder / name} is {steps.NO_FILE}" for name in sorted(now) if now[name] == steps.NO_FILE]
    return "files", not wrong, "; ".join(wrong) or f"{len(then)} digests hold"


def _inputs(folder: Path, status: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    gone = []
    for name, digest in status["inputs"].items():
        path = folder / name  # an absolute name stays itself
        try:
            now = foreign.sha256_file(path)
        except (MoroccoError, OSError, ValueError):  # ValueError: no name of a file
            gone.append(str(path))
            continue
        if now != digest:
            yield "inputs", False, f"{path} was changed after it was read"
    if gone:
        yield (
            "inputs",
            True,
            f"{len(gone)} of {len(status['inputs'])} not here, so nothing was held against them: {', '.join(gone)}",
        )


def _rebuilt(
    folder: Path, status: dict[str, Any], rebuild: Callable[[Path], tuple[int, list[str]]]
) -> tuple[str, bool, str]:
    try:
        count, wrong = rebuild(folder)
    except MoroccoError as error:
        return "numbers", False, str(error)
    except Exception as error:  # a changed byte can break any reader; that is a finding, not a crash
        return "numbers", False, f"cannot be rebuilt ({type(error).__name__}: {error})"
    if wrong and (version := status["code"]["version"]) != morocco_lib.__version__:
        wrong.append(_written_by(version))
    return "numbers", not wrong, "; ".join([*wrong[:5], *wrong[5:][-1:]]) or f"{count} numbers rebuilt"


def _written_by(version: str) -> str:
    return f"written by morocco {version}; this is {morocco_lib.__version__}, which may compute differently"


def compare(folder: Path, name: str, derived: Any) -> tuple[int, list[str]]:
    """Return (how many numbers a JSON file of a step holds, where it differs from the derived value)."""
    stored = fileio.read_json(folder / name)
    derived = json.loads(json.dumps(derived))
    wrong = [f"{folder / name}: {place} is {a!r}, rebuilt {b!r}" for place, a, b in differences(stored, derived)]
    return count_numbers(stored), wrong


def differences(a: Any, b: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, a's value, b's value) wherever two JSON values differ by more than rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differences(a.get(key), b.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{place}[{number}]")
    elif isinstance(a, float) and isinstance(b, float):
        if abs(a - b) > REL_TOLERANCE * max(abs(a), abs(b)):
            yield place, a, b
    elif a != b or type(a) is not type(b):
        yield place, a, b


def count_numbers(value: Any) -> int:
    """Return how many numbers a JSON value holds."""
    if isinstance(value, dict):
        return sum(map(count_numbers, value.values()))
    if isinstance(value, list):
        return sum(map(count_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_dict(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings for machines."""
    return {"schema": 1, "ok": all(f.ok for f in findings), "findings": [asdict(f) for f in findings]}


def table(findings: list[Finding]) -> str:
    """Return the findings as text: failures in full, then one line of what holds."""
    failed = [f for f in findings if not f.ok]
    lines = [f"FAILED  {f.step}: {f.what}: {f.seen}" for f in failed]
    unchecked = [(f, Unchecked.of(f)) for f in findings if f.what == UNCHECKED]
    noted = [f for f in findings if f.ok and f.what in ("inputs", "kind", "version")]
    lines += [f"note    {f.step}: {f.what}: {f.seen}" for f in [*noted, *(f for f, one in unchecked if one.why)]]
    ended_badly = [f for f in findings if f.ok and f.what == "status" and not f.seen.startswith(steps.DONE)]
    lines += [f"note    {f.step}: {f.seen}" for f in ended_badly if not f.seen.endswith("set aside")]
    folders = len({f.step for f in findings if f.what != LINES})
    files = sum(int(f.seen.split()[0]) for f in findings if f.ok and f.what == "files")
    numbers, absent = (
        sum(int(f.seen.split()[0]) for f in findings if f.ok and f.what == w) for w in ("numbers", "inputs")
    )
    what = f"{counted(folders, 'step folder')}, {counted(files, 'digest')}, {counted(numbers, 'number')} rebuilt"
    what += f", {counted(absent, 'input')} not here" if absent else ""
    left = Counter()
    for _, one in unchecked:
        left[one.noun, one.how] += one.count
    if left:
        what += f"; not checked: {', '.join(str(Unchecked(n, *name)) for name, n in left.items())}"
    if before := sum(f.what == BEFORE for f in findings):
        what += f"; {counted(before, 'step')} rebuilt before, from the same bytes by the same code (--again repeats it)"
    held = "verified" if numbers else "digests hold, nothing was rebuilt"
    lines.append(f"NOT VERIFIED: {counted(len(failed), 'failure')} in {what}" if failed else f"{held}: {what}")
    return "\n".join(lines)
