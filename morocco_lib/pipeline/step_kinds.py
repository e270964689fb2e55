"""The table of step kinds. A new kind is an entry here and a notebook of its name."""

import multiprocessing
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Container, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from morocco_lib import config, data, fileio, foreign
from morocco_lib.analysis import summary
from morocco_lib.analysis.run_files import read_workload
from morocco_lib.artifacts import steps
from morocco_lib.artifacts import verify as verification
from morocco_lib.artifacts.memory import Memory
from morocco_lib.artifacts.step_kind import MODEL, PLAN, POINT, PRETRAINING, SCORE, TRAINING, StepKind
from morocco_lib.benchmark.crosscheck import contradictions
from morocco_lib.config import resolve
from morocco_lib.data import workload
from morocco_lib.errors import UsageError
from morocco_lib.models import weights
from morocco_lib.options import SYNTHETIC
from morocco_lib.pipeline import targets
from morocco_lib.pipeline.signals import end_with_parent
from morocco_lib.reasons import EXIT_CODES
from morocco_lib.report import build, seeds_table
from morocco_lib.tasks import get_task
from morocco_lib.training import fit, heartbeat


# -- inputs -------------------------------------------------------------------------------------------------------
def pretrain_inputs(p: Any, root: Path) -> dict[str, Path]:
    """Return the files of the corpus, and the tokenizer and the teacher, where they are given."""
    given = p.model.pretraining
    found = {}
    for number, name in enumerate(given.corpus, start=1):
        path = resolve(name, root)
        inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        found |= {f"corpus/{number}/{one.name}": one for one in inside}
    if given.tokenizer:
        path = resolve(given.tokenizer, root)
        found["tokenizer"] = path / "tokenizer.json" if path.is_dir() else path
    if given.recipe.distill:
        found["teacher"] = resolve(given.recipe.distill.teacher, root) / "model.safetensors"
    if missing := [path for path in found.values() if not path.is_file()]:
        raise UsageError(f"no file {missing[0]}", rule="a model is pre-trained on files that are there")
    return found


def train_inputs(p: Any, root: Path) -> dict[str, Path]:
    """Return the splits that a model is fitted on, and the local folder it starts from."""
    task = get_task(p.task.name)
    trained = get_task(task.trained_on)  # LiDiRus is answered by what was trained on TERRa
    files = p.task.files if trained is task else None
    data_dir = resolve(p.data_dir, root)
    found = {split: data.find_split(data_dir, trained, split, files) for split in fit.splits(p.model)}
    return found | fit.sources(p.model, root)


def answer_inputs(p: Any, root: Path) -> dict[str, Path]:
    """Return the records that a program answers, and its weights, or what they are fitted on first."""
    task = get_task(p.task.name)
    inputs = {"records": data.find_split(resolve(p.data_dir, root), task, p.task.split, p.task.files)}
    if p.command or p.image:
        return inputs
    if p.model.kind == config.PROGRAM:
        return inputs | targets.files_of_program(p.model, root)
    if p.weights_dir:
        return inputs | {f"weights/{path.name}": path for path in weights.files(resolve(p.weights_dir, root))}
    return inputs | train_inputs(p, root)


def report_inputs(p: Any, root: Path) -> dict[str, Path]:
    """Return the status of every step that a report shows."""
    return build.inputs_of(resolve(p.plan_dir, root))


# -- exit codes and rebuilding -------------------------------------------------------------------------------------
def bench_exit(folder: Path) -> int:
    return EXIT_CODES[fileio.read_json(folder / summary.BENCH)["verdict"]]


def rebuild_bench(folder: Path) -> tuple[int, list[str]]:
    count, wrong = verification.compare(folder, summary.BENCH, summary.derive(folder))
    return count, [*wrong, *_other_than_the_data(folder)]


def _other_than_the_data(folder: Path) -> list[str]:
    """Return where what runs were fed, and what was held to be right, differs from what the file of records gives.

    Nothing where that file is not here: `not_held_against_the_data` counts it.
    """
    wrong, read = [], {}
    for run, path, stored in _streams(folder, steps.read_status(folder)):
        if path is None:
            wrong.append(f"{run / 'workload.json'}: its records are of no file that the step read")
        elif path.is_file():
            task = get_task(stored["task"])
            if path not in read:
                read[path] = task.read(path)
            source = data.describe(path, task, read[path]) | {"path": stored["source"]["path"]}
            derived = workload.rebuilt(task, read[path], stored) | {"source": source}
            wrong += [
                f"{run / 'workload.json'}: {place} is {a!r}, rebuilt {b!r}"
                for place, a, b in verification.differences(stored, derived)
            ]
    return wrong


