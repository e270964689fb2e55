"""Runs that something disturbs: workers that are killed, a sampler that is starved, other programs on the same cores."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import engine
import pytest
from servers import PYTHON, ROOT, runner, server

from morocco_lib.analysis import validity
from morocco_lib.benchmark import protocol
from morocco_lib.benchmark.run import Program
from morocco_lib.monitors import system_load
from morocco_lib.monitors.cgroup import Memory, RunCgroup
from morocco_lib.monitors.processes import Processes, wait_status
from morocco_lib.monitors.sampler import CgroupReader, ProcReader, Sampler
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.docker import DockerRunner
from morocco_lib.tasks import get_task

TASK = get_task("terra")
SERVERS = Path(__file__).with_name("servers")
CORES = os.cpu_count()
ways = pytest.mark.parametrize("use_cgroup", [True, False], ids=["cgroup", "proc"])


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.write_text("".join(json.dumps({"premise": "a", "hypothesis": "b" * n, "idx": n}) + "\n" for n in range(100)))
    return path


def benched(program: Program, way, records: Path, folder: Path) -> tuple[dict, dict]:
    """Bench one run of a hundred records and return (bench.json, run.json)."""
    options = {"input_size": 100, "batch_size": 1, "repeats": 1, "seed": 1}
    result = protocol.bench(program, TASK, records, way, Limits(timeout_s=30), folder, **options)
    return result, json.loads((folder / "runs" / "01" / "run.json").read_text())


# -- workers that are killed ---------------------------------------------------------------------------------------
KILLED = [("SIGKILL", 9), ("SIGABRT", 6), ("SIGBUS", 7), ("fault", 11)]
ORDINARY = [
    ("none", "middle", 15), ("exit", "middle", None), ("SIGTERM", "middle", 15), ("SIGPIPE", "middle", 13),
    ("SIGINT", "middle", 2), ("SIGHUP", "middle", 1), ("SIGKILL", "end", 9),
]  # fmt: skip


@ways
@pytest.mark.parametrize("wait", [("--wait",), ()], ids=["waited", "zombie"])
@pytest.mark.parametrize(("how", "number"), KILLED)
def test_a_worker_that_is_killed_makes_the_run_invalid(records, tmp_path, use_cgroup, how, number, wait):
    program = Program(server("workers", "--how", how, *wait), "workers")
    result, facts = benched(program, runner(use_cgroup), records, tmp_path)
    assert facts["exit"]["code"] == 0 and facts["lines"] == 100
    assert (result["verdict"], result["per_run"][0]["reasons"]) == ("INVALID", ["WORKER_KILLED"])
    (killed,) = (ended for ended in facts["ended_processes"] if ended["signal"] == number)
    phases = facts["phases"]
    assert phases["first_answer_s"] < killed["t_ns"] / 1e9 < phases["last_answer_s"] and killed["code"] is None
    middle_s = (phases["first_answer_s"] + phases["last_answer_s"]) / 2
    assert killed["t_ns"] / 1e9 == pytest.approx(middle_s, abs=0.1)


@ways
@pytest.mark.parametrize(("how", "when", "number"), ORDINARY)
def test_workers_that_end_in_an_ordinary_way_change_nothing(records, tmp_path, use_cgroup, how, when, number):
    program = Program(server("workers", "--how", how, "--when", when, "--wait"), "workers")
    result, facts = benched(program, runner(use_cgroup), records, tmp_path)
    assert (result["verdict"], result["per_run"][0]["reasons"]) == ("VALID", [])
    ends = [(ended["signal"], ended["code"]) for ended in facts["ended_processes"]]
    assert (number, None if number else 0) in ends  # it was seen, and is no reason


@pytest.fixture(scope="module")
def workers_image(docker_engine, tiny_image):
    with engine.client(docker_engine) as docker:
        text = (SERVERS / "workers.py").read_text()
        argv = ["python3", "-I", "-S", "/model/workers.py"]
        return engine.build(docker, "morocco-tests/workers:1", {"workers.py": text}, argv)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "when", "reasons"),
    [("SIGKILL", "middle", ["WORKER_KILLED"]), ("exit", "middle", []), ("SIGKILL", "end", [])],
)
def test_so_it_is_in_a_container(workers_image, records, tmp_path, how, when, reasons):
    program = Program(["--how", how, "--when", when, "--wait"], "workers", "sha256:0")
    result, facts = benched(program, DockerRunner(workers_image), records, tmp_path)
    assert facts["exit"]["code"] == 0 and result["per_run"][0]["reasons"] == reasons
    if when == "middle":
        assert (9, None) if reasons else (None, 0) in [(e["signal"], e["code"]) for e in facts["ended_processes"]]


def test_how_a_process_ended_is_known_before_and_after_its_parent_waits():
    for status, end in ((9, "os.kill(os.getpid(), 9)"), (3 << 8, "os._exit(3)"), (0, "pass")):
        program = subprocess.Popen([*PYTHON, "-c", f"import os; {end}"])
        pidfd = os.pidfd_open(program.pid)
        assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert wait_status(pidfd, program.pid) == status
        program.wait()
        after = wait_status(pidfd, program.pid)
        os.close(pidfd)
        if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15):
            assert after == status
        else:
            assert after is None


def test_ends_are_kept_up_to_a_count_and_those_by_a_signal_are_not_crowded_out():
    children: list[subprocess.Popen] = []
    processes = Processes(lambda: [child.pid for child in children], 0)
    for number in range(130):
        children[:] = [subprocess.Popen(["sleep", "30" if number == 120 else "0"])]
        processes._find()
        children[0].kill() if number == 120 else None
        children[0].wait()
        processes.look(number)
    processes.close()
    ended = processes.ended()
    assert len(ended) == 101 and [end["signal"] for end in ended if end["signal"]] == [9]
    assert [end["t_ns"] for end in ended] == sorted(end["t_ns"] for end in ended)


def test_no_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd"))
    reader = ProcReader(lambda: [os.getpid(), 1], os.getpid())
    processes = Processes(reader.pids, 0)
    reader.read(), processes.look(1), processes.io()
    assert len(os.listdir("/proc/self/fd")) > before
    reader.close(), processes.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- a sampler that is starved -------------------------------------------------------------------------------------
def test_a_bench_that_is_stopped_for_a_while_is_invalid(records, tmp_path):
    command = " ".join(server("paced", "--rate", 50))
    argv = [sys.executable, "-m", "morocco_lib", "bench", "--command", command, "terra", "--data", str(records)]
    argv += ["--input-size", "150", "--batch-size", "1", "--repeats", "1", "--out", str(tmp_path / "out")]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as program:
        end = time.monotonic() + 20
        while not list(tmp_path.rglob("samples.jsonl")) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(1.0)
        program.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        program.send_signal(signal.SIGCONT)
        _, said = program.communicate(timeout=30)
    assert program.returncode == 1, said
    (path,) = tmp_path.rglob("bench.json")
    result = json.loads(path.read_text())
    assert "SAMPLER_GAPS" in result["reasons"] and result["verdict"] == "INVALID"
    sampler = json.loads((path.parent / "runs" / "01" / "run.json").read_text())["sampler"]
    assert 1.4 < sampler["longest_gap_s"] < 2.5


class Drowsy:
    """A reader that sleeps before some of its answers: {number of the reading: seconds}."""

    source, faults = "scripted", None

    def __init__(self, naps: dict[int, float]):
        self.naps, self.count = naps, 0

    def read(self, whole=True):
        self.count += 1
        time.sleep(self.naps.get(self.count, 0.0))
        return Memory(1, 0, 0), 0.0

    def io(self):
        return None

    def high_water_bytes(self):
        return None

    def close(self):
        pass


def sampler_says(reader, seconds: float, during=lambda: None) -> dict:
    sampler = Sampler(reader, io.StringIO(), time.monotonic_ns())
    sampler.start()
    end = time.monotonic() + seconds
    during()
    time.sleep(max(0.0, end - time.monotonic()))
    return sampler.stop()


def test_one_long_gap_is_enough():
    says = sampler_says(Drowsy({10: 1.2}), 1.8)
    assert says["longest_gap_s"] > 1.2 and validity.sampler_reasons(says) == [Reason.SAMPLER_GAPS]


def test_many_short_gaps_are_too():
    says = sampler_says(Drowsy(dict.fromkeys(range(5, 60, 5), 0.2)), 3.0)
    assert says["longest_gap_s"] < 1.0 and 0.5 < says["gaps_s"] < says["watched_s"]
    assert validity.sampler_reasons(says) == [Reason.SAMPLER_GAPS]


@pytest.mark.parametrize(("at", "gap_s"), [(1, 0.6), (10, 0.4)])
def test_a_gap_that_the_run_ends_in_counts(at, gap_s):
    says = sampler_says(Drowsy({at: 1.2}), 0.6)
    assert says["longest_gap_s"] == pytest.approx(gap_s, abs=0.1) and says["watched_s"] == pytest.approx(0.6, abs=0.1)


def test_a_thread_that_holds_the_interpreter_starves_the_sampler():
    def hold() -> None:  # sum() of a range lets no other thread run
        began = time.monotonic()
        sum(range(10**7))
        per_number = (time.monotonic() - began) / 10**7
        thread = threading.Thread(target=lambda: sum(range(int(1.6 / per_number))))
        thread.start()
        thread.join()

    runner(use_cgroup=True)
    group = RunCgroup.create()
    try:
        says = sampler_says(CgroupReader(group.reader()), 2.0, hold)
    finally:
        group.remove()
    assert validity.sampler_reasons(says) == [Reason.SAMPLER_GAPS]


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.5])
def test_ordinary_jitter_between_busy_programs_is_no_gap(seconds):
    with burning(CORES):
        says = sampler_says(ProcReader(lambda: [os.getpid()]), seconds)
    assert validity.sampler_reasons(says) == []


@pytest.mark.parametrize(
    ("longest_s", "gaps_s", "watched_s", "found"),
    [
        (0.02, 0.0, 60.0, False), (0.9, 0.9, 60.0, False), (1.1, 1.1, 600.0, True), (0.3, 0.3, 0.5, False),
        (0.3, 6.5, 60.0, True), (0.3, 5.5, 60.0, False), (None, None, None, False),
    ],
)  # fmt: skip
def test_the_rule_of_gaps(longest_s, gaps_s, watched_s, found):
    says = {"longest_gap_s": longest_s, "gaps_s": gaps_s, "watched_s": watched_s}
    assert validity.sampler_reasons(says) == [Reason.SAMPLER_GAPS] * found


def test_a_run_kept_before_gaps_were_told_stays_as_it_was():
    assert validity.sampler_reasons({"longest_gap_s": 0.05}) == []
    exit = {"signal": None}
    assert validity.worker_reasons({"phases": {"last_answer_s": 1.0}, "exit": exit}) == []


# -- other programs on the same cores ------------------------------------------------------------------------------
class burning:
    """So many processes, each with a core to burn; children of ours, as another user's jobs would not be."""

    def __init__(self, count: int):
        self.count = count

    def __enter__(self):
        self.programs = [subprocess.Popen([*PYTHON, "-c", "while True: pass"]) for _ in range(self.count)]
        time.sleep(0.2)
        return [program.pid for program in self.programs]

    def __exit__(self, *error):
        for program in self.programs:
            program.kill()
            program.wait()


