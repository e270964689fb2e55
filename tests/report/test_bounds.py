"""The bound beside a measured speed: what parsing and serializing alone would reach."""

import gzip
import json
import time

import pytest

from morocco_lib.report.bounds import json_bound


@pytest.mark.parametrize(("name", "packed"), [("records.jsonl", bytes), ("records.jsonl.gz", gzip.compress)])
def test_the_bound_counts_one_parse_and_one_answer_a_record(name, packed, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(packed(b'{"idx": 1}\n' * 40 + b"\n"))
    (tmp_path / "answers").write_bytes(b'{"idx": 1, "label": "a"}\n' * 3 + b"no JSON \xff\n" + b"[" * 10**5)
    clock, loads, dumps = [0.0], json.loads, json.dumps

    def costing(function, seconds):
        def call(*args, **options):
            clock[0] += seconds
            return function(*args, **options)

        return call

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(json, "loads", costing(loads, 0.003))
    monkeypatch.setattr(json, "dumps", costing(dumps, 0.001))
    assert json_bound(tmp_path / name, tmp_path / "answers") == pytest.approx(1 / 0.004)
