"""Our runs as logs of the original: what is in each line, and its formula gives the true speed."""

import json
import re
from contextlib import chdir
from datetime import datetime
from pathlib import Path

import pytest

import morocco_lib
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.legacy import logs, stats
from morocco_lib.legacy.corrected import Flag
from morocco_lib.legacy.write import write

ROOT = Path(morocco_lib.__file__).parents[1]
STARTED = "2026-01-02T03:04:05.250Z"
RATE, RECORDS, BATCH = 100, 2000, 32


def run(folder, records, batch_size, total_s, *, gpu=(), every_s=0.05, model="paced", **phases):
    """Write the folder of a finished run that computes on one core; `gpu` holds lines of gpu.jsonl."""
    folder.mkdir(parents=True)
    samples = [{"t_ns": int(k * every_s * 1e9)} for k in range(1, int(total_s / every_s))]
    for k, sample in enumerate(samples, start=1):
        sample |= {"anon_bytes": k * 1000, "shmem_bytes": 7, "cpu_s": k * every_s}
    facts = {
        "model": model, "task": "terra", "records_fed": records, "batch_size": batch_size, "started": STARTED,
        "phases": {"engine_start_s": None, "engine_die_s": None, "ready_s": 1.0, "exit_s": total_s} | phases,
        "gpu": {"pids": [5, 6]} if gpu else "NO_GPU", "stdout_bytes": 0, "stdout_cut": False, "lines": 0,
        "sampler": {"samples": len(samples)},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    for name, lines in (("samples", samples), ("gpu", gpu), ("chunks", ()), ("answers", ())):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def gpu_line(t_s, device=0, **processes):
    sizes = {pid.removeprefix("p"): size for pid, size in processes.items()}
    return {"t_ns": int(t_s * 1e9), "gpu": device, "processes": sizes, "utilisation_share": 0.25 + 0.5 * device}


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_log_is_where_the_original_looks_for_it(tmp_path):
    runs = [
        run(tmp_path / f"runs/{size}-{k}", size, batch, 1.0) for size, batch in ((1, 1), (2000, 32)) for k in (1, 2)
    ]
    paths = write(runs, tmp_path / "logs")
    names = ["1_1_01.jsonl", "1_1_02.jsonl", "2000_32_01.jsonl", "2000_32_02.jsonl"]
    assert [str(path.relative_to(tmp_path)) for path in paths] == [f"logs/paced/terra/{name}" for name in names]
    assert sorted((tmp_path / "logs").rglob("*.*")) == paths


def test_a_log_begins_and_ends_with_the_program(tmp_path):
    (path,) = write([run(tmp_path / "01", 1, 1, 0.73)], tmp_path / "logs")
    rows = rows_of(path)
    assert {tuple(row) for row in rows} == {logs.KEYS}
    began_s = datetime.fromisoformat(STARTED).timestamp()
    assert [row["timestamp"] - began_s for row in rows] == pytest.approx([*(k / 10 for k in range(8)), 0.73], abs=1e-6)


def test_a_containers_log_begins_and_ends_with_its_engines_events(tmp_path):
    source = run(tmp_path / "01", 1, 1, 1.0, engine_start_s=0.25, engine_die_s=0.875)
    rows = rows_of(*write([source], tmp_path / "logs"))
    assert rows[0]["timestamp"] == datetime.fromisoformat(STARTED).timestamp() + 0.25
    assert rows[-1]["timestamp"] - rows[0]["timestamp"] == pytest.approx(0.625, abs=1e-6)
    assert rows[1]["cpu_usage"] == pytest.approx(0.35 / 0.1)  # over the life of the program, not of our clock


def test_memory_is_the_largest_and_cpu_the_last_reading_since_the_line_before(tmp_path):
    rows = rows_of(*write([run(tmp_path / "01", 1, 1, 0.4)], tmp_path / "logs"))  # samples at 0.05, 0.1 ... 0.35
    assert [row["ram"] for row in rows] == [None, 2007, 4007, 6007, 7007]
    assert [row["cpu_usage"] for row in rows] == [None, *[pytest.approx(1)] * 4]
    assert all(row["gpu_usage"] is row["gpu_ram"] is None for row in rows)


def test_what_was_not_read_is_null_and_never_0(tmp_path):
    rows = rows_of(*write([run(tmp_path / "01", 1, 1, 0.4, every_s=0.4)], tmp_path / "logs"))
    assert all(row[key] is None for row in rows for key in logs.KEYS[1:]) and len(rows) == 5


def test_gpu_memory_is_that_of_the_runs_processes_on_all_gpus(tmp_path):
    gpu = [
        gpu_line(0.05, p9=500),  # another's
        gpu_line(0.15, p5=100, p9=500), gpu_line(0.15, 1, p6=30),
        gpu_line(0.18, p5=90),
        gpu_line(0.25, p5=None),  # held, but how much is not known
        gpu_line(0.55, p5=800),  # after the end
    ]  # fmt: skip
    rows = rows_of(*write([run(tmp_path / "01", 1, 1, 0.4, gpu=gpu)], tmp_path / "logs"))
    assert [row["gpu_ram"] for row in rows] == [None, None, 130, None, None]
    assert [row["gpu_usage"] for row in rows] == [None, None, pytest.approx((0.5 + 0.25) / 2), 0.25, None]


def test_the_example_of_the_documentation_works(tmp_path):
    run(tmp_path / "single/runs/01", 1, 1, 0.5)
    run(tmp_path / "measured/runs/01", 2000, 32, 1.0)
    page = (ROOT / "docs/original-logs.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    with chdir(tmp_path):
        exec(example)
    assert {path.name for path in (tmp_path / "logs/paced/terra").iterdir()} == {"1_1_01.jsonl", "2000_32_01.jsonl"}


# -- what the rules make of it -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("on_gpu", "flags", "gib"), [(True, set(), 1.0), (False, {Flag.BLIND}, 0)])
def test_the_originals_formula_gives_the_true_speed(tmp_path, point_of, members_of, on_gpu, flags, gib):
    runs = []
    for size, batch, total_s in ((1, 1, 3.0), (RECORDS, BATCH, 3.0 + RECORDS / RATE)):
        for k in range(3):
            held = [gpu_line(0.05 * n, p5=2**30) for n in range(20, int(total_s / 0.05))] if on_gpu else ()
            runs.append(run(tmp_path / f"{size}-{k}", size, batch, total_s + k / 100, gpu=held))
    write(runs, tmp_path / "logs")
    found = stats.original(members_of(tmp_path / "logs"), "command")
    assert (found.rps, found.gpu_ram) == (pytest.approx(RATE, rel=1e-6), gib)
    point = point_of(tmp_path / "logs")
    assert {finding.flag for finding in point.findings} == flags
    assert point.per_s == (pytest.approx(RATE, rel=0.001) if on_gpu else None)


# -- what is refused -----------------------------------------------------------------------------------------------
def test_an_existing_log_is_never_overwritten_and_then_none_is_written(tmp_path):
    runs = [run(tmp_path / f"runs/{size}", size, 1, 1.0) for size in (1, 5)]
    (existing,) = write(runs[1:], tmp_path / "logs")
    existing.write_text("kept")
    with pytest.raises(UsageError, match=r"5_1_01\.jsonl exists already; a result is never overwritten"):
        write(runs, tmp_path / "logs")
    assert list((tmp_path / "logs").rglob("*.jsonl")) == [existing] and existing.read_text() == "kept"
    assert len(write(runs[:1], tmp_path / "logs")) == 1  # there is room beside those of another size


def test_a_model_whose_name_is_not_a_folder_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not a folder name"):
        write([run(tmp_path / "01", 1, 1, 1.0, model="..")], tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_a_folder_that_cannot_be_made_and_a_run_that_is_none_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match=r"cannot write .*file"):
        write([run(tmp_path / "01", 1, 1, 1.0)], tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be read"):
        write([tmp_path], tmp_path / "logs")
