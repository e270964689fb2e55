"""Runs a program as a bare process: without isolation, with the same clock, feeding and accounting as a container.

Where we are root it is another user, from whom the gold is hidden: see `confined`."""

import ctypes
import fcntl
import functools
import os
import re
import select
import selectors
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import procfs
from morocco_lib.monitors.cgroup import RunCgroup, kill_all
from morocco_lib.runners import confined
from morocco_lib.runners.contract import Exit, Limits

READ_BYTES = 1 << 20
# What of our environment a measured program is handed: what it takes to run, what says how its libraries compute and where
# they find their files. Everything else may be a key, or tell where the right answers are.
HANDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|XDG_CACHE_HOME|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH|LD_PRELOAD|"
    r"(PYTHON|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|BLIS_|NUMEXPR_|VECLIB_|RAYON_|TBB_|ONEDNN_|DNNL_|MALLOC_|CUDA_|CUBLAS_|CUDNN_|NCCL_|"
    r"NVIDIA_|HIP_|ROCR_|TORCH|PYTORCH_|TRITON_|XLA_|JAX_|TF_|OPENVINO_|ORT_|TOKENIZERS_|TRANSFORMERS_|SENTENCE_TRANSFORMERS_|HF_|"
    r"MOROCCO_)\w*"
)
SECRET = re.compile(r"TOKEN(?!IZER)|SECRET|PASSW|CREDENTIAL|KEY")
DRAIN_S = 2.0  # how long output may still come after the program ended, from children that hold its pipes
FIRST_READ_POLL_S = 0.002

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37  # linux/prctl.h

# Enters the run's cgroups, then becomes the program: same pid, and all of its memory is charged there.
_ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 126; shift; done; shift; exec "$@"'


class _Subreaper:
    """While a run lasts, its processes whose parent ends become our children, not those of process 1, so they can be found."""

    def __init__(self):
        self._lock, self._before, self.running = threading.Lock(), 0, set()  # first processes of the runs that last
        self._count = 0

    def begin(self) -> None:
        with self._lock:
            if not self._count:
                before, libc = ctypes.c_int(0), ctypes.CDLL(None)
                libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
                libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
                self._before = before.value
            self._count += 1

    def end(self, pid: int | None = None) -> None:
        with self._lock:
            self.running.discard(pid)
            self._count -= 1
            if not self._count:
                ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, self._before, 0, 0, 0)


_subreaper = _Subreaper()


class ProcessRunner:
    """Starts programs as child processes in a session of their own.

    Args:
        cwd: Working folder of the program; None: ours.
        use_cgroup: False leaves accounting to /proc even where a cgroup could be made.
        env: Names of further environment variables that the program is handed.
        hidden: Files and folders that the program must not read; see `confines`.
    """

    name = "process"

    def __init__(
        self, cwd: Path | None = None, use_cgroup: bool = True, env: tuple[str, ...] = (), hidden: tuple[Path, ...] = ()
    ):
        self.cwd, self.use_cgroup, self.env, self.hidden = cwd, use_cgroup, tuple(env), tuple(hidden)

    def hiding(self, paths: Iterable[Path]) -> "ProcessRunner":
        """Return a runner whose programs cannot read these either."""
        return ProcessRunner(self.cwd, self.use_cgroup, self.env, (*self.hidden, *paths))

    @property
    def confines(self) -> bool:
        """Whether a program runs as another user, and what is hidden is unreadable to it: where we are root."""
        return confined.possible()

    @property
    def environment(self) -> dict[str, str]:
        """What of ours is no secret and concerns a program that computes, and what it is handed."""
        usual = (name for name in os.environ if HANDED.fullmatch(name) and not SECRET.search(name))
        return {name: os.environ[name] for name in (*usual, *self.env)}

    def bounded(self, limits: Limits) -> Limits:
        """Return the limits as they are: a bare process has none but those that were given."""
        return limits

    def start(self, argv: list[str], limits: Limits) -> "ProcessHandle":
        """Start a program.

        Raises:
            UsageError: there is no such program, or a limit was given that only containers have.
            EnvironmentFailure: a memory limit was given and no cgroup can be made to enforce it.
        """
        if limits.pids is not None or limits.cpus is not None:
            raise UsageError("a limit of pids or cpus", rule="only containers have one", remedy="measure with --image")
        program, environment, launch = [find_program(argv[0], self.cwd), *argv[1:]], self.environment, None
        if self.confines:
            folder = Path(self.cwd or Path.cwd())
            words = [*program, *argv, *(word.partition("=")[2] for word in argv)]
            words += [path for value in environment.values() for path in value.split(os.pathsep) if path[:1] == os.sep]
            needed = [folder, *(folder / word for word in words if word)]
            launch = confined.Launch(confined.new_user(), self.hidden, needed, folder)
            prefix, environment = confined.as_user(launch.user), confined.environment(environment)
        else:
            prefix, folder = die_with_parent(), self.cwd
        command = [*prefix, *program]
        started_ns = time.monotonic_ns()
        group = RunCgroup.create() if self.use_cgroup else None
        if limits.memory_bytes is not None and group is None:
            raise EnvironmentFailure(
                "a memory limit needs a cgroup and none can be made here",
                remedy="run as root or in a delegated group (`morocco doctor` tells), or drop the limit",
            )
        _subreaper.begin()
        try:
            if group:
                command = ["/bin/sh", "-c", _ENTER, "sh", *map(str, group.procs_files), "--", *command]
                if limits.memory_bytes is not None:
                    group.limit_memory(limits.memory_bytes)
            start = functools.partial(
                subprocess.Popen,
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=folder,
                env=environment,
                start_new_session=True,  # its own process group, out of reach of our terminal's Ctrl-C
            )
            process = launch.of(start) if launch else start()
        except BaseException as error:
            if launch:
                launch.end()
            _subreaper.end()
            if group:
                group.remove()
            if not isinstance(error, OSError):
                raise
            raise UsageError(
                f"cannot start {argv[0]!r}: {error.strerror}", remedy="give a program that runs by hand"
            ) from None
        return ProcessHandle(process, group, started_ns, launch)


