"""A stand-in for a home folder that is not there or cannot be written, for libraries that keep things in it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = {  # variable: the folders used where it is not set
    "IPYTHONDIR": ("~/.ipython",),
    "JUPYTER_CONFIG_DIR": ("~/.jupyter",),
    "JUPYTER_DATA_DIR": ("~/.local/share/jupyter",),
    "JUPYTER_RUNTIME_DIR": ("~/.local/share/jupyter/runtime",),
    "MPLCONFIGDIR": ("~/.config/matplotlib", "~/.cache/matplotlib"),
}


def _writable(place: str) -> bool:
    folder = os.path.expanduser(place)  # stays as it is for a user without a home
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
def lent(fallback: Path) -> Iterator[None]:
    """Name folders that can be written to Jupyter, IPython and matplotlib, and to our children, where theirs cannot be.

    HOME stays as it is: a program that is measured may keep its models there.

    Args:
        fallback: An existing folder to make them in on a machine without a temporary one.
    """
    taken = {name: [os.environ[name]] if os.environ.get(name) else usual for name, usual in PLACES.items()}
    wanting = [name for name, places in taken.items() if not all(map(_writable, places))]
    place = _temporary(fallback)
    if not wanting and not place:
        yield
        return
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(dir=place, prefix=".morocco-home-", ignore_cleanup_errors=True) as folder:
        os.environ.update({name: os.path.join(folder, name.lower()) for name in wanting})
        if place:
            os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            if place:
                tempfile.tempdir = None
