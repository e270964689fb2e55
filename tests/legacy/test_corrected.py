"""Corrected speeds: known truth comes out, each flag has its fault, and the published logs give the reference."""

import glob
import itertools
import json
import shutil
from pathlib import Path

import pytest

import morocco_lib
from morocco_lib.legacy import corrected
from morocco_lib.legacy.corrected import Flag

ROOT = Path(morocco_lib.__file__).parents[1]
CORRECTED = (99, 4.3, 338, 190, 8.8, 169, 88, 199, 130)  # of rubert, in the order of the README's tasks


def flags(point):
    return {(f.flag, Path(f.file).name if f.file else None) for f in point.findings}


# -- the published logs --------------------------------------------------------------------------------------------
def test_the_corrected_speeds_are_those_of_the_reference(published, readme):
    for task, original, corrected_ in zip(readme.tasks, readme.speeds["rubert"], CORRECTED, strict=True):
        point = published["rubert", task].point
        assert round(point.original_per_s) == original, task
        assert round(point.per_s, 1 if corrected_ < 10 else None) == corrected_, task
        assert point.low_per_s < point.per_s < point.high_per_s


def test_the_flags_of_the_published_logs(published):
    of = {flag: set() for flag in Flag}
    for (model, task), cell in published.items():
        for finding in cell.point.findings:
            name = Path(finding.file).name if finding.file else finding.seen.split()[0]
            of[finding.flag].add((model, task, name.removesuffix(".jsonl")))
    large, small = "rugpt3-large", "rugpt3-small"
    assert of[Flag.TRUNCATED] == {
        (large, "muserc", "2000_32_02"), (large, "muserc", "2000_32_04"),
        (large, "rucos", "2000_32_04"), (large, "russe", "2000_32_03"),
    }  # fmt: skip
    cold = {entry for entry in of[Flag.COLD] if entry[2].startswith("2000")}
    assert cold == {(small, task, "2000_32_01") for task in ("danetqa", "parus", "rcb", "russe", "rwsd", "terra")}
    assert len(of[Flag.BLIND]) == 6 and all(name.startswith("1_1_") for *_, name in of[Flag.BLIND])
    assert of[Flag.MISSING] == {(large, "rucos", "2000_32_05")}
    assert {(model, task) for model, task, _ in of[Flag.ONSET_SHIFT]} == set(published)
    assert not of[Flag.CLOCK]


def test_memory_is_given_at_both_operating_points(published):
    point = published["rugpt3-large", "rucos"].point
    gib = (point.gpu_ram_bytes / 2**30, point.gpu_ram_single_bytes / 2**30)
    assert gib == pytest.approx((18.2, 7.49), abs=0.006)
    assert (point.used, point.runs, point.used_single, point.single) == (3, 4, 4, 5)


# -- logs of known truth -------------------------------------------------------------------------------------------
def test_a_known_speed_comes_out_where_the_original_is_too_high(cell, point_of):
    point = point_of(cell)
    assert point.per_s == pytest.approx(100, rel=0.02) and point.low_per_s < 100 < point.high_per_s
    assert point.original_per_s == pytest.approx(2000 / 17, rel=0.02)
    assert flags(point) == {(Flag.ONSET_SHIFT, None)}
    assert point.onset_shift_s == pytest.approx(3, abs=0.33)


def test_the_interval_is_welchs_with_the_variance_of_a_median(cell, point_of, write_log):
    # Aligned 6.0, 6.0, 6.5, 6.5 and 26, 27, 28 s: variances 1/12 and 1, times pi / 2 over 4 and 3 runs; by the
    # Welch-Satterthwaite formula 2 whole degrees of freedom (2.25), of which Student's t is 4.303.
    for path in cell.iterdir():
        path.unlink()
    for k, total_s in enumerate((12.0, 12.0, 12.5, 12.5), start=1):
        write_log(cell / f"1_1_{k:02d}.jsonl", total_s, 6.0, gap_s=0.125)
    for k, total_s in enumerate((29.0, 30.0, 31.0), start=1):
        write_log(cell / f"2000_32_{k:02d}.jsonl", total_s, 3.0, gap_s=0.125)
    point = point_of(cell)
    half_s = 4.3027 * (3.14159265 / 2 * (1 / 12 / 4 + 1 / 3)) ** 0.5
    seconds = 27 - 6.25
    found = (point.per_s, point.low_per_s, point.high_per_s)
    assert found == pytest.approx((2000 / seconds, 2000 / (seconds + half_s), 2000 / (seconds - half_s)), rel=1e-4)


