"""The step folders of a plan in a bucket: finished ones are uploaded as they come, and fetched where they are not."""

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from morocco_lib.artifacts import bucket, steps, storage
from morocco_lib.errors import EnvironmentFailure, MoroccoError


class StepSync:
    """A plan folder and its copy in a bucket.

    Args:
        tasks: Fetch what is of these tasks, or of none.
        say: Called with a line about what was transferred, or was not.
        check: Called often; what it raises ends a transfer.
    """

    def __init__(
        self, plan_dir: Path, remote: bucket.Remote, tasks: Collection[str], say: Callable[[str], None],
        check: Callable[[], None],
    ):  # fmt: skip
        self.plan_dir, self.remote, self.tasks, self.say = plan_dir, remote, tasks, say
        self._there: set[tuple[str, str]] = set()  # name and seal of the step folders that are in the bucket
        self._options = {"watch": lambda done, total: check()}
        self.error: MoroccoError | None = None  # of the last upload, while it holds

    def fetch(self) -> None:
        """Download each step folder that is not here, or is here unfinished or disturbed; raises as `storage.sync` does."""
        for path in sorted(name for name in storage.names(self.remote) if name.endswith(f"/{steps.STATUS}")):
            name = path.removesuffix(f"/{steps.STATUS}")
            folder, places = self.plan_dir / name, name.split("/")  # model/task/step, model/step or step
            if (len(places) == 3 and places[1] not in self.tasks) or _is_good(folder):
                continue
            done = storage.sync(self.remote / name, folder, delete=True, **self._options)
            if done.wrong:
                shutil.rmtree(folder)
                self.say(f"{self.remote / name} is damaged ({done.wrong[0]}): the step is run again")
            else:
                self._there.add((name, steps.read_status(folder).get("seal")))
                self.say(f"fetched {name}: {done.text()}")

    def push(self) -> None:
        """Upload each finished step folder that is not there; what fails is noted, said, and tried again by the next push."""
        self.error = None
        for folder, status in list(steps.find_steps(self.plan_dir)):
            name = folder.relative_to(self.plan_dir).as_posix()
            if status["state"] != steps.DONE or steps.is_retired(status) or (name, status["seal"]) in self._there:
                continue
            try:
                done = storage.sync(folder, self.remote / name, delete=True, **self._options)
            except MoroccoError as error:
                self.error = error
                self.say(f"{name} is not uploaded, and tried again after the next step: {error}")
                if isinstance(error, EnvironmentFailure):
                    return
                continue
            self._there.add((name, status["seal"]))
            if done.transferred:
                self.say(f"uploaded {name}: {done.text()}")


def _is_good(folder: Path) -> bool:
    """Tell whether a step is done and undisturbed; what is unfinished is set aside."""
    if not (folder / steps.STATUS).exists():
        return False
    status = steps.read_status(folder)
    if status["state"] != steps.DONE:
        steps.retire(folder)
    return steps.is_good(status)
