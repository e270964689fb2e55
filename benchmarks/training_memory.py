"""How the memory of training grows with the records: python benchmarks/training_memory.py --task rucos --records 1000 3000 10000

For each number of synthetic records (or the first ones of `--data FILE`) a small BERT is trained for a few updates in a
process of its own. Printed: the peak memory of that process, and what one record more costs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from morocco_lib.config.model import ModelParams
from morocco_lib.data import synthetic
from morocco_lib.tasks import get_task
from morocco_lib.training import fit

SIZES = {
    "model_type": "bert", "vocab_size": 5000, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 64,
}  # fmt: skip
UPDATES, BATCH, VAL = 8, 4, 20


def train(task_name: str, files: dict[str, Path], folder: Path) -> int:
    """Train in this process and return its peak memory in bytes."""
    with files["train"].open(encoding="utf-8") as lines:
        records = sum(1 for _ in lines)
    recipe = {"batch_size": BATCH, "eval_every": UPDATES, "epochs": UPDATES * BATCH / records, "max_length": 512}
    model = ModelParams(name="small", kind="transformer", scratch=SIZES, recipe=recipe)
    return fit.fit(fit.Plan(model, task_name, files, [1]), folder)["process_peak_bytes"]


def lines_of(task_name: str, split: str, size: int, given: Path | None) -> list[str]:
    if given:
        return given.read_text(encoding="utf-8").splitlines()[:size]
    return [json.dumps(record, ensure_ascii=False) for record in synthetic.records(task_name, split, size, 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="rucos")
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--data", type=Path, help="a file of official records, of which the first are taken")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)  # in the process that is measured
    args = parser.parse_args()
    if args.here:
        files = {split: args.here / f"{split}.jsonl" for split in ("train", "val")}
        print(train(args.task, files, args.here))
        return 0
    print(f"{get_task(args.task).title}: records, MiB of text, peak MiB, KiB a record more")
    before = None
    for size in args.records:
        with tempfile.TemporaryDirectory() as folder:
            for split, count in (("train", size), ("val", VAL)):
                text = "\n".join(lines_of(args.task, split, count, args.data))
                Path(folder, f"{split}.jsonl").write_text(text + "\n", encoding="utf-8")
            text_bytes = Path(folder, "train.jsonl").stat().st_size
            command = [sys.executable, __file__, "--task", args.task, "--here", folder]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True
            )
        peak = int(done.stdout.split()[-1])
        more = f"{(peak - before[1]) / (size - before[0]) / 2**10:.1f}" if before else ""
        print(f"{size:>7,} {text_bytes / 2**20:>8.1f} {peak / 2**20:>8.0f} {more:>8}", flush=True)
        before = size, peak
    return 0


if __name__ == "__main__":
    sys.exit(main())
