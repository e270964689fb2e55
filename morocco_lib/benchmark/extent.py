"""How much is run: the sizes of runs, some of them drawn, and when there are enough. Pure: from settings and finished runs."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from morocco_lib.analysis import throughput
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.segments import fed_segment
from morocco_lib.analysis.summary import LEAST_REPEATS
from morocco_lib.analysis.validity import disturbances, ended_well
from morocco_lib.errors import UsageError
from morocco_lib.reasons import Reason

REST_SHARE, REST_S = 0.25, 0.1  # of a start with one batch, and seconds: more after feeding may be start-up
SMALLER, LARGER = (0.25, 0.5), (2.0, 4.0)  # of the input size; drawn anew for each run
MOST_REPEATS = 100  # if a precision is never reached
PILOT_BATCHES, PILOT_GROWTH = 8, 8
PILOT_WORK_S = 0.3  # a speed computed from less is a guess
TIMED_WORK_S = 10.0  # of one run, where the input size is calibrated; energy counters need it
PROBE_WORK_S = 0.5, 1.0  # of one run that looks for a cache: at least, and at most of records of the file
LEAST_BATCHES = 10  # of it and of a calibrated one
MOST_RECORDS = 1_000_000


@dataclass(frozen=True)
class Settings:
    """The settings of the protocol; `bench` describes each."""

    batch_size: int = 32
    input_size: int | None = None
    repeats: int | None = None
    precision: float = 0.02
    max_minutes: float = 30.0
    seed: int | None = None
    quick: bool = False
    baseline: Path | None = None
    single_record: bool = False

    def __post_init__(self):
        sizes = {"batch_size": self.batch_size, "input_size": self.input_size, "repeats": self.repeats}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}", rule="it is at least 1")
        if not (self.precision > 0 and self.max_minutes > 0):
            raise UsageError(f"precision {self.precision}, {self.max_minutes} minutes", rule="both are above 0")

    @property
    def timed_only(self) -> bool:
        return self.quick or self.repeats == 1

    @property
    def short_size(self) -> int:
        """Records of a run that shows a start-up: one batch, where the timed runs have two."""
        return self.batch_size if self.input_size is None or self.input_size >= 2 * self.batch_size else 1


# -- sizes ---------------------------------------------------------------------------------------------------------
def since_fed(run: Run) -> float:
    """Return seconds from the first byte fed to the last answer; 0 without any."""
    segment = fed_segment(run)
    return 0.0 if isinstance(segment, Reason) else segment.seconds


def roughly(run: Run, rest: tuple[int, float], settings: Settings) -> float | None:
    """Return the speed of a pilot run as far as it shows, in records a second.

    Args:
        rest: Records of a small run, and seconds from its first byte to its last answer.
    """
    if (throughput.balanced([run]) or settings.timed_only) and (per_s := throughput.read([run]).estimate["value"]):
        return per_s
    records, rest_s = rest
    more_s = since_fed(run) - rest_s
    return (run.lines - records) / more_s if more_s > max(PILOT_WORK_S, REST_SHARE * rest_s) else None


def calibrated(per_s: float | None, batch_size: int, fallback: int) -> int:
    """Return the input size that takes about ten seconds, in whole batches."""
    wanted = fallback if per_s is None else max(per_s * TIMED_WORK_S, LEAST_BATCHES * batch_size)
    return min(MOST_RECORDS, batch_size * round(wanted / batch_size))


def drawn(size: int, batch_size: int, shares: tuple[float, float]) -> int:
    """Return a size that nobody can know before: whole batches, where there are several."""
    batch = batch_size if size >= 4 * batch_size else 1
    low, high = (math.ceil(size * share / batch) for share in shares)
    return batch * secrets.choice(range(low, high + 1))


def probe_size(per_s: float | None, batch_size: int, records: int, most: int, first_use_s: float = 0.0) -> int:
    """Return how many records to feed to look for a cache: those of the file, if they are half a second's work to a second's.

    Args:
        per_s: Speed measured before, records a second; None if unknown: then `most`.
        records: Of the file.
        most: Input size of the timed runs; never more, and at least ten batches.
        first_use_s: Of the time since feeding, what is no work on records: the work takes twice as long at least.
    """
    if per_s is None:
        return most
    low, high = (per_s * max(work_s, 2 * first_use_s) for work_s in PROBE_WORK_S)
    return min(most, max(math.ceil(min(max(records, low), high)), LEAST_BATCHES * batch_size))


# -- repeats -------------------------------------------------------------------------------------------------------
def enough(settings: Settings, runs: Sequence[Run], smaller: Sequence[Run], took_s: float) -> str | None:
    """Return why no more timed runs are made; None: one more.

    A disturbed run does not count and is repeated, up to twice the repeats.
    """
    pairs = zip_longest(runs, smaller)
    counted = [
        k for k, pair in enumerate(pairs) if settings.timed_only or not any(map(disturbances, filter(None, pair)))
    ]
    late = took_s * (len(runs) + 1) / len(runs) > settings.max_minutes * 60
    if settings.repeats:
        if len(counted) >= settings.repeats or len(runs) >= 2 * settings.repeats:
            return "repeats"
        return "max_minutes" if late and len(runs) >= settings.repeats else None
    if not all(map(ended_well, runs)):
        return "invalid runs" if len(runs) >= LEAST_REPEATS else None
    if len(counted) >= LEAST_REPEATS:
        speed = throughput.read([runs[k] for k in counted], [smaller[k] for k in counted] if smaller else ()).estimate
        if speed["value"] is None:
            return "no speed"
        if speed["high"] - speed["low"] < settings.precision * speed["value"]:
            return "precision"
    if late and len(runs) >= LEAST_REPEATS:
        return "max_minutes"
    return "most repeats" if len(runs) >= MOST_REPEATS else None
