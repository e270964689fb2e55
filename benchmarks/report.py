"""How long report and verify take with many step folders, and how large the page is: python benchmarks/report.py [FOLDERS]

For report, copies of one finished bench step with other names, speeds, scores and memory stand for them; for verify, links
to all files of a small one, which is rebuilt from its bytes in each folder, and then remembered. The steps are made first.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.report_step import report_step

MODELS_A_BATCH, BATCHES = 37, (1, 8, 32)
TASKS = ("danetqa", "muserc", "parus", "rcb", "russe", "rwsd", "terra", "lidirus", "rucos")
MOST_LINKS = 50_000  # of a file; ext4 has 65,000
BARS = {"ms": 2.0, "bytes of 1,000": 3_000_000}
MOROCCO = [sys.executable, "-m", "morocco_lib"]


def main(folders: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        make = [*MOROCCO, "data", "synthetic", "terra", "--out", home / "data"]
        subprocess.run(make, check=True, capture_output=True)
        write_points(benched(home, "made", 2000), home / "plan", folders, random.Random(0))
        pages: list[Path] = []
        reported_ms = timed("report", folders, lambda: pages.append(report_step(home / "plan")))
        size = pages[0].stat().st_size
        print(f"page: {size:,} bytes", flush=True)
        link_steps(benched(home, "small", 32), home / "links", folders)
        own = {**os.environ, "XDG_CACHE_HOME": str(home / "cache")}
        verify = partial(
            subprocess.run, [*MOROCCO, "verify", home / "links"], check=True, stdout=subprocess.DEVNULL, env=own
        )
        timed("verify", folders, verify)
        remembered_ms = timed("verify, remembered", folders, verify)
    passed = max(reported_ms, remembered_ms) <= BARS["ms"] and (folders != 1000 or size <= BARS["bytes of 1,000"])
    return 0 if passed else 1


def timed(what: str, folders: int, call: Callable) -> float:
    """Return the milliseconds that a folder takes."""
    began = time.monotonic()
    call()
    seconds = time.monotonic() - began
    print(f"{what}: {folders} folders in {seconds:.1f} s, {1000 * seconds / folders:.2f} ms each", flush=True)
    return 1000 * seconds / folders


def benched(home: Path, name: str, records: int) -> Path:
    """Bench the example program once, and return the step folder."""
    argv = [
        *MOROCCO,
        "bench",
        "--command",
        f"{sys.executable} docs/example_model.py",
        "terra",
        "--data",
        home / "data/TERRa/val.jsonl",
    ]
    argv += ["--input-size", records, "--batch-size", 32, "--repeats", 1, "--quick", "--out", home / name]
    subprocess.run(list(map(str, argv)), check=False, capture_output=True)
    ((folder, _),) = steps.find_steps(home / name)
    return folder


def link_steps(folder: Path, plan: Path, count: int) -> None:
    for k in range(count):
        place = plan / f"model-{k // 100:04d}" / f"bench-{k:08x}"
        fresh = k % MOST_LINKS == 0
        shutil.copytree(folder, place, copy_function=shutil.copy2 if fresh else os.link)
        folder = place if fresh else folder


def write_points(folder: Path, plan: Path, points: int, rng: random.Random) -> None:
    """Write step folders that look like `folder`, each with numbers of its own."""
    result = json.loads((folder / "bench.json").read_text())
    status = json.loads((folder / steps.STATUS).read_text())
    for k in range(points):
        task, model = TASKS[k % len(TASKS)], f"model-{k // (len(TASKS) * len(BATCHES)):03d}"
        batch = BATCHES[k // len(TASKS) % len(BATCHES)]
        speed, score = 10 ** rng.uniform(0, 4), rng.uniform(0.3, 0.9)
        one = {
            **result, "task": task, "model": model, "batch_size": batch, "verdict": "VALID", "reasons": [],
            "speed_per_s": {"value": speed, "low": 0.97 * speed, "high": 1.03 * speed, "method": "stream", "scope": "runs"},
            "ram_bytes": {"value": 10 ** rng.uniform(7, 10), "low": None, "high": None},
            "score": {**result["score"], "value": score, "low": score - 0.03, "high": score + 0.03},
        }  # fmt: skip
        place = plan / model / task / f"bench-{k:08x}"
        place.mkdir(parents=True)
        (place / "bench.json").write_text(json.dumps(one))
        named = {**status, "task": task, "model": model, "key": f"{k:08x}", "outputs": {}}
        named["parameters"] = {**status["parameters"], "batch_size": batch, "command": f"{model} {k}"}
        (place / steps.STATUS).write_text(json.dumps(steps.seal(named)))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
