"""`morocco bench` from outside: programs of known behaviour in, verdicts and numbers out, everything kept."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from servers import PYTHON, ROOT, is_alive, runner, server

from morocco_lib.benchmark import protocol
from morocco_lib.benchmark import run as measure
from morocco_lib.data import workload
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task

LABELS = ("entailment", "not_entailment")
READINGS = [
    "speed_per_s",
    "init_s",
    "ram_bytes",
    "ram_cgroup_peak_bytes",
    "gpu_ram_bytes",
    "cpu_s_per_record",
    "energy_j_per_record",
    "bytes_per_s",
    "cold_init_s",
    "score",
]
KEYS = [
    *(
        "schema",
        "task",
        "model",
        "runner",
        "image_digest",
        "input_size",
        "batch_size",
        "repeats",
        "precision",
        "backend",
        "device",
    ),
    *("verdict", "reasons", "data", "input", "flips", "kept_answers", "protocol", "runs", "per_run"),
    *READINGS,
]
RUN_FILES = {"run.json", "workload.json", "answers.jsonl", "chunks.jsonl", "samples.jsonl", "stderr.log"}
FAST = ("--rate", 5000)
FIRST_IDX = 70_000  # far from the fresh idx, so that a mix-up shows


def write_records(path: Path, n: int, *, labelled=True, premise_chars=460) -> Path:
    """Write TERRa records of about 560 bytes; every fourth label differs from what `paced.py` answers."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            hypothesis = f"Запись номер {i}" + "!" * (i % 3)
            label = LABELS[(len(hypothesis) + (i % 4 == 0)) % 2]
            record = {"premise": f"{i} " + "x" * premise_chars, "hypothesis": hypothesis, "label": label}
            if not labelled:
                del record["label"]
            file.write(json.dumps({**record, "idx": FIRST_IDX + i}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> Path:
    """40 labelled records."""
    return write_records(tmp_path_factory.mktemp("records") / "val.jsonl", 40)


class Benched:
    """What one `morocco bench --json` printed, wrote and returned."""

    def __init__(self, done: subprocess.CompletedProcess, out: Path):
        self.code, self.talk, self.out = done.returncode, done.stderr, out
        self.printed = [json.loads(line) for line in done.stdout.splitlines()]

    @property
    def result(self) -> dict:
        (result,) = self.printed
        return result

    def facts(self, run="01") -> dict:
        return json.loads((self.out / "runs" / run / "run.json").read_text(encoding="utf-8"))

    def answers(self, run="01") -> list[dict]:
        return [json.loads(line) for line in (self.out / "runs" / run / "answers.jsonl").read_bytes().splitlines()]


def words(data, out, argv, *options, input_size=40, batch=4, repeats=1) -> list[str]:
    """Return the command line of a bench; `argv` is a list of words, or the text of `--command`."""
    command = argv if isinstance(argv, str) else shlex.join(argv)
    sizes = ("--input-size", input_size, "--batch-size", batch, "--repeats", repeats, "--quick")
    return [
        *map(str, ["bench", "--command", command, "terra", "--data", data, "--out", out, *sizes, *options]),
        "--json",
    ]


def benching(morocco):
    def run(data, out, argv, *options, cwd=None, **sizes) -> Benched:
        return Benched(morocco(*words(data, out, argv, *options, **sizes), cwd=cwd), out)

    return run


@pytest.fixture(scope="session")
def benched(main):
    """Run `morocco bench` and return what came of it."""
    return benching(main)


@pytest.fixture(scope="session")
def timed(morocco):
    """Run `morocco bench` as a program of its own, where a clock is held to its word."""
    return benching(morocco)


def start(*args, **options) -> subprocess.Popen:
    """Start a bench that is to be disturbed."""
    argv = [sys.executable, "-m", "morocco_lib", *words(*args, **options)]
    return subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds=20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def good(benched, records, tmp_path_factory) -> Benched:
    """One valid point of two runs."""
    out = tmp_path_factory.mktemp("good") / "out"
    return benched(records, out, server("paced", *FAST, "--init", 0.1), input_size=100, repeats=2)


# -- truth ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param((), id="plain", marks=pytest.mark.slow),
        pytest.param(("--unflushed",), id="unflushed", marks=pytest.mark.slow),
        pytest.param(("--late-stdin",), id="late-stdin"),
        pytest.param(("--late-stdin", "--no-ready", "--unflushed"), id="late-stdin-unflushed-no-readiness"),
    ],
)
def test_speed_is_within_1_percent_of_truth(timed, tmp_path, behaviour):
    # 0.6 MB of input, far more than a pipe holds, and a start-up of 1 s: lost to a clock that starts when it is written.
    data = write_records(tmp_path / "val.jsonl", 1100)
    assert 0.58e6 < data.stat().st_size < 0.72e6
    found = timed(data, tmp_path / "out", server("paced", "--rate", 500, "--init", 1, *behaviour), input_size=1100)
    result, speed, init = found.result, found.result["speed_per_s"], found.result["init_s"]
    assert found.code == 0 and result["verdict"] == "VALID", found.talk
    assert 495 <= speed["value"] <= 505 and speed["method"] == "stream" and speed["scope"] == "run"
    assert 0.995 <= init["value"] < 1.3  # its own second, and the time until its first line of code runs
    assert init["method"] == ("stream" if "--no-ready" in behaviour else "ready")
    phases = found.facts()["phases"]
    if "--late-stdin" in behaviour:
        assert phases["first_read_s"] == pytest.approx(init["value"], abs=0.05)
    assert phases["exit_s"] > phases["last_answer_s"] > 1 + 1100 / 500 > phases["first_answer_s"] > 1


