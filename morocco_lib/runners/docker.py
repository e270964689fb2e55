"""Runs an image as a container without network, files on a disk that it may write, or capabilities, and with limits."""

import atexit
import os
import re
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import clocks, procfs
from morocco_lib.monitors.cgroup import RunCgroup, kill_all
from morocco_lib.monitors.host import usable_cores
from morocco_lib.runners import engine
from morocco_lib.runners.contract import Exit, Limits

READ_BYTES = 1 << 20
HEADER = struct.Struct(">BxxxL")  # of a frame of the attached stream: which stream, how many bytes
STREAMS = {1: "stdout", 2: "stderr"}
PIDS = 4096
MEMORY_SHARE = 0.8  # of this machine's, where no limit was given
TMP = "rw,exec,nosuid,nodev,mode=1777,size=512m"
# File systems whose files count as memory of the run.
IN_MEMORY = {"tmpfs", "proc", "sysfs", "devpts", "devtmpfs", "mqueue", "cgroup", "cgroup2"}
FAULTS_OF_IMAGE = ("unable to find user", "executable file not found", "chdir to cwd")
EPOCH = datetime.fromtimestamp(0, UTC)
END_S = 1.0  # between the end of the streams and that of the container
COUNTERS_PERIOD_S = 0.02  # a container's cgroup is gone as soon as it ends: its counters are read until then

# An interrupt may come at any moment, also between the start of a container and the code that removes it.
atexit.register(engine.remove_own)


class DockerRunner:
    """Starts containers of one image.

    Args:
        image: Name, id or digest; it is resolved to an id once, here.
        gpus: UUIDs of the GPUs it may use.
        env: Names of our environment variables that it is handed.
    Raises:
        UsageError: the engine does not hold the image, or a GPU is not given by its UUID.
        EnvironmentFailure: no engine answers.
    """

    name = "docker"

    def __init__(self, image: str, gpus: tuple[str, ...] = (), env: tuple[str, ...] = ()):
        for gpu in gpus:
            if not re.fullmatch(r"(GPU|MIG)-[0-9a-zA-Z-/]+", gpu):
                raise UsageError(
                    f"GPU {gpu!r}",
                    rule="a GPU is given by its UUID, as an index may change",
                    remedy="see `nvidia-smi -L`",
                )
        self.client = engine.connect()
        self.image = engine.find_image(self.client, image)
        self.gpus, self.env = tuple(gpus), tuple(env)
        with engine.engine_errors("look for orphaned containers"):
            engine.remove_orphans(self.client)
        self._volumes_are_empty = False

    @property
    def environment(self) -> dict[str, str]:
        """What the image sets, and what of ours it is handed."""
        return self.image.env | {name: os.environ[name] for name in self.env}

    def bounded(self, limits: Limits) -> Limits:
        """Return the limits with this runner's own where none were given."""
        memory = limits.memory_bytes or int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * MEMORY_SHARE)
        return Limits(limits.timeout_s, memory, limits.pids or PIDS, limits.cpus or float(usable_cores()))

    def start(self, argv: list[str], limits: Limits) -> "DockerHandle":
        """Start a container; `argv` are the arguments of its entry point.

        Raises:
            UsageError: the image cannot be started, or holds files where it declares a volume.
            EnvironmentFailure: the engine cannot start it.
        """
        started_ns, offsets, name = time.monotonic_ns(), clocks.read(), engine.new_container()
        with engine.engine_errors(f"start a container of {self.image.name}"):
            container = self.client.api.create_container(
                self.image.id,
                argv,
                stdin_open=True,
                network_disabled=True,
                name=name,
                environment={name: os.environ[name] for name in self.env},
                labels={engine.OWNER: engine.owner_label()},
                host_config=self._host_config(self.bounded(limits)),
            )["Id"]
            try:
                self._check_volumes(container)
                attached = self.client.api.attach_socket(
                    container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
                )
                self.client.api.start(container)  # attached before: not a byte is lost
                facts = self.client.api.inspect_container(container)
            except BaseException as error:
                with suppress(Exception):
                    engine.remove(self.client, name)
                if any(sign in str(error) for sign in FAULTS_OF_IMAGE):
                    raise UsageError(f"{self.image.name} cannot be started: {engine.message_of(error)}") from None
                raise
        return DockerHandle(self.client, container, attached, started_ns, offsets, facts, name)

    def _check_volumes(self, container: str) -> None:
        # A volume is made of memory here, so what the image has there would be hidden.
        for path in () if self._volumes_are_empty else self.image.volumes:
            if engine.holds_files(self.client, container, path):
                raise UsageError(
                    f"{self.image.name} declares VOLUME {path} and holds files there",
                    rule="a volume is empty memory in a run, so that nothing is written to the disk",
                    remedy="leave the VOLUME line out, or keep the files in another folder",
                )
        self._volumes_are_empty = True

    def _host_config(self, limits: Limits) -> Any:
        from docker.types import DeviceRequest, LogConfig

        ours = sorted(os.sched_getaffinity(0))  # a container does not inherit them
        wanted = [DeviceRequest(device_ids=list(self.gpus), capabilities=[["gpu"]])] if self.gpus else None
        return self.client.api.create_host_config(
            network_mode="none",
            read_only=True,
            tmpfs=dict.fromkeys(("/tmp", *self.image.volumes), TMP),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=True,  # as process 1 a program ignores signals that it sends itself, and SIGTERM
            log_config=LogConfig(type="none"),  # the engine's log would write every answer to disk
            pids_limit=limits.pids,
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            nano_cpus=int(limits.cpus * 1e9),
            cpuset_cpus=",".join(map(str, ours)) if len(ours) < os.cpu_count() else None,
            device_requests=wanted,
        )


