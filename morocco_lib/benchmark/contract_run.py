"""One start of a program on a few records: what was fed, what came back for each, how it ended."""

import io
import json
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from morocco_lib.runners.contract import Conversation, Limits, Runner, converse, parse_event
from morocco_lib.tasks.base import Checked, Idx, Prediction, Task
from morocco_lib.tasks.jsonl import Record, split_lines

LATE_S = 0.5  # late records come so long after the start
END_S = 30.0  # a program that has answered everything has so long to end
ANSWER_BYTES = 64 * 2**10  # more than any answer has
IDX = re.compile(rb"""["']idx["']\s*:\s*["']?(-?\d+)""")  # in a line that cannot be read otherwise
STDERR_KEPT_BYTES = 16 * 2**10  # of its begin, and of its end


@dataclass
class Run:
    """One start.

    Args:
        fed: idx fed -> the record fed.
        places: idx fed -> place of the record in the records that are used.
        hung: How long it did not end, if it had to be killed; else empty.
        flooded: It was killed because it printed far more than answers.
        answered_early: Something was answered while the last record was held back.
        unread: Rule -> lines of stdout that are no JSON object.
        said: idx as text -> lines of stdout with it.
        answers: Place of a record -> its valid answer.
    """

    name: str
    fed: dict[Idx, Record]
    places: dict[Idx, int]
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    err_end: bytes = b""
    talk: Conversation | None = None
    hung: str = ""
    flooded: bool = False
    answered_early: bool = False
    waited_s: float = 0.0
    checked: Checked | None = None
    unread: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    answers: dict[int, Prediction] = field(default_factory=dict)
    in_order: bool = True

    @property
    def missing(self) -> list[int]:
        """The places of the records that were not answered."""
        return [place for idx, place in self.places.items() if idx not in self.checked.predictions]

    @property
    def stderr(self) -> list[str]:
        """The lines of stderr that hold anything; of much only those at the begin and at the end."""
        text = (bytes(self.err) + self.err_end).decode(errors="backslashreplace")
        return [line for line in text.split("\n") if line.strip()]

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return (self.talk.exit.ended_ns - self.talk.exit.started_ns) / 1e9

    def excerpt(self, most: int = 5) -> tuple[str, ...]:
        """Return the first and the last lines of stderr, fit for a terminal."""
        lines = [plain(line) for line in self.stderr if parse_event(line.encode()) is None]
        return tuple(lines if len(lines) <= 2 * most else [*lines[:most], "...", *lines[-most:]])

    def lines_of(self, place: int) -> dict[str, Any]:
        """Return what was fed of a record and what was answered to it, as it was printed."""
        idx = next(idx for idx, k in self.places.items() if k == place)
        fed = json.dumps(self.fed[idx], ensure_ascii=False)
        return {"start": self.name, "fed": fed, "answered": self.said.get(str(idx), [])}

    def ending(self) -> str:
        """Return how it ended, in words."""
        end = self.talk.exit
        if end.oom_killed:
            return "killed for want of memory"
        if end.signal is not None:
            known = end.signal in set(signal.Signals)
            return f"ended by {signal.Signals(end.signal).name if known else f'signal {end.signal}'}"
        return f"exit code {end.code}"


