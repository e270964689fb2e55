"""Who answers, and in what: from a command, an image or a weights folder to a program and the runner it runs in."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from morocco_lib.benchmark import protocol
from morocco_lib.errors import EnvironmentFailure, InvalidResult, MoroccoError
from morocco_lib.models import weights
from morocco_lib.runners.contract import Limits, Runner
from morocco_lib.runners.process import ProcessRunner

if TYPE_CHECKING:
    from morocco_lib.config import MachineParams, ModelParams
    from morocco_lib.runners.engine import Image
    from morocco_lib.tasks.base import Task

PROCESS, DOCKER, AUTO = "process", "docker", "auto"


def settle(machine: "MachineParams") -> "MachineParams":
    """Return the machine with `auto` replaced by what can be had here, and the reason in `chosen`."""
    if machine.runner != AUTO:
        return machine
    runner, why = choose(machine.base)
    return machine.model_copy(update={"runner": runner, "chosen": f"auto: {runner}, for {why}"})


def choose(base: str) -> tuple[str, str]:
    """Return (process | docker, why): docker where an engine answers and holds, or can make, the base of our images."""
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


def own(
    machine: "MachineParams",
    folder: Path,
    task: "Task",
    source: Path,
    model: "ModelParams",
    say: Callable[[str], None] = print,
) -> tuple[protocol.Program, Runner]:
    """Return the program of a weights folder and its runner; as a container it is built and held against the contract.

    Args:
        folder: A weights folder, or a train step's.
        source: A file of the task's records, of which the check takes some.
        model: Names the results, and says how a transformer computes.
    """
    chosen = [f"--{name}={value}" for name, value in model.model_dump(include={"precision", "backend"}).items()]
    if machine.runner == DOCKER:
        from morocco_lib.images import build

        recipe = build.Recipe(folder, task.name, machine.base)
        image = build.build(recipe, lambda image: check_image(image, task, source, limits_of(machine)), say)
        program, runner = contained(image.id, model.name, machine)
        return replace(program, argv=chosen, checked=True), runner
    argv = [sys.executable, "-m", "morocco_lib", "infer", str(weights.locate(folder)), task.name, *chosen]
    return protocol.Program(argv, model.name), ProcessRunner()


def contained(image: str, model: str | None, machine: "MachineParams") -> tuple[protocol.Program, Runner]:
    """Return the program that an image is, and its runner."""
    from morocco_lib.runners.docker import DockerRunner

    runner = DockerRunner(image, tuple(machine.gpus))
    return protocol.contained(runner.image, model), runner


def limits_of(machine: "MachineParams") -> Limits:
    """Return what a run may use on a machine."""
    contained = (machine.pids, machine.cpus) if machine.runner == DOCKER else ()
    return Limits(machine.timeout_s, machine.memory_bytes, *contained)


def sweep(machine: "MachineParams") -> None:
    """Remove the containers of programs that were killed, where there can be any."""
    from morocco_lib.runners import engine

    if machine.runner == DOCKER:
        with suppress(EnvironmentFailure):  # an engine that is gone has been told of
            engine.remove_orphans(engine.connect())


def check_image(image: "Image", task: "Task", source: Path, limits: Limits) -> None:
    """Hold an image against the contract.

    Raises:
        InvalidResult: it breaks it.
    """
    from morocco_lib.benchmark import conformance
    from morocco_lib.runners.docker import DockerRunner

    report = conformance.check(protocol.contained(image), task, source, DockerRunner(image.id), limits)
    if not report.ok:
        raise InvalidResult(
            f"{image.name} breaks the contract:\n{report.text()}", rule="an image gets its name after it has passed",
            remedy=f"look with `morocco check --image {image.id[:19]} {task.name} --data {source}`",
        )  # fmt: skip
