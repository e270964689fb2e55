"""What is run in which order, and when it stops: with simulated runs, and three programs for real."""

import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import write_records
from run_folders import QUIET, RECORDS, TERRA, at_once, steady, write_run
from servers import server

from morocco_lib.analysis import summary
from morocco_lib.analysis.run_files import read_run
from morocco_lib.benchmark import contract_run, extent, protocol
from morocco_lib.benchmark.target import Hooks, Program, Target
from morocco_lib.benchmark.withholding import Withholding
from morocco_lib.data import workload
from morocco_lib.errors import UsageError
from morocco_lib.runners.process import ProcessRunner

PER_S, START_S = 400.0, 0.5  # of the simulated program: speed and start-up


# -- simulated programs --------------------------------------------------------------------------------------------
def program(
    size, batch, number, withheld, *, per_s=PER_S, start_s=START_S, ready=True, prints="batches", lazy_s=0.0, **facts
):
    """Return a run of a program that loads without using the CPU for `start_s`, and for `lazy_s` when it is first fed."""
    begin_s = start_s if ready else 0.0  # of the time in which it looks as if it waited
    fed_s = max(begin_s, withheld.least_s) + 0.1 if withheld else 0.001
    work_s = max(start_s, fed_s) + lazy_s
    arrivals = steady(size, batch, per_s, work_s) if prints == "batches" else at_once(size, work_s + size / per_s)
    return {"arrivals": arrivals, "ready_s": start_s if ready else None, "fed_s": fed_s, "quiet_s": begin_s, **facts}


def streams(*of, **options):
    return program(*of, **options)


def holds_back(*of, **options):
    """Print all answers at the end, without a ready line: only runs of other sizes give a speed."""
    return program(*of, ready=False, prints="at the end", **options)


class Simulated:
    """A bench of which every run is written from a program's behaviour: (size, batch size, number of the run, withheld) -> run.

    Behaviours are by purpose ("short", "bench", ...), or one for all. `order` holds the purposes of the runs made,
    `turns` those of each turn, `spent_s` what each took by the only clock.
    """

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.order, self.spent_s, self.messages = folder, [], [], []
        self.now_s, self.behaviours, self.expected, self.turns, self.depth, self.sizes = 0.0, {}, [], [], 0, []
        self.loads = iter(())  # of the machine, at each look
        self.fed = {}  # purpose -> the streams that were fed
        self.checked = SimpleNamespace(ok=True, rules=lambda state: [])
        self.program, self.drop_caches = Program(["m"], "m"), lambda: None
        clock = SimpleNamespace(monotonic=lambda: self.now_s, sleep=lambda seconds: None)
        load = SimpleNamespace(look=self.look)
        check = SimpleNamespace(check=lambda *args: self.checked, FAIL="fail", WARN="warn")
        patches = {"time": clock, "system_load": load, "conformance": check, "RunSeries": self.series}
        for name, stand_in in {**patches, "drop_caches": lambda: self.drop_caches()}.items():
            monkeypatch.setattr(protocol, name, stand_in)

    def look(self, seconds):
        load = next(self.loads, QUIET)
        self.now_s += seconds * (load is not QUIET)
        return load

    @contextmanager
    def series(self, target, load, source, folder, *, batch_size, withheld, hooks):
        def run(folder, purpose):
            self.fed.setdefault(purpose, []).append(load)
            with hooks.turn():
                return self.run(folder, purpose, len(load), batch_size, withheld)

        yield SimpleNamespace(run=run)

    def run(self, folder, purpose, size, batch_size, withheld):
        self.order.append(purpose)
        self.turns[-1].append(purpose)
        behaviour = self.behaviours.get(purpose, self.behaviours["all"])
        facts = behaviour(size, batch_size, self.order.count(purpose), withheld)
        run = write_run(folder, records_fed=size, batch_size=batch_size, **facts)
        self.sizes.append(size)
        self.spent_s.append(read_run(run).total_s)
        self.now_s += self.spent_s[-1]
        return run

    @contextmanager
    def turn(self):
        self.turns += [[]] * (not self.depth)
        self.depth += 1
        yield
        self.depth -= 1

    def bench(self, behaviour=streams, settings=None, **by_purpose):
        self.behaviours = {"all": behaviour, **by_purpose}
        source = self.folder / "val.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
        (self.folder / "out").mkdir()
        hooks = Hooks(self.messages.append, expect=self.expected.append, turn=self.turn)
        settings = {"batch_size": 8, "input_size": 800, "repeats": 3, **(settings or {})}
        target = Target(self.program, ProcessRunner())
        return protocol.bench(target, TERRA, source, self.folder / "out", hooks=hooks, **settings)

    def count(self, purpose):
        return self.order.count(purpose)


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    return Simulated(tmp_path, monkeypatch)


