"""Temporary folders for libraries that write to the home folder, where that is missing or read-only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDERS = {  # variable: the folders used where it is not set
    "IPYTHONDIR": ("~/.ipython",),
    "JUPYTER_CONFIG_DIR": ("~/.jupyter",),
    "JUPYTER_DATA_DIR": ("~/.local/share/jupyter",),
    "JUPYTER_RUNTIME_DIR": ("~/.local/share/jupyter/runtime",),
    "MPLCONFIGDIR": ("~/.config/matplotlib", "~/.cache/matplotlib"),
}


def _is_writable(folder: str) -> bool:
    folder = os.path.expanduser(folder)  # unchanged for a user without a home
    while os.path.isabs(folder) and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isabs(folder) and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _temporary(fallback: Path) -> Path | None:
    try:
        tempfile.gettempdir()
        return None
    except FileNotFoundError:
        return fallback.resolve()


@contextmanager
def writable(fallback: Path) -> Iterator[None]:
    """Give Jupyter, IPython and matplotlib, and our child processes, writable folders where theirs are not.

    HOME is not changed: a measured program may have its models there.

    Args:
        fallback: An existing folder to make them in on a machine without a temporary folder.
    """
    used = {name: [os.environ[name]] if os.environ.get(name) else usual for name, usual in FOLDERS.items()}
    missing = [name for name, folders in used.items() if not all(map(_is_writable, folders))]
    base = _temporary(fallback)
    if not missing and not base:
        yield
        return
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(dir=base, prefix=".morocco-home-", ignore_cleanup_errors=True) as folder:
        os.environ.update({name: os.path.join(folder, name.lower()) for name in missing})
        if base:
            os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            if base:
                tempfile.tempdir = None
