"""Kernels that are forked: what they inherit, and that they end with what they belong to."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import wait_until
from jupyter_client import BlockingKernelClient

from morocco_lib.pipeline import kernel_process

SEEN = (
    "import os, sys, threading; [sorted(os.environ.keys() & {'HOME', 'OWN'}), os.getcwd(), os.readlink('/proc/self/fd/0'), "
    "open('/proc/self/comm').read(), os.getsid(0) == os.getpid()]"
)


@pytest.fixture
def start(tmp_path):
    """Start a kernel that sees OWN alone of the environment."""
    started = []

    def start():
        argv = ["ipykernel_launcher", "-f", str(tmp_path / f"connection-{len(started)}.json")]
        environment = {"OWN": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
        started.append(kernel_process.start(argv, environment, tmp_path, tmp_path / "kernel.log", None))
        return started[-1], Path(argv[-1])

    yield start
    for process in started:
        process.kill()


def asked(connection: Path, code: str):
    """Return the value of the last expression of code that a kernel runs."""
    assert wait_until(lambda: connection.is_file() and connection.read_text().endswith("}"))
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        body, _, last = code.rpartition("; ")
        reply = client.execute(body, user_expressions={"value": last}, reply=True, timeout=60)
        return ast.literal_eval(reply["content"]["user_expressions"]["value"]["data"]["text/plain"])
    finally:
        client.stop_channels()


def test_a_kernel_has_its_own_environment_folder_log_and_session_and_not_our_stdin(start, tmp_path):
    _, connection = start()
    assert asked(connection, SEEN) == [["OWN"], str(tmp_path), "/dev/null", "morocco-kernel\n", True]
    log = (tmp_path / "kernel.log").read_text()
    assert "IPKernelApp" in log and "Ctrl-C" not in log  # its own warnings, not what one without a parent would say


def test_a_figure_is_drawn_where_it_is_shown_and_not_before(start):
    code = (
        "from matplotlib import pyplot; drawn = []; figure, _ = pyplot.subplots(); "
        "figure.canvas.draw_idle = lambda: drawn.append(1); [len(drawn), not pyplot.get_fignums()]"
    )
    assert asked(start()[1], code) == [0, True]  # all figures are closed once they are shown


def test_the_end_of_a_kernel_is_noticed_and_it_may_be_killed_again(start):
    process, connection = start()
    assert wait_until(connection.is_file) and process.poll() is None
    process.kill()
    assert wait_until(lambda: process.poll() is not None, 10)
    process.kill()
    process.send_signal(signal.SIGINT)


def test_a_stopped_kernel_ends_with_the_process_it_was_forked_from_and_the_next_one_starts(start):
    process, connection = start()
    assert wait_until(lambda: connection.is_file() and connection.read_text().endswith("}"))
    process.send_signal(signal.SIGSTOP)
    kernel_process._servers[0].process.kill()
    assert wait_until(lambda: process.poll() is not None, 10)
    assert asked(start()[1], "a = 1; a + 1") == 2


def test_kernels_end_with_a_process_that_is_killed(tmp_path):
    code = (
        "import os, pathlib, sys, time; from morocco_lib.pipeline import kernel_process as k; here = pathlib.Path(sys.argv[1])\n"
        "p = k.start(['ipykernel_launcher', '-f', str(here / 'c.json')], dict(os.environ), here, here / 'log', None)\n"
        "print(p.pid, k._servers[0].process.pid, flush=True); time.sleep(100)"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "csv.py").write_text("raise SystemExit('this is another csv')")  # nothing is imported from where we are
    argv = [sys.executable, "-P", "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, text=True) as plan:
        pids = [int(word) for word in plan.stdout.readline().split()]
        assert wait_until((tmp_path / "c.json").is_file)
        plan.kill()
    assert wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), 10)


def test_what_kept_kernels_from_starting_is_said(start, monkeypatch):
    monkeypatch.setattr(kernel_process, "_servers", [])
    monkeypatch.setattr(kernel_process, "SERVE", "raise ImportError('no module of that name')")
    with pytest.raises(RuntimeError, match=r"has ended \(1\): ImportError: no module of that name"):
        start()