FIXED = ["short", "cold", "cold", "cold", "withheld", "pilot", "pilot"]
PROBE = ["unique", "repeated", "repeated", "unique", "unique", "repeated"]


def test_every_stage_is_run_in_its_order_and_kept(simulated):
    result = simulated.bench()
    assert simulated.order == [*FIXED, "bench", "bench", "bench", *PROBE]
    assert simulated.turns[-3:] == [PROBE[:2], PROBE[2:4], PROBE[4:]]  # both of a pair in one turn
    assert (result["verdict"], result["reasons"], result["repeats"]) == ("VALID", [], 3)
    assert result["protocol"]["stopped_by"] == "repeats" and result["protocol"]["conformance"]["ok"]
    assert result["protocol"]["took_s"] == pytest.approx(sum(simulated.spent_s))
    assert result["protocol"]["idle"] == QUIET and result["kept_answers"]["fires"] is False
    assert result["cold_init_s"]["value"] == pytest.approx(START_S) and result["init_s"]["value"] == START_S
    out = simulated.folder / "out"
    assert json.loads((out / "bench.json").read_text()) == json.loads(json.dumps(result)) == summary.derive(out)


def test_what_is_asked_is_recorded_with_the_names_of_files(simulated):
    asked = simulated.bench(settings={"single_record": True, "precision": 0.1})["protocol"]["asked"]
    assert asked["ones"] is True and asked["precision"] == 0.1 and "baseline" not in asked


def test_progress_reports_the_contract_the_prediction_and_each_run(simulated):
    simulated.bench()
    contract, prediction, *runs = simulated.messages
    assert contract == "contract: kept" and prediction.startswith("3 runs of 800 records and 6 short ones")
    assert runs == [f"run {k} of 3: 800 answers, 2.65 s" for k in (1, 2, 3)]
    assert simulated.expected == [2400] * 3


def test_after_ten_runs_each_tenth_is_reported(simulated, monkeypatch):
    monkeypatch.setattr(protocol, "derive", lambda folder: {})
    simulated.bench(settings={"input_size": 8, "repeats": 21, "quick": True})
    assert [message.split()[1] for message in simulated.messages] == [*map(str, range(1, 11)), "20"]


def test_the_prediction_is_what_timed_runs_and_probe_take(simulated):
    result = simulated.bench(settings={"repeats": 4})
    spent_s = sum(s for s, purpose in zip(simulated.spent_s, simulated.order, strict=True) if purpose not in FIXED)
    assert result["protocol"]["predicted_s"] == pytest.approx(spent_s, rel=0.02)


def test_what_is_fed_is_drawn_anew_for_each_run(simulated):
    simulated.bench(holds_back, {"single_record": True})
    loads = [load for of_purpose in simulated.fed.values() for load in of_purpose]
    assert len({load.seed for load in loads}) == len(loads) == len(simulated.order)
    made = [{line.split(b'"idx"')[0] for k, line in enumerate(load.lines()) if not load.is_true(k)} for load in loads]
    assert len(set().union(*made)) > 0.95 * sum(map(len, made)) > 0  # chance alone makes some twice, of 22 words
    assert {len(load.describe()["gold"]) for load in loads} == {20}


def test_the_same_seed_gives_the_same_streams_and_without_one_nobody_knows_them(simulated, monkeypatch):
    for name in ("first", "again", "other"):
        (simulated.folder / name).mkdir()
        one = Simulated(simulated.folder / name, monkeypatch)
        one.bench(settings={"quick": True, "seed": None if name == "other" else 7})
        simulated.fed[name] = [load.seed for load in one.fed["bench"]]
    assert simulated.fed["first"] == simulated.fed["again"] != simulated.fed["other"]


