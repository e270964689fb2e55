"""The loop that feeds a program and reads its output, with a program that answers by a script."""

import threading
import time
import tracemalloc

import pytest

from morocco_lib.runners.contract import Exit, Limits, converse, parse_event

READY = b'morocco: {"event": "ready"}\n'


class Scripted:
    """A running program of given (stream, bytes); `takes` is how much it reads, `hangs` whether it waits to be killed."""

    started_ns, cgroup = 0, None

    def __init__(self, *chunks, takes=1 << 30, hangs=False):
        self.script, self.takes, self.hangs = chunks, takes, hangs
        self.fed, self.closed, self.killed = b"", threading.Event(), threading.Event()

    def write(self, data):
        self.fed += data
        if len(self.fed) > self.takes:
            raise BrokenPipeError

    def close_stdin(self):
        self.closed.set()

    def chunks(self):
        for number, (stream, data) in enumerate(self.script, 1):
            yield number, stream, data
        self.closed.wait(5)
        if self.hangs:
            self.killed.wait(5)

    def wait(self, timeout_s):
        return Exit(None if self.killed.is_set() else 0, 9 if self.killed.is_set() else None, False, 0, 1)

    def kill(self):
        self.killed.set()


class Heard:
    """One conversation and what was heard in it."""

    def __init__(self, handle, blocks=(b"a\n", b"b\n"), timeout_s=5.0, on_stdout=None):
        self.out, self.err, self.events = b"", b"", []
        self.handle = handle
        keep = on_stdout or (lambda t_ns, data: setattr(self, "out", self.out + data))
        self.talk = converse(
            handle, blocks, Limits(timeout_s), keep, lambda t_ns, data: setattr(self, "err", self.err + data),
            lambda t_ns, event: self.events.append((t_ns, event)),
        )  # fmt: skip


def test_input_is_fed_whole_and_answers_are_stamped_first_to_last():
    heard = Heard(Scripted(("stdout", b"1\n"), ("stderr", b"log\n"), ("stdout", b"2\n"), ("stderr", b"end")))
    talk = heard.talk
    assert (heard.handle.fed, heard.out, heard.err) == (b"a\nb\n", b"1\n2\n", b"log\nend")
    assert (talk.first_answer_ns, talk.last_answer_ns, talk.ready_ns) == (1, 3, None)
    assert talk.feed.complete and talk.feed.bytes_written == 4 and talk.feed.first_write_ns < talk.feed.closed_ns
    assert (talk.exit.code, talk.timed_out, heard.handle.killed.is_set()) == (0, False, False)


def test_the_first_of_several_readiness_lines_counts_and_an_event_may_come_in_parts():
    parts = (b'log\nmorocco: {"ev', b'ent": "ready", "n": 1}\nlog\n', READY, b'morocco: {"event": "x"}\n')
    heard = Heard(Scripted(*(("stderr", part) for part in parts)))
    assert [event for _, event in heard.events] == [{"event": "ready", "n": 1}, {"event": "ready"}, {"event": "x"}]
    assert heard.talk.ready_ns == 2 and heard.talk.events[0] == {"event": "ready", "n": 1, "t_ns": 2}


def test_bytes_that_are_not_utf8_pass_unchanged_and_hide_no_event():
    heard = Heard(Scripted(("stderr", b"\xff\xfe\x00 caf\xe9\n" + READY + b"\xc3")))
    assert heard.err == b"\xff\xfe\x00 caf\xe9\n" + READY + b"\xc3" and heard.talk.ready_ns == 1


def test_a_flood_without_line_feeds_is_not_kept():
    flood = [("stderr", b"x" * 10**6)] * 20
    tracemalloc.start()
    try:
        talk = converse(Scripted(*flood, ("stderr", b"\n" + READY)), (), Limits(5), lambda *_: None, lambda *_: None)
        assert talk.ready_ns == 21 and tracemalloc.get_traced_memory()[1] < 5 * 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "before",
    [b"\r 50%|##  | 1/2\r100%|####| 2/2\r", b"\x1b[32m", b"\x1b[2K\x1b[1G", b"loading\r\x1b[?25h"],
    ids=["a bar", "a colour", "a cleared line", "a cursor"],
)
@pytest.mark.parametrize("after", [b"", b"\r", b"\x1b[0m"])
def test_a_line_is_read_as_a_terminal_shows_it(before, after):
    assert parse_event(before + b'morocco: {"event": "ready"}' + after) == {"event": "ready"}


@pytest.mark.parametrize(
    "line",
    [
        b"morocco: [1]", b'log: morocco: {"event": "ready"}', b'morocco: {"event": "rea', b'morocco: {"event": ["ready"]}',
        b"morocco: {}", b"morocco: " + b"[" * 4000, b'morocco: {"event": "ready", "a": ' + b"[" * 1500 + b"]" * 1500 + b"}",
        b'morocco: {"event": "ready", "a": "\\ud800"}', b'morocco: {"event": "ready", "a": NaN}', b'morocco: {"event": "\xff"}',
        b'morocco: {"event": "ready", "event": "x"}', b'morocco: {"event": "ready", "a": "' + b"x" * 4096 + b'"}',
    ],
)  # fmt: skip
def test_other_lines_are_no_events(line):
    assert parse_event(line) is None


def test_of_an_event_plain_values_are_kept():
    odd = b'"a": [1], "b": {}, "c": 1e999, "d": 9999999999999999999999, "e": "\\u001b[31mVALID", "f": "x\\u0000", "\\u001b": 1'
    plain = b'"event": "ready", "g": "da", "h": 1.5, "i": -5, "j": true, "k": null'
    expected = {"event": "ready", "g": "da", "h": 1.5, "i": -5, "j": True, "k": None}
    assert parse_event(b"morocco: {" + odd + b", " + plain + b"}") == expected


def test_a_program_that_stops_reading_is_fed_no_further():
    heard = Heard(Scripted(("stdout", b"1\n"), takes=5), blocks=[b"0123"] * 100)
    assert not heard.talk.feed.complete and heard.talk.feed.bytes_written == 4 and heard.talk.exit.code == 0
    assert heard.handle.closed.is_set()


def test_a_program_that_does_not_end_is_killed_when_its_time_is_over():
    began = time.monotonic()
    talk = Heard(Scripted(hangs=True), timeout_s=0.1).talk
    assert talk.timed_out and talk.exit.signal == 9 and 0.1 < time.monotonic() - began < 2
    assert not Heard(Scripted(), timeout_s=5).talk.timed_out
    assert not any(thread.name == "morocco-feeder" for thread in threading.enumerate())


def test_a_source_that_fails_is_raised_and_ends_the_program():
    def blocks():
        yield b"one\n"
        raise OSError(5, "Input/output error")

    handle = Scripted(hangs=True)
    with pytest.raises(OSError, match="Input/output"):
        Heard(handle, blocks())
    assert handle.killed.is_set() and handle.closed.is_set()


def test_a_callback_that_fails_is_raised_and_ends_the_program():
    def full_disk(t_ns, data):
        raise OSError(28, "No space left on device")

    handle = Scripted(("stdout", b"1\n"), hangs=True)
    with pytest.raises(OSError, match="No space"):
        Heard(handle, on_stdout=full_disk)
    assert handle.killed.is_set()
