"""Programs that keep answers, were given them, or know what is not scored: measured at their true speed, or INVALID."""

import json

import pytest
from cheating import measured
from helpers import write_records
from run_folders import TERRA
from servers import server

from morocco_lib.analysis.caching import PAIRS
from morocco_lib.analysis.run_files import read_workload
from morocco_lib.benchmark import protocol
from morocco_lib.benchmark.evaluate import evaluate
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.runners.process import ProcessRunner


@pytest.mark.parametrize("keep", ["text", "premise", "hypothesis"])
def test_a_cache_gains_nothing_within_a_run(tmp_path, keep):
    result = measured(tmp_path, keep, repeats=2, quick=True)
    assert result["speed_per_s"]["value"] == pytest.approx(500, rel=0.3)
    assert result["input"]["distinct"] == 60 and result["input"]["size"] == 120


@pytest.mark.parametrize(("keep", "reason"), [("known", "CACHED_ANSWERS"), ("skip", "WORK_SKIPPED")])
def test_a_program_that_knows_the_file_is_found(tmp_path, keep, reason):
    result = measured(tmp_path, keep, repeats=2)
    assert reason in result["reasons"] and result["verdict"] == "INVALID"
    assert len(result["kept_answers"]["pairs"]) == 2 * PAIRS


def test_what_a_machine_makes_look_like_a_cache_is_looked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "kept_answers", lambda folder, facts, first_use_s: {"fires": True})
    result = measured(tmp_path, "text", repeats=2, ms=1.0)
    assert len(result["kept_answers"]["pairs"]) == 2 * PAIRS and result["verdict"] == "VALID"


def test_eval_feeds_the_file_shuffled_and_writes_predictions_in_its_order(tmp_path):
    source = write_records(tmp_path / "val.jsonl", 60, premise_chars=20)
    orders = []
    for name in ("one", "other"):
        (out := tmp_path / name).mkdir()
        evaluate(Target(Program(server("cached", "--ms", 0), "m"), ProcessRunner()), TERRA, source, out, batch_size=4)
        orders.append(read_workload(out / "runs/01")["order"])
        idx = [json.loads(line)["idx"] for line in (out / "preds.jsonl").read_text().splitlines()]
        assert idx == [record["idx"] for record in TERRA.read(source)]
    assert orders[0] != orders[1] and [sorted(order) for order in orders] == [[*range(60)]] * 2
