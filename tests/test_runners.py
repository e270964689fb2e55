"""The process runner and the conversation with a program: fed, heard, timed, ended, and nothing left behind."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from servers import PYTHON, ROOT, cgroups_of, is_alive, runner, server

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors.sampler import Sampler, reader_for
from morocco_lib.runners import process
from morocco_lib.runners.contract import Limits, converse, parse_event
from morocco_lib.runners.process import ProcessRunner

MB = 10**6
KIN = "deaf,grandchild,own-session"  # all that can be found without having been seen before


@pytest.fixture(params=[True, False], ids=["cgroup", "proc"])
def way(request):
    """The runner in each of its two ways of accounting."""
    return runner(use_cgroup=request.param)


class Heard:
    """One conversation: what the program said, and what the runner said of it."""

    def __init__(self, way, argv, data=b"", *, limits=None, watched=False, on_event=lambda t_ns, event: None):
        blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
        self.out, self.err = bytearray(), bytearray()
        limits = limits or Limits(timeout_s=20)
        begin = time.monotonic()
        self.handle = way.start(argv, limits)
        sampler = Sampler(reader_for(self.handle), io.StringIO(), 0) if watched else None
        if sampler:
            sampler.start()
        self.seen = converse(
            self.handle,
            blocks,
            limits,
            lambda t_ns, block: self.out.extend(block),
            lambda t_ns, block: self.err.extend(block),
            on_event,
        )
        self.took_s = time.monotonic() - begin
        if sampler:
            sampler.stop()
        self.exit = self.seen.exit


def python(way, code: str, data: bytes = b"", **options) -> Heard:
    return Heard(way, [*PYTHON, "-c", code], data, **options)


def assert_nothing_left(heard: Heard) -> None:
    assert not is_alive(heard.handle.pid)
    assert not any(thread.name.startswith("morocco-") for thread in threading.enumerate())
    assert cgroups_of(os.getpid()) == []


def assert_dead(pids) -> None:
    deadline = time.monotonic() + 1  # a killed process may still be on its way out
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in pids if is_alive(pid)] == []


# -- feeding and hearing -------------------------------------------------------------------------------------------
BIG = """
import hashlib, json, os, sys
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.process import ProcessRunner

def peak_bytes():  # of this program alone; ru_maxrss would count the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

use_cgroup, n_blocks, argv = sys.argv[1] == "True", int(sys.argv[2]), sys.argv[3:]
fed, heard, count, talk = hashlib.sha256(), hashlib.sha256(), 0, 0
body = bytes(range(256)) * 390

def blocks():
    for i in range(n_blocks):
        block = i.to_bytes(160, "big") + body  # 100 kB each, none like another
        fed.update(block)
        yield block

def on_stdout(t_ns, block):
    global count
    count += len(block)
    heard.update(block)

def on_stderr(t_ns, block):
    global talk
    talk += len(block)

limits = Limits(timeout_s=60)
before = peak_bytes()
seen = converse(ProcessRunner(use_cgroup=use_cgroup).start(argv, limits), blocks(), limits, on_stdout, on_stderr)
print(json.dumps({"grown": peak_bytes() - before, "same": fed.digest() == heard.digest(), "out": count, "err": talk,
                  "code": seen.exit.code, "complete": seen.feed.complete, "fed": seen.feed.bytes_written,
                  "events": len(seen.events)}))
