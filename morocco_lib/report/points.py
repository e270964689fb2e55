"""The rows of a report, a row for each operating point, from step folders."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from morocco_lib import foreign
from morocco_lib.analysis.predictions import differing, read_answers
from morocco_lib.analysis.run_files import read_run, read_workload, run_folders
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import POINT, PRETRAINING, SCORE, TRAINING, Kinds, shown_as
from morocco_lib.errors import UsageError
from morocco_lib.reasons import EXIT_CODES, INVALID, VALID, Reason
from morocco_lib.report import machines

Found = Collection[tuple[Path, dict[str, Any]]]  # step folders and their statuses
SYNTHETIC = "synthetic"  # where a row's records come from
MEASURED = ("argv", "image_digest", "precision", "backend", "device", "settings")  # program, and what decides its speed
WEIGHTS_FILES = ("model.safetensors", "model.json")  # the first that a model has says which weights they are
ESTIMATES = (
    "speed_per_s", "init_s", "ram_bytes", "ram_cgroup_peak_bytes", "gpu_ram_bytes", "cpu_s_per_record", "energy_j_per_record"
)  # fmt: skip

EVAL_SHARE = 0.01  # of answers that may depend on what else is in the batch, as in the check of the contract
NUMBER, TEXT = (float, None), (str, None)
ESTIMATE = {"value": NUMBER, "low?": NUMBER, "high?": NUMBER, "reason?": TEXT, "method?": TEXT}
SCORED = {
    "score": {**ESTIMATE, "n?": (int, None), "majority?": {"value": float}, "metrics?": {str: float}}, "batch_size": (int, None),
    "data": ({"sample": bool, "origin": str, "sha256?": str, "records": int, "official_records": (int, None)}, None),
}  # fmt: skip
FIRST_RUN = {"argv": [str], "image_digest": TEXT, "gpu?": ({"devices": [dict]}, str)}
SHAPES = {  # of results, by what a report shows them as
    SCORE: SCORED,
    POINT: {
        **SCORED, **dict.fromkeys(ESTIMATES, ESTIMATE), "verdict": str, "reasons": [str], "flips": ..., "input_size": int, "repeats": int,
        "runner": str, "disturbed_by?": [{"pid": int, "name": str, "share": float}], "argv?": ([str], None),
        "per_run?": [{"run": str, "speed_per_s?": NUMBER}],
        "settings?": ({str: (str, float, None)}, None), **dict.fromkeys(("image_digest?", "precision?", "backend?", "device?"), TEXT),
    },
    TRAINING: {
        "task": str, "model": str, "seed": int, "seeds?": [{"seed": int, "score": NUMBER, "metrics?": {str: float}}],
        "recipe?": {"select?": str}, "data?": {"sha256?": str},
        "val?": {"sha256?": str}, **dict.fromkeys(("wall_s?", "cpu_s?", "weights_bytes?"), NUMBER),
        "cost?": {"wall_s": NUMBER, "cpu_s": NUMBER, "energy_j?": ({"value": NUMBER}, None)},
    },
    PRETRAINING: {
        "seed": int, "updates": int, **dict.fromkeys(("loss", "perplexity", "tokens_per_s", "wall_s"), float),
        "weights": {"backbone": int, "sparsity": float},
    },
}  # fmt: skip


def collect(plan_dir: Path, kinds: Kinds, found: Found | None = None) -> list[dict[str, Any]]:
    """Return the rows of a folder of results, sorted by task, model and batch size.

    A row holds task, model, batch_size, input_size, repeats, runner, data, verdict, reasons, score, every estimate as
    in bench.json, the folders it came from, `machine`, and `on`, a name of it where there are several. The score is eval's where
    an eval fed the same records to the same weights or command at the same batch size, else the timed runs'; an eval that fits no
    bench is a row of its own.

    Args:
        kinds: The kinds of steps: which of them are operating points, scores, trainings.
        found: Folders and statuses of the steps to take; None: all that were not set aside.
    """
    cells: dict[tuple, list[tuple[Path, dict]]] = {}
    for folder, status in steps.find_steps(plan_dir) if found is None else found:
        if status["task"] and (found is not None or not steps.is_retired(status)):
            foreign.check_tree(folder, steps.STATUS)
            cells.setdefault((status["task"], status["model"]), []).append((folder, status))
    every = [one for of_cell in cells.values() for one in of_cell]
    finished = [(f, s) for f, s in every if s["state"] == steps.DONE]
    timed = {f: _first_run(f) for f, s in finished if shown_as(s, kinds) in (POINT, SCORE)}
    hosts = {f: machines.text_of(s["host"], timed.get(f, {}).get("gpu")) for f, s in every}
    subjects = {f: _subject(f, s, timed[f]) for f, s in finished if f in timed}
    evals = {}
    for f, s in finished:
        if shown_as(s, kinds) == SCORE:  # of this machine, else of any
            evals[subjects[f], hosts[f]] = evals[subjects[f]] = (f, s)
    measured = {subjects[f] for f, s in finished if shown_as(s, kinds) == POINT}
    rows = []
    for (task, model), of_cell in cells.items():
        done = [(folder, status) for folder, status in of_cell if status["state"] == steps.DONE]
        here = []
        for folder, status in done:
            if shown_as(status, kinds) == POINT:
                row, subject = _point(folder, status, plan_dir, kinds), subjects[folder]
                scored = evals.get((subject, hosts[folder])) or evals.get(subject)
                row["machine"] = hosts[folder]
                here.append(row | _joined(row, folder, *scored, plan_dir, kinds) if scored else row)
            elif shown_as(status, kinds) == SCORE and subjects[folder] not in measured:
                here.append({**_empty(), **_score(folder, status, plan_dir, kinds), "machine": hosts[folder]})
        failed = [
            {"step": s["step"], "folder": _name(f, plan_dir), "state": s["state"], "error": s["error"]}
            for f, s in of_cell
            if s["state"] != steps.DONE
        ]
        if failed and not here:
            here = [{**_empty(), "verdict": "FAILED", "machine": hosts[of_cell[0][0]]}]
        fitted = [read_result(f, s, kinds) for f, s in done if shown_as(s, kinds) == TRAINING]
        trained = {one.get("data", {}).get("sha256") for one in fitted}
        selected = {one.get("val", {}).get("sha256") for one in fitted if _selected(one)}
        for row in here:
            digest = (row["data"] or {}).get("sha256", "")
            known = {"trained_on_these": digest in trained, "chosen_by_these": digest in selected}
            rows.append({"task": task, "model": model, **row, **known, "failed": failed})
    rows.sort(key=lambda row: (row["task"], row["model"], row["batch_size"] or 0, row["bench_folder"] or ""))
    return machines.named(rows)


def _selected(trained: dict[str, Any]) -> bool:
    """Tell whether val had a say in which weights were kept: not for the end of training with one seed."""
    return trained.get("recipe", {}).get("select") != "last" or len(trained.get("seeds", ())) > 1


def _first_run(folder: Path) -> dict[str, Any]:
    """Return what run.json of a step's first run says of program and GPUs, and `folder`, its place; nothing without a run."""
    for path in sorted(folder.glob("runs/[0-9]*/run.json")):
        facts = foreign.read_json(path, folder, FIRST_RUN)
        return {name: facts.get(name) for name in ("argv", "image_digest", "gpu")} | {"folder": path.parent}
    return {}