@functools.cache
def die_with_parent() -> tuple[str, ...]:
    """Return the prefix of a command that lets the kernel kill it when we die; empty where `setpriv` cannot do that.

    Limits: its children live on; they are removed with its cgroup at the next start.
    """
    prefix = ("setpriv", "--pdeathsig", "KILL", "--")
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if done.returncode == 0 else ()


def find_program(name: str, cwd: Path | None = None) -> str:
    """Return the path of a program, found as a shell finds it; raises UsageError."""
    found = shutil.which(name if os.sep not in name else str((cwd or Path.cwd()) / name))
    if not found:
        raise UsageError(
            f"{name!r} is not executable" if os.path.isfile(Path(cwd or "", name)) else f"no program {name!r}",
            rule="the first word of --command is a program on PATH or a path to one that may be executed",
        )
    try:
        with open(found, "rb") as file:
            head = file.read(64)
    except PermissionError:  # may be executed and not read
        return found
    if not head.startswith(b"#!") and b"\0" not in head:  # a shell would take it for a script of its own
        raise UsageError(
            f"{name!r} is text without a first line that names its interpreter",
            remedy=f"begin it with #!/usr/bin/env python3, or give --command 'python3 {name}'",
        )
    return found


class ProcessHandle:
    """A running child process; see `contract.Handle`."""

    def __init__(
        self, process: subprocess.Popen, group: RunCgroup | None, started_ns: int, launch: confined.Launch | None = None
    ):
        self._process, self.group, self.started_ns, self._launch = process, group, started_ns, launch
        _subreaper.running.add(process.pid)
        self._start_ticks = procfs.start_ticks(process.pid)
        self.cgroup = group.memory if group else None
        self._pidfd = os.pidfd_open(process.pid)
        self._ended_ns: int | None = None
        self._first_read_ns: int | None = None
        self._exit: Exit | None = None
        self._left: tuple[int, ...] = ()
        self._outside: tuple[int, ...] = ()
        self._killed = False  # while it ran: then no process has outlived it
        self._known: dict[int, int] = {}  # pid -> start of every process found
        self._stdin_lock = threading.Lock()
        self._written = 0
        os.set_blocking(process.stdin.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- stdin -------------------------------------------------------------------------------------------------
    def write(self, data: bytes) -> None:
        view = memoryview(data)
        fd = self._process.stdin.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_WRITE)
            room_ns = None
            while view:
                try:
                    count = os.write(fd, view)
                except BlockingIOError:
                    selector.select()
                    room_ns = time.monotonic_ns()
                    continue
                view = view[count:]
                self._written += count
                # The pipe was full and took more: if nothing had been read before, it was then.
                self._first_read_ns = self._first_read_ns or room_ns

    def close_stdin(self) -> None:
        with self._stdin_lock:
            if self._process.stdin.closed:
                return
            self._await_first_read()
            self._process.stdin.close()

    def _await_first_read(self) -> None:
        # A short input fits into the pipe; when less of it is left there the program has begun to read.
        fd = self._process.stdin.fileno()
        closed = select.poll()
        closed.register(fd, 0)
        while self._written and self._first_read_ns is None and self._ended_ns is None:
            try:
                unread = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
            except OSError:
                return
            if unread < self._written:
                self._first_read_ns = time.monotonic_ns()
            elif closed.poll(FIRST_READ_POLL_S * 1000):
                return  # nobody can read any more

    # -- stdout, stderr ----------------------------------------------------------------------------------------
    def chunks(self) -> Iterator[tuple[int, str, bytes]]:
        drain_until, killed = None, False
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ, "stdout")
            selector.register(self._process.stderr, selectors.EVENT_READ, "stderr")
            selector.register(self._pidfd, selectors.EVENT_READ, "end")
            streams = 2
            while streams:
                timeout = None if drain_until is None else drain_until - time.monotonic()
                if timeout is not None and timeout <= 0:
                    if killed:
                        return  # the holder is out of reach; what the program itself wrote has been read
                    self.kill()  # another process holds the pipes of a program that has ended
                    drain_until, killed = time.monotonic() + DRAIN_S, True
                    continue
                for key, _ in selector.select(timeout):
                    if key.data == "end":
                        self._ended_ns = time.monotonic_ns()
                        selector.unregister(self._pidfd)
                        drain_until = time.monotonic() + DRAIN_S
                        continue
                    data = os.read(key.fd, READ_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                        streams -= 1
                        continue
                    yield time.monotonic_ns(), key.data, data

    # -- end ---------------------------------------------------------------------------------------------------
    def pids(self) -> list[int]:
        # Once found, a process stays known, even when it has left our session, its parent and its cgroup.
        found = procfs.tree(self.pid, {**self._known, **self.orphans()})
        self._known = {**self._known, **found}
        return sorted({*found, *(self.group.pids() if self.group else ())})

    def orphans(self) -> dict[int, int]:
        """Return {pid: start in clock ticks} of the run's processes whose parent has ended; those that ended are waited for.

        Limits: a process that another thread of ours starts meanwhile, in a session of its own, is taken for one.
        """
        ours, found = os.getsid(0), {}
        for pid in procfs.children(os.getpid()):
            fields = procfs.stat_fields(pid)
            if fields is None or int(fields[3]) == ours or pid in _subreaper.running:
                continue
            if (start := int(fields[19])) < self._start_ticks:
                continue
            if fields[0] in "ZX":
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            else:
                found[pid] = start
        return found

    def kill(self) -> None:
        if self._exit:
            return  # its pid may be another program's by now
        if self._ended_ns is None:
            self._killed = True
        killed = kill_all(self.pids)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # one that has not entered its cgroup yet
        if not self._killed:
            self._left = tuple(dict.fromkeys((*self._left, *(pid for pid in killed if pid != self.pid))))

    def wait(self, timeout_s: float | None) -> Exit:
        if self._exit:
            return self._exit
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(None if timeout_s is None else timeout_s * 1000):
            raise TimeoutError(f"still running after {timeout_s} s")
        self._ended_ns = self._ended_ns or time.monotonic_ns()
        if left := [pid for pid in self.pids() if pid != self.pid]:
            self._outside = tuple(set(left).difference(self.group.pids())) if self.group else ()
            self.kill()
        _, status, usage = os.wait4(self.pid, 0)
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s, cpu_source = usage.ru_utime + usage.ru_stime, "wait4"
        peak_bytes, peak_source, oom_killed = None, None, False
        if self.group:
            cpu_s, cpu_source = self.group.cpu_s(), f"cgroup v{self.group.version}"
            peak_bytes, peak_source = self.group.peak_bytes() or (None, None)
            oom_killed = self.group.oom_kills() > 0
            self.group.remove()
        self.orphans()
        _subreaper.end(self.pid)
        if self._launch:
            self._launch.end()
        os.close(self._pidfd)
        self._process.stdout.close(), self._process.stderr.close()
        self._exit = Exit(
            code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            oom_killed=oom_killed,
            started_ns=self.started_ns,
            ended_ns=self._ended_ns,
            first_read_ns=self._first_read_ns,
            cpu_s=cpu_s,
            cpu_source=cpu_source,
            peak_bytes=peak_bytes,
            peak_source=peak_source,
            left_pids=self._left,
            outside_pids=self._outside,
        )
        return self._exit
