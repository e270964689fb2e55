"""Registries: log in, push and pull through the Docker Engine.

Passwords come from stdin, a terminal, the environment or Docker's own credentials, never from an argument; no message shows one.
"""

import base64
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from morocco_lib.errors import EnvironmentFailure, InvalidResult, MoroccoError, UsageError
from morocco_lib.images.bases import Say
from morocco_lib.runners import engine

SILENCE_S = 300.0  # a registry may take minutes to store a large layer
HOST = r"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(:\d{1,5})?"
# Engines and registries report in prose only: signs -> kind of failure, rule, remedy. The last takes what is left.
FAULTS: tuple[tuple[str, type[MoroccoError], str, str], ...] = (
    ("verification failed", InvalidResult, "these are not the bytes that the digest stands for", "push {name} again"),
    (
        "unauthorized|basic auth credentials|authentication required|denied:|is denied|forbidden",
        UsageError, "{registry} requires a user and password with this permission",
        "morocco login {registry}, or set MOROCCO_REGISTRY={registry} with MOROCCO_REGISTRY_USERNAME and _PASSWORD",
    ),
    (
        "manifest unknown|name unknown|not found|does not exist", UsageError, "{registry} has no {name}",
        "check the name and tag, or push it first",
    ),
    ("invalid reference", UsageError, "a name is REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST, NAME in lower case", ""),
    ("no space left", EnvironmentFailure, "", engine.remedy("no space left")),
    ("", EnvironmentFailure, "", "check that the engine's machine reaches {registry}, then rerun the command"),
)  # fmt: skip
Watch = Callable[[int, int], None]  # bytes transferred, of bytes known so far


class Reported(Exception):
    """A failure in the report of a push or a pull."""


# -- names ---------------------------------------------------------------------------------------------------------
def host(text: str) -> str:
    """Return HOST[:PORT] of a registry, "docker.io" for the Docker Hub; raises UsageError."""
    from docker import auth

    name = auth.resolve_index_name(text)
    if not re.fullmatch(HOST, name):  # not repeated: it may be USER:PASSWORD@HOST
        raise UsageError("this is not a registry", rule="a registry is HOST or HOST:PORT, and nothing else")
    return name


def parse(text: str) -> tuple[str, str, str, str]:
    """Return (registry, repository, tag, digest) of an image's name, "" for what it does not give; raises UsageError."""
    from docker import auth, errors, utils

    name, digest = utils.parse_repository_tag(text) if "@" in text else (text, "")
    if "@" in text and not digest.startswith("sha256:"):  # not repeated: it may be USER:PASSWORD@HOST/NAME
        raise UsageError("this is not the name of an image", rule="what follows @ in a name is a digest, sha256:...")
    repository, tag = utils.parse_repository_tag(name)
    try:
        registry, path = auth.resolve_repository_name(repository)
    except errors.InvalidRepository as error:
        raise UsageError(str(error)) from None
    return registry, path.removeprefix("library/") if registry == auth.INDEX_NAME else repository, tag or "", digest


# -- credentials ---------------------------------------------------------------------------------------------------
def environment(registry: str, default: str = "") -> dict[str, str]:
    """Return the "username" and "password" that the environment gives for a registry, if MOROCCO_REGISTRY names it."""
    # A name of an image names a registry too, and pulling a stranger's image must not send the stranger the password.
    if (os.environ.get("MOROCCO_REGISTRY") or default) != registry:
        return {}
    names = {name: f"MOROCCO_REGISTRY_{name.upper()}" for name in ("username", "password")}
    return {name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}


def config_file() -> Path:
    """Return where Docker keeps its settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


@contextmanager
def _settings() -> Iterator[tuple[dict[str, Any], Any]]:
    """Give Docker's settings and what the SDK makes of them; failures of these and of credential helpers become ours."""
    from docker import auth, errors

    path = config_file()
    try:
        with warnings.catch_warnings(action="ignore"):  # of the SDK, about a helper that is not installed
            config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            yield config, auth.load_config(config_dict={**config})
    except (errors.InvalidConfigFile, ValueError, TypeError, AttributeError):
        raise UsageError(f"cannot read the credentials in {path}", remedy="correct or remove the entry") from None
    except (errors.DockerException, RuntimeError, OSError, KeyError):  # not repeated: a helper may print the password
        helpers = {config.get("credsStore"), *(config.get("credHelpers") or {}).values()} - {None}
        raise EnvironmentFailure(
            f"the credential helper {' or '.join(f'docker-credential-{name}' for name in sorted(helpers))} failed",
            rule=f"{path} names it for this registry", remedy="run it with the argument `list`",
        ) from None  # fmt: skip


