"""`make lab`: for you alone, behind its token, on the loopback address; and a notebook run in it by a browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from helpers import ROOT, copy_project, free_ports

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the project: its root, port, address with token, log and runtime folder."""
    (port,) = free_ports(1)
    root, runtime = copy_project(tmp_path_factory.mktemp("lab") / "morocco"), tmp_path_factory.mktemp("runtime")
    log = runtime.with_suffix(".log")
    with log.open("w") as out:
        program = subprocess.Popen(
            ["make", "lab", f"LAB_PORT={port}"], cwd=root, env={**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime)},
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (token := re.search(r"token=(\w+)", log.read_text())):
            assert program.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        url = f"http://127.0.0.1:{port}/lab?token={token[1]}"
        yield SimpleNamespace(root=root, port=port, token=token[1], url=url, log=log, runtime=runtime)
    finally:
        os.killpg(program.pid, signal.SIGTERM)
        program.wait(20)


def status_of(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def test_lab_serves_nothing_without_its_token_and_prints_the_tunnel(lab):
    url = f"http://127.0.0.1:{lab.port}"
    for path in ("/api/contents/notebooks", "/api/kernels", "/api/contents/README.md"):
        assert status_of(url + path) == status_of(f"{url}{path}?token=wrong") == 403
    for path in ("/files/README.md", "/lab", "/files/README.md?token=wrong"):
        with urllib.request.urlopen(url + path, timeout=5) as page:
            assert urlsplit(page.url).path == "/login" and b"morocco" not in page.read()
    assert status_of(f"{url}/api/contents/notebooks?token={lab.token}") == 200
    assert f"ssh -N -L 127.0.0.1:{lab.port}:127.0.0.1:{lab.port} " in lab.log.read_text()
    tcp = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1] for line in tcp if line.split()[3] == "0A"}
    assert [a for a in addresses if a.endswith(f":{lab.port:04X}")] == [f"0100007F:{lab.port:04X}"]
    assert all(f.stat().st_mode & 0o077 == 0 for f in lab.runtime.iterdir())


def test_all_cells_of_the_bench_notebook_run_in_a_browser(lab, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("MOROCCO_STRICT"):
        pytest.skip("no chromium on this machine")
    script = [sys.executable, ROOT / "tests/notebooks/browser_run_all.py", lab.url, "notebooks/bench.ipynb"]
    picture = tmp_path / "notebook.png"
    done = subprocess.run([*script, picture, "--chromium", chromium], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["errors"] == 0 and shown["outside"] == [] and (shown["figures"], shown["tables"]) == (1, 4)
    assert shown["outputs"][0].startswith("step\tbench") and shown["outputs"][-1].startswith("VALID")
    assert any("records/s" in text for text in shown["outputs"])
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 100_000
    (step,) = (lab.root / "outputs/interactive/tfidf/terra").glob("bench-????????")
    assert json.loads((step / "status.json").read_text())["state"] == "done"


def test_saving_a_notebook_that_was_run_leaves_the_checkout_clean_and_keeps_what_was_shown(lab):
    path = lab.root / "notebooks/train.ipynb"
    before = path.read_bytes()
    content = json.loads(before)
    content["metadata"] |= {"kernelspec": {"name": "other", "display_name": "Other", "language": "python"}}
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, start=1):
        shown = {"output_type": "stream", "name": "stdout", "text": f"shown {number}"}
        cell |= {"execution_count": number, "outputs": [shown], "metadata": {**cell["metadata"], "execution": {}}}

    def save(name, content):
        body = json.dumps({"type": "notebook", "format": "json", "content": content}).encode()
        url = f"http://127.0.0.1:{lab.port}/api/contents/{name}?token={lab.token}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
        assert urllib.request.urlopen(request, timeout=10).status in (200, 201)

    save("notebooks/train.ipynb", content)
    assert path.read_bytes() == before
    assert "shown 1" in (lab.root / "outputs/interactive/train.ipynb").read_text()
    save("mine.ipynb", content)
    assert "shown 1" in (lab.root / "mine.ipynb").read_text()  # not one of the project's
    code[-1]["source"] = "1 + 1"
    save("notebooks/train.ipynb", content)
    assert "1 + 1" in path.read_text() and "shown" not in path.read_text()
    path.write_bytes(before)


def test_lab_without_a_home_says_what_to_do(lab):
    env = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("JUPYTER")}
    argv = ["make", "lab", "LAB_PORT=1"]
    done = subprocess.run(argv, cwd=lab.root, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode and "HOME (not set) cannot be written" in done.stderr and "make lab HOME=" in done.stderr
