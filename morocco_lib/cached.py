"""Does a program keep its answers? Two kinds of input, equal but for this: texts that never come twice, and few over and over.

A benchmark cycles a short file, so a program that remembers texts looks faster than it is. The probe feeds runs of both
kinds in turn. At each place both have the same record, under a tag of its own (`unique`) or one of few (`repeated`), so
lines are equal in characters and bytes, and an honest program is equally fast on both.

workloads(...)   what to feed in one pair of runs, size_for(...) how much of it, sequence(...) in which order
judge(...)       folders of finished runs -> are repeated texts answered faster, and by how much. Pure

A tag stands before every free text of a record, where neither cutting long texts nor remembering their beginnings (a
prefix cache) makes texts equal; offsets of marked words move along. It is made of single letters, so that a tokenizer
that remembers words, as honest ones do, has met them all.
Limits: what a program remembers of parts that have no tag (RUSSE's word, RWSD's spans, RuCoS's entities) is not seen.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from morocco_lib.answers import read_answers
from morocco_lib.data.workload import Workload
from morocco_lib.errors import UsageError
from morocco_lib.estimate import Run, Segment, read_run, ready_segment, stream_segment
from morocco_lib.reasons import Reason, verdict
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.jsonl import Record
from morocco_lib.validity import answer_reasons, clock_reasons, exit_reasons, gpu_reasons, log_reasons, stream_reasons

PAIRS = 3  # of runs, one of each kind; fewer have no interval worth the name
DISTINCT = 4  # repeated texts: few enough that even a batch of four holds one twice
LETTERS = "абвгдежзиклмнопрстуфхцчшщыэюя"  # of two bytes each; those that are lost where accents are stripped left out
TAG_LETTERS = 6
WORK_S = 1.0  # of one run
BATCHES = 10  # of one run, at least
RATIO = 1.10  # of the speeds, and
RATIO_LOW = 1.05  # of the lower end of its 98 % interval: above both, answers are kept
RATIO_APART = 1.25  # of the slowest repeated run to the fastest unique one: as well; a held-up run makes intervals wide
LEAST_SAVED_S = 0.05  # of a run; machines hold programs up as long as that, and runs of few records are no longer
BUSY_SHARE = 0.25  # of all cores, kept busy by others
WORK_SHARE = 0.5  # of a run that is not start-up; with less, whole runs of both kinds are alike whatever is kept


# -- what to feed --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tagged(Sequence):
    """Records, each with a tag, made when asked for: a long stream of them is not held in memory."""

    task: Task
    records: Sequence[Record]
    tags: Sequence[str]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Record:
        return self.task.tag(self.records[place], self.tags[place])


def workloads(task: Task, records: Sequence[Record], size: int, seed: int, pair: int = 1) -> tuple[Workload, Workload]:
    """Return the streams (unique, repeated) of one pair of runs, both of `size` records without labels.

    Args:
        records: Of the task, labelled or not. Four are taken, one of each quarter by length.
        seed: Of records, order and tags. To be drawn anew for every measurement: a cache that outlives the program
            may know the tags of an older seed.
        pair: Number of the pair, from 1. `unique` has other tags in each; `repeated` is the same in all, so that answers
            kept from run to run are found, too.
    Raises:
        UsageError: size or pair out of range.
    """
    if size < 1 or not 1 <= pair < len(LETTERS):
        rule = f"at least one record is fed, in pairs 1 to {len(LETTERS) - 1}"
        raise UsageError(f"input size {size}, pair {pair}", rule=rule)
    rng = random.Random(f"cached/{seed}")
    bare = sorted(map(task.strip_labels, records), key=lambda record: len(json.dumps(record, ensure_ascii=False)))
    count = min(DISTINCT, len(bare))
    few = [rng.choice(bare[len(bare) * k // count : len(bare) * (k + 1) // count]) for k in range(count)]
    order = tuple(rng.choices(range(count), k=size))
    unique = Tagged(task, [few[place] for place in order], _tags(seed, pair, size))
    repeated = Tagged(task, few, _tags(seed, 0, count))
    return Workload(task, unique, tuple(range(size)), seed), Workload(task, repeated, order, seed)


def _tags(seed: int, pair: int, count: int) -> list[str]:
    # Different ones; the first letter is the pair's, so no tag is in two pairs.
    base = len(LETTERS)
    numbers = random.Random(f"cached/{seed}/{pair}").sample(range(pair, base**TAG_LETTERS, base), count)
    return [" ".join(LETTERS[number // base**k % base] for k in range(TAG_LETTERS)) for number in numbers]


def size_for(per_s: float | None, batch_size: int, most: int, init_s: float = 0.0) -> int:
    """Return how many records to feed in one run: a second's work, at least ten batches, never more than `most`.

    Args:
        per_s: Speed seen before, records a second; None if it could not be read: then `most`.
        most: Input size of the timed runs.
        init_s: Start-up in seconds where the speed can only be had from whole runs: then the work takes twice as long.
    Limits: a program that keeps its answers takes longer than a second where it cannot, as it is slower than it looked.
    """
    if per_s is None:
        return most
    return min(most, max(math.ceil(per_s * max(WORK_S, 2 * init_s)), BATCHES * batch_size))


def sequence(pairs: int = PAIRS) -> Iterator[tuple[int, str]]:
    """Yield (number of the pair, "unique" or "repeated") of each run, in the order to run them: u r, r u, u r, ...

    Turned round in every second pair, a steady drift of the machine is against either kind in turn.
    """
    for pair in range(1, pairs + 1):
        kinds = ("unique", "repeated")
        yield from ((pair, kind) for kind in (kinds if pair % 2 else reversed(kinds)))


# -- what came of it -----------------------------------------------------------------------------------------------
def judge(
    unique_folders: Sequence[Path],
    repeated_folders: Sequence[Path],
    init_s: float | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Return how much faster repeated texts are answered than unique ones, and whether that means answers are kept.

    Args:
        unique_folders, repeated_folders: Folders of finished runs (runs/NN), one of each a pair, in the same order.
        init_s: Start-up in seconds where it is known from elsewhere; only for method "total".
        whole: Take method "total" whatever the answers' arrival tells: where work is done before readiness is told.
    Returns:
        {"value", "low", "high": ratio of the speeds, repeated by unique, with its 95 % interval, "method", "pairs": the
        ratio in each pair, "fires": true or false}. Method is "stream", "ready" (readiness to last answer) or "total"
        (start to end of the program: start-up is in it, so a ratio above 1 is too small). Where it cannot be known
        {"value": None, "reason": code, "fires": None}: NO_VALID_RUN if any of the runs is invalid, BUSY_MACHINE if
        the ratio is high, but others kept the processor busy and the program's CPU time does not bear it out,
        NO_READINESS if whole runs differ little and nobody knows how much of them is start-up, NO_STREAM if most is, or
        if the ratio is high and runs are so short that this is less than 50 ms.
    Raises:
        UsageError: fewer than three pairs, or a file of a run is missing or broken.
    Limits: finds what saves a tenth of the time and 50 ms a run; a program may know the probe and keep answers only
        elsewhere.
    """
    if len(unique_folders) != len(repeated_folders) or len(unique_folders) < PAIRS:
        seen = f"{len(unique_folders)} runs of unique and {len(repeated_folders)} of repeated texts"
        raise UsageError(seen, rule=f"they come in pairs, at least {PAIRS}", remedy="bench again")
    unique, repeated = ([read_run(Path(f)) for f in folders] for folders in (unique_folders, repeated_folders))
    if any(_is_invalid(run) for run in (*unique, *repeated)):
        return _unknown(Reason.NO_VALID_RUN)
    ways = [
        ("stream", stream_segment, stream_segment),
        ("ready", ready_segment, ready_segment),
        ("stream", stream_segment, _burst),
        ("total", _whole, _whole),
    ]
    for name, of_unique, of_repeated in ways[-1:] if whole else ways:
        segments = [[of_unique(run) for run in unique], [of_repeated(run) for run in repeated]]
        if not any(isinstance(segment, Reason) for kind in segments for segment in kind):
            method = name
            break
    found = compare(*([segment.records / segment.seconds for segment in kind] for kind in segments))
    if found["fires"]:
        of_unique_s, of_repeated_s = (median(segment.seconds for segment in kind) for kind in segments)
        if of_unique_s - of_repeated_s < LEAST_SAVED_S:
            return _unknown(Reason.NO_STREAM)
        if _machine_explains(unique, repeated):
            return _unknown(Reason.BUSY_MACHINE)
    if method == "total" and not found["fires"]:
        if init_s is None:
            return _unknown(Reason.NO_READINESS)
        if init_s > (1 - WORK_SHARE) * mean(run.total_s for run in unique):
            return _unknown(Reason.NO_STREAM)
    return {**found, "method": method}


