"""The original's logs: its numbers under both its rules, the corrected ones, the flags, and what is refused."""

import gzip
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from statistics import median

import pytest
from conftest import ROOT

from morocco_lib.errors import UsageError
from morocco_lib.legacy import corrected, files, logs, stats
from morocco_lib.legacy.corrected import Flag

TASKS = ("danetqa", "muserc", "parus", "rcb", "rucos", "russe", "rwsd", "terra", "lidirus")
# What the original's README prints; a dash was not published.
PUBLISHED = {
    "rubert": (118, 4, 1070, 295, 9, 226, 102, 297, 165),
    "rugpt3-small": (97, 4, 872, 289, None, 163, 105, 319, 176),
    "rugpt3-medium": (45, 2, 270, 102, None, 106, 70, 111, 106),
    "rugpt3-large": (27, 1, 137, 53, None, 75, 49, 61, 69),
}
PUBLISHED_GIB = {
    "rubert": (2.40, 2.40, 2.39, 2.39, 2.40, 2.39, 2.39, 2.39, 2.39),
    "rugpt3-small": (2.38, 2.38, 2.36, 2.37, 2.38, 2.36, 2.36, 2.37, 2.36),
    "rugpt3-medium": (4.41, 4.38, 4.39, 4.39, 4.38, 4.38, 4.41, 4.39, 4.39),
    "rugpt3-large": (7.49, 7.49, 7.50, 7.50, 7.49, 7.49, 7.51, 7.50, 7.50),
}
RUBERT_PUBLISHED = (118, 4.4, 1070, 295, 8.9, 226, 102, 297, 165)
RUBERT_ALIGNED = (99, 4.3, 338, 190, 8.8, 169, 88, 199, 130)
INFLATION = (1.19, 1.01, 3.17, 1.55, 1.01, 1.34, 1.16, 1.49, 1.27)


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def cells(archive):
    return logs.by_cell(logs.read_all([archive]))


@pytest.fixture(scope="module")
def points(cells):
    found = [p for (model, task), members in cells.items() for p in corrected.corrected(model, task, members)]
    return {(p.model, p.task): p for p in found}


# -- logs of known truth -------------------------------------------------------------------------------------------
GAP_S = 0.33