def test_equal_times_are_not_known_better_than_the_sampling_gap(cell, point_of, write_log):
    for path in cell.iterdir():
        write_log(path, *((10.0, 6.0) if path.name.startswith("1_1") else (27.0, 3.0)), gap_s=0.5)
    point = point_of(cell)
    half_s = 2.306 * (2 * 0.5**2 / 12) ** 0.5  # t of 8 degrees of freedom
    assert point.low_per_s == pytest.approx(2000 / (20 + half_s), rel=1e-3)


def test_an_interval_that_reaches_no_time_at_all_has_no_upper_end(tmp_path, point_of, write_log):
    for k in (1, 2):
        write_log(tmp_path / f"m/rcb/1_1_{k}.jsonl", 10.0, 6.0)
        write_log(tmp_path / f"m/rcb/2000_32_{k}.jsonl", 8.0 + 2 * k, 3.0)
    point = point_of(tmp_path)
    assert point.low_per_s < point.per_s and point.high_per_s is None


@pytest.mark.parametrize(
    ("name", "run", "flag"),
    [
        ("2000_32_02.jsonl", {"args": (15.0, 3.0)}, Flag.TRUNCATED),
        ("1_1_02.jsonl", {"args": (5.0, 3.0), "gpu_ram": 2**28}, Flag.TRUNCATED),
        ("1_1_02.jsonl", {"args": (13.5, 6.0)}, Flag.COLD),
        ("2000_32_02.jsonl", {"args": (31.0, 3.0)}, Flag.COLD),
        ("1_1_02.jsonl", {"args": (4.0, None)}, Flag.BLIND),
        ("2000_32_02.jsonl", {"args": (27.0, None)}, Flag.BLIND),
    ],
)
def test_a_bad_run_is_flagged_and_left_out(cell, point_of, write_log, name, run, flag):
    before = point_of(cell)
    write_log(cell / name, *run.pop("args"), **run)
    after = point_of(cell)
    assert {found for found in flags(after) if found[1]} == {(flag, name)}
    assert after.per_s == pytest.approx(before.per_s, rel=0.02)
    assert after.used + after.used_single == before.used + before.used_single - 1


def test_three_runs_tell_which_is_too_short_and_two_do_not(cell, point_of, write_log):
    short = write_log(cell / "2000_32_02.jsonl", 15.0, 3.0)
    for number in (4, 5, 3):
        assert (Flag.TRUNCATED, short.name) in flags(point_of(cell))
        (cell / f"2000_32_{number:02d}.jsonl").unlink()
    assert (Flag.TRUNCATED, short.name) not in flags(point_of(cell))


# Total time as of the others, or far below: neither truncated nor fastest.
@pytest.mark.parametrize("again_s", [12, -10])
def test_a_clock_that_goes_back_is_flagged_and_nothing_is_judged_by_it(cell, point_of, write_log, again_s):
    path = cell / "2000_32_02.jsonl"
    first = write_log(path, 13.0).read_bytes()
    write_log(path, content=first + write_log(path, 13.0, began=1.6e9 + again_s).read_bytes())
    assert {found for found in flags(point_of(cell)) if found[1]} == {(Flag.CLOCK, path.name)}


def test_a_late_start_up_that_does_not_show_in_a_long_run_is_no_flag(tmp_path, point_of, write_log):
    for k in range(1, 4):
        write_log(tmp_path / f"m/muserc/1_1_{k:02d}.jsonl", 10.0, 6.0)
        write_log(tmp_path / f"m/muserc/2000_32_{k:02d}.jsonl", 409.0 if k == 1 else 400.0, 3.0)
    assert flags(point_of(tmp_path)) == {(Flag.ONSET_SHIFT, None)}


def test_a_missing_run_is_flagged_whichever_it_is(cell, point_of):
    (cell / "2000_32_05.jsonl").unlink()
    (cell / "1_1_02.jsonl").unlink()
    seen = [f.seen.split()[0] for f in point_of(cell).findings if f.flag == Flag.MISSING]
    assert seen == ["1_1_02.jsonl", "2000_32_05.jsonl"]


