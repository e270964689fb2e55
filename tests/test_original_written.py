"""Our runs as logs of the original: read by a reader as strict as its own, and its formula gives the true speed."""

import itertools
import json
import re
import shutil
from contextlib import chdir
from datetime import datetime
from statistics import median

import pytest
from conftest import ROOT
from servers import PYTHON, runner, server
from test_bench import write_records

from morocco_lib.analysis import estimate
from morocco_lib.analysis.gpu import gpu_ram_bytes
from morocco_lib.benchmark import protocol
from morocco_lib.data import workload
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.legacy import corrected, logs, stats
from morocco_lib.legacy.corrected import Flag
from morocco_lib.legacy.write import PERIOD_NS, write
from morocco_lib.monitors import nvml
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

RATE, RECORDS, BATCH = 1000, 2000, 32
KEYS = ["timestamp", "cpu_usage", "ram", "gpu_usage", "gpu_ram"]
PERIOD_S = PERIOD_NS / 1e9


def run(folder, argv, records, batch_size, repeats, model="paced"):
    """The folders of finished runs, made as `morocco bench` makes them."""
    folder.mkdir()
    task, source = get_task("terra"), write_records(folder / "val.jsonl", 40)
    load = workload.build(task, task.read(source), records, 1)
    return protocol.measure(
        protocol.Program(argv, model), load, source, runner(False), Limits(timeout_s=60), folder,
        batch_size=batch_size, repeats=repeats,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Runs of a server of known speed that uses no GPU: three of one record, three of many."""
    folder, argv = tmp_path_factory.mktemp("measured"), server("paced", "--rate", RATE, "--init", 0.3)
    return run(folder / "ones", argv, 1, 1, 3), run(folder / "longer", argv, RECORDS, BATCH, 3)


@pytest.fixture(scope="module")
def written(measured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "logs"
    ones, longer = measured
    return folder, write([*ones, *longer], folder)


def rows_of(path):
    """What the original's reader makes of a log: five keys in any order and no other, a number or null each."""
    assert re.match(r"(\d+)_(\d+)_(\d+)\.jsonl", path.name)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        assert sorted(row) == sorted(KEYS) and type(row["timestamp"]) is float
        assert all(type(value) in (float, int, type(None)) for value in row.values())
    return rows


def facts_of(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def totals(folders):
    return [facts_of(folder)["phases"]["exit_s"] for folder in folders]


# -- what is written -----------------------------------------------------------------------------------------------
def test_a_log_lies_where_the_original_looks_for_it(written):
    folder, paths = written
    names = [f"{point}_{index:02d}.jsonl" for point in ("1_1", f"{RECORDS}_{BATCH}") for index in (1, 2, 3)]
    assert [path.relative_to(folder).as_posix() for path in paths] == [f"paced/terra/{name}" for name in names]
    assert sorted(folder.rglob("*.*")) == sorted(paths)  # nothing beside them


def test_a_log_begins_with_the_program_and_ends_with_it(measured, written):
    for source, path in zip([*measured[0], *measured[1]], written[1], strict=True):
        facts, rows = facts_of(source), rows_of(path)
        assert [list(row) for row in rows] == [KEYS] * len(rows)
        stamps = [row["timestamp"] for row in rows]
        assert stamps[0] == datetime.fromisoformat(facts["started"]).timestamp()
        assert stamps[-1] - stamps[0] == pytest.approx(facts["phases"]["exit_s"], abs=1e-6)
        steps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
        assert steps[:-1] == pytest.approx([PERIOD_S] * (len(steps) - 1), abs=1e-6) and 0 < steps[-1] < PERIOD_S + 1e-6


def test_memory_and_cpu_are_those_of_the_samples(measured, written):
    for source, path in zip([*measured[0], *measured[1]], written[1], strict=True):
        facts, rows = facts_of(source), rows_of(path)
        samples = estimate.read_run(source).samples
        largest = max(s["anon_bytes"] + s["shmem_bytes"] for s in samples)
        assert max(row["ram"] for row in rows if row["ram"] is not None) == largest > 10**6
        lived = [(row["timestamp"] - rows[0]["timestamp"], row["cpu_usage"]) for row in rows]
        used = [share * seconds for seconds, share in lived if share is not None]
        assert used[-1] == pytest.approx(samples[-1]["cpu_s"], rel=0.3) and 0 < used[-1] <= 1.3 * facts["cpu_s"]
        assert sum(row["ram"] is None for row in rows) < len(rows) / 2


def test_what_was_not_read_is_null_and_never_0(measured, tmp_path):
    (source, *_), _ = measured
    facts = facts_of(source)
    for ours in (rows_of(path) for path in write([source], tmp_path)):
        assert facts["gpu"] != {} and all(row["gpu_usage"] is row["gpu_ram"] is None for row in ours)
        assert ours[0]["ram"] is None or ours[0]["ram"] > 0  # nothing is known of the program before it is there
    (source / "samples.jsonl").rename(tmp_path / "kept")
    try:
        (source / "samples.jsonl").write_text("")
        (path,) = write([source], tmp_path / "blind")
        rows = rows_of(path)
        assert all(row[key] is None for row in rows for key in KEYS[1:])
        assert rows[-1]["timestamp"] - rows[0]["timestamp"] == pytest.approx(facts["phases"]["exit_s"], abs=1e-6)
    finally:
        (tmp_path / "kept").rename(source / "samples.jsonl")


def test_a_containers_log_begins_and_ends_when_its_engine_says(measured, tmp_path):
    source = shutil.copytree(measured[1][0], tmp_path / "01")
    facts = facts_of(source)
    total_s = facts["phases"]["exit_s"]
    facts["phases"] |= {"engine_start_s": 0.25, "engine_die_s": total_s - 0.125}
    (source / "run.json").write_text(json.dumps(facts))
    (path,) = write([source], tmp_path / "logs")
    rows = rows_of(path)
    assert rows[0]["timestamp"] == datetime.fromisoformat(facts["started"]).timestamp() + 0.25
    assert rows[-1]["timestamp"] - rows[0]["timestamp"] == pytest.approx(total_s - 0.375, abs=1e-6)
    cpu_s = [(row["timestamp"] - rows[0]["timestamp"]) * row["cpu_usage"] for row in rows if row["cpu_usage"]]
    assert cpu_s[-1] == pytest.approx(facts["cpu_s"], rel=0.3)  # over the life of the program, not of our clock


def test_the_example_of_the_documentation_works(measured, tmp_path):
    for name, runs in zip(("ones", "measured"), measured, strict=True):
        (tmp_path / name).symlink_to(runs[0].parents[1])
    (cell,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/original-logs.md").read_text(encoding="utf-8"), re.M | re.S
    )
    with chdir(tmp_path):
        exec(cell)
    assert (tmp_path / f"logs/paced/terra/{RECORDS}_{BATCH}_03.jsonl").exists()
    assert len(list((tmp_path / "logs").rglob("1_1_*.jsonl"))) == 3


# -- what the original's rules make of it --------------------------------------------------------------------------
@pytest.mark.parametrize("rule", stats.RULES)
def test_the_originals_formula_on_honest_total_times_gives_the_true_speed(main, measured, written, rule):
    done = main("stats", written[0], "--original", "--rule", rule)
    found = json.loads(done.stdout)
    ones, longer = map(totals, measured)
    if rule == "table":
        expected = RECORDS / median(total - median(ones) for total in longer)
    else:
        expected = median(RECORDS / (total - median(ones)) for total in longer)
    assert (done.returncode, found["task"]) == (0, "terra") and found["rps"] == pytest.approx(expected, rel=1e-6)
    assert found["rps"] == pytest.approx(RATE, rel=0.04)
    assert found["gpu_ram"] == (0 if rule == "command" else None)  # the two ways the original takes "never seen"


def test_without_a_gpu_there_is_nothing_to_align_and_the_reason_is_told(main, written):
    found = json.loads(main("stats", written[0], "--json").stdout)
    assert found["speed_per_s"] == {"value": None, "reason": "NO_RUN_LEFT"}
    assert [flag["flag"] for flag in found["flags"]] == [Flag.BLIND] * 6
    assert found["original_per_s"] == pytest.approx(RATE, rel=0.04)


# -- GPU -----------------------------------------------------------------------------------------------------------
ONSET_S = 0.4  # after the program has told its pids


@pytest.fixture
def on_gpu(tmp_path, monkeypatch):
    """Two one-record and two longer runs of a program that takes hold of a made-up GPU in the middle of its start-up."""
    made_up = pytest.importorskip("servers.gpus")

    class Late(made_up.Replay):
        def compute(self, n):
            return super().compute(n) if self.age > ONSET_S else {}

    def measure(name, records, batch_size):
        found = []
        for number in range(2):
            pids = tmp_path / f"{name}-{number}.pids"
            monkeypatch.setattr(nvml, "load", lambda pids=pids: Late(pids).library)
            argv = [*PYTHON, "-c", made_up.PARENT, str(pids), *server("paced", "--rate", 500, "--init", 0.8)]
            found += run(tmp_path / f"{name}-{number}", argv, records, batch_size, 1, "on-gpu")
        return found

    return measure("ones", 1, 1), measure("longer", 1000, 8)


def test_a_gpu_is_seen_from_the_moment_it_is_held_and_no_peak_is_lost(on_gpu, tmp_path):
    ones, longer = on_gpu
    paths = write([*ones, *longer], tmp_path / "logs")
    for source, path in zip([*ones, *longer], paths, strict=True):
        read, rows = estimate.read_run(source), rows_of(path)
        ours = {str(pid) for pid in read.facts["gpu"]["pids"]}
        onset_s = next(s["t_ns"] for s in read.gpu_samples if ours & (s["processes"] or {}).keys()) / 1e9
        seen = [row for row in rows if row["gpu_ram"] is not None]
        assert 0 <= seen[0]["timestamp"] - rows[0]["timestamp"] - onset_s <= PERIOD_S + 1e-6
        assert onset_s >= ONSET_S and rows.index(seen[0]) >= ONSET_S / PERIOD_S
        assert max(row["gpu_ram"] for row in seen) == gpu_ram_bytes(read)
        usage = [row["gpu_usage"] for row in rows if row["gpu_usage"] is not None]
        assert usage == pytest.approx([0.35] * len(usage)) and len(usage) > len(seen) / 2
        assert all(row["gpu_usage"] is None for row in rows[: rows.index(seen[0])])


def test_corrected_and_the_originals_speed_agree_where_no_start_up_is_lost(on_gpu, tmp_path):
    ones, longer = on_gpu
    write([*ones, *longer], tmp_path / "logs")
    ((cell, members),) = logs.by_cell(logs.read_all([tmp_path / "logs"])).items()
    (point,) = corrected.corrected(*cell, members)
    assert cell == ("on-gpu", "terra") and point.findings == ()
    assert point.per_s == pytest.approx(500, rel=0.06) and point.original_per_s == pytest.approx(500, rel=0.04)
    assert abs(point.onset_shift_s) <= 2 * PERIOD_S


# -- what is refused -----------------------------------------------------------------------------------------------
def test_a_log_that_is_there_is_never_overwritten_and_then_none_is_written(measured, tmp_path):
    ones, longer = measured
    write(longer[:1], tmp_path)
    (there,) = tmp_path.rglob("*.jsonl")
    before = there.read_bytes()
    with pytest.raises(UsageError, match=rf"{RECORDS}_{BATCH}_01\.jsonl is there already; a result is never overwrit"):
        write([*ones, *longer], tmp_path)
    assert list(tmp_path.rglob("*.jsonl")) == [there] and there.read_bytes() == before
    assert len(write(ones, tmp_path)) == 3  # beside those of another size there is room


@pytest.mark.parametrize("model", ["", "..", "a/b", "/"])
def test_a_model_whose_name_is_no_folders_is_refused(measured, tmp_path, model):
    facts = facts_of(measured[0][0])
    source = shutil.copytree(measured[0][0], tmp_path / "01")
    (source / "run.json").write_text(json.dumps(facts | {"model": model}))
    with pytest.raises(UsageError, match="is no name of a folder"):
        write([source], tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_a_folder_that_cannot_be_made_and_a_run_that_is_none_are_refused(measured, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match=r"cannot write .*file"):
        write(measured[0], tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be read"):
        write([tmp_path], tmp_path / "logs")
