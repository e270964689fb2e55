"""The command line: help, exit codes, what goes to stdout, and that no traceback reaches the user."""

import argparse
import contextlib
import glob
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import termios

import founding
import pytest
from helpers import ROOT, environment
from submissions import bench_step

import morocco_lib
from morocco_lib import doctor
from morocco_lib.cli import arguments
from morocco_lib.cli import entry as cli
from morocco_lib.tasks import get_task

TERRA = get_task("terra")


def parsers(parser=None, path=()) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Return every command of the program, commands of commands included."""
    found = {}
    for action in (parser or cli.build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found[(*path, name)] = sub
                found |= parsers(sub, (*path, name))
    return found


COMMANDS = parsers()


def refused(done, code=2):
    """Hold a run to what a refusal looks like, and return what was text."""
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and done.stderr
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr
    return done.stderr


@pytest.fixture
def predictions(val, tmp_path):
    """A valid file of predictions, three quarters of them right."""
    other = dict(zip(TERRA.labels, reversed(TERRA.labels), strict=True))
    gold = [TERRA.gold(r) for r in TERRA.read(val)]
    path = tmp_path / "preds.jsonl"
    lines = [TERRA.format({**g, "label": other[g["label"]]} if i % 4 == 0 else g) for i, g in enumerate(gold)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# -- help ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [(), *COMMANDS], ids=lambda path: " ".join(("morocco", *path)))
def test_help_ends_with_two_commands(main, path):
    done = main(*path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    examples = [line.removeprefix("try:").strip() for line in done.stdout.splitlines()[-2:]]
    assert all(line.startswith("morocco ") for line in examples) and len(set(examples)) == 2
    assert path or all(verb in done.stdout for verb in {p[0] for p in COMMANDS})


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=lambda path: " ".join(("morocco", *path)))
def test_the_commands_in_help_are_understood(path):
    # Each is parsed, as a shell would split it, up to a redirection or a pipe; what it would do is not done.
    parser = COMMANDS[path] if path else cli.build_parser()
    lines = [line.removeprefix("try:") for line in parser.epilog.splitlines()]
    assert len(lines) >= 2
    for line in lines:
        for part in " ".join(line.split()).split(" | "):
            words = shlex.split(part.split(" < ")[0].split(" > ")[0])
            words = words[words.index("morocco") + 1 :]
            args = cli.build_parser().parse_args(words)
            assert args.subcommand == words[0] and callable(args.handler)


def cpu_of(*args) -> float:
    process = subprocess.Popen([sys.executable, *args], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("args", "times"),
    [(("-m", "morocco_lib", "--help"), 6), (("-c", "import morocco_lib"), 3)],
    ids=["help", "import"],
)
def test_starting_is_cheap(args, times):
    assert min(cpu_of(*args) for _ in range(5)) <= times * min(cpu_of("-c", "pass") for _ in range(5))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic_data):
    """A folder where the commands of the help can be typed in the order of ORDER."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("params", "notebooks", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "path/to/official").mkdir(parents=True)
    (folder / "path/to/official/folders").symlink_to(synthetic_data)
    return folder


ORDER = (
    "doctor",
    "data",
    "train",
    "pretrain",
    "infer",
    "check",
    "eval",
    "bench",
    "run",
    "report",
    "verify",
    "pack",
    "rank",
)
OF_IMAGES = ("build", "login", "push", "pull")  # typed in test_images.py and test_registry.py, where an engine runs
OF_LOGS = ("stats", "plot")  # typed in legacy/test_corrected.py, where there are logs
OF_CLOUDS = ("vm",)  # typed in cloud/test_yandex.py, where there is an account
OF_BUCKETS = ("sync",)  # typed in artifacts/test_storage.py, where there is a bucket
OF_MACHINES = ("swarm",)  # tried in training/test_swarm.py, where there are several