"""


def in_a_program_of_its_own(way, n_blocks: int, argv: list[str]) -> dict:
    command = [sys.executable, "-c", BIG, str(way.use_cgroup), str(n_blocks), *argv]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=90, check=True
    )
    return json.loads(done.stdout)


def test_100_mb_in_and_out_pass_whole_and_leave_our_memory_flat(way):
    facts = in_a_program_of_its_own(way, 1000, server("echo", "--stderr-bytes", 200_000))
    assert facts["same"] and facts["out"] == facts["fed"] == 100 * MB
    assert facts["err"] >= 200_000 and facts["code"] == 0 and facts["complete"]
    assert facts["grown"] < 30 * MB


def test_50_mb_of_stderr_without_a_line_feed_leave_our_memory_flat(way):
    facts = in_a_program_of_its_own(way, 1, server("echo", "--stderr-bytes", 50 * MB))
    assert facts["err"] > 50 * MB and facts["code"] == 0
    assert facts["events"] == 1  # the line after the flood is still understood
    assert facts["grown"] < 30 * MB


def test_a_program_that_answers_before_it_has_read_all_does_not_block(way):
    # Both pipes are full at once: who writes all before reading would wait for ever.
    data = os.urandom(3 * MB)
    heard = Heard(way, server("echo"), data)
    assert bytes(heard.out) == data and heard.exit.code == 0


def test_a_program_may_exit_early(way):
    heard = Heard(way, server("echo", "--take", 1000), bytes(3 * MB))
    assert heard.exit.code == 0 and len(heard.out) == 1000
    assert not heard.seen.feed.complete and heard.seen.feed.bytes_written < 3 * MB
    assert_nothing_left(heard)


def test_a_program_may_close_stdin_early_and_go_on(way):
    heard = Heard(way, server("echo", "--take", 1000, "--linger", 0.3), bytes(3 * MB))
    assert heard.exit.code == 0 and not heard.seen.feed.complete
    assert heard.exit.ended_ns - heard.seen.feed.closed_ns > 0.2e9  # we knew when it closed, not only when it ended


def test_a_program_may_close_a_stdin_that_it_never_read(way):
    heard = Heard(way, server("echo", "--take", 0, "--linger", 0.3), b"a line\n")
    assert heard.exit.code == 0 and heard.exit.first_read_ns is None
    assert heard.exit.ended_ns - heard.seen.feed.closed_ns > 0.2e9


@pytest.mark.parametrize("size", [10, 3 * MB])
def test_a_program_that_never_reads_has_no_first_read(way, size):
    heard = python(way, "import time; time.sleep(0.1); print('done')", bytes(size))
    assert heard.exit.code == 0 and heard.out == b"done\n"
    assert heard.exit.first_read_ns is None
    assert heard.seen.feed.complete == (size == 10)  # what fits into the pipe has been written all the same


def test_a_program_may_say_nothing(way):
    heard = Heard(way, server("echo", "--mute"), bytes(MB))
    assert heard.exit.code == 0 and heard.seen.feed.complete and heard.out == b""
    assert heard.seen.first_answer_ns is None and heard.seen.last_answer_ns is None and heard.seen.ready_ns is None


def test_no_input_at_all_is_an_end_of_input(way):
    heard = Heard(way, server("echo"))
    assert heard.exit.code == 0 and heard.out == b"" and heard.exit.first_read_ns is None


def test_a_failing_source_is_raised_and_ends_the_program(way):
    def blocks():
        yield b"one\n"
        raise OSError(5, "Input/output error")

    handle = way.start(server("family", "--members", KIN), Limits())
    with pytest.raises(OSError, match="Input/output"):
        converse(handle, blocks(), Limits(timeout_s=20), lambda *_: None, lambda *_: None)
    assert not is_alive(handle.pid) and cgroups_of(os.getpid()) == []


def test_a_failing_listener_is_raised_and_ends_the_program(way):
    def full_disk(t_ns, block):
        raise OSError(28, "No space left on device")

    handle = way.start(server("family", "--members", KIN), Limits())
    with pytest.raises(OSError, match="No space"):
        converse(handle, [b"one\n"], Limits(timeout_s=20), full_disk, lambda *_: None)
    assert not is_alive(handle.pid) and cgroups_of(os.getpid()) == []


# -- what is said on stderr ----------------------------------------------------------------------------------------
def test_bytes_that_are_not_utf8_pass_unchanged_and_do_not_hide_events(way):
    code = 'import os; os.write(2, b\'\\xff\\xfe\\x00 caf\\xe9\\nmorocco: {"event": "ready"}\\n\\xc3\')'
    heard = python(way, code)
    assert heard.err == b'\xff\xfe\x00 caf\xe9\nmorocco: {"event": "ready"}\n\xc3'
    assert heard.seen.ready_ns is not None and heard.exit.code == 0


def test_an_event_line_may_come_in_two_parts(way):
    code = (
        "import os, time; os.write(2, b'log\\nmorocco: {\"ev'); time.sleep(0.2);"
        'os.write(2, b\'ent": "ready", "n": 3}\\nlog\')'
    )
    told = []
    heard = python(way, code, on_event=lambda t_ns, event: told.append((t_ns, event)))
    assert [event for _, event in told] == [{"event": "ready", "n": 3}]
    assert heard.seen.ready_ns == told[0][0] and heard.seen.ready_ns - heard.handle.started_ns > 0.2e9


@pytest.mark.parametrize(
    "line", [b"morocco: ready", b"morocco: [1]", b'log: morocco: {"event": "ready"}', b'morocco: {"event": "rea', b""]
)
def test_other_lines_are_no_events(line):
    assert parse_event(line) is None


def test_the_first_of_several_readiness_lines_counts(way):
    code = (
        "import sys, time\n"
        'for _ in range(3): print(\'morocco: {"event": "ready"}\', file=sys.stderr, flush=True); time.sleep(0.1)'
    )
    heard = python(way, code)
    assert len(heard.seen.events) == 3 and heard.seen.ready_ns == heard.seen.events[0]["t_ns"]


# -- the clock -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [600, 60_000, 600_000], ids=["one-line", "fits-in-the-pipe", "longer-than-the-pipe"])
def test_first_read_is_within_50_ms_of_the_truth(way, size):
    errors_s = []
    while len(errors_s) < 3 and (not errors_s or errors_s[-1] >= 0.05):  # a busy machine may spoil one, not three
        heard = Heard(way, server("echo", "--delay", 0.5), bytes(size))
        truth_ns = heard.seen.events[-1]["read_ns"]
        assert truth_ns - heard.handle.started_ns > 0.5e9
        errors_s.append(abs(heard.exit.first_read_ns - truth_ns) / 1e9)
    assert errors_s[-1] < 0.05, errors_s


def test_the_clock_starts_before_anything_is_created(way, monkeypatch):
    created = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            created.append(time.monotonic_ns())
            super().__init__(*args, **kwargs)

    create = process.RunCgroup.create

    def create_and_tell():
        created.append(time.monotonic_ns())
        return create()

    monkeypatch.setattr(process.subprocess, "Popen", Popen)
    monkeypatch.setattr(process.RunCgroup, "create", create_and_tell)
    asked_ns = time.monotonic_ns()
    heard = python(way, "pass")
    assert len(created) == 1 + way.use_cgroup
    assert asked_ns <= heard.handle.started_ns == heard.exit.started_ns < min(created)
    assert heard.handle.started_ns - asked_ns < 0.05e9


def test_phases_come_in_their_order(way):
    heard = Heard(way, server("paced", "--rate", 100, "--init", 0.1), lines_of_records(20))
    seen, end = heard.seen, heard.exit
    phases = [
        heard.handle.started_ns,
        seen.feed.first_write_ns,
        end.first_read_ns,
        seen.ready_ns,
        seen.first_answer_ns,
        seen.last_answer_ns,
        end.ended_ns,
    ]
    assert phases == sorted(phases)
    assert 0.1 < (seen.ready_ns - heard.handle.started_ns) / 1e9 < 1
    assert (seen.last_answer_ns - seen.first_answer_ns) / 1e9 == pytest.approx(0.19, abs=0.05)


def lines_of_records(n: int) -> bytes:
    return b"".join(b'{"idx": %d, "premise": "a", "hypothesis": "b"}\n' % i for i in range(n))


def test_the_end_is_the_programs_and_not_that_of_its_output(way, monkeypatch):
    monkeypatch.setattr(process, "DRAIN_S", 0.5)
    heard = Heard(way, server("family", "--members", "deaf", "--leave", "pipes-open"))
    assert heard.took_s - (heard.exit.ended_ns - heard.handle.started_ns) / 1e9 > 0.4


# -- starting ------------------------------------------------------------------------------------------------------
def not_executable(folder):
    path = folder / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("make", [lambda f: "no-such-program", lambda f: f / "absent", not_executable, lambda f: f])
def test_what_is_no_program_is_wrong_usage_and_leaves_nothing(way, make, tmp_path):
    with pytest.raises(UsageError, match=r"no program|not executable"):
        way.start([str(make(tmp_path))], Limits())
    assert cgroups_of(os.getpid()) == []


def test_a_program_is_started_in_the_folder_asked_for(way, tmp_path):
    (tmp_path / "here").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "here").chmod(stat.S_IRWXU)
    heard = Heard(ProcessRunner(cwd=tmp_path, use_cgroup=way.use_cgroup), ["./here"])
    assert heard.out.decode().strip() == str(tmp_path) and heard.exit.code == 0


def test_words_reach_the_program_as_they_are(way):
    words = ["two words", "", "$HOME", "*", "--", "a'b\"c", "-n", "new\nline", "ы"]
    heard = Heard(way, [*PYTHON, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words])
    assert json.loads(heard.out) == words


def test_a_program_has_a_process_group_and_a_session_of_its_own(way):
    heard = python(way, "import os; print(os.getpid(), os.getpgid(0), os.getsid(0))")
    pid, group, session = map(int, heard.out.split())
    assert pid == group == session == heard.handle.pid != os.getpgid(0)


# -- ending --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_codes_are_told(way, code):
    heard = python(way, f"import sys; sys.exit({code})")
    assert (heard.exit.code, heard.exit.signal, heard.seen.timed_out) == (code, None, False)
    assert_nothing_left(heard)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_signals_are_told(way, number):
    heard = python(way, f"import os; os.kill(os.getpid(), {int(number)})")
    assert (heard.exit.code, heard.exit.signal, heard.exit.oom_killed) == (None, number, False)
    assert_nothing_left(heard)


def test_a_timeout_ends_the_whole_tree_and_leaves_nothing(way):
    # The orphan has left session and parent: without a cgroup it is known only because it was seen before.
    options = {"limits": Limits(timeout_s=1.0), "watched": True}
    heard = Heard(way, server("family", "--settle", 0.15), lines_of_records(3), **options)
    family = json.loads(heard.out)
    assert set(family) == {"main", "deaf", "grandchild", "own-session", "orphan"}
    assert heard.seen.timed_out and heard.exit.signal == signal.SIGKILL
    assert 1.0 < heard.took_s < 2.5
    assert_dead(family.values())
    assert heard.exit.left_pids == ()  # they did not outlive the program: we ended all of them
    assert_nothing_left(heard)


def test_a_program_that_ends_in_time_has_not_timed_out(way):
    heard = python(way, "pass", limits=Limits(timeout_s=5))
    assert not heard.seen.timed_out and heard.took_s < 4


@pytest.mark.parametrize("pipes", ["pipes-open", "pipes-closed"])
def test_processes_left_behind_are_ended_and_named(way, pipes, monkeypatch):
    monkeypatch.setattr(process, "DRAIN_S", 0.5)
    heard = Heard(way, server("family", "--leave", pipes, "--settle", 0.15), watched=True)
    family = json.loads(heard.out)
    main = family.pop("main")
    assert main == heard.handle.pid and heard.exit.code == 0 and not heard.seen.timed_out
    assert heard.took_s < 3
    assert set(family.values()) <= set(heard.exit.left_pids) and main not in heard.exit.left_pids
    assert_dead(family.values())
    assert_nothing_left(heard)


def test_a_holder_of_the_pipes_that_cannot_be_found_does_not_hang_us(monkeypatch):
    # No cgroup and nobody watching: the orphan is out of reach, and it keeps stdout open.
    monkeypatch.setattr(process, "DRAIN_S", 0.3)
    argv = server("family", "--members", "orphan", "--leave", "pipes-open")
    heard = Heard(ProcessRunner(use_cgroup=False), argv)
    orphan = json.loads(heard.out)["orphan"]
    try:
        assert heard.exit.code == 0 and heard.took_s < 3
    finally:
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)


def test_wait_is_patient_only_as_long_as_asked_and_may_be_repeated(way):
    handle = way.start(server("family", "--members", KIN), Limits())
    with pytest.raises(TimeoutError):
        handle.wait(0.3)
    pids = handle.pids()
    assert len(pids) >= 4
    handle.kill()
    end = handle.wait(5)
    assert end.signal == signal.SIGKILL and handle.wait(0) == end
    assert end.left_pids == ()  # nothing outlived it: all were ended together
    assert_dead(pids)
    handle.kill()  # its pid may be somebody else's: must do nothing, and not fail
    assert cgroups_of(os.getpid()) == []
    handle.close_stdin()


def test_the_memory_limit_is_enforced_and_told():
    heard = python(runner(use_cgroup=True), "x = b'1' * (300 * 10**6)", limits=Limits(20, memory_bytes=60 * MB))
    assert heard.exit.oom_killed and heard.exit.signal == signal.SIGKILL
    assert heard.exit.peak_bytes <= 61 * MB
    assert_nothing_left(heard)


def test_the_memory_limit_leaves_room_up_to_itself():
    heard = python(runner(use_cgroup=True), "x = b'1' * (40 * 10**6)", limits=Limits(20, memory_bytes=80 * MB))
    assert heard.exit.code == 0 and not heard.exit.oom_killed


def test_a_memory_limit_that_cannot_be_enforced_is_refused():
    with pytest.raises(EnvironmentFailure, match="cgroup"):
        ProcessRunner(use_cgroup=False).start([*PYTHON, "-c", "pass"], Limits(memory_bytes=60 * MB))


def test_the_end_says_where_its_cpu_time_and_peak_come_from(way):
    heard = python(way, "pass")
    if way.use_cgroup:
        assert heard.exit.cpu_source in ("cgroup v1", "cgroup v2")
        assert heard.exit.peak_source in ("memory.max_usage_in_bytes", "memory.peak", None)
        assert heard.handle.cgroup is not None
    else:
        assert (heard.exit.cpu_source, heard.exit.peak_source, heard.exit.peak_bytes) == ("wait4", None, None)
        assert heard.handle.cgroup is None
    assert 0 < heard.exit.cpu_s < 1
