"""Fixtures: official records where there are any, synthetic ones, a fitted model, and the command line as a program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from morocco_lib import data
from morocco_lib.data import synthetic
from morocco_lib.models import model_class, weights
from morocco_lib.tasks import get_task

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of official files; tests that need it are skipped without, and fail in strict runs."""
    named = os.environ.get("MOROCCO_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if (folder / "rsg").is_dir():
        return folder
    reason = f"no official files in {folder}; set MOROCCO_TEST_DATA to a folder that holds rsg/TERRa"
    if os.environ.get("MOROCCO_STRICT"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def synthetic_data(tmp_path_factory) -> Path:
    """A folder of synthetic records in the official layout."""
    folder = tmp_path_factory.mktemp("synthetic")
    data.make_synthetic(folder, synthetic.generator_names(), seed=1)
    return folder


@pytest.fixture(scope="session")
def fitted(synthetic_data, tmp_path_factory) -> Path:
    """The weights folder of a tfidf model of terra, fitted on synthetic records."""
    task = get_task("terra")
    _, records = data.read_split(synthetic_data, task, "train")
    folder = tmp_path_factory.mktemp("fitted") / "weights"
    weights.save(model_class("tfidf").fit(task, records, 1), task, folder, name="tfidf", trained_on={"origin": "test"})
    return folder


@pytest.fixture(scope="session")
def morocco():
    """Run `morocco ARGS...` as a program; returns exit code, stdout and stderr as text."""

    def run(*args, input: str | bytes | None = None, **options) -> subprocess.CompletedProcess:
        options["env"] = {**os.environ, "PYTHONPATH": str(ROOT), **options.get("env", {})}
        given = input.encode() if isinstance(input, str) else input
        argv = [sys.executable, "-m", "morocco_lib", *map(str, args)]
        if given is None:
            options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(argv, input=given, capture_output=True, timeout=120, check=False, **options)
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    return run
