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

LATE_S = 0.5  # delay of late records
END_S = 30.0  # for a program that has answered everything to end
ANSWER_BYTES = 64 * 2**10  # more than any answer has
IDX = re.compile(rb"""["']idx["']\s*:\s*["']?(-?\d+)""")  # in a line that cannot be read otherwise
STDERR_KEPT_BYTES = 16 * 2**10  # of its beginning, and of its end


@dataclass
class ContractRun:
    """One start.

    Args:
        fed: idx fed -> the record fed.
        places: idx fed -> place of the record in the records that are used.
        hung: How it did not end, if it had to be killed; else empty.
        flooded: It was killed because it printed far more than predictions.
        answered_early: Something was printed while the last record was held back.
        unread: Rule -> lines of stdout that are no JSON object.
        lines_by_idx: idx as text -> lines of stdout with it.
        answers: Place of a record -> its valid answer.
    """

    name: str
    fed: dict[Idx, Record]
    places: dict[Idx, int]
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    err_end: bytes = b""
    conversation: Conversation | None = None
    hung: str = ""
    flooded: bool = False
    answered_early: bool = False
    waited_s: float = 0.0
    checked: Checked | None = None
    unread: dict[str, list[str]] = field(default_factory=dict)
    lines_by_idx: dict[str, list[str]] = field(default_factory=dict)
    answers: dict[int, Prediction] = field(default_factory=dict)
    in_order: bool = True

    @property
    def missing(self) -> list[int]:
        """The places of the records that were not answered."""
        return [place for idx, place in self.places.items() if idx not in self.checked.predictions]

    @property
    def stderr(self) -> list[str]:
        """The lines of stderr that are not blank; only the first and last ones if there are many."""
        text = (bytes(self.err) + self.err_end).decode(errors="backslashreplace")
        return [line for line in text.split("\n") if line.strip()]

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return (self.conversation.exit.ended_ns - self.conversation.exit.started_ns) / 1e9

    def excerpt(self, most: int = 5) -> tuple[str, ...]:
        """Return the first and the last lines of stderr, fit for a terminal."""
        lines = [plain(line) for line in self.stderr if parse_event(line.encode()) is None]
        return tuple(lines if len(lines) <= 2 * most else [*lines[:most], "...", *lines[-most:]])

    def lines_of(self, place: int) -> dict[str, Any]:
        """Return the line fed for a record and the lines printed for it."""
        idx = next(idx for idx, k in self.places.items() if k == place)
        fed = json.dumps(self.fed[idx], ensure_ascii=False)
        return {"start": self.name, "fed": fed, "answered": self.lines_by_idx.get(str(idx), [])}

    def ending(self) -> str:
        """Return how it ended, in words."""
        end = self.conversation.exit
        if end.oom_killed:
            return "killed, out of memory"
        if end.signal is not None:
            known = end.signal in set(signal.Signals)
            return f"ended by {signal.Signals(end.signal).name if known else f'signal {end.signal}'}"
        return f"exit code {end.code}"


def plain(text: str, most: int = 160) -> str:
    """Return a text truncated to one line, its control characters escaped."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.rstrip()[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}..."


def differing(task: Task, run: ContractRun, other: ContractRun) -> list[int]:
    """Return the places of the records that two starts answered differently."""
    both = run.answers.keys() & other.answers.keys()
    return sorted(k for k in both if not task.same(run.answers[k], other.answers[k]))


def run_once(
    name: str,
    argv: list[str],
    runner: Runner,
    limits: Limits,
    task: Task,
    records: Sequence[Record],
    stream: Sequence[tuple[int, int]],
    *,
    cut: bool = False,
    hold_back_s: float = 0.0,
) -> ContractRun:
    """Start a program, feed it once and read what it prints until it ends.

    Args:
        stream: (place of the record in `records`, idx to feed it with) of every line fed.
        cut: The last line has no line feed.
        hold_back_s: Feed late, and hold the last record back for so long or until something is printed; 0: all at once.
    """
    fed = [task.reindex(task.strip_labels(records[place]), idx) for place, idx in stream]
    keys = [task.key(record) for record in fed]
    run = ContractRun(name, dict(zip(keys, fed, strict=True)), {k: p for k, (p, _) in zip(keys, stream, strict=True)})
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in fed]
    if cut:
        lines[-1] = lines[-1].removesuffix(b"\n")
    handle = runner.start(argv, limits)
    line_count, lock = 0, threading.Lock()
    printed, all_fed, expired = threading.Event(), threading.Event(), threading.Event()

    def end() -> None:
        expired.set()
        handle.kill()

    deadline = threading.Timer(min(END_S, limits.timeout_s), end)
    deadline.daemon = True

    def arm() -> None:
        with lock:
            if fed and all_fed.is_set() and line_count >= len(fed) and deadline.ident is None:
                deadline.start()

    def blocks() -> Iterator[bytes]:
        if hold_back_s:
            time.sleep(LATE_S)
            yield from lines[:-1]
            if len(lines) > 1:
                begin = time.monotonic()
                printed.wait(hold_back_s)
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
        printed.set()
        line_count += data.count(b"\n")
        if len(run.out) > ANSWER_BYTES * (len(fed) + 1):
            run.flooded = True
            threading.Thread(target=handle.kill, daemon=True).start()  # an engine may block until its output is read
        else:
            arm()

    def on_stderr(t_ns: int, data: bytes) -> None:
        room = STDERR_KEPT_BYTES - len(run.err)
        run.err += data[:room]
        run.err_end = (run.err_end + data[room:])[-STDERR_KEPT_BYTES:]

    try:
        run.conversation = converse(handle, blocks(), limits, on_stdout, on_stderr)
    finally:
        deadline.cancel()
    if run.conversation.timed_out:
        run.hung = f"not done within {limits.timeout_s:g} s"
    elif expired.is_set():
        run.hung = f"not ended {deadline.interval:g} s after stdin and its answers"
    _read(run, task, records)
    return run


def _read(run: ContractRun, task: Task, records: Sequence[Record]) -> None:
    good = []
    for number, line in split_lines(io.BytesIO(run.out)):
        try:
            lines = run.lines_by_idx.setdefault(str(task.parse(line).get("idx")), [])
            lines.append(plain(line.decode(), 1000))
            good.append(line)
        except ValueError as error:
            meant = line.lstrip().startswith(b"{") or "not an object" in str(error)  # as JSON
            rule = "utf-8" if "UTF-8" in str(error) else "json" if meant else "only-answers"
            text = line.decode(errors="backslashreplace")
            run.unread.setdefault(rule, []).append(f"line {number} is {plain(text, 60)!r}" + f", {error}" * meant)
            if named := IDX.search(line):
                run.lines_by_idx.setdefault(named[1].decode(), []).append(plain(text, 1000))
    run.checked = task.check(good, run.fed, run.name)
    position = {idx: number for number, idx in enumerate(run.fed)}
    order = [position[idx] for idx in run.checked.predictions]
    run.in_order = order == sorted(order)
    for idx, answer in run.checked.predictions.items():
        if answer is not None:
            place = run.places[idx]
            run.answers[place] = task.restore(answer, records[place])
