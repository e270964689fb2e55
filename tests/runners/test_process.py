"""The process runner on real programs: fed, read, timed, ended, and nothing left behind."""

import ctypes
import io
import json
import os
import signal
import stat
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from servers import PYTHON, ROOT, cgroups_of, is_alive, runner, server

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import procfs
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.readers import reader_for
from morocco_lib.monitors.sampler import Sampler
from morocco_lib.runners import process
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.process import ProcessRunner

MB = 10**6
KIN = "deaf,grandchild,own-session"  # all that can be found without having been found before


@pytest.fixture(params=[True, False], ids=["cgroup", "proc"])
def way(request):
    """The runner in each of its two ways of accounting."""
    return runner(use_cgroup=request.param)


@pytest.fixture
def bare():
    return ProcessRunner(use_cgroup=False)


class Run:
    """One run of a program: what it printed, and how it ended."""

    def __init__(self, way, argv, data=b"", *, limits=None, watched=False):
        blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
        self.out, self.err = bytearray(), bytearray()
        limits = limits or Limits(timeout_s=20)
        begin = time.monotonic()
        self.handle = way.start(argv, limits)
        reader = reader_for(self.handle)
        sampler = Sampler(reader, io.StringIO(), 0, processes=Processes(reader.pids, 0)) if watched else None
        if sampler:
            sampler.start()
        keep = [lambda t_ns, data, into=into: into.extend(data) for into in (self.out, self.err)]
        self.talk = converse(self.handle, blocks, limits, *keep)
        self.took_s = time.monotonic() - begin
        if sampler:
            sampler.stop()
        else:
            reader.close()
        self.outside = set(reader.outside)
        self.exit = self.talk.exit


def python(way, code: str, data: bytes = b"", **options) -> Run:
    return Run(way, [*PYTHON, "-c", code], data, **options)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("morocco-")]
    groups = cgroups_of(os.getpid())
    for group in groups:  # so that one fault does not fail the tests after it
        with suppress(OSError):
            group.rmdir()
    assert (left, groups) == ([], [])


def assert_dead(pids) -> None:
    deadline = time.monotonic() + 1  # a killed process may still be on its way out
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in pids if is_alive(pid)] == []


# -- feeding -------------------------------------------------------------------------------------------------------
def test_a_program_that_answers_before_it_has_read_all_does_not_block(way):
    # Both pipes are full at once: writing all before reading would wait for ever.
    data = os.urandom(3 * MB)
    run = Run(way, server("echo", "--stderr-bytes", 200_000), data)
    assert bytes(run.out) == data and run.exit.code == 0 and len(run.err) >= 200_000


@pytest.mark.parametrize(("take", "fed"), [(1000, 3 * MB), (0, 7)])
def test_a_program_may_close_stdin_early_and_go_on(bare, take, fed):
    run = Run(bare, server("echo", "--take", take, "--linger", 1), bytes(fed))
    assert run.exit.code == 0 and len(run.out) == take
    assert run.exit.ended_ns - run.talk.feed.closed_ns > 0.2e9  # known when it closed, not only when it ended
    assert (run.exit.first_read_ns is None) == (take == 0)


@pytest.mark.parametrize("size", [10, 3 * MB])
def test_a_program_that_never_reads_has_no_first_read(bare, size):
    run = python(bare, "import time; time.sleep(0.1); print('done')", bytes(size))
    assert run.exit.code == 0 and run.out == b"done\n" and run.exit.first_read_ns is None
    assert run.talk.feed.complete == (size == 10)  # what fits into the pipe has been written all the same


# -- the clock -----------------------------------------------------------------------------------------------------
READ = """
import os, time
time.sleep(0.15)
os.write(2, b'morocco: {"event": "x", "ns": %d}\\n' % time.monotonic_ns())
os.read(0, 65536)
time.sleep(0.3)
while os.read(0, 65536): pass
"""


@pytest.mark.parametrize("size", [600, 600_000], ids=["fits-in-the-pipe", "longer-than-the-pipe"])
def test_the_first_read_is_timed_and_not_the_last(bare, size):
    errors_s = []
    while len(errors_s) < 3 and (not errors_s or errors_s[-1] >= 0.05):  # a busy machine may spoil one, not three
        run = python(bare, READ, bytes(size))
        errors_s.append(abs(run.exit.first_read_ns - run.talk.events[0]["ns"]) / 1e9)
    assert errors_s[-1] < 0.05, errors_s


def test_the_clock_starts_before_anything_is_created(way, monkeypatch):
    created = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            created.append(time.monotonic_ns())
            super().__init__(*args, **kwargs)

    create = process.RunCgroup.create
    monkeypatch.setattr(process.subprocess, "Popen", Popen)
    monkeypatch.setattr(process.RunCgroup, "create", lambda: created.append(time.monotonic_ns()) or create())
    before_ns = time.monotonic_ns()
    run = python(way, "pass")
    assert len(created) == 1 + way.use_cgroup
    assert before_ns <= run.handle.started_ns == run.exit.started_ns < min(created)


