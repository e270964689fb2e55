"""The original's logs: found in files, folders and archives, read as they are, and refused by name where they are not."""

import gzip
import json
import shutil
import tarfile

import pytest

from morocco_lib.errors import UsageError
from morocco_lib.legacy import logs

STAMPS = (100.0, 100.5, 101.0, 101.5)


def sample(stamp, gpu_ram=None, **changes):
    row = dict(zip(logs.KEYS, (stamp, 0.5, 10, None if gpu_ram is None else 0.8, gpu_ram), strict=True))
    return json.dumps(row | changes)


GOOD = [sample(100.0), sample(100.5, 7), sample(101.0, 9), sample(101.5)]


def text(*rows):
    return "".join(f"{row}\n" for row in rows).encode()


@pytest.fixture
def path(tmp_path, write_log):
    return write_log(tmp_path / "m/t/2000_32_07.jsonl", content=text(*GOOD))


def test_the_facts_of_a_log(path):
    (log,) = logs.read_all([path])
    assert (log.model, log.task, log.size, log.index, log.file) == ("m", "t", (2000, 32), 7, str(path))
    assert (log.samples, log.began_s, log.total_s, log.gap_s, log.went_back) == (4, 100, 1.5, 0.5, False)
    assert (log.onset_s, log.aligned_s, log.gpu_ram_bytes) == (0.5, 1.0, 9)
    assert (log.first("gpu_ram", 8), log.first("gpu_ram", 10), log.seconds()) == (1.0, None, [0, 0.5, 1, 1.5])


def test_a_run_without_gpu_and_a_clock_that_goes_back(path, write_log):
    write_log(path, content=text(sample(100.0), sample(99.0), sample(101.0)))
    (log,) = logs.read_all([path])
    assert (log.onset_s, log.aligned_s, log.gpu_ram_bytes, log.went_back) == (None, None, None, True)


def test_files_a_folder_and_the_archive_hold_the_same(cell, tmp_path):
    def facts(*given):
        return {(log.model, log.task, *log.size, log.index, log.total_s) for log in logs.read_all(given)}

    for name, inside in (("logs.tar.gz", "./model"), ("model.tgz", None)):
        with tarfile.open(tmp_path / name, "w:gz") as packed:
            packed.add(cell.parent if inside else cell, inside or "terra")
    expected = facts(*cell.iterdir())
    assert len(expected) == 10
    for given in (cell, cell.parent, tmp_path / "logs.tar.gz", tmp_path / "model.tgz"):
        assert facts(given) == expected


def test_models_of_one_name_in_two_folders_stay_apart(cell, tmp_path):
    shutil.copytree(cell.parent, tmp_path / "again" / "model")
    cells = logs.by_cell(logs.read_all([cell.parent, tmp_path / "again"]))
    assert list(cells) == [(str(tmp_path / "again/model"), "terra"), (str(cell.parent), "terra")]


@pytest.mark.parametrize(
    "content",
    [
        "\r\n".join(GOOD).encode(),
        b"\xef\xbb\xbf" + text(*GOOD),
        b"\n\n".join(json.dumps(dict(reversed(json.loads(row).items()))).encode() for row in GOOD),
    ],
    ids=["CRLF, no end", "byte order mark", "other order, empty lines"],
)
def test_other_spellings_of_the_same_samples_are_read_alike(path, write_log, content):
    (plain,) = logs.read_all([path])
    assert logs.read_all([write_log(path, content=content)]) == [plain]


def test_a_compressed_log_is_read(path, write_log):
    (plain,) = logs.read_all([path])
    packed = write_log(path.with_suffix(".jsonl.gz"), content=gzip.compress(text(*GOOD)))
    assert logs.read_all([packed])[0].columns == plain.columns
    write_log(packed, content=gzip.compress(text(*GOOD * 99))[:-20])
    with pytest.raises(UsageError, match=r"2000_32_07\.jsonl\.gz, after line \d+: "):
        logs.read_all([packed])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (text(*GOOD) + b'{"timestamp": 1.0, "cpu_us', "line 5: broken JSON"),
        (text(GOOD[0], "[1]"), "line 2: a JSON list, not an object"),
        (text(GOOD[0], GOOD[0].replace("ram", "r4am")), "line 2: 'gpu_r4am' is unknown"),
        (text(GOOD[0], "{}"), "line 2: 'cpu_usage' is absent"),
        (text(GOOD[0], sample(1.0, ram="1")), "line 2: 'ram' is \"1\""),
        (text(GOOD[0], sample(1.0, gpu_ram=-1)), "line 2: 'gpu_ram' is -1"),
        (text(GOOD[0], sample(1.0, ram=True)), "line 2: 'ram' is true"),
        (text(GOOD[0], sample(1.0).replace("10", "1e999")), "line 2: 'ram' is Infinity"),
        (text(sample(None)), "line 1: 'timestamp' is null"),
        (text(GOOD[0]) + b"\xff\n", "line 2: not UTF-8"),
    ],
)
def test_a_damaged_log_is_refused_with_file_and_line(path, write_log, content, words):
    write_log(path, content=content)
    with pytest.raises(UsageError, match=r"2000_32_07\.jsonl") as caught:
        logs.read_all([path.parent])
    assert words in caught.value.seen


@pytest.mark.parametrize("name", ["1_1_01.jsonl.bak", "0_1_01.jsonl"])
def test_a_file_of_another_name_is_refused_and_not_skipped(path, write_log, name):
    write_log(path.with_name(name))
    with pytest.raises(UsageError, match=f"/{name} is not named as a log"):
        logs.read_all([path.parent])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-4], lambda b: b"x" * 999, lambda b: b""])
def test_a_damaged_archive_is_refused_by_name(path, tmp_path, damage):
    packed = tmp_path / "a.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(path.parents[1], "m")
    packed.write_bytes(damage(packed.read_bytes()))
    with pytest.raises(UsageError, match=r"(cannot read|no log in) .*a\.tar\.gz"):
        logs.read_all([packed])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["missing"], "cannot read missing: No such file or directory"),
        (["missing.tar.gz"], "cannot read missing.tar.gz: No such file or directory"),
        (["none"], "no log in none"),
        (["model", "model/terra/1_1_02.jsonl"], "1_1_02.jsonl is the same run as model/terra/1_1_02.jsonl"),
        (["model", "--rule", "table"], "--rule without --original"),
        (["model/terra/1_1_01.jsonl"], "no run of more than one record"),
        (["model/terra/2000_32_01.jsonl"], "no single-record run"),
    ],
)
def test_wrong_usage_is_refused(main, cell, tmp_path, given, words):
    (tmp_path / "none").mkdir()
    done = main("stats", *given, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and words in done.stderr
