"""The repository keeps its promises to a stranger: one set of versions, clean rooms, a README that works."""

import ast
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def entries_of(lock):
    """Return (name, version, marker) of a lock: a package may have one version for each Python or platform."""
    return [
        (canonicalize_name(m[1]), m[2], m[3] or "python_version > '3'")
        for m in re.finditer(r"^([A-Za-z0-9._-]+)(?:\[[a-z0-9,-]+\])?==(\S+)(?: ; ([^\\]+))? \\$", lock, re.MULTILINE)
    ]


def locked_here(entries):
    return {name: version for name, version, marker in entries if Requirement(f"x ; {marker}").marker.evaluate()}


LOCK, TORCH_LOCK = ((ROOT / name).read_text() for name in ("requirements.lock", "requirements-torch.lock"))
ENTRIES, TORCH_ENTRIES = entries_of(LOCK), entries_of(TORCH_LOCK)
LOCKED, LOCKED_WITH_TORCH = locked_here(ENTRIES), locked_here(TORCH_ENTRIES)


def wanted(extra):
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "morocco-lib":
            for inner in requirement.extras:
                yield from wanted(inner)
        else:
            yield requirement


# -- versions ------------------------------------------------------------------------------------------------------
def test_the_lock_holds_every_dependency_at_the_version_asked_for():
    for extra in PROJECT["optional-dependencies"]:
        locked = LOCKED if extra in ("infer", "kit", "dev") else LOCKED_WITH_TORCH | {"torch": "2.13.0"}
        for requirement in wanted(extra):
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_two_locks_agree():
    assert all(LOCKED_WITH_TORCH[name] == LOCKED[name] for name in LOCKED.keys() & LOCKED_WITH_TORCH.keys())


def test_the_lock_is_closed_and_holds_nothing_else():
    needed, stack = set(), [r for extra in ("infer", "kit", "dev") for r in wanted(extra)]
    while stack:
        requirement = stack.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
            continue
        key = (name, frozenset(requirement.extras))
        if key in needed:
            continue
        needed.add(key)
        for text in metadata.distribution(name).requires or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                inner.marker = None
                stack.append(inner)
    assert {name for name, _ in needed} == set(LOCKED)


def test_every_locked_package_has_a_hash_and_torch_is_left_to_the_machine():
    for lock, entries, least in ((LOCK, ENTRIES, 100), (TORCH_LOCK, TORCH_ENTRIES, 40)):
        blocks = re.split(r"\n(?=[a-z0-9])", lock.split("\n", 2)[2])
        assert len(blocks) == len(entries) > least
        assert all("--hash=sha256:" in block for block in blocks)
        assert not any(name in ("torch", "triton") or name.startswith(("nvidia-cu", "cuda-")) for name, _, _ in entries)
    assert "torch==2.13.0" in PROJECT["optional-dependencies"]["torch"]


def test_environment_yml_is_valid_and_rests_on_the_lock():
    from rattler import MatchSpec

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    *specs, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]}
    names = {str(MatchSpec(spec).name.normalized) for spec in specs}
    assert names == {"python", "pip"}
    assert "python=3.11" in specs and PROJECT["requires-python"] == ">=3.11"


# -- rooms ---------------------------------------------------------------------------------------------------------
def imports_of(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name):
    path = ROOT / "morocco_lib" / name
    return [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize(
    ("rooms", "unknown"),
    [
        (("tasks", "metrics", "workload"), ("runners", "monitor", "bench", "steps")),
        (("runners", "monitor"), ("tasks", "workload", "bench", "models", "data")),
        (("report", "verify", "results"), ("runners", "monitor", "models", "bench")),
        (("infer", "tasks", "models"), ("params", "pipeline", "steps", "report")),
    ],
)
def test_imports_point_one_way(rooms, unknown):
    for name in rooms:
        for path in room(name):
            found = {i.split(".")[1] for i in imports_of(path) if i.startswith("morocco_lib.")}
            assert not found & set(unknown), (path, found)


def test_nothing_imports_the_command_line():
    for path in sorted((ROOT / "morocco_lib").rglob("*.py")):
        if path.name not in ("__main__.py", "cli.py", "verbs.py"):
            assert "morocco_lib.cli.entry" not in imports_of(path), path


def test_every_module_is_one_idea_long():
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "morocco_lib").rglob("*.py")}
    assert max(lines.values()) <= 400, max(lines, key=lines.get)


def tracked():
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


def test_nothing_large_nothing_of_others_and_no_outputs_are_committed():
    for path in tracked():
        assert path.stat().st_size < 500_000, path
        assert not path.is_relative_to(ROOT / "outputs") or path.name == ".gitkeep", path
        assert path.suffix not in (".jsonl", ".tsv", ".gz", ".safetensors", ".pkl"), path


# -- README --------------------------------------------------------------------------------------------------------
def console_blocks():
    """(command, lines shown) of every console block of the README."""
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            command = [lines.pop(0)]
            while command[-1].endswith("\\"):
                command.append(lines.pop(0))
            yield "\n".join(command), [line for line in lines if line.strip() and line.strip() != "..."]


def shape(line):
    """The line with every number and unit made equal: machines differ, what is said does not."""
    line = re.sub(r"[0-9a-f]{8}\b|\d[\d.,:-]*", "#", line)
    return " ".join(re.sub(r"# ?(ms|s|MiB|GiB|kB)\b", "# unit", line).split())


def test_readme_has_its_parts_on_one_screen():
    text = (ROOT / "README.md").read_text()
    screen = text.split("\n## Use\n")[0]
    assert len(screen.splitlines()) <= 60
    assert "![" in screen and screen.count("```console") == 1 and "stdin" in screen and "VALID" in screen
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_readme_commands_run_and_print_what_is_shown(tmp_path):
    home = copy_project(tmp_path / "morocco")
    commands = list(console_blocks())
    assert commands[0][0] == "make demo" and len(commands) >= 5
    for command, shown in commands:
        done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (command, done.stderr)
        said = {shape(line) for line in (done.stdout + done.stderr).splitlines()}
        for line in shown:
            assert shape(line) in said, (command, line, sorted(said))