def known(registry: str) -> dict[str, Any]:
    """Return the credential for a transfer: the environment's, else Docker's own, else an empty one.

    Raises:
        UsageError: Docker's settings cannot be read.
        EnvironmentFailure: the credential helper failed.
    """
    given = environment(registry)
    with _settings() as (_, settings):
        return given if len(given) == 2 else settings.resolve_authconfig(registry) or {}


def _store(registry: str, credential: dict[str, str]) -> str:
    # As `docker login` does; the SDK does not.
    from docker.credentials import Store

    with _settings() as (config, settings):
        helper, entry = settings.get_credential_store(registry), {}
        if helper:
            Store(helper).store(registry, credential["username"], credential["password"])
        else:
            pair = f"{credential['username']}:{credential['password']}"
            entry["auth"] = base64.b64encode(pair.encode()).decode()
    config["auths"] = {**(config.get("auths") or {}), registry: entry}
    path = Path(os.path.realpath(config_file()))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:  # readable by its owner only
        json.dump(config, file, indent="\t")
    os.replace(file.name, path)
    if helper:
        return f"docker-credential-{helper}"
    return f"{config_file()} (readable by you alone, not encrypted; a credential helper is safer)"


# -- failures ------------------------------------------------------------------------------------------------------
def hide(credential: dict[str, Any], text: str) -> str:
    """Return a text without the secrets of a credential: a registry may repeat in its refusal what it was sent."""
    lower = {name.lower(): value for name, value in credential.items()}
    for secret in filter(None, (lower.get("password"), lower.get("identitytoken"))):
        pair = base64.b64encode(f"{lower.get('username')}:{secret}".encode()).decode()
        text = text.replace(pair, "***").replace(secret, "***")
    return text


def judge(what: str, name: str, registry: str, text: str) -> MoroccoError:
    """Return the error that stands for what an engine or a registry reported."""
    kind, rule, remedy = next(fault for signs, *fault in FAULTS if re.search(signs, text, re.IGNORECASE))
    names = {"name": name, "registry": registry}
    return kind(f"cannot {what}: {text}", rule=rule.format(**names), remedy=remedy.format(**names))