class DockerHandle:
    """A running container; see `contract.Handle`.

    Args:
        facts: Of the started container, as the engine reports them.
        name: Its name in our records.
    Limits: its last counters are up to 20 ms old. `first_read_ns` is not known, as the input passes through the engine.
    """

    def __init__(
        self,
        client: Any,
        container: str,
        attached: Any,
        started_ns: int,
        offsets: clocks.Offsets,
        facts: dict[str, Any],
        name: str,
    ):
        pid = facts["State"]["Pid"]
        self._client, self.id, self._name, self._attached = client, container, name, attached
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._socket.settimeout(None)
        self.started_ns, self._offsets, self.pid = started_ns, offsets, pid
        self.group = RunCgroup.of_container(pid, container) if pid else None
        self.cgroup: Path | None = self.group.memory if self.group else None
        self._counters = _Counters(self.group) if self.group else None
        self._exit: Exit | None = None
        self._known: dict[int, int] = {}
        self._ended_ns: int | None = None
        self._pidfd = _open_pidfd(pid, container)
        self._disk_mounts = _disk_mounts(None if self._pidfd is None else pid, facts)

    # -- streams -----------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise BrokenPipeError(*error.args) from None

    def close_stdin(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def chunks(self) -> Iterator[tuple[int, str, bytes]]:
        frames = _Frames()
        try:
            while data := self._socket.recv(READ_BYTES):
                t_ns = time.monotonic_ns()
                for stream, part in frames.split(data):
                    yield t_ns, stream, part
        except ConnectionResetError:
            pass  # the engine went away: `wait` raises
        finally:
            self._note_end(END_S)
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # frees a feeder whose input nobody read

    # -- end ---------------------------------------------------------------------------------------------------
    def pids(self) -> list[int]:
        if self.group:
            return self.group.pids()
        if self._pidfd is None:
            return []
        self._known |= procfs.tree(self.pid, self._known)
        return sorted(self._known)

    def kill(self) -> None:
        if self._exit:
            return
        # By pid where we may: an engine whose reader has stopped reading does not answer for a minute.
        kill_all(self.pids)
        if self.pids():
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        # It may have ended by now; an engine that is gone is reported by `wait`. Our own client may be in use by another thread.
        with suppress(Exception), engine.connect(10).api as killer:
            killer.kill(self.id)

    def _note_end(self, timeout_s: float) -> None:
        if self._ended_ns is None and self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(timeout_s * 1000):
                self._ended_ns = time.monotonic_ns()

    def wait(self, timeout_s: float | None) -> Exit:
        if self._exit:
            return self._exit
        try:
            with engine.engine_errors("read how the container ended"):
                state = self._wait_for_engine(timeout_s)
            self._note_end(0)
        except TimeoutError:
            raise
        except BaseException:
            kill_all(self.pids)  # the engine is lost and will not do it
            self._close()
            raise
        self._close()
        died_ns = self._offsets.to_monotonic(_wall_ns(state["FinishedAt"]))
        # The end is noticed only after the streams have ended; after a wall clock was set the engine's time is wrong.
        noticed_ns = self._ended_ns or time.monotonic_ns()
        ended_ns = died_ns if self.started_ns < died_ns < noticed_ns else noticed_ns
        code = state["ExitCode"]
        ended_by = code - 128 if code > 128 and code - 128 in set(signal.Signals) else None
        counters = self._counters
        peak, peak_file = counters.peak if counters and counters.peak else (None, None)
        self._exit = Exit(
            code=None if ended_by else code,
            signal=ended_by,
            oom_killed=state["OOMKilled"] or bool(counters and counters.oom_kills),
            started_ns=self.started_ns,
            ended_ns=ended_ns,
            cpu_s=counters.cpu_s if counters else None,
            cpu_source=f"cgroup v{self.group.version}, last sampled" if counters else None,
            peak_bytes=peak,
            peak_source=peak_file and f"{peak_file}, last sampled",
            pids_refused=counters.pids_refused if counters else 0,
            disk_mounts=self._disk_mounts,
            engine_started_ns=self._offsets.to_monotonic(_wall_ns(state["StartedAt"])),
            engine_died_ns=died_ns,
        )
        return self._exit

    def _close(self) -> None:
        if self._counters:
            self._counters.stop()
        with suppress(OSError):
            self._attached.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        with suppress(Exception):  # where the engine is gone the next start removes it
            engine.remove(self._client, self._name)

    def _wait_for_engine(self, timeout_s: float | None) -> dict[str, Any]:
        import requests

        try:
            self._client.api.wait(self.id, timeout=engine.TIMEOUT_S if timeout_s is None else timeout_s)
        except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError) as error:
            if "timed out" not in str(error):
                raise
            raise TimeoutError(f"still running after {timeout_s} s") from None
        state = self._client.api.inspect_container(self.id)["State"]
        if state["Running"] or state["Dead"] or state["Error"]:
            raise EnvironmentFailure(
                f"the engine lost the container ({state['Error'] or state['Status']})", remedy="see the engine's log"
            )
        return state


