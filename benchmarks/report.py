"""How long a report of many operating points takes, and how large its page is: python benchmarks/report.py [POINTS]

Copies of one finished bench step with other names, speeds, scores and memory stand for them; the step is made first.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from morocco_lib.artifacts import steps
from morocco_lib.pipeline.report_step import report_step

MODELS_A_BATCH, BATCHES = 37, (1, 8, 32)
TASKS = ("danetqa", "muserc", "parus", "rcb", "russe", "rwsd", "terra", "lidirus", "rucos")
BARS = {"time_s": 5.0, "bytes": 3_000_000}


def main(points: int) -> int:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as home:
        source, plan = Path(home) / "made", Path(home) / "plan"
        run = [sys.executable, "-m", "morocco_lib"]
        subprocess.run([*run, "data", "synthetic", "terra", "--out", f"{home}/data"], check=True, capture_output=True)
        argv = [
            *run,
            "bench",
            "--command",
            f"{sys.executable} docs/example_model.py",
            "terra",
            "--data",
            f"{home}/data/TERRa/val.jsonl",
        ]
        argv += ["--input-size", "2000", "--batch-size", "32", "--repeats", "1", "--quick", "--out", str(source)]
        subprocess.run(argv, check=False, capture_output=True)
        (folder,) = (f for f, status in steps.find_steps(source))
        write_points(folder, plan, points, rng)
        began = time.monotonic()
        page = report_step(plan)
        took = time.monotonic() - began
        size = page.stat().st_size
    passed = took < BARS["time_s"] and size <= BARS["bytes"]
    print(
        f"{points} operating points, {1000 * took / points:.1f} ms each: {took:.2f} s of {BARS['time_s']:.0f}, {size:,} bytes of {BARS['bytes']:,}"
    )
    return 0 if passed else 1


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