@contextmanager
def _connected(what: str, name: str, registry: str, credential: dict[str, Any]) -> Iterator[Any]:
    """Give a client of the engine; failures of the engine and the registry become our errors, without secrets."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    with engine.engine_errors(what), closing(engine.connect()) as client:
        post = client.api.post  # in the SDK a pull waits for ever
        client.api.post = lambda *args, **options: post(*args, **options | {"timeout": SILENCE_S})
        try:
            yield client
        except (Reported, docker.errors.APIError) as error:
            raise judge(what, name, registry, hide(credential, engine.message_of(error))) from None
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
            raise judge(what, name, registry, f"{registry} did not answer for {SILENCE_S:g} s") from None


def follow(stream: Iterable[dict[str, Any]], watch: Watch) -> str:
    """Read the report of a push or a pull to its end and return the digest in it; raises Reported."""
    layers: dict[str, tuple[int, int]] = {}
    digest = ""
    for line in stream:
        if "error" in line or "message" in line:
            raise Reported(line.get("error") or line.get("message") or "no reason given")
        status, detail = line.get("status", ""), line.get("progressDetail") or {}
        if status in ("Pushing", "Downloading") and "current" in detail:
            layers[line["id"]] = (detail["current"], max(detail["current"], detail.get("total", 0)))
            watch(*map(sum, zip(*layers.values(), strict=True)))
        if found := re.search(r"\bdigest: (sha256:[0-9a-f]{64})", status, re.IGNORECASE):
            digest = found[1]
    if not digest:
        raise Reported("the engine's report ended before the digest")
    return digest


# -- the commands --------------------------------------------------------------------------------------------------
def login(registry: str, credential: dict[str, str]) -> str:
    """Have a registry accept a "username" and "password", store them as `docker login` does, and return where.

    Raises:
        UsageError: the registry refuses them.
        EnvironmentFailure: the registry, the engine or the credential helper failed; nothing was stored.
    """
    from docker import auth

    known(registry)  # settings that cannot be read are not written either
    address = auth.INDEX_URL if registry == auth.INDEX_NAME else registry
    with _connected(
        f"log in to {registry} as {credential['username']}", "registry API", registry, credential
    ) as client:
        client.api.login(credential["username"], credential["password"], registry=address, reauth=True)
    return _store(address, credential)


def push(image: str, name: str, say: Say, watch: Watch) -> dict[str, str]:
    """Push an image and return its "image" (repository@digest), "name", "repository", "digest" and "id".

    Args:
        name: In the registry, which stays as a name here; "" is the image's own name.
    Raises:
        UsageError: no such image, no registry in the name, or the registry does not permit it.
        EnvironmentFailure: the registry or the engine failed; names here are what they were.
    """
    parse(image)
    registry, repository, tag, digest = parse(name or image)
    if "/" not in repository or digest:
        raise UsageError(
            f"{name or image!r} does not say where to push to",
            rule="a name in a registry is REGISTRY/NAME:TAG; the registry gives the digest",
            remedy=f"morocco push {image} REGISTRY/{repository.split('/')[-1]}",
        )
    target, credential = f"{repository}:{tag or 'latest'}", known(registry)
    say(f"pushing {target}")
    with _connected(f"push {target}", target, registry, credential) as client:
        held, before = engine.find_image(client, image), engine.held(client, target)
        try:
            client.api.tag(held.id, target)
            digest = follow(client.api.push(target, stream=True, decode=True, auth_config=credential), watch)
        except BaseException:
            with suppress(Exception):  # an engine that is gone is reported already
                if before:
                    client.api.tag(before.id, target)
                elif len(client.images.get(target).tags) > 1:  # with its only name the image would go
                    client.api.remove_image(target, noprune=True)
            raise
    return _facts(repository, digest, target, held.id)


def pull(name: str, say: Say, watch: Watch) -> dict[str, str]:
    """Pull an image by its digest and return what `push` returns; "name" is empty if only a digest was given.

    Args:
        name: REGISTRY/NAME[:TAG][@DIGEST]. With a digest nothing else is taken. Without, a name that the engine knows
            by a digest already must still have that one.
    Raises:
        InvalidResult: the registry gives something else under this digest or name.
        UsageError: the registry has no such image, or does not permit it.
        EnvironmentFailure: the registry or the engine failed.
    """
    registry, repository, tag, digest = parse(name)
    target = "" if digest and not tag else f"{repository}:{tag or 'latest'}"
    credential = known(registry)
    say(f"pulling {name}")
    with _connected(f"pull {name}", name, registry, credential) as client:
        if not digest:
            digest = client.api.inspect_distribution(target, auth_config=credential)["Descriptor"]["digest"]
            held = client.images.get(target).attrs["RepoDigests"] if engine.held(client, target) else []
            before = [entry.partition("@")[2] for entry in held if entry.startswith(f"{repository}@")]
            if before and digest not in before:
                raise InvalidResult(
                    f"{target} is {digest} in the registry and {', '.join(before)} here",
                    rule="a name that is known by a digest keeps it",
                    remedy=f"if the new one is meant: morocco pull {target}@{digest}",
                )
        follow(client.api.pull(repository, digest, stream=True, decode=True, auth_config=credential), watch)
        held = engine.find_image(client, f"{repository}@{digest}")
        if target:
            client.api.tag(held.id, target)
    return _facts(repository, digest, target, held.id)


def _facts(repository: str, digest: str, name: str, image_id: str) -> dict[str, str]:
    return {
        "image": f"{repository}@{digest}", "name": name, "repository": repository, "digest": digest, "id": image_id
    }  # fmt: skip