def _streams(folder: Path, status: dict[str, Any]) -> Iterator[tuple[Path, Path | None, dict[str, Any]]]:
    """Yield (run, the file of its records, workload.json) of each stream that runs of a step were fed, by its first run.

    None: the step read no such file. Left out are streams without right answers of records changed on purpose.
    """
    files, seen = {digest: folder / name for name, digest in status["inputs"].items()}, set()
    for stage in (".", *summary.STAGES):
        for path in sorted(folder.glob(f"{stage}/runs/[0-9]*/workload.json")):
            digest = status["outputs"].get(path.relative_to(folder).as_posix())
            if digest not in seen and not stage.startswith("cached"):
                stored = read_workload(path.parent)
                yield path.parent, files.get(stored["source"]["sha256"]), stored
            seen.add(digest)


def not_held_against_the_data(folder: Path, status: dict[str, Any]) -> list[verification.Unchecked]:
    if all((folder / name).is_file() for name in status["inputs"]):
        return []
    gone = {str(path) for _, path, _ in _streams(folder, status) if path is not None and not path.is_file()}
    runs = sum(1 for stage in (".", *summary.STAGES) for _ in folder.glob(f"{stage}/runs/[0-9]*/run.json"))
    why = f"{', '.join(sorted(gone))} not here"
    return [verification.Unchecked(runs, "run", "not held against the data", why)] if gone else []


def beside_records(folder: Path) -> dict[str, Any]:
    """Return what a step's numbers follow from beside its files and the bytes that it read: where these came from, and the
    batches that its answers are compared with."""
    status = steps.read_status(folder)
    found = {n: data.origin(folder / n) if (folder / n).is_file() else None for n in status["inputs"]}
    if (protocol := folder / summary.PROTOCOL).is_file() and (other := fileio.read_json(protocol).get("against")):
        found["against"] = steps.everything(folder / other)
    return found


def rebuild_train(folder: Path) -> tuple[int, list[str]]:
    """Hold what train.json says of the records against the files that were read: a leak is found by their digests."""
    status, result = steps.read_status(folder), fileio.read_json(folder / fit.RESULT)
    files, count, wrong = {digest: folder / name for name, digest in status["inputs"].items()}, 0, []
    if (result["task"], result["model"]) != (status["task"], status["model"]):
        wrong.append(f"{folder / fit.RESULT} is of {result['model']} on {result['task']}")
    for name in ("data", "val"):
        if name not in result:
            continue
        stored, path = result[name], files.get(result[name]["sha256"])
        if path is None:
            wrong.append(f"{folder / fit.RESULT}: {name} is of no file that the step read")
        elif path.is_file() and "records" in stored:
            task = get_task(result["task"])
            records = task.read(path)
            labels = Counter(label for record in records for label in task.labels_in(task.gold(record)))
            known = {"origin": data.origin(path), "records": len(records)}
            known["labels"] = {str(label): labels[label] for label in task.labels}
            count += verification.count_numbers(known)
            held = {"origin": stored["origin"], "records": stored["records"], "labels": result["labels"]}
            wrong += [
                f"{folder / fit.RESULT}: {place} is {a!r}, rebuilt {b!r}"
                for place, a, b in verification.differences(held, known)
            ]
    return count, wrong


def not_repeated(folder: Path, status: dict[str, Any]) -> list[verification.Unchecked]:
    return [verification.Unchecked(1, "training", "not repeated")]


def rebuild_eval(folder: Path) -> tuple[int, list[str]]:
    texts, result = summary.derive_eval(folder)
    count, wrong = verification.compare(folder, summary.SCORE, result)
    for name, text in texts.items():
        if not (folder / name).is_file() or foreign.read_text(folder / name, folder) != text:
            wrong.append(f"{folder / name} does not follow from runs/01/answers.jsonl")
    return count, [*wrong, *_other_than_the_data(folder)]


