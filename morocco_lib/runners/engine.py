"""The Docker Engine: connection, errors and their remedies, images, and the containers that a killed morocco left."""

import itertools
import json
import os
import posixpath
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from morocco_lib import fileio, foreign
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors.host import lives, this_process

if TYPE_CHECKING:
    import docker

OWNER = "morocco.owner"  # label of our containers: the process that started them
CONTAINERS = "containers"  # the folder of the records of those that may be there
RECORD = {"engine": str, "host": str, "pid": int, "start_ticks": (int, None), "boot_id": (str, None)}
TIMEOUT_S = 60.0  # of one answer of the engine


_own: set[str] = set()  # the containers of this process that may be there


def connect(timeout_s: float = TIMEOUT_S) -> "docker.DockerClient":
    """Return a client of the engine that the docker command would use: DOCKER_HOST, the current context, this machine's.

    Raises:
        UsageError: the settings of Docker cannot be read.
        EnvironmentFailure: the Docker SDK is not installed, or no engine answers.
    """
    try:
        import docker
    except ImportError:
        raise EnvironmentFailure(
            "the Docker SDK is not installed", remedy="pip install 'morocco-lib[kit]', or measure with --command"
        ) from None
    with engine_errors("reach the Docker Engine"):
        try:
            if context := _context():
                return docker.DockerClient(
                    context.Host, timeout=timeout_s, version="auto", tls=context.TLSConfig or False,
                    use_ssh_client=context.Host.startswith("ssh://"),
                )  # fmt: skip
            return docker.from_env(timeout=timeout_s, version="auto")
        except ValueError as error:  # a login in ~/.docker/config.json that is no base64, a port that is no number
            raise UsageError(
                f"the settings of Docker cannot be read: {error}", remedy="correct ~/.docker/config.json"
            ) from None


@contextmanager
def engine_errors(what: str, instead: str = "") -> Iterator[None]:
    """Turn what the SDK raises into our errors.

    Args:
        what: What was tried, as in "cannot ...".
        instead: The remedy, where the caller knows a better one.
    Raises:
        UsageError: no such image.
        EnvironmentFailure: everything else.
    """
    try:
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        yield
    except docker.errors.ImageNotFound as error:
        raise UsageError(
            f"cannot {what}: {message_of(error)}",
            remedy=instead or "make it with `morocco build`, or get it with `morocco pull`",
        ) from None
    except docker.errors.APIError as error:
        raise EnvironmentFailure(
            f"cannot {what}: {message_of(error)}", remedy=instead or remedy(message_of(error))
        ) from None
    except docker.errors.DockerException as error:
        raise EnvironmentFailure(f"cannot {what}: {_cause(error)}", remedy=remedy(str(error))) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise EnvironmentFailure(
            f"cannot {what}: the engine at {address()} does not answer ({_cause(error)})",
            remedy="start it again (`systemctl start docker`) and rerun the command",
        ) from None


def address() -> str:
    """Return the address of the engine."""
    context = _context()
    return context.Host if context else os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def _context():
    """Return the context that the docker command would use, None where it is DOCKER_HOST or the default one."""
    try:
        from docker.context import Context
        from docker.context.config import get_current_context_name
    except ImportError:
        return None
    name = os.environ.get("DOCKER_CONTEXT") or get_current_context_name()
    if os.environ.get("DOCKER_HOST") or name == "default":
        return None
    if context := Context.load_context(name):
        return context
    raise UsageError(
        f"Docker has no context {name!r}", rule="DOCKER_CONTEXT or `currentContext` in its config.json names the engine",
        remedy="see `docker context ls`, then `docker context use NAME`",
    )  # fmt: skip