def lines(total_s, onset_s=3.0, *, gpu_ram=2**31, began=1.6e9, phase=0.0, gap_s=GAP_S):
    """The samples of a run that took `total_s` and took hold of the GPU after `onset_s`; `phase` moves the sampling."""
    rows = []
    for k in range(round((total_s - phase) // gap_s) + 1):
        t = phase + k * gap_s
        on = onset_s is not None and t >= onset_s
        values = (round(began + t, 6), round(0.9, 3), 10**9, 0.85 if on else None, gpu_ram if on else None)
        rows.append(json.dumps(dict(zip(logs.KEYS, values, strict=True))))
    return "".join(f"{row}\n" for row in rows).encode()


def write(folder, name, content=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(10.0) if content is None else content)
    return path


@pytest.fixture
def cell(tmp_path):
    """Logs of a cell: start-up 10 s, of which 3 are lost from the longer runs; 2000 records at 100 a second."""
    folder = tmp_path / "model" / "terra"
    for k in range(1, 6):
        write(folder, f"1_1_{k:02d}.jsonl", lines(10 + k / 20, 6.0))
        write(folder, f"2000_32_{k:02d}.jsonl", lines(27 + k / 20, 3.0))
    return folder


def of_folder(*folders):
    cells = logs.by_cell(logs.read_all(folders))
    ((model, task), members), *others = cells.items()
    assert not others
    return model, task, members


def point_of(folder):
    (point,) = corrected.corrected(*of_folder(folder))
    return point


def flags_of(folder):
    return {(f.flag, Path(f.file).name if f.file else None) for f in point_of(folder).findings}


# -- the original's numbers ----------------------------------------------------------------------------------------
def naive(folder, rule):
    """The two rules once more, straight from the definitions."""
    read = {p.name: [json.loads(line) for line in p.read_text().splitlines()] for p in sorted(folder.iterdir())}
    total = {name: rows[-1]["timestamp"] - rows[0]["timestamp"] for name, rows in read.items()}
    init = median(t for name, t in total.items() if name.startswith("1_"))
    peaks = [[r["gpu_ram"] for r in rows if r["gpu_ram"] is not None] for n, rows in read.items() if n.startswith("1_")]
    if rule == "table":
        rps = 2000 / median(t - init for name, t in total.items() if name.startswith("2000_32_"))
        return median(max(peak) for peak in peaks if peak) / 1024**3, rps
    speeds = [int(n.split("_")[0]) / (t - init) for n, t in total.items() if not n.startswith("1_")]
    return median(max(peak, default=0) for peak in peaks) / 1024**3, median(speeds)


@pytest.mark.parametrize("rule", stats.RULES)
def test_the_originals_numbers_are_met_to_a_millionth(main, unpacked, rule):
    done = main("stats", unpacked, "--original", "--rule", rule)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr, len(found)) == (0, "", 36)
    for row in found:
        assert list(row) == ["model", "task", "gpu_ram", "rps"]
        gpu_ram, rps = naive(unpacked / row["model"] / row["task"], rule)
        assert row["gpu_ram"] == pytest.approx(gpu_ram, rel=1e-6) and row["rps"] == pytest.approx(rps, rel=1e-6)


def test_the_rules_differ_where_runs_are_even_in_number(cells):
    members = cells["rugpt3-large", "rucos"]
    command, table = (stats.original(members, rule).rps for rule in stats.RULES)
    assert command != table and command == pytest.approx(table, rel=0.01)


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_table_comes_out(cells, model):
    for task, speed, gib in zip(TASKS, PUBLISHED[model], PUBLISHED_GIB[model], strict=True):
        found = stats.original(cells[model, task], "table")
        assert found.gpu_ram == pytest.approx(gib, abs=0.00501)
        assert speed is None or round(found.rps) == speed


def test_command_pools_sizes_and_counts_no_reading_as_0_and_table_does_not(tmp_path):
    folder = tmp_path / "m" / "terra"
    for k, onset in enumerate((None, None, 5.0), start=1):
        write(folder, f"1_1_{k:02d}.jsonl", lines(10.0, onset, gap_s=0.5))
    write(folder, "2000_32_01.jsonl", lines(30.0, gap_s=0.5))
    write(folder, "1000_8_01.jsonl", lines(50.0, gap_s=0.5))
    *_, members = of_folder(folder)
    command, table = (stats.original(members, rule) for rule in stats.RULES)
    assert (command.gpu_ram, command.rps) == (0, pytest.approx((100 + 25) / 2))
    assert (table.gpu_ram, table.rps) == (2.0, pytest.approx(100))


def test_one_model_is_not_named_and_no_gpu_and_no_speed_are_null(main, tmp_path):
    for size in (1, 2000):
        write(tmp_path / "m" / "rcb", f"{size}_32_1.jsonl", lines(10.0, None))
    done = main("stats", tmp_path / "m", "--original", "--rule", "table")
    assert json.loads(done.stdout) == {"task": "rcb", "gpu_ram": None, "rps": None}
    assert "so there is no speed" in done.stderr and done.returncode == 0


# -- corrected -----------------------------------------------------------------------------------------------------
def test_the_corrected_speeds_are_those_of_the_reference(points):
    def digits(value):
        return 0 if value > 10 else 1

    for task, published, aligned, inflation in zip(TASKS, RUBERT_PUBLISHED, RUBERT_ALIGNED, INFLATION, strict=True):
        point = points["rubert", task]
        assert round(point.original_per_s, digits(published)) == published, task
        assert round(point.per_s, digits(aligned)) == aligned, task
        assert point.original_per_s / point.per_s == pytest.approx(inflation, abs=0.0051), task
        assert point.low_per_s < point.per_s < point.high_per_s


def test_the_flags_of_the_published_logs(points):
    of = {flag: set() for flag in Flag}
    for (model, task), point in points.items():
        for finding in point.findings:
            name = Path(finding.file).name if finding.file else finding.seen.split()[0]
            of[finding.flag].add((model, task, name.removesuffix(".jsonl")))
    large, small = "rugpt3-large", "rugpt3-small"
    assert of[Flag.TRUNCATED] == {
        (large, "muserc", "2000_32_02"), (large, "muserc", "2000_32_04"),
        (large, "rucos", "2000_32_04"), (large, "russe", "2000_32_03"),
    }  # fmt: skip
    cold = {entry for entry in of[Flag.COLD] if entry[2].startswith("2000")}
    assert cold == {(small, task, "2000_32_01") for task in ("danetqa", "parus", "rcb", "russe", "rwsd", "terra")}
    assert len(of[Flag.COLD] - cold) == 51
    assert len(of[Flag.BLIND]) == 6 and all(name.startswith("1_1_") for *_, name in of[Flag.BLIND])
    assert of[Flag.MISSING] == {(large, "rucos", "2000_32_05")}
    assert {(model, task) for model, task, _ in of[Flag.ONSET_SHIFT]} == set(points) and len(points) == 36
    assert all(2.7 < p.onset_shift_s < 4.2 for p in points.values())
    assert not of[Flag.CLOCK]


def test_the_cold_one_record_runs_are_those_above_a_quarter_more_than_the_fastest(cells, points):
    for key, members in cells.items():
        ones = [log for log in members if log.place.input_size == 1]
        bound = 1.25 * min(log.total_s for log in ones)
        cold = {f.file for f in points[key].findings if f.flag == Flag.COLD and "/1_1_" in f.file}
        assert cold == {log.place.file for log in ones if log.total_s > bound}


def test_memory_is_given_at_both_operating_points(points):
    point = points["rugpt3-large", "rucos"]
    assert (point.gpu_ram_bytes / 2**30, point.gpu_ram_one_bytes / 2**30) == pytest.approx((18.2, 7.49), abs=0.006)
    assert (point.used, point.runs, point.used_ones, point.ones) == (3, 4, 4, 5)


def test_a_known_speed_comes_out_where_the_original_is_too_high(cell):
    point = point_of(cell)
    assert point.per_s == pytest.approx(100, rel=0.02) and point.low_per_s < 100 < point.high_per_s
    assert point.original_per_s == pytest.approx(2000 / 17, rel=0.02)
    assert flags_of(cell) == {(Flag.ONSET_SHIFT, None)}
    assert point.onset_shift_s == pytest.approx(3, abs=GAP_S)


@pytest.mark.parametrize(("starts", "runs", "spread_s"), [(3, 5, 0.5), (2, 5, 0.05), (5, 5, 0.5), (5, 5, 0.05)])
def test_the_interval_holds_the_truth_in_95_of_100_experiments(starts, runs, spread_s):
    # Start-ups about 6 s after the onset, spread by `spread_s`; about 5 s of work, spread by 1 %; a sample every 0.33 s.
    generator, hits, rounds = random.Random(1), 0, 800

    def log(size, aligned_s):
        onset_s, phase = 5 + generator.random(), generator.random() * GAP_S
        first = math.ceil((onset_s - phase) / GAP_S) * GAP_S + phase
        last = math.floor((onset_s + aligned_s - phase) / GAP_S) * GAP_S + phase
        place = files.Place("f", "d", "m", "t", size, 32, 1)
        return logs.Log(place, round((last - phase) / GAP_S) + 1, last - phase, first - phase, 1, False)

    for _ in range(rounds):
        start_s, work_s = 6 + generator.random(), 5 + generator.random()

        def start(base_s=start_s):
            return base_s + abs(generator.gauss(0, spread_s))

        warm = [log(1, start()) for _ in range(starts)]
        good = [log(2000, start() + work_s * generator.gauss(1, 0.01)) for _ in range(runs)]
        _, low, high, _ = corrected._speed(good, warm)
        hits += low <= 2000 / work_s and (high is None or high >= 2000 / work_s)
    assert hits / rounds >= 0.94


def test_the_table_of_students_t_is_right():
    from scipy.special import stdtrit

    assert tuple(round(float(stdtrit(n, 0.975)), 3) for n in range(1, 31)) == corrected.T_975


@pytest.mark.parametrize(
    ("name", "content", "flag"),
    [
        ("2000_32_02.jsonl", lines(15.0, 3.0), Flag.TRUNCATED),
        ("1_1_02.jsonl", lines(5.0, 3.0, gpu_ram=2**28), Flag.TRUNCATED),
        ("1_1_02.jsonl", lines(13.5, 6.0), Flag.COLD),
        ("2000_32_02.jsonl", lines(31.0, 3.0), Flag.COLD),
        ("1_1_02.jsonl", lines(10.0, None), Flag.BLIND),
        ("1_1_02.jsonl", lines(4.0, None), Flag.BLIND),
        ("2000_32_02.jsonl", lines(27.0, None), Flag.BLIND),
        ("2000_32_02.jsonl", lines(13.0, 3.0) + lines(13.0, 3.0, began=1.6e9 + 12), Flag.CLOCK),
    ],
)
def test_a_bad_run_is_flagged_and_left_out(cell, name, content, flag):
    before = point_of(cell)
    write(cell, name, content)
    assert (flag, name) in flags_of(cell)
    assert {f for f, file in flags_of(cell) if file} == {flag}
    after = point_of(cell)
    assert after.per_s == pytest.approx(before.per_s, rel=0.02)
    assert after.used + after.used_ones == before.used + before.used_ones - 1


def test_a_late_start_up_that_does_not_show_in_a_long_run_is_no_flag(tmp_path):
    folder = tmp_path / "m" / "muserc"
    for k in range(1, 4):
        write(folder, f"1_1_{k:02d}.jsonl", lines(10.0, 6.0))
        write(folder, f"2000_32_{k:02d}.jsonl", lines(409.0 if k == 1 else 400.0, 3.0))
    assert flags_of(folder) == {(Flag.ONSET_SHIFT, None)}


def test_a_missing_run_is_flagged_whichever_it_is(cell):
    (cell / "2000_32_05.jsonl").unlink()
    (cell / "1_1_02.jsonl").unlink()
    seen = {f.seen.split()[0] for f in point_of(cell).findings if f.flag == Flag.MISSING}
    assert seen == {"2000_32_05.jsonl", "1_1_02.jsonl"}


def test_equal_onsets_are_no_flag(cell):
    for path in cell.glob("2000_*"):
        path.write_bytes(lines(30.0, 6.0))
    assert flags_of(cell) == set()


def test_onsets_that_differ_as_those_of_equal_runs_do_are_no_flag(cell):
    for size, total_s, onset_s in ((1, 10.0, 6.0), (2000, 30.0, 5.7)):
        for path, later_s in zip(sorted(cell.glob(f"{size}_*")), (-0.4, -0.3, 0, 0.3, 0.4), strict=True):
            path.write_bytes(lines(total_s, onset_s + later_s, gap_s=0.1))
    point = point_of(cell)
    assert flags_of(cell) == set() and point.onset_shift_s == pytest.approx(0.3, abs=0.11)
    for path in cell.glob("2000_*"):
        path.write_bytes(lines(30.0, 4.0, gap_s=0.1))
    assert flags_of(cell) == {(Flag.ONSET_SHIFT, None)}


def test_without_a_gpu_there_is_no_aligned_speed_but_a_reason(main, tmp_path):
    for size, total in ((1, 10.0), (2000, 30.0)):
        write(tmp_path / "m" / "rcb", f"{size}_1_1.jsonl", lines(total, None))
    done = main("stats", tmp_path / "m", "--json")
    found = json.loads(done.stdout)
    assert found["speed_per_s"] == {"value": None, "reason": "NO_RUN_LEFT"}
    assert found["gpu_ram_bytes"] is None and found["original_per_s"] == pytest.approx(100, rel=0.02)
    assert "NO_RUN_LEFT" in main("stats", tmp_path / "m").stdout


def test_one_run_of_each_size_gives_a_speed_without_an_interval(tmp_path):
    for size, total in ((1, 10.0), (2000, 30.0)):
        write(tmp_path / "m" / "rcb", f"{size}_1_1.jsonl", lines(total))
    point = point_of(tmp_path / "m")
    assert point.per_s == pytest.approx(100, rel=0.02) and point.low_per_s is point.high_per_s is None


# -- what is given -------------------------------------------------------------------------------------------------
def test_files_a_folder_and_the_archive_say_the_same(main, cell, tmp_path):
    packed = tmp_path / "logs.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(cell.parent, "./model")
    said = [main("stats", *given, "--json") for given in ([cell], [cell.parent], sorted(cell.iterdir()), [packed])]
    assert {done.returncode for done in said} == {0}
    found = [json.loads(done.stdout) for done in said]
    assert all({**f, "flags": 0} == {**found[0], "flags": 0} for f in found)
    assert found[0]["model"] == "model" and found[0]["task"] == "terra"


def test_models_of_one_name_in_two_folders_stay_apart(main, cell, tmp_path):
    shutil.copytree(cell.parent, tmp_path / "again" / "model")
    done = main("stats", cell.parent, tmp_path / "again", "--original")
    assert len({json.loads(line)["model"] for line in done.stdout.splitlines()}) == 2


def test_other_spellings_of_the_same_samples_are_read_alike(tmp_path):
    plain = lines(10.0)
    rows = [json.loads(line) for line in plain.splitlines()]
    compact = "\r\n".join(json.dumps(row, separators=(",", ":")) for row in rows).encode()
    turned = b"\n\n".join(json.dumps(dict(reversed(row.items()))).encode() for row in rows)
    written = [write(tmp_path / "m/t", f"1_1_{n}.jsonl", text) for n, text in enumerate((plain, compact, turned))]
    written.append(write(tmp_path / "m/t", "1_1_3.jsonl.gz", gzip.compress(plain)))
    facts = {(log.samples, log.total_s, log.onset_s, log.gpu_ram_bytes) for log in logs.read_all(written)}
    assert len(facts) == 1


GOOD = lines(1.0)
FIRST, *_ = GOOD.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("1_1_01.jsonl", b"", "1_1_01.jsonl is empty"),
        ("1_1_01.jsonl", b"\n", "1_1_01.jsonl is empty"),
        ("1_1_01.jsonl", GOOD + b'{"timestamp": 1.0, "cpu_us', "1_1_01.jsonl, line 5: broken JSON"),
        ("1_1_01.jsonl", FIRST + b"[1]\n" + GOOD, "line 2: a JSON list, not an object"),
        ("1_1_01.jsonl", GOOD + FIRST[:-1] + FIRST, "line 5: broken JSON"),
        ("1_1_01.jsonl", GOOD + FIRST.replace(b"null", b"nu1ll"), "line 5: broken JSON"),
        ("1_1_01.jsonl", FIRST + FIRST.replace(b"ram", b"r4am"), "line 2: 'gpu_r4am' is unknown"),
        ("1_1_01.jsonl", FIRST + b'{"idx": 3, "label": 1}\n', "line 2: 'cpu_usage' is absent"),
        ("1_1_01.jsonl", FIRST + FIRST.replace(b"1000000000", b'"1"'), "line 2: 'ram' is \"1\""),
        ("1_1_01.jsonl", FIRST + FIRST.replace(b"1000000000", b"-1"), "line 2: 'ram' is -1"),
        ("1_1_01.jsonl", FIRST + FIRST.replace(b"1000000000", b"true"), "line 2: 'ram' is true"),
        ("1_1_01.jsonl", FIRST + FIRST.replace(b"1000000000", b"1e999"), "line 2: 'ram' is Infinity"),
        ("1_1_01.jsonl", FIRST + FIRST.replace(b"1000000000", b"NaN"), "line 2: broken JSON"),
        ("1_1_01.jsonl", b'{"timestamp": null' + FIRST[FIRST.index(b",") :], "line 1: 'timestamp' is null"),
        ("1_1_01.jsonl", FIRST + b"\xff\n", "line 2: not UTF-8"),
        ("1_1_01.jsonl.gz", gzip.compress(GOOD * 99)[:-20], "after line"),
        ("1_1_01.jsonl.gz", GOOD, "after line 0: Not a gzipped file"),
        ("1_1_01.jsonl", FIRST + b" " * (1 << 21) + GOOD, "line 2: a line longer than 1 MiB"),
        ("notes.txt", b"x", "notes.txt is not named as a log"),
        ("1_1.jsonl", GOOD, "1_1.jsonl is not named as a log"),
        ("1_1_01.jsonl.bak", GOOD, "is not named as a log"),
        ("0_1_01.jsonl", GOOD, "is not named as a log"),
    ],
)
def test_what_is_no_log_is_refused_with_file_and_line(main, cell, name, content, words):
    (cell / "1_1_01.jsonl").unlink()
    write(cell, name, content)
    for given in (cell, cell / name):
        done = main("stats", given)
        assert (done.returncode, done.stdout) == (2, "") and words in done.stderr and name in done.stderr
        assert "should not happen" not in done.stderr


