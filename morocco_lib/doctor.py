"""What can be measured on this machine, why not the rest, and the remedy.

The folders that a `probe_*` reads are arguments, so that tests replay recorded trees (`proc` for /proc, and so on).
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from morocco_lib.analysis.validity import load_reasons
from morocco_lib.errors import EnvironmentFailure, MoroccoError
from morocco_lib.formatting import load_text, text_table
from morocco_lib.monitors import nvml, system_load
from morocco_lib.monitors.cgroup import PROC, ROOT, groups_of, parent_groups
from morocco_lib.monitors.host import CLOCKSOURCE, host_facts, read_field, usable_cores

POWERCAP = Path("/sys/class/powercap")
LOOK_S = 0.5
KIT = ("papermill", "jupyterlab", "nbconvert", "pandas", "seaborn", "sklearn", "pydantic")
GPU = ("GPU", "GPU memory of a process", "GPU energy")
GPU_USE = ("torch on the GPU", "GPUs in containers")  # only where there is a GPU
# What the last sentence lists, and the findings of which one is enough for it.
ABILITIES = {"speed": ("Linux",), "memory": ("own cgroup", "processes in /proc"), "GPU memory": (GPU[1],)}
ABILITIES |= {"energy": ("CPU energy", GPU[2]), "containers": ("container engine",)}
REINSTALL = "`.venv/bin/pip uninstall -y torch`, then `make setup-torch` with TORCH_VARIANT"
TORCH = """import json, torch; cuda = torch.cuda
count = cuda.device_count() if cuda.is_available() else 0
print(json.dumps([torch.__version__, torch.version.cuda or "", cuda.get_arch_list(),
                  [cuda.get_device_capability(index) for index in range(count)]]))"""
DELEGATED = "systemd-run --user --scope -p Delegate=yes"
ADVICE = {  # finding, or finding and case: why not, remedy
    "Python": ("3.11 or newer is needed", "make an environment with python 3.11"),
    "Linux": ("memory and CPU time are read from /proc and cgroups", "measure on Linux; reading logs works anywhere"),
    "CPU cores": ("programs start more threads than the quota feeds", "set OMP_NUM_THREADS to the quota, or lift it"),
    "memory": ("with less than 1 GiB free, models are killed or swap", "stop other programs, or lift the limit"),
    "clock": ("reading it may be a system call of microseconds", f"`echo tsc | sudo tee {CLOCKSOURCE}`, if offered"),
    "own cgroup": ("/proc sampling, the fallback, misses short-lived children", f"run as root, or in `{DELEGATED}`"),
    "peak memory mark": ("peaks between two samples are missed", "use cgroup v2 with Linux 5.19 or newer, or v1"),
    "processes in /proc": ("those of other users are hidden", "run as root, or `mount -o remount,hidepid=0 /proc`"),
    "cold start": ("files stay in memory, so later starts are warm", "run as root, or report warm starts only"),
    "GPU: binding": ("GPUs cannot be read", "`make setup`"),
    "GPU: driver": ("no NVIDIA driver or device answers", "on a machine with a GPU, install its driver"),
    GPU[1]: ("MIG and WSL give no sizes", "report the device's total, on an exclusive GPU"),
    GPU[1] + ": container": ("NVML uses the host's process numbers", "measure from the host"),
    GPU[2]: ("GPUs before Volta have no counter", "use Volta or newer"),
    GPU_USE[0]: ("this build of torch computes on the CPU", f"{REINSTALL}=default; cu126 for a V100"),
    GPU_USE[0] + ": driver": (
        "the driver is older than this build's CUDA",
        f"install a newer driver, or {REINSTALL}=cu126",
    ),
    GPU_USE[0] + ": code": ("this build has no code for it (`no kernel image`)", f"{REINSTALL}=cu126"),
    GPU_USE[1]: (
        "the engine shows no NVIDIA runtime",
        "install NVIDIA's toolkit: `nvidia-ctk runtime configure --runtime=docker`",
    ),
    "CPU energy": ("processor or hypervisor shows no counter", "measure on bare metal, Intel or AMD"),
    "CPU energy: rights": ("only root may read them", f"run as root, or `sudo chmod a+r {POWERCAP}/*/energy_uj`"),
    "container engine": ("containers cannot be run or measured", "`systemctl start docker`, or set DOCKER_HOST"),
    "quiet machine": ("timings would be DISTURBED", "end what is named, or measure when it is done"),
    "free disk": ("under 1 GB may not hold the results", "delete old step folders, or use another disk"),
    "notebook kit": ("notebooks and plans cannot run", "`make setup`"),
    "Jupyter kernel": ("papermill finds no python3", "`make setup`"),
    "torch": ("transformer models cannot run", "`make setup-torch`"),
    "UTF-8": ("Russian text may be garbled", "`export PYTHONUTF8=1`"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that can or cannot be measured or used here; why and remedy are empty where it can."""

    what: str
    ok: bool
    seen: str
    why: str = ""
    remedy: str = ""


