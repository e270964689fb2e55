"""A weights folder -> an image that answers one task: built, checked against the contract, and only then named.

    base  +  packages            morocco-packages:<key>   once for a base and a set of packages
          +  large weight files  morocco-model:<key>      once for each distinct weights
          +  library, task       <model>-<task>           what is run; a few hundred kilobytes

A key is a digest over everything that goes into an image: what exists under its key is not built again.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import morocco_lib
from morocco_lib import fileio, foreign
from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.images import bases, records
from morocco_lib.images.bases import Say
from morocco_lib.models import weights
from morocco_lib.runners import engine
from morocco_lib.tasks import get_task, task_names
from morocco_lib.tasks.base import Task

CONTRACT = "1"
HERE = Path(__file__).parent
PACKAGE = Path(morocco_lib.__file__).parent
ANSWERS = ("__init__", "errors", "foreign", "options", "tasks", "models", "infer")  # modules and packages in an image
HEADERS = (".h", ".hpp", ".cuh")  # are for compilers: two thirds of the files of torch
LARGE_BYTES = 1 << 20  # of a weight file that gets a layer of the model image
# kind of model -> extras that its container needs
EXTRAS = {"majority": ("infer",), "tfidf": ("infer",), "transformer": ("infer", "torch")}


# -- what to build -------------------------------------------------------------------------------------------------
def trained(outputs: Path) -> dict[tuple[str, str], Path]:
    """Return (model, task it was trained for) -> folder of the newest train step that is done below a folder."""
    found = {}
    for folder, status in steps.find_steps(outputs):
        if status["step"] == "train" and status["state"] == steps.DONE and not steps.is_retired(status):
            found[status["model"], status["task"]] = folder
    return found


def answered_by(found: dict[tuple[str, str], Path]) -> list[tuple[str, str]]:
    """Return (model, task) of every task that trained models can answer."""
    return sorted((model, t) for model, task in found for t in task_names() if get_task(t).trained_on == task)


def pick(found: dict[tuple[str, str], Path], model: str, task: Task, outputs: Path) -> Path:
    """Return the train step of a model for a task; raises UsageError."""
    folder = found.get((model, task.trained_on))
    if folder is None:
        held = ", ".join(f"{name} {trained}" for name, trained in sorted(found)) or "none"
        raise UsageError(
            f"no {model} trained for {task.trained_on} below {outputs}",
            rule=f"trained there: {held}",
            remedy=f"`morocco train {model} {task.trained_on} --data DIR --out DIR`, then --weights DIR",
        )
    if (name := weights.describe(folder)["name"]) != model:
        raise UsageError(f"{folder} holds {name}, not {model}", remedy=f"run morocco build {name} {task.name}")
    return folder


@dataclass(frozen=True)
class Recipe:
    """What goes into the image of one model and one task.

    Args:
        weights: A weights folder, or a train step's.
        base: Name of the image to start from, or "debian".
        tag: Name of the result; "" is <model>-<task>.
        buildkit: Build with the `docker` program and BuildKit instead of the engine's own builder.
    """

    weights: Path
    task: str
    base: str
    tag: str = ""
    buildkit: bool = False

    @property
    def name(self) -> str:
        return self.tag or f"{weights.describe(self.weights)['name']}-{self.task}"


# -- building ------------------------------------------------------------------------------------------------------
def build(recipe: Recipe, check: Callable[[engine.Image], None], say: Say) -> engine.Image:
    """Build an image unless the engine holds it, and return it.

    Args:
        check: Called with a new image before it gets its name; what it raises leaves the name as it was.
        say: Called with a line of text before what takes long.
    Raises:
        UsageError: no such weights, task or base.
        EnvironmentFailure: the engine, the package index or the disk failed.
    """
    description, task = weights.describe(recipe.weights), get_task(recipe.task)
    if task.trained_on != description["task"]:
        raise UsageError(
            f"{recipe.weights} answers {description['task']}, not {task.name}",
            remedy=f"train one for {task.trained_on}",
        )
    files = {f"weights/{path.name}": path for path in weights.files(recipe.weights)}
    large = {name: path for name, path in files.items() if path.stat().st_size >= LARGE_BYTES}
    small = {name: path for name, path in files.items() if name not in large}
    with closing(engine.connect()) as client:
        packages = _packages(client, recipe, EXTRAS[description["kind"]], say)
        stage = _Stage("model", {"PACKAGES_IMAGE": packages}, digests(large))
        model = _image(client, recipe, stage, large, say)
        labels = {
            "org.opencontainers.image.title": recipe.name,
            "org.opencontainers.image.version": morocco_lib.__version__,
            "morocco.model": description["name"],
            "morocco.task": task.name,
            "morocco.data": str(description["trained_on"].get("sha256", "")),
            "morocco.weights": _digest(digests(files)),
            "morocco.contract": CONTRACT,
        }
        inside = library() | small
        stage = _Stage("task", {"MODEL_IMAGE": model, "TASK_NAME": task.name}, digests(inside), labels)
        image = _image(client, recipe, stage, inside, say)
        named = engine.held(client, recipe.name)
        if named is None or named.id != image:
            say(f"checking {recipe.name}")
            check(replace(engine.find_image(client, image), name=recipe.name))
            with engine.engine_errors(f"name the image {recipe.name}"):
                client.api.tag(image, recipe.name)
            named = engine.find_image(client, recipe.name)
        return named


def library() -> dict[str, Path]:
    """Return name in a build context -> file, of the part of this library that an image holds: what answers."""
    paths = [path for name in ANSWERS for path in (*PACKAGE.glob(f"{name}.py"), *PACKAGE.glob(f"{name}/**/*.py"))]
    return {f"code/{path.relative_to(PACKAGE.parent).as_posix()}": path for path in paths}


def digests(files: dict[str, Path]) -> dict[str, str]:
    """Return name -> sha256 of files."""
    return {name: fileio.sha256_file(path) for name, path in files.items()}


def _digest(value: Any) -> str:
    return hashlib.sha256(fileio.canonical(value).encode()).hexdigest()


@dataclass(frozen=True)
class _Stage:
    """An image by everything that goes into it: its Dockerfile, arguments, content and labels."""

    name: str
    arguments: dict[str, str]
    content: Any
    labels: dict[str, str] | None = None

    @property
    def dockerfile(self) -> str:
        return (HERE / f"{self.name}.Dockerfile").read_text()

    @property
    def key(self) -> str:
        return _digest([self.dockerfile, self.arguments, self.content, self.labels])

    @property
    def tag(self) -> str:
        return "" if self.name == "task" else f"morocco-{self.name}:{self.key[:12]}"


def _held(client: Any, stage: _Stage) -> str | None:
    """Return the tag or id of the image that was made here of a stage's content, if the engine still holds it."""
    made = records.made(stage.key)
    if stage.tag:
        image = engine.held(client, stage.tag) if made else None
        return stage.tag if image and image.id in made else None
    return next((image for image in made if engine.held(client, image)), None)


