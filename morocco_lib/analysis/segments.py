"""Runs -> segments of steady work, from when answers arrived and when runs of two sizes ended.

Three methods, tried in this order by `throughput.read`:
stream   from the first arrival on, less a warm-up if there is one, to the last
ready    from readiness to the last answer, where answers came too late or too close together for a stream
paired   the time a longer run took more than a short one, from start to end of the program
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import sqrt
from statistics import fmean, median, stdev

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
COLD_COST = 0.5  # of a start-up, where no short run was cold: half of the original's cold starts cost more
DETECTABLE = 2.5  # standard deviations that a cold start must cost to be recognised in longer runs


@dataclass(frozen=True)
class Segment:
    """A part of one run: `records` answered in `seconds`, its own parts, and the warm-up left out before it."""

    records: int
    seconds: float
    parts: list[tuple[int, float]]
    warm_up_s: float = 0.0


def stream_segment(run: Run) -> Segment | Reason:
    """Return the run's stream of answers from the first arrival on, or why there is none."""
    arrivals, ready_s = run.arrivals, run.ready_s
    if len(arrivals) < MIN_ARRIVALS:
        return Reason.ANSWERS_HELD_BACK if _held_back(run) else Reason.NO_STREAM
    (first_s, first_lines), last_s = arrivals[0], arrivals[-1][0]
    seconds, records = last_s - first_s, run.lines - first_lines
    if ready_s is None and (seconds < MIN_STREAM_S or seconds < MIN_STREAM_SHARE * run.facts["phases"]["exit_s"]):
        return Reason.NO_STREAM
    if seconds <= 0 or records <= 0:
        return Reason.NO_STREAM
    if ready_s is not None:
        unexplained_s = (first_s - ready_s) - first_lines * seconds / records
        if unexplained_s > 0.5 * seconds:
            return Reason.ANSWERS_HELD_BACK
    if len(arrivals) > MIN_ARRIVALS and arrivals[-1][1] < median(n for _, n in arrivals[1:-1]):
        # A rest flushed at the end. Answers computed but not printed at the first arrival came later: those not printed
        # at the last but one make up for them.
        arrivals, last_s = arrivals[:-1], arrivals[-2][0]
    begin = warm_up(arrivals, run.answered_bytes)
    steady = arrivals[begin:]
    return Segment(
        sum(n for _, n in steady[1:]),
        last_s - steady[0][0],
        _parts(steady),
        steady[0][0] - first_s,
    )


def _held_back(run: Run) -> bool:
    # There were batches enough for a stream, and yet half of the time from readiness on passed before anything came.
    if run.ready_s is None or run.lines < MIN_ARRIVALS * run.facts["batch_size"]:
        return False
    return run.arrivals[0][0] - run.ready_s > 0.5 * (run.arrivals[-1][0] - run.ready_s)


def ready_segment(run: Run) -> Segment | Reason:
    """Return the time from readiness to the last answer."""
    if run.ready_s is None or not run.arrivals:
        return Reason.NO_READINESS
    seconds = run.arrivals[-1][0] - run.ready_s
    return Segment(run.lines, seconds, []) if seconds > 0 else Reason.NO_STREAM


def paired_segments(runs: Sequence[Run], short: Sequence[Run]) -> list[Segment | None]:
    """Return the time that each run took longer than the short one of its pair; None for pairs with a cold start.

    Limits: start-ups are taken as equal within a pair but for chance; what differs counts as work.
    """
    warm = warm_pairs([s.total_s for s in short], [run.total_s for run in runs])
    return [
        Segment(run.lines - short[k].lines, run.total_s - short[k].total_s, []) if k in warm else None
        for k, run in enumerate(runs)
    ]


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


# -- paired sizes --------------------------------------------------------------------------------------------------
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


def warm_pairs(short_s: Sequence[float], long_s: Sequence[float]) -> list[int]:
    """Return the places at which both runs of a pair started warm.

    Short runs show what a cold start costs, else COLD_COST applies; a longer run that takes more than half of it over the
    usual one had one. Where longer runs vary too much for that, all pairs count: cold starts then fall on both sizes alike.

    Args:
        short_s, long_s: From start to end of the program, of pairs of runs.
    Limits: a run that was slow for another reason may be taken for a cold one; where most are cold, none is recognised.
    """
    if not short_s or not long_s:
        return []
    paired = range(min(len(short_s), len(long_s)))
    ordered, fast = sorted(short_s), two_kinds(short_s) or len(short_s)
    usual_s, slow = fmean(ordered[:fast]), ordered[fast:]
    cost_s = fmean(slow) - usual_s if slow else COLD_COST * usual_s
    warm, others = (_grown(long_s, begin, cost_s / 2) for begin in (min(long_s), median(long_s)))
    if warm != others and min(t for t in long_s if t not in warm) - max(warm) < cost_s / 4:
        warm = others  # no gap: the fastest are only the fast end of all
    chance = len(warm) > 2 and stdev(warm) * DETECTABLE > cost_s
    if chance or max(long_s) - fmean(warm) > 3 * cost_s:  # more than a cold start costs
        return list(paired)
    return [k for k in paired if short_s[k] <= ordered[fast - 1] and long_s[k] in warm]


def _grown(totals_s: Sequence[float], begin_s: float, within_s: float) -> list[float]:
    """Return the times that are at most `within_s` above their own mean, starting from one."""
    usual_s = begin_s
    for _ in range(20):
        usual_s = fmean(total for total in totals_s if total <= usual_s + within_s)
    return [total for total in totals_s if total <= usual_s + within_s]
