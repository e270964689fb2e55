"""`morocco check`: every fault is caught by its own rule and by no other, honest programs pass, in few starts."""

import json
import os
import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

import engine
import pytest
from helpers import ROOT
from servers import PYTHON, server

from morocco_lib import data
from morocco_lib.benchmark import conformance, contract_run
from morocco_lib.benchmark.target import Program, Target, program_of_image
from morocco_lib.errors import UsageError
from morocco_lib.runners import engine as engines
from morocco_lib.runners.contract import Exit, Limits
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task

TERRA = get_task("terra")
LIMITS = Limits(timeout_s=60)

BAD = {  # what a program does -> the rule that fails, and no other
    "missing": "complete",
    "swallows": "complete",
    "duplicate": "unique",
    "text-idx": "known-idx",
    "counts-lines": "known-idx",
    "label": "valid",
    "hopes-for-label": "valid",
    "latin-1": "utf-8",
    "ascii": "utf-8",
    "broken": "json",
    "banner": "only-answers",
    "progress": "only-answers",
    "flood": "only-answers",
    "dies": "exit-code",
    "segfault": "exit-code",
    "no-option": "batch-option",
    "needs-label": "no-label",
    "never-ends": "ends",
    "by-batch-size": "same-batches",
    "rare-batch": "same-batches",
    "by-neighbours": "same-batches",
    "crash-at-1": "same-batches",
    "by-idx": "place",
    "by-history": "place",
    "by-chance": "repeatable",
    "wants-line-feed": "last-line",
    "impatient": "late-stdin",
}
HONEST = {  # what a program does -> the rules that warn
    None: [],
    "one-by-one": [],
    "writes-tmp": [],
    "talks": [],
    "no-ready": [],
    "held": ["flush"],
    "sorted": ["order", "flush"],
    "wants-records": ["empty-input"],
}


@pytest.fixture(scope="session")
def val(synthetic_data):
    return synthetic_data / "TERRa" / "val.jsonl"


@pytest.fixture(autouse=True)
def soon(monkeypatch, request):
    """Late is a tenth of a second, and a program that never ends is given up after one."""
    if "never-ends" in request.node.name:
        monkeypatch.setattr(contract_run, "END_S", 1.0)
    if "impatient" not in request.node.name:
        monkeypatch.setattr(contract_run, "LATE_S", 0.1)


def program(fault: str | None) -> list[str]:
    return server("contract", *(("--fault", fault) if fault else ()))


def checked(argv, records, task=TERRA, limits=LIMITS, **options):
    return conformance.check(Target(Program(argv, "model"), ProcessRunner(), limits), task, records, **options)


def finding(report, rule):
    return next(f for f in report.findings if f.rule == rule)


# -- one rule a fault ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("fault", "rule"), BAD.items())
def test_a_fault_is_caught_by_its_rule_and_by_no_other(fault, rule, val):
    report = checked(program(fault), val)
    assert report.rules("fail") == [rule], report.text()
    assert not report.ok and report.starts <= 6
    found = finding(report, rule)
    assert found.seen and found.rule_text and found.remedy
    assert [f.rule for f in report.findings] == list(conformance.RULES)


@pytest.mark.parametrize(("fault", "warnings"), HONEST.items())
def test_an_honest_program_passes_in_five_starts(fault, warnings, val):
    report = checked(program(fault), val)
    assert report.ok and set(report.rules("warn")) == set(warnings), report.text()
    assert report.starts == 5
    not_judged = {"offline", "read-only"} | ({"ready"} if fault == "no-ready" else set())
    assert set(report.rules("open")) == not_judged


def test_a_process_left_behind_is_a_warning(val):
    report = checked(program("child"), val)
    assert report.ok and report.rules("warn") == ["left-processes"], report.text()


def test_a_program_that_ends_never_without_records_is_caught(val):
    report = checked(program("never-ends-without-records"), val, limits=Limits(timeout_s=4))
    assert report.rules("fail") == ["ends"]


