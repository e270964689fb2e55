"""What a run costs: cgroup and /proc readers on recorded trees, the sampler, and both ways of accounting on real programs."""

import functools
import io
import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import engine
import pytest
from servers import PYTHON, cgroups_of, is_alive, runner, server

from morocco_lib.analysis import estimate
from morocco_lib.benchmark.run import Measurement, Program
from morocco_lib.data import workload
from morocco_lib.monitors import procfs
from morocco_lib.monitors.cgroup import PREFIX, Faults, Io, Memory, RunCgroup, own_groups
from morocco_lib.monitors.open_files import OpenFiles
from morocco_lib.monitors.processes import Processes
from morocco_lib.monitors.sampler import CgroupReader, ProcReader, Sampler
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.docker import DockerRunner
from morocco_lib.tasks import get_task

MB = 10**6

# -- recorded trees ------------------------------------------------------------------------------------------------
V2_STAT = """anon 105267200
file 3145728
kernel 1212416
kernel_stack 98304
pagetables 475136
sec_pagetables 0
percpu 2048
sock 0
vmalloc 0
shmem 1048576
zswap 0
file_mapped 1617920
file_dirty 0
anon_thp 0
inactive_anon 106299392
active_anon 16384
pgfault 28310
pgmajfault 310
"""
V1_STAT = """cache 3145728
rss 105267200
rss_huge 0
shmem 1048576
mapped_file 1617920
dirty 0
writeback 0
swap 0
pgpgin 27456
pgpgout 985
hierarchical_memory_limit 9223372036854771712
hierarchical_memsw_limit 9223372036854771712
total_cache 3145728
total_rss 105267200
total_shmem 1048576
pgfault 28310
pgmajfault 310
"""
V2_FILES = {
    "memory.stat": V2_STAT,
    "cpu.stat": "usage_usec 1734500\nuser_usec 1500000\nsystem_usec 234500\nnr_periods 0\nnr_throttled 0\n",
    "memory.peak": "115343360\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 0\n",
    "memory.max": "max\n",
    "memory.swap.max": "max\n",
    "cgroup.procs": "4711\n4712\n",
    "io.stat": "254:0 rbytes=4096000 wbytes=8192000 rios=10 wios=20 dbytes=0 dios=0\n254:16 \n259:1 rbytes=1 wbytes=2\n",
}
V1_FILES = {
    "memory.stat": V1_STAT,
    "memory.kmem.usage_in_bytes": "1212416\n",
    "memory.max_usage_in_bytes": "115343360\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "cgroup.procs": "4711\n4712\n",
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def tell_groups(tmp_path: Path, text: str) -> Path:
    """Return a /proc whose self/cgroup holds the text."""
    plant(tmp_path / "proc" / "self", {"cgroup": text})
    return tmp_path / "proc"


@pytest.fixture(params=[1, 2])
def recorded(request, tmp_path):
    """The same state of a group as each version of cgroups tells it."""
    if request.param == 2:
        folder = plant(tmp_path / "group", V2_FILES)
        return RunCgroup(2, folder, folder)
    cpu = plant(tmp_path / "cpuacct", {"cpuacct.usage": "1734500000\n", "cgroup.procs": "4711\n4712\n"})
    return RunCgroup(1, plant(tmp_path / "memory", V1_FILES), cpu)


def test_both_versions_are_read_alike(recorded):
    # Shared memory is part of what the kernel calls cache or file; here it counts as shared memory only.
    assert recorded.read_memory() == Memory(105267200, 1048576, 3145728 - 1048576, 1212416)
    assert recorded.cpu_s() == pytest.approx(1.7345)
    assert recorded.peak_bytes()[0] == 115343360
    assert recorded.oom_kills() == 2
    assert recorded.pids() == [4711, 4712]
    assert recorded.faults == Faults(28000, 310)
    recorded.close()


def test_storage_is_told_by_v2_alone_and_not_where_it_was_not_handed_down(recorded):
    assert recorded.io() == (Io(4096001, 8192002) if recorded.version == 2 else None)  # v1 would show 0 for any traffic
    recorded.close()
    (recorded.memory / "io.stat").unlink(missing_ok=True)
    assert recorded.io() is None


def test_page_faults_that_are_not_told_are_none(recorded):
    stat = recorded.memory / "memory.stat"
    stat.write_text(stat.read_text().replace("pgmajfault", "pgother"))
    assert recorded.read_memory() and recorded.faults is None
    recorded.close()


def test_what_goes_to_a_volume_is_not_counted_again_at_its_disk(tmp_path):
    stacked = [path.parent for path in Path("/sys/class/block").glob("*/slaves/*")]
    if not stacked:
        pytest.skip("no device here lies on others (LVM, RAID, encryption)")
    number = (stacked[0].parent / "dev").read_text().strip()
    folder = plant(tmp_path / "group", V2_FILES | {"io.stat": f"{number} rbytes=5 wbytes=6\n1:0 rbytes=7 wbytes=8\n"})
    group = RunCgroup(2, folder, folder)
    assert group.io() == Io(7, 8)
    group.close()


def test_readings_are_fresh_each_time(recorded):
    before = recorded.read_memory().anon_bytes
    stat = recorded.memory / "memory.stat"
    stat.write_text(stat.read_text().replace("105267200", "205267200"))
    assert (before, recorded.read_memory().anon_bytes) == (105267200, 205267200)
    recorded.close()


def test_the_peak_names_its_file(recorded):
    assert recorded.peak_bytes()[1] == {1: "memory.max_usage_in_bytes", 2: "memory.peak"}[recorded.version]


def test_what_an_older_kernel_does_not_tell_is_none(recorded):
    for name in ("memory.peak", "memory.max_usage_in_bytes", "memory.kmem.usage_in_bytes"):
        (recorded.memory / name).unlink(missing_ok=True)
    (recorded.memory / "memory.stat").write_text("\n".join((V2_STAT + V1_STAT).replace("kernel ", "old ").splitlines()))
    for name in ("memory.oom_control", "memory.events"):
        (recorded.memory / name).write_text("low 0\n")
    assert recorded.peak_bytes() is None and recorded.read_memory().kernel_bytes is None and recorded.oom_kills() == 0
    recorded.close()


def test_the_memory_limit_covers_swap(recorded):
    recorded.limit_memory(60 * MB)
    limits = {path.name: path.read_text() for path in recorded.memory.iterdir() if path.name in LIMITS}
    assert limits == (LIMITS_V1 if recorded.version == 1 else LIMITS_V2)


LIMITS_V1 = {"memory.limit_in_bytes": "60000000", "memory.memsw.limit_in_bytes": "60000000"}
LIMITS_V2 = {"memory.max": "60000000", "memory.swap.max": "0"}
LIMITS = LIMITS_V1 | LIMITS_V2


def plant_v2(root: Path, *levels: tuple[str, str]) -> list[Path]:
    """Make nested groups of (name, controllers handed down) and return their folders."""
    folders = []
    for name, handed_down in levels:
        root = plant(root / name, V2_FILES | {"cgroup.subtree_control": handed_down + "\n"})
        folders.append(root)
    return folders


def test_v2_the_nearest_group_that_hands_memory_down_is_the_parent(tmp_path):
    levels = [("cg", "cpu memory pids"), ("user.slice", "memory pids"), ("app.slice", "pids"), ("session-2.scope", "")]
    folders = plant_v2(tmp_path, *levels)
    told = tell_groups(tmp_path, "0::/user.slice/app.slice/session-2.scope\n")
    assert own_groups(tmp_path / "cg", told) == (2, folders[1], folders[1])


def test_v2_groups_above_the_mount_are_none_of_ours(tmp_path):
    plant_v2(tmp_path, ("host", "memory"), ("cg", ""), ("session-2.scope", ""))
    assert own_groups(tmp_path / "host" / "cg", tell_groups(tmp_path, "0::/session-2.scope\n")) is None


def test_v2_group_that_is_not_mounted_is_none(tmp_path):
    plant(tmp_path / "cg", {})
    assert own_groups(tmp_path / "cg", tell_groups(tmp_path, "0::/system.slice/docker-1f3a.scope\n")) is None


@pytest.mark.parametrize("cpu", ["cpuacct", "cpu,cpuacct", "cpuacct,cpu"])
def test_v1_own_groups_are_found(tmp_path, cpu):
    memory, cpu_folder = (plant(tmp_path / "cg" / name / "jobs" / "7", {}) for name in ("memory", cpu))
    told = tell_groups(tmp_path, f"5:{cpu}:/jobs/7\n4:memory:/jobs/7\n1:name=systemd:/jobs\n")
    assert own_groups(tmp_path / "cg", told) == (1, memory, cpu_folder)


def test_v1_inside_a_container_the_mount_is_our_own_group(tmp_path):
    memory, cpu = (plant(tmp_path / "cg" / name, V1_FILES) for name in ("memory", "cpu,cpuacct"))
    told = tell_groups(tmp_path, "5:cpu,cpuacct:/docker/1f3a9c\n4:memory:/docker/1f3a9c\n")
    assert own_groups(tmp_path / "cg", told) == (1, memory, cpu)


def test_on_a_hybrid_machine_the_v1_memory_group_wins(tmp_path):
    plant_v2(tmp_path, ("cg", "memory"), ("unified", "memory"))
    memory, cpu = (plant(tmp_path / "cg" / name, {}) for name in ("memory", "cpuacct"))
    told = tell_groups(tmp_path, "9:name=systemd:/\n4:memory:/\n2:cpuacct:/\n1:cpu:/\n0::/\n")
    assert own_groups(tmp_path / "cg", told) == (1, memory, cpu)


@pytest.mark.parametrize("text", ["", "1:name=systemd:/\n", "4:memory:/\n", "4:memory:/\n2:cpuacct:/\n"])
def test_without_usable_groups_there_is_none(tmp_path, text):
    plant(tmp_path / "cg", {})
    told = tell_groups(tmp_path, text)
    assert own_groups(tmp_path / "cg", told) is None and RunCgroup.create(tmp_path / "cg", told) is None


def test_without_cgroups_in_the_kernel_there_is_none(tmp_path):
    assert own_groups(tmp_path / "cg", tmp_path / "proc") is None
    assert RunCgroup.create(tmp_path / "cg", tmp_path / "proc") is None


def test_a_group_without_controllers_is_not_used_and_not_left_behind(tmp_path):
    # mkdir may succeed where the new group then has no memory files.
    (own,) = plant_v2(tmp_path, ("cg", "memory"))
    assert RunCgroup.create(own, tell_groups(tmp_path, "0::/\n")) is None
    assert [path for path in own.iterdir() if path.is_dir()] == []


def test_groups_of_dead_owners_are_swept_and_those_of_living_ones_kept(tmp_path):
    (own,) = plant_v2(tmp_path, ("cg", "memory"))
    told = tell_groups(tmp_path, "0::/\n")
    plant(told / "4242", {})
    for name in (f"{PREFIX}4241-1", f"{PREFIX}4242-1", f"{PREFIX}other", "someone-elses"):
        (own / name).mkdir()
    RunCgroup.create(own, told)
    left = {path.name for path in own.iterdir() if path.is_dir()}
    assert left == {f"{PREFIX}4242-1", f"{PREFIX}other", "someone-elses"}


def test_what_a_killed_run_left_running_is_ended_by_the_next_one():
    runner(use_cgroup=True)
    dead = subprocess.Popen([*PYTHON, "-c", "pass"])
    dead.wait()
    group = RunCgroup.create()
    folders = [
        path.rename(path.with_name(f"{PREFIX}{dead.pid}-1")) for path in dict.fromkeys((group.memory, group.cpu))
    ]
    group.close()
    orphan = subprocess.Popen(["sleep", "600"])
    for folder in folders:
        (folder / "cgroup.procs").write_text(str(orphan.pid))
    fresh = RunCgroup.create()
    fresh.remove()
    assert orphan.wait(5) == -signal.SIGKILL
    assert not any(folder.exists() for folder in folders)


# -- /proc ---------------------------------------------------------------------------------------------------------
def plant_process(
    root: Path, pid: int, parent: int, session: int, *, state="S", start=100, cpu=(1, 2, 3, 4), faults=(5, 6, 7, 8)
) -> None:
    stat = [state, parent, session, session, 0, -1, 4194304, *faults, *cpu, 20, 0, 1, 0, start, 0, 0]
    status = "Name:\tx\nVmHWM:\t   5000 kB\nVmRSS:\t   4000 kB\nRssAnon:\t   3000 kB\nRssFile:\t    900 kB\nRssShmem:\t    100 kB\n"
    plant(root / str(pid), {"stat": f"{pid} (a name) with (brackets)) {' '.join(map(str, stat))}\n", "status": status})


def test_the_tree_holds_session_and_descendants_and_nobody_else(tmp_path):
    plant(tmp_path / "self", {})
    plant_process(tmp_path, 1, 0, 1)
    plant_process(tmp_path, 10, 1, 10, start=110)
    plant_process(tmp_path, 11, 10, 10, start=111)
    plant_process(tmp_path, 12, 11, 12)  # called setsid
    plant_process(tmp_path, 13, 12, 12)
    plant_process(tmp_path, 14, 1, 10)  # its parent has died
    plant_process(tmp_path, 15, 10, 10, state="Z")
    plant_process(tmp_path, 20, 1, 20)
    plant_process(tmp_path, 21, 20, 20, start=121)
    assert sorted(procfs.tree(10, proc=tmp_path)) == [10, 11, 12, 13, 14]
    assert procfs.tree(10, proc=tmp_path)[11] == 111
    # One seen before belongs to the tree; one that has got its pid since does not.
    assert sorted(procfs.tree(10, {20: 100, 21: 99}, proc=tmp_path)) == [10, 11, 12, 13, 14, 20, 21]
    assert sorted(procfs.tree(10, {21: 121}, proc=tmp_path)) == [10, 11, 12, 13, 14, 21]
    assert sorted(procfs.tree(10, {21: 99}, proc=tmp_path)) == [10, 11, 12, 13, 14]


def test_memory_cpu_and_faults_of_processes_are_read(tmp_path):
    plant_process(tmp_path, 10, 1, 10, cpu=(150, 25, 1000, 1000), faults=(2000, 9, 30, 9))
    plant(tmp_path / "11", {"status": "Name:\tkthread\n", "stat": ""})  # a kernel thread has no memory
    files = OpenFiles()
    seconds = pytest.approx(175 / os.sysconf("SC_CLK_TCK"))
    assert procfs.read(procfs.places(10, tmp_path), files) == (3072000, 102400, 921600, 5120000, seconds, 2000, 30)
    assert all(procfs.read(procfs.places(pid, tmp_path), files) is None for pid in (11, 12))
    assert procfs.start_ticks(10, tmp_path) == 100 and procfs.start_ticks(12, tmp_path) is None
    files.close()


def test_what_changes_fast_is_read_anew_from_less():
    files, paths = OpenFiles(), procfs.places(os.getpid())
    before = procfs.read(paths, files)
    held, began = b"\x01" * (50 * MB), time.process_time()
    while time.process_time() - began < 0.1:
        pass
    light, whole = procfs.again(before, paths, files), procfs.read(paths, files)
    assert light.anon_bytes - before.anon_bytes == pytest.approx(len(held), rel=0.02)
    assert light.anon_bytes == pytest.approx(whole.anon_bytes, rel=0.02)
    assert light.file_bytes == pytest.approx(whole.file_bytes, rel=0.05)
    assert before.cpu_s + 0.05 < light.cpu_s <= whole.cpu_s and before.minor_faults < whole.minor_faults
    with subprocess.Popen(["true"]) as program:
        assert os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.again(before, procfs.places(program.pid), files) is None  # dead, and not waited for
    assert procfs.again(before, procfs.places(program.pid), files) is None
    files.close()


def test_a_process_that_is_gone_keeps_its_cpu_time():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); time.sleep(600)"
    program = subprocess.Popen([*PYTHON, "-c", code], stdout=subprocess.PIPE)
    pids = [program.pid, os.getpid()]
    reader = ProcReader(lambda: pids)
    program.stdout.read(1)
    ours = time.process_time()
    _, before = reader.read()
    program.kill()
    program.communicate()
    pids.pop(0)
    _, after = reader.read()
    assert after >= before >= ours + 0.25
    assert after - before < 0.1  # and ours, which has waited for it, does not count it again