def test_runs_that_look_for_a_cache_are_of_new_records_or_of_the_file(simulated):
    simulated.bench()
    for purpose, true in (("unique", 0), ("repeated", 20)):
        assert [load.describe()["distinct"] for load in simulated.fed[purpose]] == [true] * 3
        assert {len(load) for load in simulated.fed[purpose]} <= {200, 201}  # half a second's work


def test_of_a_task_that_cannot_recombine_no_cache_is_looked_for(simulated, monkeypatch):
    cannot = SimpleNamespace(build=workload.build, opening_words=lambda task, records: [])
    monkeypatch.setattr(protocol, "workload", cannot)
    result = simulated.bench()
    assert "unique" not in simulated.order and result["kept_answers"]["reason"] == "TEXTS_REPEAT"


@pytest.mark.parametrize("settings", [{"repeats": 1}, {"repeats": 2, "quick": True}])
def test_quick_makes_timed_runs_only(simulated, settings):
    result = simulated.bench(settings=settings)
    assert simulated.order == ["bench"] * settings["repeats"]
    assert result["cold_init_s"]["reason"] == result["kept_answers"]["reason"] == "NOT_ASKED"
    assert result["speed_per_s"]["value"] == pytest.approx(PER_S)
    assert result["reasons"] == (["QUICK"] if settings.get("quick") else ["SINGLE_RUN"])


# -- the input size ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("per_s", "batch_size", "size"),
    [
        (PER_S, 8, 4000),  # ten seconds
        (3.0, 8, 80),  # ten batches
        (401.0, 32, 4000),  # whole batches
    ],
)
def test_the_input_size_is_calibrated_to_ten_seconds_and_ten_batches_at_least(simulated, per_s, batch_size, size):
    settings = {"input_size": None, "batch_size": batch_size, "quick": True}
    result = simulated.bench(lambda *of: streams(*of, per_s=per_s), settings)
    assert simulated.expected[0] == 3 * size
    assert simulated.messages[0].startswith(f"3 runs of {size} records: about ")
    assert result["protocol"]["predicted_s"] == pytest.approx(3 * (START_S + size / per_s), rel=0.02)


def test_pilots_grow_until_a_speed_can_be_believed(simulated, monkeypatch):
    monkeypatch.setattr(extent, "TIMED_WORK_S", 0.1)
    simulated.bench(lambda *of: streams(*of, per_s=4000.0), {"input_size": None, "repeats": 1})
    sizes = [read_run(p.parent).lines for p in sorted(simulated.folder.glob("out/pilot/runs/*/run.json"))]
    assert sizes == [64, 512, 4096] and simulated.expected == [400]  # 0.3 s of work at least


def test_where_answers_give_no_speed_the_input_size_is_calibrated_by_whole_runs(simulated, monkeypatch):
    monkeypatch.setattr(protocol, "derive", lambda folder: {})
    simulated.bench(holds_back, {"input_size": None, "quick": True})
    per_s = 64 / (START_S - 0.1 + 64 / PER_S)  # fed at 0.1 s, as it looks quiet then
    assert simulated.expected[0] == 3 * 8 * round(10 * per_s / 8) and simulated.count("pilot") == 1


def test_no_pilot_is_as_long_as_a_timed_run(simulated):
    simulated.bench(settings={"input_size": 64})
    assert simulated.count("pilot") == 0


@pytest.mark.parametrize(("input_size", "short"), [(16, 8), (15, 1), (None, 8)])
def test_a_short_run_is_of_a_batch_or_of_a_record(simulated, input_size, short):
    simulated.bench(settings={"input_size": input_size})
    assert read_run(simulated.folder / "out/short/runs/01").lines == short


# -- when it stops -------------------------------------------------------------------------------------------------
def varying(*shares):
    """Return the behaviour of a program whose runs are as many times as fast, in turn."""
    return lambda *of: streams(*of, per_s=PER_S * shares[(of[2] - 1) % len(shares)])