def _packages(client: Any, recipe: Recipe, extras: tuple[str, ...], say: Say) -> str:
    """Return the image of the base with the packages that extras require."""
    base, wanted = bases.get(client, recipe.base, say), bases.requirements(extras)
    stage = _Stage("packages", {"BASE_IMAGE": base.name}, [base.id, wanted])
    if held := _held(client, stage):
        return held
    python, have = bases.probe(client, base.name)
    missing = [line for line in wanted if have.get(line.split("==")[0]) != line.split("==")[1]]
    with tempfile.TemporaryDirectory() as name:
        if missing:
            say(f"installing {', '.join(missing)} for Python {python}")
            bases.install(missing, python, Path(name))
        kept = (path for path in Path(name).rglob("*") if path.is_file() and path.suffix not in HEADERS)
        files = {f"packages/{path.relative_to(name)}": path for path in kept}
        return _image(client, recipe, stage, files, say)


def _image(client: Any, recipe: Recipe, stage: _Stage, files: dict[str, Path], say: Say) -> str:
    """Return the tag or id of a stage's image, built unless the engine holds it."""
    if held := _held(client, stage):
        return held
    say(f"building {stage.tag or recipe.name}")
    labels = {**(stage.labels or {})}
    if stage.labels:  # where it was built is recorded, and makes no other image
        code = steps.code_facts()
        labels["org.opencontainers.image.revision"] = code["commit"] or ""
        labels["morocco.dirty"] = "" if code["dirty"] is None else str(code["dirty"]).lower()
    # One instruction for all: each is a layer to commit, of a tenth of a second.
    pairs = " ".join(f"{name}={json.dumps(value).replace('$', chr(92) + '$')}" for name, value in labels.items())
    with tempfile.TemporaryFile() as context:
        write_context(context, stage.dockerfile + (f"LABEL {pairs}\n" if pairs else ""), files)
        context.seek(0)
        build_one = _with_buildkit if recipe.buildkit else _with_engine
        # An image that was loaded may claim to be what the engine keeps of the same instructions on a known base; on an image
        # that was made here it cannot.
        image = build_one(client, context, stage.tag, stage.arguments, fresh=bool(stage.tag))
    records.remember(stage.key, engine.find_image(client, image).id)
    return image


def write_context(out: IO[bytes], dockerfile: str, files: dict[str, Path]) -> None:
    """Write a build context in which equal files are equal bytes: no owner, no date, one mode."""
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, size: int, source: IO[bytes]) -> None:
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, source)

        add("Dockerfile", len(dockerfile.encode()), io.BytesIO(dockerfile.encode()))
        folders = {str(parent) for name in files for parent in Path(name).parents if parent.name}
        for folder in sorted({"code", "packages", "weights"} | folders):  # COPY fails where there is none
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, path in sorted(files.items()):
            with foreign.opened(path) as source:
                add(name, os.fstat(source.fileno()).st_size, source)


def _with_engine(client: Any, context: IO[bytes], tag: str, arguments: dict[str, str], fresh: bool) -> str:
    image, last = "", []
    with engine.engine_errors("build an image"):
        for line in client.api.build(
            fileobj=context, custom_context=True, decode=True, rm=True, forcerm=True, network_mode="none", nocache=fresh,
            buildargs=arguments, tag=tag or None,
        ):  # fmt: skip
            if "error" in line:
                raise _failed(line["error"], last)
            image = line.get("aux", {}).get("ID", image)
            last = [*last[-9:], *line.get("stream", "").split("\n")]
    return tag or image


def _with_buildkit(client: Any, context: IO[bytes], tag: str, arguments: dict[str, str], fresh: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "id"
        argv = ["docker", "build", "--network", "none", "--iidfile", str(written), *(["--tag", tag] if tag else [])]
        argv += ["--no-cache"] if fresh else []
        argv += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        try:
            done = subprocess.run(
                [*argv, "-"], stdin=context, capture_output=True, text=True, errors="replace", check=False,
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
            )  # fmt: skip
        except FileNotFoundError:
            raise EnvironmentFailure("there is no `docker` program", remedy="leave --buildkit away") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise _failed(lines[-1] if lines else f"exit {done.returncode}", lines[-10:-1])
        return tag or written.read_text().strip()


def _failed(text: str, last: list[str]) -> EnvironmentFailure:
    rule = " | ".join(filter(None, map(str.strip, last)))
    return EnvironmentFailure(f"cannot build an image: {text}", rule=rule, remedy=engine.remedy(text))
