"""What small transformers learn from random weights on the synthetic tasks, beside rules that understand nothing.

    python benchmarks/learning.py --work FOLDER                        every task, a small encoder and a small decoder
    python benchmarks/learning.py --tasks rucos muserc --models tiny-encoder --seed 2 --json

A cell is one `morocco train` in a process of its own on one thread; as many run at once as there are cores. It is scored
on 500 records of another seed that nothing was chosen on, beside the most frequent answer and the word counts' rule. A
tenth of the labels is wrong on purpose, of these records too, so no model reaches 1.

Bars: 0.15 over the most frequent answer; MuSeRC (F1a) and RuCoS (F1) 0.15 over the word counts; LiDiRus, answered by what
was learnt on TERRa, MCC 0.3. Exits with 1 if one is missed. What was finished in FOLDER before is not trained again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from morocco_lib import data, train, who
from morocco_lib.data import synthetic
from morocco_lib.models import weights
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Task

ROOT = Path(__file__).resolve().parents[1]
TASKS = ["terra", "rcb", "danetqa", "russe", "rwsd", "parus", "muserc", "rucos"]
RECORDS = {"danetqa": 2400, "muserc": 2000, "rucos": 4000}  # of the train split, where its usual size is too small
UNSEEN, UNSEEN_SEED = 500, 1000
MARGIN = 0.15
METRICS = {"muserc": "ans_f1", "rucos": "f1", "lidirus": "all_mcc"}  # of the others, accuracy
MCC = 0.3


def score_of(model, task: Task, split: str = "val") -> float:
    """Return a model's metric on records that nothing was chosen on."""
    records = synthetic.records(task.name, split, UNSEEN, UNSEEN_SEED)
    gold = [task.gold(record) for record in records]
    return float(task.score(gold, model.answer(records))[METRICS.get(task.name, "accuracy")])


class Constant:
    """Gives the most frequent answer of the train split."""

    def __init__(self, task: Task, records: list):
        self.task, self.majority = task, task.majority([task.gold(record) for record in records])

    def answer(self, records: list) -> list:
        return [self.task.constant(self.majority, record) for record in records]


def records_of(task_name: str, seed: int, folder: Path) -> Path:
    place = folder / f"{task_name}-records-{seed}"
    if not place.exists():
        synthetic.write(place, [task_name], seed, RECORDS.get(task_name, 0))
    return place


def trained(model: str, task_name: str, seed: int, folder: Path) -> tuple[Path, dict]:
    """Return the folder of a trained model and its train.json; trains it unless it is there."""
    out = folder / f"{model}-{task_name}-{seed}"
    if not (out / train.RESULT).is_file():
        words = [sys.executable, "-m", "morocco_lib", "train", model, task_name, "--out", out, "--seed", str(seed)]
        words += ["--data", records_of(task_name, seed, folder)]
        subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    return out, json.loads((out / train.RESULT).read_text(encoding="utf-8"))


def cell(model: str, task_name: str, seed: int, folder: Path) -> list[dict]:
    """Return the rows of one model and task; those of LiDiRus come with TERRa's."""
    task = get_task(task_name)
    out, result = trained(model, task_name, seed, folder)
    files = {"train": data.find_split(records_of(task_name, seed, folder), task, "train")}
    records = task.read(files["train"])
    with tempfile.TemporaryDirectory() as room:
        train.fit(train.Plan(who.load_model("tfidf", ROOT), task_name, files, [seed]), Path(room))
        counts = score_of(weights.load(Path(room))[0], task)
    constant = score_of(Constant(task, records), task)
    facts = {"model": model, "train_records": len(records), "minutes": result["wall_s"] / 60}
    rows = [{
        **facts, "task": task_name, "score": score_of(weights.load(out)[0], task), "constant": constant,
        "word_counts": counts, "bar": MARGIN + (counts if task_name in METRICS else constant),
    }]  # fmt: skip
    if task_name == "terra":
        lidirus = get_task("lidirus")
        score = score_of(weights.load(out, "lidirus")[0], lidirus, lidirus.title)
        rows.append({**facts, "task": "lidirus", "score": score, "constant": 0.0, "word_counts": None, "bar": MCC})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--models", nargs="+", default=["tiny-encoder", "tiny-decoder"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder that is kept")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as room, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = args.work or Path(room)
        folder.mkdir(parents=True, exist_ok=True)
        for task_name in args.tasks:  # before two cells of a task would make them at once
            records_of(task_name, args.seed, folder)
        cells = [(model, task_name) for task_name in args.tasks for model in args.models]
        done = pool.map(lambda one: cell(*one, args.seed, folder), cells)
        rows = [row for rows in done for row in rows]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print("task     model          train  score  bar    most frequent  word counts  minutes")
        for row in rows:
            counts = "-" if row["word_counts"] is None else f"{row['word_counts']:.3f}"
            print(
                f"{row['task']:8} {row['model']:14} {row['train_records']:5}  {row['score']:.3f}  {row['bar']:.3f}  "
                f"{row['constant']:.3f}          {counts:11}  {row['minutes']:.1f}"
            )
    return int(any(row["score"] < row["bar"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
