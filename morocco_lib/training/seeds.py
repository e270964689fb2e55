"""Trains one model with several seeds and keeps the best on val; what an interrupted attempt finished is not repeated.

While it works, `<step folder>.checkpoints/` beside the step folder holds the finished seeds and the running one's
checkpoints. It is removed at the end: then the best weights alone are on disk.
"""

import json
import math
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from morocco_lib import fileio
from morocco_lib.artifacts import steps
from morocco_lib.errors import InvalidResult
from morocco_lib.models import weights
from morocco_lib.models.majority import Majority
from morocco_lib.monitors.nvml import EnergyMeter
from morocco_lib.tasks.base import deciding_value
from morocco_lib.training import distributed, finetune

SEEDS, BEST, KEY = "seeds.json", "best", "key"
DONE, FAILED = "done", "failed"


def fit(
    job: finetune.Fit, seeds: list[int], folder: Path, *, name: str, key: str, trained_on: dict[str, Any]
) -> dict[str, Any]:
    """Train with every seed and write the best one's `weights/` into a step folder.

    Args:
        job: Its work folder is that of `heartbeat.work_folder`.
        name: The model's.
        key: Of everything but the seeds; what another training left beside the folder is set aside, not resumed from.
    Returns:
        For `train.json`: seed by seed, the chosen one, the spread, what all of them cost, warnings.
    Raises:
        InvalidResult: no seed was trained to its end; the first error is named.
    """
    first = distributed.rank() == 0
    work, say = job.work, job.say
    distributed.join()
    (known,) = broadcast_object_list([_resume(work, key, seeds, say) if first else None])
    for seed in seeds:
        if any(one["seed"] == seed and one["state"] == DONE for one in known):
            say(f"seed {seed}: done before")
            continue
        known = [one for one in known if one["seed"] != seed]
        meter = _Meter()
        try:
            fitted, facts = job.seed(seed)
        except InvalidResult as error:  # other errors are of no seed: what is finished is kept for another attempt
            known.append({"seed": seed, "state": FAILED, "score": None, "error": str(error), **meter.read()})
            say(f"seed {seed} failed: {error}")
        else:
            best = max((one["score"] for one in _done(known)), default=-math.inf)
            known.append({"seed": seed, "state": DONE, **facts, **meter.read()})
            say(f"seed {seed}: {facts['score']:.4f} on val after {facts['updates']} updates")
            PartialState().wait_for_everyone()  # all have read the best checkpoint
            if first and facts["score"] > best:
                for left in (work / BEST / f"{seed}", new := work / BEST / f"{seed}.new"):  # what a kill may have left
                    shutil.rmtree(left, ignore_errors=True)
                weights.save(fitted, job.task, new, name=name, trained_on=trained_on | {"seed": seed})
                new.rename(work / BEST / f"{seed}")
        if first:
            fileio.write_json(work / SEEDS, known)
            _remove_outdated(work, known)
    done, chosen = _done(known), _best(known)
    if not chosen:
        raise InvalidResult(f"no seed was trained to its end: {known[0]['error']}")
    if first:
        shutil.copytree(
            work / BEST / f"{chosen['seed']}", folder / "weights"
        )  # they stay in the work folder until all is done
        shutil.rmtree(work)
    return {
        "recipe": job.recipe.model_dump(exclude={"tasks"}),
        "val_records": len(job.val),
        "seeds": known,
        "chosen_seed": chosen["seed"],
        "val_score": chosen["score"],
        "val_scores": [min(one["score"] for one in done), max(one["score"] for one in done)],
        "truncated": chosen["truncated"],
        "sequences": chosen["sequences"],
        "processes": distributed.world(),
        "cost": _cost(known),
        "warnings": _warnings(job, known, chosen),
    }


def _resume(work: Path, key: str, seeds: list[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the entries of requested seeds that an interrupted attempt at the same training finished.

    What it cannot go on with is set aside: another training, or one whose best seed, the only one with weights, is not
    requested.
    """
    with suppress(OSError, ValueError):
        if (work / KEY).read_text() == key:
            known = json.loads((work / SEEDS).read_text()) if (work / SEEDS).exists() else []
            best = _best(known)
            if best is None or (best["seed"] in seeds and (work / BEST / f"{best['seed']}").is_dir()):
                return [one for one in known if one["seed"] in seeds]
    if aside := steps.retire(work):
        say(f"{work} is of another training (data, model, recipe or best seed); set aside as {aside.name}")
    work.mkdir(parents=True)
    (work / KEY).write_text(key)
    return []


def _remove_outdated(work: Path, known: list[dict[str, Any]]) -> None:
    """Remove the checkpoints of finished seeds, and all weights but the best."""
    best = _best(known)
    outdated = {work / f"seed-{one['seed']}" for one in _done(known)}
    outdated |= {folder for folder in (work / BEST).glob("*") if folder.name != f"{best['seed']}"}
    for folder in outdated:
        shutil.rmtree(folder, ignore_errors=True)


def _done(known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in known if one["state"] == DONE]


def _best(known: list[dict[str, Any]]) -> dict[str, Any] | None:
    return max(_done(known), key=lambda one: one["score"], default=None)


class _Meter:
    """What a seed costs: wall and CPU seconds, peak memory, energy of the GPUs."""

    def __init__(self) -> None:
        self.began, self.cpu_began, self.energy = time.monotonic(), time.process_time(), EnergyMeter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, Any]:
        gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
        return {
            "wall_s": time.monotonic() - self.began,
            "cpu_s": time.process_time() - self.cpu_began,
            "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "gpu_reserved_peak_bytes": gpu,
            "energy_j": self.energy.read(),
        }


def _cost(known: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all seeds cost together, failed ones included."""
    energies = [one["energy_j"]["value"] for one in known]
    energy = known[0]["energy_j"] if None in energies else {"value": sum(energies)}
    return {
        "seeds": len(known),
        "failed": sum(one["state"] == FAILED for one in known),
        "wall_s": sum(one["wall_s"] for one in known),
        "cpu_s": sum(one["cpu_s"] for one in known),
        "process_peak_bytes": max(one["process_peak_bytes"] for one in known),
        "gpu_reserved_peak_bytes": max(one["gpu_reserved_peak_bytes"] or 0 for one in known) or None,
        "energy_j": energy,
    }


def _warnings(job: finetune.Fit, known: list[dict], chosen: dict) -> list[str]:
    """Return what a reader must know of the score."""
    found, task, val = [], job.task, job.val
    scores = task.score([task.gold(record) for record in val], Majority.fit(task, val, 0).answer(val))
    floor = deciding_value(task, scores, job.recipe.choose_by)
    if chosen["score"] <= floor:
        found.append(f"{chosen['score']:.3f} on val is no better than always val's most frequent answer ({floor:.3f})")
    if failed := [one["seed"] for one in known if one["state"] == FAILED]:
        found.append(f"failed seeds: {', '.join(map(str, failed))}")
    if chosen["truncated"]:
        found.append(f"{chosen['truncated']} of {chosen['sequences']} sequences of the train split were truncated")
    if len(_done(known)) > 1:
        found.append("the seed was chosen by val: its score there is the best of several, and too optimistic")
    return found
