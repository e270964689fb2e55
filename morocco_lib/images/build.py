"""A weights folder -> an image that answers one task: built, held against the contract, and only then named.

    base  +  packages           morocco-packages:<key>    once for a base and a set of packages
          +  large weight files morocco-model:<key>       once for each distinct weights
          +  program, task      <model>-<task>            what is run; a few hundred kilobytes

A key is a digest over everything that goes into an image: what exists under its key is not built again.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import morocco_lib
from morocco_lib import fileio
from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.images import bases
from morocco_lib.images.bases import Talk, silent
from morocco_lib.models import weights
from morocco_lib.runners import engine
from morocco_lib.tasks import get_task, task_names
from morocco_lib.tasks.base import Task

CONTRACT = "1"
HERE = Path(__file__).parent
PACKAGE = Path(morocco_lib.__file__).parent
LARGE_BYTES = 1 << 20  # of a weight file that gets a layer of the model image
KEY = "morocco.key"
EXTRAS = {
    "majority": ("infer",),
    "tfidf": ("infer",),
    "transformer": ("infer", "torch"),
}  # kind of model -> what its container needs


def trained(outputs: Path) -> dict[tuple[str, str], Path]:
    """Return (model, task it was trained for) -> folder of the newest train step that is done below a folder."""
    found = {}
    for folder, status in steps.find_steps(outputs):
        if status["step"] == "train" and status["state"] == steps.DONE and not steps.is_retired(folder):
            found[status["model"], status["task"]] = folder
    return found


def answered_by(found: dict[tuple[str, str], Path]) -> list[tuple[str, str]]:
    """Return (model, task) of every task that trained models can answer."""
    return sorted((model, t) for model, task in found for t in task_names() if get_task(t).weights_of == task)


def pick(found: dict[tuple[str, str], Path], model: str, task: Task, outputs: Path) -> Path:
    """Return the train step of a model for a task; raises UsageError."""
    folder = found.get((model, task.weights_of))
    if folder is None:
        held = ", ".join(f"{name} {trained}" for name, trained in sorted(found)) or "none"
        raise UsageError(
            f"no {model} trained for {task.weights_of} below {outputs}",
            rule=f"trained there: {held}",
            remedy=f"`morocco train {model} {task.weights_of} --data DIR --out DIR`, then --weights DIR",
        )
    if (name := weights.describe(folder)["name"]) != model:
        raise UsageError(f"{folder} holds {name}, not {model}", remedy=f"say morocco build {name} {task.name}")
    return folder


@dataclass(frozen=True)
class Recipe:
    """What goes into the image of one model and one task.

    Args:
        weights: A weights folder, or a train step's.
        base: Name of the image to start from, or "debian".
        tag: Name of the result; "" is <model>-<task>.
        buildkit: Build with the `docker` program and BuildKit instead of through the engine's own builder.
    """

    weights: Path
    task: str
    base: str
    tag: str = ""
    buildkit: bool = False

    @property
    def name(self) -> str:
        return self.tag or f"{weights.describe(self.weights)['name']}-{self.task}"


def build(recipe: Recipe, check: Callable[[engine.Image], None], say: Talk = silent) -> engine.Image:
    """Build an image, or find that it is there already, and return it.

    Args:
        check: Called with a new image before it gets its name; what it raises leaves the name as it was.
    Raises:
        UsageError: no such weights, task or base.
        EnvironmentFailure: the engine, the package index or the disk failed.
    """
    description = weights.describe(recipe.weights)
    task = get_task(recipe.task)
    if task.weights_of != description["task"]:
        raise UsageError(
            f"{recipe.weights} answers {description['task']}, not {task.name}",
            remedy=f"train one for {task.weights_of}",
        )
    client = engine.connect()
    try:
        builder = _Builder(client, recipe, say)
        files = {path.name: path for path in weights.files(recipe.weights)}
        large = {name: path for name, path in files.items() if path.stat().st_size >= LARGE_BYTES}
        small = {name: path for name, path in files.items() if name not in large}
        code = {path.relative_to(PACKAGE.parent).as_posix(): path for path in _code()}
        packages = builder.packages(EXTRAS[description["kind"]])
        model = builder.stage("model", {"PACKAGES_IMAGE": packages}, {"weights": large}, name="morocco-model")
        arguments = {"MODEL_IMAGE": model, "TASK_NAME": task.name}
        labels = _labels(recipe, description, {name: builder.digest(path) for name, path in files.items()})
        image = builder.stage("task", arguments, {"code": code, "weights": small}, labels=labels)
        named = engine.held(client, recipe.name)
        if named is None or named.id != image:
            say(f"checking {recipe.name}")
            check(replace(engine.find_image(client, image), name=recipe.name))
            with engine.engine_errors(f"name the image {recipe.name}"):
                client.api.tag(image, *engine.split(recipe.name))
            named = engine.find_image(client, recipe.name)
        return named
    finally:
        client.close()


def _labels(recipe: Recipe, description: dict[str, Any], digests: dict[str, str]) -> dict[str, str]:
    code, trained_on = steps.code_facts(), description["trained_on"]
    return {
        "org.opencontainers.image.title": recipe.name,
        "org.opencontainers.image.version": code["version"],
        "org.opencontainers.image.revision": code["commit"] or "",
        "morocco.dirty": "" if code["dirty"] is None else str(code["dirty"]).lower(),
        "morocco.model": description["name"],
        "morocco.task": recipe.task,
        "morocco.data": str(trained_on.get("sha256", "")),
        "morocco.weights": _digest(digests),
        "morocco.contract": CONTRACT,
    }


def _code() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _digest(value: Any) -> str:
    return hashlib.sha256(fileio.canonical(value).encode()).hexdigest()


# -- one image -----------------------------------------------------------------------------------------------------
class _Builder:
    """Builds the images of one recipe, each once."""

    def __init__(self, client: Any, recipe: Recipe, say: Talk):
        self.client, self.recipe, self.say = client, recipe, say
        self._digests: dict[Path, str] = {}

    def digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = fileio.sha256_file(path)
        return self._digests[path]

    def stage(
        self,
        stage: str,
        arguments: dict[str, str],
        folders: dict[str, dict[str, Path]],
        *,
        name: str = "",
        key: str = "",
        labels: dict[str, str] | None = None,
    ) -> str:
        """Return the image of a stage, built unless it is there: `name`:<key>, or its id without a name.

        Args:
            folders: Folder of the context -> name in it -> file.
            key: What it is found by again; "" is a digest over all that goes into it.
        """
        dockerfile = HERE / f"{stage}.Dockerfile"
        files = {f"{folder}/{inner}": path for folder, inside in folders.items() for inner, path in inside.items()}
        if stage == "packages":
            files["compile.py"] = HERE / "compile.py"
        if not key:
            content = {target: self.digest(path) for target, path in files.items()}
            key = _digest([dockerfile.read_text(), arguments, labels, content, sorted(folders)])
        tag = f"{name}:{key[:12]}" if name else ""
        if tag and engine.held(self.client, tag):
            return tag
        with engine.engine_errors("look for images"):
            found = [] if tag else self.client.api.images(filters={"label": f"{KEY}={key}"}, quiet=True)
        if found:
            return found[0]
        self.say(f"building {tag or self.recipe.name}")
        with tempfile.TemporaryFile() as context:
            text = f"{dockerfile.read_text()}LABEL {_label_words({**(labels or {}), KEY: key})}\n"
            write_context(context, text, files, folders)
            context.seek(0)
            build_one = _with_buildkit if self.recipe.buildkit else _with_engine
            return build_one(self.client, context, tag, arguments)

    def packages(self, extras: tuple[str, ...]) -> str:
        """Return the image of the base with the packages that extras ask for."""
        client = self.client
        base = bases.get(client, self.recipe.base, self.say)
        wanted = bases.requirements(extras)
        key = _digest([base.id, wanted, (HERE / "packages.Dockerfile").read_text()])
        if engine.held(client, f"morocco-packages:{key[:12]}"):
            return f"morocco-packages:{key[:12]}"
        facts = bases.probe(client, base.name)
        missing = [r for r in wanted if facts["have"].get(r.split("==")[0]) != r.split("==")[1]]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "packages"
            folder.mkdir()
            self.say(f"installing {', '.join(missing) or 'nothing'} for Python {'.'.join(map(str, facts['python']))}")
            bases.install(missing, facts, folder)
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
            return self.stage(
                "packages", {"BASE_IMAGE": base.name}, {"packages": files}, name="morocco-packages", key=key
            )


def _label_words(labels: dict[str, str]) -> str:
    # One instruction for all: each is a layer to commit, of a tenth of a second.
    return " ".join(f"{name}={json.dumps(value).replace('$', chr(92) + '$')}" for name, value in sorted(labels.items()))


def write_context(out: IO[bytes], dockerfile: str, files: dict[str, Path], folders: Iterable[str]) -> None:
    """Write a build context in which equal files are equal bytes: no owner, no date, one mode."""

    def add(tar: tarfile.TarFile, name: str, size: int, source: IO[bytes] | None, kind: bytes, mode: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.mode = size, kind, mode
        tar.addfile(info, source)

    with tarfile.open(fileobj=out, mode="w") as tar:
        text = dockerfile.encode()
        add(tar, "Dockerfile", len(text), io.BytesIO(text), tarfile.REGTYPE, 0o644)
        parents = {str(up) for name in files for up in Path(name).parents if str(up) != "."}
        for folder in sorted({*folders, *parents}):
            add(tar, folder, 0, None, tarfile.DIRTYPE, 0o755)
        for name, path in sorted(files.items()):
            with path.open("rb") as source:
                add(tar, name, path.stat().st_size, source, tarfile.REGTYPE, 0o644)


def _with_engine(client: Any, context: IO[bytes], tag: str, arguments: dict[str, str]) -> str:
    image, last = None, []
    with engine.engine_errors("build an image"):
        stream = client.api.build(
            fileobj=context, custom_context=True, decode=True, rm=True, forcerm=True, network_mode="none",
            buildargs=arguments, **({"tag": tag} if tag else {}),
        )  # fmt: skip
        for line in stream:
            if "error" in line:
                raise _failed(line["error"], last)
            image = line.get("aux", {}).get("ID", image)
            if text := line.get("stream", "").strip():
                last = [*last[-9:], text]
    return tag or image


def _with_buildkit(client: Any, context: IO[bytes], tag: str, arguments: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "id"
        words = ["docker", "build", "--network", "none", "--iidfile", str(written)]
        words += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        words += ["--tag", tag] if tag else []
        try:
            done = subprocess.run(
                [*words, "-"], stdin=context, capture_output=True, text=True, errors="replace", check=False,
                env={**os.environ, "DOCKER_BUILDKIT": "1"},
            )  # fmt: skip
        except FileNotFoundError:
            raise EnvironmentFailure(
                "there is no `docker` program", rule="--buildkit builds with it", remedy="leave --buildkit away"
            ) from None
        if done.returncode:
            raise _failed(done.stderr.strip().splitlines()[-1:] or "no word of it", done.stderr.splitlines()[-10:])
        return tag or written.read_text().strip()


def _failed(error: Any, last: list[str]) -> Exception:
    text = " ".join(error) if isinstance(error, list) else str(error)
    return EnvironmentFailure(f"cannot build an image: {text}", rule=" | ".join(last), remedy=engine.remedy(text))