# -- the sampler ---------------------------------------------------------------------------------------------------
class Scripted:
    """A reader that answers 1, 2, 3, ... bytes; `acts` happen before some of the answers."""

    source, faults = "scripted", None

    def __init__(self, acts=None):
        self.acts, self.count, self.closed = acts or {}, 0, False

    def read(self, whole=True):
        self.count += 1
        act = self.acts.get(self.count, lambda: True)
        return (Memory(self.count, 0, 0), self.count / 100) if act() is not None else None

    def io(self):
        return None

    def high_water_bytes(self):
        return 7

    def close(self):
        self.closed = True


def sample_for(seconds: float, reader, period_s=0.02, during=lambda sampler: None):
    out = io.StringIO()
    origin_ns = time.monotonic_ns()
    sampler = Sampler(reader, out, origin_ns, period_s)
    sampler.start()
    end = time.monotonic() + seconds
    during(sampler)
    time.sleep(max(0, end - time.monotonic()))
    report = sampler.stop()
    return report, [json.loads(line) for line in out.getvalue().splitlines()], origin_ns


def gaps_s(samples) -> list[float]:
    times = [s["t_ns"] / 1e9 for s in samples if "mark" not in s]
    return [b - a for a, b in itertools.pairwise(times)]


def test_samples_come_at_the_period_asked_for():
    report, samples, _ = sample_for(0.6, Scripted())
    assert report["period_asked_s"] == 0.02
    assert report["period_median_s"] == pytest.approx(0.02, rel=0.2)
    assert 22 <= report["samples"] <= 32 and len(samples) == report["samples"]


