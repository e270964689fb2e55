"""runs/NN/ -> the facts, arrivals and samples of one run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from morocco_lib.errors import UsageError


@dataclass(frozen=True)
class Run:
    """One run as its folder tells it. Times are seconds since the start of the program."""

    folder: Path
    facts: dict[str, Any] = field(repr=False)  # run.json
    arrivals: list[tuple[float, int]] = field(repr=False)  # (time, lines that ended in this arrival)
    samples: list[dict[str, Any]] = field(repr=False)
    gpu_samples: list[dict[str, Any]] = field(default_factory=list, repr=False)  # a line a sample and device

    truncated: bool = field(default=False, repr=False)  # a file ends before what run.json says was written

    @property
    def ready_s(self) -> float | None:
        return self.facts["phases"]["ready_s"]

    @property
    def lines(self) -> int:
        return sum(n for _, n in self.arrivals)

    @property
    def total_s(self) -> float:
        """Seconds from start to end: of the container as its engine tells them, else of the program."""
        phases = self.facts["phases"]
        begin, end = phases.get("engine_start_s"), phases.get("engine_die_s")
        return end - begin if None not in (begin, end) else phases["exit_s"]

    def answered_bytes(self) -> list[int] | None:
        """Return the bytes of the record that each line answers; None where that cannot be told."""
        try:
            description = json.loads((self.folder / "workload.json").read_text(encoding="utf-8"))
            sizes, order = description["line_bytes"], description["order"]
            with (self.folder / "answers.jsonl").open("rb") as lines:
                return [sizes[order[int(json.loads(line)["idx"])]] for line in lines]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None


def read_run(folder: Path) -> Run:
    """Return a run from its folder; raises UsageError if a file is missing or broken before its last line."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        chunks, cut_chunks = _read_lines(folder / "chunks.jsonl")
        samples, cut_samples = _read_lines(folder / "samples.jsonl")
        has_gpu = isinstance(facts.get("gpu"), dict)
        gpu_samples, cut_gpu = _read_lines(folder / "gpu.jsonl") if has_gpu else ([], False)
        arrivals = [(chunk["t_ns"] / 1e9, chunk["lines"]) for chunk in chunks if chunk["lines"]]
        written = {sum(chunk["bytes"] for chunk in chunks), (folder / "answers.jsonl").stat().st_size}
        short = not facts["stdout_cut"] and (
            written != {facts["stdout_bytes"]} or sum(n for _, n in arrivals) != facts["lines"]
        )
        few = sum("mark" not in sample for sample in samples) < facts["sampler"]["samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None
    truncated = short or few or cut_chunks or cut_samples or cut_gpu
    return Run(folder, facts, arrivals, samples, gpu_samples, truncated)


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return (the objects of a JSONL file, whether it ends within one)."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = bool(lines) and not lines[-1].endswith("\n")
    return [json.loads(line) for line in (lines[:-1] if cut else lines)], cut


def run_folders(folder: Path) -> list[Path]:
    """Return the finished runs of a step folder, in order; raises UsageError if there is none."""
    folders = sorted(path.parent for path in (folder / "runs").glob("[0-9]*/run.json"))
    if not folders:
        raise UsageError(f"no finished run in {folder}", remedy="bench again")
    return folders
