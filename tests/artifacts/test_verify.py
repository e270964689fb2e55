"""`verify` finds every changed byte and every number that does not follow from its files."""

import json
import os
import sqlite3
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import morocco_lib
from morocco_lib import fileio
from morocco_lib.artifacts import steps, verify
from morocco_lib.artifacts.memory import Memory, code_sha256
from morocco_lib.artifacts.step_kind import StepKind
from morocco_lib.errors import InvalidResult, UsageError

RESULT = {
    "speed": 199.5, "count": 3, "verdict": "VALID", "reasons": ["SINGLE_RUN"], "null": None, "deep": {"n": [1, 2.5]}
}  # fmt: skip


def kind(name="bench", rebuild=None):
    return StepKind(name, SimpleNamespace, lambda p, root: {}, "result.json", rebuild=rebuild)


def rebuilding(derived):
    """Return kinds of steps whose result.json is to be what `derived` is."""
    return {"bench": kind(rebuild=lambda folder: verify.compare(folder, "result.json", derived))}


def make(folder: Path, name="bench", inputs=None, state=steps.DONE) -> Path:
    """Write a finished step folder with a result, a file of a run, and an input."""
    step = steps.Step.begin(folder, name, model="tfidf", task="terra", parameters={"n": 1}, inputs=inputs or {})
    fileio.write_json(folder / "result.json", RESULT)
    (folder / "runs").mkdir()
    (folder / "runs/answers.jsonl").write_text("{}\n")
    step.finish(state, 0)
    return folder


@pytest.fixture
def step(tmp_path):
    (tmp_path / "val.jsonl").write_text("records\n")
    return make(tmp_path / "out/step", inputs={"data": tmp_path / "val.jsonl"})


def failures(folder, kinds=None, **options) -> list[str]:
    return [f"{f.what}: {f.seen}" for f in verify.verify(folder, kinds or rebuilding(RESULT), **options) if not f.ok]


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# -- what holds ----------------------------------------------------------------------------------------------------
def test_a_step_that_holds_is_counted_in_full(step):
    findings = verify.verify(step.parent, rebuilding(RESULT))
    assert [(f.step, f.what, f.ok, f.seen) for f in findings] == [
        ("step", "status", True, "done, exit 0"),
        ("step", "files", True, "2 digests hold"),
        ("step", "numbers", True, "4 numbers rebuilt"),
    ]
    assert verify.table(findings) == "verified: 1 step folder, 2 digests, 4 numbers rebuilt"
    nothing = verify.table(verify.verify(step.parent, {"bench": kind()}))
    held = "digests hold, nothing was rebuilt: 1 step folder, 2 digests, 0 numbers rebuilt"
    assert nothing == f"{held}; not checked: 1 step without numbers to rebuild"
    for_machines = verify.as_dict(findings)
    assert (for_machines["schema"], for_machines["ok"]) == (1, True)
    assert for_machines["findings"][1]["seen"] == "2 digests hold"


def test_a_step_may_be_named_itself_and_others_below_it_are_verified_too(step):
    make(step / "nested")
    names = [f.step for f in verify.verify(step, {}) if f.what == "status"]
    assert names == ["step", "nested"]


def test_a_folder_without_steps_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="no step folder in"):
        verify.verify(tmp_path, {})


def test_a_kind_without_a_rebuild_has_digests_only_and_an_unknown_one_is_noted(step):
    assert [f.what for f in verify.verify(step, {"bench": kind()})] == ["status", "files", "unchecked"]
    findings = verify.verify(step, {})
    assert [f.what for f in findings] == ["status", "files", "kind", "unchecked"]
    assert "note    step: kind: this version has no step 'bench'; its numbers were not rebuilt" in verify.table(
        findings
    )


