"""Speeds, start-ups and memory that are known, measured in one short run each; many of them: tests/deep/benchmark."""

import json
import os
import select
import subprocess
import sys

import pytest
from truth import original_method, pool
from truth.pool import Setting

SHORT = {"init_s": 0.4, "work_s": 0.8}


@pytest.mark.parametrize(
    ("setting", "method"),
    [
        (Setting(**SHORT, spread=0.2, late_stdin=True), "stream"),
        (Setting(**SHORT, flush="buffer", ready=False, late_stdin=True, rate=2000), "stream"),
        (Setting(**SHORT, flush="end"), "ready"),
    ],
    ids=["late-stdin", "unflushed-without-readiness", "held-back"],
)
def test_speed_and_start_up_of_one_run_are_near_the_truth(setting, method, tmp_path):
    trial = pool.ours(setting, tmp_path / "run")
    speed, init = trial.result["speed_per_s"], trial.result["init_s"]
    assert abs(trial.error) <= 0.03 and (speed["method"], speed["scope"]) == (method, "run")
    assert abs(trial.init_error_s) <= 0.1 and init["method"] == ("ready" if setting.ready else method)


def test_memory_that_is_held_is_measured(tmp_path):
    quick = {"init_s": 0.2, "work_s": 0.3}
    without, held = (pool.ours(Setting(**quick, memory_mib=m), tmp_path / str(m)) for m in (0, 100))
    found = held.result["ram_bytes"]["value"] - without.result["ram_bytes"]["value"]
    assert (
        found == pytest.approx(held.truths[0]["held_bytes"], rel=0.02) and held.truths[0]["held_bytes"] == 100 * 2**20
    )


# -- the instruments ------------------------------------------------------------------------------------------------
def test_the_pipes_before_a_program_that_does_not_read_hold_as_much_as_those_of_docker():
    program, relay = original_method.start([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"])
    fd, held = relay.stdin.fileno(), 0
    os.set_blocking(fd, False)
    room = select.poll()
    room.register(fd, select.POLLOUT)
    while room.poll(300):
        held += os.write(fd, b"x" * 4096)
    program.kill()
    relay.kill()
    for process in (program, relay):
        process.wait()
    relay.stdin.close()
    assert 385_000 <= held <= 405_000


def starts(setting: Setting, folder, count: int) -> list[dict]:
    argv = setting.argv(folder / "starts")
    done = [subprocess.run(argv, input=b"", capture_output=True, check=True) for _ in range(count)]
    return [json.loads(run.stderr.splitlines()[-1]) for run in done]


def test_cold_starts_are_as_slow_as_asked_for_and_come_again(tmp_path):
    setting = Setting(init_s=0.06, cold_share=0.3, seed="a")
    (tmp_path / "again").mkdir()
    first, again = starts(setting, tmp_path, 8), starts(setting, tmp_path / "again", 8)
    assert [s["cold"] for s in first] == [s["cold"] for s in again] and {s["cold"] for s in first} == {True, False}
    assert [s["number"] for s in first] == list(range(1, 9))
    assert all(s["init_s"] >= (0.08 if s["cold"] else 0.05) for s in first)  # to a tick of 10 ms, and no upper bound
