"""The repository keeps its promises to a stranger: one set of versions, and clean rooms."""

import ast
import re
import runpy
import tomllib
from graphlib import TopologicalSorter
from importlib import metadata

import yaml
from helpers import ROOT, tracked
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
        locked = LOCKED if extra in ("infer", "kit", "s3", "vm", "dev") else LOCKED_WITH_TORCH | {"torch": "2.13.0"}
        for requirement in wanted(extra):
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_the_two_locks_agree():
    assert all(LOCKED_WITH_TORCH[name] == LOCKED[name] for name in LOCKED.keys() & LOCKED_WITH_TORCH.keys())


def test_the_lock_is_closed_and_holds_nothing_else():
    needed, stack = set(), [r for extra in ("infer", "kit", "s3", "dev") for r in wanted(extra)]
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


def test_what_belongs_to_a_build_of_torch_is_left_to_the_machine():
    for name, _, _ in (*ENTRIES, *TORCH_ENTRIES):
        assert name not in ("torch", "triton") and not name.startswith(("nvidia-cu", "cuda-")), name


def test_environment_yml_can_be_read_by_conda_and_rests_on_the_lock():
    from rattler import MatchSpec

    *specs, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]}
    (python,) = (spec.version for spec in map(MatchSpec, specs) if spec.name.normalized == "python")
    assert PROJECT["requires-python"] == f">={str(python).rstrip('.*').removeprefix('==')}"


# -- packages ------------------------------------------------------------------------------------------------------
FLOORS = (  # a package imports from lower floors and, without a circle, from its own
    {"errors", "reasons", "formatting", "foreign", "fileio", "options"}, {"tasks", "config"}, {"data", "models", "monitors"},
    {"runners", "infer"}, {"analysis", "artifacts", "doctor"}, {"benchmark", "training"}, {"images", "report"},
    {"pipeline"}, {"legacy", "cloud"}, {"leaderboard"}, {"cli"},
)  # fmt: skip


def imported(path):
    """The packages and modules of the library's top that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("morocco_lib.")}


def test_packages_import_from_lower_floors_and_in_no_circle():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    beside = {name: set() for name in floor}
    for path in sorted((ROOT / "morocco_lib").rglob("*.py")):
        package = path.relative_to(ROOT / "morocco_lib").with_suffix("").parts[0]
        if package.startswith("__"):
            continue
        for other in imported(path) & floor.keys() - {package}:
            assert floor[other] <= floor[package], (path, other)
            if floor[other] == floor[package]:
                beside[package].add(other)
    TopologicalSorter(beside).prepare()  # raises CycleError


def test_nothing_large_nothing_of_others_and_no_outputs_are_committed():
    for path in tracked():
        assert path.stat().st_size < 500_000, path
        assert not path.is_relative_to(ROOT / "outputs") or path.name == ".gitkeep", path
        assert path.suffix not in (".jsonl", ".tsv", ".gz", ".safetensors", ".pkl"), path


def test_every_deep_test_is_in_one_shard():
    names = " ".join(runpy.run_path(str(ROOT / "tests/deep/conftest.py"))["SHARDS"]).split()
    files = [path.relative_to(ROOT / "tests/deep").as_posix() for path in (ROOT / "tests/deep").rglob("test_*.py")]
    assert sorted(names) == sorted(files)
