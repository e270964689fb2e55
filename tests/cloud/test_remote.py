"""A machine through a real sshd on the loopback address: commands, set-up, and JupyterLab behind the tunnel."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import founding
import nbformat
import psutil
import pytest
from helpers import ROOT, environment, free_ports, wait_until
from servers import sshd

from morocco_lib.cloud import remote
from morocco_lib.config.machine import VmParams
from morocco_lib.errors import EnvironmentFailure

BOX = "machine:\n  name: box\n  vm:\n    host: box\n    ssh_config: {config}\n    folder: {folder}\n"


@pytest.fixture
def vm(main, project, ssh_server, capfd):
    """Run `morocco vm ...` in a project that knows the machine as `box`; `heard` is what ssh and we wrote to stderr."""
    (project / "params/machines/box.yaml").write_text(BOX.format(config=ssh_server.config, folder="morocco"))

    def run(*words):
        capfd.readouterr()
        done = main("vm", *words, cwd=project)
        done.heard = capfd.readouterr().err + done.stderr
        return done

    return run


# -- ssh -----------------------------------------------------------------------------------------------------------
def test_a_command_runs_there_on_our_streams_and_its_exit_code_is_ours(vm, morocco, project, ssh_server):
    done = morocco("vm", "ssh", "box", "--command", "pwd; cat; exit 1", "--apply", cwd=project, input="from here\n")
    assert (done.returncode, done.stdout) == (1, f"{ssh_server.home}\nfrom here\n")


def test_the_founding_copy_back_brings_results_too(vm, project, ssh_server):
    (row,) = (row for row in founding.rows("sshd") if "tar xz" in row.ours)
    for name in ("notebooks/mine.ipynb", "outputs/demo/report.html"):
        (ssh_server.home / "morocco" / name).parent.mkdir(parents=True, exist_ok=True)
        (ssh_server.home / "morocco" / name).write_text("of there")
    command = row.commands[0].replace("yandex-v100", "box").replace("morocco vm", f"{sys.executable} -m morocco_lib vm")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=project, env=environment(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert all(
        (project / name).read_text() == "of there" for name in ("notebooks/mine.ipynb", "outputs/demo/report.html")
    )


def test_a_machine_that_does_not_answer_is_exit_3_with_the_command_to_try(vm, ssh_server):
    ssh_server.stop()
    try:
        done = vm("ssh", "box", "--apply")
    finally:
        ssh_server.start()
    assert done.returncode == 3 and "Connection refused" in done.heard
    assert "no connection to box; the machine may have been stopped or taken away; see what `ssh " in done.heard


def test_a_machine_that_is_starting_is_waited_for(ssh_server):
    argv, said = remote.ssh(VmParams(host="box", ssh_config=str(ssh_server.config))), []
    ssh_server.stop()
    with pytest.raises(EnvironmentFailure, match="no connection to box"):
        remote.wait(argv, said.append, 0)
    later = threading.Timer(1.5, ssh_server.start)
    later.start()
    remote.wait(argv, said.append, 30)
    later.join()
    assert said == ["waiting for box, 30 s at most"]


def test_a_vm_is_known_by_its_id_whatever_its_address(vm, cloud, project, ssh_server):
    path = project / "params/machines/yandex-v100.yaml"
    key, user = f"{ssh_server.key}.pub", psutil.Process().username()
    text = path.read_text().replace(str(project / "key.pub"), f"{key}\n      user: {user}")
    config = project / "ssh_config"  # the key is that of the machine file
    config.write_text(re.sub("  IdentityFile .*\n", "", ssh_server.config.read_text()))
    path.write_text(text.replace("    folder:", f"    ssh_config: {config}\n    folder:"))
    login = ("ssh", "yandex-v100", "--command", "true", "--apply")
    assert vm("create", "yandex-v100", "--apply").returncode == 0
    known = ssh_server.config.with_name("known_hosts")
    for address in ("127.0.0.1", "127.0.0.2"):  # it has another after each start
        cloud.instances["instance-1"].network_interfaces[0].primary_v4_address.one_to_one_nat.address = address
        assert vm(*login).returncode == 0
    assert sum(line.startswith("instance-1 ") for line in known.read_text().splitlines()) == 1
    known.write_text(f"instance-1 ssh-ed25519 {ssh_server.key.with_suffix('.pub').read_text().split()[1]}\n")
    done = vm(*login)
    known.unlink()
    assert done.returncode == 3 and "HOST IDENTIFICATION HAS CHANGED" in done.heard


# -- set-up --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkout(tmp_path_factory, ssh_server):
    """A clone of this project with a machine `box`, a file of its own and files that git ignores.

    In the home over there an environment is prepared, so that `make setup` finds nothing to install.
    """
    root = tmp_path_factory.mktemp("checkout") / "morocco"
    subprocess.run(["git", "clone", "--quiet", ROOT, root], check=True)
    (root / "params/machines/box.yaml").write_text(BOX.format(config=ssh_server.config, folder="work/morocco"))
    (root / "outputs/demo").mkdir()
    (root / "outputs/demo/large.bin").write_text("stays here")
    (root / ".venv").symlink_to(ROOT / ".venv")
    there = ssh_server.home / "work/morocco"
    there.mkdir(parents=True)
    (there / ".venv").symlink_to((ROOT / ".venv").resolve())
    (ROOT / ".venv/.ready").touch()
    return SimpleNamespace(root=root, there=there)


@pytest.mark.slow
def test_setup_copies_the_project_installs_it_and_examines_the_machine(morocco, checkout, ssh_server, tmp_path):
    root, there = checkout.root, checkout.there
    (tmp_path / "rsg/TERRa").mkdir(parents=True)
    (tmp_path / "rsg/TERRa/val.jsonl").write_text("{}\n")
    for _ in range(2):  # the second time over what is there
        done = morocco("vm", "setup", "box", "--data", tmp_path / "rsg", "--apply", cwd=root)
        assert done.returncode == 0, done.stderr
        assert f"{there}/outputs" in done.stdout
        assert re.search(r"^\d+ of \d+ available; .* can be measured here", done.stdout, re.MULTILINE)
    for name in ("morocco_lib/infer.py", "params/machines/box.yaml", "Makefile", "outputs/.gitkeep"):
        assert (there / name).read_bytes() == (root / name).read_bytes()
    assert not (there / "outputs/demo").exists() and (ssh_server.home / "data/TERRa/val.jsonl").exists()

    def git(*words, cwd):
        return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True).stdout

    assert git("rev-parse", "HEAD", cwd=there) == git("rev-parse", "HEAD", cwd=root)
    assert set(git("status", "--short", cwd=there).split()) == {"??", ".venv", "params/machines/box.yaml"}


def test_a_copy_that_fails_there_is_told(vm, ssh_server, project):
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    (project / "large").write_bytes(os.urandom(2**21))  # more than pipes and ssh hold
    shutil.rmtree(ssh_server.home / "morocco", ignore_errors=True)  # of other tests
    (ssh_server.home / "morocco").touch()
    try:
        done = vm("setup", "box", "--apply")
    finally:
        (ssh_server.home / "morocco").unlink()
    assert done.returncode == 3 and "could not copy to morocco on box: exit code" in done.heard


def test_what_is_no_checkout_is_not_copied(vm):
    done = vm("setup", "box", "--apply")
    assert done.returncode == 2 and "is no git checkout" in done.heard
    assert "no folder" in vm("setup", "box", "--data", "none").heard


# This Python, which is of version 3.12 or else of 3.8.
PYTHON = f"""minor=12 || minor=8; exec {sys.executable} -c "import sys; sys.version_info = (3, $minor); $2" """
PROGRAMS = {  # stand-ins of a machine's; each notes how it was called
    "make": "",
    "sudo": '[ "$1" = env ] && shift 2; "$@"',
    "apt-get": 'cat > /dev/null; [[ "$FOUND $*" = apt*python3-venv* ]] && touch $HOME/new || true',
    "python3": f'[ "$1" = -m ] && exit; [ -e $HOME/new ] && {PYTHON}',
    "python3.12": f"[ $FOUND = python3.12 ] && {PYTHON}",
}
UV = """[ "$2" = install ] && touch $HOME/uv
[ -e $HOME/uv ] && echo $HOME/python3.11"""


@pytest.mark.parametrize("found", ["python3.12", "python3", "apt", "uv"])
def test_setup_looks_for_a_new_python_and_installs_one_if_there_is_none(tmp_path, found):
    python = tmp_path / "morocco/.venv/bin/python"
    programs = {tmp_path / "bin" / name: text for name, text in PROGRAMS.items()}
    programs |= {tmp_path / ".local/bin/uv": UV, python: "", tmp_path / "python3.11": f"[ -e $HOME/uv ] && {PYTHON}"}
    for path, text in programs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/bash\n[ "$1" = -c ] || echo "{path.name} $*" >> $HOME/log\n{text}\n')
        path.chmod(0o755)
    for name in ("bash", "cat", "env", "rm", "sed", "touch"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    if found == "python3":
        (tmp_path / "new").touch()
    (tmp_path / "morocco/pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    script = Path(remote.__file__).with_name("setup.sh").read_bytes()
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "FOUND": found}
    done = subprocess.run(
        ["bash", "-s", "--", "morocco", "cu126"], input=script, cwd=tmp_path, env=env, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    lines = [
        line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith(("sudo", "uv python find"))
    ]
    chosen = {"python3.12": "bin/python3.12", "uv": "python3.11"}.get(found, "bin/python3")
    assert lines[-2:] == [
        f"make setup-torch PYTHON={tmp_path}/{chosen} TORCH_VARIANT=cu126",
        "python -m morocco_lib doctor",
    ]
    installed = [re.sub(r"-o \S+ |==\S+", "", line) for line in lines[:-2]]
    install = "apt-get install -y --no-install-recommends"
    apt = ["apt-get update", f"{install} make git python3-venv"]
    uv = [f"{install} python3-pip", "python3 -m pip install --user uv", "uv python install 3.11"]
    assert installed == {"apt": apt, "uv": apt + uv}.get(found, [])


# -- JupyterLab ----------------------------------------------------------------------------------------------------
@contextmanager
def lab(root, port):
    """`morocco vm lab` with its tunnel; yields the program and the address that it printed."""
    argv = [sys.executable, "-m", "morocco_lib", "vm", "lab", "box", "--port", str(port), "--apply"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    program = subprocess.Popen(argv, cwd=root, env=environment(), **streams)
    try:
        yield program, program.stdout.readline().strip()
    finally:
        if program.poll() is None:
            program.terminate()
        program.wait(20)
        program.stdout.close(), program.stderr.close()


@pytest.fixture
def lab_there(checkout, ssh_server):
    """The project over there, and a notebook in it; JupyterLab is ended afterwards."""
    shutil.copytree(ROOT / "params", checkout.there / "params", dirs_exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import os; print('in', os.environ['HOME'])")])
    nbformat.write(notebook, checkout.there / "hello.ipynb")
    yield checkout
    for info in (ssh_server.home / ".morocco-lab").glob("jpserver-*.json"):
        pid = json.loads(info.read_text())["pid"]
        os.kill(pid, signal.SIGTERM)
        assert wait_until(lambda pid=pid: not psutil.pid_exists(pid), 20)


def status_of(url):
    try:
        return urllib.request.urlopen(url, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_jupyterlab_is_behind_the_tunnel_and_its_token_and_outlives_the_connection(
    lab_there, ssh_server, morocco, tmp_path
):
    root, (port,) = lab_there.root, free_ports(1)
    with lab(root, port) as (program, address):
        assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/lab\?token=\w{{48}}", address), program.stderr.read()
        plain, token = f"http://127.0.0.1:{port}", address.partition("token=")[2]
        for path in ("/api/contents/hello.ipynb", "/api/kernels", "/api/contents?token=wrong"):
            assert status_of(plain + path) == 403
        for path in ("/lab", "/files/hello.ipynb", "/files/hello.ipynb?token=wrong"):
            with urllib.request.urlopen(plain + path, timeout=10) as page:
                assert urlsplit(page.url).path == "/login" and b"HOME" not in page.read()
        assert status_of(f"{plain}/api/contents/hello.ipynb?token={token}") == 200
        folder = ssh_server.home / ".morocco-lab"
        assert (
            stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE((folder / "lab.sock").stat().st_mode) == 0o600
        )
        assert not any(token in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))

        chromium, picture = shutil.which("chromium"), tmp_path / "lab.png"
        if chromium or os.environ.get("MOROCCO_STRICT"):
            script = [sys.executable, ROOT / "tests/notebooks/browser_run_all.py", address, "hello.ipynb", picture]
            done = subprocess.run([*script, "--chromium", chromium], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            shown = json.loads(done.stdout)
            assert shown["outputs"] == [f"in {ssh_server.home}\n"] and shown["outside"] == []

        taken = morocco("vm", "lab", "box", "--port", port, "--apply", cwd=root)
        assert taken.returncode == 2 and f"port {port}: Address already in use; give another: --port" in taken.stderr
        program.send_signal(signal.SIGINT)  # the tunnel ends, too
        assert wait_until(lambda: not sshd.answers(port), 20)
        assert program.wait(20) == 0 and "go on there" in program.stderr.read()

    with lab(root, port) as (program, again):
        assert again == address  # the same JupyterLab
        for session in psutil.Process().children(recursive=True):  # the connection is lost
            with suppress(psutil.NoSuchProcess):  # the one before took it along
                if session.name() == "sshd" and session.ppid() != os.getpid():
                    session.kill()
        assert (
            program.wait(20) == 3 and "no connection to box; the machine may have been stopped" in program.stderr.read()
        )


@pytest.mark.slow
def test_a_jupyterlab_that_does_not_start_is_told(lab_there, morocco):
    broken = lab_there.there / ".venv"
    target = broken.readlink()
    broken.unlink()
    try:
        done = morocco("vm", "lab", "box", "--port", free_ports(1)[0], "--apply", cwd=lab_there.root)
    finally:
        broken.symlink_to(target)
    assert done.returncode == 3 and "could not run lab.sh on box: exit code 3" in done.stderr
    assert "No such file" in done.stderr
