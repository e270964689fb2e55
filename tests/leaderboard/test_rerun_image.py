"""A real container: benched, packed, ranked, and measured again from the submission."""

import json

import engine
import pytest

pytestmark = pytest.mark.slow


def test_an_image_is_measured_again_and_compared(main, image_of, val, tmp_path):
    image = image_of(engine.PACED, "--rate", 200, "--no-ready")
    options = ("--input-size", "200", "--batch-size", "8", "--repeats", "3")
    benched = main(*engine.bench_words(image, val, tmp_path / "out", *options))
    assert benched.returncode in (0, 3), benched.stderr
    assert main("pack", tmp_path / "out", "-o", tmp_path / "s.zip").returncode == 0
    command = ("rank", tmp_path / "s.zip", "-o", tmp_path / "board", "--tasks", "terra", "--data", val.parents[1])
    done = main(*command, "--rerun", image, "--json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["judged"]
    checks = {check["name"]: check for check in entry["checks"]}
    assert checks["ISOLATION"]["outcome"] == "ok"
    assert checks["RERUN"]["outcome"] == "ok", checks["RERUN"]
    assert "records/s x1.0" in checks["RERUN"]["seen"] or "records/s x0.9" in checks["RERUN"]["seen"]
    other = main(*command, "--rerun", image_of(engine.ANSWER))
    assert other.returncode == 2 and "made nothing of s.zip" in other.stderr
