"""Step folders: the record on disk. Parameters, inputs and outputs of a step, with a digest of every byte.

    outputs/<plan>/<model>/<task>/<step>-<key8>/    status.json and whatever the step made
    outputs/<plan>/<step>-<key8>/                   steps of a whole plan: synthetic records, the report

A folder is never overwritten: failed, killed and forced attempts are renamed <folder>.1, .2, and kept.
"""

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import morocco_lib
from morocco_lib import fileio, foreign
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.foreign import NO_FILE
from morocco_lib.monitors.host import host_facts, lives, this_process
from morocco_lib.reasons import DISTURBED, EXIT_CODES

STATUS = "status.json"
DEEPEST = 4  # <plan>/<model>/<task>/<step> below outputs
DEEPEST_OWN = 64  # folders below each other that are looked through
SCHEMA = 1
NAME_LENGTH = 200
TEXT = (str, None)
SHAPE = {
    "schema": int, "step": str, "model": TEXT, "task": TEXT, "state": str, "exit": (int, None), "key": str, "parameters": dict,
    "inputs": {str: str}, "outputs": {str: str}, "started": str, "ended?": TEXT, "error?": TEXT, "retired?": str,
    "code": {"version": str, "commit": TEXT}, "host": dict, "owner": {"pid": int, "start_ticks": (int, None), "boot_id": TEXT},
}  # fmt: skip
RUNNING, DONE, FAILED, KILLED = "running", "done", "failed", "killed"


