"""How fast a model is trained, by processes, what they exchange gradients by, and precision; each setting in processes of its own.

Steps are the kit's own training steps, as many in each setting and on the same rows; those before the clock starts are left out. What
this machine lacks is null with the reason. `python -m morocco_lib.training.speed JOB` is one process of one setting.
"""

import os
import resource
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from morocco_lib import fileio, foreign
from morocco_lib.config.model import ModelParams
from morocco_lib.config.notebooks import SpeedParams
from morocco_lib.options import PRECISIONS
from morocco_lib.tasks import get_task
from morocco_lib.training import distributed
from morocco_lib.training.fit import Plan, make_job, read_labelled

RESULT = "speed.json"
HOROVOD = "horovod"
TIMEOUT_S = 1800
VAL_RECORDS = 32  # answered after the clock has stopped


@dataclass(frozen=True)
class Setting:
    """One row. `backend`: gloo or nccl (torch's DistributedDataParallel), horovod, none for one process."""

    processes: int
    backend: str
    precision: str


SETTINGS = [
    *(Setting(1, "none", precision) for precision in PRECISIONS),
    *(Setting(2, backend, precision) for backend in ("gloo", "nccl") for precision in PRECISIONS),
    Setting(2, HOROVOD, "fp32"),
]


def lacking(setting: Setting, devices: int, bf16: bool) -> str | None:
    """Return why a setting cannot be measured with so many GPUs, None if it can.

    Args:
        bf16: The GPUs compute in bf16.
    """
    if setting.backend == HOROVOD:
        return (
            "Horovod is unmaintained and does not build for this torch; DDP, with one all-reduce an update, replaces it"
        )
    if setting.backend == "nccl" and not devices:
        return "NCCL needs GPUs, this machine shows none"
    if setting.precision == "fp16" and not devices:
        return "fp16 is trained on GPUs, this machine shows none"
    if devices and setting.precision == "bf16" and not bf16:
        return "this GPU does not compute in bf16"
    if devices and setting.processes > devices:
        return f"{setting.processes} processes need as many GPUs, this machine shows {devices}"
    return None


def compare(plan: Plan, p: SpeedParams, folder: Path) -> dict[str, Any]:
    """Measure all settings and write `speed.json` into a step folder.

    Returns:
        What `speed.json` holds: a row a setting, with `rows_per_s` (value, or null and reason) and the peak memory in bytes of each
        process: of its GPU, or where it has none its own.
    """
    devices = torch.cuda.device_count()
    bf16 = devices > 0 and torch.cuda.is_bf16_supported()
    rows = []
    for number, setting in enumerate(SETTINGS):
        reason = lacking(setting, devices, bf16)
        place = folder / "settings" / f"{number:02}"
        rows.append(asdict(setting) | (_unknown(reason) if reason else _measured(plan, p, setting, place)))
        print(f"{number + 1} of {len(SETTINGS)}: {rows[-1]}", flush=True)
    recipe = plan.model.recipe.of_task(get_task(plan.task).trained_on)
    result = {"schema": 1, "model": plan.model.name, "task": plan.task, "steps": p.steps, "warmup": p.warmup}
    result |= {"batch_size": recipe.batch_size, "accumulation": recipe.accumulation, "rows": rows}
    fileio.write_json(folder / RESULT, result)
    return result


def _unknown(reason: str) -> dict[str, Any]:
    return {"rows_per_s": {"value": None, "reason": reason}, "peak_bytes": [], "threads": None}


def _measured(plan: Plan, p: SpeedParams, setting: Setting, folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    files = {name: str(path) for name, path in plan.files.items()}
    job = {
        "model": plan.model.model_dump(),
        "task": plan.task,
        "files": files,
        "seed": plan.seeds[0],
        "root": str(plan.root),
    }
    job |= {"setting": asdict(setting), "steps": p.steps, "warmup": p.warmup, "folder": str(folder)}
    fileio.write_json(folder / "job.json", job)
    argv = [sys.executable, "-m"]
    if setting.processes > 1:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        argv += ["torch.distributed.run", "--nproc-per-node", setting.processes, "--master-addr", "127.0.0.1"]
        argv += ["--master-port", port, "-m"]
    argv += ["morocco_lib.training.speed", folder / "job.json"]
    threads = max((os.cpu_count() or 1) // setting.processes, 1)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run([*map(str, argv)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return _unknown(f"not done after {TIMEOUT_S} s")
    if done.returncode:
        (folder / "stderr.log").write_text(done.stderr)
        return _unknown(
            next((line for line in reversed(done.stderr.splitlines()) if "Error" in line), "it failed")[:200]
        )
    ranks = [fileio.read_json(folder / f"rank-{rank}.json") for rank in range(setting.processes)]
    value = ranks[0]["rows"] / max(rank["seconds"] for rank in ranks)
    return {
        "rows_per_s": {"value": value}, "peak_bytes": [rank["peak_bytes"] for rank in ranks], "threads": threads
    }  # fmt: skip


class Clock(TrainerCallback):
    """Runs from the end of the last warm-up step to the end of the last step."""

    def __init__(self, warmup: int, steps: int):
        self.warmup, self.steps, self.seconds = warmup, steps, 0.0

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step in (self.warmup, self.warmup + self.steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds


def work(job: dict[str, Any]) -> None:
    """Train for the warm-up and the steps of one setting, in one of its processes, and write what it took."""
    setting, folder = Setting(**job["setting"]), Path(job["folder"])
    model, task = ModelParams(**job["model"]), get_task(get_task(job["task"]).trained_on)
    updates = job["warmup"] + job["steps"]
    changes = {"precision": setting.precision, "eval_every": updates, "max_evals": 1, "epochs": 1e6}
    recipe = model.recipe.of_task(task.name).model_copy(update=changes | {"val_records": VAL_RECORDS})
    files = {name: Path(path) for name, path in job["files"].items()}
    plan = Plan(model.model_copy(update={"recipe": recipe}), job["task"], files, [job["seed"]], Path(job["root"]))
    train, val = (read_labelled(task, files[split]) for split in ("train", "val"))
    clock = Clock(job["warmup"], job["steps"])
    backend = setting.backend if setting.processes > 1 else None
    try:
        make_job(plan, train, val, folder / "work", callbacks=[clock], backend=backend).seed(job["seed"])
    finally:
        distributed.leave()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else peak
    found = {"seconds": clock.seconds, "rows": job["steps"] * recipe.batch_size, "peak_bytes": peak}
    fileio.write_json(folder / f"rank-{distributed.rank()}.json", found)


def table(result: dict[str, Any]):
    """Return a DataFrame of `compare`'s result: a row a setting, and how many times as fast as the first it is."""
    import pandas

    first = result["rows"][0]["rows_per_s"]["value"]
    return pandas.DataFrame(
        [
            {
                "processes": row["processes"],
                "backend": row["backend"],
                "precision": row["precision"],
                "rows/s": row["rows_per_s"]["value"],
                "times the first": row["rows_per_s"]["value"] and first and row["rows_per_s"]["value"] / first,
                "peak MiB a process": ", ".join(f"{peak / 2**20:.0f}" for peak in row["peak_bytes"]),
                "why not": row["rows_per_s"].get("reason", ""),
            }
            for row in result["rows"]
        ]
    )


if __name__ == "__main__":
    work(foreign.read_json(Path(sys.argv[1])))
