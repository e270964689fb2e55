"""A machine of a Ray cluster with two GPUs (as it says): two parts at once, each with a GPU and half of the cores."""

import json
import os
import sys
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("ray")

import cluster
import s3
from helpers import ROOT, write_plan

SLOTS = ["--num-gpus", 2, "--resources", '{"bench_slot": 2}']


@pytest.fixture
def machine(tmp_path):
    if os.geteuid() or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("network namespaces need root, and two parts two cores")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MOROCCO_DATA": ""}
    with cluster.machines(1, tmp_path, [tmp_path / "out"], env) as (made,), s3.running(f"{cluster.NET}.1") as server:
        made.env |= server.env
        server.client.create_bucket(Bucket="plans")
        ray = Path(sys.executable).with_name("ray")
        done = made.run(ray, "start", "--head", "--node-ip-address", made.address, "--port", 6379, "--include-dashboard=false",
                        "--disable-usage-stats", *SLOTS)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield made


@pytest.mark.timed
@pytest.mark.long
def test_two_parts_at_once_have_a_gpu_and_cores_of_their_own_and_are_no_load_of_others(machine, tmp_path):
    plan = write_plan(tmp_path, tasks=["terra", "rcb"], steps=["bench"], input_size=20_000, repeats=2)
    words = ("--out", tmp_path / "out/small", "--sync", "s3://plans/small", "--executor", "ray")
    done = machine.run(sys.executable, "-m", "morocco_lib", "run", plan, *words)
    assert done.returncode == 0, done.stderr
    parts = [(machine.home / f"out/small-{number}-of-2").resolve() for number in (1, 2)]
    one, other = (json.loads(next(part.rglob("bench-*/status.json")).read_text()) for part in parts)
    assert max(one["started"], other["started"]) < min(one["ended"], other["ended"])
    runs = [[json.loads(path.read_text()) for path in part.rglob("run.json")] for part in parts]
    assert [{(run["settings"]["CUDA_VISIBLE_DEVICES"], run["settings"]["cores"]) for run in of_part} for of_part in runs] in (
        [{("0", 1)}, {("1", 1)}], [{("1", 1)}, {("0", 1)}],
    )  # fmt: skip
    load = [run["others"] for of_part in runs for run in of_part]
    assert {others["of_cores"] for others in load} == {1} and median(others["cores"] for others in load) < 0.4
