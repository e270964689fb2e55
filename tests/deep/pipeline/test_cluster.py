"""A plan on the machines of a Ray cluster: two of them in network namespaces, started by the commands of docs/cluster.md."""

import json
import os
import secrets
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

import cluster
import s3
from helpers import ROOT, environment, wait_until, write_plan

from morocco_lib.artifacts import steps

TASKS = ["parus", "rcb", "rwsd", "terra"]
MODELS = [{"name": name, "kind": "majority"} for name in ("a", "b", "c")]
PAGE = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")


class Cluster:
    """Two machines, of which the first is the head, and a bucket."""

    def __init__(self, head: cluster.Machine, other: cluster.Machine, server, out: Path):
        self.head, self.other, self.client, self.out = head, other, server.client, out

    def start(self, machine: cluster.Machine, beginning: str) -> None:
        """Run the page's command that begins so on a machine."""
        (line,) = (line for line in PAGE.splitlines() if line.startswith(f".venv/bin/ray start {beginning}"))
        line = line.replace("10.0.0.1", self.head.address).replace("10.0.0.2", self.other.address)
        done = machine.run(Path(sys.executable).with_name("ray"), *shlex.split(line)[1:])
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, plan: Path) -> subprocess.Popen:
        words = ("--out", self.out, "--sync", "s3://plans/small", "--executor", "ray", "--json")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.head.start(sys.executable, "-m", "morocco_lib", "run", plan, *words, **pipes)

    def finished(self) -> dict[str, dict]:
        """Return the status of each step in the bucket, but for the records, which each machine makes for itself."""
        found = {}
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket="plans"):
            keys = [item["Key"] for item in page.get("Contents", ()) if item["Key"].endswith(f"/{steps.STATUS}")]
            for key in (key for key in keys if "/synthetic-" not in key):
                found[key] = json.loads(self.client.get_object(Bucket="plans", Key=key)["Body"].read())
        return found


def hosts(finished: dict[str, dict]) -> dict[str, str]:
    """Return which machine finished each bench step."""
    return {name: status["host"]["hostname"] for name, status in finished.items() if status["step"] == "bench"}


@pytest.fixture
def two(tmp_path):
    if os.geteuid():
        pytest.skip("network namespaces need root")
    (tmp_path / "token").write_text(secrets.token_hex())
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "MOROCCO_DATA": ""}
    own = [tmp_path / "shared", Path("/tmp/ray")]
    with cluster.machines(2, tmp_path, own, environment(auth)) as made, s3.running(f"{cluster.NET}.1") as server:
        for machine in made:
            machine.env |= server.env
        server.client.create_bucket(Bucket="plans")
        yield Cluster(*made, server, own[0] / "small")


@pytest.mark.long
def test_machines_that_die_are_made_up_for_and_nothing_done_is_repeated(two, tmp_path):
    plan = write_plan(tmp_path, models=MODELS, tasks=TASKS, steps=["bench"])
    alone = two.run(plan)
    assert "no Ray cluster" in alone.communicate(timeout=60)[1] and alone.returncode == 3
    two.start(two.head, "--head"), two.start(two.other, "--address")

    run = two.run(plan)
    assert wait_until(lambda: len(set(hosts(two.finished()).values())) == 2, 200)
    two.other.power_off()
    first = two.finished()
    assert wait_until(lambda: len(hosts(two.finished())) >= 9, 300)
    two.head.power_off()
    said, second = run.communicate(timeout=60)[1], two.finished()
    assert said.count("its machine is lost") == 1, said

    two.start(two.head, "--head")
    run = two.run(plan)
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    summary, third = json.loads(out), two.finished()
    assert [s["state"] for s in summary["steps"]] == ["kept"] * 12 and summary["verified"]
    assert {name: second[name] for name in first} == first and {name: third[name] for name in second} == second
    assert {host for name, host in hosts(third).items() if name not in first} == {two.head.name}
