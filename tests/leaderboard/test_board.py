"""A board keeps what it is given, ranks it again each time, and says why something is not ranked."""

import json
from types import SimpleNamespace

import pytest
import submissions

from morocco_lib.benchmark import Target
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.leaderboard import board, page, rerun
from morocco_lib.leaderboard.entry import MEMORY, SCORE, SPEED, Check, Entry, Outcome
from morocco_lib.legacy import logs

TASKS = ("rcb", "terra")
WHOLE = Check("COMPLETE", Outcome.OK, "every task")


def entry(model, speed=100.0, score=0.5, *, id=None, checks=(WHOLE,), **more) -> Entry:
    cells = {
        t: {
            SCORE: [score, score - 0.01, score + 0.01],
            SPEED: [speed, speed * 0.99, speed * 1.01],
            MEMORY: [2.0**30] * 3,
        }
        for t in TASKS
    }
    return Entry(
        id or f"{model:0<12}",
        f"{model}.zip",
        checks,
        "2026",
        **{"model": model, "machine": "pc", "cells": cells, **more},
    )


def places(entries, metric):
    return {
        row["model"]: row[metric] and (row[metric]["rank"], row[metric]["last"])
        for row in board.ranking(entries, TASKS)
    }


# -- what is ranked ------------------------------------------------------------------------------------------------
def test_score_speed_and_memory_have_ranks_of_their_own():
    rows = board.ranking([entry("slow", 50, 0.9), entry("fast", 200, 0.5), entry("worse", 40, 0.4)], TASKS)
    assert [row["model"] for row in rows] == ["slow", "fast", "worse"]
    assert [row[SPEED]["rank"] for row in rows] == [2, 1, 3] and [row[MEMORY]["last"] for row in rows] == [3, 3, 3]
    assert [row[SPEED]["value"] for row in rows] == pytest.approx([50, 200, 40])
    assert (
        rows[0][SPEED]["low"] == pytest.approx(50 * 0.99, rel=0.01)
        and rows[0][SPEED]["low"] < 50 < rows[0][SPEED]["high"]
    )
    assert rows[0][MEMORY]["value"] == pytest.approx(2**30) and rows[0][SCORE]["value"] == pytest.approx(0.9)
    assert [row["front"] for row in rows] == [1, 1, 0]


def test_speeds_of_two_machines_are_not_compared_and_scores_are():
    found = [entry("a", 100), entry("b", 900, machine="server"), entry("c", 200)]
    assert places(found, SPEED) == {"a": (2, 2), "b": (1, 1), "c": (1, 1)}
    assert places(found, SCORE) == dict.fromkeys("abc", (1, 3))


def test_what_was_disturbed_or_unproven_keeps_its_score():
    disturbed = entry("d", checks=(Check("DISTURBED", Outcome.UNTIMED, "x"),))
    unproven = entry("u", checks=(Check("UNPROVEN", Outcome.UNTIMED, "x"),))
    refused = entry("r", checks=(Check("CLOCKS", Outcome.REFUSED, "x"), Check("SIGNATURE", Outcome.MARKED, "")))
    found = [entry("ok"), disturbed, unproven, refused]
    assert places(found, SCORE) == dict.fromkeys(("ok", "d", "u"), (1, 3))
    assert places(found, SPEED) == {"ok": (1, 1), "d": None, "u": None}
    assert places(found, MEMORY) == {"ok": (1, 2), "d": (1, 2), "u": None}
    assert [e.verdict for e in found] == ["accepted", "marked", "marked", "refused"]


def test_a_newer_submission_of_the_same_signer_takes_the_place_of_the_older():
    old, new = entry("m", id="1", signer="a"), entry("m", 300, id="2", signer="a")
    assert board.current([old, new]) == [new]
    assert len(board.current([old, entry("m", id="2", signer="b"), entry("m", id="3"), entry("m", id="4")])) == 4


