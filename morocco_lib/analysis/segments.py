"""Runs -> segments of steady work, from when they were fed and when answers arrived.

stream   from the first arrival, or the end of a warm-up, to the last
ready    from readiness or the first byte fed, whichever is later, to the last answer
paired   what the time from the first byte fed to the last answer is longer in a run than in one of fewer records
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import sqrt
from statistics import median

from morocco_lib.analysis.run_files import Run
from morocco_lib.reasons import Reason

Arrivals = Sequence[tuple[float, int]]  # (seconds since the start of the program, lines that ended in it)

MIN_ARRIVALS = 5  # fewer give no rate
MIN_STREAM_S = 0.02  # what comes within less is a buffer being emptied
MIN_STREAM_SHARE = 0.01  # of the program's life; guards against answers printed all at the end
PARTS = 10

WARM_UP_EXCESS = 1.2  # times as slow as what follows, a record and a byte: autotuning, clocks rising, caches filling
WARM_UP_SHARE = 1 / 3  # of the records; what is slow for longer is no warm-up
WARM_UP_Z = 5.0  # standard errors between the two rates; high, as the largest of many is taken
TWO_KINDS_SHARE, TWO_KINDS_GAP_S = 0.25, 0.1  # of the slowest of the faster group; below, start-ups differ by chance


@dataclass(frozen=True)
class Segment:
    """A part of one run: `records` answered in `seconds`, its own parts, and the warm-up left out before it."""

    records: int
    seconds: float
    parts: list[tuple[int, float]]
    warm_up_s: float = 0.0


def stream_segment(run: Run, warm_up_left_out: bool = True) -> Segment | Reason:
    """Return the run's stream of answers from the first arrival on, or why there is none."""
    arrivals = run.arrivals
    if len(arrivals) < MIN_ARRIVALS:
        return Reason.NO_STREAM
    (first_s, first_lines), last_s = arrivals[0], arrivals[-1][0]
    seconds, records = last_s - first_s, run.lines - first_lines
    if run.ready_s is None and (seconds < MIN_STREAM_S or seconds < MIN_STREAM_SHARE * run.facts["phases"]["exit_s"]):
        return Reason.NO_STREAM
    if seconds <= 0 or records <= 0:
        return Reason.NO_STREAM
    if len(arrivals) > MIN_ARRIVALS and arrivals[-1][1] < median(n for _, n in arrivals[1:-1]):
        # A rest flushed at the end. Answers computed but not printed at the first arrival came later: those not printed
        # at the last but one make up for them.
        arrivals, last_s = arrivals[:-1], arrivals[-2][0]
    begin = warm_up(arrivals, run.answered_bytes) if warm_up_left_out else 0
    steady = arrivals[begin:]
    return Segment(
        sum(n for _, n in steady[1:]),
        last_s - steady[0][0],
        _parts(steady),
        steady[0][0] - first_s,
    )


def held_back(run: Run) -> bool:
    """Tell whether half of the time from readiness on, or from the first byte fed if that is later, passed without an answer.

    Where there were batches enough for a stream, and the program said when it was ready.
    """
    if run.ready_s is None or not run.arrivals or run.lines < MIN_ARRIVALS * run.facts["batch_size"]:
        return False
    (first_s, first_lines), last_s = run.arrivals[0], run.arrivals[-1][0]
    began_s = max(run.ready_s, run.fed_s or 0.0)
    share = first_lines * (last_s - first_s) / max(1, run.lines - first_lines)
    return (first_s - began_s) - share > 0.5 * (last_s - first_s)


def ready_segment(run: Run) -> Segment | Reason:
    """Return the time from readiness, or from the first byte fed if that is later, to the last answer."""
    if run.ready_s is None or not run.arrivals:
        return Reason.NO_READINESS
    seconds = run.arrivals[-1][0] - max(run.ready_s, run.fed_s or 0.0)
    return Segment(run.lines, seconds, []) if seconds > 0 else Reason.NO_STREAM


def fed_segment(run: Run) -> Segment | Reason:
    """Return the time from the first byte fed to the last answer: it holds all work, and what of the start-up came after."""
    if run.fed_s is None or not run.arrivals or run.arrivals[-1][0] <= run.fed_s:
        return Reason.NO_STREAM
    return Segment(run.lines, run.arrivals[-1][0] - run.fed_s, [])


