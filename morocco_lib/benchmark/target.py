"""What is measured, and how it is run: a program, its runner, its limits."""

import glob
import os
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from morocco_lib.artifacts.steps import STATUS
from morocco_lib.errors import UsageError
from morocco_lib.foreign import word
from morocco_lib.runners.contract import Limits, Runner
from morocco_lib.runners.engine import Image
from morocco_lib.runners.process import ProcessRunner, find_program
from morocco_lib.tasks.base import Task

NO_LIMITS = Limits(timeout_s=3600.0)  # but an hour a run
STEP_FOLDER = re.compile(r"\w+-[0-9a-f]{8}(\.\d+)?")
INTERPRETER = re.compile(r"(python|pypy|perl|ruby|node|bash|sh|Rscript)[\d.]*")


@dataclass(frozen=True)
class Program:
    """The program to measure.

    Args:
        argv: Without `--batch-size`; of a container the arguments after its entry point.
        model: Name in results.
        image_digest: Identity of a container image, None for a process.
        checked: It was checked against the contract, and keeps it.
    """

    argv: list[str]
    model: str
    image_digest: str | None = None
    checked: bool = False

    def with_batch(self, batch_size: int) -> list[str]:
        return [*self.argv, "--batch-size", str(batch_size)]


@dataclass(frozen=True)
class Target:
    """A program, what runs it, and what a run may use.

    `Target.of_command("python3 my_model.py")` and `Target.of_image("my-model:1")` make one.

    Args:
        program: What is started.
        runner: What starts it: `ProcessRunner()` or `DockerRunner(image)`.
        limits: Time, memory, processes and CPUs of a run.
    """

    program: Program
    runner: Runner
    limits: Limits = NO_LIMITS

    @classmethod
    def of_command(
        cls,
        command: str,
        model: str | None = None,
        limits: Limits = NO_LIMITS,
        cwd: Path | None = None,
        env: tuple[str, ...] = (),
    ) -> "Target":
        """Return a program that runs as a bare process.

        Args:
            command: One string, split like a shell would (shlex), given no shell; `--batch-size N` is appended.
            model: Name in results; None: the script's or the program's.
            limits: What a run may use.
            cwd: Its working folder; None: ours.
            env: Names of our environment variables that it is handed beside the usual ones (`runners.process.HANDED`).
        Raises:
            UsageError: empty, unclosed quotes, no such program, or a variable that is not set.
        """
        try:
            argv = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                f"--command {command!r}: {error}", rule="it is split like a shell would", remedy="close the quotes"
            ) from None
        if not argv:
            raise UsageError("--command is empty", remedy="give the program that answers records")
        find_program(argv[0], cwd)
        return cls(Program(argv, model or _name_of(argv)), ProcessRunner(cwd, env=_set(env)), limits)

    @classmethod
    def of_image(
        cls,
        image: str,
        model: str | None = None,
        limits: Limits = NO_LIMITS,
        gpus: tuple[str, ...] = (),
        env: tuple[str, ...] = (),
    ) -> "Target":
        """Return a container image that the Docker Engine holds.

        Args:
            image: Name, id or digest.
            model: Name in results; None: the image's label `morocco.model`, else its own name.
            limits: What a run may use.
            gpus: UUIDs of the GPUs that the container sees.
            env: Names of our environment variables that it is handed.
        Raises:
            UsageError: no such image, or a variable that is not set.
            EnvironmentFailure: no engine answers.
        """
        from morocco_lib.runners.docker import DockerRunner

        runner = DockerRunner(image, gpus, _set(env))
        return cls(program_of_image(runner.image, model), runner, limits)


def hiding(target: Target, task: Task, source: Path, folder: Path | None = None) -> Target:
    """Return the target with what holds right answers hidden from its program, where its runner can do that.

    The file of records and what is named like it; results: `folder`, runs beside it, those of its plan and of the project.
    """
    if not isinstance(target.runner, ProcessRunner):
        return target
    from morocco_lib.config.schema import find_root

    source = Path(source).resolve()
    found = {source, *source.parent.glob(f"{glob.escape(source.stem)}*")}
    if root := find_root(Path.cwd()):
        found.add(root / "outputs")
    if folder:
        folder = Path(folder).resolve()
        found |= {folder, *(runs.parent for runs in folder.parent.glob("*/runs") if (runs.parent / STATUS).is_file())}
        if STEP_FOLDER.fullmatch(folder.name) and folder.parent.name == task.name:
            found.add(folder.parents[2])  # plan/model/task/step
    return replace(target, runner=target.runner.hiding(sorted(found)))


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a measurement; each is optional.

    Args:
        progress: With a line of text after each run; `progress=print` reports every run.
        watch: With the number of new answers of timed runs, twice a second at most.
        expect: With the number of answers to come in timed runs, as far as it is known.
        turn: Entered around whatever uses the machine, so that nothing else is measured at the same time; reentrant.
        barrier: Before the timed runs; returns when all programs that are measured in turn have got there.
    """

    progress: Callable[[str], None] = lambda text: None
    watch: Callable[[int], None] | None = None
    expect: Callable[[int], None] = lambda records: None
    turn: Callable[[], AbstractContextManager] = nullcontext
    barrier: Callable[[], None] = lambda: None


NO_HOOKS = Hooks()


def program_of_image(image: Image, model: str | None = None) -> Program:
    """Return the program that an image is; its label names the model, else its own name does."""
    name = image.labels.get("morocco.model") or image.name.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return Program([], model or word(name), image.digest or image.id)


def _set(env: tuple[str, ...]) -> tuple[str, ...]:
    if missing := [name for name in env if name not in os.environ]:
        raise UsageError(
            f"{', '.join(missing)} not set", rule="a program is handed variables of this environment by name"
        )
    return env


def _name_of(argv: list[str]) -> str:
    # The script's name, not its interpreter's: `python3 -u docs/example_model.py` is example_model.
    name = Path(argv[0]).name
    script = next((word for word in argv[1:] if not word.startswith("-")), None)
    if script and INTERPRETER.fullmatch(name) and os.path.isfile(script):  # no text is too long for it
        return word(Path(script).stem)
    return word(name)