def test_programs_beside_a_run_are_measured_named_and_found(records, tmp_path):
    with burning(CORES) as pids:
        _, facts = benched(Program(server("paced", "--rate", 50), "paced"), runner(True), records, tmp_path)
    others = facts["others"]
    assert others["of_cores"] == CORES and others["cores"] == pytest.approx(CORES, rel=0.15)
    assert others["cpu_s"] == pytest.approx(others["cores"] * facts["phases"]["exit_s"], rel=0.1)
    assert validity.machine_reasons(others) == [Reason.BUSY_MACHINE]
    assert set(pids) & {process["pid"] for process in others["top"]} and others["top"][0]["cpu_s"] > 0.5


def test_what_the_run_itself_burns_is_not_others(records, tmp_path):
    _, alone = benched(Program(server("body", "--burn", 2.0), "body"), runner(True), records, tmp_path)
    others = alone["others"]
    assert alone["cpu_s"] > 2.0 and str(alone["argv"][-3]) == "2.0"
    quiet_s = others["idle_share"] * others["of_cores"] * alone["phases"]["exit_s"]
    # What is neither idle nor the run's nor ours is all that others can have had.
    assert others["cpu_s"] <= others["of_cores"] * alone["phases"]["exit_s"] - quiet_s - alone["cpu_s"] + 0.2


