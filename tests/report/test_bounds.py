"""The bound beside a measured speed: what parsing and serializing alone would reach."""

import gzip
import json
import time

import pytest

from morocco_lib.report.bounds import json_bound
from morocco_lib.tasks import get_task


def terra(count):
    records = ({"premise": "a", "hypothesis": "b", "idx": k, "label": "entailment"} for k in range(count))
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def rucola(count):
    return b"id,sentence,acceptable\n" + b"".join(b"%d,a b,1\n" % k for k in range(count))


@pytest.mark.parametrize(
    ("name", "made", "packed"),
    [("terra.jsonl", terra, bytes), ("terra.jsonl.gz", terra, gzip.compress), ("rucola.csv", rucola, bytes)],
)
def test_the_bound_counts_one_parse_and_one_answer_a_record(name, made, packed, tmp_path, monkeypatch):
    task = get_task(name.split(".")[0])
    (tmp_path / name).write_bytes(packed(made(40) + b"\n"))
    records = task.read(tmp_path / name)
    monkeypatch.setattr(type(task), "read", lambda self, path: records)  # it parses too, before the clock starts
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
    assert json_bound(task, tmp_path / name, tmp_path / "answers") == pytest.approx(1 / 0.004)
