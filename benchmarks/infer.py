"""Start-up and throughput of `morocco infer` with TF-IDF on synthetic TERRa records, medians of whole processes.

    python benchmarks/infer.py [RECORDS] [REPEATS]

Start-up is the CPU time of answering nothing; throughput is records over the CPU and wall time beyond that.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from morocco_lib import data
from morocco_lib.data import workload
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task


def run(folder: Path, stdin: Path) -> tuple[float, float]:
    """Return (CPU, wall) seconds of one process that answers a file."""
    began = time.monotonic()
    with stdin.open("rb") as records:
        argv = [sys.executable, "-m", "morocco_lib", "infer", str(folder)]
        process = subprocess.Popen(argv, stdin=records, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"infer ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - began


def main(size: int = 20_000, repeats: int = 5) -> None:
    task = get_task("terra")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        data.make_synthetic(base / "data", ["terra"], 1)
        _, train = data.read_split(base / "data", task, "train")
        _, val = data.read_split(base / "data", task, "val")
        model = model_class("tfidf").fit(task, train, 1)
        weights.save(model, task, base / "weights", name="tfidf", trained_on={})
        (base / "none").touch()
        with (base / "many").open("wb") as out:
            workload.build(task, val, size, 1).describe(out)
        none, many = ([run(base / "weights", base / f) for _ in range(repeats)] for f in ("none", "many"))
    start_cpu, start_wall = (statistics.median(column) for column in zip(*none, strict=True))
    cpu, wall = (statistics.median(column) for column in zip(*many, strict=True))
    print(f"start-up    {start_cpu:.3f} s CPU   {start_wall:.3f} s wall")
    print(
        f"throughput  {size / (cpu - start_cpu):,.0f} records/s CPU   {size / (wall - start_wall):,.0f} records/s wall"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
