"""How many one-line faults do the fast tests find? python benchmarks/mutants.py -n 200 --seed 1 --package tasks

A sample of mutations (comparison, operator, number, and/or, not, returned value, branch) of packages is drawn at random.
Each is made in a copy of the project, never here, and fast tests run there until one fails: those that a first run, under
coverage, saw in that line, those of the module first; then all of its package, and of what rests on all of them.
"""

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("analysis", "benchmark", "tasks", "artifacts", "monitors", "models/transformer")
ABOVE = ("tests/artifacts", "tests/pipeline")
COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARED |= {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
FLIPPED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Mod: ast.FloorDiv}


class Mutant(NamedTuple):
    package: str
    path: Path  # from the root
    number: int  # of the line
    before: str
    after: str


def replacements(node: ast.AST) -> list[str]:
    """Return the expressions or statements that a node may be replaced by."""
    match node:
        case ast.Compare(left, [operator], [right]):
            tos = [table[type(operator)] for table in (COMPARED, FLIPPED) if type(operator) in table]
            return [ast.unparse(ast.Compare(left, [to()], [right])) for to in tos]
        case ast.BinOp(left, operator, right) if type(operator) in COMPUTED:
            return [ast.unparse(ast.BinOp(left, COMPUTED[type(operator)](), right))]
        case ast.BoolOp(operator, values):
            return [ast.unparse(ast.BoolOp(ast.And() if isinstance(operator, ast.Or) else ast.Or(), values))]
        case ast.UnaryOp(ast.Not(), operand):
            return [ast.unparse(operand)]
        case ast.Constant(bool(value)):
            return [repr(not value)]
        case ast.Constant(int(value) | float(value)):
            return [repr(value + 1), *([repr(value * 10)] if value else [])]
        case ast.Return(value) if value and ast.unparse(value) != "None":
            return ["return None"]
    return []


def mutants_of(path: Path, package: str) -> list[Mutant]:
    """Return every mutant of a module; what spans several lines, annotations and f-strings are left as they are."""
    text = path.read_text(encoding="utf-8")
    lines, found, stack = text.split("\n"), [], [ast.parse(text)]
    while stack:
        node = stack.pop()
        made = [(node, new if isinstance(node, ast.stmt) else f"({new})") for new in replacements(node)]
        made += [(node.test, "False")] if isinstance(node, ast.If | ast.IfExp) else []
        for old, new in made:
            if old.lineno == old.end_lineno:
                before, line = lines[old.lineno - 1], lines[old.lineno - 1].encode()
                after = (line[: old.col_offset] + new.encode() + line[old.end_col_offset :]).decode()
                found.append(Mutant(package, path.relative_to(ROOT), old.lineno, before, after))
        kept = [getattr(node, name, None) for name in ("annotation", "returns")]
        children = () if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node)
        stack += [child for child in children if child not in kept]
    return found


def fast_tests(folder: Path, tests: list[str], *options: str) -> int:
    """Run the fast tests among these in a copy until one fails, or takes two minutes; return the exit status of pytest."""
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    argv += ["-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true", *options, *tests]
    data = {"MOROCCO_TEST_DATA": str(ROOT.parent / "shared" / "data")}
    own = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "", "MOROCCO_TEST_BUDGET_S": "60"}  # two run at once
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    env = {**data, **os.environ, **own}
    with subprocess.Popen(argv, cwd=folder, env=env, start_new_session=True, **quiet) as program:
        status = program.wait()
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)  # what a test that did not end had started
    return status


def run(sample: list[Mutant], extra: list[str], jobs: int, home: Path) -> None:
    """Run the tests of every mutant and print what became of it."""
    argv = ["git", "ls-files", "-zco", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.decode().split("\0")):
        (home / "base" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, home / "base" / name)
    paths, survivors = {}, 0
    for package in {mutant.package for mutant in sample}:
        mirrors = (f"tests/{package.split('/')[0]}", f"tests/test_{package}.py")
        paths[package] = [*(path for path in mirrors if (ROOT / path).exists()), *ABOVE, *extra]
    every = list(dict.fromkeys(path for of_package in paths.values() for path in of_package))
    watched = ("-n", str(jobs), "--dist", "loadgroup", "--cov=morocco_lib", "--cov-context=test", "--cov-report=")
    if fast_tests(home / "base", every, *watched):
        sys.exit(f"mutants: the tests ({', '.join(every)}) do not pass as they are, or there are none")
    seen = CoverageData(home / "base" / ".coverage")
    seen.read()
    print(f"{len(seen.measured_contexts())} parts of tests seen in {len(seen.measured_files())} modules", flush=True)

    def judge(mutant: Mutant) -> bool:
        with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as folder:
            copy = shutil.copytree(home / "base", Path(folder) / "morocco")
            lines = (copy / mutant.path).read_text(encoding="utf-8").split("\n")
            lines[mutant.number - 1] = mutant.after
            (copy / mutant.path).write_text("\n".join(lines), encoding="utf-8")
            lines_seen = seen.contexts_by_lineno(str(home / "base" / mutant.path))
            contexts = filter(None, lines_seen.get(mutant.number, ()))  # like tests/x.py::test_y[z]@group|run
            tests = {re.sub(r"@[^]@]*$", "", context.rsplit("|", 1)[0]) for context in contexts}
            own = f"/test_{mutant.path.stem}.py::"
            likely = sorted(tests, key=lambda test: (own not in test, test))
            broken = likely and fast_tests(copy, likely) not in (0, 4)  # 4: one has another name each time
            files = dict.fromkeys(test.partition("::")[0] for test in likely)
            return not broken and not fast_tests(copy, list(files | dict.fromkeys(paths[mutant.package])))

    with ThreadPoolExecutor(jobs) as pool:
        for mutant, survived in zip(sample, pool.map(judge, sample), strict=True):
            survivors += survived
            show(mutant, "survived" if survived else "killed")
    print(f"{1 - survivors / max(1, len(sample)):.0%} of {len(sample)} mutants killed")


def show(mutant: Mutant, word: str) -> None:
    print(
        f"{word:9}{mutant.path}:{mutant.number}", mutant.before.strip(), mutant.after.strip(), sep="\n    ", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=200, help="mutants drawn (default 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--package", action="append", help=f"of morocco_lib, repeatable (default {' '.join(PACKAGES)})")
    parser.add_argument("--module", default="", help="draw from modules of this name only")
    parser.add_argument("--tests", action="append", default=[], help="further tests to run, repeatable")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list-only", action="store_true", help="print the sample, run nothing")
    args, made = parser.parse_args(), []
    for package in args.package or PACKAGES:
        folder = ROOT / "morocco_lib" / package
        for path in sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]:
            made += mutants_of(path, package) if args.module in ("", path.stem) else []
    sample = random.Random(args.seed).sample(made, min(args.n, len(made)))
    if args.list_only:
        for mutant in sample:
            show(mutant, "drawn")
        return
    with tempfile.TemporaryDirectory() as home:
        run(sample, args.tests, args.jobs, Path(home))


if __name__ == "__main__":
    main()
