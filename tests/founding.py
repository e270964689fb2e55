"""docs/from-the-original.md as a table: what the founding documents typed, what is typed here, and where a test tries it."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

PAGE = ROOT / "docs/from-the-original.md"


class Row(NamedTuple):
    section: str
    founding: str
    ours: str
    differs: str
    tried: list[str]

    @property
    def commands(self) -> list[str]:
        """What is typed here, with a small model in the place of a download."""
        found = re.findall(r"`([^`]+)`", self.ours)
        return [c.replace("\\|", "|").replace("rubert", "tfidf").replace("--gpus all ", "") for c in found]

    @property
    def shown(self) -> list[str]:
        """What the page of a report shows."""
        return re.findall(r"\*([^*`]+)\*", self.ours)


def rows(tried: str = "", section: str = "") -> list[Row]:
    """Return the rows of the page, all or those that are tried in a place."""
    found = []
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        head, _, text = part.partition("\n")
        lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
        cells = [line.strip("| ").replace("\\|", "\0").split(" | ") for line in lines]
        found += [Row(head, a, b.replace("\0", "\\|"), c, d.split(", ")) for a, b, c, d in cells]
    return [row for row in found if tried in (*row.tried, "") and section in (row.section, "")]


def typed(command: str, main, home: Path, *more: str, **env: str) -> subprocess.CompletedProcess:
    """Type a command in a home folder; `more` are words added to it."""
    env |= {"HOME": str(home)}
    if "morocco " not in command:
        return subprocess.run(["bash", "-c", command], cwd=home, env=os.environ | env, capture_output=True, text=True)
    command, _, into = command.replace("~/", f"{home}/").partition(" > ")
    command, _, given = command.partition(" < ")
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, env[name] = words.pop(0).partition("=")
    done = main(*words[1:], *more, input=(home / given).read_bytes() if given else b"", cwd=home, env=env)
    if into:
        (home / into).write_text(done.stdout, encoding="utf-8")
    return done
