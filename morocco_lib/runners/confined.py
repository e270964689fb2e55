"""Where we are root a bare program runs as a user of its own, and what it must not read is covered.

It owns nothing, and its /tmp is memory of its own. As root may have a model anywhere, it has the right to read any file and
to enter any folder, and no other; so what is hidden from it is covered in a mount namespace of its own, and devices and file
handles, by which it could be read all the same, are refused.

A mount namespace and a filter of system calls are those of a thread, so a thread that does nothing else starts the program.
"""

import ctypes
import errno
import functools
import itertools
import os
import platform
import queue
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from morocco_lib.errors import EnvironmentFailure
from morocco_lib.monitors import procfs

USERS = range(61184, 65520)  # systemd's for services that have none: they own nothing
OWN = ("/tmp", "/var/tmp", "/dev/shm")  # memory of its own, beside what the command and the environment name there
CACHES = {"HF_HOME": "huggingface", "TORCH_HOME": "torch"}  # read where they are; what is written goes to /tmp
# What would let it act as us on this machine.
KEYS = ("~/.ssh", os.environ.get("JUPYTER_RUNTIME_DIR", "~/.local/share/jupyter/runtime"))
NVIDIA, NVIDIA_MEMORY = "/proc/driver/nvidia", "/dev/nvidia-uvm"

# linux/sched.h, linux/mount.h
CLONE_NEWNS = 0x20000
NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 2, 4, 32, 4096, 16384, 1 << 18
# machine: (linux/audit.h, calls of seccomp and open_by_handle_at)
CALLS = {"x86_64": (0xC000003E, 317, 304), "aarch64": (0xC00000B7, 277, 265)}
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1, 4  # which costs the program no speed

STREAMS = ("stdin", "stdout", "stderr")

_count = itertools.count(os.getpid())


@functools.cache
def possible() -> bool:
    """Tell whether a program can be confined here: as root, with all rights, on a kernel that lets mounts be made."""
    if os.geteuid() or platform.machine() not in CALLS or not os.path.exists("/proc/self/mountinfo"):
        return False
    if os.path.exists(NVIDIA) and not os.path.exists(NVIDIA_MEMORY):  # as root a program makes it itself
        with suppress(OSError):
            subprocess.run(["nvidia-modprobe", "-u", "-c=0"], check=False)
    start = functools.partial(subprocess.Popen, [*as_user(USERS[0]), "true"], **dict.fromkeys(STREAMS, subprocess.PIPE))
    launch = Launch(USERS[0])
    try:
        with launch.of(start) as process:
            process.communicate(timeout=30)
            return process.returncode == 0
    except (OSError, subprocess.SubprocessError, EnvironmentFailure):
        return False
    finally:
        launch.end()


def new_user() -> int:
    """Return a user that no program of ours has now."""
    return USERS[next(_count) % len(USERS)]


def as_user(user: int) -> list[str]:
    """Return the prefix of a command that makes it run as a user."""
    right = "-all,+dac_read_search"
    rights = ("--inh-caps", right, "--ambient-caps", right, "--bounding-set", right, "--no-new-privs")
    ids = f"--reuid={user}", f"--regid={user}", "--clear-groups"
    return ["setpriv", *ids, *rights, "--pdeathsig", "KILL", "--"]


def environment(given: dict[str, str]) -> dict[str, str]:
    """Return the environment of a confined program: ours, but for where it writes."""
    home = given.get("XDG_CACHE_HOME") or os.path.join(given.get("HOME", "/"), ".cache")
    caches = {name: path for name, folder in CACHES.items() if os.path.isdir(path := os.path.join(home, folder))}
    writes = {"XDG_CACHE_HOME": "cache", "TRITON_CACHE_DIR": "triton", "CUDA_CACHE_PATH": "cuda"}
    return {**caches, **given, "TMPDIR": "/tmp", **{name: f"/tmp/{folder}" for name, folder in writes.items()}}


