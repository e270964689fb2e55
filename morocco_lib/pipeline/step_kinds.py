"""The table of step kinds. A new kind is an entry here and a notebook of its name."""

from functools import partial
from pathlib import Path
from typing import Any

from morocco_lib import config, data, fileio, foreign
from morocco_lib.analysis import summary
from morocco_lib.analysis.run_files import read_workload, run_folders
from morocco_lib.artifacts import steps
from morocco_lib.artifacts import verify as verification
from morocco_lib.artifacts.step_kind import PLAN, POINT, SCORE, TRAINING, StepKind
from morocco_lib.config import resolve
from morocco_lib.data import workload
from morocco_lib.models import weights
from morocco_lib.pipeline import targets
from morocco_lib.reasons import EXIT_CODES
from morocco_lib.report import build, seeds_table
from morocco_lib.tasks import get_task
from morocco_lib.training import fit


# -- inputs -------------------------------------------------------------------------------------------------------
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

    Nothing where that file is not here: `verify` notes it.
    """
    files = {digest: folder / name for name, digest in steps.read_status(folder)["inputs"].items()}
    wrong, read = [], {}
    for run in run_folders(folder):
        stored = read_workload(run)
        path = files.get(stored["source"]["sha256"])
        if path is None:
            wrong.append(f"{run / 'workload.json'}: its records are of no file that the step read")
        elif path.is_file():
            task = get_task(stored["task"])
            read[path] = read.get(path) or task.read(path)
            derived = workload.rebuilt(task, read[path], stored) | {"source": stored["source"]}
            wrong += verification.compare(run, "workload.json", derived)[1]
    return wrong


def rebuild_eval(folder: Path) -> tuple[int, list[str]]:
    text, result = summary.derive_eval(folder)
    count, wrong = verification.compare(folder, summary.SCORE, result)
    if foreign.read_text(folder / summary.PREDICTIONS, folder) != text:
        wrong.append(f"{folder / summary.PREDICTIONS} does not follow from runs/01/answers.jsonl")
    return count, [*wrong, *_other_than_the_data(folder)]


KINDS: dict[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind("train", config.TrainParams, train_inputs, fit.RESULT, shows=TRAINING, trains=True),
        StepKind(
            "bench", config.BenchParams, answer_inputs, summary.BENCH, shows=POINT, in_turn=True,
            exit_code=bench_exit, rebuild=rebuild_bench,
        ),
        StepKind("eval", config.EvalParams, answer_inputs, summary.SCORE, shows=SCORE, rebuild=rebuild_eval),
        StepKind(
            "report", config.ReportParams, report_inputs, build.RESULT, scope=PLAN,
            rebuild=lambda folder: build.rebuild(folder, KINDS),
        ),
    )
}  # fmt: skip


def verify(outputs: Path, rebuild=None) -> list[verification.Finding]:
    """Rebuild every number below a folder of results and check every byte against its digest.

    Args:
        outputs: Folder of step folders, or one.
        rebuild: Only the numbers of these step folders (resolved); None: of all. Digests are always checked.
    Returns:
        The findings; all of them are `ok` if everything holds. `artifacts.verify.table` makes text of them.
    Raises:
        UsageError: there is no step folder.
    """
    tables = {seeds_table.RESULTS: partial(seeds_table.wrong_lines, kinds=KINDS)}
    return verification.verify(Path(outputs), KINDS, rebuild, tables)