def _finding(what: str, ok: bool, seen: str, case: str = "") -> Finding:
    return Finding(what, ok, seen, *(() if ok else ADVICE[case or what]))


def _limit(folder: Path, *files: str) -> float:
    """Return the lowest limit of a group and those above it, which all apply; a quota is divided by its period."""
    words = [" ".join(read_field(group / file) for file in files).split() for group in (folder, *folder.parents)]
    limits = [int(w[0]) / int(w[1] if len(w) > 1 else 1) for w in words if w and w[0].isdigit()]  # "max", -1: no limit
    return min(limits, default=float("inf"))


def probe_system(clock: Path = CLOCKSOURCE, version: tuple = sys.version_info[:3]) -> list[Finding]:
    """Check for Python 3.11, Linux (the only system that can be measured), and a fast clock (smallest step in ns)."""
    source, fast = read_field(clock), ("tsc", "kvm-clock", "arch_sys_counter")  # read without a system call
    steps_ns = [b - a for a, b in itertools.pairwise([time.monotonic_ns() for _ in range(2000)]) if b > a]
    return [
        _finding("Python", version >= (3, 11), ".".join(map(str, version))),
        _finding("Linux", sys.platform == "linux", f"{sys.platform}, kernel {platform.release()}"),
        _finding("clock", source in fast, f"{source or 'source unknown'}, smallest step {min(steps_ns, default=0)} ns"),
    ]