class Launch:
    """Starts one program whose view of the files is its own.

    Args:
        user: Who it runs as.
        hidden: Files and folders that are covered, with all below them.
        needed: What is shown again of a hidden folder: paths that the command and the environment name.
        folder: Where it starts, which is made where it is hidden.
    """

    def __init__(self, user: int, hidden: Iterable[Path] = (), needed: Iterable[Path] = (), folder: Path | None = None):
        self.user, self._folder = user, folder and os.path.isdir(folder) and os.path.realpath(folder)
        paths = (*hidden, *map(os.path.expanduser, KEYS))
        covered = {place for path in paths if os.path.exists(path) for place in _places(os.path.realpath(path))}
        self._files = [path for path in covered if not os.path.isdir(path)]
        self._folders = [path for path in covered if os.path.isdir(path) and not _within(path, covered)]
        named = {os.path.realpath(path) for path in needed}
        shown = (
            path for path in named if path != self._folder and _within(path, self._folders) and os.path.exists(path)
        )
        self._shown = [path for path in shown if not any(_within(hidden, [path]) for hidden in covered)]
        self._own = [os.path.realpath(path) for path in OWN if os.path.isdir(path)]
        at = ((path, own) for path in named for own in self._own if _within(path, [own]))
        kept = {f"{own}/{path[len(own) + 1 :].partition('/')[0]}" for path, own in at}
        self._kept = [path for path in kept if os.path.exists(path)]
        self._ended, self._thread = threading.Event(), None

    def of(self, start: Callable[[], subprocess.Popen]) -> subprocess.Popen:
        """Call `start` in the program's view and return what it returns. Raises what it raises."""
        answers: queue.SimpleQueue = queue.SimpleQueue()

        def run() -> None:
            try:
                try:
                    self._enter()
                except OSError as error:
                    raise EnvironmentFailure(
                        f"cannot hide {error.filename} from the program: {error.strerror}"
                    ) from None
                answers.put((start(), None))
            except BaseException as error:
                answers.put((None, error))
            else:
                self._ended.wait()  # the kernel kills the program with the thread that started it

        self._thread = threading.Thread(target=run, name="morocco-launch", daemon=True)
        self._thread.start()
        try:
            process, error = answers.get()
        except BaseException:
            self._ended.set()
            raise
        if error:
            raise error
        for stream in (process.stdin, process.stdout, process.stderr):
            os.fchown(stream.fileno(), self.user, self.user)  # so that it may open /dev/stdout
        return process

    def end(self) -> None:
        """End the thread; the program has ended."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _enter(self) -> None:
        _done(_libc.unshare(CLONE_NEWNS), "mounts")
        _mount("none", "/", flags=REC | PRIVATE)
        kept, shown = ([(path, os.open(path, os.O_PATH)) for path in paths] for paths in (self._kept, self._shown))
        for path in self._own:
            _mount("tmpfs", path, "tmpfs", NOSUID | NODEV, "mode=1777")
        _show(kept)
        for path in self._folders:
            with suppress(FileNotFoundError):  # of what is covered already
                _mount("tmpfs", path, "tmpfs", NOSUID | NODEV, "mode=755,size=1m")
        _show(shown)
        for path in self._files:
            with suppress(FileNotFoundError):
                _mount("/dev/null", path, flags=BIND)
        self._refuse_devices()
        _refuse_handles()
        if self._folder:
            os.makedirs(self._folder, exist_ok=True)

    @staticmethod
    def _refuse_devices() -> None:
        # The right to read would open a disk; those that anybody may read stay.
        home = os.stat("/dev").st_dev
        for parent, folders, names in os.walk("/dev"):
            folders[:] = [name for name in folders if os.lstat(f"{parent}/{name}").st_dev == home]
            for name in names:
                mode = os.lstat(path := f"{parent}/{name}").st_mode
                if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and mode & stat.S_IROTH:
                    _mount(path, path, flags=BIND)
        for path in filter(os.path.ismount, ("/dev", "/dev/pts")):
            _mount("none", path, flags=REMOUNT | BIND | NOSUID | NODEV)


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def _places(path: str) -> set[str]:
    """Return all places of a file or folder, as a disk may be mounted twice."""
    mounts = [(device, root.rstrip("/"), place.rstrip("/")) for device, root, place, _ in procfs.mounts()]
    device, root, place = max((m for m in mounts if f"{path}/".startswith(f"{m[2]}/")), key=lambda m: len(m[2]))
    inside = root + path[len(place) :]
    others = {p + inside[len(r) :] for d, r, p in mounts if d == device and f"{inside}/".startswith(f"{r}/")}
    return {path, *(other for other in others if os.path.exists(other) and os.path.samefile(path, other))}


def _show(opened: Iterable[tuple[str, int]]) -> None:
    for path, fd in opened:
        source = f"/proc/self/fd/{fd}"
        os.makedirs(path if os.path.isdir(source) else os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            open(path, "x").close()  # to be covered
        _mount(source, path, flags=BIND | REC)
        os.close(fd)


# -- system calls --------------------------------------------------------------------------------------------------
_libc = ctypes.CDLL(None, use_errno=True)


def _done(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = [os.fsencode(word) for word in (source, target, kind)]
    _done(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options)), target)


def _refuse_handles() -> None:
    # A file may be opened by its number, whatever covers it. Calls of 32-bit programs have other numbers: all refused.
    machine, seccomp, call = CALLS[platform.machine()]
    refused, allowed = 0x00050000 | errno.EPERM, 0x7FFF0000
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
    steps = [
        (load, 0, 0, 4), (equal, 0, 3, machine), (load, 0, 0, 0), (at_least, 1, 0, 0x40000000), (equal, 0, 1, call), (end, 0, 0, refused),
        (end, 0, 0, allowed),
    ]  # fmt: skip
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    given = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(program)))
    _done(_libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, given), "seccomp")
