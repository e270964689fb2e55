"""Which images were made here, by what went into them: a file of ours for each, as any image may bear any label or name."""

import hashlib
from contextlib import suppress
from pathlib import Path

from morocco_lib import fileio, foreign

KEPT = 9  # of engines, or of the same one after an image was removed


def _place(key: str) -> Path:
    return fileio.state("images", hashlib.sha256(key.encode()).hexdigest())


def made(key: str) -> list[str]:
    """Return the ids of the images that were made here of this, by any engine, the newest first."""
    try:
        return foreign.read_text(_place(key)).split()
    except OSError:
        return []


def remember(key: str, image_id: str) -> None:
    """Record the id of an image that was made here; where that cannot be written it is made again next time."""
    with suppress(OSError):
        _place(key).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fileio.write_text(_place(key), "\n".join([image_id, *made(key)[:KEPT]]))
