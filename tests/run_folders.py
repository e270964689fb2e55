"""Run folders written from a few numbers, as `morocco bench` would leave them: what the analysis is tested on."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.analysis import summary
from morocco_lib.analysis.run_files import Run
from morocco_lib.artifacts import steps
from morocco_lib.data import workload
from morocco_lib.tasks import get_task

TERRA = get_task("terra")
YES, NO = TERRA.labels
RATE, INIT_S = 500.0, 1.0  # records a second, seconds
DISTINCT = 20
RECORDS = [  # idx far from 0, so that a mix-up shows; every fourth is not what `write_run` answers
    {"premise": "x" * 40, "hypothesis": f"Запись {k}", "label": NO if k % 4 == 0 else YES, "idx": 700 + k}
    for k in range(DISTINCT)
]
QUIET = {"cpu_s": 0.0, "cores": 0.0, "of_cores": 2, "idle_share": 0.5, "steal_share": 0.0, "top": []}


def steady(records: int, batch: int, rate: float = RATE, begin_s: float = INIT_S) -> list[tuple[float, int]]:
    """Return the arrivals of a program that flushes every batch."""
    ends = [min(end, records) for end in range(batch, records + batch, batch)]
    begins = [0, *ends[:-1]]
    return [(begin_s + end / rate, end - begin) for begin, end in zip(begins, ends, strict=True)]


def at_once(records: int, seconds: float) -> list[tuple[float, int]]:
    """Return the one arrival of a program that prints all answers at its end."""
    return [(seconds, records)]


def burst(records: int, arrivals: int, ms: float = 1.0, rate: float = RATE) -> list[tuple[float, int]]:
    """Return the arrivals of a program that prints all answers at the end, within so many milliseconds."""
    return [(INIT_S + records / rate + i * ms / arrivals / 1000, records // arrivals) for i in range(arrivals)]


def sample(anon=0, shmem=0, file=0, kernel=0, cpu_s=0.0, **more) -> dict:
    return {"anon_bytes": anon, "shmem_bytes": shmem, "file_bytes": file, "kernel_bytes": kernel, "cpu_s": cpu_s} | more


def facts_of(arrivals, *, ready_s=INIT_S, fed_s=INIT_S, quiet_s=None, exit_s=None, **changed) -> dict[str, Any]:
    """Return run.json of an honest run; a dict in `changed` changes keys of a fact, anything else replaces it."""
    last_s = arrivals[-1][0] if arrivals else INIT_S
    lines = sum(n for _, n in arrivals)
    facts = {
        **{
            "schema": 1,
            "task": "terra",
            "model": "m",
            "runner": "process",
            "image_digest": None,
            "batch_size": 8,
            "argv": ["m"],
        },
        **{"records_fed": lines, "bytes_fed": 100 * lines, "all_fed": True, "lines": lines, "stdout_cut": False},
        **{"events": [], "ended_processes": [], "cpu_s": 1.0, "gpu": "NO_GPU", "others": QUIET},
        "exit": {
            "code": 0,
            "signal": None,
            "oom_killed": False,
            "timed_out": False,
            "left_pids": [],
            "pids_refused": 0,
        },
        "withheld": {"most_s": 9.0, "least_s": 0.0, "ready": True, "quiet_s": quiet_s},
        "phases": {
            **{"first_write_s": fed_s, "ready_s": ready_s, "last_answer_s": last_s},
            "exit_s": exit_s or last_s + 0.05,
        },
        "memory": {
            **{"source": "cgroup v2", "cgroup_peak_bytes": 5000, "cgroup_peak_source": "memory.peak"},
            "high_water_bytes": None,
        },
        "sampler": {"samples": 1, "longest_gap_s": 0.02, "gaps_s": 0.0, "watched_s": 1.0},
        "clock": {"wall_moved_s": 0.0, "slept_s": 0.0},
    }
    for name, value in changed.items():
        facts[name] = facts[name] | value if isinstance(value, dict) and isinstance(facts.get(name), dict) else value
    return facts


def run_of(arrivals, *, ready_s=None, samples=(), gpu_samples=(), folder=None, **changed) -> Run:
    """Return a run that no folder holds; without a ready line unless it is given one."""
    facts = facts_of(arrivals, ready_s=ready_s, **changed)
    return Run(folder, facts, list(arrivals), list(samples), list(gpu_samples))


@cache
def _described(size: int) -> dict:
    return workload.build(TERRA, RECORDS, size, 1).describe()


def write_run(folder: Path, arrivals=None, *, load=None, answers=None, samples=None, **changed) -> Path:
    """Write runs/NN into a folder and return it.

    Args:
        arrivals: (seconds, lines) of stdout; 40 records in batches of 4 if left out.
        load: What was fed; if left out, all of RECORDS and what is recombined from them.
        answers: The lines of stdout; if left out, YES to every record, of which every fourth is NO.
        samples: samples.jsonl.
        changed: Facts, as of `facts_of`.
    """
    arrivals = steady(40, 4) if arrivals is None else arrivals
    size = changed.get("records_fed", sum(n for _, n in arrivals))
    path = folder / "runs" / f"{1 + len(list((folder / 'runs').glob('*'))):02d}"
    path.mkdir(parents=True)
    lines = [json.dumps({"idx": k, "label": YES}) for k in range(size)] if answers is None else answers
    printed = [f"{line}\n".encode() for line in lines]
    chunks, begin = [], 0
    for t_s, count in arrivals:
        block = b"".join(printed[begin : begin + count])
        chunks.append({"t_ns": round(t_s * 1e9), "bytes": len(block), "lines": count})
        begin += count
    if samples is None:
        marks = {"ready": 0.5, "first_answer": 0.6, "last_answer": 1.6}
        samples = [sample(1000), *(sample(900, cpu_s=cpu_s, mark=mark) for mark, cpu_s in marks.items())]
    facts = facts_of(arrivals, **{"stdout_bytes": sum(map(len, printed)), **changed})
    files = {
        "run.json": json.dumps(facts),
        "workload.json": json.dumps(
            {**(load.describe() if load else _described(size)), "source": {"path": "val.jsonl"}}
        ),
        "chunks.jsonl": "".join(json.dumps(chunk) + "\n" for chunk in chunks),
        "samples.jsonl": "".join(json.dumps(s) + "\n" for s in samples),
    }
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    (path / "answers.jsonl").write_bytes(b"".join(printed))
    return path


def derived(folder: Path, *runs: dict, protocol=None, **stages) -> dict:
    """Write the timed runs, those of other stages (`short`, `cold`) and protocol.json; return what bench.json would hold."""
    for stage, of_stage in {".": runs, **stages}.items():
        for options in of_stage:
            write_run(folder / stage, **options)
    (folder / summary.PROTOCOL).write_text(json.dumps({"schema": 1, **(protocol or {})}))
    return json.loads(json.dumps(summary.derive(folder)))


def cycled(size: int) -> workload.Workload:
    """Return RECORDS fed again and again, as of a task that cannot recombine them."""
    return workload.Workload(TERRA, RECORDS, tuple(k % DISTINCT for k in range(size)), 1)


def answers_of(size: int, labels: dict[int, str] | None = None) -> list[str]:
    """Return the lines that answer YES to every record but those named by their position in the stream."""
    return [json.dumps({"idx": k, "label": (labels or {}).get(k, YES)}) for k in range(size)]


def bench_step(folder: Path, model: str = "m", edit=lambda folder: None, **options) -> Path:
    """Write a finished bench step as somebody else may have made it, of one run; `options` are of `write_run`."""
    parameters = {"batch_size": 8, "command": "m"}
    step = steps.Step.begin(folder, "bench", model=model, task="terra", parameters=parameters, inputs={})
    samples = [sample(1000, t_ns=t_ns) for t_ns in (0, 10**9)]
    result = derived(folder, {"samples": samples, "model": model, **options})
    result["data"] |= {"sha256": "0" * 64, "origin": "files", "records": 20, "official_records": 307, "sample": True}
    fileio.write_json(folder / summary.BENCH, result)
    (folder / "notebook.html").write_text(f"<html><body>\n<p>{model} ran</p>\n</body></html>")
    edit(folder)
    step.finish(steps.DONE, 0)
    return folder