def plain(text: str, most: int = 160) -> str:
    """Return a text on one line, cut, its control characters escaped."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.rstrip()[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}..."


def differing(run: Run, other: Run) -> list[int]:
    """Return the places of the records that two starts answered differently."""
    return sorted(k for k in run.answers.keys() & other.answers.keys() if run.answers[k] != other.answers[k])


class _Overheard:
    """A handle that tells when its program has said something on stdout, or will say no more."""

    def __init__(self, handle):
        self._handle, self.heard = handle, threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def chunks(self) -> Iterator[tuple[int, str, bytes]]:
        try:
            for t_ns, stream, data in self._handle.chunks():
                if stream == "stdout":
                    self.heard.set()
                yield t_ns, stream, data
        finally:
            self.heard.set()


def hear(
    name: str,
    argv: list[str],
    runner: Runner,
    limits: Limits,
    task: Task,
    records: Sequence[Record],
    stream: Sequence[tuple[int, int]],
    *,
    cut: bool = False,
    patience_s: float = 0.0,
) -> Run:
    """Start a program, feed it once and hear it to its end.

    Args:
        stream: (place of the record in `records`, idx to feed it with) of every line fed.
        cut: The last line lacks its line feed.
        patience_s: Come late, and hold the last record back for so long or until something is answered; 0: all at once.
    """
    fed = [task.reindex(task.strip_labels(records[place]), idx) for place, idx in stream]
    keys = [task.key(record) for record in fed]
    run = Run(name, dict(zip(keys, fed, strict=True)), {k: p for k, (p, _) in zip(keys, stream, strict=True)})
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in fed]
    if cut:
        lines[-1] = lines[-1].removesuffix(b"\n")
    handle = _Overheard(runner.start(argv, limits))
    line_count = 0
    lock, all_fed, lingers = threading.Lock(), threading.Event(), threading.Event()

    def end() -> None:
        lingers.set()
        handle.kill()

    deadline = threading.Timer(min(END_S, limits.timeout_s), end)
    deadline.daemon = True

    def arm() -> None:
        with lock:
            if fed and all_fed.is_set() and line_count >= len(fed) and deadline.ident is None:
                deadline.start()

    def blocks() -> Iterator[bytes]:
        if patience_s:
            time.sleep(LATE_S)
            yield from lines[:-1]
            if len(lines) > 1:
                begin = time.monotonic()
                handle.heard.wait(patience_s)
                run.answered_early, run.waited_s = bool(run.out), time.monotonic() - begin
            yield lines[-1]
        else:
            yield b"".join(lines)
        all_fed.set()
        arm()

    def on_stdout(t_ns: int, data: bytes) -> None:
        nonlocal line_count
        if run.flooded:
            return
        run.out += data
        line_count += data.count(b"\n")
        if len(run.out) > ANSWER_BYTES * (len(fed) + 1):
            run.flooded = True
            threading.Thread(target=handle.kill, daemon=True).start()  # an engine may end only what is read from
        else:
            arm()

    def on_stderr(t_ns: int, data: bytes) -> None:
        room = STDERR_KEPT_BYTES - len(run.err)
        run.err += data[:room]
        run.err_end = (run.err_end + data[room:])[-STDERR_KEPT_BYTES:]

    try:
        run.talk = converse(handle, blocks(), limits, on_stdout, on_stderr)
    finally:
        deadline.cancel()
    if run.talk.timed_out:
        run.hung = f"not done within {limits.timeout_s:g} s"
    elif lingers.is_set():
        run.hung = f"not ended {deadline.interval:g} s after stdin and its answers"
    _read(run, task, records)
    return run


def _read(run: Run, task: Task, records: Sequence[Record]) -> None:
    good = []
    for number, line in split_lines(io.BytesIO(run.out)):
        try:
            said = run.said.setdefault(str(task.parse(line).get("idx")), [])
            said.append(plain(line.decode(), 1000))
            good.append(line)
        except ValueError as error:
            meant = line.lstrip().startswith(b"{") or "not an object" in str(error)  # as JSON
            rule = "utf-8" if "UTF-8" in str(error) else "json" if meant else "only-answers"
            shown = plain(line.decode(errors="backslashreplace"), 60)
            run.unread.setdefault(rule, []).append(f"line {number} is {shown!r}" + f", {error}" * meant)
            if named := IDX.search(line):
                run.said.setdefault(named[1].decode(), []).append(plain(line.decode(errors="backslashreplace"), 1000))
    run.checked = task.check(good, run.fed, run.name)
    position = {idx: number for number, idx in enumerate(run.fed)}
    order = [position[idx] for idx in run.checked.predictions]
    run.in_order = order == sorted(order)
    for idx, answer in run.checked.predictions.items():
        if answer is not None:
            place = run.places[idx]
            run.answers[place] = task.restore(answer, records[place])