def message_of(error: Exception) -> str:
    """Return what the engine reported in an error of the SDK, in one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _cause(error: BaseException) -> str:
    # The SDK wraps a refused connection four times; the innermost says what happened.
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def remedy(message: str) -> str:
    """Return what to do about an error message of the engine."""
    if "could not select device driver" in message or "nknown runtime" in message:
        return "install the NVIDIA container toolkit (`nvidia-ctk runtime configure --runtime=docker`), or leave out --gpus"
    if "no space left" in message:
        return "free space where the engine keeps its data (`docker system df`, `docker system prune`)"
    if "ermission denied" in message:
        return f"join the group that may use {address()} (`sudo usermod -aG docker $USER`, log in again)"
    if "connection" in message.lower() or "FileNotFound" in message:
        return "start it (`systemctl start docker`), or name another by DOCKER_HOST"
    return "see `docker info` and the engine's log"


# -- containers ----------------------------------------------------------------------------------------------------
def new_container() -> str:
    """Return the name of a container that is about to be made; recorded, as any other may bear any label."""
    name = f"morocco-{secrets.token_hex(8)}"
    _own.add(name)
    with suppress(OSError):  # then it is not removed if we are killed
        place = fileio.state(CONTAINERS, name)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fileio.write_json(place, {**_here(), **this_process()})
    return name


def _here() -> dict[str, str]:
    return {"engine": address(), "host": os.uname().nodename}


def owner_label() -> str:
    """Return the label of the containers that this process starts, for people: nothing is decided by it."""
    return json.dumps(this_process())


def remove_orphans(client: "docker.DockerClient") -> list[str]:
    """Remove the containers of this engine whose morocco has died on this machine, by our records; return their names."""
    removed = []
    for place in sorted(fileio.state(CONTAINERS).glob("morocco-*")):
        try:
            owner = foreign.read_json(place, shape=RECORD)
        except (OSError, ValueError, UsageError):
            continue  # removed meanwhile, or none of ours
        if not lives(owner) and _here().items() <= owner.items():
            remove(client, place.name)
            removed.append(place.name)
    return removed


def remove_own() -> None:
    """Remove the containers of this process that are still there; where no engine answers the next start removes them."""
    with suppress(Exception):
        client = connect(5) if _own else None
        for name in list(_own):
            remove(client, name)


def remove(client: "docker.DockerClient", name: str) -> None:
    """Remove a container that was made here, running or not; one that is gone already is fine."""
    import docker.errors

    try:
        client.api.remove_container(name, force=True, v=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if error.status_code != 409:  # its removal is in progress
            raise
    _own.discard(name)
    fileio.state(CONTAINERS, name).unlink(missing_ok=True)


def holds_files(client: "docker.DockerClient", container_id: str, folder: str) -> bool:
    """Tell whether a container that was not started has anything in a folder."""
    import docker.errors

    try:
        stream, _ = client.api.get_archive(container_id, f"{folder}/.")
    except docker.errors.NotFound:
        return False
    with tarfile.open(fileobj=_Stream(stream), mode="r|") as members:
        return len(list(itertools.islice(members, 2))) > 1  # the folder itself is one


class _Stream:
    """Reads what comes in pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._left = iter(pieces), b""

    def read(self, size: int) -> bytes:
        while len(self._left) < size and (piece := next(self._pieces, b"")):
            self._left += piece
        data, self._left = self._left[:size], self._left[size:]
        return data


# -- images --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Image:
    """An image the engine holds.

    Args:
        id: Digest of its configuration, the same wherever it was built or pulled to.
        digest: name@sha256:... where a registry knows it, None before it was pushed or pulled.
        env: The environment that it sets.
        volumes: The folders that it declares as volumes.
    """

    name: str
    id: str
    digest: str | None
    labels: dict[str, str]
    size_bytes: int
    env: dict[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()


def find_image(client: "docker.DockerClient", name: str) -> Image:
    """Return an image by name, id or digest.

    Raises:
        UsageError: the engine does not hold it.
    """
    with engine_errors(f"find image {name}"):
        facts = client.api.inspect_image(name)
    set_by_it = facts.get("Config") or {}
    env = dict(line.partition("=")[::2] for line in set_by_it.get("Env") or [])
    digest = next(iter(facts.get("RepoDigests") or []), None)
    volumes = tuple(posixpath.normpath(f"/{path.lstrip('/')}") for path in set_by_it.get("Volumes") or {})
    return Image(name, facts["Id"], digest, set_by_it.get("Labels") or {}, facts["Size"], env, volumes)


def held(client: "docker.DockerClient", name: str) -> Image | None:
    """Return an image by name, id or digest, None where the engine does not hold it."""
    try:
        return find_image(client, name)
    except UsageError:
        return None
