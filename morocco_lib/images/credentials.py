"""Who we are to a registry: a name and a password, never from an argument, never shown.

`login` is given them on stdin, by the environment or at a prompt, and keeps them as Docker does: with the credential helper
its settings name, else in the settings themselves. `push` and `pull` take them from the environment or from there.
"""

import base64
import contextlib
import getpass
import json
import os
import re
import sys
import tempfile
import urllib.parse
import warnings
from pathlib import Path
from typing import IO, Any

from morocco_lib.errors import EnvironmentFailure, UsageError

HUB = "docker.io"
HOST = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?"


def host(text: str) -> str:
    """Return the host[:port] of a registry; raises UsageError if that is none."""
    found = re.fullmatch(rf"(?:https?://)?({HOST})(?:/v[12])?/?", text)
    if not found:
        raise UsageError(f"{shown(text)} is no registry", rule="a registry is HOST or HOST:PORT, and nothing else")
    return HUB if found[1] in (HUB, "index.docker.io", "registry-1.docker.io") else found[1]


def shown(text: str) -> str:
    """Return what may be said of a name that is none: not USER:PASSWORD@HOST."""
    return "a name with a password in it" if re.search(r":[^/]*@(?!sha256:)", text) else repr(text)


class Credential(dict):
    """What a registry is shown, in the form the engine takes; its repr says nothing, for tracebacks with variables."""

    def __repr__(self) -> str:
        return "<credential>"

    def hide(self, text: str) -> str:
        """Return a text without the secret, however it got there."""
        for secret in filter(None, (self.get("password"), self.get("identitytoken"))):
            pair = f"{self.get('username', '')}:{secret}".encode()
            header = base64.urlsafe_b64encode(json.dumps(self).encode())
            forms = (header, base64.b64encode(pair), base64.urlsafe_b64encode(pair), base64.b64encode(secret.encode()))
            for form in (*(f.decode() for f in forms), urllib.parse.quote(secret, safe=""), secret):
                text = text.replace(form, "***")
        return text


def given(registry: str, username: str = "", source: IO[bytes] | None = None, ask: bool = False) -> Credential:
    """Return the credential for a login.

    Args:
        source: Holds the password and nothing else; None: the environment does.
        ask: Ask at the terminal for what is missing.
    Raises:
        UsageError: there is no user name or no password.
    """
    registry = host(registry)
    found = _from_environment(registry, registry)
    if username:
        found["username"] = username
    if source is not None:
        found["password"] = (
            source.read().decode("utf-8", errors="surrogateescape").removesuffix("\n").removesuffix("\r")
        )
    with contextlib.suppress(EOFError):
        if ask and not found.get("username"):
            print(f"user name at {registry}: ", end="", file=sys.stderr, flush=True)
            found["username"] = input()
        if ask and not found.get("password"):
            found["password"] = getpass.getpass(f"password of {found['username']}: ")
    missing = [what for what in ("username", "password") if not found.get(what)]
    if missing:
        raise UsageError(
            f"no {' and no '.join(missing)} for {registry}",
            rule="a password is read from stdin, the environment or a terminal, never from an argument",
            remedy=f"morocco login {registry} --username NAME --password-stdin < FILE, "
            "or set MOROCCO_REGISTRY_USERNAME and MOROCCO_REGISTRY_PASSWORD",
        )
    if any("\udc80" <= sign <= "\udcff" for sign in found["password"]):
        raise UsageError("the password is not UTF-8", rule="a registry takes UTF-8 only")
    return found


def _from_environment(registry: str, default: str) -> Credential:
    # Where a name decides the registry, MOROCCO_REGISTRY must say it too: else pulling a stranger's image would show
    # the stranger the password.
    named = os.environ.get("MOROCCO_REGISTRY")
    if (host(named) if named else default) != registry:
        return Credential()
    names = {name: f"MOROCCO_REGISTRY_{name.upper()}" for name in ("username", "password")}
    return Credential({name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)})


def known(registry: str) -> Credential:
    """Return the credential for a transfer: the environment's, else what Docker keeps, else an empty one.

    Raises:
        UsageError: Docker's settings cannot be read.
        EnvironmentFailure: the credential helper failed.
    """
    settings, found = _settings(), _from_environment(registry, "")
    return found if len(found) == 2 else _stored(settings, registry)


def kept(registry: str) -> Credential:
    """Return what Docker keeps for a registry; raises as `known` does."""
    return _stored(_settings(), registry)


def _settings() -> Any:
    """Return what the SDK makes of Docker's settings."""
    import docker.auth
    import docker.errors

    _read_config()
    try:
        return docker.auth.load_config()
    except (docker.errors.DockerException, ValueError) as error:
        trouble = type(error).__name__
    raise UsageError(f"cannot read the credentials in {config_file()} ({trouble})", remedy="mend or remove the entry")


def _stored(settings: Any, registry: str) -> Credential:
    import docker.errors

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a helper that is not there; it is said below
            stored = settings.resolve_authconfig(registry) or {}
            return Credential({key.lower(): value for key, value in stored.items() if value})
    except (docker.errors.DockerException, OSError, ValueError, KeyError) as error:
        trouble = type(error).__name__  # and no more: what a helper printed may be the secret
    raise _helper_failed(settings.get_credential_store(registry), trouble)


def _helper_failed(helper: str, why: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"the credential helper docker-credential-{helper} failed ({why})",
        rule=f"{config_file()} says that it keeps this registry's password",
        remedy=f"try `docker-credential-{helper} list`",
    )


def config_file() -> Path:
    """Return where Docker keeps its settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def _read_config() -> dict[str, Any]:
    path, config = config_file(), None
    if not path.exists():
        return {}
    with contextlib.suppress(ValueError):
        config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise UsageError(
            f"{path} is not a JSON object", rule="Docker's settings and credentials are in it", remedy="mend it"
        )
    return config


def keep(registry: str, credential: Credential) -> str:
    """Keep a credential as Docker does and return where: with a helper if one is set up, else in its settings.

    Raises:
        UsageError: Docker's settings cannot be read.
        EnvironmentFailure: the credential helper failed.
    """
    from docker.credentials import Store

    config, key = _read_config(), address(registry)
    helper = (config.get("credHelpers") or {}).get(key) or config.get("credsStore")
    entry, trouble = {}, ""
    if helper:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Store(helper).store(key, credential["username"], credential["password"])
        except (RuntimeError, OSError) as error:
            trouble = type(error).__name__
        if trouble:
            raise _helper_failed(helper, trouble)
    else:
        pair = f"{credential['username']}:{credential['password']}"
        entry["auth"] = base64.b64encode(pair.encode()).decode()
    config["auths"] = {**(config.get("auths") or {}), key: entry}
    path = Path(os.path.realpath(config_file()))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not fileio.write_text: nobody else may read this one, at no moment.
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump(config, file, indent="\t", ensure_ascii=False)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    if helper:
        return f"docker-credential-{helper}"
    return f"{config_file()} (readable by you alone, not encrypted; a credential helper keeps it safer)"


def address(registry: str) -> str:
    """Return what Docker calls a registry in its settings."""
    return "https://index.docker.io/v1/" if registry == HUB else registry