def test_steps_behind_links_are_verified_once(step, tmp_path):
    (there := tmp_path / "there/model").mkdir(parents=True)
    (there / "step").symlink_to(step)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/model").symlink_to(there)
    (there / "circle").symlink_to(tmp_path / "plan")
    (there / "up").symlink_to("/")
    assert {f.step for f in verify.verify(tmp_path / "plan", {})} == {"model/step"}
    assert {f.step for f in verify.verify(tmp_path, {})} == {"out/step"}  # its own place before links to it
    assert [folder for folder, _ in steps.find_steps(tmp_path / "plan")] == [tmp_path / "plan/model/step"]
    (step / "result.json").write_text("{}")
    assert failures(tmp_path / "plan") != []


def test_links_inside_a_step_folder_are_named_and_not_followed(step, tmp_path):
    (step / "runs/other").symlink_to(make(tmp_path / "other"))
    assert [path.parent for path in steps.find_files(step.parent, steps.STATUS)] == [step]
    (failure,) = failures(step)
    assert "runs/other was added" in failure


# -- bytes ---------------------------------------------------------------------------------------------------------
def test_a_changed_byte_in_the_status_is_found(step):
    path = step / steps.STATUS
    raw = path.read_bytes()
    for at in range(0, len(raw), 3):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        assert len(failures(step)) == 1, (at, raw[at - 20 : at + 20])


def test_a_status_with_another_space_is_found(step):
    (step / steps.STATUS).write_bytes((step / steps.STATUS).read_bytes() + b"\n")
    assert failures(step) == [f"status: {step / steps.STATUS} was changed after it was written"]


def test_a_status_that_was_changed_and_written_well_is_found_by_its_seal(step):
    status = steps.read_status(step)
    fileio.write_json(step / steps.STATUS, {**status, "exit": 1})
    assert failures(step) == [f"status: {step / steps.STATUS} was changed after it was written"]
    fileio.write_json(step / steps.STATUS, {k: v for k, v in status.items() if k != "seal"})
    assert len(failures(step)) == 1


def test_a_status_that_cannot_be_read_is_found(step):
    (step / steps.STATUS).write_text("{")
    (failure,) = failures(step)
    assert failure.startswith("status: ") and "is broken" in failure


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda step: change(step / "runs/answers.jsonl", "{}", "[]"), "runs/answers.jsonl was changed"),
        (lambda step: (step / "runs/answers.jsonl").unlink(), "runs/answers.jsonl is missing"),
        (lambda step: (step / "more.txt").write_text(""), "more.txt was added"),
    ],
)
def test_a_changed_missing_or_added_file_is_found_and_named(step, edit, expected):
    edit(step)
    assert failures(step) == [f"files: {step}/{expected}"]


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.symlink_to("/etc"), lambda path: path.symlink_to("nowhere")],
    ids=["a pipe", "a link to a folder", "a link to nothing"],
)
def test_what_is_no_file_is_found_and_not_read(step, make):
    make(step / "odd")
    (failure,) = failures(step)
    assert failure == f"files: {step / 'odd'} was added; {step / 'odd'} is not a regular file"
    (step / "odd").unlink()
    (step / "result.json").unlink()
    make(step / "result.json")
    (failure,) = failures(step)
    assert failure.endswith("result.json is not a regular file")


def test_an_input_that_was_changed_is_found_and_one_that_is_gone_is_noted(step, tmp_path):
    (tmp_path / "val.jsonl").write_text("others\n")
    (failure,) = failures(step)
    assert failure.startswith("inputs: ") and failure.endswith("val.jsonl was changed after it was read")
    (tmp_path / "val.jsonl").unlink()
    findings = verify.verify(step, rebuilding(RESULT))
    assert all(f.ok for f in findings) and "1 of 1 not here, so nothing was held against them" in verify.table(findings)
    assert verify.table(findings).endswith(", 4 numbers rebuilt, 1 input not here")


