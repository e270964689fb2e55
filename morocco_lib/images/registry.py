"""Registries: log in, push, pull. The engine speaks to them; what it reports is judged here.

What the network did is tried again, what was asked wrongly or is not there is said at once. A digest is what the registry
calls an image: both ways return it, and a pull is held against it.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from morocco_lib.errors import EnvironmentFailure, InvalidResult, MoroccoError, UsageError
from morocco_lib.images.credentials import HOST, HUB, Credential, address, host, keep, kept, known, shown
from morocco_lib.runners import engine

ATTEMPTS = 3
PAUSE_S = 2.0  # before the second attempt; doubled before the third
SILENCE_S = 300.0  # a registry may take minutes to put a large layer away
PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = re.compile(
    rf"(?P<repository>(?:{HOST}/)?{PATH}(?:/{PATH})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?",
    re.ASCII,
)
HUB_ITSELF = re.compile(r"^(?:index\.)?docker\.io/(?:library/)?")
# Engines and registries answer in words only.
FALSE = ("verification failed for digest",)
DENIED = ("unauthorized", "basic auth credentials", "authentication required", "denied:", "is denied", "forbidden")
MISSING = ("manifest unknown", "name unknown", "not found", "does not exist")
UNTRUSTED = ("http response to https client", "x509", "certificate")
PASSING = (
    "connection refused", "connection reset", "broken pipe", "unreachable", "no such host", "timeout", "timed out",
    "temporary failure", "server misbehaving", "deadline exceeded", "toomanyrequests", "status: 5",
    "closed network connection", "in time",
)  # fmt: skip
Talk = Callable[[str], None]
Watch = Callable[[int, int], None]  # bytes that went, of bytes known so far


def silent(text: str) -> None:
    pass


def unwatched(done: int, total: int) -> None:
    pass


# -- names ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Name:
    """An image's name, taken apart."""

    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Raises UsageError if no registry takes such a name."""
        found = NAME.fullmatch(text)
        name = found and cls(HUB_ITSELF.sub("", found["repository"]), found["tag"] or "", found["digest"] or "")
        if not name or (name.registry == HUB and name.repository != name.repository.lower()):
            raise UsageError(
                f"{shown(text)} is no name of an image",
                rule="a name is REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST, small letters in NAME",
            )
        return name

    @property
    def registry(self) -> str:
        first, slash, _ = self.repository.partition("/")
        return first if slash and (set(".:") & set(first) or first == "localhost") else HUB

    @property
    def tagged(self) -> str:
        return f"{self.repository}:{self.tag or 'latest'}"


@dataclass(frozen=True)
class Held:
    """An image that an engine and a registry both hold.

    Args:
        name: With its tag, "" where it was pulled by digest alone.
        digest: sha256:..., what the registry calls it.
        id: What the engine calls it.
    """

    name: str
    repository: str
    digest: str
    id: str

    @property
    def image(self) -> str:
        return f"{self.repository}@{self.digest}"

    def as_dict(self) -> dict[str, str]:
        return {"image": self.image, **asdict(self)}


# -- what goes wrong -----------------------------------------------------------------------------------------------
class _Trouble(Exception):
    """What the stream of a transfer reported."""


def _patiently(what: str, name: str, registry: str, act: Callable[[], Any], credential: Credential, say: Talk) -> Any:
    """Return what `act` returns, tried again where the network failed; its failures become our errors."""
    for attempt in range(ATTEMPTS):
        # The failure is raised outside of any handler: the SDK's own hold the request, and that the credential.
        with engine.engine_errors(what):
            result, trouble = _once(act, registry)
        if trouble is None:
            return result
        failure = _judge(what, name, registry, " ".join(credential.hide(trouble).split()), attempt + 1)
        if attempt == ATTEMPTS - 1 or not getattr(failure, "passing", False):
            raise failure
        say(f"{failure.seen}; trying again")
        time.sleep(PAUSE_S * 2**attempt)


def _once(act: Callable[[], Any], registry: str) -> tuple[Any, str | None]:
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        return act(), None
    except _Trouble as trouble:
        return None, str(trouble)
    except docker.errors.APIError as error:
        return None, str(error.explanation or error)
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
        return None, f"{registry} did not answer in time"


def _judge(what: str, name: str, registry: str, text: str, attempts: int) -> MoroccoError:
    def has(signs: Iterable[str]) -> bool:
        return any(sign in text.lower() for sign in signs)

    seen = f"cannot {what}: {text}"
    if has(FALSE):
        return InvalidResult(
            seen, rule="what the registry gave is not what the digest stands for", remedy=f"push {name} once more"
        )
    if has(DENIED):
        aside = os.environ.get("MOROCCO_REGISTRY_USERNAME") and os.environ.get("MOROCCO_REGISTRY") != registry
        return UsageError(
            seen,
            rule=f"{registry} wants a user and password that may do this",
            remedy=f"morocco login {registry}" + (f", or set MOROCCO_REGISTRY={registry}" if aside else ""),
        )
    if has(MISSING):
        nothing = f"{registry} holds no {name}" if name != registry else f"{registry} is no registry"
        return UsageError(seen, rule=nothing, remedy="check its name and tag, or push it first")
    if has(UNTRUSTED):
        return EnvironmentFailure(
            f"cannot {what}: {text}",
            rule="an engine wants a certificate that it trusts from every registry but this machine's own",
            remedy=f"put it into /etc/docker/certs.d/{registry}/ca.crt, or name {registry} under insecure-registries",
        )
    if has(PASSING) or "EOF" in text:
        failure = EnvironmentFailure(
            f"cannot {what}: {text}",
            rule=f"tried {attempts} times",
            remedy=f"see that the engine's machine reaches {registry}, and say the same once more",
        )
        failure.passing = True
        return failure
    return EnvironmentFailure(f"cannot {what}: {text}", remedy=engine.remedy(text))


def _follow(stream: Iterable[dict[str, Any]], say: Talk, watch: Watch) -> str:
    """Read the stream of a push or a pull to its end and return the digest that it names."""
    layers: dict[str, tuple[int, int]] = {}
    digest, again = "", False
    for line in stream:
        status = line.get("status", "")
        if "error" in line or "message" in line:
            raise _Trouble(line.get("error") or line.get("message") or "no word of why")
        if status.startswith("Retrying in") and not again:
            say("a layer broke off; the engine tries it again")
        again = status.startswith("Retrying in")
        detail, layer = line.get("progressDetail") or {}, line.get("id", "")
        if status in ("Pushing", "Downloading") and "current" in detail:
            total = max(detail.get("total", 0), layers.get(layer, (0, 0))[1], detail["current"])
            layers[layer] = (detail["current"], total)
        elif status in ("Pushed", "Download complete") and layer in layers:
            layers[layer] = (layers[layer][1],) * 2
        watch(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
        if found := re.search(r"\bdigest: (sha256:[0-9a-f]{64})", status, re.IGNORECASE):
            digest = found[1]
    if not digest:
        raise _Trouble("the engine's report ended too early (unexpected EOF)")
    return digest


# -- the verbs -----------------------------------------------------------------------------------------------------
def login(registry: str, credential: Credential, *, say: Talk = silent) -> str:
    """Have a registry judge a credential, keep it as Docker does, and return where it is kept.

    Raises:
        UsageError: the registry refuses it.
        EnvironmentFailure: the registry or the engine cannot be reached; nothing was kept.
    """
    registry = host(registry)
    kept(registry)  # what cannot be read is not written either
    with _client() as client:
        given = {"username": credential["username"], "password": credential["password"], "registry": address(registry)}
        what = f"log in to {registry} as {credential['username']}"
        _patiently(what, registry, registry, lambda: client.api.login(**given, reauth=True), credential, say)
    return keep(registry, credential)


def push(image: str, name: str = "", *, say: Talk = silent, watch: Watch = unwatched) -> Held:
    """Push an image to a registry; the name it has there stays as a name here.

    Args:
        name: In the registry; "" is the image's own name.
    Raises:
        UsageError: no such image, no registry in the name, or the registry does not let us.
        EnvironmentFailure: the registry or the engine failed; names here are what they were.
    """
    target = Name.parse(name or image)
    if "/" not in target.repository or target.digest:
        raise UsageError(
            f"{name or image!r} does not say where to push to",
            rule="a name in a registry is REGISTRY/NAME:TAG, and its digest is the registry's to give",
            remedy=f"morocco push {image} REGISTRY/{target.repository.split('/')[-1]}",
        )
    say(f"pushing {target.tagged}")
    credential = known(target.registry)
    with _client() as client:
        held = engine.find_image(client, image)
        with _named(client, held.id, target, say):
            digest = _patiently(
                f"push {target.tagged}", target.tagged, target.registry,
                lambda: _follow(
                    client.api.push(target.tagged, stream=True, decode=True, auth_config=credential), say, watch
                ), credential, say,
            )  # fmt: skip
    return Held(target.tagged, target.repository, digest, held.id)


def pull(name: str, *, say: Talk = silent, watch: Watch = unwatched) -> Held:
    """Pull an image; it gets its name here when all of it is here and has the digest it should have.

    Args:
        name: REGISTRY/NAME[:TAG][@DIGEST]. With a digest nothing else is taken. Without, a name that the engine knows
            by a digest already must still have that one.
    Raises:
        InvalidResult: the registry gives something else under this digest or name.
        UsageError: the registry has no such image, or does not let us.
        EnvironmentFailure: the registry or the engine failed.
    """
    wanted = Name.parse(name)
    tag = "" if wanted.digest and not wanted.tag else wanted.tagged
    say(f"pulling {name}")
    credential = known(wanted.registry)
    with _client() as client:

        def patiently(act: Callable[[], Any]) -> Any:
            return _patiently(f"pull {name}", name, wanted.registry, act, credential, say)

        digest = wanted.digest
        if not digest:
            facts = patiently(lambda: client.api.inspect_distribution(tag, auth_config=credential))
            digest = facts["Descriptor"]["digest"]
            before = _digests(client, tag, wanted.repository)
            if before and digest not in before:
                raise InvalidResult(
                    f"{tag} is {digest} in the registry and {', '.join(sorted(before))} here",
                    rule="a name that is known by a digest keeps it",
                    remedy=f"if the new one is meant: morocco pull {tag}@{digest}",
                )
        got = patiently(
            lambda: _follow(
                client.api.pull(wanted.repository, tag=digest, stream=True, decode=True, auth_config=credential),
                say, watch,
            )
        )  # fmt: skip
        if got != digest:
            raise InvalidResult(f"pulled {got}, not {digest}", rule="only the digest asked for is taken")
        held = engine.find_image(client, f"{wanted.repository}@{digest}")
        if tag:
            with engine.engine_errors(f"name the image {tag}"):
                client.api.tag(held.id, *tag.rsplit(":", 1))
    return Held(tag, wanted.repository, digest, held.id)


@contextlib.contextmanager
def _client() -> Iterator[Any]:
    """Give a client that waits long, and not for ever: the SDK does, in a pull."""
    client = engine.connect()
    post = client.api.post
    patient = {"timeout": SILENCE_S}
    client.api.post = lambda *args, **options: post(*args, **options | (patient if options.get("stream") else {}))
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _named(client: Any, image: str, target: Name, say: Talk) -> Iterator[None]:
    """Give an image a name, which is taken back when what is done under it fails."""
    facts, before = _facts(client, image), _facts(client, target.tagged)
    others = [*(facts.get("RepoTags") or []), *(facts.get("RepoDigests") or [])]
    if before.get("Id") == image:
        yield
        return

    def tag(which: str) -> None:
        with engine.engine_errors(f"name the image {target.tagged}"):
            client.api.tag(which, *target.tagged.rsplit(":", 1))

    try:
        tag(image)
        yield
    except BaseException:
        with contextlib.suppress(MoroccoError):  # the engine is gone; that is said already
            if before:
                tag(before["Id"])
            elif others:
                with engine.engine_errors(f"take the name {target.tagged} back"):
                    client.api.remove_image(target.tagged, noprune=True)
            else:
                say(f"{target.tagged} stays: it is the image's only name, and goes with it")
        raise


def _facts(client: Any, name: str) -> dict[str, Any]:
    try:
        with engine.engine_errors(f"find image {name}"):
            return client.api.inspect_image(name)
    except UsageError:
        return {}


def _digests(client: Any, name: str, repository: str) -> set[str]:
    """Return the digests by which the engine knows the image it holds under a name."""
    entries = [entry.split("@") for entry in _facts(client, name).get("RepoDigests") or []]
    return {digest for where, digest in entries if where == repository}