def rebuild_synthetic(folder: Path) -> tuple[int, list[str]]:
    """Make the records again; there is no number among them."""
    status = steps.read_status(folder)
    with tempfile.TemporaryDirectory() as made:
        data.make_synthetic(Path(made), sorted(set(status["parameters"]["tasks"])), status["parameters"]["seed"])
        now = steps.digest_outputs(Path(made))
    names = (name for name in now | status["outputs"] if name.endswith(".jsonl"))
    wrong = [name for name in names if now.get(name) != status["outputs"].get(name)]
    return 0, [f"{folder / name} is not what its seed makes" for name in sorted(wrong)]


KINDS: dict[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind(
            "pretrain", config.PretrainParams, pretrain_inputs, fit.PRETRAINED, scope=MODEL, shows=PRETRAINING,
            start=fit.pretrained_model, heartbeat=heartbeat.of_step, unchecked=not_repeated,
        ),
        StepKind(
            "train", config.TrainParams, train_inputs, fit.RESULT, shows=TRAINING, trains=True, heartbeat=heartbeat.of_step,
            rebuild=rebuild_train, rests_on=beside_records, unchecked=not_repeated,
        ),
        StepKind(
            "bench", config.BenchParams, answer_inputs, summary.BENCH, shows=POINT, in_turn=True,
            exit_code=bench_exit, rebuild=rebuild_bench, rests_on=beside_records, contradictions=contradictions,
            unchecked=not_held_against_the_data,
        ),
        StepKind(
            "eval", config.EvalParams, answer_inputs, summary.SCORE, shows=SCORE,
            rebuild=rebuild_eval, rests_on=beside_records, contradictions=contradictions, unchecked=not_held_against_the_data,
        ),
        StepKind(
            "report", config.ReportParams, report_inputs, build.RESULT, scope=PLAN,
            rebuild=lambda folder: build.rebuild(folder, KINDS), rests_on=build.rests_on, unchecked=build.unchecked,
        ),
        StepKind("search", config.SearchParams, train_inputs, "search.json", unchecked=not_repeated),
        StepKind("speed", config.SpeedParams, train_inputs, "speed.json", unchecked=not_repeated),
    )
}  # fmt: skip


ALONE_S = 1.0  # of verifying in one process; others need half a second to begin
MOST_AT_ONCE = 32  # folders that a process is given; an interrupt waits for its end
MADE_FIRST = StepKind(  # no step of a plan's list
    SYNTHETIC, dict, lambda p, root: {}, data.splits.MARK, scope=PLAN, rebuild=rebuild_synthetic
)  # fmt: skip


def verify(
    outputs: Path, rebuild: Container[Path] | None = None, memory: Memory | None = None, processes: int = 1
) -> list[verification.Finding]:
    """Rebuild every number below a folder of results and check every byte against its digest.

    Args:
        outputs: Folder of step folders, or one.
        rebuild: Only the numbers of these step folders (resolved); None: of all. Digests are always checked.
        memory: Where to look what was rebuilt before, from the same bytes by the same code; None: all is rebuilt now.
        processes: So many share what takes longer than a second.
    Returns:
        The findings; all of them are `ok` if everything holds. `artifacts.verify.table` makes text of them.
    Raises:
        UsageError: there is no step folder.
    """
    tables = {seeds_table.RESULTS: partial(seeds_table.wrong_lines, kinds=KINDS)}
    each = partial(_verify_each, memory=memory, processes=processes)
    return verification.verify(Path(outputs), KINDS | {SYNTHETIC: MADE_FIRST}, rebuild, tables, each)


def _verify_each(
    folders: list[Path], rebuild: list[bool], memory: Memory | None, processes: int
) -> Iterator[verification.Step]:
    one, left = partial(_verify_step, memory=memory), deque(zip(folders, rebuild, strict=True))
    until = time.monotonic() + ALONE_S
    while left and (processes == 1 or time.monotonic() < until):
        yield one(*left.popleft())
    try:
        several = multiprocessing.get_context("spawn")  # a fork of this process would take its threads along
        with ProcessPoolExecutor(processes, several, end_with_parent, (os.getpid(),)) as pool:
            chunk = 1 + min(len(left) // (16 * processes), MOST_AT_ONCE)
            for step in pool.map(one, *zip(*left, strict=True), chunksize=chunk) if left else ():
                left.popleft()
                yield step
    except (BrokenProcessPool, OSError):  # no memory for one more, no place for a socket
        yield from (one(*each) for each in left)


def _verify_step(folder: Path, rebuild: bool, memory: Memory | None) -> verification.Step:
    return verification.verify_step(folder, rebuild, KINDS | {SYNTHETIC: MADE_FIRST}, memory)