# -- numbers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("derived", "place"),
    [
        ({"speed": 199.5000004}, "speed is 199.5, rebuilt 199.5000004"),
        ({"speed": 199.4999996}, "speed is 199.5, rebuilt 199.4999996"),
        ({"speed": None}, "speed is 199.5, rebuilt None"),
        ({"count": 3.0}, "count is 3, rebuilt 3.0"),  # another type
        ({"count": True}, "count is 3, rebuilt True"),
        ({"count": 4}, "count is 3, rebuilt 4"),
        ({"verdict": "INVALID"}, "verdict is 'VALID', rebuilt 'INVALID'"),
        ({"reasons": []}, "reasons is ['SINGLE_RUN'], rebuilt []"),
        ({"null": 0}, "null is None, rebuilt 0"),
        ({"deep": {"n": [1, 2.6]}}, "deep.n[1] is 2.5, rebuilt 2.6"),
        ({"more": 5}, "more is None, rebuilt 5"),
    ],
)
def test_a_number_that_does_not_follow_is_found_with_its_place(step, derived, place):
    assert failures(step, rebuilding(RESULT | derived)) == [f"numbers: {step / 'result.json'}: {place}"]


def test_a_key_that_no_longer_follows_is_found(step):
    (failure,) = failures(step, rebuilding({k: v for k, v in RESULT.items() if k != "speed"}))
    assert failure.endswith("speed is 199.5, rebuilt None")


def test_rounding_of_another_machine_is_no_difference(step):
    assert failures(step, rebuilding(RESULT | {"speed": 199.5 * (1 + 5e-10)})) == []
    assert list(verify.differences(True, 1)) and list(verify.differences(0, 0.0))
    assert not list(verify.differences(0.0, 0.0))
    assert list(verify.differences({"a": {"b": 1}}, {"a": 1})) == [("a", {"b": 1}, 1)]
    assert list(verify.differences([1, [2]], [1, 2])) == [("[1]", [2], 2)]


@pytest.mark.parametrize(("count", "shown"), [(5, "0; 1; 2; 3; 4"), (6, "0; 1; 2; 3; 4; 5"), (9, "0; 1; 2; 3; 4; 8")])
def test_of_many_differences_the_first_five_and_the_last_are_shown(tmp_path, count, shown):
    status = {"code": {"version": morocco_lib.__version__}}
    found = verify._rebuilt(tmp_path, status, lambda folder: (20, list(map(str, range(count)))))
    assert found == ("numbers", False, shown)


def test_the_first_five_differences_are_shown_and_the_version_if_it_is_another(step):
    status = steps.read_status(step)
    code = {**status["code"], "version": "0.0.9"}
    fileio.write_json(step / steps.STATUS, steps.seal({**status, "code": code}))
    (failure,) = failures(step, {"bench": kind(rebuild=lambda folder: (9, [f"{k}" for k in range(8)]))})
    written = f"written by morocco 0.0.9; this is {morocco_lib.__version__}, which may compute differently"
    assert failure == f"numbers: 0; 1; 2; 3; 4; {written}"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidResult("wrong"), "numbers: wrong"),
        (KeyError("idx"), "numbers: cannot be rebuilt (KeyError: 'idx')"),
    ],
)
def test_what_cannot_be_rebuilt_is_a_finding_and_no_crash(step, error, expected):
    def fail(folder):
        raise error

    assert failures(step, {"bench": kind(rebuild=fail)}) == [expected]


def test_only_the_named_steps_are_rebuilt(step):
    other = make(step.parent / "other")
    found = verify.verify(step.parent, rebuilding({}), rebuild={other.resolve()})
    assert [f.step for f in found if f.what == "numbers"] == ["other"]
    assert [f.step for f in found if f.what == "files"] == ["other", "step"]


# -- states --------------------------------------------------------------------------------------------------------
def test_a_failed_step_is_noted_and_not_rebuilt(tmp_path):
    findings = verify.verify(make(tmp_path / "step", state=steps.FAILED), rebuilding({}))
    assert [(f.what, f.ok) for f in findings] == [("status", True), ("files", True), ("unchecked", True)]
    assert verify.table(findings).endswith("; not checked: 1 step that failed")
    assert "note    step: failed, exit 0" in verify.table(findings)