def test_speed_of_answers_held_back_is_within_2_percent_of_truth_and_noted(timed, records, tmp_path):
    behaviour = ("--rate", 500, "--init", 0.3, "--held-back")
    found = timed(records, tmp_path / "out", server("paced", *behaviour), input_size=600)
    speed = found.result["speed_per_s"]
    assert found.result["verdict"] == "VALID" and "ANSWERS_HELD_BACK" in found.result["reasons"]
    assert speed["value"] == pytest.approx(500, rel=0.02) and speed["method"] == "ready"


def test_answers_held_back_without_readiness_give_no_speed_but_a_score(timed, records, tmp_path):
    behaviour = ("--rate", 2000, "--held-back", "--no-ready")
    result = timed(records, tmp_path / "out", server("paced", *behaviour), input_size=600).result
    assert result["speed_per_s"] == {"value": None, "reason": "NO_STREAM"}
    assert result["init_s"] == {"value": None, "reason": "NO_READINESS"}
    assert result["verdict"] == "VALID" and result["score"]["value"] == pytest.approx(0.75)


def test_memory_and_cpu_time_are_those_of_the_program(good):
    # A bare interpreter with json and threads: not nothing, and not ours with its libraries.
    assert 3e6 < good.result["ram_bytes"]["value"] < 30e6
    assert 0 < good.result["cpu_s_per_record"]["value"] < 0.005


def test_the_score_is_that_of_the_first_answers_to_distinct_records(good):
    score = good.result["score"]
    assert score["value"] == pytest.approx(0.75) and score["n"] == 40 and score["low"] < 0.75 < score["high"]


# -- the record ----------------------------------------------------------------------------------------------------
def test_bench_json_is_what_was_printed(good):
    assert json.loads((good.out / "bench.json").read_text(encoding="utf-8")) == good.result


def test_the_result_has_the_keys_of_the_design_and_no_others(good):
    assert sorted(good.result) == sorted(KEYS)


def test_an_invalid_result_has_the_same_keys(benched, records, tmp_path):
    found = benched(records, tmp_path / "out", server("paced", *FAST, "--fault", "exit-3"))
    assert sorted(found.result) == sorted(KEYS)


