"""The doctor names what can be measured, why not the rest, and the remedy, on real and on recorded machines."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from servers.trees import plant

from morocco_lib import doctor
from morocco_lib.doctor import Finding
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.monitors import host, nvml
from morocco_lib.runners import engine


def by_what(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"
V1 = "9:name=systemd:/\n4:memory:/jobs/a\n3:cpu,cpuacct:/jobs/a\n"
V1_FILES = {
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/jobs/a/memory.max_usage_in_bytes": "4096\n",
    "memory/jobs/a/memory.limit_in_bytes": "4294967296\n",
    "cpu,cpuacct/jobs/a/cpu.cfs_quota_us": "-1\n",
    "cpu,cpuacct/jobs/a/cpu.cfs_period_us": "100000\n",
}
V2_FILES = {
    "cgroup.controllers": "cpu memory pids\n",
    "user.slice/cgroup.procs": "",
    "user.slice/cgroup.subtree_control": "cpu memory\n",
    "user.slice/memory.max": "2147483648\n",
    "user.slice/run.scope/cgroup.procs": "1\n",
    "user.slice/run.scope/cgroup.subtree_control": "\n",
    "user.slice/run.scope/memory.max": "max\n",
    "user.slice/run.scope/cpu.max": "50000 100000\n",
}


def test_this_machine_is_examined_in_seconds_and_every_no_has_a_why_and_a_remedy(tmp_path):
    start = time.monotonic()
    findings = doctor.examine(tmp_path)
    assert time.monotonic() - start < 6
    assert len(by_what(findings)) == len(findings) >= 18 and by_what(findings)["Linux"].ok
    assert not any(finding.what.startswith("probe_") for finding in findings), "a check itself failed"
    for finding in findings:
        assert finding.seen
        assert finding.ok != bool(finding.why and finding.remedy)


def test_examining_never_raises(monkeypatch):
    def probe_ill():
        raise RuntimeError("odd machine")

    monkeypatch.setattr(doctor, "PROBES", (probe_ill, doctor.probe_system))
    findings = doctor.examine()
    assert findings[0].what == "probe_ill" and "odd machine" in findings[0].seen and findings[0].remedy
    assert findings[1].what == "Python"


def test_importing_the_doctor_loads_no_optional_library():
    heavy = "{'torch', 'pandas', 'pynvml', 'docker', 'sklearn', 'pydantic', 'papermill'}"
    code = f"import sys, morocco_lib.doctor as d; d.probe_kit(); print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cgroup_v1_gets_child_groups_in_both_hierarchies_and_leaves_none_behind(tmp_path):
    proc, root = plant(tmp_path / "proc", {"self/cgroup": V1 + "0::/\n"}), plant(tmp_path / "cgroup", V1_FILES)
    before = sorted(root.rglob("*"))
    own, peak = doctor.probe_cgroup(proc, root, "4.19.0")
    assert own == Finding("own cgroup", True, "v1 (hybrid), child groups can be made")
    assert peak.ok and peak.seen == "memory.max_usage_in_bytes, v1 (hybrid), kernel 4.19.0"
    assert sorted(root.rglob("*")) == before


def test_cgroup_v2_gets_its_child_group_from_the_nearest_group_that_delegates_memory(tmp_path, monkeypatch):
    proc = plant(tmp_path / "proc", {"self/cgroup": "0::/user.slice/run.scope\n"})
    root = plant(tmp_path / "cgroup", V2_FILES)
    made, mkdir = [], Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path: made.append(path) or mkdir(path))
    own, peak = doctor.probe_cgroup(proc, root, "5.19.0-41-generic")
    assert own.ok and [path.parent for path in made] == [root / "user.slice"] and not made[0].exists()
    assert peak.ok and "memory.peak" in peak.seen


def test_cgroup_v2_without_memory_control_falls_back_to_proc_and_an_old_kernel_has_no_peak(tmp_path):
    proc = plant(tmp_path / "proc", {"self/cgroup": "0::/user.slice/run.scope\n"})
    root = plant(tmp_path / "cgroup", V2_FILES | {"user.slice/cgroup.subtree_control": "pids\n"})
    own, peak = doctor.probe_cgroup(proc, root, "5.15.0-100-generic")
    assert not own.ok and "delegates memory" in own.seen
    assert "fallback" in own.why and "short-lived children" in own.why and "Delegate=yes" in own.remedy
    assert not peak.ok and "5.19" in peak.remedy


def refuse(*args, **options):
    raise PermissionError(13, "Permission denied")


def test_a_group_that_may_not_be_made_is_named(tmp_path, monkeypatch):
    proc, root = plant(tmp_path / "proc", {"self/cgroup": V1}), plant(tmp_path / "cgroup", V1_FILES)
    monkeypatch.setattr(Path, "mkdir", refuse)
    own = doctor.probe_cgroup(proc, root)[0]
    assert not own.ok and "no child group in" in own.seen and "Permission denied" in own.seen


def test_no_cgroup_at_all_is_a_finding_not_a_failure(tmp_path):
    own, peak = doctor.probe_cgroup(tmp_path / "proc", tmp_path / "cgroup", "6.1.0")
    assert not own.ok and own.seen.startswith("no cgroup")
    assert not peak.ok


@pytest.mark.parametrize(
    ("groups", "files", "seen", "ok"),
    [
        (
            "0::/user.slice/run.scope\n", V2_FILES,
            ("4 usable, CPU quota 0.5", "16.0 GiB, 8.0 GiB available, cgroup limit 2.0 GiB"), (False, True),
        ),  # limits of the groups above count
        (
            V1, V1_FILES,
            ("4 usable, CPU quota none", "16.0 GiB, 8.0 GiB available, cgroup limit 4.0 GiB"), (True, True),
        ),
    ],
)  # fmt: skip
def test_quota_and_memory_limit_are_compared(tmp_path, monkeypatch, groups, files, seen, ok):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    recorded = {"self/cgroup": groups, "meminfo": MEMINFO}
    found = doctor.probe_size(plant(tmp_path / "proc", recorded), plant(tmp_path / "cgroup", files))
    assert tuple(finding.seen for finding in found) == seen and tuple(finding.ok for finding in found) == ok


@pytest.mark.parametrize(("cores", "ok"), [(0.5, True), (0.6, False)])
def test_a_busy_machine_is_judged_as_timed_runs_are_and_who_is_busy_is_named(cores, ok):
    top = [{"pid": 9, "name": "make", "cpu_s": 0.3}]
    others = {"cpu_s": 0.3, "cores": cores, "of_cores": 2, "idle_share": 0.5, "top": top}
    (found,) = doctor.probe_load(lambda seconds: others)
    assert found.ok is ok and found.seen == f"others keep {cores} of 2 cores busy" + ": make (pid 9)" * (not ok)
    assert not doctor.probe_load(lambda seconds: "MACHINE_NOT_TOLD")[0].ok


def test_little_or_unknown_memory_is_not_enough(tmp_path):
    low = plant(tmp_path / "low", {"meminfo": "MemTotal: 4194304 kB\nMemAvailable: 524288 kB\n"})
    assert not by_what(doctor.probe_size(low, tmp_path / "cgroup"))["memory"].ok
    assert by_what(doctor.probe_size(tmp_path / "none", tmp_path))["memory"].seen == "size unknown"
    limited = plant(tmp_path / "limited", {"self/cgroup": "0::/\n", "meminfo": MEMINFO})
    groups = plant(tmp_path / "groups", {"memory.max": "536870912\n"})
    assert not by_what(doctor.probe_size(limited, groups))["memory"].ok


def test_a_slow_clock_source_and_an_old_python_are_noted(tmp_path):
    for source, ok in (("tsc", True), ("hpet", False)):
        clock = by_what(doctor.probe_system(plant(tmp_path, {"clock": source + "\n"}) / "clock"))["clock"]
        assert clock.ok is ok and clock.seen.startswith(source) and clock.seen.endswith(" ns")
    assert not by_what(doctor.probe_system(tmp_path / "clock", (3, 10, 14)))["Python"].ok


def test_hidden_processes_are_found(tmp_path):
    shown = plant(tmp_path / "shown", {"1/status": "", "77/status": ""})
    assert by_what(doctor.probe_kernel(shown))["processes in /proc"].seen == "2 seen, 0 unreadable"
    hidden = by_what(doctor.probe_kernel(plant(tmp_path / "hidden", {"77/status": ""})))["processes in /proc"]
    assert not hidden.ok and "hidepid=0" in hidden.remedy
    (shown / "1/status").unlink()  # hidepid=1: the folder shows, its files cannot be read
    assert by_what(doctor.probe_kernel(shown))["processes in /proc"].seen == "2 seen, 1 unreadable"


def test_unwritable_drop_caches_means_no_cold_starts_and_nothing_is_dropped(tmp_path, monkeypatch):
    switch = plant(tmp_path, {"sys/vm/drop_caches": "untouched", "1/status": ""}) / "sys/vm/drop_caches"
    assert by_what(doctor.probe_kernel(tmp_path))["cold start"].ok
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    cold = by_what(doctor.probe_kernel(tmp_path))["cold start"]
    assert not cold.ok and "not writable" in cold.seen and "warm" in cold.why
    assert switch.read_text() == "untouched"


def test_cpu_energy_tells_absent_counters_from_forbidden_ones(tmp_path):
    none = by_what(doctor.probe_kernel(tmp_path, tmp_path / "none"))["CPU energy"]
    assert not none.ok and none.seen.startswith("0 of 0") and "bare metal" in none.remedy
    (tmp_path / "forbidden/intel-rapl:0/energy_uj").mkdir(parents=True)  # unreadable, also for root
    forbidden = by_what(doctor.probe_kernel(tmp_path, tmp_path / "forbidden"))["CPU energy"]
    assert not forbidden.ok and forbidden.seen.startswith("0 of 1") and "chmod" in forbidden.remedy
    powercap = plant(tmp_path / "open", {"intel-rapl:0/energy_uj": "262143\n", "intel-rapl:0:0/energy_uj": "1\n"})
    assert by_what(doctor.probe_kernel(tmp_path, powercap))["CPU energy"].seen == "2 of 2 RAPL counters readable"


# -- GPUs ----------------------------------------------------------------------------------------------------------
def test_gpus_are_named_and_what_they_do_not_give_has_a_reason(monkeypatch):
    gpus = pytest.importorskip("servers.gpus", reason="no binding of NVML")
    monkeypatch.setattr(nvml, "in_container", lambda: False)
    both = gpus.FakeGpu(compute={7: 100}), gpus.FakeGpu("GPU-1")
    library = gpus.FakeNvml(*both)
    assert [finding.ok for finding in doctor.probe_gpu(library)] == [True] * 3 and library.open == 0
    assert doctor.probe_gpu(library)[0].seen == "2, driver 535.54.03: Fake GPU (GPU-0), Fake GPU (GPU-1)"
    both[0].told["compute"] = {7: None}
    refuse = {"nvmlDeviceGetTotalEnergyConsumption": "NotSupported"}
    _, memory, energy = doctor.probe_gpu(gpus.FakeNvml(*both, refuse=refuse))
    assert not memory.ok and "1 of 2, on the host" in memory.seen and "MIG" in memory.why
    assert not energy.ok and "0 of 2" in energy.seen and "Volta" in energy.remedy
    monkeypatch.setattr(nvml, "in_container", lambda: True)
    memory = doctor.probe_gpu(library)[1]
    assert not memory.ok and memory.remedy == "measure from the host"


def test_missing_binding_missing_driver_and_missing_gpus_have_their_remedies(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "DRIVER", (tmp_path,))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    findings = doctor.probe_gpu()
    assert [finding.what for finding in findings] == list(doctor.GPU)
    assert all("make setup" in finding.remedy for finding in findings)

    def fail():
        raise RuntimeError("NVML Shared Library Not Found")

    for library in (SimpleNamespace(nvmlInit=fail), SimpleNamespace(nvmlInit=list, nvmlDeviceGetCount=lambda: 0)):
        assert all(not f.ok and "install its driver" in f.remedy for f in doctor.probe_gpu(library))


V100, H200 = (7, 0), (9, 0)
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def gpu_use(monkeypatch):
    """What is found of a machine with a GPU, by torch's answer and the engine's."""
    gpus = pytest.importorskip("servers.gpus", reason="no binding of NVML")

    def find(answer=None, info=None, torch=True):
        def ask():
            if isinstance(answer, Exception):
                raise answer
            return answer

        def connect(timeout_s):
            if info is None:
                raise EnvironmentFailure("no engine")
            return SimpleNamespace(info=lambda: info, api=nullcontext())

        monkeypatch.setattr(engine, "connect", connect)
        return doctor.probe_gpu_use(gpus.FakeNvml(gpus.FakeGpu()), ask, lambda name: torch or None)

    return find


@pytest.mark.parametrize(
    ("answer", "seen", "remedy"),
    [
        (["2.13.0+cu126", "12.6", CU126, [V100]], "torch 2.13.0+cu126, CUDA 12.6: sm_70", ""),
        (["2.13.0", "13.0", CU130, [H200, V100]], "torch 2.13.0, CUDA 13.0: sm_70", "TORCH_VARIANT=cu126"),
        (["2.13.0", "13.0", [], []], "torch 2.13.0, CUDA 13.0: no GPU usable", "install a newer driver"),
        (["2.13.0+cpu", "", [], []], "torch 2.13.0+cpu, CUDA none: no GPU usable", "TORCH_VARIANT=default"),
        (EnvironmentFailure("torch does not start: x"), "torch does not start: x", "TORCH_VARIANT=default"),
    ],
    ids=["fits", "no code", "old driver", "cpu build", "broken"],
)
def test_a_build_of_torch_that_cannot_use_the_gpu_is_named(gpu_use, answer, seen, remedy):
    (finding,) = gpu_use(answer)
    assert (finding.what, finding.seen, finding.ok) == ("torch on the GPU", seen, not remedy)
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("device", "codes", "runs"),
    [
        ((8, 9), ["sm_86"], True), ((8, 6), ["sm_89"], False), ((9, 0), ["sm_86"], False), ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_100", "compute_90"], True), ((7, 0), ["compute_75"], False), ((10, 0), ["sm_100"], True),
    ],
)  # fmt: skip
def test_code_runs_on_its_own_generation_and_ptx_on_later_ones(device, codes, runs):
    assert doctor.has_code(device, codes) is runs


@pytest.mark.slow
def test_torch_itself_is_asked():
    pytest.importorskip("torch")
    version, cuda, codes, devices = doctor.ask_torch()
    assert version.startswith("2.") and isinstance(cuda, str) and len(codes) >= len(devices) >= 0


@pytest.mark.parametrize(
    ("info", "ok"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True), ({"Runtimes": {"runc": {}}}, False),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, True),
    ],
)  # fmt: skip
def test_an_engine_that_hands_out_no_gpu_is_named(gpu_use, info, ok):
    (finding,) = gpu_use(info=info, torch=False)
    assert (finding.what, finding.ok) == ("GPUs in containers", ok) and finding.seen.startswith("the engine has runc")
    assert ok or "nvidia-ctk" in finding.remedy


def test_without_a_gpu_or_an_engine_nothing_is_said_of_them(gpu_use, monkeypatch, tmp_path):
    assert gpu_use(torch=False) == []
    monkeypatch.setattr(nvml, "DRIVER", (tmp_path / "none",))
    assert doctor.probe_gpu_use(ask=None) == []


# -- the container engine ------------------------------------------------------------------------------------------
def test_a_container_engine_is_found_with_its_version(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///x.sock")
    client = SimpleNamespace(version=lambda: {"Version": "27.3.1"}, api=nullcontext())
    monkeypatch.setattr(engine, "connect", lambda timeout_s: client)
    assert doctor.probe_engine() == [Finding("container engine", True, "unix:///x.sock: version 27.3.1")]


def test_a_missing_a_dead_and_a_silent_engine_are_told_apart_soon(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # socket names are limited to about 100 bytes
        path = f"{folder}/engine.sock"
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        assert "No such file" in doctor.probe_engine()[0].seen
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            assert "Connection refused" in doctor.probe_engine()[0].seen
            server.listen()
            start = time.monotonic()
            silent = doctor.probe_engine()[0]
            assert "timed out" in silent.seen and time.monotonic() - start < 5
    assert not silent.ok and path in silent.seen and "systemctl start docker" in silent.remedy


@pytest.mark.parametrize("address", ["tcp://host:port", "ssh://user@127.0.0.1:1", "nonsense"])
def test_an_odd_address_is_no_engine(monkeypatch, address):
    monkeypatch.setenv("DOCKER_HOST", address)
    (finding,) = doctor.probe_engine()
    assert not finding.ok and finding.remedy


def test_a_forbidden_engine_names_the_docker_group(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("DOCKER_HOST", "unix:///x.sock")
    assert "usermod -aG docker" in doctor.probe_engine()[0].remedy


# -- the kit -------------------------------------------------------------------------------------------------------
def test_missing_packages_torch_and_kernel_are_named(tmp_path):
    without = {"torch", "pandas"}
    found = by_what(doctor.probe_kit(tmp_path, lambda name: None if name in without else name, str(tmp_path)))
    assert found["notebook kit"].seen == "7 packages needed, missing: pandas"
    assert not found["torch"].ok and found["torch"].remedy == "`make setup-torch`"
    assert not found["Jupyter kernel"].ok
    (tmp_path / "share/jupyter/kernels/python3").mkdir(parents=True)
    found = by_what(doctor.probe_kit(tmp_path, lambda name: name, str(tmp_path)))
    assert found["notebook kit"].ok and found["torch"].ok and found["Jupyter kernel"].ok


def test_the_disk_of_the_outputs_folder_is_the_one_that_counts(tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=999_999_999))
    disk = by_what(doctor.probe_kit(tmp_path))["free disk"]
    assert not disk.ok and disk.seen == f"1.0 GB in {tmp_path / 'outputs'}"
    assert str(tmp_path / "outputs") not in by_what(doctor.probe_kit(tmp_path / "gone"))["free disk"].seen


def test_the_table_fits_110_columns_and_ends_in_one_sentence():
    long = Finding("x" * 40, False, "word " * 60, "no-spaces-" * 30, "`remedy` " * 30)
    lines = doctor.table([*doctor.examine(), long]).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[0].split() == ["what", "seen", "remedy"]
    assert {line[:3].strip() for line in lines[2:-1]} <= {"yes", "no", ""}
    assert " available; " in lines[-1] and lines[-1].endswith(".")


def test_the_last_sentence_states_what_can_and_what_cannot_be_measured():
    some = [Finding("Linux", True, "x"), Finding("processes in /proc", True, "x"), Finding("own cgroup", False, "x")]
    assert doctor.table(some).splitlines()[-1] == (
        "2 of 3 available; speed and memory can be measured here; GPU memory, energy and containers cannot."
    )
    assert "nothing can be measured here; speed, memory, " in doctor.table([])


def test_json_holds_findings_and_host_facts():
    findings = doctor.examine()
    record = json.loads(json.dumps(doctor.as_dict(findings)))
    assert record["schema"] == 1
    assert [Finding(**finding) for finding in record["findings"]] == findings
    assert record["host"] == host.host_facts()