@pytest.mark.parametrize(
    ("bench", "settings", "stopped_by", "repeats"),
    [
        (varying(1.0), {}, "precision", 3),
        (varying(1.0, 1.01), {"precision": 0.022}, "precision", 4),
        (varying(1.0, 1.1), {"max_minutes": 0.3}, "max_minutes", 7),  # 18 s of 2.55 s each
        (varying(1.0, 1.0001), {"precision": 1e-9}, "most repeats", 12),
        (lambda *of: streams(*of, exit={"code": 3 if of[2] == 2 else 0}), {}, "invalid runs", 3),
        (lambda *of: holds_back(*of), {"quick": True}, "no speed", 3),
    ],
)
def test_without_a_count_runs_are_repeated_until(simulated, monkeypatch, bench, settings, stopped_by, repeats):
    monkeypatch.setattr(extent, "MOST_REPEATS", 12)
    result = simulated.bench(settings={"repeats": None, "max_minutes": 60, **settings}, bench=bench)
    assert (result["protocol"]["stopped_by"], result["repeats"]) == (stopped_by, repeats)
    assert simulated.messages[-1].startswith("run ") and " of " not in simulated.messages[-1]


@pytest.mark.parametrize(
    "settings", [{"repeats": 0}, {"batch_size": 0}, {"input_size": -1}, {"precision": 0}, {"max_minutes": 0}]
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(simulated, settings):
    with pytest.raises(UsageError):
        simulated.bench(settings=settings)
    assert simulated.order == [] and not list((simulated.folder / "out").iterdir())


# -- when a program is fed -----------------------------------------------------------------------------------------
def stage(simulated, name):
    paths = sorted(simulated.folder.glob(f"out/{name}/runs/*"))
    return [read_run(path) for path in paths]


def test_what_is_timed_is_fed_when_the_program_is_ready_and_quiet(simulated):
    fed = {}

    def noticed(size, batch, number, withheld):
        fed.setdefault(simulated.order[-1], []).append(withheld)
        return streams(size, batch, number, withheld)

    simulated.bench(noticed, {"single_record": True})
    at_once = {name for name, withheld in fed.items() if withheld == [None] * len(withheld)}
    assert at_once == {"short", "cold"}
    assert {w for name in fed.keys() - at_once for w in fed[name]} == {fed["bench"][0]}
    assert (fed["bench"][0].ready, fed["bench"][0].least_s) == (True, 0.0)
    assert fed["bench"][0].most_s == pytest.approx(2 * (START_S + 8 / PER_S) + 1)


def test_quick_runs_are_fed_when_the_program_is_quiet(simulated):
    simulated.bench(lambda *of: streams(*of, argv=[repr(of[3])]), {"quick": True})
    assert {run.facts["argv"][0] for run in stage(simulated, ".")} == {repr(Withholding(protocol.QUICK_MOST_S))}


@pytest.mark.parametrize("behaviour", [holds_back, lambda *of: program(*of, ready=False)])
def test_a_program_that_does_not_show_when_it_is_ready_is_fed_later_and_starts_are_repeated(simulated, behaviour):
    result = simulated.bench(behaviour)
    later_s = protocol.LATER * (START_S + 8 / PER_S) + extent.REST_S
    assert [run.facts["phases"]["first_write_s"] for run in stage(simulated, "withheld")] == [0.1, later_s + 0.1]
    assert {run.fed_s for run in stage(simulated, ".")} == {later_s + 0.1}
    assert simulated.count("short") == 3 and result["init_s"]["value"] == pytest.approx(START_S)
    assert result["speed_per_s"]["value"] == pytest.approx(PER_S) and result["verdict"] == "VALID"


def test_a_program_that_loads_when_it_is_fed_is_not_fed_later(simulated):
    result = simulated.bench(lambda *of: streams(*of, lazy_s=3.0))
    assert simulated.count("withheld") == 2 and {run.fed_s for run in stage(simulated, ".")} == {START_S + 0.1}
    assert result["init_s"]["value"] == pytest.approx(START_S + 3.0) and simulated.count("larger") == 1
    assert result["speed_per_s"]["value"] == pytest.approx(PER_S) and result["reasons"] == []


def test_a_ready_line_that_comes_when_records_were_read_is_not_waited_for(simulated):
    result = simulated.bench(lambda *of: streams(*of, ready_s=9.0) | {"quiet_s": 0.4})
    assert [run.facts["argv"] for run in stage(simulated, ".")] and result["init_s"]["method"] == "quiet"


# -- runs of other sizes -------------------------------------------------------------------------------------------
def test_where_the_stream_explains_all_time_since_feeding_there_are_no_runs_of_other_sizes(simulated):
    assert "paired_per_s" not in simulated.bench() and not {"smaller", "larger"} & set(simulated.order)


def test_else_each_run_has_a_smaller_one_of_whole_batches_beside_it(simulated):
    result = simulated.bench(lambda *of: streams(*of, prints="at the end"))
    assert [turn for turn in simulated.turns if "bench" in turn] == [["bench", "smaller"]] * 3
    sizes = [run.lines for run in stage(simulated, "smaller")]
    assert all(200 <= size <= 408 and size % 8 == 0 for size in sizes)
    assert result["speed_per_s"]["value"] == pytest.approx(PER_S) and result["speed_per_s"]["method"] == "ready"
    assert result["paired_per_s"]["value"] == pytest.approx(PER_S) and simulated.count("larger") == 0


def test_sizes_are_drawn_anew(simulated):
    simulated.bench(holds_back, {"repeats": 5})
    assert len({run.lines for run in stage(simulated, "smaller")}) > 1


def test_few_records_are_no_whole_batches(simulated):
    simulated.bench(holds_back, {"input_size": 20})
    assert all(5 <= run.lines <= 10 for run in stage(simulated, "smaller"))


def test_a_run_of_one_record_has_no_smaller_one(simulated):
    result = simulated.bench(holds_back, {"input_size": 1, "batch_size": 1})
    assert simulated.count("smaller") == 0 and result["speed_per_s"]["value"] is None


def test_runs_made_before_the_first_that_needs_it_get_their_smaller_ones(simulated):
    simulated.bench(bench=lambda *of: streams(*of, prints="batches" if of[2] < 3 else "at the end"))
    assert [turn for turn in simulated.turns if "bench" in turn] == [["bench"], ["bench"], ["bench", *["smaller"] * 3]]


def test_a_program_that_is_slow_only_with_few_records_is_invalid(simulated):
    def slow(size, batch, number, withheld):  # takes 4 s at least, and so 10 000 a second seem to explain the rest
        seconds = max(size / PER_S, 4.0 + size / 10_000)
        return program(size, batch, number, withheld, per_s=size / seconds, prints="at the end")

    result = simulated.bench(slow, {"input_size": 1000})
    assert (result["verdict"], result["reasons"]) == ("INVALID", ["ANSWERS_HELD_BACK", "TIMES_DISAGREE"])


def test_a_larger_run_that_would_pass_the_minutes_is_not_made(simulated):
    simulated.bench(lambda *of: streams(*of, lazy_s=3.0), {"max_minutes": 0.1})
    assert simulated.count("larger") == 0


@pytest.mark.parametrize("stage", ["withheld", "pilot", "smaller", "larger", "unique"])
def test_a_program_that_fails_in_one_stage_is_invalid(simulated, stage):
    lazy = lambda *of: streams(*of, lazy_s=3.0)  # noqa: E731
    result = simulated.bench(lazy, **{stage: lambda *of: lazy(*of) | {"exit": {"code": 3}}})
    assert result["verdict"] == "INVALID" and "NON_ZERO_EXIT" in result["reasons"]


# -- other processes -----------------------------------------------------------------------------------------------
BUSY = {"cpu_s": 4.0, "cores": 1.6, "of_cores": 2, "idle_share": 0.1, "top": [{"pid": 9, "name": "make", "cpu_s": 3.0}]}


def busy_at(*numbers):
    return lambda *of: streams(*of, **({"others": BUSY} if of[2] in numbers else {}))


@pytest.mark.parametrize("repeats", [3, None])
def test_a_disturbed_run_is_repeated_and_counts_no_more(simulated, repeats):
    result = simulated.bench(bench=busy_at(2), settings={"repeats": repeats})
    assert (result["verdict"], result["reasons"], result["repeats"]) == ("VALID", [], 4)
    assert [row["verdict"] for row in result["per_run"]] == ["VALID", "DISTURBED", "VALID", "VALID"]


def test_on_a_machine_that_stays_busy_runs_are_repeated_up_to_twice_and_kept(simulated):
    result = simulated.bench(bench=busy_at(*range(99)))
    assert (result["verdict"], result["reasons"], result["repeats"]) == ("DISTURBED", ["BUSY_MACHINE"], 6)
    assert result["speed_per_s"]["value"] == pytest.approx(PER_S) and result["score"]["value"] == 0.75


def test_disturbed_runs_are_repeated_within_the_minutes(simulated):
    result = simulated.bench(bench=busy_at(*range(99)), settings={"max_minutes": 0.2})  # 12 s of 2.65 s each
    assert (result["protocol"]["stopped_by"], result["repeats"]) == ("max_minutes", 4)


def test_a_timed_run_waits_for_a_quiet_machine_and_says_who_is_busy(simulated):
    simulated.loads = iter([BUSY, BUSY, BUSY, QUIET])  # the first look is that of the idle stage
    result = simulated.bench()
    assert result["protocol"]["waited_s"] == pytest.approx(2 * 0.3) and simulated.count("bench") == 3
    assert result["protocol"]["took_s"] == pytest.approx(sum(simulated.spent_s) + 0.5 + 2 * 0.3)
    waiting = "waiting up to 60 s for a quiet machine: others keep 1.6 of 2 cores busy: make (pid 9) (BUSY_MACHINE)"
    assert simulated.messages.count(waiting) == 1


def test_it_waits_for_a_minute_and_not_again(simulated):
    simulated.loads = iter([BUSY] * 9999)
    result = simulated.bench()
    assert 60 < result["protocol"]["waited_s"] < 61 and sum("waiting" in text for text in simulated.messages) == 1


def test_quick_waits_for_nothing_and_repeats_nothing(simulated):
    simulated.loads = iter([BUSY] * 9999)
    result = simulated.bench(bench=busy_at(1), settings={"quick": True})
    assert (result["verdict"], result["repeats"], simulated.now_s) == ("DISTURBED", 3, sum(simulated.spent_s))


# -- programs that fail, and machines that refuse ------------------------------------------------------------------
def test_a_program_that_fails_is_not_started_for_more_than_its_runs(simulated):
    result = simulated.bench(lambda *of: streams(*of, exit={"code": 3}))
    assert simulated.order == ["short", "pilot", "bench", "bench", "bench"]
    assert result["verdict"] == "INVALID" and "NON_ZERO_EXIT" in result["reasons"]
    assert result["kept_answers"]["reason"] == result["cold_init_s"]["reason"] == "NOT_ASKED"


def test_where_caches_cannot_be_dropped_there_is_a_reason(simulated):
    def refuse():
        raise PermissionError

    simulated.drop_caches = refuse
    result = simulated.bench()
    assert result["cold_init_s"] == {"value": None, "reason": "CACHES_KEPT"} and simulated.count("cold") == 0


def test_a_broken_contract_is_noted_and_the_runs_stand_on_their_own(simulated):
    simulated.checked = SimpleNamespace(ok=False, rules=lambda state: ["place"] if state == "fail" else ["flush"])
    result = simulated.bench()
    expected = {"ok": False, "when": "now", "failed": ["place"], "warned": ["flush"]}
    assert result["protocol"]["conformance"] == expected and result["reasons"] == ["CONTRACT_BROKEN"]
    assert simulated.messages[0] == "contract: broken: place" and result["verdict"] == "VALID"


def test_a_program_that_was_checked_is_not_checked_again(simulated):
    simulated.program = Program(["m"], "m", checked=True)
    simulated.checked = None
    assert simulated.bench()["protocol"]["conformance"]["when"] == "image built"


def test_runs_of_one_record_are_as_many_as_timed_ones_and_of_batch_size_1(simulated):
    simulated.bench(settings={"single_record": True, "quick": True})
    assert simulated.order == ["bench"] * 3 + ["one record"] * 3
    runs = [read_run(path.parent) for path in simulated.folder.glob("out/ones/runs/*/run.json")]
    assert [(run.lines, run.facts["batch_size"]) for run in runs] == [(1, 1)] * 3


def test_the_kernel_is_told_to_drop_its_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "DROP_CACHES", tmp_path / "drop_caches")
    protocol.drop_caches()
    assert (tmp_path / "drop_caches").read_text() == "3\n"