def test_an_earlier_attempt_has_digests_only(step):
    steps.retire(step)
    findings = verify.verify(step.parent, rebuilding({}))
    assert [(f.step, f.what) for f in findings] == [("step.1", what) for what in ("status", "files", "unchecked")]
    assert verify.table(findings).endswith("; not checked: 1 step set aside")
    (step.with_name("step.1") / "result.json").write_text("{}")
    assert len(failures(step.parent)) == 1


def test_a_step_that_runs_or_was_killed_cannot_be_verified(tmp_path):
    running = steps.Step.begin(tmp_path / "step", "bench", parameters={}, inputs={})
    assert failures(tmp_path) == ["status: still running"]
    dead = {**running.status, "owner": {**running.status["owner"], "boot_id": "another", "pid": 1}}
    fileio.write_json(tmp_path / "step" / steps.STATUS, steps.seal(dead))
    assert failures(tmp_path) == ["status: was killed while it ran; its files cannot be verified until it is run again"]


# -- files beside the steps ----------------------------------------------------------------------------------------
def test_lines_that_follow_from_no_step_are_found(step):
    (step.parent / "results.jsonl").write_text("")
    tables = {"results.jsonl": lambda path: [2, 5]}
    (failure,) = failures(step.parent, tables=tables)
    assert failure.startswith(f"lines: {step.parent / 'results.jsonl'}: line 2, line 5 does not follow from the steps")
    assert failures(step.parent, tables=tables, rebuild=set()) == []
    findings = verify.verify(step.parent, rebuilding(RESULT), tables={"results.jsonl": lambda path: []})
    assert verify.table(findings).startswith("verified: 1 step folder,")


def test_a_table_that_cannot_be_read_is_a_finding(step):
    (step.parent / "results.jsonl").write_text("")
    (failure,) = failures(step.parent, tables={"results.jsonl": lambda path: json.loads("{")})
    assert "JSONDecodeError" in failure


def test_the_text_shows_failures_in_full_and_counts_what_holds(step):
    change(step / "runs/answers.jsonl", "{}", "[]")
    text = verify.table(verify.verify(step, rebuilding(RESULT | {"count": 4})))
    assert text.splitlines() == [
        f"FAILED  step: files: {step}/runs/answers.jsonl was changed",
        f"FAILED  step: numbers: {step}/result.json: count is 3, rebuilt 4",
        "NOT VERIFIED: 2 failures in 1 step folder, 0 digests, 0 numbers rebuilt",
    ]


# -- what was rebuilt before ---------------------------------------------------------------------------------------
@pytest.fixture
def remembered(step, tmp_path):
    """A step that was verified once; `again` verifies it and returns (failures, how often numbers were rebuilt)."""
    rebuilds = []

    def rebuild(folder):
        rebuilds.append(folder)
        return verify.compare(folder, "result.json", RESULT)

    beside = {"figure": "red"}
    kinds = {"bench": replace(kind(rebuild=rebuild), rests_on=lambda folder: beside)}

    def again(anew=False, **options):
        rebuilds.clear()
        memory = Memory(tmp_path / "cache/verified.sqlite", anew=anew)
        verified = verify.verify(step, kinds, each=partial(each, kinds=kinds, memory=memory), **options)
        return [f.seen for f in verified if not f.ok], len(rebuilds)

    assert again() == ([], 1)
    return SimpleNamespace(again=again, step=step, kinds=kinds, beside=beside, records=tmp_path / "val.jsonl")


def each(folders, rebuild, **options):
    return [verify.verify_step(folder, wanted, **options) for folder, wanted in zip(folders, rebuild, strict=True)]


