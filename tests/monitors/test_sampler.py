"""The sampler: what it writes, what it reports of itself, and what counts as a gap."""

import io
import json
import time
from types import SimpleNamespace

import pytest
from helpers import wait_until

from morocco_lib.monitors.cgroup import Memory
from morocco_lib.monitors.periodic import PERIOD_S, steadiness
from morocco_lib.monitors.sampler import Sampler


class Scripted:
    """A reader of 1, 2, 3, ... bytes; `naps` are seconds that it sleeps before an answer, `empty` answers of nothing."""

    source = "scripted"

    def __init__(self, naps=None, empty=()):
        self.naps, self.empty, self.count, self.closed = naps or {}, empty, 0, False

    def read(self, whole=True):
        self.count += 1
        time.sleep(self.naps.get(self.count, 0))
        return None if self.count in self.empty else (Memory(self.count, 2, 3, 4, 5, 6, 7), self.count / 100)

    def high_water_bytes(self):
        return 7

    def close(self):
        self.closed = True


def sample_for(seconds: float, reader, during=lambda sampler: None, period_s=PERIOD_S):
    """Return (report, samples) of sampling for a while."""
    out, origin_ns = io.StringIO(), time.monotonic_ns()
    sampler = Sampler(reader, out, origin_ns, period_s)
    sampler.start()
    during(sampler)
    time.sleep(max(0, origin_ns / 1e9 + seconds - time.monotonic()))
    return sampler.stop(), [json.loads(line) for line in out.getvalue().splitlines()]


def test_samples_come_at_20_hz_or_faster_and_marks_at_once():
    reader = Scripted()
    report, samples = sample_for(0.4, reader, lambda sampler: time.sleep(0.1) or sampler.mark("ready"))
    (marked,) = (sample for sample in samples if "mark" in sample)
    assert 0.1e9 <= marked.pop("t_ns") < 0.3e9
    number = marked["anon_bytes"]
    memory = Memory(number, 2, 3, 4, 5, 6, 7)._asdict()
    assert marked == memory | {"cpu_s": number / 100, "mark": "ready"}
    assert report["samples"] == len(samples) - 1
    assert report["period_median_s"] < 0.05 and report["cpu_s"] > 0
    assert (report["source"], report["high_water_bytes"], reader.closed) == ("scripted", 7, True)


def test_nothing_to_read_for_a_while_is_no_end():
    reader = Scripted(empty=range(3, 8))
    report, samples = sample_for(0, reader, lambda sampler: wait_until(lambda: reader.count > 8))
    assert [sample["anon_bytes"] for sample in samples][:3] == [1, 2, 8] and report["samples"] == len(samples)
    report, samples = sample_for(0.05, Scripted(empty=range(100)))
    assert samples == [] and report["samples"] == 0
    assert report["period_median_s"] is report["period_p95_s"] is report["longest_gap_s"] is None


def test_a_starved_sampler_reports_its_gap_also_where_the_run_ends_in_it():
    report, _ = sample_for(1.2, Scripted({5: 0.8}))
    assert report["longest_gap_s"] == pytest.approx(0.8, abs=0.3) and report["gaps_s"] >= 0.8
    report, _ = sample_for(1, Scripted({5: 2}))
    assert report["longest_gap_s"] == pytest.approx(0.92, abs=0.3) and report["watched_s"] < 1.5


S = 10**9


@pytest.mark.parametrize(
    ("times", "others", "longest", "gaps", "watched"),
    [
        ([1, 2, 3], [], 1, 0, 2),  # evenly, within the limit
        ([1, 2, 9], [], 7, 7, 8),
        ([1, 2, 9, 15], [], 7, 13, 14),
        ([7, 8], [0, 20], 12, 19, 20),  # before the first and after the last
        ([1, 2, 9], [4, 6], 3, 0, 8),  # nothing to read in between
        ([], [0, 50], None, None, None),
    ],
)
def test_gaps_are_times_without_samples(times, others, longest, gaps, watched):
    times_ns = [int(t * S) for t in times]
    found = steadiness(times_ns, 1.0, [*times_ns, *(int(t * S) for t in others)])
    assert (found["longest_gap_s"], found["gaps_s"], found["watched_s"]) == (longest, gaps, watched)
    assert found["gap_limit_s"] == 5.0 and steadiness(times_ns, 0.01, times_ns)["gap_limit_s"] == 0.1


def test_periods_are_told_by_median_and_95th_percentile():
    found = steadiness([0, S, 2 * S, 4 * S], 1.0, [])
    assert (found["samples"], found["period_median_s"], found["period_p95_s"]) == (4, 1.0, 2.0)


def test_costly_readings_are_made_less_often_and_at_every_mark():
    class Noting(Scripted):
        def read(self, whole=True):
            wholes.append(whole)
            return super().read(whole)

    wholes = []
    sampler = Sampler(Noting(), io.StringIO(), 0)
    sampler.sample(), sampler.sample(), sampler.mark("ready"), sampler.sample()
    assert wholes == [True, False, True, False]


def test_new_processes_are_looked_for_at_intervals_at_marks_and_at_the_end():
    calls = []
    update = lambda t_ns, find=True: calls.append(find)  # noqa: E731
    processes = SimpleNamespace(update=update, close=lambda: calls.append("closed"))
    sampler = Sampler(Scripted(), io.StringIO(), 0, processes=processes)
    sampler.sample()
    sampler._find_after_ns = sampler._whole_after_ns = 2**62
    sampler.sample(), sampler.mark("ready")
    sampler._find_after_ns = 0
    sampler.sample()
    assert calls == [True, False, True, True]
    sampler.start(), sampler.stop()
    assert calls[-2:] == [True, "closed"]
