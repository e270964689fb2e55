"""The page on submissions: its commands run and print what it shows, and it lists every check."""

import re
import shutil

import pytest
from helpers import ROOT, console_blocks, run_as_shown
from submissions import bench_step

PAGE = (ROOT / "docs/submissions.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_shown_run_and_print_what_is_shown(tmp_path, val):
    shutil.copytree(val.parent, tmp_path / "outputs/records/TERRa")
    bench_step(tmp_path / "outputs/example", val, "example_model")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    commands = list(console_blocks(PAGE))
    assert len(commands) == 6
    run_as_shown(commands, tmp_path)


def test_every_check_is_listed():
    sources = (ROOT / "morocco_lib/leaderboard").glob("*.py")
    named = {name for path in sources for name in re.findall(r'(?:Refused|[Cc]heck)\(\s*"([A-Z_]+)"', path.read_text())}
    listed = re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(named | {"READABLE"})