def test_the_same_bytes_are_rebuilt_once_and_the_summary_says_so(remembered, tmp_path):
    assert remembered.again() == ([], 0)
    found = each([remembered.step], [True], kinds=remembered.kinds, memory=Memory(tmp_path / "cache/verified.sqlite"))[
        0
    ]
    text = verify.table([verify.Finding("step", *one) for one in found.found])
    assert text.startswith("verified: 1 step folder, 2 digests, 4 numbers rebuilt")
    assert text.endswith("; 1 step rebuilt before, from the same bytes by the same code (--again repeats it)")


def test_a_changed_byte_is_found_though_its_numbers_were_rebuilt_before(remembered):
    change(remembered.step / "runs/answers.jsonl", "{}", "[]")
    (failure,), _ = remembered.again()
    assert failure.endswith("answers.jsonl was changed")


def test_what_is_remembered_wrongly_is_forgotten_where_it_is_rebuilt_anew(remembered, monkeypatch):
    assert remembered.again(anew=True) == ([], 1)
    monkeypatch.setitem(RESULT, "count", 4)
    assert remembered.again() == ([], 0)
    assert remembered.again(anew=True) == ([f"{remembered.step}/result.json: count is 3, rebuilt 4"], 1)
    assert remembered.again()[1] == 1


@pytest.mark.parametrize("changed", ["status", "input", "beside", "place", "code", "inside"])
def test_numbers_are_rebuilt_again_where_anything_that_they_follow_from_is_other_than_before(
    remembered, changed, monkeypatch
):
    if changed == "status":
        status = json.loads((remembered.step / "status.json").read_text()) | {"exit": 1}
        fileio.write_json(remembered.step / "status.json", steps.seal(status))
    elif changed == "input":
        remembered.records.unlink()
    elif changed == "beside":
        remembered.beside["figure"] = "blue"
    elif changed == "place":
        remembered.step.rename(remembered.step.with_name("elsewhere"))
        remembered.step.symlink_to(remembered.step.with_name("elsewhere"))
    elif changed == "inside":
        make(remembered.step / "runs/inner")
    else:
        monkeypatch.setattr("morocco_lib.artifacts.memory.code_sha256", lambda: "another")
    assert remembered.again()[1] == 1 + (changed == "inside")


def test_what_does_not_hold_is_not_remembered(remembered):
    change(remembered.step / "result.json", "199.5", "299.5")
    status = steps.read_status(remembered.step) | {"outputs": steps.digest_outputs(remembered.step)}
    fileio.write_json(remembered.step / "status.json", steps.seal(status))
    first, second = remembered.again(), remembered.again()
    assert first == second and first[1] == 1 and "speed is 299.5, rebuilt 199.5" in first[0][0]


def test_without_a_place_to_remember_numbers_are_rebuilt_each_time(step, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no table")
    for path in (tmp_path / "file/verified.sqlite", tmp_path / "file"):
        monkeypatch.setattr("morocco_lib.artifacts.memory._without", set())
        for _ in range(2):
            found = verify.verify_step(step, True, rebuilding(RESULT), Memory(path)).found
            assert ("numbers", True, "4 numbers rebuilt") in found and verify.BEFORE not in [what for what, *_ in found]


def test_a_locked_table_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr("morocco_lib.artifacts.memory._without", set())
    memory, path = Memory(tmp_path / "verified.sqlite"), tmp_path / "verified.sqlite"
    memory.add("key", 1)
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert [memory.get("key") for _ in range(9)] == [None] * 9 and time.monotonic() - began < 5


def test_the_digest_of_the_code_is_of_every_file_of_it(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("a = 1\n")
    (tmp_path / "page.j2").write_text("{{ a }}\n")
    monkeypatch.setattr(morocco_lib, "__file__", str(tmp_path / "__init__.py"))
    digests = {code_sha256.__wrapped__()}
    for name, text in {"__init__.py": "a = 2\n", "page.j2": "{{ b }}\n", "new.py": ""}.items():
        (tmp_path / name).write_text(text)
        digests.add(code_sha256.__wrapped__())
    assert len(digests) == 4
