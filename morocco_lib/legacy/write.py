"""Our runs as logs of the original, so that its rules, and tools made for its logs, can be tried on an honest clock.

A line every 0.1 s from the start of the program (of a container, from when its engine started it), and one at its end.
docs/original-logs.md compares each key with the original's.

Limits: the format has no room for a verdict, so an INVALID run would count like any other: leave it out.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis.memory import held_bytes
from morocco_lib.analysis.run_files import Run, read_run
from morocco_lib.errors import UsageError
from morocco_lib.legacy.logs import KEYS

PERIOD_NS = 100_000_000


def write(runs: Sequence[Path], folder: Path) -> list[Path]:
    """Write a log of each run as <folder>/<model>/<task>/<input size>_<batch size>_<index>.jsonl and return their paths.

    Args:
        runs: Folders of finished runs. The original's rules need runs of one record (`1_1_01.jsonl`, fed and batched by
            one) and of many (`2000_32_01.jsonl`); the runs of a size are counted from 01 in the order they are given.
        folder: Made where there is none; may hold logs of other models and tasks, and of other sizes.
    Raises:
        UsageError: a log is there already (then none is written), or a run cannot be read.
        EnvironmentFailure: the folder cannot be written.
    """
    logs, counts = {}, Counter()
    for run in map(read_run, runs):
        facts = run.facts
        point = cell(folder, facts["model"], facts["task"]) / f"{facts['records_fed']}_{facts['batch_size']}"
        counts[point] += 1
        logs[point.with_name(f"{point.name}_{counts[point]:02d}.jsonl")] = run
    if existing := next(filter(Path.exists, logs), None):
        raise UsageError(
            f"{existing} exists already", rule="a result is never overwritten", remedy="give another folder"
        )
    with fileio.writing(folder):
        for path, run in logs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            fileio.write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines(run)))
    return list(logs)


def cell(folder: Path, model: str, task: str) -> Path:
    """Return the folder of the logs of a model on a task; raises UsageError if the model's name cannot be a folder's."""
    if model in ("", ".", "..") or "/" in model:
        raise UsageError(f"model {model!r} is not a folder name", rule="a log is <model>/<task>/...")
    return Path(folder) / model / task


def lines(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the samples of a log; see the module."""
    phases = run.facts["phases"]
    start_s = phases["engine_start_s"] if None not in (phases["engine_start_s"], phases["engine_die_s"]) else 0.0
    start_ns, long_ns = round(start_s * 1e9), round(run.total_s * 1e9)
    began_s = datetime.fromisoformat(run.facts["started"]).timestamp() + start_s
    last = -(-long_ns // PERIOD_NS)
    readings: list[dict[str, list[float]]] = [{key: [] for key in KEYS[1:]} for _ in range(last + 1)]

    def add(t_ns: int, **values: float | None) -> None:
        after_ns = t_ns - start_ns
        if 0 < after_ns <= long_ns:  # the GPU is read once more after the program has ended
            for key, value in values.items():
                readings[-(-after_ns // PERIOD_NS)][key] += [] if value is None else [value]

    for sample in run.samples:
        lived_s = (sample["t_ns"] - start_ns) / 1e9
        add(sample["t_ns"], ram=held_bytes(sample), cpu_usage=sample["cpu_s"] / lived_s if lived_s else None)
    for t_ns, gpu_ram, gpu_usage in _gpu(run):
        add(t_ns, gpu_ram=gpu_ram, gpu_usage=gpu_usage)
    for number, of_line in enumerate(readings):
        yield {
            "timestamp": began_s + min(number * PERIOD_NS, long_ns) / 1e9,
            "cpu_usage": of_line["cpu_usage"][-1] if of_line["cpu_usage"] else None,
            "ram": max(of_line["ram"], default=None),
            "gpu_usage": fmean(of_line["gpu_usage"]) if of_line["gpu_usage"] else None,
            "gpu_ram": max(of_line["gpu_ram"], default=None),
        }


def _gpu(run: Run) -> Iterator[tuple[int, float | None, float | None]]:
    """Yield (t_ns, bytes that the run holds on all GPUs, mean usage of these) of each moment it holds any."""
    if isinstance(run.facts["gpu"], str):
        return
    own, at_once = {str(pid) for pid in run.facts["gpu"]["pids"]}, {}
    for sample in run.gpu_samples:
        sizes = [size for pid, size in (sample["processes"] or {}).items() if pid in own]
        if sizes:
            at_once.setdefault(sample["t_ns"], []).append((sizes, sample.get("utilisation_share")))
    for t_ns, devices in at_once.items():
        sizes = [size for of_device, _ in devices for size in of_device]
        shares = [share for _, share in devices if share is not None]
        yield t_ns, None if None in sizes else sum(sizes), fmean(shares) if shares else None