# -- the folder ----------------------------------------------------------------------------------------------------
def test_a_second_rank_adds_to_the_history_and_keeps_what_there_is(ranked, submit, tmp_path):
    judged, first = ranked(submit("one"), submit("two", rate=250.0))
    assert set(judged) == {"one", "two"} and [row["model"] for row in first["rows"]] == ["one", "two"]
    assert [row[SPEED]["rank"] for row in first["rows"]] == [1, 2]
    third = submit("three", rate=1000.0)
    _, second = ranked(third)
    assert {row["model"]: row[SPEED]["rank"] for row in second["rows"]} == {"three": 1, "one": 2, "two": 3}
    ranked(third)
    folder = tmp_path / "board"
    assert [path.name for path in sorted((folder / "history").iterdir())] == ["0001.json", "0002.json", "0003.json"]
    assert json.loads((folder / "history/0001.json").read_text()) == first
    assert len(list((folder / "entries").iterdir())) == 3
    page = (folder / "README.md").read_text()
    assert page.startswith("# Ranking 3\n") and page.count("| three | 1-3 |") == 1 and "## Refused" in page
    assert "by measuring it again" in page


def test_a_board_ranks_the_tasks_and_records_that_it_began_with(ranked, honest, tmp_path, val):
    ranked(honest, data_dir=None)
    other = submissions.write_val(tmp_path / "data/TERRa")
    other.write_text(other.read_text().replace("x", "y"))
    for options, message in (
        ({"tasks": ["rcb"]}, "ranks terra"),
        ({"data_dir": other.parents[1]}, "other records of terra"),
        ({"signers": tmp_path / "none"}, "no file"),
        ({"data_dir": tmp_path}, "no val split of TERRa"),
    ):
        asked = {"tasks": None, "data_dir": None, "split": "val", "signers": None} | options
        with pytest.raises(UsageError, match=message):
            board.terms(tmp_path / "board", **asked)
    assert set(board.terms(tmp_path / "new", None, None, "val", None).tasks) >= {"danetqa", "lidirus", "terra"}