def test_our_own_program_passes(val, fitted):
    argv = [sys.executable, "-m", "morocco_lib", "infer", str(fitted)]
    report = conformance.check(Target(Program(argv, "tfidf"), ProcessRunner(cwd=ROOT), LIMITS), TERRA, val)
    assert report.ok and report.rules("warn") == [], report.text()


@pytest.mark.parametrize(
    "task", [get_task(name) for name in ("lidirus", "muserc", "rucos")], ids=lambda task: task.name
)
def test_every_task_can_be_checked(task, synthetic_data, tmp_path):
    records = data.read_split(synthetic_data, task, "val")[1]
    script = tmp_path / "constant.py"
    script.write_text(
        "import json, sys\n"
        "from morocco_lib.tasks import get_task\n"
        f"task, state = get_task({task.name!r}), {task.majority([task.gold(r) for r in records])!r}\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    if number != 2:\n"
        "        print(task.format(task.constant(state, json.loads(line))), flush=True)\n",
        encoding="utf-8",
    )
    report = checked(["/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, str(script)], records, task)
    assert report.rules("fail") == ["complete"], report.text()
    assert not report.rules("warn")


def test_a_record_answered_in_part_is_not_answered(synthetic_data, tmp_path):
    script = tmp_path / "part.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    record = json.loads(line)\n"
        "    questions = [{'idx': q['idx'], 'answers': [{'idx': a['idx'], 'label': 1} for a in q['answers']]}\n"
        "                 for q in record['passage']['questions']]\n"
        "    if record['idx'] % 2:\n"
        "        questions[0]['answers'].pop()\n"
        "    print(json.dumps({'idx': record['idx'], 'passage': {'questions': questions}}), flush=True)\n"
    )
    report = checked([*PYTHON, str(script)], synthetic_data / "MuSeRC" / "val.jsonl", get_task("muserc"))
    assert report.rules("fail") == ["complete"], report.text()
    assert finding(report, "complete").seen == "batch size 8: records were answered in part"


# -- what is fed ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("asked", "used"), [(25, 25), (24, 23), (16, 14), (3, 2), (1, 1), (10**6, 100)])
def test_the_last_batch_is_not_full(asked, used, val):
    records = TERRA.read(val)[:100]
    picked = conformance._pick(TERRA, records, asked, None)
    assert len(picked) == used and picked == records[:used]


def test_no_record_at_all_is_wrong_usage(val):
    with pytest.raises(UsageError, match="at least one record is fed"):
        checked(program(None), [])


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_records_are_enough(count, val):
    report = checked(program(None), TERRA.read(val)[:count])
    assert report.ok and report.rules("warn") == [] and (finding(report, "flush").state == "pass") == (count == 2)


def test_no_label_is_fed_and_no_idx_is_a_line_number(val, tmp_path):
    log = tmp_path / "fed"
    script = tmp_path / "tee.py"
    script.write_text(
        "import sys, json\n"
        "out = open(sys.argv[1], 'ab')\n"
        "for line in sys.stdin.buffer:\n"
        "    out.write(line.rstrip() + b'\\n')\n"
        "    print(json.dumps({'idx': json.loads(line)['idx'], 'label': 'entailment'}), flush=True)\n"
    )
    log.touch(), log.chmod(0o666)
    assert checked([sys.executable, str(script), str(log)], val).ok
    fed = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert len(fed) == 4 * 25
    assert all(set(record) == {"idx", "premise", "hypothesis"} for record in fed)
    assert min(record["idx"] for record in fed) > 25
    assert len({record["idx"] for record in fed}) == 2 * 25
    same = {json.dumps([record["premise"], record["hypothesis"]]) for record in fed}
    assert same == {json.dumps([r["premise"], r["hypothesis"]]) for r in TERRA.read(val)[:25]}


# -- what is reported --------------------------------------------------------------------------------------------------
def test_a_share_of_one_in_a_hundred_is_a_warning(val):
    records = TERRA.read(val)
    report = checked(program("rare-batch"), records, count=100)
    assert report.records == 100 and report.rules("fail") == [] and report.rules("warn") == ["same-batches"]
    seen = finding(report, "same-batches").seen
    assert f"1 of 100 records answered differently than at batch size 8 (idx {records[4]['idx']})" in seen


def test_records_are_named_by_the_idx_of_the_file(val):
    records = [TERRA.reindex(record, 500 + n) for n, record in enumerate(TERRA.read(val))]
    report = checked(program("missing"), records)
    assert finding(report, "complete").seen == "batch size 8: 1 of 25 records not answered (idx 503)"
    assert "record idx 503" in finding(checked(program("label"), records), "valid").seen


def test_a_record_is_shown_as_fed_and_as_answered(val):
    report = checked(program("broken"), val, show="3")
    first, *_, moved = report.shown
    assert first["start"] == "batch size 8" and not first["answered"][0].endswith("}")
    assert json.loads(first["fed"])["premise"] == TERRA.read(val)[3]["premise"] == json.loads(moved["fed"])["premise"]
    assert json.loads(moved["answered"][0])["idx"] == json.loads(moved["fed"])["idx"]
    assert len(report.shown) == 4
    assert first["fed"] in report.text()


def test_a_record_that_is_none_of_the_first_can_be_shown(val):
    report = checked(program(None), val, show="77")
    assert json.loads(report.shown[0]["fed"])["premise"] == TERRA.read(val)[77]["premise"]
    with pytest.raises(UsageError, match="no record has idx 9999"):
        checked(program(None), val, show="9999")


def test_stderr_of_the_first_faulty_start_is_cut_and_harmless(val, tmp_path):
    script = tmp_path / "bad.py"
    text = "import sys\nfor n in range(3000): print(f'\\x1b[2J{n} ' + 'x' * 400, file=sys.stderr)\nsys.exit(4)\n"
    script.write_text(text)
    report = checked([sys.executable, str(script)], val)
    assert report.rules("fail") == ["exit-code"] and report.stderr_of == "batch size 8"
    assert checked(program("no-ready"), str(val)).stderr == checked(program("missing"), val).stderr == ()
    assert len(report.stderr) == 11 and report.stderr[5] == "..."
    assert report.stderr[0].startswith("\\x1b[2J0 x") and report.stderr[-1].startswith("\\x1b[2J2999 x")
    assert all(len(line) < 200 and line.isprintable() for line in report.stderr)
    assert "\x1b" not in report.text() and checked(program(None), val).stderr == ()


def test_what_a_terminal_would_obey_is_escaped(val):
    for fault in ("banner", "label", "progress"):
        text = checked(program(fault), val, show="3").text()
        assert all(c.isprintable() or c == "\n" for c in text), fault


def test_a_program_that_only_starts_to_fail_is_not_started_five_times(val):
    report = checked([sys.executable, "-c", "import sys; sys.exit('no weights')"], val)
    assert report.starts == 2 and report.rules("fail") == ["exit-code"]  # the second without --batch-size
    assert report.stderr == ("no weights",)
    assert set(report.rules("open")) > {"same-batches", "place", "valid"}
    assert finding(report, "valid").seen == "not judged, see exit-code"


def test_a_slow_program_is_reported_as_such(val):
    report = checked([*PYTHON, "-c", "import time; time.sleep(60)"], val, limits=Limits(timeout_s=0.5))
    assert report.rules("fail") == ["ends"] and report.starts == 1
    assert finding(report, "ends").seen.startswith("batch size 8: not done within 0.5 s, 25 of 25 records not answered")
    assert "--timeout" in finding(report, "ends").remedy


def test_a_report_shows_itself_as_its_text(val):
    report = checked(program("label"), val)
    assert repr(report) == report.text() and report.text().splitlines()[-1] == report.summary()
    assert report.summary().startswith("FAIL: model on terra, 25 records, 5 starts: ")


# -- the verb ------------------------------------------------------------------------------------------------------
def test_the_verb_prints_a_line_a_rule_and_its_exit_code(main, val):
    done = main("check", "--command", shlex.join(program("label")), "terra", "--data", val)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[: len(conformance.RULES)]] == [
        [line.split()[0], rule] for line, rule in zip(lines, conformance.RULES, strict=False)
    ]
    assert lines[-1].startswith("FAIL: contract on terra, 25 records, 5 starts: ")
    assert done.stderr.splitlines()[0] == "start 1: batch size 8" and len(done.stderr.splitlines()) == 5
    done = main("check", "--command", shlex.join(program(None)), "terra", "--data", val, "--quiet", "--model", "mine")
    assert (done.returncode, done.stderr) == (0, "") and "PASS: mine on terra" in done.stdout


