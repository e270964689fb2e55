"""Whatever others write, at every entrance: an answer or an error that is explained, soon, and nothing outside the folder.

Each entrance gets MOROCCO_FUZZ_S seconds (default 5, in `make test-deep` 300) of cases drawn by seed; a failing case names the seed that repeats it.
"""

import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import complete_runs
import pytest
import submissions

from morocco_lib import config, fileio, foreign
from morocco_lib.artifacts import steps
from morocco_lib.benchmark.target import program_of_image
from morocco_lib.config.schema import read_yaml
from morocco_lib.data import synthetic, workload
from morocco_lib.errors import MoroccoError
from morocco_lib.legacy import logs, scoring
from morocco_lib.legacy.corrected import corrected
from morocco_lib.models import model_class, weights
from morocco_lib.pipeline.report_step import report_step
from morocco_lib.pipeline.step_kinds import KINDS, verify
from morocco_lib.report import interactive, points, render, tables
from morocco_lib.runners import engine
from morocco_lib.runners.contract import parse_event
from morocco_lib.tasks import get_task, task_names
from morocco_lib.tasks.checking import check_file

BUDGET_S = float(os.environ.get("MOROCCO_FUZZ_S", 5))
CASE_S, LEAST = 20, 4  # seconds of one case, and how many cases, on a busy machine, too
ODD = [
    None, True, 0, -1, 1.5, 1e308, 5e-324, 2**63 - 1, -(2**63 - 1), "", "x", "a" * 300, "../../x", "/dev/zero", "\x1b[2J", "$x$", "<script>", "=1+1",
    "\u202e", "\x00", "\ud800", [], [[]], [None], ["x"], [1], {}, {"a": 1}, {"value": None}, {"value": 1}, "NaN", "VALID", "{{ 1 }}", "\n",
]  # fmt: skip
TOKENS = [
    b"NaN", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 200, b'"a":1,"a":2', b"\\ud800", b"\xff", b"\x00", b"\x1b[2J", b"\n", b"\r\n", b"null",
    b"\xef\xbb\xbf", b"{", b"}", b"]", b'"', b"- ", b"&a ", b"*a", b"<<: ", b"!!int ", b"!!binary ", b"!!timestamp ", b": ", b"? ", b"|", b"%", b"\t",
    b"<script>", b"<!--", b"<style>", b"=\"", b"'", b"/>", b"&#", b"javascript:", b"0x", b"2001-99-99", b"~", b"1_000", b"5:10",
]  # fmt: skip


def scrambled(rng, raw: bytes) -> bytes:
    """Return bytes with pieces removed, repeated, moved or replaced."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, to = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
        to = min(to, at + rng.choice([1, 4, 30, 10**6]))
        piece = rng.choice([b"", rng.choice(TOKENS), raw[at:to] * 2, rng.randbytes(3), raw[at:to][::-1]])
        raw = raw[:at] + piece + raw[rng.choice([at, to]) :]
    return raw


def changed(rng, value):
    """Return a JSON value with odd ones in places, or without them."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = changed(rng, value[key])
        return copy
    return rng.choice(ODD)


def rewritten(rng, path: Path) -> None:
    """Change a file: a value of its JSON, its bytes, or what it is."""
    raw = path.read_bytes()
    if rng.random() < 0.05:
        path.unlink()
        odd = rng.choice(
            [
                os.mkfifo,
                os.mkdir,
                lambda p: p.symlink_to("/dev/zero"),
                lambda p: p.symlink_to("/proc/kcore"),
                lambda p: None,
            ]
        )
        odd(path)
        return
    if rng.random() < 0.7 and path.suffix in (".json", ".jsonl"):
        lines = [raw] if path.suffix == ".json" else raw.splitlines()
        if lines:
            number = rng.randrange(len(lines))
            lines[number] = json.dumps(changed(rng, json.loads(lines[number]))).encode()
        path.write_bytes(b"\n".join([*lines, b""]))
    else:
        path.write_bytes(scrambled(rng, raw))


@contextmanager
def explained():
    """Let errors pass that a user would understand, if they can be printed."""
    try:
        yield
    except MoroccoError as error:
        assert foreign.shown(str(error)).encode(errors="surrogateescape") and len(str(error)) < 100_000


