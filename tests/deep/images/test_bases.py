"""A base made from Debian's packages."""

import os
import shutil

import pytest

from morocco_lib.images import bases, build
from morocco_lib.pipeline.targets import check_image
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

pytestmark = pytest.mark.slow


def test_a_base_from_the_distributions_packages_carries_a_model(docker, fitted, synthetic_data):
    if shutil.which("debootstrap") is None and not os.environ.get("MOROCCO_STRICT"):
        pytest.skip("debootstrap is not installed")
    val, talk = synthetic_data / "TERRa/val.jsonl", []
    image = build.build(
        build.Recipe(fitted, "terra", bases.DEBIAN, "on-debian"),
        lambda image: check_image(image, get_task("terra"), val, Limits(timeout_s=60)),
        talk.append,
    )
    assert any("making a base" in line for line in talk)
    command = {"entrypoint": "cat", "network_mode": "none", "remove": True}
    assert b"Debian" in docker.containers.run(image.id, ["/etc/os-release"], **command)
    talk.clear()
    build.build(build.Recipe(fitted, "terra", bases.DEBIAN, "again"), lambda image: None, talk.append)
    assert talk == ["building again", "checking again"]  # the base and the packages are there
