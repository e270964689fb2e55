"""The state of a plan's steps, and progress while it runs."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from morocco_lib.reasons import DISTURBED, EXIT_CODES

TO_DO, KEPT, DONE, FAILED, SKIPPED = "to do", "kept", "done", "failed", "skipped"


@dataclass
class StepResult:
    """The outcome of one step of a plan."""

    model: str | None
    task: str | None
    step: str
    state: str
    exit: int = 0
    folder: Path | None = None
    seconds: float = 0.0
    error: str | None = None


@dataclass
class PlanResult:
    """The outcome of a plan; `exit` is the worst of its steps."""

    plan_dir: Path
    steps: list[StepResult] = field(default_factory=list)
    page: Path | None = None

    @property
    def exit(self) -> int:
        return max((s.exit for s in self.steps), default=0)

    @property
    def exit_but_disturbed(self) -> int:
        """The worst exit code, steps left out that are done but were disturbed."""
        disturbed = EXIT_CODES[DISTURBED]
        return max((s.exit for s in self.steps if s.state == FAILED or s.exit != disturbed), default=0)


class Progress:
    """A bar on a terminal, elsewhere one line a finished step. Thread-safe, as steps run together."""

    def __init__(self, total: int, say: Callable[[str], None], *, bar: bool):
        self.total, self.say, self.done, self.bar = total, say, 0, None
        self._lock = threading.Lock()
        if bar:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total, unit="step", bar_format="{desc:<32} {bar:24} {n_fmt}/{total_fmt} {elapsed}<{remaining}"
            )

    def __call__(self, this: StepResult, moment: str) -> None:
        """Report that a step begins ("start") or has ended ("end")."""
        with self._lock:
            self._report(this, moment)

    def _report(self, this: StepResult, moment: str) -> None:
        name = " ".join(filter(None, (this.step, this.model, this.task)))
        if moment == "start":
            if self.bar is not None:
                self.bar.set_description_str(name)
            return
        self.done += 1
        error = f": {this.error}" if this.error else ""
        line = f"[{self.done}/{self.total}] {name}: {this.state} in {this.seconds:.1f} s{error}"
        if self.bar is None:
            self.say(line)
            return
        self.bar.update()
        if this.state in (FAILED, SKIPPED):
            self.bar.write(line, file=sys.stderr)
        if self.done == self.total:
            self.bar.close()
