"""`morocco vm setup` on a machine that has nothing: a fresh Debian with its own sshd, a user with sudo, no make, no Python.

Real: ssh, the copy, apt-get, pip from the lock with its digests, doctor, JupyterLab behind the tunnel. Not real: a kernel
and a network of its own; where packages come from is what this machine uses.
"""

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, environment, free_ports, wait_until
from servers import sshd

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
UsePAM no
PasswordAuthentication no
PidFile none
AuthorizedKeysFile /etc/ssh/box.pub
SetEnv {sources}
"""
PREPARE = """\
useradd --create-home --shell /bin/bash --password '*' yc-user
echo 'yc-user ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/yc-user
mkdir -p /run/sshd
"""
SOURCES = ("PIP_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "http", "HTTP", "no_proxy", "NO_PROXY")


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """The machine's root, and a clone of this project that knows it as `box`."""
    if not os.environ.get("MOROCCO_CLEAN_ROOT"):  # longer than a shard may take
        pytest.skip("downloads a distribution and the kit, which takes minutes; MOROCCO_CLEAN_ROOT=1 runs it")
    missing = [name for name in ("debootstrap", "unshare", "ssh") if shutil.which(name) is None]
    if missing or os.getuid():
        (pytest.fail if os.environ.get("MOROCCO_STRICT") else pytest.skip)(f"needs root and {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("box")
    root, project, key = folder / "root", folder / "project", folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    packages = "--include=ca-certificates,openssh-server,sudo"
    mirror = os.environ.get("MOROCCO_MIRROR", "http://deb.debian.org/debian")
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", root, mirror]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for path in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(path).exists():
            shutil.copy(path, f"{root}{path}")
    subprocess.run(["chroot", root, "sh", "-ec", PREPARE], check=True)
    (port,) = free_ports(1)
    sources = " ".join(f'"{name}={value}"' for name, value in os.environ.items() if name.startswith(SOURCES))
    (root / "etc/ssh/box").write_text(SERVER.format(port=port, sources=sources or "LANG=C.UTF-8"))
    shutil.copy(f"{key}.pub", root / "etc/ssh/box.pub")
    (folder / "client").write_text(sshd.CLIENT.format(port=port, folder=folder) + "  User yc-user\n")
    subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
    (project / "params/machines/box.yaml").write_text(
        f"machine:\n  name: box\n  vm:\n    host: box\n    ssh_config: {folder / 'client'}\n"
    )
    inside = f'mount -t proc proc "{root}/proc" && exec chroot "{root}" /usr/sbin/sshd -D -e -f /etc/ssh/box'
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside]
    with (folder / "log").open("w") as log:
        machine = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield SimpleNamespace(root=root, project=project)
    finally:
        machine.kill()  # and with it all that runs in it; it ignores other signals
        machine.wait(20)


def vm(box, *words, **options):
    argv = [sys.executable, "-m", "morocco_lib", "vm", *map(str, words), "--apply"]
    return subprocess.Popen(argv, cwd=box.project, env=environment(), text=True, stdout=subprocess.PIPE, **options)


def test_a_machine_without_anything_is_set_up_and_serves_jupyterlab_behind_its_token(box):
    with vm(box, "setup", "box", stderr=subprocess.PIPE) as setup:
        out, err = setup.communicate(timeout=1200)
    assert setup.returncode == 0, err[-3000:]
    assert "/home/yc-user/morocco/outputs" in out and "can be measured here" in out
    there = box.root / "home/yc-user/morocco"
    assert (there / ".venv/.ready").exists() and (box.root / "usr/bin/make").exists()
    train = ".venv/bin/morocco data synthetic terra --out r > /dev/null && .venv/bin/morocco train tfidf terra --data r --out f"
    with vm(box, "ssh", "box", "--command", f"cd morocco && {train}") as ssh:
        assert ssh.communicate(timeout=120)[0] == "f/weights\n"
    (port,) = free_ports(1)
    with vm(box, "lab", "box", "--port", port) as lab:
        address = lab.stdout.readline().strip()
        token = address.partition("?token=")[2]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents")
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents?token={token}").status == 200
        lab.send_signal(signal.SIGINT)
        assert wait_until(lambda: lab.poll() == 0, 20)