def paired_segments(runs: Sequence[Run], smaller: Sequence[Run]) -> list[Segment | None]:
    """Return the time that each run took longer, from the first byte fed, than the smaller one of its pair.

    None for a run without one. Start-up, first use and what else does not grow by the records is in neither.
    """
    pairs = [tuple(map(fed_segment, pair)) for pair in zip(runs, smaller, strict=False)]
    found = [
        None
        if Reason in map(type, pair)
        else Segment(pair[0].records - pair[1].records, pair[0].seconds - pair[1].seconds, [])
        for pair in pairs
    ]
    return found + [None] * (len(runs) - len(found))


def _parts(arrivals: Arrivals) -> list[tuple[int, float]]:
    # Cut at arrivals, as equal in records as these allow.
    total = sum(n for _, n in arrivals[1:])
    parts, records, begin = [], 0, arrivals[0][0]
    done = 0
    for t_s, n in arrivals[1:]:
        records, done = records + n, done + n
        if done >= total * (len(parts) + 1) / PARTS and t_s > begin:
            parts.append((records, t_s - begin))
            records, begin = 0, t_s
    return parts


# -- warm-up -------------------------------------------------------------------------------------------------------
def warm_up(arrivals: Arrivals, sizes: Callable[[], Sequence[int] | None]) -> int:
    """Return the place of the arrival that ends the warm-up, 0 if there is none.

    It is the most significant change of rate, if what lies before it is slower by WARM_UP_EXCESS both a record and a
    byte, and short.

    Args:
        sizes: Gives the bytes of the record that each line answers, in the order of the lines; called only if rates
            show a warm-up, which long texts answered first would look like.
    Limits: never more than WARM_UP_SHARE is left out, nor what is slower by less than WARM_UP_EXCESS.
    """
    seconds = [b[0] - a[0] for a, b in pairwise(arrivals)]
    place = _change(seconds, [n for _, n in arrivals[1:]])
    if not place or (each := sizes()) is None:
        return place
    ends = list(accumulate(n for _, n in arrivals))
    work = [sum(each[a:b]) for a, b in pairwise(ends)]
    return place if min(work) > 0 and _slower(seconds, work, place) else 0


def _slower(seconds: Sequence[float], work: Sequence[float], place: int) -> bool:
    before, after = (sum(seconds[s]) / sum(work[s]) for s in (slice(place), slice(place, None)))
    return before > WARM_UP_EXCESS * after


def _change(seconds: Sequence[float], work: Sequence[int]) -> int:
    total_s, total = sum(seconds), sum(work)
    half = next(k for k, done in enumerate(accumulate(work), start=1) if done >= total / 2)
    tail_s, tail, count = sum(seconds[half:]), sum(work[half:]), len(work) - half
    if count < MIN_ARRIVALS:
        return 0
    rate = tail_s / tail  # of the later half, as is the noise: no warm-up reaches there
    noise = sum((s - rate * w) ** 2 / w for s, w in zip(seconds[half:], work[half:], strict=True)) / (count - 1)
    best, place, done_s, done = WARM_UP_Z, 0, 0.0, 0
    for k, (s, w) in enumerate(zip(seconds, work, strict=True), start=1):
        done_s, done = done_s + s, done + w
        if done > WARM_UP_SHARE * total:
            break
        before, after = done_s / done, (total_s - done_s) / (total - done)
        if before > WARM_UP_EXCESS * after:
            z = (before - after) / sqrt(max(noise, 1e-18) * (1 / done + 1 / (total - done)))
            if z > best:
                best, place = z, k
    return place


# -- start-ups ------------------------------------------------------------------------------------------------------
def two_kinds(seconds: Sequence[float]) -> int:
    """Return how many of the times, sorted, are in the faster of two groups; 0 if there are no two groups.

    There are where one gap is larger by a fifth than either group's range, and than what start-ups differ by.
    """
    ordered = sorted(seconds)
    gap, place = max(((b - a, k) for k, (a, b) in enumerate(pairwise(ordered), start=1)), default=(0.0, 0))
    if not place:
        return 0
    within = max(ordered[place - 1] - ordered[0], ordered[-1] - ordered[place])
    least = max(TWO_KINDS_GAP_S, TWO_KINDS_SHARE * ordered[place - 1])
    return place if gap > max(least, 1.2 * within) else 0
