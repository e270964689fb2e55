"""Machine and model config -> target: which runner, which program, with which limits."""

import os
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from morocco_lib import config
from morocco_lib.benchmark.target import Program, Target, program_of_image
from morocco_lib.errors import EnvironmentFailure, InvalidResult, MoroccoError, UsageError
from morocco_lib.models import weights
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner

if TYPE_CHECKING:
    from morocco_lib.config import MachineParams, ModelParams
    from morocco_lib.runners.engine import Image
    from morocco_lib.tasks.base import Task

PROCESS, DOCKER, AUTO = "process", "docker", "auto"


def resolve_runner(machine: "MachineParams") -> "MachineParams":
    """Return the machine with `auto` replaced by docker or process, and the reason in `chosen`."""
    if machine.runner != AUTO:
        return machine
    runner, why = choose(machine.base)
    return machine.model_copy(update={"runner": runner, "chosen": f"auto: {runner}, for {why}"})


def choose(base: str) -> tuple[str, str]:
    """Return (process | docker, why): docker where an engine answers and has, or can build, the base image."""
    from morocco_lib.images import bases
    from morocco_lib.runners import engine

    try:
        client = engine.connect(5)
    except MoroccoError as error:
        return PROCESS, error.seen
    with client.api:
        if base == bases.DEBIAN or engine.held(client, base):
            return DOCKER, f"an engine answers at {engine.address()}"
        return PROCESS, f"the engine at {engine.address()} does not hold the base image {base}"


def target_from_weights(
    machine: "MachineParams", folder: Path, task: "Task", source: Path, model: "ModelParams"
) -> Target:
    """Return the program that answers with a weights folder; as a container it is built and checked against the contract.

    Args:
        folder: A weights folder, or a train step's.
        source: A file of the task's records, some of which are used for the check.
        model: Names the results, and says how a transformer computes.
    """
    options = [f"--{name}={value}" for name, value in model.model_dump(include={"precision", "backend"}).items()]
    if machine.runner == DOCKER:
        from morocco_lib.images import build

        recipe = build.Recipe(folder, task.name, machine.base)
        image = build.build(recipe, lambda image: check_image(image, task, source, limits_of(machine)), print)
        target = target_from_image(image.id, model.name, machine)
        return replace(target, program=replace(target.program, argv=options, checked=True))
    argv = [sys.executable, "-m", "morocco_lib", "infer", str(weights.locate(folder)), task.name, *options]
    return Target(Program(argv, model.name), ProcessRunner(), limits_of(machine))


def target_from_program(model: "ModelParams", machine: "MachineParams", root: Path) -> Target:
    """Return the program of a model config with `command` or `image`; raises UsageError."""
    if missing := [name for name in model.env if name not in os.environ]:
        raise UsageError(
            f"{model.name}: {', '.join(missing)} not set", rule="`env` names variables that the program needs"
        )
    limits = Limits(machine.timeout_s, machine.memory_bytes)
    if model.image:
        limits = replace(limits, pids=machine.pids, cpus=machine.cpus)
        return Target.of_image(model.image, model.name, limits, tuple(machine.gpus), tuple(model.env))
    return Target.of_command(model.command, model.name, limits, config.resolve(model.cwd, root), tuple(model.env))


def files_of_program(model: "ModelParams", root: Path) -> dict[str, Path]:
    """Return the words of a command that are files, such as its script, by their place: another script is another step."""
    if not model.command:
        return {}
    paths = [config.resolve(str(config.resolve(model.cwd, root) / word), root) for word in shlex.split(model.command)]
    return {f"program/{number}": path for number, path in enumerate(paths) if path.is_file()}


def image_of_program(model: "ModelParams") -> dict[str, str]:
    """Return the id of the image that a name stands for now, {} for other models: a tag that moved is another step."""
    from morocco_lib.runners import engine

    return {"image_id": engine.find_image(engine.connect(), model.image).id} if model.image else {}


def target_from_image(image: str, model: str | None, machine: "MachineParams") -> Target:
    """Return an image on a machine."""
    return Target.of_image(image, model, limits_of(machine), tuple(machine.gpus))


def limits_of(machine: "MachineParams") -> Limits:
    """Return what a run may use on a machine."""
    contained = (machine.pids, machine.cpus) if machine.runner == DOCKER else ()
    return Limits(machine.timeout_s, machine.memory_bytes, *contained)


def remove_orphans(machine: "MachineParams") -> None:
    """Remove the containers of programs that were killed, where there can be any."""
    from morocco_lib.runners import engine

    if machine.runner == DOCKER:
        with suppress(EnvironmentFailure):  # a lost engine has been reported
            engine.remove_orphans(engine.connect())


def check_image(image: "Image", task: "Task", source: Path, limits: Limits) -> None:
    """Check an image against the contract.

    Raises:
        InvalidResult: it breaks the contract.
    """
    from morocco_lib.benchmark import conformance
    from morocco_lib.runners.docker import DockerRunner

    report = conformance.check(Target(program_of_image(image), DockerRunner(image.id), limits), task, source)
    if not report.ok:
        raise InvalidResult(
            f"{image.name} breaks the contract:\n{report.text()}", rule="an image gets its name after it has passed",
            remedy=f"look with `morocco check --image {image.id[:19]} {task.name} --data {source}`",
        )  # fmt: skip
