"""Simulated clean benches are not called INVALID, and the same noise beyond its bound is."""

import importlib.util
import re
import sys

import numpy as np
import pytest
from helpers import ROOT

from morocco_lib.analysis.summary import derive
from morocco_lib.reasons import NOTES, Reason

pytestmark = pytest.mark.real_load  # simulated


@pytest.fixture(scope="module")
def verdicts():
    spec = importlib.util.spec_from_file_location("verdicts", ROOT / "benchmarks" / "verdicts.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "verdicts", module)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        yield module


# -- clean runs ----------------------------------------------------------------------------------------------------
def test_of_simulated_clean_benches_1_percent_are_invalid_at_most(verdicts):
    # Of a share of 0.5 %, more than 4 in 150 come once in 1,000 times; of a share of 6 %, 4 or fewer once in 20.
    found = verdicts.judged(seed=4, count=150)
    assert found["invalid"] <= 4 and found["invalid_runs"] <= 0.01 * found["runs"], found
    assert found["no_speed"] <= 0.05 * found["experiments"], found


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
        ({"others_cores": 0.6}, {}, Reason.SHARED_MACHINE),
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