def test_the_verb_prints_the_same_for_machines(main, val):
    done = main("check", "--command", shlex.join(program("label")), "terra", "--data", val, "--json", "--show", "3")
    result = json.loads(done.stdout)
    assert done.returncode == 1 and done.stdout.count("\n") == 1
    assert (result["schema"], result["ok"], result["runner"], result["records"], result["starts"]) == (
        1,
        False,
        "process",
        25,
        5,
    )
    assert [f["rule"] for f in result["findings"]] == list(conformance.RULES)
    assert set(result["findings"][0]) == {"rule", "state", "seen", "rule_text", "remedy"}
    assert [f["rule"] for f in result["findings"] if f["state"] == "fail"] == ["valid"] and len(result["shown"]) == 4


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("true", ("terra", "--data", "missing.jsonl"), "cannot read missing.jsonl"),
        ("true", ("tera", "--data", "missing.jsonl"), "did you mean 'terra'"),
        ("true", ("terra",), "--data"),
        ("no-such-program", ("terra", "--data", "missing.jsonl"), "no program 'no-such-program'"),
    ],
)
def test_wrong_usage_is_no_broken_rule(main, command, options, message):
    done = main("check", "--command", command, *options)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr


def test_a_variable_is_handed_over_by_its_name(main, val):
    command = shlex.join([*PYTHON, "-c", "import os, sys; sys.exit(f'it has {os.environ.get(\"CANARY\")}')"])
    words = ("check", "--command", command, "terra", "--data", val)
    assert "it has None" in main(*words, env={"CANARY": "7351"}).stdout
    assert "it has 7351" in main(*words, "--env", "HOME,CANARY", env={"CANARY": "7351"}).stdout
    done = main(*words, "--env", "NO_CANARY")
    assert done.returncode == 2 and "NO_CANARY not set" in done.stderr


