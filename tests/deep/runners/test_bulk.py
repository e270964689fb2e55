"""100 MB in and out of a program: nothing is lost, and our own memory does not grow."""

import json
import os
import subprocess
import sys

import pytest
from servers import ROOT, runner, server

pytestmark = pytest.mark.slow
MB = 10**6


@pytest.fixture(params=[True, False], ids=["cgroup", "proc"])
def way(request):
    return runner(use_cgroup=request.param)


BIG = """
import hashlib, json, os, sys
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.process import ProcessRunner

def peak_bytes():  # of this program alone; ru_maxrss would count the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

use_cgroup, n_blocks, argv = sys.argv[1] == "True", int(sys.argv[2]), sys.argv[3:]
fed, got, count, talk = hashlib.sha256(), hashlib.sha256(), 0, 0
body = bytes(range(256)) * 390

def blocks():
    for i in range(n_blocks):
        block = i.to_bytes(160, "big") + body  # 100 kB each, none like another
        fed.update(block)
        yield block

def on_stdout(t_ns, block):
    global count
    count += len(block)
    got.update(block)

def on_stderr(t_ns, block):
    global talk
    talk += len(block)

limits = Limits(timeout_s=60)
before = peak_bytes()
seen = converse(ProcessRunner(use_cgroup=use_cgroup).start(argv, limits), blocks(), limits, on_stdout, on_stderr)
print(json.dumps({"grown": peak_bytes() - before, "same": fed.digest() == got.digest(), "out": count, "err": talk,
                  "code": seen.exit.code, "complete": seen.feed.complete, "fed": seen.feed.bytes_written,
                  "events": len(seen.events)}))
"""


def in_a_program_of_its_own(way, n_blocks: int, argv: list[str]) -> dict:
    command = [sys.executable, "-c", BIG, str(way.use_cgroup), str(n_blocks), *argv]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=90, check=True
    )
    return json.loads(done.stdout)


def test_100_mb_in_and_out_pass_whole_and_leave_our_memory_flat(way):
    facts = in_a_program_of_its_own(way, 1000, server("echo", "--stderr-bytes", 200_000))
    assert facts["same"] and facts["out"] == facts["fed"] == 100 * MB
    assert facts["err"] >= 200_000 and facts["code"] == 0 and facts["complete"]
    assert facts["grown"] < 30 * MB


def test_50_mb_of_stderr_without_a_line_feed_leave_our_memory_flat(way):
    facts = in_a_program_of_its_own(way, 1, server("echo", "--stderr-bytes", 50 * MB))
    assert facts["err"] > 50 * MB and facts["code"] == 0
    assert facts["events"] == 1  # the line after the flood is still understood
    assert facts["grown"] < 30 * MB
