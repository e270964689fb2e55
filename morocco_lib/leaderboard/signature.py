"""Who packed a submission: the signature of its digests, made and checked by ssh-keygen, with keys that everybody has."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from morocco_lib import foreign
from morocco_lib.errors import EnvironmentFailure, Refused, UsageError

NAMESPACE = "morocco-submission"  # a signature made for something else, such as a commit, is none here


@dataclass(frozen=True)
class Signer:
    """Who signed.

    Args:
        key: Type and fingerprint of the key.
        name: Who the file of allowed signers says it belongs to; None: nobody vouches for the key.
    """

    key: str
    name: str | None = None


def sign(path: Path, key: Path) -> None:
    """Write the signature of a file beside it, as <path>.sig.

    Raises:
        UsageError: the key cannot be used.
    """
    done = _ssh_keygen("sign", "-f", key, "-n", NAMESPACE, path)
    if done.returncode:
        raise UsageError(
            f"cannot sign with {key}: {done.stderr.strip()}", rule="a private key of ssh signs",
            remedy="`ssh-keygen -t ed25519` makes one",
        )  # fmt: skip


def signer(path: Path, signature: Path, allowed: Path | None = None) -> Signer:
    """Return who signed a file.

    Args:
        allowed: Lines of name and public key, as ALLOWED SIGNERS of ssh-keygen(1) has it.
    Raises:
        Refused: the signature is not of this file.
        UsageError: the file of allowed signers cannot be read.
    """
    stdin = foreign.read_bytes(path)
    checked = _ssh_keygen("check-novalidate", "-n", NAMESPACE, "-s", signature, stdin=stdin)
    found = re.search(r"with (\S+) key (SHA256:\S+)", checked.stdout)
    if checked.returncode or not found:
        raise Refused("SIGNATURE", "its signature is broken, of other digests, or made for something else")
    key = " ".join(found.groups())
    if allowed is None:
        return Signer(key)
    if not allowed.is_file():
        raise UsageError(
            f"no file {allowed}", rule="a line of it is a name and a public key", remedy="see docs/submissions.md"
        )
    listed = _ssh_keygen("find-principals", "-s", signature, "-f", allowed)
    for name in listed.stdout.splitlines():
        options = ("-I", name, "-n", NAMESPACE, "-s", signature, "-f", allowed)
        if _ssh_keygen("verify", *options, stdin=stdin).returncode == 0:  # the line may end, or be for another use
            return Signer(key, name)
    return Signer(key)


def _ssh_keygen(action: str, *arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess:
    try:
        done = subprocess.run(["ssh-keygen", "-Y", action, *map(str, arguments)], input=stdin, capture_output=True)
    except FileNotFoundError:
        raise EnvironmentFailure("ssh-keygen is not installed", remedy="install OpenSSH 8.2 or newer") from None
    done.stdout, done.stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return done