def test_phases_come_in_their_order(way):
    records = b"".join(b'{"idx": %d, "premise": "a", "hypothesis": "b"}\n' % i for i in range(20))
    run = Run(way, server("paced", "--rate", 100, "--init", 0.1), records)
    talk, end = run.talk, run.exit
    phases = [run.handle.started_ns, talk.feed.first_write_ns, talk.ready_ns]
    assert talk.feed.first_write_ns <= end.first_read_ns < talk.first_answer_ns + 0.5e9  # it is looked for in turns
    phases += [talk.first_answer_ns, talk.last_answer_ns, end.ended_ns]
    assert phases == sorted(phases)
    assert 0.1 < (talk.ready_ns - run.handle.started_ns) / 1e9 < 1
    assert (talk.last_answer_ns - talk.first_answer_ns) / 1e9 == pytest.approx(0.19, abs=0.15)


def test_the_end_is_the_programs_and_not_that_of_its_output(bare, monkeypatch):
    monkeypatch.setattr(process, "DRAIN_S", 0.3)
    run = Run(bare, server("family", "--members", "deaf", "--leave", "pipes-open"))
    assert run.took_s - (run.exit.ended_ns - run.handle.started_ns) / 1e9 > 0.25


# -- starting ------------------------------------------------------------------------------------------------------
def not_executable(folder):
    path = folder / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("make", [lambda f: "no-such-program", lambda f: f / "absent", not_executable, lambda f: f])
def test_what_is_no_program_is_wrong_usage(make, tmp_path):
    with pytest.raises(UsageError, match=r"no program|not executable"):
        ProcessRunner().start([str(make(tmp_path))], Limits())


def test_a_program_starts_in_its_folder_with_its_words_and_a_session_of_its_own(way, tmp_path):
    words = ["two words", "", "$HOME", "*", "--", "a'b\"c", "-n", "new\nline", "ы"]
    code = (
        "import json, os, sys; print(json.dumps([os.getcwd(), os.getpid(), os.getpgid(0), os.getsid(0), sys.argv[1:]]))"
    )
    run = Run(ProcessRunner(cwd=tmp_path, use_cgroup=way.use_cgroup), [*PYTHON, "-c", code, *words])
    folder, pid, group, session, argv = json.loads(run.out)
    assert (folder, argv) == (str(tmp_path), words)
    assert pid == group == session == run.handle.pid != os.getpgid(0)
    script = tmp_path / "here"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(stat.S_IRWXU)
    assert Run(ProcessRunner(cwd=tmp_path), ["./here"]).out.decode().strip() == str(tmp_path)