class _Frames:
    """Splits the attached stream into stdout and stderr; a frame may come in several parts."""

    def __init__(self):
        self._head, self._stream, self._left = b"", "", 0

    def split(self, data: bytes) -> list[tuple[str, bytes]]:
        """Return (stream, bytes) of what was received; adjacent frames of one stream are joined."""
        view, parts = memoryview(data), []
        while view:
            if not self._left:
                missing = HEADER.size - len(self._head)
                self._head, view = self._head + bytes(view[:missing]), view[missing:]
                if len(self._head) < HEADER.size:
                    break
                kind, self._left = HEADER.unpack(self._head)
                self._head, self._stream = b"", STREAMS[kind]
            part, view = view[: self._left], view[self._left :]
            self._left -= len(part)
            if parts and parts[-1][0] == self._stream:
                parts[-1][1].append(part)
            elif part:
                parts.append((self._stream, [part]))
        return [(stream, b"".join(pieces)) for stream, pieces in parts]


class _Counters:
    """Reads a container's counters until they are gone, and keeps the last."""

    def __init__(self, group: RunCgroup):
        self.cpu_s, self.peak, self.oom_kills, self.pids_refused = 0.0, None, 0, 0
        self._group, self._stop = group.reader(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="morocco-counters", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.cpu_s = self._group.cpu_s()
                self.peak = self._group.peak_bytes()
                self.oom_kills = self._group.oom_kills()
                self.pids_refused = self._group.pids_refused()
            except OSError:
                return  # the container has ended
            self._stop.wait(COUNTERS_PERIOD_S)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._group.close()


def _open_pidfd(pid: int, container: str) -> int | None:
    # Only where the pid is the container's on this machine: the engine may be elsewhere.
    try:
        if container not in Path(f"/proc/{pid}/cgroup").read_text():
            return None
        return os.pidfd_open(pid)
    except OSError:
        return None


def _disk_mounts(pid: int | None, facts: dict[str, Any]) -> tuple[str, ...]:
    """Return the mounts of a container that are not in memory and may be written.

    Each is tried from here where that is allowed, which takes root and an engine on this machine, else the engine is believed.
    """
    root = f"/proc/{pid}/root"
    try:
        on_disk = [place for _, _, place, kind in procfs.mounts(pid) if kind not in IN_MEMORY]
        writable = tuple(path for path in on_disk if os.access(root + path, os.W_OK))
        os.stat(f"{root}/")  # it may be read, and the container has not ended since
        return writable
    except OSError:
        top = () if facts["HostConfig"]["ReadonlyRootfs"] else ("/",)
        return (*top, *(mount["Destination"] for mount in facts["Mounts"] if mount["RW"]))


def _wall_ns(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1) * 1000
