"""Logs of known truth, and the published ones, which are read once."""

import json
from types import SimpleNamespace

import pytest

from morocco_lib.legacy import compare, corrected, logs

GAP_S = 0.33
TASKS = ("danetqa", "muserc", "parus", "rcb", "rucos", "russe", "rwsd", "terra", "lidirus")
# What the original's README prints; a dash was not published.
SPEEDS = {
    "rubert": (118, 4, 1070, 295, 9, 226, 102, 297, 165),
    "rugpt3-small": (97, 4, 872, 289, None, 163, 105, 319, 176),
    "rugpt3-medium": (45, 2, 270, 102, None, 106, 70, 111, 106),
    "rugpt3-large": (27, 1, 137, 53, None, 75, 49, 61, 69),
}
GIB = {
    "rubert": (2.40, 2.40, 2.39, 2.39, 2.40, 2.39, 2.39, 2.39, 2.39),
    "rugpt3-small": (2.38, 2.38, 2.36, 2.37, 2.38, 2.36, 2.36, 2.37, 2.36),
    "rugpt3-medium": (4.41, 4.38, 4.39, 4.39, 4.38, 4.38, 4.41, 4.39, 4.39),
    "rugpt3-large": (7.49, 7.49, 7.50, 7.50, 7.49, 7.49, 7.51, 7.50, 7.50),
}


def lines(total_s, onset_s=3.0, *, gpu_ram=2**31, began=1.6e9, gap_s=GAP_S) -> bytes:
    """The samples of a run that took `total_s` and held the GPU after `onset_s`."""
    rows = []
    for k in range(round(total_s // gap_s) + 1):
        t = k * gap_s
        on = onset_s is not None and t >= onset_s
        values = (round(began + t, 6), 0.9, 10**9, 0.85 if on else None, gpu_ram if on else None)
        rows.append(json.dumps(dict(zip(logs.KEYS, values, strict=True))))
    return "".join(f"{row}\n" for row in rows).encode()


@pytest.fixture(scope="session")
def write_log():
    """Write a log with the samples of `lines`, or with the bytes given; returns its path."""

    def write(path, total_s=10.0, *args, content=None, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines(total_s, *args, **options) if content is None else content)
        return path

    return write


@pytest.fixture
def cell(tmp_path, write_log):
    """Logs of model/terra: start-up 10 s, of which 3 are lost from the longer runs; 2000 records at 100 a second."""
    folder = tmp_path / "model" / "terra"
    for k in range(1, 6):
        write_log(folder / f"1_1_{k:02d}.jsonl", 10 + k / 20, 6.0)
        write_log(folder / f"2000_32_{k:02d}.jsonl", 27 + k / 20, 3.0)
    return folder


@pytest.fixture(scope="session")
def members_of():
    """Return the logs of the one model and task in a folder."""

    def read(folder):
        ((_, members),) = logs.by_cell(logs.read_all([folder])).items()
        return members

    return read


@pytest.fixture(scope="session")
def point_of(members_of):
    """Return the corrected point of the one model, task and size in a folder."""

    def read(folder):
        members = members_of(folder)
        (point,) = corrected.corrected(members[0].model, members[0].task, members)
        return point

    return read


@pytest.fixture(scope="session")
def published(archive):
    """The published logs: (model, task) -> cell."""
    return {(cell.model, cell.task): cell for cell in compare.read(archive)}


@pytest.fixture(scope="session")
def readme():
    """What the original's README prints: tasks, and a model's speeds and GiB in their order."""
    return SimpleNamespace(tasks=TASKS, speeds=SPEEDS, gib=GIB)


@pytest.fixture(scope="session")
def write_known(write_log):
    """Write a run of 12 s of start-up: RAM grows by 90 MiB a second, the GPU is held after 7.5 s, loaded after 2 more.

    The clock misses the first `lost_s`; a cold start takes `extra_s` longer.
    """

    def write(path, work_s, lost_s=0.0, *, extra_s=0.0, gpu=True, load_s=2, peak=2**31):
        rows, t = [], lost_s
        while t <= 12 + extra_s + work_s:
            on = gpu and t >= 7.5 + extra_s
            held = (peak if t >= 7.5 + extra_s + load_s else peak // 4) if on else None
            ram = int((10 + 90 * min(t, 6)) * 2**20)
            values = (1.6e9 + t, 0.9, ram, 0.85 if on else None, held)
            rows.append(json.dumps(dict(zip(logs.KEYS, values, strict=True))))
            t += 0.3
        return write_log(path, content="".join(f"{row}\n" for row in rows).encode())

    return write


@pytest.fixture(scope="session")
def known(tmp_path_factory, write_known):
    """Logs of two models on two tasks: 100 and 50 records a second, or nearly the same; 3 s lost; 2 cold starts of 5."""
    folder = tmp_path_factory.mktemp("known") / "logs"
    for (model, task), per_s in {
        ("swift", "terra"): 100, ("slow", "terra"): 50, ("swift", "rcb"): 100, ("slow", "rcb"): 99,
    }.items():  # fmt: skip
        for k in range(1, 6):
            write_known(folder / model / task / f"1_1_{k:02d}.jsonl", k / 50, extra_s=8 if k < 3 else 0)
            write_known(folder / model / task / f"2000_32_{k:02d}.jsonl", 2000 / per_s + k / 50, 3, peak=2**32)
    return folder


@pytest.fixture(scope="session")
def known_cells(known):
    return {(cell.model, cell.task): cell for cell in compare.read(known)}


@pytest.fixture
def blind_cells(tmp_path, write_known):
    """The cells of one model on one task whose logs hold no reading of a GPU."""
    for k in range(1, 4):
        write_known(tmp_path / f"blind/m/terra/1_1_{k}.jsonl", 0, gpu=False)
        write_known(tmp_path / f"blind/m/terra/2000_32_{k}.jsonl", 20, gpu=False)
    return compare.read(tmp_path / "blind")