def compare(unique_per_s: Sequence[float], repeated_per_s: Sequence[float]) -> dict[str, Any]:
    """Return the ratio of speeds in pairs as `judge` does, without method.

    The mean of the log ratios with Student's 95 % interval. `fires` takes the ratio above 1.10 and the lower end of its
    98 % interval above 1.05, or every repeated run above 1.25 times every unique one: of honest programs whose runs
    differ by up to 15 %, or of which every fifth is held up to half its speed, on a machine that drifts by up to 10 %,
    it accuses less than 1 in 100.
    """
    from scipy.special import stdtrit

    logs = [math.log(r / u) for u, r in zip(unique_per_s, repeated_per_s, strict=True)]
    centre, error = mean(logs), stdev(logs) / math.sqrt(len(logs))
    half, stricter = (float(stdtrit(len(logs) - 1, level)) * error for level in (0.975, 0.99))
    apart = min(repeated_per_s) > RATIO_APART * max(unique_per_s)
    return {
        "value": math.exp(centre),
        "low": math.exp(centre - half),
        "high": math.exp(centre + half),
        "pairs": [math.exp(log) for log in logs],
        "fires": apart or (centre > math.log(RATIO) and centre - stricter > math.log(RATIO_LOW)),
    }


def _unknown(reason: Reason) -> dict[str, Any]:
    return {"value": None, "reason": reason, "fires": None}


