"""Plans that are killed at random moments lose nothing, repeat nothing that was done, and leave nothing that looks done."""

import subprocess
import sys
from pathlib import Path

KILLS = Path(__file__).with_name("kills.py")


def test_killed_at_random_moments_a_plan_loses_and_repeats_nothing():
    # Fifty rounds by hand: python tests/deep/pipeline/kills.py --rounds 50
    done = subprocess.run([sys.executable, KILLS, "--rounds", "6", "--seed", "11"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
