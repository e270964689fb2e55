"""A machine through the system's ssh: the project copied and installed there, JupyterLab behind a tunnel."""

import os
import shlex
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from morocco_lib import fileio, foreign
from morocco_lib.config.machine import VmParams
from morocco_lib.errors import EnvironmentFailure, UsageError

OPTIONS = ("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
UNREACHED = 255  # what ssh exits with when it is not the command's own exit code
BOOT_S, TUNNEL_S = 180.0, 30.0
BUNDLE = ".morocco.bundle"
SETUP, LAB = "setup.sh", "lab.sh"
DATA = "data"  # in the home: in the project it would be a change of what is checked out


def ssh(vm: VmParams, address: str = "", instance: str = "") -> list[str]:
    """Return the ssh command that reaches a machine.

    Args:
        address: Of a VM in the cloud.
        instance: Its id: a VM keeps its host key and changes its address.
    """
    argv = ["ssh", *OPTIONS]
    if vm.ssh_config:
        argv += ["-F", str(fileio.expand(vm.ssh_config))]
    if vm.yandex is None:
        return [*argv, vm.host]
    if (key := fileio.expand(vm.yandex.ssh_key).with_suffix("")).exists():
        argv += ["-i", str(key)]
    if instance:
        argv += ["-o", f"HostKeyAlias={instance}", "-o", "StrictHostKeyChecking=accept-new"]
    return [*argv, f"{vm.yandex.user}@{address}"]


def command(argv: list[str], text: str) -> int:
    """Run a command there, a shell if it is empty, on our own streams; return its exit code."""
    code = subprocess.run([*argv, *([text] if text else [])], check=False).returncode
    if code == UNREACHED:
        raise _unreached(argv)
    return code


def wait(argv: list[str], say: Callable[[str], None], seconds: float = BOOT_S) -> None:
    """Wait until a machine that may be starting answers; raises EnvironmentFailure."""
    end, said = time.monotonic() + seconds, False
    while subprocess.run([*argv, "true"], stdin=subprocess.DEVNULL, capture_output=said, check=False).returncode:
        if time.monotonic() > end:
            raise _unreached(argv)
        if not said:
            say(f"waiting for {argv[-1]}, {seconds:.0f} s at most")
        said = True
        time.sleep(1)


def setup(argv: list[str], vm: VmParams, root: Path, data: Path | None, say: Callable[[str], None]) -> None:
    """Copy the project, and a folder of records to ~/data; install it there, and run its doctor."""
    wait(argv, say)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", ":!.venv"]
    found = subprocess.run(listed, cwd=root, capture_output=True, check=False)
    if found.returncode:
        raise UsageError(f"{root} is no git checkout", rule="what git ignores stays here", remedy="git clone it")
    files = [root / os.fsdecode(name) for name in found.stdout.split(b"\0") if name]
    files = [path for path in files if path.is_symlink() or path.is_file()]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / BUNDLE  # of the commit, not of remotes, hooks or settings
        subprocess.run(
            ["git", "bundle", "create", "--quiet", bundle, "HEAD"], cwd=root, capture_output=True, check=False
        )
        say(f"copying {len(files)} files to {vm.folder}")
        extra = [(bundle, BUNDLE)] if bundle.exists() else []
        _send(argv, vm.folder, [*((path, str(path.relative_to(root))) for path in files), *extra])
    if data:
        say(f"copying {data} to {DATA}")
        _send(argv, DATA, [(data, ".")])
    say("installing, which takes minutes")
    _script(argv, SETUP, vm.folder, vm.torch)


def lab(argv: list[str], vm: VmParams, port: int, say: Callable[[str], None], put: Callable[[str], None]) -> None:
    """Start JupyterLab there unless it runs, and hold the tunnel to it until Ctrl-C.

    Args:
        port: Of this machine's loopback address.
        put: Called with the address, token and all.

    Raises:
        EnvironmentFailure: the tunnel could not be opened, or the connection was lost.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(f"port {port}: {error.strerror}", remedy=f"give another: --port {port + 1}") from None
    try:
        answer = foreign.parse_object(_script(argv, LAB, vm.folder, capture=True).strip().rpartition(b"\n")[2])
        foreign.fits(answer, {"sock": str, "token": str})
    except ValueError as error:
        raise EnvironmentFailure(
            f"{argv[-1]} did not say where its JupyterLab is: {error}", remedy="run it again"
        ) from None
    options = ["-N", "-T", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:{answer['sock']}"]
    with subprocess.Popen([*argv[:-1], *options, argv[-1]], stdin=subprocess.DEVNULL) as tunnel:
        try:
            _wait_for_tunnel(argv, tunnel, port)
            put(f"http://127.0.0.1:{port}/lab?token={quote(answer['token'])}")
            say("Ctrl-C closes the tunnel; JupyterLab and its kernels go on there (end them by File > Shut Down)")
            tunnel.wait()
        except KeyboardInterrupt:
            return
        finally:
            tunnel.terminate()
    raise _unreached(argv)


def _wait_for_tunnel(argv: list[str], tunnel: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + TUNNEL_S
    while tunnel.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise _unreached(argv)


def _send(argv: list[str], folder: str, entries: Iterable[tuple[Path, str]]) -> None:
    there = shlex.quote(folder)
    unpack = f"mkdir -p {there} && tar -xz --no-same-owner -C {there}"
    with (
        suppress(BrokenPipeError),  # ssh says why
        subprocess.Popen([*argv, unpack], stdin=subprocess.PIPE) as ssh,
        tarfile.open(fileobj=ssh.stdin, mode="w|gz") as archive,
    ):
        for path, name in entries:
            archive.add(path, name)
    _check(argv, ssh.returncode, f"copy to {folder}")


def _script(argv: list[str], name: str, *arguments: str, capture: bool = False) -> bytes:
    there = f"bash -s -- {shlex.join(arguments)}"
    with Path(__file__).with_name(name).open("rb") as script:
        out = subprocess.PIPE if capture else None
        done = subprocess.run([*argv, there], stdin=script, stdout=out, check=False)
    _check(argv, done.returncode, f"run {name}")
    return done.stdout


def _check(argv: list[str], code: int, what: str) -> None:
    if code == UNREACHED:
        raise _unreached(argv)
    if code:
        raise EnvironmentFailure(
            f"could not {what} on {argv[-1]}: exit code {code}, see above",
            remedy="correct it there, and run the command again",
        )


def _unreached(argv: list[str]) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"no connection to {argv[-1]}", rule="the machine may have been stopped or taken away",
        remedy=f"see what `{shlex.join([*argv, 'true'])}` says",
    )  # fmt: skip
