"""runs/NN/ -> the facts, arrivals and samples of one run; each file is parsed once."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from morocco_lib import foreign
from morocco_lib.data import workload
from morocco_lib.errors import UsageError

WORKLOAD = {
    "task": str, "size": int, "distinct": int, "seed": (int, None), "order": [int], "others?": ([int], None), "fed_bytes?": [int],
    "records": [dict], "gold": ([dict], None), "source": dict,
}  # fmt: skip
READY_EARLY_S = 0.1  # by so much a program may still be busy after its ready line


@dataclass(frozen=True)
class Run:
    """One run as its folder records it. Times are seconds since the start of the program.

    Args:
        facts: run.json.
        arrivals: (time, lines that ended in this arrival); an arrival that ends no line is left out.
        samples: samples.jsonl.
        gpu_samples: gpu.jsonl: a line a sample and device.
        chunks: chunks.jsonl.
        truncated: A file holds less than run.json says was written.
    """

    folder: Path
    facts: dict[str, Any] = field(repr=False)
    arrivals: list[tuple[float, int]] = field(repr=False)
    samples: list[dict[str, Any]] = field(repr=False)
    gpu_samples: list[dict[str, Any]] = field(default_factory=list, repr=False)
    truncated: bool = field(default=False, repr=False)
    chunks: list[dict[str, int]] = field(default_factory=list, repr=False)

    @property
    def ready_s(self) -> float | None:
        return self.facts["phases"]["ready_s"]

    @cached_property
    def lines(self) -> int:
        return sum(n for _, n in self.arrivals)

    @property
    def fed_s(self) -> float | None:
        """When the first byte was fed."""
        return self.facts["phases"].get("first_write_s")

    @property
    def settled_s(self) -> float | None:
        """When the start-up was over before anything was fed: by the ready line, or as the tree became quiet; else None."""
        ready_s, quiet_s = self.ready_s, (self.facts.get("withheld") or {}).get("quiet_s")
        if ready_s is None or ready_s > self.fed_s:
            return quiet_s
        return ready_s if quiet_s is None or quiet_s < ready_s + READY_EARLY_S else quiet_s

    @property
    def total_s(self) -> float:
        """Seconds from start to end: of the container by its engine's clock, else of the program."""
        phases = self.facts["phases"]
        begin, end = phases.get("engine_start_s"), phases.get("engine_die_s")
        return end - begin if None not in (begin, end) else phases["exit_s"]

    @cached_property
    def workload(self) -> dict[str, Any]:
        """workload.json; raises UsageError where it cannot be read."""
        return read_workload(self.folder)

    def answered_bytes(self) -> list[int] | None:
        """Return the bytes of the record that each line answers; None where that cannot be determined."""
        try:
            load = self.workload
            sizes = load.get("fed_bytes") or [load["line_bytes"][place] for place in load["order"]]  # of version 0.3
            with foreign.opened(self.folder / "answers.jsonl", within=self.folder) as lines:
                return [sizes[int(foreign.parse_object(line)["idx"])] for line in lines]
        except (OSError, ValueError, KeyError, TypeError, IndexError, UsageError):
            return None


def read_run(folder: Path) -> Run:
    """Return a run from its folder; raises UsageError if a file is missing or broken before its last line."""
    with readable(folder):
        facts = foreign.parse(foreign.read_bytes(folder / "run.json", within=folder))
        chunks, cut_chunks = _read_lines(folder / "chunks.jsonl")
        samples, cut_samples = _read_lines(folder / "samples.jsonl")
        has_gpu = isinstance(facts.get("gpu"), dict)
        gpu_samples, cut_gpu = _read_lines(folder / "gpu.jsonl") if has_gpu else ([], False)
        arrivals = [(chunk["t_ns"] / 1e9, chunk["lines"]) for chunk in chunks if chunk["lines"]]
        with foreign.opened(folder / "answers.jsonl", within=folder) as answers:
            written = {sum(chunk["bytes"] for chunk in chunks), os.fstat(answers.fileno()).st_size}
        whole = written == {facts["stdout_bytes"]} and sum(n for _, n in arrivals) == facts["lines"]
        few = sum("mark" not in sample for sample in samples) < facts["sampler"]["samples"]
        truncated = not (whole or facts["stdout_cut"]) or few or cut_chunks or cut_samples or cut_gpu
        return Run(folder, facts, arrivals, samples, gpu_samples, truncated, chunks)


def read_workload(folder: Path) -> dict[str, Any]:
    """Return a run's workload.json; raises UsageError where it cannot be read, or its parts do not belong together."""
    with readable(folder):
        raw = foreign.read_bytes(folder / "workload.json", within=folder)
        key = hashlib.sha256(raw).digest()
        if known := _workloads.get(key):
            return known
        found = _Workload(foreign.parse(raw))
        foreign.fits(found, WORKLOAD)
        places, gold = range(len(found["records"])), found["gold"]
        others = found.get("others") or []
        known = set(found["order"]) <= set(places) and set(others) <= {workload.TRUE, *places}
        if not known or not len(found["order"]) == found["size"] == len(others or found["order"]):
            raise ValueError("the order in workload.json is of other records")
        if gold is not None and len(gold) != len(places):
            raise ValueError("the labels in workload.json are of other records")
        _workloads[key] = found
        return found


class _Workload(dict):
    """A workload.json; while one run holds it, the others of the same content share it."""


_workloads: WeakValueDictionary[bytes, _Workload] = WeakValueDictionary()


def run_folders(folder: Path) -> list[Path]:
    """Return the finished runs of a step folder, in order; raises UsageError if there is none."""
    folders = sorted(path.parent for path in (folder / "runs").glob("[0-9]*/run.json"))
    if not folders:
        raise UsageError(f"no finished run in {folder}", remedy="bench again")
    return folders


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn whatever a missing or broken file of a run raises into a UsageError that names its folder."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"run in {folder} cannot be read ({error})", remedy="restore the folder or bench again"
        ) from None


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return (the objects of a JSONL file, whether its last line is incomplete)."""
    lines = foreign.read_bytes(path, within=path.parent).split(b"\n")
    return [foreign.parse_object(line) for line in lines[:-1]], bool(lines[-1])
