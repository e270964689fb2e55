"""The protocol around the timed runs: what is run, when it is enough, and the verdicts that only it can give."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from servers import server
from test_bench import write_records

from morocco_lib.analysis import estimate, summary, throughput
from morocco_lib.analysis.estimate import Run
from morocco_lib.analysis.validity import drift_reasons
from morocco_lib.benchmark import protocol as bench
from morocco_lib.errors import UsageError
from morocco_lib.reasons import Reason
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner
from morocco_lib.tasks import get_task

TERRA = get_task("terra")


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    return write_records(tmp_path_factory.mktemp("records") / "val.jsonl", 60, premise_chars=120)


@pytest.fixture
def measured(records, tmp_path):
    """Measure a server at one operating point; returns (bench.json, its folder, what was said)."""

    def measure(argv, **asked):
        folder, said = tmp_path / "out", []
        folder.mkdir()
        program = bench.command(shlex.join(map(str, argv)))
        result = bench.bench(
            program, TERRA, records, ProcessRunner(), Limits(60), folder, progress=said.append, **asked
        )
        assert json.loads((folder / "bench.json").read_text()) == json.loads(json.dumps(result))
        return result, folder, said

    return measure


def paced(*options) -> list:
    return server("paced", *options)


def counts(folder: Path) -> dict[str, int]:
    return {
        name: len(list((folder / name).glob("runs/[0-9]*")))
        for name in (".", "short", "pilot", "cold", "ones", "cached/unique", "cached/repeated")
    }


# -- what is run ---------------------------------------------------------------------------------------------------
def test_every_stage_is_run_and_kept(measured):
    result, folder, said = measured(paced("--rate", 4000, "--init", 0.1), batch_size=8, input_size=800, repeats=3)
    may_drop = result["cold_init_s"].get("reason") != "CACHES_KEPT"
    assert counts(folder) == {
        ".": 3, "short": 1, "pilot": 2, "cold": 3 if may_drop else 1, "ones": 0, "cached/unique": 3, "cached/repeated": 3,
    }  # fmt: skip
    assert result["runs"] == ["runs/01", "runs/02", "runs/03"] and result["repeats"] == 3
    protocol = result["protocol"]
    assert protocol["conformance"]["ok"] and protocol["stopped_by"] == "repeats"
    assert protocol["took_s"] > sum(estimate.read_run(folder / r).total_s for r in result["runs"])
    assert any("about" in line and "3 runs of 800 records" in line for line in said)  # told before they start
    assert said.index(next(li for li in said if "about" in li)) < said.index(next(li for li in said if "run 1" in li))
    assert result["kept_answers"]["fires"] is False
    assert summary.derive(folder) == result


def test_the_prediction_is_near_what_it_takes(measured):
    result, folder, _ = measured(paced("--rate", 1000, "--init", 0.2), batch_size=8, input_size=1500, repeats=2)
    spent = [estimate.read_run(path.parent).total_s for name in (".", "cached/unique", "cached/repeated")
             for path in (folder / name).glob("runs/*/run.json")]  # fmt: skip
    assert result["protocol"]["predicted_s"] == pytest.approx(sum(spent), rel=0.25)


@pytest.mark.parametrize("asked", [{"repeats": 1}, {"repeats": 2, "quick": True}])
def test_quick_makes_timed_runs_only(measured, asked):
    result, folder, _ = measured(paced("--rate", 4000), batch_size=8, input_size=400, **asked)
    made = counts(folder)
    assert made.pop(".") == asked["repeats"] and not any(made.values())
    assert result["cold_init_s"]["reason"] == result["kept_answers"]["reason"] == "NOT_ASKED"
    assert result["speed_per_s"]["value"] == pytest.approx(4000, rel=0.1)


def test_the_input_size_is_calibrated_to_ten_seconds_of_work(measured, monkeypatch):
    monkeypatch.setattr(bench, "TIMED_WORK_S", 1.0)
    result, _, _ = measured(paced("--rate", 1600), batch_size=8, repeats=2, quick=True)
    assert result["input_size"] == pytest.approx(1600, rel=0.1) and result["input_size"] % 8 == 0
    assert result["input"]["size"] == result["input_size"] and result["input"]["distinct"] == 60
    assert sum(b["lines"] for b in result["input"]["line_bytes_histogram"]) == result["input_size"]


def test_a_slow_program_is_fed_ten_batches_at_least(measured, monkeypatch):
    monkeypatch.setattr(bench, "TIMED_WORK_S", 0.5)
    result, _, _ = measured(paced("--rate", 40), batch_size=8, repeats=1)
    assert result["input_size"] == 80


def test_runs_are_repeated_until_the_interval_is_narrow(measured):
    result, _, _ = measured(paced("--rate", 2000), batch_size=8, input_size=800, precision=0.5)
    assert result["protocol"]["stopped_by"] == "precision" and result["repeats"] == 3


def test_runs_are_repeated_until_the_time_is_up(measured):
    result, _, _ = measured(paced("--rate", 2000), batch_size=8, input_size=800, precision=1e-9, max_minutes=3 / 60)
    assert result["protocol"]["stopped_by"] == "max_minutes" and 4 <= result["repeats"] <= 8


@pytest.mark.parametrize(
    "asked", [{"repeats": 0}, {"batch_size": 0}, {"input_size": -1}, {"precision": 0}, {"max_minutes": 0}]
)
def test_what_cannot_be_is_refused_before_anything_runs(measured, tmp_path, asked):
    with pytest.raises(UsageError):
        measured(paced(), **asked)
    assert not list((tmp_path / "out").iterdir())


def test_speed_is_also_in_bytes(measured):
    result, folder, _ = measured(paced("--rate", 2000), batch_size=8, input_size=400, repeats=1)
    facts = estimate.read_run(folder / "runs/01").facts
    assert result["input"]["bytes"] == facts["bytes_fed"]
    ratio = result["bytes_per_s"]["value"] / result["speed_per_s"]["value"]
    assert ratio == pytest.approx(facts["bytes_fed"] / 400) and result["bytes_per_s"]["low"] is not None


def test_a_broken_contract_is_told_and_the_runs_stand_on_their_own(measured):
    code = (
        "import json,sys\n"
        "for n, line in enumerate(sys.stdin):\n"
        "    label = ('entailment', 'not_entailment')[n % 2]\n"
        "    print(json.dumps({'idx': json.loads(line)['idx'], 'label': label}), flush=True)"
    )
    result, folder, _ = measured([sys.executable, "-c", code], batch_size=4, input_size=200, repeats=2)
    assert result["protocol"]["conformance"]["failed"] == ["place"] and "CONTRACT_BROKEN" in result["reasons"]
    assert result["verdict"] == "VALID" and counts(folder)["cached/unique"] == 3


def test_a_program_that_fails_is_not_started_for_more_than_its_runs(measured):
    code = "import sys; sys.stdin.read(); sys.exit(3)"
    result, folder, _ = measured([sys.executable, "-c", code], batch_size=4, input_size=200, repeats=2)
    assert result["verdict"] == "INVALID" and "NON_ZERO_EXIT" in result["reasons"]
    made = counts(folder)
    assert (made["."], made["short"], made["cold"], made["cached/unique"]) == (2, 1, 0, 0)


# -- speed that the stream does not show ---------------------------------------------------------------------------
def test_answers_all_at_the_end_without_readiness_are_measured_in_pairs(measured):
    argv = paced("--rate", 800, "--init", 0.3, "--held-back", "--no-ready")
    result, folder, _ = measured(argv, batch_size=8, input_size=1200, repeats=3)
    speed = result["speed_per_s"]
    assert speed["method"] == "paired" and speed["low"] <= 800 * 1.01 and speed["high"] >= 800 * 0.99
    assert speed["value"] == pytest.approx(800, rel=0.05)
    assert counts(folder)["short"] >= 3
    assert result["init_s"]["method"] == "paired" and result["init_s"]["value"] == pytest.approx(0.35, abs=0.15)


def test_a_program_that_works_before_it_says_it_is_ready_is_not_believed(measured):
    code = (
        "import json,sys,time\n"
        "records=[json.loads(line) for line in sys.stdin]\n"
        "time.sleep(len(records) / 400)\n"
        'print(\'morocco: {"event": "ready"}\', file=sys.stderr, flush=True)\n'
        "for k in range(0, len(records), 4):\n"
        "    time.sleep(0.002)\n"
        "    for r in records[k:k+4]: print(json.dumps({'idx': r['idx'], 'label': 'entailment'}))\n"
        "    sys.stdout.flush()"
    )
    result, _, _ = measured([sys.executable, "-c", code], batch_size=4, input_size=400, repeats=3)
    assert "WORK_NOT_SEEN" in result["reasons"] and result["speed_per_s"]["method"] == "paired"
    true = 1 / (1 / 400 + 0.002 / 4)
    assert result["speed_per_s"]["value"] == pytest.approx(true, rel=0.15)  # the stream alone would say 2000


def run_of(arrivals, *, ready_s=None, exit_s=None, cpu=None) -> Run:
    samples = [{"mark": mark, "cpu_s": cpu_s} for mark, cpu_s in (cpu or {}).items()]
    exit_s = exit_s or arrivals[-1][0] + 0.05
    return Run(Path(), {"phases": {"ready_s": ready_s, "exit_s": exit_s}, "batch_size": 10}, arrivals, samples)


def test_cpu_time_before_readiness_that_short_runs_do_not_have_is_work():
    arrivals = [(3.0 + k / 10, 10) for k in range(101)]
    short = run_of([(3.1, 10)], ready_s=2.9, exit_s=3.2, cpu={"ready": 2.0, "last_answer": 2.1})
    honest = run_of(arrivals, ready_s=2.9, cpu={"ready": 2.1, "last_answer": 12.0})
    early = run_of(arrivals, ready_s=2.9, cpu={"ready": 12.0, "last_answer": 14.0})
    assert estimate.speed([honest], [short])[0]["method"] == "stream"
    found, notes = estimate.speed([early], [short])
    assert notes == [Reason.WORK_NOT_SEEN] and found["method"] == "paired"


# -- start-ups -----------------------------------------------------------------------------------------------------
def test_cold_starts_are_a_number_of_their_own(measured):
    result, folder, _ = measured(paced("--rate", 4000, "--init", 0.2), batch_size=8, input_size=400, repeats=2)
    cold = result["cold_init_s"]
    if cold.get("reason") == "CACHES_KEPT":
        pytest.skip("file caches may not be dropped here")
    assert cold["value"] >= 0.2 and counts(folder)["cold"] == 3
    faults = [estimate.read_run(path).facts["faults"] for path in (folder / "cold/runs").iterdir()]
    warm = [estimate.read_run(folder / name).facts["faults"] for name in result["runs"]]
    assert min(f["major"] for f in faults) > max(f["major"] for f in warm)  # they did come from the disk


def test_where_caches_may_not_be_dropped_there_is_a_reason(measured, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "DROP_CACHES", tmp_path / "no/such/file")
    result, _, _ = measured(paced("--rate", 4000), batch_size=8, input_size=400, repeats=2)
    assert result["cold_init_s"] == {"value": None, "reason": "CACHES_KEPT"}


@pytest.mark.parametrize(
    ("seconds", "fast"),
    [
        ([1.0, 1.02, 1.5], 2),
        ([1.5, 1.0, 1.51, 0.98, 1.02], 3),
        ([1.0, 1.1, 1.2], 0),
        ([0.05, 0.05, 0.09], 0),  # chance, of so short a start
        ([1.0, 1.3, 1.6, 1.9], 0),  # no two kinds
        ([1.0], 0),
        ([], 0),
    ],
)
def test_two_kinds_of_start_ups(seconds, fast):
    assert throughput.two_kinds(seconds) == fast


def test_start_ups_of_two_kinds_are_told(measured, tmp_path):
    slow_once = tmp_path / "third"
    code = (
        "import json,os,sys,time\n"
        f"with open({str(slow_once)!r}, 'a') as f: f.write('x')\n"
        f"time.sleep(0.8 if os.path.getsize({str(slow_once)!r}) == 2 else 0.2)\n"
        'print(\'morocco: {"event": "ready"}\', file=sys.stderr, flush=True)\n'
        "for line in sys.stdin:\n"
        "    time.sleep(0.002)\n"
        "    print(json.dumps({'idx': json.loads(line)['idx'], 'label': 'entailment'}), flush=True)"
    )
    result, _, _ = measured([sys.executable, "-c", code], batch_size=1, input_size=100, repeats=3, quick=True)
    assert "TWO_START_UPS" in result["reasons"] and result["verdict"] == "VALID"
    init = result["init_s"]
    assert init["method"] == "median" and init["value"] < 0.5 < init["high"]


# -- drift and warm-up ---------------------------------------------------------------------------------------------
def test_a_program_that_slows_down_from_run_to_run_is_invalid(measured, tmp_path):
    number = tmp_path / "number"
    code = (
        "import json,os,sys,time\n"
        f"with open({str(number)!r}, 'a') as f: f.write('x')\n"
        f"each = 0.004 * (1 + 0.1 * os.path.getsize({str(number)!r}))\n"
        "begin = time.monotonic()\n"
        "for n, line in enumerate(sys.stdin, 1):\n"
        "    time.sleep(max(0, begin + n * each - time.monotonic()))\n"
        "    print(json.dumps({'idx': json.loads(line)['idx'], 'label': 'entailment'}), flush=True)"
    )
    result, _, _ = measured([sys.executable, "-c", code], batch_size=1, input_size=150, repeats=6, quick=True)
    assert result["verdict"] == "INVALID" and result["reasons"] == ["DRIFT"]
    assert result["speed_per_s"]["value"] is not None  # kept, and greyed where it is shown


def test_equal_speeds_do_not_drift():
    assert (
        drift_reasons([100.0] * 5)
        == drift_reasons([100, 104, 97])
        == drift_reasons([100, 130])
        == drift_reasons([100, 90, 80, 70])
        == []
    )
    assert drift_reasons([100, 98, 96.1, 94, 91.9]) == [Reason.DRIFT]
    assert drift_reasons([100, 99, 98.1, 97, 96]) == []  # steady, and within 5 %


def batches(seconds, size=10, begin=1.0):
    arrivals, at = [(begin, size)], begin
    for each in seconds:
        at += each
        arrivals.append((at, size))
    return arrivals


def test_a_warm_up_is_found_and_left_out():
    wobble = [0.1, 0.102, 0.098, 0.101, 0.099]
    arrivals = batches([0.2, 0.21, 0.19, *wobble * 12])
    found = throughput.of_stream(arrivals, arrivals[-1][0], None)
    assert (found.warm_up_records, found.warm_up_s) == (30, pytest.approx(0.6))
    assert found.records / found.seconds == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    "seconds",
    [
        [0.1, 0.102, 0.098] * 20,
        [0.1] * 30 + [0.2] * 3 + [0.1] * 30,  # a pause in the middle
        [0.11] * 5 + [0.1] * 60,  # slower by a tenth is no warm-up
        [0.2] * 40 + [0.1] * 20,  # longer than a third: how it works
    ],
)
def test_what_is_no_warm_up_stays(seconds):
    arrivals = batches(seconds)
    found = throughput.of_stream(arrivals, arrivals[-1][0], None)
    assert found.warm_up_records == 0 and found.records == 10 * len(seconds)


def test_long_texts_answered_first_are_no_warm_up():
    arrivals = batches([0.3] * 6 + [0.1, 0.101, 0.099] * 20)
    sizes = [300] * 70 + [100] * (10 * len(arrivals) - 70)
    assert throughput.warm_up(arrivals) == 6
    assert throughput.warm_up(arrivals, lambda: sizes) == 0


# -- pairs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("short", "longer", "warm"),
    [
        ([1.0, 1.01, 0.99], [5.0, 5.05, 4.96], [0, 1, 2]),
        ([1.0, 1.5, 0.99], [5.0, 5.05, 4.96], [0, 2]),
        ([1.0, 1.01, 0.99], [5.5, 5.05, 4.96], [1, 2]),
        ([1.5, 1.01, 0.99, 1.0], [5.5, 5.05, 5.52, 4.96], [1, 3]),
        ([1.0, 1.5, 0.99, 1.0], [5.0, 9.0, 3.0, 6.0], [0, 1, 2, 3]),  # they differ too much to tell
        ([], [5.0], []),
    ],
)
def test_pairs_with_a_cold_start_are_left_out(short, longer, warm):
    assert throughput.warm_pairs(short, longer) == warm


def test_pairs_that_show_no_time_give_no_speed():
    runs = [run_of([(1.0, 100)], exit_s=1.1)]
    assert estimate.paired(runs, [run_of([(1.0, 10)], exit_s=1.2)]) is Reason.NO_TIME_LEFT
    assert estimate.paired(runs, []) is Reason.NO_PAIRS


# -- sweeps and logs -----------------------------------------------------------------------------------------------
BY_BATCH = (
    "import json,sys\n"
    "size = int(sys.argv[-1])\n"
    "for line in sys.stdin:\n"
    "    r = json.loads(line)\n"
    "    odd = size > 4 and len(r['hypothesis']) % 7 == 0\n"
    "    print(json.dumps({'idx': r['idx'], 'label': 'not_entailment' if odd else 'entailment'}), flush=True)"
)


def test_a_sweep_scores_every_point_and_counts_answers_that_differ(main, records, tmp_path):
    command = shlex.join([sys.executable, "-c", BY_BATCH])
    argv = ["bench", "--command", command, "terra", "--data", records, "--out", tmp_path / "sweep", "--input-size", 120]
    done = main(*map(str, [*argv, "--batch-size", "1,8,4", "--repeats", 2, "--quick", "--json"]))
    one, eight, four = map(json.loads, done.stdout.splitlines())
    assert "batch_flips" not in one and one["score"]["value"] != eight["score"]["value"]
    wrong = sum(len(json.loads(line)["hypothesis"]) % 7 == 0 for line in records.open(encoding="utf-8"))
    assert wrong and eight["batch_flips"] == {"against_batch_size": 1, "value": wrong, "compared": 60}
    assert "BATCH_FLIPS" in eight["reasons"] and eight["verdict"] == "VALID"
    assert four["batch_flips"]["value"] == 0 and "BATCH_FLIPS" not in four["reasons"]
    checked = main("verify", str(tmp_path / "sweep"))
    assert checked.returncode == 0, checked.stdout


def test_logs_in_the_originals_format_beside_a_bench(main, records, tmp_path):
    logs = tmp_path / "logs"
    command = shlex.join(map(str, paced("--rate", 400, "--init", 0.2)))
    argv = ["bench", "--command", command, "terra", "--data", records, "--model", "paced", "--input-size", 800]
    argv += ["--batch-size", 8, "--repeats", 3, "--quick", "--original-logs", logs]
    done = main(*map(str, [*argv, "--out", tmp_path / "out", "--json"]))
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (logs / "paced/terra").iterdir())
    assert names == [f"{size}_{k:02d}.jsonl" for size in ("1_1", "800_8") for k in (1, 2, 3)]
    told = main("stats", str(logs), "--original")
    assert json.loads(told.stdout)["rps"] == pytest.approx(400, rel=0.05)
    again = main(*map(str, [*argv, "--out", tmp_path / "again"]))
    assert again.returncode == 2 and "never overwritten" in again.stderr and not (tmp_path / "again").exists()


def test_a_fixed_count_and_a_precision_are_not_both_asked(main, records, tmp_path):
    done = main(
        "bench", "--command", "true", "terra", "--data", str(records), "--out", str(tmp_path / "o"), "--repeats", "3",
        "--precision", "0.1",
    )  # fmt: skip
    assert done.returncode == 2 and "give one of them" in done.stderr


# -- simulated -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("seeds", [("21", "22", "23")])
def test_intervals_hold_the_truth_in_95_of_100_simulated_experiments(seeds):
    script = Path(__file__).parents[1] / "benchmarks/intervals.py"
    done = subprocess.run(
        [sys.executable, script, "--json", "--seeds", *seeds, "--methods", "stream", "ready"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["outside"] == 0, found["rows"]
    clean = [
        f["alarms"] for row in found["rows"] if row["method"] == "stream" and not row["drift"] for f in row["seeds"]
    ]
    assert max(clean) <= 0.01