def _subject(folder: Path, status: dict[str, Any], run: dict[str, Any]) -> Any:
    """Return what identifies an operating point: records, image or else weights, arguments with batch size; not its name."""
    if not run:
        return folder
    records, argv = read_workload(run["folder"])["source"].get("sha256"), run["argv"]
    image, weights = run["image_digest"], _weights(status)
    if weights and not image:
        argv = [Path(word).name for word in argv]  # each step may have weights in a folder of its own
    of_files = image or weights or frozenset(status["inputs"].values())  # of a script
    return records, of_files, tuple(argv)


def _weights(status: dict[str, Any]) -> str | None:
    """Return the digest of the weights that a step was given or made."""
    files = {Path(path).name: sha256 for path, sha256 in (status["outputs"] | status["inputs"]).items()}
    return next((files[name] for name in WEIGHTS_FILES if name in files), None)


def _joined(
    row: dict[str, Any], folder: Path, scored: Path, status: dict[str, Any], plan_dir: Path, kinds: Kinds
) -> dict[str, Any]:
    """Return what an eval makes of the row of a bench: its score, and INVALID where it answered the same records otherwise."""
    ours, theirs = (read_answers(read_run(run_folders(one)[0])) for one in (folder, scored))
    differ, compared = differing(ours, theirs)
    scored_as = _score(scored, status, plan_dir, kinds)
    if differ <= EVAL_SHARE * compared:
        return scored_as
    return scored_as | {"verdict": INVALID, "reasons": [*row["reasons"], Reason.EVAL_FLIPS]}