def test_bench_json_can_be_rebuilt_from_the_runs_alone(good, tmp_path):
    assert json.loads(json.dumps(protocol.derive(good.out))) == good.result
    moved = tmp_path / "moved"
    moved.mkdir()
    subprocess.run(["cp", "-r", str(good.out / "runs"), str(good.out / "protocol.json"), str(moved)], check=True)
    assert json.loads(json.dumps(protocol.derive(moved))) == good.result


def assert_readings(result: dict) -> None:
    for name in READINGS:
        reading = result[name]
        if reading["value"] is None:
            assert Reason(reading["reason"]) and set(reading) == {"value", "reason"}, name
        else:
            assert type(reading["value"]) in (int, float) and "reason" not in reading, name


def test_every_reading_is_a_number_or_null_with_a_reason(benched, good, records, tmp_path):
    assert_readings(good.result)
    assert_readings(benched(records, tmp_path / "a", server("paced", *FAST, "--fault", "missing")).result)
    assert_readings(benched(records, tmp_path / "b", server("paced", *FAST, "--no-ready", "--held-back")).result)
    assert {Reason(code) for code in good.result["reasons"]} <= set(Reason)


def test_a_point_says_what_was_measured(good, records):
    result = good.result
    names = ("schema", "task", "runner", "image_digest", "input_size", "batch_size", "repeats", "verdict", "runs")
    expected = [1, "terra", "process", None, 100, 4, 2, "VALID", ["runs/01", "runs/02"]]
    assert [result[name] for name in names] == expected
    assert result["data"]["path"] == str(records) and result["data"]["origin"] == "files"
    assert [row["run"] for row in result["per_run"]] == result["runs"]
    assert result["speed_per_s"]["scope"] == "runs" and "SINGLE_RUN" not in result["reasons"]


def test_one_run_alone_says_so(benched, records, tmp_path):
    result = benched(records, tmp_path / "out", server("paced", *FAST)).result
    assert result["speed_per_s"]["scope"] == "run" and result["reasons"] == ["SINGLE_RUN"]


def test_a_run_folder_holds_everything(good):
    for run in good.result["runs"]:
        assert {path.name for path in (good.out / run).iterdir()} == RUN_FILES
    facts = good.facts("02")
    assert facts["argv"] == [*server("paced", *FAST, "--init", 0.1), "--batch-size", "4"]
    assert facts["lines"] == facts["records_fed"] == 100 and facts["all_fed"] and facts["run"] == 2
    assert facts["exit"] == {
        "code": 0,
        "signal": None,
        "oom_killed": False,
        "timed_out": False,
        "left_pids": [],
        "pids_refused": 0,
    }
    phases = facts["phases"]
    order = ("start_s", "first_write_s", "first_read_s", "ready_s", "first_answer_s", "last_answer_s", "exit_s")
    assert [phases[name] for name in order] == sorted(phases[name] for name in order)
    chunks = [json.loads(line) for line in (good.out / "runs/02/chunks.jsonl").read_text().splitlines()]
    assert sum(chunk["lines"] for chunk in chunks) == 100
    assert sum(chunk["bytes"] for chunk in chunks) == (good.out / "runs/02/answers.jsonl").stat().st_size


def test_stderr_is_kept_and_talk_stays_off_stdout(good):
    assert (good.out / "runs/01/stderr.log").read_text() == 'morocco: {"event": "ready"}\n'
    assert "run 1 of 2" in good.talk and len(good.printed) == 1


# -- what the program is given -------------------------------------------------------------------------------------
def test_fresh_idx_are_0_to_n_minus_1(good):
    for run in ("01", "02"):
        assert [answer["idx"] for answer in good.answers(run)] == list(range(100))


def test_every_record_comes_once_before_any_comes_twice(good):
    order = json.loads((good.out / "runs/01/workload.json").read_text())["order"]
    assert sorted(order[:40]) == sorted(order[40:80]) == list(range(40)) and len(order) == 100
    assert order[:40] != order[40:80] != list(range(40))