def test_what_we_burn_ourselves_is_not_others():
    before, began = system_load.read(), time.process_time()
    while time.process_time() - began < 1.0:
        pass
    after = system_load.read()
    ours = system_load.others(before, after, 0.0)
    theirs = after.busy_s - before.busy_s - (after.own_s - before.own_s)
    assert after.own_s - before.own_s == pytest.approx(1.0, abs=0.1)
    assert ours["cpu_s"] == pytest.approx(max(0.0, theirs)) and os.getpid() not in {p["pid"] for p in ours["top"]}


def plant(root: Path, cpu: str, processes: dict[int, tuple[str, int]]) -> Path:
    """Make a /proc with this line of CPU times and {pid: (name, ticks of CPU time)}."""
    root.mkdir()
    (root / "stat").write_text(f"cpu  {cpu}\ncpu0 {cpu}\ncpu1 {cpu}\nintr 5\n")
    for pid, (name, ticks) in processes.items():
        (root / str(pid)).mkdir()
        fields = ["S", 1, 1, 1, 0, -1, 0, 0, 0, 0, 0, ticks, 0, 0, 0, 20, 0, 1, 0, 77]
        (root / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")
    return root


TICKS = os.sysconf("SC_CLK_TCK")


def test_the_engine_the_run_and_ourselves_are_taken_off(tmp_path):
    #      user nice system idle iowait irq softirq steal guest
    was = [100, 0, 100, 5000, 50, 0, 0, 10, 90, 0]
    now = [was[0] + 9 * TICKS, 0, was[2] + TICKS, 5000 + 7 * TICKS, 50 + TICKS, 0, 0, 10 + 2 * TICKS, 90, 0]
    first = {10: ("dockerd", 5), 20: ("browser (x)", 100), 30: ("model", 0), os.getpid(): ("morocco", 0)}
    then = {pid: (name, ticks + TICKS) for pid, (name, ticks) in first.items()}
    then |= {40: ("containerd-shim", 2 * TICKS), 50: ("make", 3 * TICKS)}
    before = system_load.read(plant(tmp_path / "was", " ".join(map(str, was)), first))
    after = system_load.read(plant(tmp_path / "now", " ".join(map(str, now)), then))
    found = system_load.others(before, after, run_cpu_s=1.0, run_pids=[30], engine=True)
    own_s = after.own_s - before.own_s
    assert found["cpu_s"] == pytest.approx(10 - 1 - own_s - (1 + 2))
    assert (found["of_cores"], found["idle_share"], found["steal_share"]) == (2, pytest.approx(0.4), pytest.approx(0.1))
    assert [(p["pid"], p["name"], p["cpu_s"]) for p in found["top"]] == [(50, "make", 3.0), (20, "browser (x)", 1.0)]
    bare = system_load.others(before, after, run_cpu_s=1.0)
    assert bare["cpu_s"] == pytest.approx(9 - own_s) and [p["pid"] for p in bare["top"][:2]] == [50, 40]


@pytest.mark.parametrize("stat", [None, "", "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n", "cpu  1 2 3\n"])
def test_a_machine_that_does_not_tell_is_not_idle(tmp_path, stat):
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    assert system_load.read(tmp_path) is None
    assert system_load.others(None, system_load.read(), 0.0) is Reason.MACHINE_NOT_TOLD
    assert validity.machine_reasons(Reason.MACHINE_NOT_TOLD) == []


@pytest.mark.parametrize(
    ("cpu_s", "cores", "of_cores", "idle_share", "found"),
    [
        (0.4, 1.9, 2, 0.0, []),  # too little to tell from noise
        (5.0, 1.1, 2, 0.4, [Reason.BUSY_MACHINE]),
        (5.0, 0.9, 2, 0.5, [Reason.SHARED_MACHINE]),
        (5.0, 0.5, 2, 0.5, []),
        (5.0, 0.6, 8, 0.5, [Reason.SHARED_MACHINE]),
        (5.0, 1.7, 8, 0.04, [Reason.BUSY_MACHINE]),
        (5.0, 1.5, 8, 0.04, [Reason.SHARED_MACHINE]),
        (5.0, 1.7, 8, 0.06, [Reason.SHARED_MACHINE]),
        (50.0, 0.4, 64, 0.0, []),
    ],
)
def test_the_rule_of_other_programs(cpu_s, cores, of_cores, idle_share, found):
    others = {"cpu_s": cpu_s, "cores": cores, "of_cores": of_cores, "idle_share": idle_share}
    assert validity.machine_reasons(others) == found
