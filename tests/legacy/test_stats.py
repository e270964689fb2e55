"""The original's own numbers: to a millionth of plain computations, and as published."""

import json
import subprocess
import sys
from statistics import median

import pytest

from morocco_lib.errors import UsageError
from morocco_lib.legacy import stats


def naive(runs, rule):
    """The two rules once more, straight from the definitions, on samples by file name."""
    total = {name: rows[-1]["timestamp"] - rows[0]["timestamp"] for name, rows in runs.items()}
    init = median(t for name, t in total.items() if name.startswith("1_"))
    peaks = [[r["gpu_ram"] for r in rows if r["gpu_ram"] is not None] for n, rows in runs.items() if n.startswith("1_")]
    if rule == "table":
        rps = 2000 / median(t - init for name, t in total.items() if name.startswith("2000_32_"))
        return median(max(peak) for peak in peaks if peak) / 1024**3, rps
    speeds = [int(n.split("_")[0]) / (t - init) for n, t in total.items() if not n.startswith("1_")]
    return median(max(peak, default=0) for peak in peaks) / 1024**3, median(speeds)


@pytest.mark.parametrize("rule", stats.RULES)
def test_the_originals_numbers_are_met_to_a_millionth(published, published_rows, rule):
    assert published.keys() == published_rows.keys() and len(published) == 36
    for key, cell in published.items():
        found = stats.original([*cell.single, *cell.longer], rule)
        assert (found.gpu_ram, found.rps) == pytest.approx(naive(published_rows[key], rule), rel=1e-6), key


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
