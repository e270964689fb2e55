"""Step folders, and their runs, that agree with themselves as a measurement does: of a program that answers 500 records a second.

A forger's tools, too: what changes a file, and what lets others follow.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from run_folders import QUIET, sample, steady

from morocco_lib import data, fileio
from morocco_lib.analysis import summary
from morocco_lib.analysis.caching import PAIRS
from morocco_lib.artifacts import steps
from morocco_lib.benchmark.protocol import SINGLE_RECORD
from morocco_lib.data import workload
from morocco_lib.monitors.host import host_facts
from morocco_lib.monitors.periodic import PERIOD_S, steadiness
from morocco_lib.tasks import get_task

TERRA = get_task("terra")
BEGAN = datetime.now(UTC) - timedelta(hours=1)
BATCH, SIZE, RATE, READY_S, FED_S = 8, 400, 500.0, 0.4, 0.55
READY = b'morocco: {"event": "ready", "precision": "fp32"}\n'


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_run(
    stage: Path,
    source: Path,
    began_s: float,
    purpose: str,
    size=SIZE,
    *,
    batch=BATCH,
    rate=RATE,
    model="m",
    chance=None,
) -> float:
    """Write the next of `stage`/runs/NN, of a run that began then; returns when the next may begin.

    Args:
        rate: Records a second.
        chance: By which the rate is some other one, and each answer some microseconds late; without it all is exact.
    """
    rate *= chance.gauss(1, 0.003) if chance else 1.0
    records = TERRA.read(source)
    load = workload.in_order(TERRA, records) if purpose == "eval" else workload.build(TERRA, records, size, 1)
    number = 1 + len(list(stage.glob("runs/*")))
    folder = stage / f"runs/{number:02d}"
    folder.mkdir(parents=True)
    labels = [TERRA.labels[len(load.records[place]["hypothesis"]) % 2] for place in load.order]
    printed = [f"{json.dumps({'idx': k, 'label': label})}\n".encode() for k, label in enumerate(labels)]
    chunks, begin = [], 0
    for t_s, count in steady(len(load), batch, rate, FED_S):
        t_s += abs(chance.gauss(0, 2e-5)) if chance else 0.0
        block = b"".join(printed[begin : (begin := begin + count)])
        chunks.append({"t_ns": round(t_s * 1e9), "bytes": len(block), "lines": count})
    ends = [chunk["t_ns"] / 1e9 for chunk in (chunks[0], chunks[-1])]
    exit_s = ends[1] + 0.03
    times = [round(k * PERIOD_S * 1e9) + 1_000_000 for k in range(int(exit_s / PERIOD_S))]
    marks = {"ready": READY_S, "fed": FED_S - 0.002, "first_answer": ends[0], "last_answer": ends[1]}
    samples = [sample(10**7, cpu_s=0.5 * t_ns / 1e9, t_ns=t_ns) for t_ns in times]
    samples += [
        sample(10**7, cpu_s=0.5 * t_ns / 1e9, t_ns=t_ns, mark=mark)
        for mark, t_s in marks.items()
        for t_ns in [round(t_s * 1e9) + 1000]
    ]
    samples.sort(key=lambda one: one["t_ns"])
    stderr = b"loading\n" + READY
    described = {**load.describe(), "source": data.describe(source, TERRA, records)}
    facts = {
        **{"schema": 1, "purpose": purpose, "run": number, "task": "terra", "model": model, "runner": "process"},
        **{"argv": [model, "--batch-size", str(batch)], "image_digest": None, "settings": {"OMP_NUM_THREADS": "2", "cores": 2}, "batch_size": batch},
        "proven": {"memory": True, "isolation": False},
        "limits": {"timeout_s": 60.0, "memory_bytes": None, "pids": None, "cpus": None},
        "withheld": {"most_s": 9.0, "least_s": 0.0, "ready": True, "quiet_s": READY_S + 0.01},
        **{"records_fed": len(load), "bytes_fed": described["bytes"], "all_fed": True, "lines": len(load)},
        **{"stdout_bytes": sum(map(len, printed)), "stdout_cut": False, "stderr_bytes": len(stderr)},
        "exit": {
            **{"code": 0, "signal": None, "oom_killed": False, "timed_out": False, "left_pids": [], "pids_refused": 0},
            "disk_mounts": None,
        },
        "phases": {
            **{"start_s": 0.0, "engine_start_s": None, "first_write_s": FED_S, "first_read_s": FED_S + 0.001},
            **{"ready_s": READY_S, "stdin_closed_s": FED_S + 0.01, "first_answer_s": ends[0], "last_answer_s": ends[1]},
            **{"exit_s": exit_s, "engine_die_s": None},
        },
        "events": [{"event": "ready", "precision": "fp32", "t_ns": round(READY_S * 1e9)}],
        **{"cpu_s": 0.5 * exit_s, "cpu_source": "cgroup v2"},
        "memory": {
            **{"source": "cgroup v2", "cgroup_peak_bytes": 10**7, "cgroup_peak_source": "memory.peak"},
            **{"high_water_bytes": None, "counted": [], "outside_pids": []},
        },
        "ended_processes": [{"pid": 9, "t_ns": round(exit_s * 1e9) + 10_000_000, "signal": None, "code": None}],
        "sampler": {
            **{"source": "cgroup v2", "high_water_bytes": None, "cpu_s": 0.01},
            **steadiness(times, PERIOD_S, [0, *times, round(exit_s * 1e9) + 20_000_000]),
        },
        **{"others": {**QUIET, "cpu_s": 0.1 * (exit_s + 0.05), "cores": 0.1}, "gpu": "NO_GPU"},
        "clock": {"source": "CLOCK_MONOTONIC", "wall_moved_s": 0.0, "slept_s": 0.0},
        **{"started": at(began_s), "load_average_1min": 0.1, "host": host_facts()},
    }  # fmt: skip
    (folder / "answers.jsonl").write_bytes(b"".join(printed))
    (folder / "stderr.log").write_bytes(stderr)
    for name, lines in (("chunks.jsonl", chunks), ("samples.jsonl", samples)):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    fileio.write_json(folder / "workload.json", described)
    fileio.write_json(folder / "run.json", facts)
    return began_s + exit_s + 0.2


def reseal(folder: Path, **changes) -> None:
    """Write the status of a step as if its files had always been as they are."""
    status = steps.read_status(folder) | {"outputs": steps.digest_outputs(folder)} | changes
    fileio.write_json(folder / steps.STATUS, steps.seal(status))


def write_bench(
    folder: Path, source: Path, *, size=SIZE, few=64, repeats=3, ones=0, rate=RATE, model="m", chance=None, weights=None
) -> float:
    """Write a finished bench step that verifies; returns when the next step may begin.

    Args:
        few: Records of a pilot, and of a run that looks for a cache.
        repeats: Timed runs; one is a quick protocol.
        ones: Runs of one record.
        weights: A file model.json that the step read.
    """
    quick = repeats == 1
    asked = {"batch_size": BATCH, "input_size": size, "repeats": repeats, "seed": 1, "quick": False}
    parameters = {"command": model, **asked}
    inputs = {"records": source, **({"weights/model.json": weights} if weights else {})}
    step = steps.Step.begin(folder, "bench", model=model, task="terra", parameters=parameters, inputs=inputs)
    stages = [] if quick else [("short", BATCH, BATCH), ("withheld", BATCH, BATCH), ("pilot", few, BATCH)]
    stages += repeats * [("", size, BATCH)]
    stages += [] if quick else [(f"cached/{kind}", few, BATCH) for kind in ("unique", "repeated") for _ in range(PAIRS)]
    stages += ones * [(SINGLE_RECORD, 1, 1)]
    now_s = 1.0
    for stage, records, batch in stages:
        purpose = stage.rpartition("/")[2] or "bench"
        now_s = write_run(
            folder / stage, source, now_s, purpose, records, batch=batch, rate=rate, model=model, chance=chance
        )
    protocol = {"schema": 1, "asked": asked, "quick": quick, "took_s": now_s, "stopped_by": "repeats"}
    if not quick:
        conformance = {"ok": True, "when": "now", "failed": [], "warned": []}
        protocol |= {"conformance": conformance, "idle": QUIET, "cached": {"size": few, "seed": 5}}
    fileio.write_json(folder / summary.PROTOCOL, protocol)
    fileio.write_json(folder / summary.BENCH, summary.derive(folder))
    step.finish(steps.DONE, 0)
    reseal(folder, started=at(0), ended=at(now_s + 1))
    return now_s


# -- changed -------------------------------------------------------------------------------------------------------
def edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    fileio.write_json(path, value)


def edit_lines(path: Path, change: Callable[[list], object]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = change(lines) or lines
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def scaled(value, share: float, keep: tuple[str, ...] = (), name: str = ""):
    """Return a value with every time in it scaled: what ends in `_s`, or `t_ns`."""
    if isinstance(value, dict):
        return {n: v if n in keep else scaled(v, share, keep, n) for n, v in value.items()}
    if isinstance(value, list):
        return [scaled(v, share, keep, name) for v in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and (name.endswith("_s") or name == "t_ns"):
        return round(value * share) if name == "t_ns" else value * share
    return value


def follow(run: Path) -> None:
    """Let run.json say of streams and samples what their files hold."""
    times = [s["t_ns"] for s in map(json.loads, (run / "samples.jsonl").read_text().splitlines()) if "mark" not in s]
    chunks = [json.loads(line) for line in (run / "chunks.jsonl").read_text().splitlines()]

    def change(facts):
        period_s = facts["sampler"]["period_asked_s"]
        facts["sampler"].update(steadiness(times, period_s, [0, *times, round(facts["phases"]["exit_s"] * 1e9)]))
        ends = {"first_answer_s": chunks[0]["t_ns"] / 1e9, "last_answer_s": chunks[-1]["t_ns"] / 1e9}
        facts["phases"].update(ends, ready_s=facts["events"][0]["t_ns"] / 1e9)

    edit(run / "run.json", change)
