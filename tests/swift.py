"""OpenStack Swift with its S3 interface: another implementation than moto's, which checks signatures; for deep tests."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from helpers import free_ports

PROGRAMS = (
    "swift-proxy-server",
    "swift-account-server",
    "swift-container-server",
    "swift-object-server",
    "swift-ring-builder",
    "memcached",
)
PACKAGES = "swift-proxy swift-account swift-container swift-object memcached"
KEY, SECRET = "test:tester", "testing"
NODE = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = root
swift_dir = {folder}
devices = {folder}/node
mount_check = false
workers = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = root
swift_dir = {folder}
workers = 0
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
"""
FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "bulk", "copy", "slo", "dlo")


def why_none() -> str | None:
    """Return why it cannot be started here, None if it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    return f"no {', '.join(missing)}; apt-get install {PACKAGES}" if missing else None


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Yield the address of a server that keeps its objects in a folder."""
    names = ("account", "container", "object", "proxy", "memcached")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    (folder / "node/d1").mkdir(parents=True)
    commands = [["memcached", "-u", "root", "-l", "127.0.0.1", "-p", str(ports["memcached"])]]
    for kind in names[:3]:
        ring = ["swift-ring-builder", str(folder / f"{kind}.builder")]
        for words in (("create", "4", "1", "1"), ("add", f"r1z1-127.0.0.1:{ports[kind]}/d1", "1"), ("rebalance",)):
            subprocess.run([*ring, *words], check=True, capture_output=True)
        (folder / f"{kind}.conf").write_text(NODE.format(kind=kind, port=ports[kind], folder=folder))
        commands.append([f"swift-{kind}-server", str(folder / f"{kind}.conf")])
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in FILTERS)
    values = {"port": ports["proxy"], "memcached": ports["memcached"], "folder": folder}
    (folder / "proxy.conf").write_text(PROXY.format(**values) + filters)
    commands.append(["swift-proxy-server", str(folder / "proxy.conf")])
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}  # it has its own Python
    with ExitStack() as stack, (folder / "log").open("wb") as log:
        for command in commands:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=own)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for port in ports.values():
            wait_for(port)
        yield f"http://127.0.0.1:{ports['proxy']}"