def _name(folder: Path, plan_dir: Path) -> str:
    return folder.relative_to(plan_dir).as_posix()


def _empty() -> dict[str, Any]:
    null = {"value": None, "reason": None}
    return {
        "verdict": None, "reasons": [], "disturbed_by": [], "measured": {}, "batch_size": None, "input_size": None,
        "repeats": None, "runner": None, "proven": None, "per_run": [], "data": None, "flips": None, "bench_folder": None, "eval_folder": None,
        "machine": None, "score": dict(null), **{name: dict(null) for name in ESTIMATES},
    }  # fmt: skip


def read_result(folder: Path, status: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    """Return the result that a step left; raises UsageError unless everything can be shown."""
    path, shown = folder / kinds[status["step"]].result, shown_as(status, kinds)
    result = foreign.read_json(path, folder, SHAPES.get(shown, ...))
    try:
        if shown in (POINT, SCORE):
            _check_values(result)
        return result
    except ValueError as error:
        raise UsageError(f"the result in {folder} is broken ({error})", remedy="run the step again") from None


def _check_values(result: dict[str, Any]) -> None:
    estimates = [result[name] for name in ("score", *ESTIMATES) if name in result]
    for code in (*result.get("reasons", ()), *(one["reason"] for one in estimates if one.get("reason"))):
        Reason(code)
    if result.get("verdict", VALID) not in EXIT_CODES:
        raise ValueError(f"verdict {result['verdict']!r:.40}")
    if any((one.get(part) or 0) < 0 for one in estimates[1:] for part in ("value", "low", "high")):
        raise ValueError("a measured number below 0")
    if result["score"]["value"] is not None and "majority" not in result["score"]:
        raise ValueError("a score without that of the most frequent answer")


def _point(folder: Path, status: dict[str, Any], plan_dir: Path, kinds: Kinds) -> dict[str, Any]:
    result = read_result(folder, status, kinds)
    row = {name: result.get(name, empty) for name, empty in _empty().items()}  # older results lack some
    row["measured"] = {name: result.get(name) for name in MEASURED}
    row["measured"] |= {"weights_sha256": _weights(status), "commit": status["code"]["commit"]}
    return row | {"bench_folder": _name(folder, plan_dir), "eval_folder": None}


def _score(folder: Path, status: dict[str, Any], plan_dir: Path, kinds: Kinds) -> dict[str, Any]:
    result = read_result(folder, status, kinds)
    return {name: result[name] for name in SCORED} | {"eval_folder": _name(folder, plan_dir)}


def origin_of(row: dict[str, Any]) -> str | None:
    """Return where a row's records come from: synthetic, files, or sample for part of an official split."""
    data = row["data"]
    return None if data is None else "sample" if data["sample"] else data["origin"]