@pytest.mark.slow
def test_the_commands_in_help_work(main, workplace):
    # The first of each verb by a shell, as a program of its own; others in this process where they need no shell.
    # `data fetch` needs a network and is tried in data/test_download.py; a plan is only listed, the README's test runs
    # one, and a bench step stands in for what it would leave.
    (workplace / "bin").mkdir()
    (workplace / "bin/morocco").write_text(f'#!/bin/sh\nexec {sys.executable} -m morocco_lib "$@"\n')
    (workplace / "bin/morocco").chmod(0o755)
    variables = environment({"PATH": f"{workplace / 'bin'}:{os.environ['PATH']}", "XDG_STATE_HOME": str(workplace)})
    typed = set()
    here = [path for path in COMMANDS if path[0] not in OF_IMAGES + OF_LOGS + OF_CLOUDS + OF_BUCKETS + OF_MACHINES]
    for path in sorted(here, key=lambda path: ORDER.index(path[0])):
        for number, line in enumerate(COMMANDS[path].epilog.splitlines()):
            line = line.removeprefix("try:").strip()
            if line in typed or "data fetch" in line:
                continue
            typed.add(line)
            line = f"{line} --dry-run" if path == ("run",) and "--dry-run" not in line else line
            line = re.sub(r"\S*\*\S*", lambda found: " ".join(glob.glob(found[0], root_dir=workplace)), line)
            if number == 0 or "|" in line:
                argv = ["bash", "-o", "pipefail", "-c", line]
                done = subprocess.run(argv, cwd=workplace, env=variables, capture_output=True, text=True)
            else:
                done = founding.typed(line, main, workplace, **variables)
            assert done.returncode == 0, (line, done.stderr)
        if path == ("run",):
            bench_step(workplace / "outputs/demo/m/terra/bench-1", workplace / "records/TERRa/val.jsonl")
    assert len(typed) >= 2 * len(ORDER)


def test_the_version_is_that_of_the_package(main):
    done = main("--version")
    assert (done.returncode, done.stdout) == (0, f"morocco {morocco_lib.__version__}\n")


def test_without_a_command_the_five_needed_first_are_shown(main):
    done = main()
    shown = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  morocco ")]
    assert (done.returncode, shown) == (0, ["doctor", "run", "bench", "report", "verify"])
    assert "morocco --help" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["mor", "be"], {"bench"}),
        (["mor", "eval", "ter"], {"terra"}),
        (["mor", "bench", "--q"], {"--quiet", "--quick"}),
    ],
)
def test_the_shell_completes_commands_tasks_and_options(main, typed, offered):
    done = main("--print-completion", "bash")
    assert done.returncode == 0, done.stderr
    script = f"{done.stdout}\nCOMP_WORDS=({' '.join(typed)}) COMP_CWORD={len(typed) - 1}\n_shtab_morocco\necho ${{COMPREPLY[@]}}"
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert set(shell.stdout.split()) == offered, shell.stderr


