"""What small transformers learn from random weights on the synthetic tasks, beside rules that understand nothing.

    python benchmarks/learning.py --work FOLDER                        every task, a small encoder and a small decoder
    python benchmarks/learning.py --tasks rucos muserc --models tiny-encoder --seed 2 --json
    python benchmarks/learning.py --tasks terra rcb --data FOLDER      on official records instead, each cell twice

A cell is one `morocco train` in a process of its own on one thread; as many run at once as there are cores. It is scored
on 500 records of another seed, beside the most frequent answer and the word counts' rule. A
tenth of the labels is wrong on purpose, of these records too, so no model reaches 1.

Bars: 0.15 over the most frequent answer; MuSeRC (F1a) and RuCoS (F1) 0.15 over the word counts; LiDiRus, answered by what
was learnt on TERRa, MCC 0.3. Exits with 1 if one is missed. What was finished in FOLDER before is not trained again.

Official records have no bar, whatever comes out is printed: of val, on which the best evaluation was chosen too. There the same
seed is trained twice; exits with 1 if the predictions differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from morocco_lib import data
from morocco_lib.config import model as model_config
from morocco_lib.data import synthetic
from morocco_lib.models import weights
from morocco_lib.models.majority import Majority
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import Task
from morocco_lib.training import fit

ROOT = Path(__file__).resolve().parents[1]
TASKS = ["terra", "rcb", "danetqa", "russe", "rwsd", "parus", "muserc", "rucos"]
RECORDS = {"danetqa": 2400, "muserc": 3000, "rucos": 4000}  # of the train split, where its usual size is too small
UNSEEN, UNSEEN_SEED = 500, 2000
MARGIN = 0.15
COUNTS_RULE = {"muserc", "rucos"}  # whose bar is over the word counts
MCC = 0.3


def score_of(model, task: Task, records: list) -> float:
    """Return a model's metric on labelled records."""
    gold = [task.gold(record) for record in records]
    return float(task.score(gold, model.answer(records))["accuracy" if task.name == "rcb" else task.metric_names[0]])


def unseen(task: Task) -> list:
    """Return synthetic records of another seed than those of training."""
    return synthetic.records(task.name, task.title if task.name == "lidirus" else "val", UNSEEN, UNSEEN_SEED)


def records_of(task_name: str, seed: int, folder: Path) -> Path:
    place = folder / f"{task_name}-records-{seed}"
    if not place.exists():
        synthetic.write(place, [task_name], seed, RECORDS.get(task_name, 0))
    return place


def trained(model: str, task_name: str, seed: int, folder: Path, official: Path | None) -> None:
    """Train a model, on official records twice, unless that was done before."""
    records = official.resolve() if official else records_of(task_name, seed, folder)
    for name in ("", "-again") if official else ("",):
        out = folder / f"{model}-{task_name}-{seed}{name}"
        if not (out / fit.RESULT).is_file():
            argv = [sys.executable, "-m", "morocco_lib", "train", model, task_name, "--out", out, "--seed", str(seed)]
            argv += ["--data", records]
            one = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(argv, cwd=ROOT, env=one, check=True, stdout=subprocess.DEVNULL)


def cell(model: str, task_name: str, seed: int, folder: Path, official: Path | None) -> list[dict]:
    """Return the rows of one model and task; those of LiDiRus come with TERRa's."""
    task, out = get_task(task_name), folder / f"{model}-{task_name}-{seed}"
    place = official.resolve() if official else records_of(task_name, seed, folder)
    files = {split: data.find_split(place, task, split) for split in ("train", "val")}
    learnt_from, evaluated = task.read(files["train"]), task.read(files["val"]) if official else unseen(task)
    result = json.loads((out / fit.RESULT).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as room:
        fit.fit(fit.Plan(model_config.load_model("tfidf", ROOT), task_name, files, [seed]), Path(room))
        counts = score_of(weights.load(Path(room))[0], task, evaluated)
    constant, fitted = score_of(Majority.fit(task, learnt_from, 0), task, evaluated), weights.load(out)[0]
    row = {
        "model": model, "train_records": len(learnt_from), "minutes": result["wall_s"] / 60, "task": task_name,
        "score": score_of(fitted, task, evaluated), "constant": constant, "word_counts": counts,
    }  # fmt: skip
    if official:
        again = out.with_name(f"{out.name}-again")
        return [{**row, "same_predictions": weights.load(again)[0].answer(evaluated) == fitted.answer(evaluated)}]
    rows = [{**row, "bar": MARGIN + (counts if task_name in COUNTS_RULE else constant)}]
    if task_name == "terra":
        lidirus = get_task("lidirus")
        score = score_of(weights.load(out, "lidirus")[0], lidirus, unseen(lidirus))
        rows.append({**row, "task": "lidirus", "score": score, "constant": 0.0, "word_counts": None, "bar": MCC})
    return rows


def show(row: dict) -> str:
    counts = "-" if row["word_counts"] is None else f"{row['word_counts']:.3f}"
    last = f"{row['bar']:.3f}" if "bar" in row else f"same predictions twice: {row['same_predictions']}"
    return (
        f"{row['task']:8} {row['model']:14} {row['train_records']:5}  {row['score']:.3f}  {row['constant']:.3f}"
        f"          {counts:11}  {row['minutes']:7.1f}  {last}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--models", nargs="+", default=["tiny-encoder", "tiny-decoder"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, help="official records")
    parser.add_argument("--work", type=Path, help="folder that is kept")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as room, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        folder = (args.work or Path(room)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for task_name in args.tasks if not args.data else ():  # before two cells of a task would make them at once
            records_of(task_name, args.seed, folder)
        cells = [(model, task_name) for task_name in args.tasks for model in args.models]
        list(pool.map(lambda one: trained(*one, args.seed, folder, args.data), cells))
        rows = [row for one in cells for row in cell(*one, args.seed, folder, args.data)]
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(
            "task     model          train  score  most frequent  word counts  minutes  bar", *map(show, rows), sep="\n"
        )
    return int(any(row["score"] < row["bar"] if "bar" in row else not row["same_predictions"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