# -- the same in containers ----------------------------------------------------------------------------------------
IN_CONTAINERS = {  # what differs there: the network, the disk, and how output and the end arrive through an engine
    **{"network": "offline", "writes": "read-only", "missing": "complete", "segfault": "exit-code"},
    **{"flood": "only-answers", "by-batch-size": "same-batches"},
}


@pytest.fixture(scope="module")
def image(docker_engine, tiny_image):
    """The name of an image whose program is tests/servers/contract.py; the fault is its argument."""
    source = (ROOT / "tests/servers/contract.py").read_text(encoding="utf-8")
    with engine.client(docker_engine) as docker:
        yield engine.build(docker, "morocco-tests/contract", {"contract.py": source}, ["python3", "/model/contract.py"])
        docker.images.remove("morocco-tests/contract", force=True)


def contained(image, fault, records, limits=LIMITS):
    from morocco_lib.runners.docker import DockerRunner

    runner = DockerRunner(image)
    argv = ["--fault", fault] if fault else []
    target = Target(replace(program_of_image(runner.image), argv=argv), runner, limits)
    return conformance.check(target, TERRA, records)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "rule"), IN_CONTAINERS.items())
def test_a_container_is_caught_by_the_same_rule(fault, rule, val, image):
    report = contained(image, fault, val)
    assert report.rules("fail") == [rule], report.text()
    assert report.runner == "docker" and report.image_digest.startswith("sha256:")