# -- entrances: each makes one case in a folder --------------------------------------------------------------------
def predictions(rng, folder, given):
    task = get_task(rng.choice(task_names()))
    records = given.records[task.name]
    answers = (
        model_class("majority").fit(task, records, 1).answer(records)
        if None not in map(task.gold, records)
        else records
    )
    lines = b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)
    path = folder / rng.choice(["preds.jsonl", "preds.jsonl.gz"])
    path.write_bytes(lines)
    rewritten(rng, path)
    if path.suffix == ".gz" and path.is_file() and rng.random() < 0.8:
        path.write_bytes(
            scrambled(rng, gzip.compress(path.read_bytes())) if rng.random() < 0.5 else gzip.compress(path.read_bytes())
        )
    with explained():
        checked = check_file(task, path, records)
        if not checked.ok:
            raise checked.error()
    with explained():
        scoring.score_file(task, path, records)


def records(rng, folder, given):
    task = get_task(rng.choice(task_names()))
    path = folder / "val.jsonl"
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in given.records[task.name]))
    rewritten(rng, path)
    with explained():
        read = task.read(path)
        list(workload.build(task, read, 9, 1).lines())
        [task.parts(record) for record in read]


def original_logs(rng, folder, given):
    cell = folder / "m/t"
    cell.mkdir(parents=True)
    for name in ("1_1_01.jsonl", "1_1_02.jsonl", "100_8_01.jsonl", "100_8_02.jsonl"):
        rows = [dict(zip(logs.KEYS, (100.0 + k / 3, 0.5, 10, 0.5, 7), strict=True)) for k in range(9)]
        (cell / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewritten(rng, rng.choice(sorted(cell.iterdir())))
    path = folder / "m"
    if rng.random() < 0.5 and not any(place.is_symlink() for place in cell.iterdir()):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(folder / "m", rng.choice(["m", "../m", "/m", "./m", "m/" * 50]))
        raw = packed.getvalue()
        if rng.random() < 0.7:
            header = 512 * rng.randrange(len(raw) // 512)
            raw = (
                raw[:header] + scrambled(rng, raw[header : header + 512])[:512].ljust(512, b"\0") + raw[header + 512 :]
            )
        raw = gzip.compress(raw, 1)
        path = folder / "logs.tar.gz"
        path.write_bytes(scrambled(rng, raw) if rng.random() < 0.2 else raw)
    with explained():
        for (model, task), members in logs.by_cell(logs.read_all([path])).items():
            corrected(model, task, members)


def step_folders(rng, folder, given):
    plan = shutil.copytree(given.plan, folder / "plan")
    theirs = plan / "theirs/terra/bench-1"
    files = [path for path in sorted(theirs.rglob("*")) if path.is_file()]
    for _ in range(rng.choice([1, 1, 3])):
        path = rng.choice(files)
        if path.is_file() and not path.is_symlink() and path.name != steps.STATUS:
            rewritten(rng, path)
    with explained():
        status = steps.read_status(theirs)
        status = status | {"outputs": steps.digest_outputs(theirs)}  # resealed, as an attacker would
        if rng.random() < 0.4:
            status = changed(rng, status)
        fileio.write_json(theirs / steps.STATUS, steps.seal(status) if isinstance(status, dict) else status)
    with explained():
        rows = points.collect(plan, KINDS)
        assert "ours" in tables.text_table(rows) + tables.to_csv(rows) and tables.remarks(rows)
        [tables.readable(row) for row in rows]
        if rng.random() < 0.1:
            page = report_step(plan).read_text()
            for own in interactive.scripts():
                page = page.replace(f"<script>{own}</script>", "")
            assert page.count("<script") == page.count('<script type="application/json" id="points">') <= 1
    with explained():
        findings = verify(plan)
        assert all(finding.ok for finding in findings if finding.step.startswith("ours"))


def weights_folders(rng, folder, given):
    place = shutil.copytree(given.weights, folder / "weights")
    rewritten(rng, rng.choice(sorted(place.iterdir())))
    with explained():
        weights.files(place)
    with explained():
        weights.load(place)


def yaml_files(rng, folder, given):
    source = rng.choice(given.yaml)
    path = folder / "a.yaml"
    path.write_bytes(scrambled(rng, source.read_bytes()))
    for load in (
        read_yaml,
        lambda path: config.load_plan(path, KINDS),
        lambda path: config.load_recipe(str(path), None),
    ):
        with explained():
            load(path)


def image_metadata(rng, folder, given):
    def text():
        return rng.choice(
            [str(rng.choice(ODD)), scrambled(rng, b"morocco/tfidf-terra:1@sha256:0").decode(errors="replace")]
        )

    labels = {"morocco.model": text(), engine.OWNER: text()}
    facts = {"Id": "sha256:0", "Size": 1, "RepoDigests": rng.choice([None, [], [text()]])}
    facts["Config"] = rng.choice([None, {"Labels": rng.choice([None, labels]), "Env": rng.choice([None, [text()]])}])
    client = SimpleNamespace(api=SimpleNamespace(inspect_image=lambda name: facts))
    name = program_of_image(engine.find_image(client, text())).model
    assert (folder / name).resolve().parent == folder.resolve() and name.isprintable()
    (folder / name).mkdir()


def events(rng, folder, given):
    line = b'morocco: {"event": "ready", "precision": "fp32", "threads": 2, "x": 1.5}'
    event = parse_event(
        b"morocco: " + json.dumps(changed(rng, json.loads(line[9:]))).encode()
        if rng.random() < 0.5
        else scrambled(rng, line)
    )
    if event is not None:
        json.dumps(event, allow_nan=False, ensure_ascii=False).encode()
        assert all(isinstance(value, str | int | float | None) for value in event.values()) and isinstance(
            event["event"], str
        )
        assert foreign.shown("".join(map(str, event.values()))) == "".join(map(str, event.values()))


def pages(rng, folder, given):
    raw = rng.choice(
        [
            b"<p class=a>x</p><img src='data:image/png;base64,AA=='>",
            b"<style>#a {color: red}</style><td id=a style='color: red'>1</td>",
        ]
    )
    for _ in range(3):
        raw = scrambled(rng, raw + raw)
    (folder / "a.html").write_bytes(raw)
    (folder / "b.html").write_text(render.stranger_page(folder / "a.html"), encoding="utf-8")
    body = (folder / "b.html").read_text().partition("<body>\n")[2].removesuffix("\n</body></html>\n")
    assert render.clean(body) == body
    plain = re.sub(r"<style>[^<@\\]*</style>", "", body)
    for tag in plain.split("<")[1:]:
        name, _, words = tag.partition(">")[0].removeprefix("/").partition(" ")
        assert name in render._TAGS and re.fullmatch(r'(?:[a-z]+="[^"<>]*" ?)*', words), tag
        assert not re.search(r'src="(?!data:image/)', words), tag


ENTRANCES = [
    predictions,
    records,
    original_logs,
    step_folders,
    weights_folders,
    yaml_files,
    image_metadata,
    events,
    pages,
]


@pytest.fixture(scope="module")
def given(fitted, tmp_path_factory):
    """Whole files of every kind, to be changed."""
    plan = tmp_path_factory.mktemp("given") / "plan"
    val = submissions.write_val(plan.parent)
    for name in ("ours", "theirs"):
        folder = plan / name / "terra/bench-1"
        complete_runs.write_bench(folder, val, size=80, few=8, repeats=2, model=name)
        (folder / "notebook.html").write_text("<body>\n<p>ran</p>")
        complete_runs.reseal(folder)
    val.unlink()  # a file that they read, and that is not here
    root = config.project_root(Path(__file__).parent)
    made = {name: synthetic.records(name, next(iter(synthetic.generator(name).SIZES)), 6, 1) for name in task_names()}
    return SimpleNamespace(plan=plan, weights=fitted, yaml=sorted((root / "params").rglob("*.yaml")), records=made)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("entrance", ENTRANCES, ids=lambda entrance: entrance.__name__)
def test_an_entrance_takes_anything(entrance, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def late(number, frame):
        raise TimeoutError(f"no end after {CASE_S} s")

    before, seed, end = signal.signal(signal.SIGALRM, late), 0, time.monotonic() + BUDGET_S
    try:
        while seed < LEAST or time.monotonic() < end:
            case = tmp_path / "case"
            case.mkdir()
            signal.alarm(CASE_S)
            try:
                entrance(random.Random(f"{entrance.__name__}/{seed}"), case, given)
            except Exception as error:
                raise AssertionError(f"{entrance.__name__}, seed {seed}: {type(error).__name__}: {error}") from error
            finally:
                signal.alarm(0)
            assert [path.name for path in tmp_path.iterdir()] == ["case"]
            shutil.rmtree(case)
            seed += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{entrance.__name__}: {seed} cases")