def test_what_the_sampler_says_of_itself_is_what_it_wrote():
    report, samples, _ = sample_for(0.4, Scripted(), during=lambda sampler: sampler.mark("ready"))
    gaps = sorted(gaps_s(samples))
    assert report["samples"] == len(gaps) + 1 == len(samples) - 1  # a mark is no sample of the steady rate
    assert report["period_median_s"] == pytest.approx(gaps[len(gaps) // 2])
    assert gaps[-1] - 1e-6 <= report["longest_gap_s"] < 0.1  # that before the first or after the last may be longer
    assert report["period_p95_s"] == pytest.approx(gaps[int(len(gaps) * 0.95)])
    assert (report["source"], report["high_water_bytes"]) == ("scripted", 7)
    assert 0 < report["cpu_s"] < 0.4


def test_a_gap_is_told_and_not_made_up_for():
    report, samples, _ = sample_for(0.8, Scripted({8: lambda: time.sleep(0.3) or True}))
    assert 0.3 <= report["longest_gap_s"] < 0.5
    assert report["period_median_s"] == pytest.approx(0.02, rel=0.2)
    assert report["samples"] <= 0.8 / 0.02 - 0.25 / 0.02
    assert sum(gap < 0.01 for gap in gaps_s(samples)) <= 2  # no burst afterwards


def test_marks_are_taken_at_once_and_named():
    def mark(sampler):
        time.sleep(0.1)
        moments.append(time.monotonic_ns())
        sampler.mark("first_answer")
        moments.append(time.monotonic_ns())

    moments = []
    report, samples, origin_ns = sample_for(0.3, Scripted(), period_s=0.2, during=mark)
    marked = [s for s in samples if "mark" in s]
    assert [s["mark"] for s in marked] == ["first_answer"]
    assert moments[0] <= marked[0]["t_ns"] + origin_ns <= moments[1]
    assert set(marked[0]) == {"t_ns", "anon_bytes", "shmem_bytes", "file_bytes", "kernel_bytes", "cpu_s", "mark"}
    assert report["samples"] == 2  # at 0 and at 0.2 s


def test_a_reader_that_has_nothing_for_a_while_ends_nothing():
    reader = Scripted({n: lambda: None for n in range(3, 8)})
    report, samples, _ = sample_for(0.5, reader)
    assert [s["anon_bytes"] for s in samples][:3] == [1, 2, 8] and report["samples"] >= 15
    assert report["longest_gap_s"] >= 5 * 0.02  # the hole shows
    assert reader.closed


def test_a_group_that_goes_away_ends_nothing(tmp_path):
    folder = plant(tmp_path / "group", V2_FILES)
    away = CgroupReader(RunCgroup(2, folder, folder))

    def vanish(sampler):
        time.sleep(0.1)
        with sampler._lock:
            away.group.close()
            folder.rename(tmp_path / "gone")
        sampler.mark("last_answer")

    report, samples, _ = sample_for(0.3, away, during=vanish)
    assert 2 <= report["samples"] == len(samples) < 10 and report["source"] == "cgroup v2"


def test_a_removed_real_group_reads_as_gone():
    runner(use_cgroup=True)
    group = RunCgroup.create()
    reader = CgroupReader(group.reader())
    assert reader.read() is not None
    group.remove()
    assert reader.read() is None
    reader.close()
    assert cgroups_of(os.getpid()) == []


def test_a_reader_without_processes_reads_as_gone():
    assert ProcReader(lambda: []).read() is None
    assert ProcReader(lambda: []).high_water_bytes() is None


def test_too_few_samples_for_a_period_say_none():
    report, samples, _ = sample_for(0.05, Scripted({n: lambda: None for n in range(1, 100)}))
    assert samples == [] and report["samples"] == 0
    assert report["period_median_s"] is report["period_p95_s"] is report["longest_gap_s"] is None


# -- both ways of accounting, on programs whose size is known ------------------------------------------------------
TASK = get_task("terra")
RECORD = {"premise": "a", "hypothesis": "b", "idx": 0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure `body.py` with these options through the protocol and return the run; each point is measured once."""

    @functools.cache
    def measure(use_cgroup: bool, *options, program="body") -> estimate.Run:
        return run_once(runner(use_cgroup), server(program, *options), tmp_path_factory.mktemp("run") / "once")

    return measure


def run_once(way, argv: list[str], folder: Path) -> estimate.Run:
    """Measure a program on one record through the protocol and return the run."""
    folder.mkdir()
    source = folder / "records.jsonl"
    source.write_text(json.dumps(RECORD) + "\n")
    load = workload.build(TASK, [RECORD], 1, 0)
    with Measurement(Program(argv, "once"), load, source, way, Limits(20), folder, batch_size=1) as measurement:
        return estimate.read_run(measurement.run(folder, "bench"))


ways = pytest.mark.parametrize("use_cgroup", [True, False], ids=["cgroup", "proc"])
places = pytest.mark.parametrize("place", [(), ("--in-child",)], ids=["itself", "child"])


@ways
@places
def test_100_mb_held_for_half_a_second_are_seen_within_5_percent(measured, use_cgroup, place):
    held = estimate.ram_bytes(measured(use_cgroup, "--mb", 100, "--hold", 0.5, *place))
    twin = estimate.ram_bytes(measured(use_cgroup, "--mb", 0, "--hold", 0.1, *place))
    assert held - twin == pytest.approx(100 * MB, abs=5 * MB + 2 * MB)


@places
def test_a_spike_between_two_samples_is_seen_by_the_kernel(measured, place):
    held = estimate.ram_bytes(measured(True, "--mb", 100, "--hold", 0, *place))
    twin = estimate.ram_bytes(measured(True, "--mb", 0, "--hold", 0.1, *place))
    assert held - twin == pytest.approx(100 * MB, abs=5 * MB + 2 * MB)


@ways
@pytest.mark.parametrize(("hold_s", "place"), [(0.1, ()), (0.4, ("--in-child",))], ids=["itself", "child"])
def test_300_mb_held_for_a_moment_are_seen_within_5_percent_five_times_of_five(measured, use_cgroup, hold_s, place):
    twin = estimate.ram_bytes(measured(use_cgroup, "--mb", 0, "--hold", hold_s, *place))
    for number in range(5):
        held = estimate.ram_bytes(measured(use_cgroup, "--mb", 300, "--hold", hold_s + number / 1e6, *place))
        assert held - twin == pytest.approx(300 * MB, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("hold_s", "place"), [(0.1, ()), (0.4, ("--in-child",))], ids=["itself", "child"])
def test_so_it_is_in_a_container(docker_engine, tiny_image, tmp_path, hold_s, place):
    with engine.client(docker_engine) as docker:
        text = Path(server("body")[-1]).read_text()
        argv = ["python3", "-I", "-S", "/model/body.py"]
        way = DockerRunner(engine.build(docker, "morocco-tests/body:1", {"body.py": text}, argv))

    def ram_bytes(mb: int, number: int) -> float:
        words = ["--mb", str(mb), "--hold", str(hold_s), *place]
        return estimate.ram_bytes(run_once(way, words, tmp_path / f"{mb}-{number}"))

    twin = ram_bytes(0, 0)
    for number in range(5):
        assert ram_bytes(300, number) - twin == pytest.approx(300 * MB, rel=0.05)


@ways
@places
def test_half_a_second_of_cpu_time_is_seen_within_15_percent(measured, use_cgroup, place):
    busy, idle = (measured(use_cgroup, "--burn", burn, *place) for burn in (0.5, 0.0))
    assert busy.facts["cpu_s"] - idle.facts["cpu_s"] == pytest.approx(0.5, rel=0.15)


@ways
@places
def test_the_samples_count_cpu_time_once(measured, use_cgroup, place):
    # The child is seen running, then ends and is waited for, then its parent goes on for a while.
    busy = measured(use_cgroup, "--burn", 0.5, *place)
    used = [sample["cpu_s"] for sample in busy.samples]
    assert used == sorted(used)
    assert 0.4 < used[-1] <= busy.facts["cpu_s"] + 0.02
    assert used[-1] == pytest.approx(busy.facts["cpu_s"], rel=0.15)


@ways
def test_the_run_says_where_its_numbers_come_from(measured, use_cgroup):
    run = measured(use_cgroup, "--mb", 100, "--hold", 0.5)
    memory, estimates = run.facts["memory"], estimate.summarise([run])[0]
    assert estimates["ram_bytes"]["method"] == memory["source"] == run.facts["sampler"]["source"]
    if use_cgroup:
        assert memory["source"] == run.facts["cpu_source"] in ("cgroup v1", "cgroup v2")
        peak = estimates["ram_cgroup_peak_bytes"]
        assert peak["method"] == memory["cgroup_peak_source"] and peak["value"] >= estimates["ram_bytes"]["value"]
    else:
        assert (memory["source"], run.facts["cpu_source"]) == ("proc", "wait4")
        assert estimates["ram_cgroup_peak_bytes"] == {"value": None, "reason": "NO_CGROUP"}


@ways
def test_a_run_is_sampled_at_20_hz_or_faster(measured, use_cgroup):
    sampler = measured(use_cgroup, "--mb", 100, "--hold", 0.5).facts["sampler"]
    assert sampler["period_median_s"] <= 0.05 and sampler["samples"] >= 10


# -- page faults and storage ---------------------------------------------------------------------------------------
@pytest.fixture
def disk(tmp_path) -> Path:
    """A folder on a disk: a file of tmpfs is memory, and nothing of it is read or written."""
    if not os.major(os.stat(tmp_path).st_dev):
        pytest.skip(f"{tmp_path} lies on no disk")
    return tmp_path


@ways
def test_page_faults_are_counted(measured, use_cgroup):
    some, none = (measured(use_cgroup, "--pages", n, program="storage").facts["faults"] for n in (20000, 0))
    assert some["minor"] - none["minor"] == pytest.approx(20000, rel=0.02)
    assert some["source"] == measured(use_cgroup, "--pages", 0, program="storage").facts["memory"]["source"]


@ways
def test_pages_that_come_from_the_disk_are_major_faults(measured, use_cgroup, disk):
    options = ("--folder", str(disk), "--write", 20 * MB)
    some, none = (measured(use_cgroup, *options, "--map", n, program="storage").facts["faults"] for n in (250, 0))
    assert some["major"] - none["major"] == pytest.approx(250, abs=10)


@ways
def test_what_is_written_to_and_read_from_storage_is_counted(measured, use_cgroup, disk):
    write, read = 20 * MB, 8 * MB
    options = ("--folder", str(disk), "--write", write)
    some = measured(use_cgroup, *options, "--read", read, program="storage").facts["io"]
    none = measured(use_cgroup, *options, program="storage").facts["io"]
    nothing = measured(use_cgroup, "--pages", 0, program="storage").facts["io"]
    assert some["source"] in ("proc", "io.stat")
    assert some["written_bytes"] - nothing["written_bytes"] == pytest.approx(write, rel=0.05)
    assert some["read_bytes"] - none["read_bytes"] == pytest.approx(read, rel=0.15)  # reading ahead is in it


def test_children_that_were_waited_for_stay_counted(disk):
    code = (
        "import os, sys\n"
        "if (pid := os.fork()) == 0:\n"
        "    with open(sys.argv[1], 'wb') as file: file.write(bytes(5_000_000)); file.flush(); os.fsync(file.fileno())\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0); print(flush=True); sys.stdin.read()\n"
    )
    argv = [*PYTHON, "-c", code, str(disk / "file")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        processes = Processes(lambda: [program.pid], 0)
        processes.look(1)
        assert 5 * MB <= processes.io().written_bytes < 5.5 * MB
        program.stdin.close()
        program.wait()
        assert processes.io().written_bytes >= 5 * MB
        processes.close()


def test_what_no_process_tells_is_none_and_not_0():
    sampler = Sampler(Scripted(), io.StringIO(), 0, processes=Processes(list, 0))
    sampler.start()
    sampler.mark("ready")
    sampler.stop()
    nulls = {"source": None, "at": {"ready": None}}
    assert sampler.used()["faults"] == {"minor": None, "major": None, **nulls}
    assert sampler.used()["io"] == {"read_bytes": None, "written_bytes": None, **nulls}


def test_totals_are_kept_at_the_marks(tmp_path):
    way = runner(use_cgroup=True)
    run = run_once(way, server("paced", "--rate", 20), tmp_path / "marked")
    for kind, name in (("faults", "minor"), ("io", "written_bytes")):
        fact = run.facts[kind]
        assert list(fact["at"]) == ["ready", "first_answer", "last_answer"]
        assert 0 <= fact["at"]["ready"][name] <= fact["at"]["last_answer"][name] <= fact[name]
    assert run.facts["faults"]["at"]["ready"]["minor"] > 100  # Python has started by then


def test_a_real_group_of_v2_tells_it_all(disk):
    groups = own_groups()
    if groups is None or groups[0] != 2:
        pytest.skip(f"cgroups of version 2 do not account for memory here (own groups: {groups})")
    argv = server("storage", "--pages", 20000, "--folder", disk, "--write", 20 * MB, "--read", 8 * MB)
    facts = run_once(runner(use_cgroup=True), argv, disk / "once").facts
    assert facts["memory"]["source"] == facts["faults"]["source"] == "cgroup v2" and facts["faults"]["minor"] > 20000
    assert facts["io"]["written_bytes"] >= 20 * MB and facts["io"]["read_bytes"] >= 8 * MB


# -- a tree that grows ---------------------------------------------------------------------------------------------
def test_children_are_found_at_the_next_reading_without_looking_through_all_of_proc():
    code = (
        "import os, sys, time\nsys.stdin.readline()\nif not os.fork(): os.setsid()\nprint(flush=True); time.sleep(30)"
    )
    with subprocess.Popen([*PYTHON, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        looks = []
        reader = ProcReader(lambda: looks.append(1) or [program.pid], program.pid)
        reader.read()
        if reader._births.since() is None:
            pytest.skip("this kernel does not tell the last pid it gave out")
        program.stdin.write(b"\n"), program.stdin.close()
        program.stdout.readline(), program.stdout.readline()
        reader.read(whole=False)
        (child,) = set(reader.pids()) - {program.pid}
        assert len(looks) == 1
        for _ in range(10):
            time.sleep(0.02)
            reader.read()
        assert len(looks) == 2  # once for the child, so that the runner knows it as well
        reader.close()
        os.kill(child, signal.SIGKILL), program.kill()


def test_one_that_ended_and_is_still_named_is_told_once():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with subprocess.Popen([*PYTHON, "-c", code], stdin=subprocess.PIPE) as program:
        processes = Processes(lambda: [program.pid], 0)
        for tick in range(200):
            processes.look(tick)
            time.sleep(0.005)
            if len(processes.ended()) > 1 or (processes.ended() and tick > 150):
                break
        assert [ended["signal"] for ended in processes.ended()] == [signal.SIGKILL]
        processes.close()


def test_processes_of_a_group_are_listed_where_one_was_born_and_else_seldom():
    runner(use_cgroup=True)
    group = RunCgroup.create()
    try:
        reader, lists = CgroupReader(group), []
        group.pids = lambda: lists.append(1) or [os.getpid()]
        births = [range(0), range(0), range(0), range(7, 9), range(0), range(0), None, range(0)]
        reader._births.close()
        reader._births = SimpleNamespace(since=lambda: births.pop(0), close=lambda: None)
        told = [(reader.pids(), len(lists))[1] for _ in range(8)]
        assert told == [1, 1, 1, 2, 3, 3, 4, 5]  # and once more, as one may enter a moment after it was born
        reader.close()
    finally:
        group.remove()


def test_threads_have_pids_too_and_are_no_processes():
    code = "import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
    reader = ProcReader(lambda: [os.getpid()], os.getpid())
    reader.read()
    with subprocess.Popen(
        [*PYTHON, "-c", f"{code}print(flush=True); time.sleep(30)"], stdout=subprocess.PIPE
    ) as program:
        program.stdout.readline()
        reader.read()
        assert set(reader.pids()) == {os.getpid(), program.pid}
        reader.close()
        program.kill()


def test_nothing_of_the_measured_programs_is_left(measured):
    run = measured(False, "--mb", 0, "--hold", 0.1, "--in-child")
    assert run.facts["exit"]["left_pids"] == [] and cgroups_of(os.getpid()) == []
    assert not any(is_alive(pid) for pid in procfs.tree(os.getpid()) if "body.py" in command_of(pid))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""
