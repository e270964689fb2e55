"""The picture of logs: what each panel shows, and that nothing is overwritten."""

import json
import math

import pytest

from morocco_lib.errors import UsageError
from morocco_lib.legacy import logs
from morocco_lib.legacy.plot import draw, plot


def test_the_four_panels_show_what_the_logs_hold(cell):
    figure = draw([cell])
    assert [axis.get_title(loc="left").split(",")[0] for axis in figure.axes] == ["CPU", "RAM", "GPU usage", "GPU RAM"]
    rows = [json.loads(line) for line in (cell / "1_1_01.jsonl").read_text().splitlines()]
    for axis, key, divisor in zip(figure.axes, logs.KEYS[1:], (1, 2**30, 1, 2**30), strict=True):
        seconds, values = axis.lines[0].get_data()
        assert list(seconds) == pytest.approx([row["timestamp"] - rows[0]["timestamp"] for row in rows])
        expected = [math.nan if row[key] is None else row[key] / divisor for row in rows]
        assert list(values) == pytest.approx(expected, nan_ok=True)
    assert len(figure.legends[0].get_texts()) == 10


def test_more_than_ten_logs_share_a_colour_by_size(cell, write_log):
    write_log(cell / "1_1_06.jsonl", 10.0, None)
    assert {text.get_text() for text in draw([cell]).legends[0].get_texts()} == {"1_1", "2000_32"}


def test_a_log_without_any_gpu_is_marked_in_its_panels(cell, write_log):
    figure = draw([write_log(cell / "1_1_06.jsonl", 10.0, None)])
    shown = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert shown == [[], [], ["no reading"], ["no reading"]]


def test_plot_writes_a_picture_and_leaves_nothing_else(main, cell, tmp_path):
    out = tmp_path / "a.png"
    done = main("plot", cell / "1_1_01.jsonl", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert out.read_bytes().startswith(b"\x89PNG") and set(tmp_path.iterdir()) == {tmp_path / "model", out}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("old.png", "old.png exists already"),
        ("no/a.png", "is in a folder that does not exist"),
        ("model/terra/1_1_05.jsonl", "is not a picture"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused(cell, tmp_path, name, words):
    (tmp_path / "old.png").write_bytes(b"kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(UsageError, match=words):
        plot([cell / "1_1_01.jsonl"], tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before