def test_onsets_that_differ_as_those_of_equal_runs_do_are_no_flag(cell, point_of, write_log):
    for size, total_s, onset_s in ((1, 10.0, 6.0), (2000, 30.0, 5.7)):
        for path, later_s in zip(sorted(cell.glob(f"{size}_*")), (-0.4, -0.3, 0, 0.3, 0.4), strict=True):
            write_log(path, total_s, onset_s + later_s, gap_s=0.1)
    point = point_of(cell)
    assert flags(point) == set() and point.onset_shift_s == pytest.approx(0.3, abs=0.11)
    for path in cell.glob("2000_*"):
        write_log(path, 30.0, 4.0, gap_s=0.1)
    assert flags(point_of(cell)) == {(Flag.ONSET_SHIFT, None)}


@pytest.mark.parametrize(
    ("single", "longer", "reason"),
    [
        ((10.0, None), (30.0, None), "NO_RUN_LEFT"),
        ((10.0, None), (30.0, 3.0), "NO_WARM_START_LEFT"),
        ((10.0, 3.0), (10.0, 6.0), "NO_TIME_LEFT"),
    ],
)
def test_in_place_of_a_speed_there_is_a_reason(tmp_path, point_of, write_log, single, longer, reason):
    write_log(tmp_path / "m/rcb/1_1_1.jsonl", *single)
    write_log(tmp_path / "m/rcb/2000_32_1.jsonl", *longer)
    assert point_of(tmp_path).as_dict()["speed_per_s"] == {"value": None, "reason": reason}


def test_one_run_of_each_size_gives_a_speed_without_an_interval(tmp_path, point_of, write_log):
    for size, total_s in ((1, 10.0), (2000, 30.0)):
        write_log(tmp_path / f"m/rcb/{size}_1_1.jsonl", total_s)
    point = point_of(tmp_path)
    assert point.per_s == pytest.approx(100, rel=0.02) and point.low_per_s is point.high_per_s is None


# -- what is shown -------------------------------------------------------------------------------------------------
def test_the_table_and_json_agree(main, cell, write_log):
    write_log(cell / "2000_32_02.jsonl", 15.0, 3.0)
    table, found = main("stats", cell).stdout, json.loads(main("stats", cell, "--json").stdout)
    head, row, *_ = table.splitlines()
    assert head.split()[:4] == ["model", "task", "size_batch", "records/s"]
    assert row.split()[:3] == ["model", "terra", "2000_32"] and row.endswith("4/5 + 5/5")
    assert float(row.split()[3]) == pytest.approx(found["speed_per_s"]["value"], rel=0.01)
    assert (found["runs"], found["one_record_runs"]) == ({"found": 5, "used": 4}, {"found": 5, "used": 5})
    assert {f["flag"] for f in found["flags"]} == {"TRUNCATED", "ONSET_SHIFT"}
    assert "TRUNCATED, 1 log: it ended before its work was done" in table
    assert all(f["seen"] in table for f in found["flags"])


def test_every_flag_and_bound_is_in_the_documentation():
    page = (ROOT / "docs/original-logs.md").read_text(encoding="utf-8")
    assert set(corrected.MEANING) == set(Flag) and all(f"| `{flag}` |" in page for flag in Flag)
    bounds = [name for name, value in vars(corrected).items() if name.isupper() and isinstance(value, int | float)]
    for name in bounds:
        assert f"`{name}` = {getattr(corrected, name):g}" in page, name
    assert len(bounds) == 7


def test_the_commands_in_help_work(main, cell, tmp_path):
    # As a shell would give them, in a folder that holds logs of two models.
    home = tmp_path / "home"
    for model in ("rubert", "rugpt3-small"):
        shutil.copytree(cell.parent, home / model)
    commands = [line for verb in ("stats", "plot") for line in main(verb, "--help").stdout.splitlines()[-2:]]
    for line in commands:
        _, *words = line.removeprefix("try:").split()
        expanded = [glob.glob(word, root_dir=home) if "*" in word else [word] for word in words]
        done = main(*itertools.chain(*expanded), cwd=home)
        assert (done.returncode, done.stderr) == (0, ""), line
    assert len(commands) == 4 and {"terra.png", "terra.svg"} < {path.name for path in home.iterdir()}
