"""100 MB in and out of a program: nothing is lost, and our own memory does not grow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment
from servers import runner, server

pytestmark = pytest.mark.slow
MB = 10**6


BIG = """
import hashlib, json, sys
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner
from morocco_lib.runners.process import ProcessRunner

def peak_bytes():  # of this program alone; ru_maxrss would count the one that started it
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

way, n_blocks, argv = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
fed, got, counts = hashlib.sha256(), hashlib.sha256(), {"out": 0, "err": 0}
body = bytes(range(256)) * 390

def blocks():
    for i in range(n_blocks):
        block = i.to_bytes(160, "big") + body  # 100 kB each, none like another
        fed.update(block)
        yield block

def on_stdout(t_ns, block):
    counts["out"] += len(block)
    got.update(block)

def on_stderr(t_ns, block):
    counts["err"] += len(block)

limits = Limits(timeout_s=60)
runner, words = (DockerRunner(argv[0]), []) if way == "docker" else (ProcessRunner(use_cgroup=way == "cgroup"), argv)
handle, before = runner.start(words, limits), peak_bytes()
talk = converse(handle, blocks(), limits, on_stdout, on_stderr)
print(json.dumps({**counts, "grown": peak_bytes() - before, "same": fed.digest() == got.digest(),
                  "code": talk.exit.code, "complete": talk.feed.complete, "fed": talk.feed.bytes_written,
                  "events": len(talk.events)}))
"""


def in_a_program_of_its_own(way: str, n_blocks: int, argv: list[str]) -> dict:
    command = [sys.executable, "-c", BIG, way, str(n_blocks), *argv]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=90, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["cgroup", "proc", "docker"])
def test_100_mb_in_and_out_pass_whole_and_leave_our_memory_flat(way, request):
    argv, words = server("echo"), ["--stderr-bytes", "200000"]
    if way == "cgroup":
        runner(use_cgroup=True)
    if way == "docker":
        argv, words = [request.getfixturevalue("image_of")(Path(argv[-1]).read_text(), *words)], []
    facts = in_a_program_of_its_own(way, 1000, [*argv, *words])
    assert facts["same"] and facts["out"] == facts["fed"] == 100 * MB
    assert facts["err"] >= 200_000 and facts["code"] == 0 and facts["complete"]
    assert facts["grown"] < 30 * MB


def test_50_mb_of_stderr_without_a_line_feed_leave_our_memory_flat():
    facts = in_a_program_of_its_own("proc", 1, server("echo", "--stderr-bytes", 50 * MB))
    assert facts["err"] > 50 * MB and facts["code"] == 0
    assert facts["events"] == 1  # the line after the flood is still understood
    assert facts["grown"] < 30 * MB