def test_a_broken_line_is_named_however_far_down(tmp_path):
    path = write(tmp_path / "m/t", "1_1_01.jsonl", GOOD * 3000 + b"{}\n" + GOOD)
    with pytest.raises(UsageError, match=r"1_1_01\.jsonl, line 12001: 'cpu_usage' is absent"):
        logs.read_all([path])


def test_an_archive_is_read_whole_or_refused(main, archive, tmp_path):
    whole = archive.read_bytes()
    for name, content in (
        ("cut.tar.gz", whole[: len(whole) // 2]),
        ("end.tar.gz", whole[:-4]),
        ("no.tar.gz", b"x" * 999),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        done = main("stats", path)
        assert (done.returncode, done.stdout) == (2, "") and name in done.stderr


def test_an_archive_that_holds_something_else_is_refused(main, cell, tmp_path):
    (cell / "link.jsonl").symlink_to("1_1_01.jsonl")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(cell.parent, "model")
    done = main("stats", tmp_path / "a.tar.gz")
    assert done.returncode == 2 and "model/terra/link.jsonl is no file" in done.stderr


def test_wrong_usage_is_refused(main, cell, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model").symlink_to(cell.parent)
    os.mkfifo(tmp_path / "1_1_01.jsonl")
    for given, words in (
        (["missing"], "cannot read missing: No such file or directory"),
        (["none"], "no log in none"),
        (["linked"], "linked/model is a link to a folder"),
        (["1_1_01.jsonl"], "1_1_01.jsonl is no file"),
        (["model", "model/terra/1_1_02.jsonl"], "1_1_02.jsonl is the run of model/terra/1_1_02.jsonl again"),
        (["model", "--rule", "table"], "--rule without --original"),
        (["model/terra/1_1_01.jsonl"], "no run of more than one record"),
        (["model/terra/2000_32_01.jsonl"], "no one-record run"),
    ):
        for more in ([], ["--original"]):
            done = main("stats", *given, *more, cwd=tmp_path)
            if more and "--rule" in given:
                continue
            assert (done.returncode, done.stdout) == (2, "") and words in done.stderr, (given, done.stderr)
    for size in ("1_1", "1000_8"):
        write(tmp_path / "n" / "rcb", f"{size}_1.jsonl")
    done = main("stats", tmp_path / "n", "--original", "--rule", "table")
    assert done.returncode == 2 and "no 2000_32 run" in done.stderr


# -- what is shown -------------------------------------------------------------------------------------------------
def test_the_table_and_json_say_the_same(main, cell):
    write(cell, "2000_32_02.jsonl", lines(15.0, 3.0))
    table, found = main("stats", cell).stdout, json.loads(main("stats", cell, "--json").stdout)
    head, row, *_ = table.splitlines()
    assert head.split()[:4] == ["model", "task", "size_batch", "records/s"]
    assert row.split()[:3] == ["model", "terra", "2000_32"] and row.endswith("4/5 + 5/5")
    assert float(row.split()[3]) == pytest.approx(found["speed_per_s"]["value"], rel=0.01)
    assert {f["flag"] for f in found["flags"]} == {"TRUNCATED", "ONSET_SHIFT"}
    assert "TRUNCATED, 1 log: it ended before its work was done" in table
    assert all(f["seen"] in table for f in found["flags"])


def test_every_flag_is_explained_in_the_documentation():
    page = (ROOT / "docs" / "original-logs.md").read_text(encoding="utf-8")
    assert set(corrected.MEANING) == set(Flag) and all(f"| `{flag}` |" in page for flag in Flag)
    for code in ("NO_RUN_LEFT", "NO_WARM_START_LEFT", "NO_TIME_LEFT"):
        assert f"`{code}`" in page and code.startswith("NO_")
    for constant in (
        "COLD_EXCESS",
        "COLD_SHARE",
        "TRUNCATED_SHARE",
        "LOADED_SHARE",
        "RUNS_TO_JUDGE",
        "SHIFT_GAPS",
        "SHIFT_SPREADS",
    ):
        assert f"`{constant}` = {getattr(corrected, constant):g}" in page, constant


def test_the_commands_in_help_work(morocco, cell, tmp_path):
    # As typed in a shell, in a folder that holds logs of two models.
    for model in ("rubert", "rugpt3-small"):
        shutil.copytree(cell.parent, tmp_path / "w" / model)
    typed = 0
    for verb in ("stats", "plot"):
        text = morocco(verb, "--help").stdout
        for line in text.splitlines()[-2:]:
            command = line.removeprefix("try:").strip().replace("morocco", f"{sys.executable} -m morocco_lib", 1)
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path / "w", env=environment, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, ""), line
            typed += 1
    assert typed == 4 and {"terra.png", "terra.svg"} < {path.name for path in (tmp_path / "w").iterdir()}


# -- plot ----------------------------------------------------------------------------------------------------------
def test_the_four_panels_show_what_the_logs_hold(cell):
    from morocco_lib.legacy.plot import draw

    figure = draw([cell])
    assert [axis.get_title(loc="left").split(",")[0] for axis in figure.axes] == ["CPU", "RAM", "GPU usage", "GPU RAM"]
    rows = [json.loads(line) for line in (cell / "1_1_01.jsonl").read_text().splitlines()]
    for axis, key, divisor in zip(figure.axes, logs.KEYS[1:], (1, 2**30, 1, 2**30), strict=True):
        line = axis.lines[0]
        seconds, values = line.get_xdata(), line.get_ydata()
        assert list(seconds) == pytest.approx([row["timestamp"] - rows[0]["timestamp"] for row in rows])
        expected = [math.nan if row[key] is None else row[key] / divisor for row in rows]
        assert list(values) == pytest.approx(expected, nan_ok=True)
    assert len(figure.legends[0].get_texts()) == 10


def test_many_logs_share_a_colour_by_what_they_were_fed(cell):
    from morocco_lib.legacy.plot import draw

    write(cell, "1_1_06.jsonl", lines(10.0, None))
    figure = draw([cell])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"1_1", "2000_32"}


def test_a_log_without_any_gpu_says_so_in_its_panels(cell):
    from morocco_lib.legacy.plot import draw

    figure = draw([write(cell, "1_1_06.jsonl", lines(10.0, None))])
    assert [[text.get_text() for text in axis.texts] for axis in figure.axes] == [
        [],
        [],
        ["no reading"],
        ["no reading"],
    ]


def test_plot_writes_a_picture_and_overwrites_nothing(main, cell, tmp_path):
    out = tmp_path / "a.png"
    done = main("plot", cell, out)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert out.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [tmp_path / "model", out]
    for target, words in (
        (out, "is there already"), (tmp_path / "no" / "a.png", "lies in no folder"), (cell / "1_1_05.jsonl", "is no picture"),
    ):  # fmt: skip
        done = main("plot", cell / "1_1_01.jsonl", target)
        assert done.returncode == 2 and words in done.stderr
    assert (cell / "1_1_05.jsonl").read_bytes() == lines(10.25, 6.0)


# -- cost ----------------------------------------------------------------------------------------------------------
def test_the_originals_numbers_need_nothing_heavy(cell):
    code = (
        "import sys\nfrom morocco_lib import cli\n"
        f"cli.main(['stats', {str(cell)!r}, '--original'])\ncli.main(['stats', {str(cell)!r}])\n"
        "print(*sorted({'numpy', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == ""


def test_a_log_a_hundred_times_as_long_needs_no_more_memory(tmp_path):
    def peak(times):
        path = write(tmp_path / "m/t", f"1_1_{times}.jsonl", GOOD * times)
        with path.open("rb") as file:
            place, _ = next(files._opened(path))
            tracemalloc.start()
            try:
                log = logs.read(place, file)
                return log.samples, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    (few, small), (many, large) = peak(1000), peak(100_000)
    assert many == 100 * few and large < 1.2 * small