def test_labels_never_reach_the_program(benched, records, tmp_path):
    argv = server("paced", *FAST, "--fault", "refuse-labels")
    refused = subprocess.run(argv, stdin=records.open(), capture_output=True)
    assert refused.returncode == 9  # it does see them where they are
    found = benched(records, tmp_path / "out", argv)
    assert found.code == 0 and found.result["score"]["value"] == pytest.approx(0.75)


def test_records_without_labels_are_measured_and_not_scored(benched, tmp_path):
    data = write_records(tmp_path / "test.jsonl", 20, labelled=False)
    result = benched(data, tmp_path / "out", server("paced", *FAST)).result
    assert result["verdict"] == "VALID" and result["score"] == {"value": None, "reason": "NO_GOLD"}


def test_flips_are_counted(benched, records, tmp_path):
    # 40 records, fed twice: each second answer differs from the first.
    found = benched(records, tmp_path / "out", server("paced", *FAST, "--fault", "flip"), input_size=80)
    assert found.result["flips"] == {"value": 40, "compared": 40}
    assert "FLIPS" in found.result["reasons"] and found.result["verdict"] == "VALID"
    assert found.result["score"]["value"] == pytest.approx(0.75)  # the first answers count


def test_steady_answers_do_not_flip(good):
    # 100 answers of each run to 40 records: 60 repeats within each, 40 compared between them.
    assert good.result["flips"] == {"value": 0, "compared": 60 + 60 + 40}


# -- verdicts ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("exit-3", "NON_ZERO_EXIT"),
        ("missing", "MISSING_IDX"),
        ("duplicate", "DUPLICATE_IDX"),
        ("unknown-idx", "UNKNOWN_IDX"),
        ("wrong-idx", "WRONG_IDX"),
        ("label", "WRONG_LABEL"),
        ("broken", "BROKEN_LINE"),
        ("garbage", "BROKEN_LINE"),
        ("sigkill", "KILLED"),
        ("hang", "TIMEOUT"),
    ],
)
def test_a_fault_makes_the_point_invalid_and_everything_is_kept(benched, records, tmp_path, fault, code):
    timeout_s = 1.5 if fault == "hang" else 30
    found = benched(records, tmp_path / "out", server("paced", *FAST, "--fault", fault), "--timeout", timeout_s)
    result = found.result
    assert found.code == 1, found.talk
    assert result["verdict"] == "INVALID" and code in result["reasons"]
    assert result["per_run"][0]["verdict"] == "INVALID" and code in result["per_run"][0]["reasons"]
    for name in ("speed_per_s", "score"):
        assert result[name] == {"value": None, "reason": "NO_VALID_RUN"}
    also = {"unknown-idx": {"MISSING_IDX"}, "wrong-idx": {"MISSING_IDX"}, "broken": {"MISSING_IDX"}}
    also["sigkill"] = {"MISSING_IDX"}
    assert set(result["reasons"]) == {code, "SINGLE_RUN"} | also.get(fault, set())
    assert {path.name for path in (tmp_path / "out/runs/01").iterdir()} == RUN_FILES
    answers = (tmp_path / "out/runs/01/answers.jsonl").read_bytes()
    assert answers.count(b"\n") == {"missing": 39, "duplicate": 41, "garbage": 41, "sigkill": 4}.get(fault, 40)
    assert json.loads((tmp_path / "out/bench.json").read_text()) == result
    status = json.loads((tmp_path / "out/status.json").read_text())
    assert (status["state"], status["exit"]) == ("done", 1)


def test_a_program_that_answers_nothing_is_invalid(benched, records, tmp_path):
    found = benched(records, tmp_path / "out", [*PYTHON, "-c", "import sys; sys.stdin.read()"])
    assert found.code == 1 and set(found.result["reasons"]) == {"MISSING_IDX", "SINGLE_RUN"}


