"""The commands on images and registries: build, login, push, pull. Each returns its exit code."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from morocco_lib.cli.arguments import add_output
from morocco_lib.cli.output import exit_on_sigterm, messages, put, say, show, transfer_progress
from morocco_lib.errors import UsageError
from morocco_lib.fileio import expand
from morocco_lib.images import BASE


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands; see `entry.build_parser`."""
    sub = command(
        "build", build, "pack a trained model for a task into an image that has passed `morocco check`",
        "morocco build tfidf terra --weights fitted", "morocco build --all --outputs outputs/demo --base debian",
    )  # fmt: skip
    option = sub.add_argument
    option("model", nargs="?", metavar="MODEL", help="its name, or a train step's folder")
    option("task", nargs="?", metavar="TASK")
    option("--all", action="store_true", help="every model and task that were trained in --outputs")
    option("--weights", type=expand, metavar="DIR", help="a train step's folder (default: the newest in --outputs)")
    option("--outputs", type=expand, default=Path("outputs"), metavar="DIR", help="where trained models are looked for")
    option("--data", type=expand, metavar="FILE", help="records for the check (default: synthetic ones)")
    start = f"image with Python to start from (default {BASE}); `debian` is made here from packages"
    option("--base", default=BASE, metavar="IMAGE", help=start)
    option("--tag", default="", metavar="NAME", help="name of the image (default MODEL-TASK)")
    option("--buildkit", action="store_true", help="build with the docker program and BuildKit")
    option("--timeout", type=float, default=600.0, metavar="S", help="seconds a run of the check may take")
    add_output(sub, "one JSON object: image, id, bytes")

    option = command(
        "login", login, "check a user's password with a registry, and keep it as `docker login` does",
        "morocco login localhost:5000 --username ann --password-stdin < password.txt",
        "morocco login docker.io",
    ).add_argument  # fmt: skip
    option("registry", metavar="REGISTRY", help="HOST or HOST:PORT; docker.io is the Docker Hub")
    option("--username", default="", metavar="NAME")
    option("--password-stdin", action="store_true", help="read the password from stdin")
    option("-p", "--password", type=_refused, help=argparse.SUPPRESS)

    facts = "one JSON object: image, name, repository, digest, id"
    sub = command(
        "push", push, "send an image to a registry and print what it is called there",
        "morocco push tfidf-terra localhost:5000/tfidf-terra:1", "morocco push localhost:5000/tfidf-terra:1 --json",
    )  # fmt: skip
    sub.add_argument("image", metavar="IMAGE", help="an image the Docker Engine holds: name or id")
    where = "REGISTRY/NAME[:TAG] (default: the image's own name)"
    sub.add_argument("name", nargs="?", default="", metavar="NAME_IN_REGISTRY", help=where)
    add_output(sub, facts)

    sub = command(
        "pull", pull, "get an image from a registry by its digest", "morocco pull localhost:5000/tfidf-terra:1",
        "morocco pull localhost:5000/tfidf-terra:1 --quiet --json",
    )  # fmt: skip
    which = "REGISTRY/NAME[:TAG][@sha256:...]; with a digest nothing else is taken"
    sub.add_argument("name", metavar="NAME[@DIGEST]", help=which)
    add_output(sub, facts)


def _refused(text: str) -> None:
    raise argparse.ArgumentTypeError("everybody on this machine can read an argument; use --password-stdin")


def build(args) -> int:
    import tempfile

    from morocco_lib import data
    from morocco_lib.images import build as builder
    from morocco_lib.pipeline import targets
    from morocco_lib.runners.contract import Limits
    from morocco_lib.tasks import get_task

    if args.all == bool(args.model and args.task) or (args.all and (args.weights or args.tag or args.data)):
        raise UsageError(
            "neither one image nor all", rule="give MODEL and TASK, or --all without --weights, --tag, --data"
        )
    if args.model and not args.weights:
        with suppress(UsageError):  # else it is a name
            args.weights = builder.weights.locate(Path(args.model))
            args.model = builder.weights.describe(args.weights)["name"]
    named = args.weights and {(args.model, get_task(args.task).trained_on): args.weights}
    found = named or builder.trained(args.outputs)
    wanted = builder.answered_by(found) if args.all else [(args.model, get_task(args.task).name)]
    if not wanted:
        raise UsageError(
            f"no trained model below {args.outputs}", remedy="run a plan first, or name its folder: --outputs DIR"
        )
    exit_on_sigterm()  # a check may be on its way
    for model, name in wanted:
        task = get_task(name)
        weights = builder.pick(found, model, task, args.outputs)
        recipe = builder.Recipe(weights, name, args.base, args.tag, args.buildkit)
        with tempfile.TemporaryDirectory() as folder:

            def check(image, task=task, folder=Path(folder)) -> None:
                if not args.data:
                    data.make_synthetic(folder, [task.name], 1)
                source = args.data or data.find_split(folder, task, "val")
                targets.check_image(image, task, source, Limits(args.timeout))

            image = builder.build(recipe, check, messages(args.quiet))
        if args.json:
            show({"image": image.name, "id": image.id, "bytes": image.size_bytes})
        else:
            put(image.name)
    return 0


def login(args) -> int:
    from morocco_lib.images import registry

    name = registry.host(args.registry)
    credential = read_credential(name, args.username, args.password_stdin)
    say(f"kept in {registry.login(name, credential)}")
    put(f"logged in to {name} as {credential['username']}")
    return 0


def read_credential(registry: str, username: str, from_stdin: bool) -> dict[str, str]:
    """Return {"username", "password"} from the options, stdin, the environment and a terminal; raises UsageError."""
    from morocco_lib.images.registry import environment

    found = environment(registry, default=registry)
    stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - until we end
    if username:
        found["username"] = username
    if from_stdin:
        found["password"] = stdin.buffer.read().decode(errors="replace").removesuffix("\n").removesuffix("\r")
    elif stdin.isatty():
        with suppress(EOFError):
            if not found.get("username"):
                print(f"user name at {registry}: ", end="", file=sys.stderr, flush=True)
                found["username"] = input()
            if not found.get("password"):
                found["password"] = getpass.getpass(f"password of {found['username']}: ")
    if missing := [what for what in ("username", "password") if not found.get(what)]:
        raise UsageError(
            f"no {' and no '.join(missing)} for {registry}",
            rule="a password is read from stdin, the environment or a terminal, never from an argument",
            remedy=f"morocco login {registry} --username NAME --password-stdin < FILE, "
            "or set MOROCCO_REGISTRY_USERNAME and MOROCCO_REGISTRY_PASSWORD",
        )
    return found


def push(args) -> int:
    from morocco_lib.images import registry

    with transfer_progress("pushing", args.quiet) as (report, watch):
        return _print(registry.push(args.image, args.name, report, watch), args.json)


def pull(args) -> int:
    from morocco_lib.images import registry

    with transfer_progress("pulling", args.quiet) as (report, watch):
        return _print(registry.pull(args.name, report, watch), args.json)


def _print(facts: dict[str, str], as_json: bool) -> int:
    if as_json:
        show(facts)
    else:
        put(facts["image"])
    return 0