@pytest.mark.parametrize(("seconds", "text"), [(59.4, "59 s"), (60.0, "1 min 0 s"), (150.2, "2 min 30 s")])
def test_durations_are_in_minutes_and_seconds(seconds, text):
    assert protocol._duration(seconds) == text


# -- for real ------------------------------------------------------------------------------------------------------
@pytest.fixture
def measured(tmp_path):
    """Bench a command; returns bench.json and its folder."""
    source, out = write_records(tmp_path / "val.jsonl", 60, premise_chars=120), tmp_path / "out"
    out.mkdir()

    def bench(argv, checked=False, **settings):
        target = Target(Program(argv, "m", checked=checked), ProcessRunner())
        return protocol.bench(target, TERRA, source, out, **settings), out

    return bench


def test_an_honest_program_is_valid_with_every_number(measured, monkeypatch):
    monkeypatch.setattr(contract_run, "LATE_S", 0.05)
    argv = server("paced", "--rate", 800, "--init", 0.1)
    result, out = measured(argv, batch_size=8, input_size=80, repeats=2)
    assert (result["verdict"], result["protocol"]["conformance"]["failed"]) == ("VALID", [])
    assert result["speed_per_s"]["value"] == pytest.approx(800, rel=0.3)
    assert result["kept_answers"]["fires"] is False and len(result["kept_answers"]["pairs"]) == 3
    assert 0.1 < result["init_s"]["value"] < 0.5 and result["score"]["value"] == pytest.approx(0.75)
    assert json.loads(json.dumps(summary.derive(out))) == json.loads((out / "bench.json").read_text())


