"""`make lab`: for you alone, behind its token, on the loopback address."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


def status_of(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_lab_serves_nothing_without_its_token_and_prints_the_tunnel(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    log = tmp_path / "log"
    with log.open("w") as out:
        lab = subprocess.Popen(
            ["make", "lab", f"LAB_PORT={port}"],
            cwd=ROOT,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while not (token := re.search(r"token=(\w+)", log.read_text())) and time.monotonic() < end:
            assert lab.poll() is None, log.read_text()
            time.sleep(0.2)
        url = f"http://127.0.0.1:{port}/api/contents/notebooks"
        assert status_of(url) == 403
        assert status_of(f"{url}?token={token[1]}") == 200
        assert f"ssh -N -L 127.0.0.1:{port}:127.0.0.1:{port} " in log.read_text()
        listening = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
        addresses = {line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"}
        assert [a for a in addresses if a.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
        assert all(f.stat().st_mode & 0o077 == 0 for f in (tmp_path / "runtime").iterdir())
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.wait(20)
