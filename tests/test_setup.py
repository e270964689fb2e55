"""`make setup` on a machine whose owner has told pip other things."""

import hashlib
import os
import shutil
import subprocess

import pytest
from helpers import ROOT, own_pip_settings, write_wheel

BUILDER = """
import shutil
def build_editable(folder, *_):
    return shutil.copy("own-1-py3-none-any.whl", folder).rpartition("/")[2]
"""


@pytest.mark.slow
def test_setup_installs_into_its_own_environment_whatever_a_persons_pip_settings_say(tmp_path):
    project, wheel = tmp_path / "project", write_wheel(tmp_path / "wheels", "canary")
    write_wheel(project, "own")
    shutil.copy(ROOT / "Makefile", project)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (project / "requirements.lock").write_text(f"canary==1 --hash=sha256:{digest}\n")
    (project / "builder.py").write_text(BUILDER)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "builder"\nbackend-path = ["."]\n'
    )
    done = subprocess.run(
        ["make", "setup"], cwd=project, env={**os.environ, **own_pip_settings(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (packages,) = project.glob(".venv/lib/python3.*/site-packages")
    assert (packages / "canary.py").is_file() and (packages / "own.py").is_file()
    assert not (tmp_path / "elsewhere").exists()
