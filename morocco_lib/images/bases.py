"""What images start from: a base with Python, got or made here, and the packages that a model needs on it."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from morocco_lib import fileio
from morocco_lib.cli.images import BASE
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.runners import engine

DEBIAN = "debian"  # as a base: made here from the distribution's packages
OTHER_BASE = "name one that the engine holds by --base, or make one from packages: --base debian"
HERE = Path(__file__).parent
PROBE = """
import importlib.metadata as m, json, platform, sys
have = {d.metadata["Name"].lower(): d.version for d in m.distributions()}
print(json.dumps({"python": list(sys.version_info[:2]), "machine": platform.machine(), "have": have}))
"""
Talk = Callable[[str], None]


def silent(text: str) -> None:
    pass


def get(client: Any, name: str, say: Talk = silent) -> engine.Image:
    """Return a base image, pulled or made if the engine does not hold it; raises EnvironmentFailure."""
    if name == DEBIAN:
        name = debian_base(client, say)
    held = engine.held(client, name)
    if held is None:
        say(f"getting {name}")
        with engine.engine_errors(f"get the base image {name}", OTHER_BASE):
            client.api.pull(*engine.split(name))
        held = engine.find_image(client, name)
    return held


def requirements(extras: tuple[str, ...]) -> list[str]:
    """Return the exact versions that extras of this package ask for, from its own metadata."""
    found = []
    for line in importlib.metadata.requires("morocco-lib") or []:
        requirement, _, marker = line.partition(";")
        if any(f'extra == "{extra}"' in marker for extra in extras) and "==" in requirement:
            found.append(requirement.strip())
    return sorted(found)


def _not_python(base: str, why: str) -> UsageError:
    return UsageError(
        f"base image {base} does not run Python: {why}",
        rule="a base has python3, 3.11 or newer, on its PATH",
        remedy=f"give --base {BASE} or --base {DEBIAN}",
    )


def probe(client: Any, base: str) -> dict[str, Any]:
    """Return what Python a base has: {"python": [major, minor], "machine", "have": {distribution: version}}.

    Raises:
        UsageError: none, or one that is too old.
        EnvironmentFailure: the engine failed.
    """
    import docker.errors

    with engine.engine_errors(f"ask {base} for its Python"):
        asked = client.containers.create(
            base, ["-c", PROBE], entrypoint="python3", network_mode="none", labels={engine.OWNER: engine.owner_label()}
        )
        try:
            asked.start()
            if code := asked.wait()["StatusCode"]:
                raise _not_python(base, f"exit code {code}")
            said = asked.logs(stdout=True, stderr=False)
        except docker.errors.APIError as error:
            if "OCI runtime" not in str(error):
                raise
            raise _not_python(base, str(error.explanation)) from None
        finally:
            engine.remove(client, asked.id)
    try:
        facts = json.loads(said)
    except ValueError:  # it went through the engine's log, on a disk without room
        raise EnvironmentFailure(
            f"the answer of base image {base} was lost", remedy=engine.remedy("no space left")
        ) from None
    if facts["python"] < [3, 11]:
        raise UsageError(f"base image {base} has Python {facts['python']}", rule="3.11 or newer is needed")
    return facts


def install(wanted: list[str], facts: dict[str, Any], folder: Path) -> None:
    # Here and not in the build: the index, its certificates and its secrets stay out of the image and its history.
    if not wanted:
        return
    major, minor = facts["python"]
    platforms = [
        f"{kind}_{facts['machine']}" for kind in ("manylinux_2_28", "manylinux_2_27", "manylinux2014", "linux")
    ]
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    words += ["--target", str(folder), "--only-binary", ":all:", "--python-version", f"{major}.{minor}"]
    words += [word for name in platforms for word in ("--platform", name)]
    done = subprocess.run([*words, *wanted], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise EnvironmentFailure(
            f"cannot install {', '.join(wanted)}: {' '.join(errors) or done.stderr[-300:]}",
            remedy="make the package index reachable for pip on this machine",
        )


def debian_base(client: Any, say: Talk = silent) -> str:
    """Return a base made from the distribution's packages; made once for an engine, which takes a minute and needs root.

    Raises:
        EnvironmentFailure: it cannot be made here.
    """
    script = HERE / "debian.sh"
    tag = f"morocco-base:debian-{fileio.sha256_file(script)[:12]}"
    if engine.held(client, tag):
        return tag
    say("making a base from Debian's packages (a minute)")
    with tempfile.TemporaryDirectory() as name:
        archive, log = Path(name) / "base.tar", Path(name) / "log"
        with archive.open("wb") as out, log.open("wb") as talk:
            code = subprocess.run(["sh", script, Path(name) / "root"], stdout=out, stderr=talk, check=False).returncode
        if code:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise EnvironmentFailure(
                f"cannot make a base: {lines[-1] if lines else f'exit {code}'}",
                rule=f"{platform.system()} with root, debootstrap and a mirror of Debian is needed",
                remedy="apt-get install debootstrap, or name an image that the engine holds by --base",
            )
        with engine.engine_errors("import the base image"), archive.open("rb") as data:
            client.api.import_image_from_data(data, *engine.split(tag), changes=["ENV LANG=C.UTF-8"])
    return tag
