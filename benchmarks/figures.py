"""Make the numbers shown in README and quick start, and docs/terra.svg, anew: make figures MOROCCO_DATA=DIR

The commands of both pages run in a copy of the project. A shown line gets the numbers of the printed line that has the same
words; a line whose words are no longer printed is left, and named: a person has to write it. On a quiet machine it takes
about five minutes. The suite runs the same commands and compares the words.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from helpers import console_blocks, copy_project, shape  # noqa: E402

PAGES = ("README.md", "docs/quick-start.md")


def renewed(text: str, run: Callable[[str], str]) -> tuple[str, list[str]]:
    """Return a page with what its commands print now, and the shown lines whose words they no longer print.

    Args:
        run: Command -> what it prints.
    """
    place, missing = 0, []
    for command, shown in console_blocks(text):
        place = text.index(f"$ {command}\n", place) + len(command) + 3
        printed: dict[str, list[str]] = {}
        for line in run(command).splitlines():
            printed.setdefault(shape(line), []).append(line.rstrip())
        for line in shown:
            if not (found := printed.get(shape(line))):
                missing.append(line)
                continue
            new = found.pop(0)
            at = text.index(line, place)
            text = text[:at] + new + text[at + len(line) :]
            place = at + len(new)
            for old, fresh in zip(re.findall(r"outputs/\S+", line), re.findall(r"outputs/\S+", new), strict=True):
                text = text[:place] + text[place:].replace(old, fresh).replace(
                    str(Path(old).parent), str(Path(fresh).parent)
                )
    return text, missing


def terra_figure(home: Path, records: str) -> str:
    """Run params/plans/terra.yaml on a folder of official records and return its chart of score, speed and memory."""
    from morocco_lib.pipeline.step_kinds import KINDS
    from morocco_lib.report import figures, points

    command = [".venv/bin/python", "-m", "morocco_lib", "run", "params/plans/terra.yaml", "--out", "outputs/figure"]
    subprocess.run(command, cwd=home, env={**os.environ, "MOROCCO_DATA": records}, check=True)
    return figures.svg(figures.disc(points.collect(home / "outputs/figure", KINDS)))


def printed(command: str, home: Path) -> str:
    """Run a command of a page in a copy of the project and return what it prints; ends this program where it fails."""
    print(command, file=sys.stderr)
    done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}\n{done.stderr}\nended with exit code {done.returncode}; its page stays as it is")
    return done.stdout + done.stderr


def main() -> int:
    records, missing = os.environ.pop("MOROCCO_DATA", ""), []
    with tempfile.TemporaryDirectory() as folder:
        for name in PAGES:
            home = copy_project(Path(folder) / name)
            text, lines = renewed((ROOT / name).read_text(encoding="utf-8"), partial(printed, home=home))
            (ROOT / name).write_text(text, encoding="utf-8")
            missing += [f"{name}: no longer printed: {line}" for line in lines]
        if records:
            (ROOT / "docs/terra.svg").write_text(terra_figure(home, records), encoding="utf-8")
        else:
            print("docs/terra.svg stays: set MOROCCO_DATA to a folder that holds TERRa/val.jsonl", file=sys.stderr)
    print(*missing, sep="\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