def probe_size(proc: Path = PROC, cgroup_root: Path = ROOT) -> list[Finding]:
    """Compare cores with the CPU quota (in cores), and free memory with 1 GiB."""
    cores = usable_cores()
    folders = groups_of("self", cgroup_root, proc).folders
    quota = _limit(folders.get("cpu", cgroup_root), "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    total, free = (int(read_field(proc / "meminfo", name) or 0) / 2**20 for name in ("MemTotal", "MemAvailable"))
    limit = min(total, _limit(folders.get("memory", cgroup_root), "memory.max", "memory.limit_in_bytes") / 2**30)
    seen = f"{total:.1f} GiB, {free:.1f} GiB available" + (f", cgroup limit {limit:.1f} GiB" if limit < total else "")
    return [
        _finding("CPU cores", quota >= cores, f"{cores} usable, CPU quota {f'{quota:g}'.replace('inf', 'none')}"),
        _finding("memory", min(free, limit) >= 1, seen if total else "size unknown"),
    ]


def probe_load(look: Callable[[float], dict | str] = system_load.look) -> list[Finding]:
    """Judge what other processes do by the rule of timed runs."""
    others = look(LOOK_S)
    if isinstance(others, str):
        return [_finding("quiet machine", False, "CPU use of other processes unknown")]
    reasons = load_reasons(others)
    return [_finding("quiet machine", not reasons, load_text(others if reasons else others | {"top": []}))]


def probe_cgroup(proc: Path = PROC, cgroup_root: Path = ROOT, release: str = platform.release()) -> list[Finding]:
    """Check that child cgroups can be made (an empty one is, for a moment), and that the kernel marks peaks (bytes)."""
    groups, parents, trouble = groups_of("self", cgroup_root, proc), parent_groups(cgroup_root, proc), ""
    layout = f"v{groups.version}{' (hybrid)' * groups.hybrid}" if groups.version else "no cgroup"
    own = groups.folders.get("memory", cgroup_root)
    if parents is None and groups.version:
        trouble = f"no group from {own} up delegates memory" if groups.version == 2 else "CPU time is not counted"
    for parent in dict.fromkeys(parents[1:] if parents else ()):
        child = parent / f"morocco-doctor-{os.getpid()}-{time.monotonic_ns()}"
        try:
            child.mkdir()
            child.rmdir()
        except OSError as error:
            trouble = f"no child group in {parent}: {error.strerror}"
    # The root group of v2 has no memory.peak of its own, so there the kernel's version decides.
    mark = "memory.max_usage_in_bytes" if groups.version == 1 else "memory.peak"
    recent = groups.version == 2 and [int(part) for part in re.findall(r"\d+", release)[:2]] >= [5, 19]
    mark = mark if recent or (own / mark).exists() else "none"
    able = f"{layout}, {trouble or 'child groups can be made'}" if groups.version else layout
    return [
        _finding("own cgroup", parents is not None and not trouble, able),
        _finding("peak memory mark", mark != "none", f"{mark}, {layout}, kernel {release}"),
    ]


def probe_kernel(proc: Path = PROC, powercap: Path = POWERCAP) -> list[Finding]:
    """Check that /proc shows all processes, page caches could be dropped (none are) and RAPL (microjoules) be read."""
    folders = [folder for folder in (proc.iterdir() if proc.is_dir() else ()) if folder.name.isdigit()]
    hidden = sum(not os.access(folder / "status", os.R_OK) and folder.exists() for folder in folders)
    switch = proc / "sys/vm/drop_caches"
    counters = [read_field(path) for path in powercap.glob("intel-rapl*/energy_uj")]
    droppable, metered = os.access(switch, os.W_OK), sum(counter.isdigit() for counter in counters)
    shown, rights = not hidden and (proc / "1").exists(), "CPU energy" + ": rights" * bool(counters)
    return [
        _finding("processes in /proc", shown, f"{len(folders)} seen, {hidden} unreadable"),
        _finding("cold start", droppable, f"{switch} is {'' if droppable else 'not '}writable"),
        _finding("CPU energy", metered > 0, f"{metered} of {len(counters)} RAPL counters readable", rights),
    ]


def probe_gpu(library=None) -> list[Finding]:
    """List NVIDIA GPUs, and check through NVML that memory per process (bytes) and energy (J) can be read."""
    gpus = nvml.Nvml(library)
    gpus.close()
    devices, driver = gpus.devices, f"driver {gpus.versions['driver'] or 'not found'}"
    if not devices:
        case = "GPU: binding" if isinstance(gpus.error, ImportError) else "GPU: driver"
        return [_finding(what, False, str(gpus.error or f"0 GPUs, {driver}"), case) for what in GPU]
    sizes = [device.idle["processes"] for device in devices]
    sized = sum(found is not None and None not in found.values() for found in sizes)
    metered = sum(device.idle["energy_j"] is not None for device in devices)
    names = ", ".join(f"{device.identity['name']} ({device.identity['uuid']})" for device in devices)
    contained = nvml.in_container()
    where = "in a container" if contained else "on the host"
    return [
        _finding(GPU[0], True, f"{len(devices)}, {driver}: {names}"),
        _finding(
            GPU[1],
            sized == len(devices) and not contained,
            f"sizes on {sized} of {len(devices)}, {where}",
            GPU[1] + ": container" * contained,
        ),
        _finding(GPU[2], metered == len(devices), f"energy counter on {metered} of {len(devices)}"),
    ]


def probe_engine() -> list[Finding]:
    """Ask the container engine for its version, for 1 s at most."""
    from morocco_lib.runners import engine

    what = "container engine"
    try:
        client = engine.connect(1)
        with engine.engine_errors("read the engine's version"), client.api:
            return [_finding(what, True, f"{engine.address()}: version {client.version()['Version']}")]
    except MoroccoError as error:
        return [Finding(what, False, f"{engine.address()}: {error.seen}", ADVICE[what][0], error.remedy)]


def ask_torch() -> list:
    """Return torch's version, its CUDA, what it has code for and what the GPUs are, from a process of its own."""
    done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise EnvironmentFailure(f"torch does not start: {done.stderr.strip().rpartition(chr(10))[2]}")
    return json.loads(done.stdout)


def probe_gpu_use(library=None, ask: Callable[[], list] = ask_torch, find=importlib.util.find_spec) -> list[Finding]:
    """Where there are GPUs: has torch code for them, and does the container engine hand them out?"""
    gpus = nvml.Nvml(library)
    gpus.close()
    if not gpus.devices:
        return []
    return [*(_torch_use(ask) if find("torch") else ()), *_engine_use()]


def _torch_use(ask: Callable[[], list]) -> list[Finding]:
    try:
        version, cuda, codes, devices = ask()
    except EnvironmentFailure as error:
        return [_finding(GPU_USE[0], False, error.seen)]
    lacking = [device for device in devices if not has_code(device, codes)]
    case = "" if not cuda else ": driver" if not devices else ": code"
    kinds = ", ".join(f"sm_{major}{minor}" for major, minor in lacking or devices) or "no GPU usable"
    seen = f"torch {version}, CUDA {cuda or 'none'}: {kinds}"
    return [_finding(GPU_USE[0], bool(devices) and not lacking, seen, GPU_USE[0] + case)]


def _engine_use() -> list[Finding]:
    from morocco_lib.runners import engine

    try:
        client = engine.connect(1)
        with engine.engine_errors("read the engine's runtimes"), client.api:
            info = client.info()
    except MoroccoError:
        return []  # which is a finding already
    found = [*(info.get("Runtimes") or {}), *(str(device.get("ID")) for device in info.get("DiscoveredDevices") or [])]
    return [_finding(GPU_USE[1], any("nvidia" in name for name in found), f"the engine has {', '.join(found)}")]


def has_code(device: tuple[int, int], codes: list[str]) -> bool:
    """Return whether a build of torch runs on a GPU: machine code of its generation, or PTX of it or an older one."""
    for kind, major, minor in (re.match(r"(sm|compute)_(\d+)(\d)", code).groups() for code in codes):
        made_for = int(major), int(minor)
        if made_for <= tuple(device) and (kind == "compute" or made_for[0] == device[0]):
            return True
    return False


def probe_kit(root: Path | None = None, find=importlib.util.find_spec, prefix: str = sys.prefix) -> list[Finding]:
    """Look for 1 GB of disk for outputs, the notebooks' packages, their kernel, torch and UTF-8; import nothing."""
    folder = next(path for path in ((root or Path.cwd()) / "outputs", root or Path.cwd(), Path.cwd()) if path.is_dir())
    free, torch, missing = shutil.disk_usage(folder).free, find("torch"), [name for name in KIT if not find(name)]
    kernel, encoding = Path(prefix) / "share/jupyter/kernels/python3", locale.getpreferredencoding(False)
    return [
        _finding("free disk", free >= 10**9, f"{free / 1e9:.1f} GB in {folder}"),
        _finding("notebook kit", not missing, f"{len(KIT)} packages needed, missing: {', '.join(missing) or 'none'}"),
        _finding("Jupyter kernel", kernel.is_dir(), f"{kernel} {'found' if kernel.is_dir() else 'missing'}"),
        _finding("torch", torch is not None, "installed" if torch else "not installed"),
        _finding("UTF-8", encoding.lower() in ("utf-8", "utf8"), f"{encoding}, UTF-8 mode {sys.flags.utf8_mode}"),
    ]


PROBES = (
    probe_system, probe_size, probe_load, probe_cgroup, probe_kernel, probe_gpu, probe_engine, probe_gpu_use, probe_kit
)  # fmt: skip


def examine(root: Path | None = None, load: bool = True) -> list[Finding]:
    """Check everything that the kit needs or measures on this machine, changing nothing and never raising.

    Args:
        root: Project folder in whose `outputs` folder results go; the current folder if not given.
        load: Whether to look at what other processes do, for half a second.

    Returns:
        Findings in a fixed order, in less than 2 s unless a driver or a name server is slow, or torch has GPUs to name.
    """
    findings: list[Finding] = []
    for probe in PROBES if load else (probe for probe in PROBES if probe is not probe_load):
        try:
            findings += probe(root) if probe is probe_kit else probe()
        except Exception as error:  # on an odd machine the other checks still help
            findings.append(Finding(probe.__name__, False, repr(error), "the check failed", "report this as a bug"))
    return findings


def table(findings: list[Finding]) -> str:
    """Lay findings out as plain text of at most 110 columns, ending in a sentence on what can be measured."""
    widths = (3, 23, 46, 32)
    rows = [("yes" if f.ok else "no", f.what, f"{f.seen}; {f.why}" if f.why else f.seen, f.remedy) for f in findings]
    table = text_table([("", "what", "seen", "remedy"), tuple("-" * width for width in widths), *rows], widths)
    ok = {finding.what for finding in findings if finding.ok}
    able = [[name for name, enough in ABILITIES.items() if bool(ok & set(enough)) is yes] for yes in (True, False)]
    can, cannot = (re.sub(r", ([^,]+)$", r" and \1", ", ".join(names)) for names in able)
    says = f"{can or 'nothing'} can be measured here" + (f"; {cannot} cannot" if cannot else "")
    return "\n".join([table, f"{len(ok)} of {len(findings)} available; {says}."])


def as_dict(findings: list[Finding]) -> dict:
    """Return findings and host facts for machines, schema 1."""
    return {"schema": 1, "findings": [asdict(finding) for finding in findings], "host": host_facts()}
