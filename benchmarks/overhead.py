"""What a step of a plan costs beyond its work: start of a kernel, imports, figures, rendering, digests; medians and the worst.

    python benchmarks/overhead.py [REPEATS]

Work is the one cell that trains, benches or evaluates; the rest of the time between the step's start and end is overhead.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = {
    "train": "from morocco_lib import train",
    "bench": "from morocco_lib import bench",
    "eval": "from morocco_lib import evaluate",
}
PLAN = "name: overhead\nmodels: [majority, tfidf]\ntasks: [terra]\ninput_size: 2000\n"


def seconds(folder: Path) -> tuple[str, float, float]:
    """Return (step, seconds of its work, seconds of the whole) of an executed step."""
    status = json.loads((folder / "status.json").read_text())
    cells = json.loads((folder / "notebook.ipynb").read_text())["cells"]
    (work,) = [
        c["metadata"]["papermill"]["duration"] for c in cells if "".join(c["source"]).startswith(WORK[status["step"]])
    ]
    whole = datetime.fromisoformat(status["ended"]) - datetime.fromisoformat(status["started"])
    return status["step"], work, whole.total_seconds()


def main(repeats: int = 3) -> None:
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        plan = Path(name) / "plan.yaml"
        plan.write_text(PLAN)
        for number in range(repeats):
            out = Path(name) / str(number)
            argv = [sys.executable, "-m", "morocco_lib", "run", str(plan), "--out", str(out), "--quiet"]
            subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            for folder in out.glob("*/terra/*-????????"):
                step, work, whole = seconds(folder)
                taken.setdefault(step, []).append((work, whole - work))
    print(f"{'step':<6} {'steps':>5} {'work s':>7} {'overhead s':>11} {'worst s':>8}")
    for step in WORK:
        works, rests = zip(*taken[step], strict=True)
        middle = statistics.median
        print(f"{step:<6} {len(works):>5} {middle(works):>7.2f} {middle(rests):>11.2f} {max(rests):>8.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