def test_the_command_prints_the_ranking_and_fails_where_one_is_refused(main, honest, tmp_path, val, keys):
    options = ("-o", tmp_path / "board", "--tasks", "terra", "--data", val.parents[1], "--signed-by", keys / "allowed")
    done = main("rank", honest, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("marked: m (") and f"{tmp_path / 'board/README.md'}\n" in done.stdout
    (tmp_path / "bad.zip").write_bytes(honest.read_bytes()[:-30])
    done = main("rank", tmp_path / "bad.zip", *options, "--json")
    (refused,) = json.loads(done.stdout)["judged"]
    assert done.returncode == 1 and refused["verdict"] == "refused" and refused["checks"][0]["name"] == "DAMAGED"
    page = (tmp_path / "board/README.md").read_text()
    assert "| bad.zip | DAMAGED | it does not end as a zip archive" in page and "| m | 1 |" in page
    assert main("rank", tmp_path / "none.zip", *options).returncode == 2
    assert main("rank", honest, "-o", tmp_path / "b", "--rerun", "image").returncode == 2


def test_a_page_shows_what_strangers_wrote_as_it_is(ranked, submit, tmp_path):
    name = "<script>|`*[x](http://y)"
    ranked(submit(name.replace("/", "")))
    page = (tmp_path / "board/README.md").read_text()
    assert "<script>" not in page and "[x](" not in page.replace("\\[", "\\") and "&lt;script&gt;\\|" in page


def test_a_number_without_an_interval_is_shown_alone():
    no_interval = {
        task: {SCORE: [0.5, 0.4, 0.6], SPEED: [100, 90, None], MEMORY: [3 * 2.0**28, None, None]} for task in TASKS
    }
    heads, row = page.cells(board.ranking([entry("m", cells=no_interval)], TASKS))
    shown = dict(zip(heads, row, strict=True))
    assert shown["memory"] == "768 MiB" and shown["score"].startswith("0.500 (0.4") and shown["subsets"] == "1"
    assert shown["front"] == "100%" and shown["signed by"] == shown["marks"] == "—"


# -- measured again ------------------------------------------------------------------------------------------------
@pytest.fixture
def again(monkeypatch, tmp_path, val):
    """Measure the image of an entry again: `speed` is what it does here."""

    def make(digest="sha256:1", **changed):
        result = {"verdict": "VALID", "reasons": [], "score": {"value": 0.5}, "speed_per_s": {"value": 100.0}}
        result |= {"ram_bytes": {"value": 2.0**30}, "gpu_ram_bytes": {"value": None}} | changed
        monkeypatch.setattr(
            Target, "of_image", lambda image, model: SimpleNamespace(program=SimpleNamespace(image_digest=digest))
        )
        monkeypatch.setattr(rerun, "bench", lambda *args, **settings: result)
        point = {"image_digest": "sha256:1", "batch_size": 8, "input_size": 40, "repeats": 3}
        terms = board.terms(tmp_path / "board", ["terra"], val.parents[1], "val", None)
        one = rerun.rerun(entry("m", points={"terra": point}), "image", terms, tmp_path / "reruns", print)
        return one.checks[-1]

    return make


@pytest.mark.parametrize(
    ("changed", "outcome", "seen"),
    [
        ({}, Outcome.OK, "terra: score x1.00, records/s x1.00, memory x1.00"),
        ({"speed_per_s": {"value": 104.0}}, Outcome.OK, "records/s x1.04"),
        ({"speed_per_s": {"value": 106.0}}, Outcome.MARKED, "not all within 5%"),
        ({"score": {"value": 0.4}}, Outcome.MARKED, "score x0.80"),
        ({"ram_bytes": {"value": None}}, Outcome.MARKED, "not all within 5%"),
        ({"verdict": "INVALID", "reasons": ["MISSING_IDX"]}, Outcome.REFUSED, "terra: INVALID here: MISSING_IDX"),
    ],
)
def test_a_rerun_is_held_against_what_was_submitted(again, changed, outcome, seen):
    check = again(**changed)
    assert (check.name, check.outcome) == ("RERUN", outcome) and seen in check.seen


def test_a_rerun_of_another_image_or_on_a_busy_machine_concludes_nothing(again, tmp_path):
    with pytest.raises(UsageError, match="made nothing of"):
        again("sha256:2")
    with pytest.raises(EnvironmentFailure, match="disturbed here"):
        again(verdict="DISTURBED")
    assert again().outcome is Outcome.OK  # the one before is set aside
    assert sorted(path.name for path in (tmp_path / "reruns").iterdir()) == [
        "m00000000000-terra",
        "m00000000000-terra.1",
    ]


# -- founding logs -------------------------------------------------------------------------------------------------
def test_the_founding_archive_is_ranked_by_corrected_speeds_and_marked(main, archive, tmp_path):
    done = main("rank", archive, "-o", tmp_path / "board", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    ranks = {row["model"]: row[SPEED]["rank"] for row in result["rows"]}
    assert ranks == {"rugpt3-small": 1, "rubert": 1, "rugpt3-medium": 3, "rugpt3-large": 4}
    assert all(row[SCORE] is None and row["front"] is None and "CORRECTED" in row["marks"] for row in result["rows"])
    cells = {entry["model"]: entry["cells"] for entry in result["judged"]}
    assert cells["rubert"]["parus"][SPEED][0] == pytest.approx(338, rel=0.01)  # 1070 was published
    assert len(list((tmp_path / "board/entries").iterdir())) == 4


def test_founding_logs_that_lack_a_task_are_refused(main, tmp_path):
    for size, total_s in (("1_1", 10), ("2000_32", 27)):
        for k in (1, 2, 3):
            path = tmp_path / f"logs/m/terra/{size}_0{k}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            moments = [(t_s / 3, 0.9, 10, 0.8, 2.0**30) for t_s in range(3 * total_s + k)]
            rows = [dict(zip(logs.KEYS, moment, strict=True)) for moment in moments]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = main("rank", tmp_path / "logs", "-o", tmp_path / "board", "--tasks", "terra", "rcb")
    assert done.returncode == 1 and "COMPLETE: no logs of rcb" in done.stdout
    assert main("rank", tmp_path / "logs", "-o", tmp_path / "other", "--tasks", "terra").returncode == 0
    assert main("rank", tmp_path / "logs", "-o", tmp_path / "none", "--tasks", "rcb").returncode == 2