def test_a_last_answer_without_line_feed_counts(benched, records, tmp_path):
    code = (
        "import json, sys; rows = [json.loads(line) for line in sys.stdin];"
        "sys.stdout.write('\\n'.join(json.dumps({'idx': r['idx'], 'label': 'entailment'}) for r in rows))"
    )
    found = benched(records, tmp_path / "out", [*PYTHON, "-c", code])
    assert found.code == 0 and found.facts()["lines"] == 40, found.talk
    chunks = (tmp_path / "out/runs/01/chunks.jsonl").read_text().splitlines()
    assert sum(json.loads(chunk)["lines"] for chunk in chunks) == 40


def test_processes_left_behind_are_noted(benched, records, tmp_path):
    found = benched(records, tmp_path / "out", server("paced", *FAST, "--init", 0.1, "--fault", "leave-child"))
    (pid,) = found.facts()["exit"]["left_pids"]
    assert found.code == 0 and "LEFT_PROCESSES" in found.result["reasons"] and not is_alive(pid)


def test_want_of_memory_is_told_apart_from_other_ends(benched, records, tmp_path):
    runner(use_cgroup=True)
    found = benched(records, tmp_path / "out", server("body", "--mb", 300), "--memory", 60 * 10**6)
    assert found.code == 1 and "OUT_OF_MEMORY" in found.result["reasons"]


def test_one_invalid_run_makes_the_point_invalid_and_the_others_keep_their_numbers(benched, records, tmp_path):
    # A program that fails every second time, by a file it leaves in the folder it is run from.
    code = (
        "import json, pathlib, sys, time; flag = pathlib.Path('flag'); bad = flag.exists(); flag.touch()\n"
        "for line in sys.stdin:\n time.sleep(0.002)\n"
        " print(json.dumps({'idx': json.loads(line)['idx'], 'label': 'entailment'}), flush=True)\n"
        "sys.exit(bad)"
    )
    found = benched(records, tmp_path / "out", [*PYTHON, "-c", code], repeats=2, cwd=tmp_path)
    result = found.result
    assert found.code == 1 and result["verdict"] == "INVALID" and result["reasons"] == ["NON_ZERO_EXIT"]
    assert [row["verdict"] for row in result["per_run"]] == ["VALID", "INVALID"]
    assert result["speed_per_s"]["value"] is not None and result["speed_per_s"]["scope"] == "run"


# -- wrong usage ---------------------------------------------------------------------------------------------------
def assert_refused(found: Benched, *words: str) -> None:
    assert found.code == 2 and found.printed == [], found.talk
    assert all(word in found.talk for word in words) and "Traceback" not in found.talk, found.talk


def test_a_folder_that_is_not_empty_is_left_as_it_is(benched, records, tmp_path):
    kept = tmp_path / "out" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    for batch in ("4", "1,8"):
        assert_refused(benched(records, kept.parent, server("paced", *FAST), batch=batch), "not empty")
        assert [path.name for path in kept.parent.iterdir()] == ["kept.txt"] and kept.read_text() == "mine"


def test_an_empty_folder_may_be_given(benched, records, tmp_path):
    (tmp_path / "out").mkdir()
    assert benched(records, tmp_path / "out", server("paced", *FAST)).code == 0


