"""The original's own numbers: to a millionth, and as published."""

import json
import subprocess
import sys

import pytest

from morocco_lib.errors import UsageError
from morocco_lib.legacy import stats


# Records a second by `command` and by `table`, computed without this library. Of an even number of runs they differ.
@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        ("rubert", "terra", (297.00719666240224, 297.00719666240224)),
        ("rubert", "rcb", (294.6677503621432, 294.6677503621432)),
        ("rugpt3-large", "rucos", (1.8935713272337638, 1.8935696184131077)),
    ],
)
def test_the_originals_speeds_are_met_to_a_millionth(published, model, task, expected):
    runs = [*published[model, task].single, *published[model, task].longer]
    found = [stats.original(runs, rule).rps for rule in ("command", "table")]
    assert found == pytest.approx(expected, rel=1e-7)


def test_the_published_table_comes_out(published, readme):
    for model, speeds in readme.speeds.items():
        for task, speed, gib in zip(readme.tasks, speeds, readme.gib[model], strict=True):
            found = published[model, task].published
            assert found.gpu_ram == pytest.approx(gib, abs=0.00501)
            assert speed is None or round(found.rps) == speed


def test_command_pools_sizes_and_counts_no_reading_as_0_and_table_does_not(tmp_path, write_log, members_of):
    for k, onset in enumerate((None, None, 5.0), start=1):
        write_log(tmp_path / f"m/terra/1_1_{k:02d}.jsonl", 10.0, onset, gap_s=0.5)
    write_log(tmp_path / "m/terra/2000_32_01.jsonl", 30.0, gap_s=0.5)
    write_log(tmp_path / "m/terra/1000_8_01.jsonl", 50.0, gap_s=0.5)
    command, table = (stats.original(members_of(tmp_path), rule) for rule in stats.RULES)
    assert (command.gpu_ram, command.rps) == (0, pytest.approx((100 + 25) / 2))
    assert (table.gpu_ram, table.rps) == (2.0, pytest.approx(100))


def test_the_table_needs_its_size(tmp_path, write_log, members_of):
    for size in ("1_1", "1000_8"):
        write_log(tmp_path / f"m/rcb/{size}_1.jsonl")
    with pytest.raises(UsageError, match="no 2000_32 run among 2 logs of m on rcb"):
        stats.original(members_of(tmp_path), "table")


def test_command_is_the_default_and_models_are_named_where_there_are_several(main, cell, tmp_path, write_log):
    for k in (1, 2):
        write_log(tmp_path / f"other/rcb/{k}_1_1.jsonl", 10.0 * k, None)
    rows = [json.loads(line) for line in main("stats", cell, tmp_path / "other", "--original").stdout.splitlines()]
    assert [list(row) for row in rows] == [["model", "task", "gpu_ram", "rps"]] * 2
    assert rows[1] == {"model": "other", "task": "rcb", "gpu_ram": 0, "rps": pytest.approx(0.2, rel=0.02)}


def test_one_model_is_not_named_and_no_gpu_and_no_speed_are_null(main, tmp_path, write_log):
    for size in (1, 2000):
        write_log(tmp_path / f"m/rcb/{size}_32_1.jsonl", 10.0, None)
    done = main("stats", tmp_path / "m", "--original", "--rule", "table")
    assert json.loads(done.stdout) == {"task": "rcb", "gpu_ram": None, "rps": None}
    assert "m on rcb: no speed" in done.stderr and done.returncode == 0


def test_the_originals_numbers_load_nothing_heavy(cell):
    code = (
        f"import sys\nfrom morocco_lib import cli\ncli.main(['stats', {str(cell)!r}, '--original'])\n"
        "print(*sorted({'numpy', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