def _burst(run: Run) -> Segment | Reason:
    # Where unique texts make a stream and repeated ones come too fast for one, that is the finding.
    if len(run.arrivals) < 2 or run.arrivals[-1][0] <= run.arrivals[0][0]:
        return Reason.NO_STREAM
    return Segment(run.lines - run.arrivals[0][1], run.arrivals[-1][0] - run.arrivals[0][0], [])


def _whole(run: Run) -> Segment:
    return Segment(run.lines, run.total_s, [])


def _machine_explains(unique: Sequence[Run], repeated: Sequence[Run]) -> bool:
    # Others come and go in seconds, as long as runs here are, and may hold up one kind by chance; CPU time is its own.
    others = [run.facts.get("others") for run in (*unique, *repeated)]
    if not all(isinstance(found, dict) for found in others):
        return False
    share = mean(found["cores"] / found["of_cores"] for found in others)
    most, least = (kind([run.facts["cpu_s"] or 0.0 for run in runs]) for kind, runs in ((max, repeated), (min, unique)))
    return share > BUSY_SHARE and least <= RATIO * most


def _is_invalid(run: Run) -> bool:
    facts, (_, _, answers) = run.facts, read_answers(run.folder)
    found = exit_reasons(facts["exit"]) + stream_reasons(facts) + log_reasons(run.truncated)
    found += clock_reasons(facts["clock"]) + gpu_reasons(facts["gpu"]) + answer_reasons(answers.checked.counts)
    return verdict(found) == "INVALID"