@pytest.mark.parametrize("command", ["no-such-program --fast", "./absent", "", "'open quote"])
def test_an_unknown_program_is_wrong_usage_and_nothing_is_written(benched, records, tmp_path, command):
    assert_refused(benched(records, tmp_path / "out", command))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        '{"premise": "a", "hypothesis": "b", "idx": 0}\n{"premise": "a", "hyp',
        '{"premise": "a", "idx": 0}\n',
        '{"premise": "a", "hypothesis": "b", "idx": 0, "label": "maybe"}\n',
        '{"premise": "a", "hypothesis": "b", "idx": 0}\n' * 2,
        "\xff\n",
    ],
    ids=["empty", "blank", "cut", "no-hypothesis", "wrong-label", "same-idx", "no-json"],
)
def test_records_that_cannot_be_read_are_wrong_usage_and_nothing_is_written(benched, tmp_path, text):
    data = tmp_path / "val.jsonl"
    data.write_text(text)
    assert_refused(benched(data, tmp_path / "out", server("paced")), "val.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_wrong_usage(benched, tmp_path):
    assert_refused(benched(tmp_path / "absent.jsonl", tmp_path / "out", server("paced")), "absent.jsonl")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch", ["0", "-1", "x", "1.5", "", "1,", "8,8", "1e3"])
def test_batch_sizes_are_whole_numbers_above_0(benched, records, tmp_path, batch):
    assert_refused(benched(records, tmp_path / "out", server("paced"), batch=batch), "--batch-size")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [("--input-size", "0"), ("--repeats", "0"), ("--timeout", "0"), ("--timeout", "nan"), ("--memory", "x")]
)
def test_other_numbers_are_above_0(benched, records, tmp_path, option):
    assert_refused(benched(records, tmp_path / "out", server("paced"), *option), option[0])


def test_several_batch_sizes_give_as_many_points(benched, records, tmp_path):
    found = benched(records, tmp_path / "out", server("paced", *FAST), batch="1,8")
    assert found.code == 0 and [result["batch_size"] for result in found.printed] == [1, 8]
    for result in found.printed:
        folder = tmp_path / "out" / f"batch-{result['batch_size']}"
        assert json.loads((folder / "bench.json").read_text()) == result
        argv = json.loads((folder / "runs/01/run.json").read_text())["argv"]
        assert argv[-2:] == ["--batch-size", str(result["batch_size"])]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["batch-1", "batch-8"]


# -- accidents -----------------------------------------------------------------------------------------------------
def test_a_killed_bench_leaves_nothing_that_looks_finished(benched, records, tmp_path):
    out = tmp_path / "out"
    partial = out / "runs" / ".01.partial"
    killed = start(records, out, server("paced", "--rate", 40, "--no-ready"), input_size=400)
    wait_for(lambda: (partial / "samples.jsonl").exists())
    time.sleep(0.3)
    killed.kill()
    assert killed.communicate(timeout=10)[0] == ""
    assert [path.name for path in (out / "runs").iterdir()] == [".01.partial"]
    assert not (partial / "run.json").exists() and not (out / "bench.json").exists()
    assert json.loads((out / "status.json").read_text())["state"] == "running"
    assert benched(records, out, server("paced")).code == 0  # and it is not mixed with the new attempt
    assert json.loads((out.with_name("out.1") / "status.json").read_text())["state"] == "killed"
    assert_refused(benched(records, out, server("paced")), "not empty")


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv here: nothing ties the program to the bench")
def test_a_killed_bench_takes_its_program_along(records, tmp_path):
    pid_file = tmp_path / "pid"
    killed = start(records, tmp_path / "out", tells_its_pid(pid_file))
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    killed.kill()
    killed.communicate(timeout=10)
    wait_for(lambda: not is_alive(pid), 5)


def tells_its_pid(path: Path) -> list[str]:
    """Return a program that writes its pid into a file and then neither reads nor ends."""
    code = f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    return [*PYTHON, "-c", code]


def test_a_finished_run_survives_the_kill_of_a_later_one(records, tmp_path):
    out = tmp_path / "out"
    killed = start(records, out, server("paced", "--rate", 200), repeats=3)
    assert "run 1 of 3" in killed.stderr.readline()
    killed.kill()
    killed.communicate()
    names = {path.name for path in (out / "runs").iterdir()}
    assert "01" in names and names <= {"01", ".02.partial"}
    assert {path.name for path in (out / "runs/01").iterdir()} == RUN_FILES


def load_of_one(folder: Path) -> tuple:
    source = write_records(folder / "one.jsonl", 1)
    task = get_task("terra")
    return workload.build(task, task.read(source), 1, 0), source


