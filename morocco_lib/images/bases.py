"""What images start from: a base with Python, pulled or made here, and the packages that a model needs on it."""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from morocco_lib import fileio, foreign
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.images import BASE, records
from morocco_lib.runners import engine

DEBIAN = "debian"  # as a base: made here from the distribution's packages
PROBE = """
import importlib.metadata as m, json, sys
print(json.dumps([sys.version_info[:2], {d.metadata["Name"].lower(): d.version for d in m.distributions()}]))
"""
Say = Callable[[str], None]


def get(client: Any, name: str, say: Say) -> engine.Image:
    """Return a base image, pulled or made if the engine does not hold it; raises EnvironmentFailure."""
    if name == DEBIAN:
        name = debian_base(client, say)
    if engine.held(client, name) is None:
        say(f"getting {name}")
        instead = f"name one that the engine holds by --base, or make one from packages: --base {DEBIAN}"
        with engine.engine_errors(f"get the base image {name}", instead):
            client.api.pull(name)
    return engine.find_image(client, name)


def requirements(extras: tuple[str, ...]) -> list[str]:
    """Return the exact versions that extras of this package require, from its own metadata."""
    found = []
    for line in importlib.metadata.requires("morocco-lib") or []:
        requirement, _, marker = line.partition(";")
        if any(f'extra == "{extra}"' in marker for extra in extras) and "==" in requirement:
            found.append(requirement.strip())
    return sorted(found)


def probe(client: Any, base: str) -> tuple[str, dict[str, str]]:
    """Return the Python version of a base, as "3.11", and its distributions' versions.

    Raises:
        UsageError: it has no Python, or one that is too old.
        EnvironmentFailure: the engine failed.
    """
    import docker.errors

    with engine.engine_errors(f"run Python in {base}"):
        name = engine.new_container()
        container = client.containers.create(
            base, ["-c", PROBE], entrypoint="python3", network_mode="none", name=name, labels={engine.OWNER: engine.owner_label()},
        )  # fmt: skip
        version, have = [], {}
        try:
            container.start()
            if container.wait()["StatusCode"] == 0:
                version, have = foreign.parse(container.logs(stderr=False))
                foreign.fits(version, [int])
                foreign.fits(have, {str: str})
        except docker.errors.APIError as error:
            if "OCI runtime" not in str(error):
                raise
        except (ValueError, TypeError):  # it passes through the engine's log
            raise EnvironmentFailure(f"no answer from {base}", remedy=engine.remedy("no space left")) from None
        finally:
            engine.remove(client, name)
    if version < [3, 11]:
        raise UsageError(
            f"base image {base} does not run Python 3.11 or newer",
            rule="a base has it as python3 on its PATH", remedy=f"give --base {BASE} or --base {DEBIAN}",
        )  # fmt: skip
    return ".".join(map(str, version)), have


def install(wanted: list[str], python: str, folder: Path) -> None:
    """Install packages for a Python version into a folder; raises EnvironmentFailure."""
    # Here and not in the build: the index, its certificates and its secrets stay out of the image and its history.
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    argv += ["--target", str(folder), "--only-binary", ":all:", "--python-version", python, *wanted]
    # A person's own pip settings name where packages come from, not where these go.
    settings = {name: value for name, value in os.environ.items() if name not in ("PIP_PREFIX", "PIP_ROOT")}
    settings["PIP_USER"] = "0"
    done = subprocess.run(argv, env=settings, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise EnvironmentFailure(
            f"cannot install {', '.join(wanted)}: {' '.join(errors) or done.stderr[-300:]}",
            remedy="make the package index reachable for pip on this machine",
        )


def debian_base(client: Any, say: Say) -> str:
    """Return a base made from Debian's packages; made once for an engine, which takes a minute.

    Raises:
        EnvironmentFailure: it cannot be made here.
    """
    script = Path(__file__).with_name("debian.sh")
    name, tag = "morocco-base", f"debian-{fileio.sha256_file(script)[:12]}"
    made, held = records.made(f"{name}:{tag}"), engine.held(client, f"{name}:{tag}")
    if held and held.id in made:
        return f"{name}:{tag}"
    say("making a base from Debian's packages (a minute)")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as archive:
        done = subprocess.run(
            ["sh", script, Path(folder) / "root"], stdout=archive, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit {done.returncode}"]
            raise EnvironmentFailure(
                f"cannot make a base: {lines[-1]}",
                rule="root, debootstrap and a mirror of Debian are needed",
                remedy="apt-get install debootstrap, or name an image that the engine holds by --base",
            )
        archive.seek(0)
        with engine.engine_errors("import the base image"):
            client.api.import_image_from_data(archive, name, tag, changes=["ENV LANG=C.UTF-8"])
    records.remember(f"{name}:{tag}", engine.find_image(client, f"{name}:{tag}").id)
    return f"{name}:{tag}"