def test_a_program_that_works_before_it_says_it_is_ready_is_not_believed(measured):
    code = (
        "import json,sys,time\n"
        "records=[json.loads(line) for line in sys.stdin]\n"
        "time.sleep(len(records) / 150)\n"
        'print(\'morocco: {"event": "ready"}\', file=sys.stderr, flush=True)\n'
        "for k in range(0, len(records), 4):\n"
        "    time.sleep(0.002)\n"
        "    for r in records[k:k+4]: print(json.dumps({'idx': r['idx'], 'label': 'entailment'}))\n"
        "    sys.stdout.flush()"
    )
    result, _ = measured([sys.executable, "-I", "-S", "-c", code], True, batch_size=4, input_size=60, repeats=2)
    assert "WORK_NOT_SEEN" in result["reasons"] and result["speed_per_s"]["method"] in ("ready", "paired")
    true_per_s = 1 / (1 / 150 + 0.002 / 4)
    speeds = [row["speed_per_s"] for row in result["per_run"] if row["speed_per_s"]]
    assert speeds and all(math.isclose(per_s, true_per_s, rel_tol=0.5) for per_s in speeds)  # the stream would say 2000


def test_a_sweep_scores_every_point_and_counts_answers_that_differ(measured, tmp_path):
    code = (
        "import json,sys\n"
        "size = int(sys.argv[-1])\n"
        "for line in sys.stdin:\n"
        "    r = json.loads(line)\n"
        "    odd = size > 4 and len(r['hypothesis']) % 3 == 0\n"
        "    print(json.dumps({'idx': r['idx'], 'label': 'not_entailment' if odd else 'entailment'}), flush=True)"
    )
    source, points = tmp_path / "val.jsonl", {}
    target = Target(Program([sys.executable, "-I", "-S", "-c", code], "m"), ProcessRunner())
    write_records(source, 60, premise_chars=120)
    for size in (1, 8, 4):
        (folder := tmp_path / f"batch-{size}").mkdir()
        settings = {"batch_size": size, "input_size": 120, "repeats": 1}
        baseline = tmp_path / "batch-1" if points else None
        points[size] = protocol.bench(target, TERRA, source, folder, baseline=baseline, **settings)
    wrong = sum(len(json.loads(line)["hypothesis"]) % 3 == 0 for line in source.open(encoding="utf-8"))
    assert "batch_flips" not in points[1] and points[1]["score"]["value"] != points[8]["score"]["value"]
    assert wrong and points[8]["batch_flips"] == {"against_batch_size": 1, "value": wrong, "compared": 60}
    assert "BATCH_FLIPS" in points[8]["reasons"] and points[8]["verdict"] == "VALID"
    assert points[4]["batch_flips"]["value"] == 0 and "BATCH_FLIPS" not in points[4]["reasons"]