# -- progress ------------------------------------------------------------------------------------------------------
@pytest.fixture
def slow_program(tmp_path):
    """A program that answers 600 records in about 1.5 s."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import json, sys, time\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'idx': json.loads(line)['idx'], 'label': 'entailment'}), flush=True)\n"
        "    time.sleep(0.002)\n"
    )
    return f"{sys.executable} {path}"


def bench_args(command, val, out, *options):
    return [
        "bench", "--command", command, "terra", "--data", str(val), "--input-size", "600", "--repeats", "1", "--out", str(out), *options
    ]  # fmt: skip


def test_on_a_terminal_a_bench_shows_speed_and_time_left(slow_program, val, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    argv = [sys.executable, "-m", "morocco_lib", *bench_args(slow_program, val, tmp_path / "out")]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # the terminal is gone with its program
        while block := os.read(ours, 65536):
            text += block
    os.close(ours)
    assert process.wait() == 0
    assert re.search(rb"\d+ of 600 records, +[\d.]+ records/s, \d\d:\d\d left", text), text


def test_in_a_log_a_bench_prints_a_line_a_run_and_with_quiet_none(main, slow_program, val, tmp_path):
    done = main(*bench_args(slow_program, val, tmp_path / "a"))
    assert done.returncode == 0 and re.fullmatch(r"run 1 of 1: 600 answers, [\d.]+ s\n", done.stderr)
    done = main(*bench_args(slow_program, val, tmp_path / "b", "--quiet"))
    assert done.returncode == 0 and done.stderr == "" and "records/s" in done.stdout


# -- wrong usage ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate"], "invalid choice: 'evaluate'"),
        (["data"], "required: KIND"),
        (["eval", "terra", "a", "b", "--loud"], "unrecognized arguments: --loud"),
        (["eval", "tera", "a", "b"], "did you mean 'terra'?"),
        (["train", "tfidf", "terra", "--data", "missing", "--out", "o"], "no train split of TERRa in missing"),
        (["train", "tfidff", "terra", "--data", "d", "--out", "o"], "did you mean 'tfidf'?"),
        (["infer", "missing"], "no model in missing"),
        (["infer", "missing", "--batch", "3"], "unrecognized arguments: --batch"),
        (["report", "missing"], "no folder missing; give outputs/<plan>"),
        (["verify", "."], "no step folder in .; a step folder holds status.json"),
        (["run", "missing.yaml"], "cannot read missing.yaml: No such file or directory"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_wrong_usage_is_refused_with_a_message(main, tmp_path, args, message):
    assert message in refused(main(*args, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(morocco):
    done = morocco("--debug", "infer", "missing")
    assert done.returncode == 1 and "Traceback" in done.stderr and "no model in missing" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, ["interrupted; what was finished is kept"]),
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), 3, ["yaml is not installed", "`make setup`"]),
        (MemoryError(), 3, ["out of memory; free some"]),
        (PermissionError(13, "Permission denied", "/a/file"), 3, ["'/a/file'", "the system refused this"]),
        (ValueError("odd"), 3, ["ValueError: odd; this is a bug", "`morocco --debug doctor --json`"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_unexpected_error_is_one_line_and_with_debug_a_traceback(main, monkeypatch, error, code, words):
    def broken(args):
        raise error

    monkeypatch.setattr(cli.commands, "doctor", broken)
    done = main("doctor", "--json")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("morocco: ") and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            main("--debug", "doctor", "--json")


# -- doctor --------------------------------------------------------------------------------------------------------
def test_the_doctor_prints_the_same_as_text_and_as_json(main, monkeypatch):
    once = doctor.examine(ROOT)  # load and free memory change from look to look
    monkeypatch.setattr(doctor, "examine", lambda root: once)
    table, found = main("doctor", cwd=ROOT), main("doctor", "--json", cwd=ROOT)
    assert (table.returncode, found.returncode, table.stderr, found.stderr) == (0, 0, "", "")
    findings = json.loads(found.stdout)["findings"]
    rows = [line for line in table.stdout.splitlines() if line.startswith(("yes", "no"))]
    assert [f["what"] for f in findings] == [row[5:28].strip() for row in rows] and len(rows) >= 18
    assert [f["ok"] for f in findings] == [row.startswith("yes") for row in rows]
    assert f"{sum(f['ok'] for f in findings)} of {len(findings)} available; " in table.stdout.splitlines()[-1]


# -- data ----------------------------------------------------------------------------------------------------------
def test_synthetic_records_overwrite_nothing(main, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    for place in ("used", "used/mine"):
        assert "is not empty" in refused(main("data", "synthetic", "--out", tmp_path / place))
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["mine"]


# -- eval ----------------------------------------------------------------------------------------------------------
def test_eval_refuses_the_labelled_records_as_predictions(main, val, tmp_path):
    copy = tmp_path / "preds.jsonl"
    for text in (val.read_bytes(), val.read_bytes().replace(b"\n", b"\r\n")):
        copy.write_bytes(text)
        assert "the labelled records themselves" in refused(main("eval", "terra", copy, val))


@pytest.mark.parametrize(("text", "value"), [("4096", 4096), ("64M", 64 << 20), ("2GiB", 2 << 30), ("1KB", 1024)])
def test_sizes_take_units(text, value):
    assert arguments.size(text) == value


@pytest.mark.parametrize("text", ["0", "1.5G", "2X", "MB", "64MM"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="not a size"):
        arguments.size(text)


def test_eval_reads_predictions_from_a_pipe(morocco, predictions, val):
    done = morocco("eval", "terra", "/dev/stdin", val, input=predictions.read_bytes())
    assert (done.returncode, json.loads(done.stdout)) == (0, {"accuracy": 0.75})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "1 x missing-idx"),
        (lambda lines: [b"\x00\xff" * 1000], "broken-line: not UTF-8"),
    ],
)
def test_wrong_predictions_exit_1_and_leave_stdout_empty(main, predictions, val, change, message):
    predictions.write_bytes(b"".join(change(predictions.read_bytes().splitlines(keepends=True))))
    text = refused(main("eval", "terra", predictions, val), code=1)
    assert message in text and len(text) < 20_000


def test_eval_refuses_what_it_cannot_read(main, predictions, val, tmp_path):
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 9)
    test = val.with_name("test.jsonl")
    for preds, gold, message in (
        (tmp_path / "missing", val, "cannot read"),
        (predictions, tmp_path, "cannot read"),
        (predictions, tmp_path / "garbage", "garbage, line 1: broken JSON"),
        (predictions, predictions, "preds.jsonl, line 1: 'premise' is absent"),
        (predictions, test, "300 of 300 records in"),
    ):
        assert message in refused(main("eval", "terra", preds, gold))


# -- train ---------------------------------------------------------------------------------------------------------
def test_train_into_a_folder_with_anything_in_it_is_refused(main, synthetic_data, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for place in (tmp_path, tmp_path / "mine"):
        done = main("train", "majority", "terra", "--data", synthetic_data, "--out", place)
        assert "is not empty; a result is never overwritten" in refused(done)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine").read_text() == "mine"


def test_train_prints_what_train_json_holds(main, synthetic_data, tmp_path):
    done = main("train", "majority", "terra", "--data", synthetic_data, "--out", tmp_path / "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "out" / "train.json").read_text(encoding="utf-8"))
    assert (result["task"], result["kind"], result["data"]["origin"]) == ("terra", "majority", "synthetic")
    assert result["data"]["records"] == sum(result["labels"].values()) == 1500
    assert result["weights_bytes"] == sum(p.stat().st_size for p in (tmp_path / "out" / "weights").iterdir())
    assert json.loads((tmp_path / "out" / "status.json").read_text(encoding="utf-8"))["state"] == "done"


def test_training_that_cannot_work_is_refused_and_recorded(main, val, tmp_path):
    (tmp_path / "unlabelled").mkdir()
    shutil.copy(val.with_name("test.jsonl"), tmp_path / "unlabelled" / "train.jsonl")
    (tmp_path / "one label").mkdir()
    same = [json.dumps({**r, "label": TERRA.labels[0]}) for r in TERRA.read(val)]
    (tmp_path / "one label" / "train.jsonl").write_text("\n".join(same))
    for name, message in (("unlabelled", "300 of 300 records"), ("one label", "cannot be fitted")):
        out = tmp_path / f"out {name}"
        assert message in refused(main("train", "tfidf", "terra", "--data", tmp_path / name, "--out", out))
        status = json.loads((out / "status.json").read_text(encoding="utf-8"))
        assert (status["state"], status["exit"]) == ("failed", 2) and message in status["error"]
        assert not (out / "weights").exists()


def test_train_infer_and_eval_work_in_a_folder_with_spaces_and_cyrillic(main, synthetic_data, tmp_path):
    home = tmp_path / "моя папка, с 'пробелами'"
    shutil.copytree(synthetic_data, home / "дан ные")
    done = main("train", "tfidf", "terra", "--data", "дан ные", "--out", "обу чено", cwd=home)
    assert (done.returncode, done.stdout) == (0, "обу чено/weights\n")
    assert "1500 TERRa records (synthetic)" in done.stderr
    val = home / "дан ные" / "TERRa" / "val.jsonl"
    done = main("infer", "обу чено", "terra", "--batch-size", 8, input=val.read_bytes(), cwd=home)
    assert done.returncode == 0
    (home / "ответы.jsonl").write_text(done.stdout, encoding="utf-8")
    done = main("eval", "terra", "ответы.jsonl", val, cwd=home)
    assert done.returncode == 0 and 0.75 <= json.loads(done.stdout)["accuracy"] <= 0.95


def test_an_option_takes_a_path_as_people_write_it(main, tmp_path):
    done = main("data", "synthetic", "terra", "--out", "~/$SUB/records", env={"HOME": str(tmp_path), "SUB": "sub"})
    assert done.returncode == 0 and (tmp_path / "sub/records/TERRa/val.jsonl").is_file()
    done = main("eval", "terra", "$NOWHERE/a", "b")
    assert done.returncode == 2 and "$NOWHERE/a: the variable $NOWHERE is not set" in done.stderr
