"""What several test modules share: the project and copies of it, programs started from it, commands of pages, records."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUIET = ROOT / "tests/quiet"


def environment(changes: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a program that imports this project and, as the tests do, sees a quiet machine."""
    quiet = str(QUIET) in os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = [str(QUIET), str(ROOT)] if quiet else [str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **(changes or {})}


def free_ports(count: int) -> list[int]:
    """Return ports to listen on, none twice, below those that the system gives to any connection, which may be taken meanwhile."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_768)  # where Linux begins, unless it was told otherwise
        with socket.socket() as one, suppress(OSError):  # another has it
            one.bind(("127.0.0.1", port))
            if port not in _given:
                found.append(port)
                _given.add(port)
    return found


_given: set[int] = set()


# -- the project ---------------------------------------------------------------------------------------------------
def tracked() -> list[Path]:
    """Return the files that are in git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).exists()]


def copy_project(home: Path) -> Path:
    """Copy the project's files, so that what is made beside them is not made here; the environment is shared."""
    for path in tracked():
        target = home / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    (home / ".venv").symlink_to(ROOT / ".venv")
    (ROOT / ".venv/.ready").touch()
    return home


# -- commands of pages ---------------------------------------------------------------------------------------------
def console_blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (command, lines shown) of every console block of a page."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            command = [lines.pop(0)]
            while command[-1].endswith("\\"):
                command.append(lines.pop(0))
            yield "\n".join(command), [line for line in lines if line.strip() and line.strip() != "..."]


def shape(line: str) -> str:
    """Return the line with every number and unit made equal: machines differ, what is printed does not."""
    if line.lstrip().startswith("caching "):  # noise may leave a reason in place of the number
        return "caching"
    line = re.sub(r"[0-9a-f]{8}\b|\d[\d.,:-]*", "#", line)
    return " ".join(re.sub(r"# ?(ms|s|MiB|GiB|kB)\b", "# unit", line).split())


def run_as_shown(commands: Iterable[tuple[str, list[str]]], home: Path) -> None:
    """Run the commands of pages one after the other; each must succeed and print the lines that are shown.

    One that is shown twice is run once.
    """
    printed: dict[str, set[str]] = {}
    for command, shown in commands:
        if command not in printed:
            done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, (command, done.stderr)
            printed[command] = {shape(line) for line in (done.stdout + done.stderr).splitlines()}
        for line in shown:
            assert shape(line) in printed[command], (command, line, sorted(printed[command]))


# -- benches -------------------------------------------------------------------------------------------------------
LABELS = ("entailment", "not_entailment")
READINGS = [
    "speed_per_s", "init_s", "ram_bytes", "ram_cgroup_peak_bytes", "gpu_ram_bytes", "cpu_s_per_record",
    "energy_j_per_record", "bytes_per_s", "cold_init_s", "score",
]  # fmt: skip
KEYS = [  # of bench.json
    "schema", "task", "model", "runner", "proven", "argv", "image_digest", "settings", "input_size", "batch_size", "repeats", "precision", "backend",
    "device", "verdict", "reasons", "disturbed_by", "data", "input", "flips", "kept_answers", "protocol", "runs", "per_run", *READINGS,
]  # fmt: skip
RUN_FILES = {"run.json", "workload.json", "answers.jsonl", "chunks.jsonl", "samples.jsonl", "stderr.log"}
FIRST_IDX = 70_000  # far from the fresh idx, so that a mix-up shows


def write_records(path: Path, n: int, *, labelled=True, premise_chars=460) -> Path:
    """Write TERRa records of about 560 bytes; every fourth label differs from what `paced.py` answers."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            hypothesis = f"Запись номер {i}" + "!" * (i % 3)
            label = LABELS[(len(hypothesis) + (i % 4 == 0)) % 2]
            record = {"premise": f"{i} " + "x" * premise_chars, "hypothesis": hypothesis, "label": label}
            if not labelled:
                del record["label"]
            file.write(json.dumps({**record, "idx": FIRST_IDX + i}, ensure_ascii=False) + "\n")
    return path


# -- processes of a plan -------------------------------------------------------------------------------------------
MARK = "MOROCCO_TEST_MARK"  # an environment variable: every process of a plan inherits it


def marked(mark: str) -> dict[int, str]:
    """Return pid -> name and command line of every process that inherited the mark."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = f"{(entry / 'comm').read_text().strip()} {command}"
        except OSError:
            continue
    return found


def kernels_of(mark: str) -> list[int]:
    """Return the pids of the kernels that inherited the mark."""
    return [pid for pid, command in marked(mark).items() if command.startswith("morocco-kernel")]


def wait_until(true: Callable[[], object], seconds: float = 60) -> bool:
    """Return whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def start_plan(plan: Path, out: Path, mark: str, *options: str) -> subprocess.Popen:
    """Start `morocco run` as a program of its own whose processes inherit the mark."""
    argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(out), *options]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, cwd=ROOT, env=environment({"MOROCCO_DATA": "", MARK: mark}), **streams)


def write_plan(folder: Path, **changes) -> Path:
    """Write a plan of one model on one task into a folder; returns the file."""
    plan = {"name": "small", "models": ["majority"], "tasks": ["terra"], "input_size": 200, "repeats": 1, "quick": True}
    path = folder / "small.yaml"
    path.write_text(json.dumps(plan | changes))  # JSON is YAML
    return path


def write_wheel(folder: Path, name: str) -> Path:
    """Write a package with one empty module as pip installs it; returns the wheel."""
    folder.mkdir(exist_ok=True)
    path, facts = folder / f"{name}-1-py3-none-any.whl", f"{name}-1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{facts}/RECORD", "".join(f"{file},,\n" for file in [*wheel.namelist(), f"{facts}/RECORD"]))
    return path


def own_pip_settings(folder: Path) -> dict[str, str]:
    """Return variables by which a person's pip installs elsewhere, and finds packages in the folder's `wheels` alone."""
    (folder / "pip.conf").write_text("[install]\nuser = true\n")
    elsewhere = dict.fromkeys(("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONUSERBASE"), str(folder / "elsewhere"))
    return {
        **elsewhere,
        "PIP_CONFIG_FILE": str(folder / "pip.conf"),
        "PIP_FIND_LINKS": str(folder / "wheels"),
        "PIP_NO_INDEX": "1",
    }
