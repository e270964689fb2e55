"""What reading the original's logs costs: CPU of one cell, one process for all against one a cell, ten times the files.

    python benchmarks/original_stats.py LOGS                folder of <model>/<task>/, or its .tar.gz

CPU seconds of whole processes (start of Python included), the least of several; memory is the largest resident set.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TIMES = 5


def cost(*args: str | Path, times: int = TIMES) -> tuple[float, float]:
    """Return (CPU seconds, MB of the largest resident set) of `morocco ARGS...`, the least of some runs."""
    seen = []
    for _ in range(times):
        argv = [sys.executable, "-m", "morocco_lib", *map(str, args)]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{argv} ended with {process.returncode}")
        seen.append((usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000))
    return min(cpu for cpu, _ in seen), min(rss for _, rss in seen)


def main(given: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if given.is_dir():
            shutil.copytree(given, root / "logs")
        else:
            with tarfile.open(given) as archive:
                archive.extractall(root / "logs", filter="data")
        cells = sorted(path for path in (root / "logs").glob("*/*") if path.is_dir())
        files = sum(1 for _ in (root / "logs").rglob("*.jsonl"))
        for options in (("--original",), ()):
            apart = [cost("stats", cell, *options, times=3)[0] for cell in cells]
            together, memory = cost("stats", root / "logs", *options)
            print(" ".join(("morocco stats", *options)))
            print(f"  one cell                 {statistics.median(apart):6.3f} s CPU (at most {max(apart):.3f})")
            print(f"  {len(cells)} cells, a process each {sum(apart):6.3f} s CPU")
            print(
                f"  {len(cells)} cells, one process    {together:6.3f} s CPU, 1/{sum(apart) / together:.1f} of it, {memory:.0f} MB"
            )
        for copy in range(10):
            shutil.copytree(root / "logs", root / "tenfold" / str(copy))
        many, memory_many = cost("stats", root / "tenfold", "--original")
        few, memory_few = cost("stats", root / "logs", "--original")
        print(f"{files} -> {10 * files} files: x{many / few:.2f} CPU, {memory_few:.0f} -> {memory_many:.0f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