def test_a_measured_program_is_not_handed_our_secrets(bare, monkeypatch):
    kept = ("MOROCCO_TEST", "OMP_NUM_THREADS", "HF_HOME", "TOKENIZERS_PARALLELISM", "LC_TIME", "PYTHONUTF8", "TZ")
    secret = ("MOROCCO_REGISTRY_PASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "GITHUB_PAT", "PATHS")
    for name in (*kept, *secret):
        monkeypatch.setenv(name, f"of {name}")

    def names(runner) -> set[str]:
        out = python(runner, "import json, os; print(json.dumps(dict(os.environ)))").out
        return {name for name, value in json.loads(out).items() if value == f"of {name}"}

    assert names(bare) == set(kept)
    assert names(ProcessRunner(use_cgroup=False, env=("HF_TOKEN", "DATABASE_URL"))) == {
        *kept,
        "HF_TOKEN",
        "DATABASE_URL",
    }
    assert os.environ["HF_TOKEN"] == "of HF_TOKEN"


def test_a_program_is_killed_with_us():
    code = "import subprocess, sys; from morocco_lib.runners.process import die_with_parent as words;"
    code += "p = subprocess.Popen([*words(), 'sleep', '60']); print(p.pid, flush=True); sys.stdin.read()"
    argv, env = [PYTHON[0], "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as parent:
        child = int(parent.stdout.readline())
        while Path(f"/proc/{child}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        parent.kill()
    assert_dead([child])


# -- ending --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(3)", (3, None)), ("import os; os.kill(os.getpid(), 11)", (None, 11))],
)
def test_exit_codes_and_signals_are_told_apart(bare, code, expected):
    run = python(bare, code)
    assert (run.exit.code, run.exit.signal, run.talk.timed_out, run.exit.oom_killed) == (*expected, False, False)
    assert not is_alive(run.handle.pid)


def test_a_timeout_kills_the_whole_tree(way):
    run = Run(way, server("family"), limits=Limits(timeout_s=2))
    family = json.loads(run.out)
    assert set(family) == {"main", "deaf", "grandchild", "own-session", "orphan"}
    assert run.talk.timed_out and run.exit.signal == signal.SIGKILL and 2 < run.took_s < 5
    assert_dead(family.values())
    assert run.exit.left_pids == ()  # they did not outlive the program: all were killed with it


@pytest.mark.parametrize("pipes", ["pipes-open", "pipes-closed"])
def test_processes_left_behind_are_killed_and_listed(way, pipes, monkeypatch):
    monkeypatch.setattr(process, "DRAIN_S", 0.3)
    run = Run(way, server("family", "--leave", pipes))
    family = json.loads(run.out)
    main = family.pop("main")
    assert main == run.handle.pid and run.exit.code == 0 and not run.talk.timed_out and run.took_s < 3
    assert set(family.values()) <= set(run.exit.left_pids) and main not in run.exit.left_pids
    assert_dead(family.values())


def test_a_holder_of_the_pipes_that_cannot_be_found_does_not_hang_us(bare, monkeypatch):
    monkeypatch.setattr(process, "DRAIN_S", 0.2)
    monkeypatch.setattr(process.ProcessHandle, "orphans", lambda handle: {})
    run = Run(bare, server("family", "--members", "orphan", "--leave", "pipes-open"))
    orphan = json.loads(run.out)["orphan"]
    os.kill(orphan, signal.SIGKILL)
    os.waitpid(orphan, 0)
    assert run.exit.code == 0 and run.took_s < 3


def test_a_helper_that_left_parent_session_and_cgroup_is_killed_and_listed(way, monkeypatch):
    monkeypatch.setattr(process.confined, "possible", lambda: False)  # else it cannot leave the cgroup
    run = Run(way, server("holder", "helper", "--leave", "--mb", 1, "--hold", 0.4), watched=True)
    (helper,) = run.exit.left_pids
    assert run.exit.code == 0 and not is_alive(helper)
    assert run.exit.outside_pids == ((helper,) if way.use_cgroup else ())
    assert run.outside == set(run.exit.outside_pids)  # and was found while it ran


def test_no_other_child_of_ours_is_taken_for_one_of_the_run(way):
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as before, subprocess.Popen(["sleep", "60"]) as own:
        time.sleep(0.05)  # before in the kernel's clock of starts, too
        run = Run(way, server("family", "--leave", "pipes-closed"))
        assert run.exit.left_pids and before.poll() is own.poll() is None
        before.kill(), own.kill()


def test_orphans_are_ours_for_a_run_alone_and_leave_no_zombie(way):
    def adopts() -> bool:
        found = ctypes.c_int()
        ctypes.CDLL(None).prctl(process.PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
        return bool(found.value)

    before = set(procfs.children(os.getpid()))
    handle = way.start(server("family"), Limits())
    assert adopts()
    next(handle.chunks())  # all are born
    handle.kill(), handle.wait(5)
    assert not adopts()
    states = [procfs.stat_fields(pid) for pid in set(procfs.children(os.getpid())) - before]
    assert not any(fields and fields[0] == "Z" for fields in states)
    with pytest.raises(UsageError):
        way.start(["no-such-program"], Limits())
    assert not adopts()


def test_wait_takes_no_longer_than_given_and_may_be_repeated(way):
    handle = way.start(server("family", "--members", KIN), Limits())
    next(handle.chunks())  # all are born
    with pytest.raises(TimeoutError):
        handle.wait(0.3)
    pids = handle.pids()
    assert len(pids) >= 4
    handle.kill()
    end = handle.wait(5)
    assert end.signal == signal.SIGKILL and handle.wait(0) == end and end.left_pids == ()
    assert_dead(pids)
    handle.kill()  # its pid may be another program's: must do nothing, and not fail
    handle.close_stdin()


# -- what it used --------------------------------------------------------------------------------------------------
HUNGRY = "x = b'1' * ({} * 10**6)"


@pytest.mark.parametrize(("mb", "limit_mb", "killed"), [(300, 60, True), (40, 80, False)])
def test_the_memory_limit_is_enforced_and_leaves_room_up_to_itself(mb, limit_mb, killed):
    run = python(runner(use_cgroup=True), HUNGRY.format(mb), limits=Limits(20, memory_bytes=limit_mb * MB))
    assert run.exit.oom_killed is killed and run.exit.signal == (signal.SIGKILL if killed else None)
    assert min(mb, limit_mb - 5) * MB < run.exit.peak_bytes <= (limit_mb + 1) * MB


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (Limits(memory_bytes=60 * MB), EnvironmentFailure), (Limits(pids=5), UsageError), (Limits(cpus=1), UsageError),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_enforced_is_refused(bare, limits, error):
    with pytest.raises(error, match=r"cgroup|only containers"):
        bare.start([*PYTHON, "-c", "pass"], limits)


def test_cpu_time_of_exited_children_counts_and_its_source_is_given(way):
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    run = python(way, f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {burn!r}])")
    assert 0.2 <= run.exit.cpu_s < 0.8
    if way.use_cgroup:
        version = run.handle.group.version
        names = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
        assert (run.exit.cpu_source, run.exit.peak_source) == (f"cgroup v{version}", names[version])
        assert run.handle.cgroup is not None and run.exit.peak_bytes > MB
    else:
        assert (run.exit.cpu_source, run.exit.peak_source, run.exit.peak_bytes) == ("wait4", None, None)
        assert run.handle.cgroup is None
