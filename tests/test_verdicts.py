"""Clean measurements are not called INVALID, noise beyond any bound is, and every named fault has a test that injects it."""

import importlib.util
import re
import sys

import numpy as np
import pytest
from conftest import ROOT

from morocco_lib.analysis import estimate
from morocco_lib.analysis.estimate import Run
from morocco_lib.analysis.summary import derive
from morocco_lib.reasons import NOTES, Reason

EVIDENCE = ROOT / "docs" / "evidence.md"


@pytest.fixture(scope="module")
def verdicts():
    spec = importlib.util.spec_from_file_location("verdicts", ROOT / "benchmarks" / "verdicts.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "verdicts", module)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        yield module


# -- clean runs ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_of_simulated_clean_benches_1_percent_are_invalid_at_most(verdicts):
    # Of a share of 0.5 %, more than 6 in 300 come once in 1,000 times; of a share of 4 %, 6 or fewer once in 24.
    found = verdicts.judged(seed=4, count=300)
    assert found["invalid"] <= 6 and found["invalid_runs"] <= 0.01 * found["runs"], found
    assert found["no_speed"] <= 0.05 * found["experiments"], found


def test_a_few_clean_benches_are_valid(verdicts):
    found = verdicts.judged(seed=3, count=25)
    assert found["runs"] >= 75 and found["invalid"] <= 1, found


def test_every_code_is_simulated_or_said_to_be_not(verdicts):
    named = [*verdicts.AS_STATED, *verdicts.WITH_NOISE, *verdicts.NOT_SIMULATED]
    assert len(named) == len(set(named))
    # What is not named is why a number is missing, and judges nothing.
    text = (ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
    kinds = dict(re.findall(r"^\| `([A-Z_]+)` \| (\w+) \|", text, re.M))
    assert set(named) == {reason for reason in Reason if kinds[reason] != "dash"}


BENCH = {
    "program": "stream", "repeats": 5, "batch": 4, "per_s": 100.0, "init_s": 0.5, "between": 0.01, "within": 0.1,
    "cores": 2, "run_cores": 1.0, "others_cores": 0.05, "gpu": True, "cold_first": False,
}  # fmt: skip


def test_noise_of_an_honest_run_says_nothing(verdicts, tmp_path):
    made = verdicts.Bench(**BENCH)
    result = verdicts.experiment(np.random.default_rng(1), made, tmp_path)
    assert result["reasons"] == [] and result["kept_answers"]["fires"] is False
    assert result["speed_per_s"]["value"] == pytest.approx(made.per_s, rel=0.05)


@pytest.mark.parametrize(
    ("change", "constants", "reason"),
    [
        ({"others_cores": 1.5}, {}, Reason.BUSY_MACHINE),
        ({"others_cores": 0.8}, {}, Reason.SHARED_MACHINE),
        ({}, {"LATE_SAMPLE": 0.02, "LATE_SAMPLE_S": 1.0}, Reason.SAMPLER_GAPS),
        ({}, {"SLEW": 0.5}, Reason.CLOCK_TROUBLE),
        ({}, {"POWER_CAP": 0x40}, Reason.GPU_THROTTLED),
    ],
    ids=lambda value: value.lower() if isinstance(value, str) else "",
)
def test_the_same_noise_beyond_its_bound_is_told(verdicts, tmp_path, monkeypatch, change, constants, reason):
    for name, value in constants.items():
        monkeypatch.setattr(verdicts, name, value)
    result = verdicts.experiment(np.random.default_rng(1), verdicts.Bench(**BENCH | change), tmp_path)
    assert reason in result["reasons"] and (result["verdict"] == "VALID") == (reason in NOTES)


def test_a_chunk_that_is_lost_from_a_clean_run_is_told(verdicts, tmp_path):
    verdicts.experiment(np.random.default_rng(1), verdicts.Bench(**BENCH), tmp_path)
    chunks = tmp_path / "runs" / "02" / "chunks.jsonl"
    chunks.write_text("".join(chunks.read_text().splitlines(keepends=True)[:-1]))
    result = derive(tmp_path)
    assert "LOG_TRUNCATED" in result["reasons"] and result["per_run"][0]["verdict"] == "VALID"


# -- readiness against what the GPU did ----------------------------------------------------------------------------
def gpu_run(busy: list[tuple[float, float]], *, ready_s, last_s, lines=100, told=True, used=True) -> Run:
    """Return a run whose GPU is fully used in these stretches, sampled ten times a second."""
    arrivals = [(ready_s + (last_s - ready_s) * (k + 1) / 10, lines // 10) for k in range(10)]
    samples = []
    for tick in range(1, int(last_s * 10) + 2):
        at = tick / 10
        share = sum(max(0.0, min(at, end) - max(at - 0.1, begin)) for begin, end in busy) / 0.1
        samples.append({"t_ns": int(at * 1e9), "gpu": 0, "utilisation_share": share if told else None})
        samples.append({"t_ns": int((at + 0.05) * 1e9), "gpu": 0})  # a sample without the state of the device
    facts = {"phases": {"ready_s": ready_s, "exit_s": last_s + 0.1}, "batch_size": 10}
    facts["gpu"] = {"devices": [{"used_by_run": used}]}
    return Run(ROOT, facts, arrivals, [], samples)


SHORT = {"busy": [(1.5, 2.1)], "ready_s": 2.0, "last_s": 2.1, "lines": 10}  # loads the model, and answers one batch


@pytest.mark.parametrize(
    ("busy", "ready_s", "last_s", "options", "believed"),
    [
        ([(1.5, 12.0)], 2.0, 12.0, {}, True),
        ([(1.5, 2.0), (2.0, 4.0)], 2.0, 12.0, {}, True),  # a GPU that waits for the processor most of the time
        ([(1.5, 10.0)], 10.0, 12.0, {}, False),  # all was computed before readiness was told
        ([(1.5, 6.0), (7.0, 12.0)], 7.0, 12.0, {}, False),  # half of it
        ([(0.5, 2.6)], 2.6, 12.0, {}, False),  # and none after
        ([(1.5, 10.0)], 10.0, 12.0, {"told": False}, True),
        ([(1.5, 10.0)], 10.0, 12.0, {"used": False}, True),
    ],
)
def test_gpu_work_before_readiness_that_short_runs_do_not_have_is_work(busy, ready_s, last_s, options, believed):
    run, short = gpu_run(busy, ready_s=ready_s, last_s=last_s, **options), gpu_run(**SHORT)
    short.facts["phases"]["exit_s"] = ready_s + 0.2  # so that the clock alone says nothing
    found, notes = estimate.speed([run], [short])
    assert (found.get("method") == "stream") == believed
    assert notes == ([] if believed else [Reason.WORK_NOT_SEEN])


def test_without_a_gpu_or_a_short_run_readiness_is_believed():
    run = gpu_run([(0.0, 10.0)], ready_s=10.0, last_s=12.0)
    assert estimate.speed([run])[0]["method"] == "stream"
    run.facts["gpu"] = Reason.NO_GPU
    short = gpu_run(**SHORT)
    short.facts["phases"]["exit_s"] = 10.2
    assert estimate.speed([run], [short])[0]["method"] == "stream"


# -- the table of faults -------------------------------------------------------------------------------------------
FAULTS = {
    "CPU hog", "other GPU process", "wrong count", "duplicate idx", "missing line", "non-zero exit", "OOM",
    "killed worker", "truncated log", "throttling", "drift", "bimodal start-up", "sampler gaps", "clock trouble",
    "cached answers",
}  # fmt: skip


def injected() -> list[tuple[str, str, str]]:
    text = EVIDENCE.read_text(encoding="utf-8")
    return re.findall(r"^\| ([^|]+) \| `([A-Z_]+)` \| `tests/([\w/]+\.py::\w+)` \|", text, re.M)


def test_every_fault_is_injected_by_a_test_that_exists_and_names_its_code():
    rows = injected()
    assert {fault for fault, _, _ in rows} == FAULTS
    for fault, code, test in rows:
        name, function = test.split("::")
        text = (ROOT / "tests" / name).read_text(encoding="utf-8")
        begin = re.search(rf"((?:^@.*\n(?:^[ )].*\n)*)*)^def {function}\(", text, re.M)
        assert begin, (fault, test)
        body = re.split(r"^(?:def|class|@)", text[begin.end() :], maxsplit=1, flags=re.M)[0]
        assert Reason(code) and code in begin.group(0) + body, (fault, test, code)
