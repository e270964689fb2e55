"""Settings of the server of known truth, runs of them measured our way and the original's, and how far off they were."""

import json
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from servers import server

from morocco_lib.benchmark import protocol
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.data import workload
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task
from truth import original_method

LATE_BYTES = 600_000  # more than the pipes take up: a writer waits until they are read
TASK = get_task("terra")
LABELS = ("entailment", "not_entailment")
REST_BYTES = 58  # of a line as it is fed, without its premise, at least


@dataclass(frozen=True)
class Setting:
    """Options of the server; `seed` decides which starts are cold and how long each record takes."""

    rate: float = 1000.0
    batch_size: int = 8
    work_s: float = 2.0
    init_s: float = 0.5
    spread: float = 0.0
    memory_mib: int = 0
    flush: str = "batch"
    ready: bool = True
    late_stdin: bool = False
    cold_share: float = 0.0
    seed: str = "0"

    @property
    def records(self) -> int:
        return round(self.rate * self.work_s)

    def argv(self, starts: Path) -> list[str]:
        """Return the server's command without its batch size; `starts` is the file that counts those of a series."""
        starts.touch(), starts.chmod(0o666)  # the server is another user
        values = {
            **{"rate": self.rate, "init": self.init_s, "spread": self.spread, "memory-mib": self.memory_mib},
            **{"cold-share": self.cold_share, "seed": self.seed, "starts": starts},
        }
        flags = {
            **{"no-ready": not self.ready, "late-stdin": self.late_stdin},
            **{"unflushed": self.flush == "buffer", "held-back": self.flush == "end"},
        }
        options = [word for name, value in values.items() for word in (f"--{name}", value)]
        return server("paced", *options, *(f"--{name}" for name, on in flags.items() if on))

    def source(self, folder: Path) -> Path:
        """Write a file of 40 records; as many as are fed are 0.6 MB or more where stdin is read late."""
        filler = "x" * max(1, LATE_BYTES // self.records - REST_BYTES + 1 if self.late_stdin else 100)
        path = folder / "val.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for i in range(40):
                record = {"premise": filler, "hypothesis": f"Запись {i}", "label": LABELS[i % 2], "idx": i}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return path

    def lines(self, folder: Path) -> list[bytes]:
        """Return the lines to feed, from such a file."""
        return list(workload.build(TASK, TASK.read(self.source(folder)), self.records, 1).lines())


@dataclass(frozen=True)
class Trial:
    """One measurement beside the truth.

    Attributes:
        result: What bench.json would hold.
        truths: What the server reports of itself in each timed run.
        wall_s: What the measurement took, from the first start to the number.
    """

    setting: Setting
    result: dict
    truths: list[dict]
    wall_s: float

    @property
    def per_s(self) -> float:
        """The true speed."""
        return statistics.mean(truth["per_s"] for truth in self.truths)

    @property
    def error(self) -> float:
        return self.result["speed_per_s"]["value"] / self.per_s - 1

    @property
    def width(self) -> float | None:
        """The whole interval over the value; None: there is no interval."""
        speed = self.result["speed_per_s"]
        return None if speed["low"] is None else (speed["high"] - speed["low"]) / speed["value"]

    @property
    def holds(self) -> bool:
        speed = self.result["speed_per_s"]
        return speed["low"] is not None and speed["low"] <= self.per_s <= speed["high"]

    @property
    def init_error_s(self) -> float:
        return self.result["init_s"]["value"] - statistics.mean(truth["init_s"] for truth in self.truths)


def ours(setting: Setting, folder: Path, **settings: object) -> Trial:
    """Measure our way, in a new folder: one run, or as `settings` say."""
    folder.mkdir()
    source, program = setting.source(folder), Program(setting.argv(folder.with_suffix(".starts")), "truth")
    settings = {"input_size": setting.records, "batch_size": setting.batch_size, "repeats": 1, **settings}
    began = time.monotonic()
    result = protocol.bench(Target(program, ProcessRunner(), Limits(timeout_s=60)), TASK, source, folder, **settings)
    wall_s = time.monotonic() - began
    assert result["verdict"] == "VALID", result["reasons"]
    truths = [json.loads(_last_line(folder / run / "stderr.log")) for run in result["runs"]]
    return Trial(setting, result, truths, wall_s)


def way(name: str, folder: Path) -> Trial:
    """Measure a program of a thousand records a second that works and prints in one of many ways, in a new folder."""
    folder.mkdir()
    setting = Setting(batch_size=16, work_s=1.0)
    program = Program(server("books", "--way", name, "--ms", 1000 / setting.rate), name, checked=True)
    settings = {"input_size": setting.records, "batch_size": setting.batch_size, "repeats": 3}
    source, began = setting.source(folder), time.monotonic()
    target = Target(program, ProcessRunner(), Limits(timeout_s=60))
    result = protocol.bench(target, TASK, source, folder, **settings)
    return Trial(setting, result, [], time.monotonic() - began)


def _last_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[-1]


def originals(setting: Setting, folder: Path) -> tuple[float, float]:
    """Measure the original's 5 + 5 runs in a new folder; returns (error, wall seconds)."""
    folder.mkdir()
    lines = setting.lines(folder)
    began = time.monotonic()
    found = original_method.speed(setting.argv(folder / "starts"), lines, setting.batch_size)
    return found / setting.rate - 1, time.monotonic() - began


def median_and_p95(errors: Iterable[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile of the sizes of errors, the latter between the two nearest."""
    sizes = list(map(abs, errors))
    p95 = statistics.quantiles(sizes, n=20, method="inclusive")[-1] if len(sizes) > 1 else sizes[0]
    return statistics.median(sizes), p95


# -- settings ------------------------------------------------------------------------------------------------------
RATES, BATCHES = (200, 500, 1000, 2000, 5000), (1, 8, 32)


def mixed(count: int, seed: int, **same: object) -> list[Setting]:
    """Return settings of every kind: rates, batches, start-ups of 0.3 to 2 s, steady and varying, with readiness and without."""
    chance = random.Random(f"mixed/{seed}/{sorted(same)}")
    return [
        replace(
            Setting(
                rate=RATES[k % len(RATES)],
                batch_size=BATCHES[k % len(BATCHES)],
                work_s=chance.uniform(2, 2.5),
                init_s=chance.choice((0.3, 0.5, 1.0, 2.0)),
                spread=0.2 * (k % 2),
                ready=k % 4 < 2,
                seed=f"{seed}/{k}",
            ),
            **same,
        )
        for k in range(count)
    ]


def pools(seed: int) -> dict[str, list[Setting]]:
    """Return the settings of one series of measurements, by what is shown of them."""
    short = {"init_s": 0.5}
    return {
        "steady and varying": mixed(24, seed),
        "20 % cold starts": [replace(s, cold_share=float(k % 5 == 2)) for k, s in enumerate(mixed(10, seed, **short))],
        "0.6 MB read late": mixed(10, seed, late_stdin=True, **short),
        # Up to a batch of what was done before the first arrival comes after it: 60 batches or more keep that below 2 %.
        "unflushed": [replace(s, rate=max(1000, s.rate)) for s in mixed(8, seed, flush="buffer", spread=0.0, **short)],
        "all at the end": mixed(6, seed, flush="end", ready=True, spread=0.0, **short),
    }


def without_readiness(seed: int) -> dict[str, Setting]:
    """Return the settings of programs that print nothing before all answers are ready; they need several runs."""
    steady = Setting(flush="end", ready=False, work_s=1.5, init_s=0.4, seed=str(seed))
    return {"no cold starts": steady, "20 % cold starts": replace(steady, cold_share=0.2)}


def compared(repeats: int, seed: int) -> dict[str, list[Setting]]:
    """Return the settings both ways are tried on: 2 s of work, a start-up of about half a second."""
    chance = random.Random(f"compared/{seed}")
    drawn = [Setting(init_s=chance.uniform(0.4, 0.6), batch_size=32, seed=f"{seed}/{k}") for k in range(repeats)]
    return {
        "2 s of work, 20 % cold starts": [replace(s, cold_share=0.2) for s in drawn],
        "2 s of work, 0.6 MB read late": [replace(s, late_stdin=True) for s in drawn],
    }


def measure(settings: Sequence[Setting], folder: Path) -> list[Trial]:
    """Measure one run of each setting our way, in a new folder each."""
    folder.mkdir()
    return [ours(setting, folder / f"{k:02d}") for k, setting in enumerate(settings)]


def both(settings: Sequence[Setting], folder: Path) -> tuple[list[Trial], list[tuple[float, float]]]:
    """Measure each setting both ways in turn; returns our trials and the original's (error, wall seconds)."""
    folder.mkdir()
    pairs = [(ours(s, folder / f"{k}"), originals(s, folder / f"{k}-original")) for k, s in enumerate(settings)]
    return [trial for trial, _ in pairs], [other for _, other in pairs]