@pytest.mark.slow
def test_a_container_that_waits_for_the_network_for_ever_is_caught(val, image):
    assert contained(image, "network-for-ever", val, Limits(timeout_s=5)).rules("fail") == ["offline"]


@pytest.mark.slow
def test_a_container_that_may_write_to_the_disk_fails(val, image, docker_engine, monkeypatch):
    with engine.client(docker_engine) as docker:
        extra = 'VOLUME ["/my data"]'
        volume = engine.build(docker, "morocco-tests/disk", {"a": "b"}, ["python3", "/model/contract.py"], image, extra)
        assert contained(volume, None, val).ok
        find = engines.find_image
        monkeypatch.setattr(engines, "find_image", lambda *args: replace(find(*args), volumes=()))
        report = contained(volume, None, val)
    assert report.rules("fail") == ["read-only"] and "disk at /my data" in report.text()


@pytest.mark.slow
def test_an_honest_container_passes_and_the_verb_takes_an_image(main, val, image, docker_engine):
    report = contained(image, None, val)
    assert report.ok and not report.rules("warn") and not report.rules("open"), report.text()
    environment = {"DOCKER_HOST": os.environ.get("DOCKER_HOST", docker_engine)}
    done = main("check", "--image", image, "terra", "--data", val, env=environment)
    assert done.returncode == 0 and "pass  offline" in done.stdout
    done = main("check", "--image", "morocco-tests/none", "terra", "--data", val, env=environment)
    assert done.returncode == 2 and "morocco build" in done.stderr


def test_a_line_that_is_shown_is_cut_and_escaped():
    assert contract_run.plain("x" * 160) == "x" * 160 and contract_run.plain("x" * 161) == "x" * 160 + "..."
    assert contract_run.plain("да\x1b[2J\n") == "да\\x1b[2J"


OFFLINE, NO_WRITE = "[Errno -3] Temporary failure in name resolution", "[Errno 30] Read-only file system: '/model/x'"


@pytest.mark.parametrize(
    ("runner", "line", "rule"),
    [
        ("docker", OFFLINE, "offline"),
        ("process", OFFLINE, "exit-code"),  # it has the network
        ("docker", NO_WRITE, "read-only"),
        ("docker", "PermissionError: [Errno 13] Permission denied: '/root/.cache'", "read-only"),
        ("process", NO_WRITE, "exit-code"),
        ("process", "KeyError: 'label'", "no-label"),
        ("process", "UnicodeDecodeError: 'ascii' codec can't decode byte 0xd0", "utf-8"),
        ("docker", "ValueError: label", "exit-code"),
    ],
)
def test_the_cause_of_an_end_is_read_from_stderr_as_far_as_it_can_be(runner, line, rule):
    judge = conformance._Judge(TERRA, [], SimpleNamespace(name=runner))
    assert judge._cause(SimpleNamespace(stderr=[line, 'morocco: {"event": "ready"}'])) == rule


@pytest.mark.parametrize(("lines", "shown"), [(4, "1 2 3 4"), (5, "1 2 ... 4 5"), (6, "1 2 ... 5 6")])
def test_of_a_long_stderr_its_ends_are_shown(lines, shown):
    run = SimpleNamespace(stderr=[str(number) for number in range(1, lines + 1)])
    assert " ".join(contract_run.ContractRun.excerpt(run, 2)) == shown


@pytest.mark.parametrize(
    ("code", "number", "oom", "words"),
    [
        (3, None, False, "exit code 3"),
        (None, 11, False, "ended by SIGSEGV"),
        (None, 99, False, "ended by signal 99"),
        (None, 9, True, "killed, out of memory"),
    ],
)
def test_how_a_start_ended_is_said(code, number, oom, words):
    run = SimpleNamespace(conversation=SimpleNamespace(exit=Exit(code, number, oom, 0, 1)))
    assert contract_run.ContractRun.ending(run) == words