def test_a_program_is_not_started_when_the_disk_refuses_its_files(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measure, "open_samples", refuse)
    load, source = load_of_one(tmp_path)
    program = protocol.Program([*PYTHON, "-c", f"open({str(tmp_path / 'started')!r}, 'w')"], "m")
    with pytest.raises(EnvironmentFailure, match="No space left"):
        protocol.measure(program, load, source, ProcessRunner(), Limits(9), tmp_path, batch_size=1, repeats=1)
    time.sleep(0.2)
    assert not (tmp_path / "started").exists()


def test_a_disk_that_fills_up_ends_the_program_and_keeps_finished_runs(tmp_path, monkeypatch):
    class FullDisk:
        """Takes one sample, then no more."""

        def __init__(self, path):
            self.file = path.open("w")

        def __enter__(self):
            return self

        def __exit__(self, *what):
            self.file.close()

        def write(self, text):
            if '"mark"' in text:
                raise OSError(28, "No space left on device")
            self.file.write(text)

    load, source = load_of_one(tmp_path)
    monkeypatch.setattr(measure, "open_samples", FullDisk)
    program = protocol.Program(server("paced", "--fault", "hang"), "m")
    begin = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="No space left"):
        protocol.measure(program, load, source, ProcessRunner(), Limits(9), tmp_path, batch_size=1, repeats=1)
    assert time.monotonic() - begin < 5
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name[0] != "."]


def test_interrupting_a_bench_ends_its_program(records, tmp_path):
    pid_file = tmp_path / "pid"
    asked = start(records, tmp_path / "out", tells_its_pid(pid_file))
    wait_for(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    asked.send_signal(signal.SIGINT)
    _, talk = asked.communicate(timeout=15)
    assert asked.returncode == 130 and not is_alive(pid) and "Traceback" not in talk, talk
    assert json.loads((tmp_path / "out/status.json").read_text())["state"] == "killed"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("python3 docs/example_model.py", "example_model"),
        ("python3 -u docs/example_model.py --fast", "example_model"),
        ("python3 -m json.tool", "python3"),
        ("cat", "cat"),
    ],
)
def test_a_program_is_named_after_its_script(monkeypatch, text, name):
    monkeypatch.chdir(ROOT)
    assert protocol.command(text).model == name
    assert protocol.command(text, "mine").model == "mine"


def test_the_example_in_the_docstring_works(tmp_path, synthetic_data, monkeypatch):
    (tmp_path / "records").symlink_to(synthetic_data)
    shutil.copyfile(ROOT / "docs/example_model.py", tmp_path / "my_model.py")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(textwrap.dedent(protocol.__doc__.split(":\n\n", 1)[1]), names)
    assert names["result"]["verdict"] == "VALID" and names["result"]["model"] == "my_model"


def test_rooms_are_found_by_their_names_alone():
    code = "import morocco_lib; help(morocco_lib.benchmark.protocol); print(dir(morocco_lib)); morocco_lib.bensch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "what is run in which order" in done.stdout and "'workload'" in done.stdout
    assert "has no room 'bensch'; rooms: answers," in done.stderr


def test_answers_given_without_reading_the_records_are_invalid(benched, records, tmp_path):
    code = 'for idx in range(5000): print(\'{"idx": %d, "label": "entailment"}\' % idx)'
    found = benched(records, tmp_path / "out", [*PYTHON, "-c", code], input_size=5000)
    assert found.code == 1 and found.result["reasons"][0] == Reason.INPUT_NOT_READ
    assert found.result["score"]["value"] is None and not found.result["per_run"][0]["problems"]


def test_a_script_without_its_interpreter_is_refused_before_a_shell_takes_it(benched, records, tmp_path):
    script = tmp_path / "model"
    script.write_text("import sys\n")
    script.chmod(0o755)
    assert_refused(benched(records, tmp_path / "out", [str(script)]), "names its interpreter", "#!/usr/bin/env python3")
    assert not (tmp_path / "out").exists()