def make_key(step: str, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Return the 8 hex digits that name an attempt: same parameters, same input bytes, same version, same key.

    Args:
        step: train, bench, eval, report, ...
        parameters: Of the step; no paths, or a moved folder would be another step.
        inputs: Name -> sha256 of what it reads.
    """
    text = fileio.canonical([step, parameters, sorted(inputs.items()), morocco_lib.__version__])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@functools.cache
def code_facts() -> dict[str, Any]:
    """Return version, commit and which files of the code are not committed; commit is None outside a git checkout.

    Files under params/ are no code: what a step read of them is among its parameters.
    """
    folder = Path(morocco_lib.__file__).parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        # Its output may be in any language and encoding.
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    # An installed copy may lie inside another project's checkout, whose commit says nothing about this code.
    if commit is None or not git("ls-files", "--", "__init__.py"):
        return {"version": morocco_lib.__version__, "commit": None, "dirty": None, "uncommitted": []}
    changes = git("status", "--porcelain", "--", str(folder), str(folder.parent / "notebooks"))
    dirty, files = (
        None if changes is None else bool(changes),
        [line.split(maxsplit=1)[1] for line in (changes or "").splitlines()],
    )
    return {"version": morocco_lib.__version__, "commit": commit, "dirty": dirty, "uncommitted": files}


def code_text() -> str:
    """Return `code_facts` as text."""
    code = code_facts()
    if code["commit"] is None:
        return f"morocco {code['version']}, not a git checkout"
    return f"morocco {code['version']}, {code['commit'][:10]}{uncommitted_text(code)}"


def uncommitted_text(code: dict[str, Any]) -> str:
    """Return what of the code is not committed, from what `code_facts` returns; "" if nothing is."""
    files = code.get("uncommitted", [])  # older statuses lack it
    named = f" in {', '.join(files[:3])}{' and others' if len(files) > 3 else ''}" if files else ""
    return f" with uncommitted changes{named}" if code.get("dirty") else ""


def now() -> str:
    """Return the UTC time as text; a label, never used to measure."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seal(status: dict[str, Any]) -> dict[str, Any]:
    """Return the status with the digest of itself, so that a changed byte in it shows as well."""
    body = {k: v for k, v in status.items() if k != "seal"}
    return {**body, "seal": hashlib.sha256(fileio.canonical(body).encode()).hexdigest()}


def read_status(folder: Path) -> dict[str, Any]:
    """Return a step's status.

    Raises:
        UsageError: no status.json, or one this version cannot read.
    """
    path = Path(folder) / STATUS
    try:
        status = foreign.parse(foreign.read_bytes(path, within=folder))
        foreign.fits(status, {"schema": int})
        if status["schema"] != SCHEMA:
            raise UsageError(f"{path} has schema {status['schema']}", rule=f"this version reads schema {SCHEMA}")
        foreign.fits(status, SHAPE)
        for name in ("step", "model", "task", "key"):
            if not (status[name] or "").isprintable() or len(status[name] or "") > NAME_LENGTH:
                raise ValueError(f"its {name} is {status[name]!r:.60}")
        return status
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", remedy="give a step folder") from None
    except ValueError as error:
        raise UsageError(f"{path} is broken ({error})", remedy="remove the folder and run the step again") from None


def digest_outputs(folder: Path) -> dict[str, str]:
    """Return {path within the folder: sha256} of everything in it but the status and the step folders in it.

    What is neither a file nor a folder, as a pipe or a link, has NO_FILE in place of a digest.
    """
    found = sorted((path, is_file) for path, is_file in foreign.tree(folder, STATUS) if path != Path(folder) / STATUS)
    return {
        path.relative_to(folder).as_posix(): foreign.sha256_file(path, within=folder) if is_file else NO_FILE
        for path, is_file in found
    }


def everything(folder: Path) -> dict[str, str]:
    """Return the digests of all that a step folder holds, its status too; nothing where there is none."""
    status = Path(folder) / STATUS
    return digest_outputs(folder) | {STATUS: foreign.sha256_file(status)} if status.is_file() else {}


def find_files(folder: Path, name: str, only: Collection[Path] | None = None) -> list[Path]:
    """Return every file of a name at or below a folder, each once.

    Links to folders are followed as deep as a plan's folders are, but not inside a step folder, whose content may be anyone's.

    Args:
        only: Look no further than for files in these folders (resolved).
    Raises:
        UsageError: a folder may not be read, or is too deep.
    """
    root, found, seen = Path(folder).resolve(), [], set()
    above = None if only is None else {place for wanted in only for place in (wanted, *wanted.parents)}

    def look(place: Path, real: Path, deep: int, linked: bool, in_step: bool) -> None:
        if real in seen or (linked and (deep > DEEPEST or root.is_relative_to(real))):
            return
        if above is not None and real not in above:
            return
        if deep > DEEPEST_OWN:
            raise UsageError(
                f"{root} has more than {DEEPEST_OWN} folders below each other", remedy="give outputs/<plan>"
            )
        seen.add(real)
        try:
            entries = sorted(
                os.scandir(place), key=lambda entry: (entry.is_symlink(), entry.name)
            )  # its own before links
        except OSError as error:
            raise UsageError(
                f"cannot read {place}: {error.strerror}", remedy="make it readable, or take it away"
            ) from None
        names = {entry.name for entry in entries}
        found.extend([place / name] if name in names else [])
        in_step = in_step or STATUS in names
        for entry in entries:
            if entry.is_dir() and not ((link := entry.is_symlink()) and in_step):
                inner = place / entry.name
                look(inner, inner.resolve() if link else real / entry.name, deep + 1, linked or link, in_step)

    if root.is_dir():
        look(Path(folder), root, 0, False, False)
    return found


def find_steps(outputs: Path, only: Collection[Path] | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (folder, status) of every step folder below, or of some (resolved), the oldest first.

    Raises:
        UsageError: one is broken.
    """
    found = [(path.parent, read_status(path.parent)) for path in find_files(outputs, STATUS, only)]
    found = [item for item in found if only is None or item[0].resolve() in only]
    yield from sorted(found, key=lambda item: (item[1]["started"], str(item[0])))


def is_retired(status: Mapping[str, Any]) -> bool:
    """Tell whether a step is an earlier attempt that was set aside; its folder's name says nothing."""
    return bool(status.get("retired"))


def is_good(status: Mapping[str, Any]) -> bool:
    """Tell whether a step is done and undisturbed: it need not be run again."""
    return status["state"] == DONE and status["exit"] != EXIT_CODES[DISTURBED]


def is_alive(status: Mapping[str, Any]) -> bool:
    """Tell whether the process that runs a step still lives on this machine."""
    owner = status["owner"]
    if owner["pid"] == os.getpid() and (status["key"], status["started"]) not in _underway:
        return False  # a step of this process whose end could not be written
    return lives(owner)


_underway: set[tuple[str, str]] = set()  # key and start of the steps of this process


@dataclass
class Step:
    """One attempt at a step, in its folder. Use `begin`, then `finish`."""

    folder: Path
    status: dict[str, Any] = field(repr=False)

    @classmethod
    def begin(
        cls, folder: Path, step: str, *, model: str | None = None, task: str | None = None,
        parameters: Mapping[str, Any], inputs: Mapping[str, Path], key: str | None = None,
    ) -> "Step":  # fmt: skip
        """Make the folder and write the status `running`.

        Args:
            folder: New or empty, or holding an unfinished attempt, which is renamed <folder>.1, .2, ...
            inputs: Name -> path of every file read; digests are taken now.
        Raises:
            UsageError: the folder holds something already, or an input cannot be read.
            EnvironmentFailure: it cannot be written.
        """
        folder = Path(folder)
        _check_names(str(folder.resolve()), *map(str, inputs.values()), fileio.canonical(parameters))
        try:
            digests = {name: fileio.sha256_file(path) for name, path in inputs.items()}
        except OSError as error:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}", remedy="name a file") from None
        with fileio.writing(folder):
            if (folder / STATUS).is_file():
                earlier = read_status(folder)
                if earlier["state"] != DONE and not (earlier["state"] == RUNNING and is_alive(earlier)):
                    retire(folder)
            check_empty(folder)
            folder.mkdir(parents=True, exist_ok=True)
            place = os.path.realpath(folder)
            status = {
                "schema": SCHEMA,
                "step": step,
                "model": model,
                "task": task,
                "state": RUNNING,
                "exit": None,
                "key": key or make_key(step, parameters, digests),
                "parameters": dict(parameters),
                "inputs": {_input_path(place, path): digests[name] for name, path in inputs.items()},
                "outputs": {},
                "code": code_facts(),
                "host": host_facts(),
                "owner": this_process(),
                "started": now(),
                "ended": None,
                "error": None,
            }
            fileio.write_json(folder / STATUS, seal(status))
        _underway.add((status["key"], status["started"]))
        return cls(folder, status)

    def finish(self, state: str, exit_code: int, error: str | None = None) -> None:
        """Write the final status with a digest of every file in the folder."""
        _underway.discard((self.status["key"], self.status["started"]))
        outputs = digest_outputs(self.folder)
        self.status |= {"state": state, "exit": exit_code, "ended": now(), "error": error, "outputs": outputs}
        _write(self.folder, self.status)

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self.status["state"] != RUNNING:
            return
        if error is None:
            self.finish(DONE, 0)
        else:
            state = FAILED if isinstance(error, Exception) else KILLED
            self.finish(state, getattr(error, "exit_code", 3), f"{kind.__name__}: {error}")


def _write(folder: Path, status: dict[str, Any]) -> None:
    with fileio.writing(folder):
        fileio.write_json(folder / STATUS, seal(status))


def check_empty(folder: Path) -> None:
    """Raise UsageError if a folder for a result holds anything, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not empty", rule="a result is never overwritten", remedy="give --out a new folder"
        )


def _check_names(*texts: str) -> None:
    """Raise unless each text is encoded to UTF-8 on disk: that is how results name their files."""
    encoding = sys.getfilesystemencoding()
    for text in texts:
        with suppress(UnicodeError):
            if os.fsencode(text) == text.encode():
                continue
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        if encoding != "utf-8":
            raise EnvironmentFailure(
                f"names of files are read as {encoding} here: {shown}", rule="results name them in UTF-8",
                remedy="`export PYTHONUTF8=1`",
            )  # fmt: skip
        raise UsageError(f"{shown} is not UTF-8", rule="results name their files", remedy="rename it")


def _input_path(place: str, path: Path) -> str:
    # Relative within one plan folder, so that it may be moved as a whole; absolute elsewhere.
    real = os.path.realpath(path)
    relative = os.path.relpath(real, place)
    return relative if relative.split(os.sep).count("..") <= 3 else real


def retire(folder: Path) -> Path | None:
    """Rename an earlier attempt to <folder>.1, .2, ... and return its new path; None if there is none.

    An attempt whose process died while it ran is marked `killed` first, with digests of what it left.

    Raises:
        EnvironmentFailure: it is running right now.
    """
    folder = Path(folder)
    if not folder.exists():
        return None
    if (folder / STATUS).exists():
        status = read_status(folder)
        if status["state"] == RUNNING:
            if is_alive(status):
                raise EnvironmentFailure(
                    f"{folder} is being worked on by process {status['owner']['pid']}", remedy="wait for it or end it"
                )
            died = f"process {status['owner']['pid']} died while the step ran; found at {now()}"
            Step(folder, status).finish(KILLED, 3, died)
        _write(folder, status | {"retired": now()})
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(target)
    return target
