"""One run and `morocco bench` from outside: programs of known behaviour in, files and verdicts out."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, RUN_FILES, wait_until, write_records
from servers import PYTHON, is_alive, runner, server

from morocco_lib.analysis import summary, validity
from morocco_lib.analysis.run_files import read_run
from morocco_lib.benchmark import protocol
from morocco_lib.benchmark import run as measure
from morocco_lib.benchmark.target import Program, Target, program_of_image
from morocco_lib.data import workload
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.runners import contract
from morocco_lib.runners.engine import Image
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task

FAST = ("--rate", 5000)


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
    sizes = ["--input-size", input_size, "--batch-size", batch, "--repeats", repeats, "--quick", "--json"]
    return [str(w) for w in ["bench", "--command", command, "terra", "--data", data, "--out", out, *sizes, *options]]


@pytest.fixture(scope="session")
def benched(main):
    """Run `morocco bench` and return what came of it."""
    return lambda data, out, argv, *options, **sizes: Benched(main(*words(data, out, argv, *options, **sizes)), out)


def start(*args, **options) -> subprocess.Popen:
    """Start a bench that is to be disturbed."""
    argv = [sys.executable, "-m", "morocco_lib", *words(*args, **options)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=ROOT, text=True, **pipes)


@pytest.fixture(scope="session")
def good(benched, records, tmp_path_factory) -> Benched:
    """One valid point of two runs."""
    out = tmp_path_factory.mktemp("good") / "out"
    return benched(records, out, server("paced", *FAST, "--init", 0.1), input_size=100, repeats=2)


# -- the record ----------------------------------------------------------------------------------------------------
def test_bench_json_is_what_was_printed_and_can_be_rebuilt_from_the_runs_alone(good, tmp_path):
    assert json.loads((good.out / "bench.json").read_text(encoding="utf-8")) == good.result
    shutil.copytree(good.out / "runs", tmp_path / "runs")
    shutil.copy(good.out / "protocol.json", tmp_path)
    assert json.loads(json.dumps(summary.derive(tmp_path))) == good.result


def test_a_run_folder_holds_everything(good):
    for run in good.result["runs"]:
        assert {path.name for path in (good.out / run).iterdir()} == RUN_FILES
    facts = good.facts("02")
    assert facts["argv"] == [*server("paced", *FAST, "--init", 0.1), "--batch-size", "4"]
    assert facts["lines"] == facts["records_fed"] == 100 and facts["all_fed"] and facts["run"] == 2
    ending = {"code": 0, "signal": None, "oom_killed": False, "timed_out": False, "left_pids": [], "pids_refused": 0}
    assert facts["exit"] == ending | {"disk_mounts": None}
    phases = facts["phases"]
    order = ("start_s", "first_write_s", "first_answer_s", "last_answer_s", "exit_s")
    assert [phases[name] for name in order] == sorted(phases[name] for name in order)
    assert (
        phases["first_write_s"] <= phases["first_read_s"] < phases["first_answer_s"] + 0.5
    )  # it is looked for in turns
    assert phases["start_s"] < facts["withheld"]["quiet_s"] < phases["first_write_s"]
    assert phases["ready_s"] < phases["first_answer_s"]
    chunks = [json.loads(line) for line in (good.out / "runs/02/chunks.jsonl").read_text().splitlines()]
    assert sum(chunk["lines"] for chunk in chunks) == 100
    assert sum(chunk["bytes"] for chunk in chunks) == (good.out / "runs/02/answers.jsonl").stat().st_size


def test_stderr_is_kept_and_talk_stays_off_stdout(good):
    assert (good.out / "runs/01/stderr.log").read_text() == 'morocco: {"event": "ready"}\n'
    assert "run 1 of 2" in good.talk and len(good.printed) == 1


def test_of_stderr_10_mib_are_kept_and_all_of_it_is_counted(benched, records, tmp_path):
    talks = f"import sys; sys.stderr.write('x' * {11 * 2**20}); sys.stdin.read()"
    run = benched(records, tmp_path / "out", [sys.executable, "-c", talks], input_size=4)
    assert run.facts()["stderr_bytes"] == 11 * 2**20
    assert (run.out / "runs/01/stderr.log").stat().st_size == 10 * 2**20


@pytest.fixture
def recorder(tmp_path):
    """Return a recorder of six predictions, and what it did: the marks, how often it killed, the numbers it told."""
    did = SimpleNamespace(marks=[], kills=[], told=[])
    with measure._Recorder(tmp_path, 6, did.told.append) as recorder:
        handle = SimpleNamespace(started_ns=0, kill=lambda: did.kills.append(1))
        recorder.attach(handle, SimpleNamespace(mark=did.marks.append))
        yield recorder, did


def test_answers_are_told_twice_a_second_at_most_and_the_first_and_the_last_are_marked(recorder):
    recorder, did = recorder
    recorder.on_stdout(1, b"{")
    assert did.marks == did.told == []
    for t_ms, block in ((1000, b"}\n"), (1500, b"{}\n"), (1501, b"{}\n"), (3000, b"{}\n")):
        recorder.on_stdout(t_ms * 10**6, block)
    assert did.marks == ["first_answer"] and did.told == [1, 2, 1]
    recorder.on_stdout(3001 * 10**6, b"{}\n{}\n")
    assert did.marks == ["first_answer", "last_answer"]
    recorder.finish(None)
    assert did.told == [1, 2, 1, 2]


def test_a_program_that_floods_stdout_is_killed_once_and_no_more_is_kept(recorder, tmp_path):
    recorder, did = recorder
    most = 10 * 2**20 + 6 * 64 * 2**10
    recorder.on_stdout(1, b"x" * most)
    assert not recorder.stdout_cut and not did.kills
    recorder.on_stdout(2, b"x"), recorder.on_stdout(3, b"x")
    assert recorder.stdout_cut and did.kills == [1] and recorder.stdout_bytes == most + 2
    recorder.__exit__()
    assert (tmp_path / "answers.jsonl").stat().st_size == most


# -- what the program is given -------------------------------------------------------------------------------------
def test_fresh_idx_are_0_to_n_minus_1(good):
    for run in ("01", "02"):
        assert [answer["idx"] for answer in good.answers(run)] == list(range(100))


def test_labels_never_reach_the_program(benched, records, tmp_path):
    argv = server("paced", *FAST, "--fault", "refuse-labels")
    refused = subprocess.run(argv, stdin=records.open(), capture_output=True)
    assert refused.returncode == 9  # it does see them where they are
    found = benched(records, tmp_path / "out", argv)
    assert found.code == 0 and found.result["score"]["value"] == pytest.approx(0.75)


# -- verdicts ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("exit-3", "NON_ZERO_EXIT"),
        ("missing", "MISSING_IDX"),
        ("duplicate", "DUPLICATE_IDX"),
        ("sigkill", "KILLED"),
        ("hang", "TIMEOUT"),
    ],
)
def test_a_fault_makes_the_point_invalid_and_everything_is_kept(benched, records, tmp_path, fault, code):
    timeout_s = 4 if fault == "hang" else 30
    found = benched(records, tmp_path / "out", server("paced", *FAST, "--fault", fault), "--timeout", timeout_s)
    result = found.result
    assert found.code == 1, found.talk
    assert result["verdict"] == "INVALID" and code in result["reasons"]
    assert result["per_run"][0]["verdict"] == "INVALID" and code in result["per_run"][0]["reasons"]
    for name in ("speed_per_s", "score"):
        assert result[name] == {"value": None, "reason": "NO_VALID_RUN"}
    also = {"MISSING_IDX"} if fault == "sigkill" else set()
    assert set(result["reasons"]) == {code, "SINGLE_RUN", "QUICK"} | also
    assert {path.name for path in (tmp_path / "out/runs/01").iterdir()} == RUN_FILES
    answers = (tmp_path / "out/runs/01/answers.jsonl").read_bytes()
    assert answers.count(b"\n") == {"missing": 39, "duplicate": 41, "sigkill": 4}.get(fault, 40)
    assert json.loads((tmp_path / "out/bench.json").read_text()) == result
    status = json.loads((tmp_path / "out/status.json").read_text())
    assert (status["state"], status["exit"]) == ("done", 1)


def test_a_last_answer_without_line_feed_counts(benched, records, tmp_path):
    code = (
        "import json, sys; rows = [json.loads(line) for line in sys.stdin];"
        "sys.stdout.write('\\n'.join(json.dumps({'idx': r['idx'], 'label': 'entailment'}) for r in rows))"
    )
    found = benched(records, tmp_path / "out", [*PYTHON, "-c", code])
    assert found.code == 0 and found.facts()["lines"] == 40, found.talk
    chunks = (tmp_path / "out/runs/01/chunks.jsonl").read_text().splitlines()
    assert sum(json.loads(chunk)["lines"] for chunk in chunks) == 40


def test_out_of_memory_is_distinguished_from_other_ends(benched, records, tmp_path):
    runner(use_cgroup=True)
    found = benched(records, tmp_path / "out", server("body", "--mb", 300), "--memory", 60 * 10**6)
    assert found.code == 1 and "OUT_OF_MEMORY" in found.result["reasons"]


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


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("no-such-program --fast", (), "no program 'no-such-program'"),
        ("", (), "--command is empty"),
        ("'open quote", (), "close the quotes"),
        ("true", ("--data", "absent.jsonl"), "absent.jsonl"),
        *(("true", ("--batch-size", size), "--batch-size") for size in ("0", "1.5", "1,", "8,8")),
        ("true", ("--input-size", "0"), "--input-size"),
        ("true", ("--timeout", "nan"), "--timeout"),
        ("true", ("--memory", "x"), "--memory"),
        ("true", ("--precision", "0.1"), "give one of them"),
    ],
)
def test_wrong_usage_is_refused_and_nothing_is_written(benched, records, tmp_path, command, options, message):
    assert_refused(benched(records, tmp_path / "out", command, *options), message)
    assert not (tmp_path / "out").exists()


def test_a_script_without_its_interpreter_is_refused_before_a_shell_takes_it(benched, records, tmp_path):
    script = tmp_path / "model"
    script.write_text("import sys\n")
    script.chmod(0o755)
    assert_refused(benched(records, tmp_path / "out", [str(script)]), "names its interpreter", "#!/usr/bin/env python3")


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
    assert wait_until(lambda: (partial / "samples.jsonl").exists())
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
    assert wait_until(pid_file.read_text)
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    killed.kill()
    killed.communicate(timeout=10)
    assert wait_until(lambda: not is_alive(pid), 5)


def tells_its_pid(path: Path) -> list[str]:
    """Return a program that writes its pid into a file and then neither reads nor ends."""
    path.touch(), path.chmod(0o666)
    return [
        *PYTHON,
        "-c",
        "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)",
        str(path),
    ]


class FullDisk:
    """samples.jsonl on a disk that takes one sample, then no more."""

    def __init__(self, path):
        self.file = path.open("w")

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.file.close()

    def write(self, text):
        if '"mark": "ready"' in text:
            raise OSError(28, "No space left on device")
        self.file.write(text)


def refuse(path):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("disk", [refuse, FullDisk])
def test_a_full_disk_ends_the_program_or_does_not_start_it(tmp_path, monkeypatch, disk):
    monkeypatch.setattr(measure, "open_samples", disk)
    task, source = get_task("terra"), write_records(tmp_path / "one.jsonl", 1)
    load = workload.build(task, task.read(source), 1, 0)
    starts, out = tmp_path / "starts", tmp_path / "out"
    starts.touch(), starts.chmod(0o666), out.mkdir()
    target = Target(Program(server("paced", "--fault", "hang", "--starts", starts), "m"), ProcessRunner())
    begin = time.monotonic()
    series = measure.RunSeries(target, load, source, out, batch_size=1)
    with pytest.raises(EnvironmentFailure, match="No space left"), series:
        series.run(out, "bench")
    assert time.monotonic() - begin < 5
    assert bool(starts.read_bytes()) == (disk is FullDisk)
    assert not [path for path in (out / "runs").iterdir() if path.name[0] != "."]


def fails(error):
    def failing(*args, **options):
        raise error

    return failing


def after(seconds: float, error):
    """Return a function that fails once it is called later than this."""
    begin = time.monotonic()
    return lambda *args, **options: fails(error)() if time.monotonic() > begin + seconds else None


BROKEN = {  # stage of a run -> what fails in it
    "reader": (measure, "reader_for", fails(KeyError("memory"))),
    "gpu": (measure.GpuSampler, "watch", fails(RuntimeError("gone"))),
    "wait": (measure.Withholding, "wait", fails(ZeroDivisionError("x"))),
    "ready line": (contract, "parse_event", fails(RecursionError("deep"))),
    "mark": (measure.Sampler, "mark", fails(KeyError("memory"))),
    "answers": (measure._Recorder, "_add_chunk", fails(IndexError("y"))),
    "interrupt": (measure._Recorder, "_add_chunk", fails(KeyboardInterrupt())),
    "stop": (measure.Sampler, "stop", fails(KeyError("memory"))),
    "gpu stop": (measure.GpuSampler, "stop", fails(ValueError("gpu"))),
    "facts": (measure, "host_facts", fails(ValueError("facts"))),
    "clock": (measure.clocks, "compare", fails(OSError(5, "Input/output error"))),
}


@pytest.mark.parametrize("stage", BROKEN)
def test_a_run_that_we_break_off_is_kept_and_says_why_and_its_program_is_ended(tmp_path, monkeypatch, stage):
    place, name, broken = BROKEN[stage]
    task, source = get_task("terra"), write_records(tmp_path / "val.jsonl", 4)
    load, started = workload.build(task, task.read(source), 4, 0), []
    target = Target(Program(server("paced", "--rate", 1000), "m"), ProcessRunner())
    start = ProcessRunner.start
    monkeypatch.setattr(ProcessRunner, "start", lambda *args: started.append(start(*args)) or started[-1])
    held = measure.Withholding(5.0)
    with measure.RunSeries(target, load, source, tmp_path, batch_size=1, withheld=held) as series:
        monkeypatch.setattr(place, name, broken)
        expected = KeyboardInterrupt if stage == "interrupt" else EnvironmentFailure
        with pytest.raises(expected) as raised:
            series.run(tmp_path, "bench")
    (handle,), (folder,) = started, (tmp_path / "runs").iterdir()
    assert wait_until(lambda: not is_alive(handle.pid), 2)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("morocco-")]
    assert folder.name == ".01.partial" and not (folder / "run.json").exists()
    failed = json.loads((folder / "failed.json").read_text())
    assert (failed["run"], failed["purpose"], failed["model"]) == (1, "bench", "m") and failed["error"]
    assert (folder / "workload.json").exists() and (folder / "answers.jsonl").exists()
    if stage not in ("interrupt", "clock"):
        assert failed["error"] in str(raised.value) and str(folder) in str(raised.value)
    if stage in ("facts", "clock", "gpu stop", "stop"):  # all had been answered
        assert len((folder / "answers.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("error", [KeyError("memory"), OSError(28, "No space left on device")])
def test_where_sampling_fails_the_run_is_kept_and_says_so(tmp_path, monkeypatch, error):
    task, source = get_task("terra"), write_records(tmp_path / "val.jsonl", 4)
    load = workload.build(task, task.read(source), 4, 0)
    target = Target(Program(server("paced", "--rate", 10), "m"), ProcessRunner())
    monkeypatch.setattr(measure.Processes, "update", after(0.3, error))
    monkeypatch.setattr(measure.Sampler, "mark", lambda *args: None)
    with measure.RunSeries(target, load, source, tmp_path, batch_size=1) as series:
        run = read_run(series.run(tmp_path, "bench"))
    assert run.facts["sampler"]["failed"].startswith(type(error).__name__)
    assert validity.sampler_reasons(run.facts["sampler"]) == ["SAMPLER_GAPS"]
    assert run.facts["exit"]["signal"] == (signal.SIGKILL if isinstance(error, OSError) else None)  # no use to go on


def test_interrupting_a_bench_ends_its_program(records, tmp_path):
    pid_file = tmp_path / "pid"
    bench = start(records, tmp_path / "out", tells_its_pid(pid_file))
    assert wait_until(pid_file.read_text)
    pid = int(pid_file.read_text())
    assert is_alive(pid)
    bench.send_signal(signal.SIGINT)
    _, talk = bench.communicate(timeout=15)
    assert bench.returncode == 130 and not is_alive(pid) and "Traceback" not in talk, talk
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
    assert Target.of_command(text).program.model == name
    assert Target.of_command(text, "mine").program.model == "mine"


@pytest.mark.parametrize(
    ("label", "name"),
    [("../../etc", "etc"), ("<script>x</script>", "script-x-script"), ("$\\frac", "frac"), ("модель-2.1", "модель-2.1"), ("..", "model"),
     ("x" * 200, "x" * 80), (None, "mine")],
)  # fmt: skip
def test_an_image_is_named_by_one_word_of_its_label(label, name):
    image = Image("example/mine:1", "sha256:0", None, {"morocco.model": label} if label else {}, 1)
    assert program_of_image(image).model == name


def test_the_example_in_the_docstring_works(tmp_path, synthetic_data, monkeypatch):
    (tmp_path / "records").symlink_to(synthetic_data)
    shutil.copyfile(ROOT / "docs/example_model.py", tmp_path / "my_model.py")
    monkeypatch.chdir(tmp_path)
    names = {}
    code = textwrap.dedent(protocol.__doc__.split(":\n\n", 1)[1])
    exec(code.replace("input_size=2000", "input_size=80").replace("repeats=3", "repeats=1"), names)
    assert names["result"]["verdict"] == "VALID" and names["result"]["model"] == "my_model"


# -- other options of the verb ---------------------------------------------------------------------------------------
def test_logs_in_the_originals_format_beside_a_bench(main, records, tmp_path):
    logs = tmp_path / "logs"
    command = shlex.join(server("paced", "--rate", 800, "--init", 0.2))
    argv = ["bench", "--command", command, "terra", "--data", records, "--model", "paced", "--input-size", 800]
    argv += ["--batch-size", 8, "--repeats", 3, "--quick", "--original-logs", logs]
    done = main(*map(str, [*argv, "--out", tmp_path / "out", "--json"]))
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (logs / "paced/terra").iterdir())
    assert names == [f"{size}_{k:02d}.jsonl" for size in ("1_1", "800_8") for k in (1, 2, 3)]
    stats = main("stats", str(logs), "--original")
    assert json.loads(stats.stdout)["rps"] == pytest.approx(800, rel=0.3)
    again = main(*map(str, [*argv, "--out", tmp_path / "again"]))
    assert again.returncode == 2 and "never overwritten" in again.stderr and not (tmp_path / "again").exists()
