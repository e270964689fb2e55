"""Each named check lets an honest submission pass and finds what it is about."""

import json
import random
import re
import shutil
from dataclasses import replace
from functools import partial

import complete_runs
import pytest
import run_folders
import submissions

from morocco_lib import fileio
from morocco_lib.artifacts import steps
from morocco_lib.leaderboard import checks, noise, submission
from morocco_lib.leaderboard.entry import MEMORY, METRICS, SCORE, SPEED, Outcome

OK, MARKED, UNTIMED, REFUSED = Outcome
USUAL = {"SIGNATURE": MARKED, "ISOLATION": MARKED, "RECORDS": MARKED}  # of a small unsigned bench of a bare process


def judged(archive, terms, known=()):
    (entry,) = checks.judge(archive, terms, known)
    return entry


def beside_the_usual(entry):
    """(check, outcome, what was seen) of all that did not pass and is not usual."""
    return [(c.name, c.outcome, c.seen) for c in entry.checks if c.outcome not in (OK, USUAL.get(c.name))]


def on_runs(edit):
    """Return what edits run.json of every run."""

    def edit_step(step):
        for path in step.glob("runs/*/run.json"):
            complete_runs.edit(path, edit)

    return edit_step


def quick(step):
    complete_runs.edit(step / "protocol.json", lambda p: p.update(quick=True, asked=p["asked"] | {"quick": True}))
    complete_runs.reseal(step, parameters=steps.read_status(step)["parameters"] | {"quick": True})


def contract_broken(step):
    complete_runs.edit(step / "protocol.json", lambda p: p["conformance"].update(ok=False))


def answered_before_it_was_fed(facts):
    first_s = facts["phases"]["first_answer_s"]
    facts["phases"].update(dict.fromkeys(("first_write_s", "first_read_s", "stdin_closed_s"), first_s + 0.001))


# -- what holds ----------------------------------------------------------------------------------------------------
def test_an_honest_submission_is_marked_for_what_it_cannot_prove(honest, terms):
    entry = judged(honest, terms)
    assert entry.verdict == "marked" and beside_the_usual(entry) == []
    seen = {check.name: check.seen for check in entry.checks}
    assert set(USUAL) < set(seen) and "nor that it was ever measured" in seen["SIGNATURE"]
    assert seen["LABELS"] == "what was fed is the records without labels"
    assert all(entry.counts(metric, ["terra"]) for metric in METRICS)
    assert re.fullmatch(r".*, \d+ cores", entry.machine) and entry.records == {
        "terra": fileio.sha256_file(terms.files["terra"])
    }
    assert entry.points["terra"]["batch_size"] == 8 and entry.cells["terra"][SPEED][0] == pytest.approx(500, rel=0.02)
    assert len(entry.noise) == 3 and all(len(found) == 9 for found in entry.noise.values())


def test_it_is_the_same_after_it_was_packed_again(honest, repacked):
    assert repacked(honest, lambda step: None, seal=False).read_bytes() == honest.read_bytes()


# -- what does not -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("edit", "check", "outcome", "seen"),
    [
        (on_runs(lambda facts: facts["exit"].update(code=1)), "VALID", REFUSED, "terra: NON_ZERO_EXIT"),
        (on_runs(lambda facts: facts.update(proven={"memory": False, "isolation": False})), "UNPROVEN", UNTIMED, "terra: UNPROVEN"),
        (on_runs(lambda facts: facts["sampler"].update(longest_gap_s=9)), "DISTURBED", UNTIMED, "terra: SAMPLER_GAPS"),
        (on_runs(answered_before_it_was_fed), "CLOCKS", REFUSED, "runs/01: phases go back"),
        (on_runs(lambda facts: facts.update(bytes_fed=1)), "NUMBERS", REFUSED, "runs/01: bytes_fed is 1, "),
        (contract_broken, "CONTRACT", REFUSED, "CONTRACT_BROKEN"),
        (quick, "CONTRACT", UNTIMED, "terra: QUICK"),
    ],
)  # fmt: skip
def test_a_fault_of_a_program_a_machine_or_a_bench_is_named(honest, repacked, terms, edit, check, outcome, seen):
    entry = judged(repacked(honest, edit), terms)
    found = {name: (how, text) for name, how, text in beside_the_usual(entry)}
    assert found[check][0] is outcome and seen in found[check][1], found
    assert entry.verdict == ("refused" if outcome is REFUSED else "marked")
    counted = [metric for metric in METRICS if entry.counts(metric, ["terra"])]
    untimed = [SCORE] if check == "UNPROVEN" else [SCORE, MEMORY]
    assert counted == ([] if outcome is REFUSED else untimed)


def test_times_that_go_back_are_refused(honest, repacked, terms):
    def edit(step):
        path = step / "runs/02/chunks.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([lines[1], lines[0], *lines[2:]]))

    assert ("NUMBERS", REFUSED) in [found[:2] for found in beside_the_usual(judged(repacked(honest, edit), terms))]

    def samples(step):
        path = step / "runs/02/samples.jsonl"
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))

    entry = judged(repacked(honest, samples, name="samples"), terms)
    assert ("NUMBERS", REFUSED) in [found[:2] for found in beside_the_usual(entry)]


@pytest.mark.parametrize(("early_s", "found"), [(0.0001, []), (0.66, [("NUMBERS", REFUSED)])])
def test_an_end_just_before_the_last_answer_is_an_engines_way(honest, repacked, terms, early_s, found):
    def as_container(facts):
        exit_s = facts["phases"]["last_answer_s"] - early_s
        facts.update(runner="docker", image_digest="sha256:0", proven={"memory": True, "isolation": True})
        facts["phases"].update(engine_start_s=0.01, engine_die_s=exit_s, exit_s=exit_s)

    def edit(step):
        for path in step.rglob("run.json"):
            complete_runs.edit(path, as_container)

    entry = judged(repacked(honest, edit), terms)
    assert [seen[:2] for seen in beside_the_usual(entry)] == found


def test_single_runs_and_a_missing_task_are_named(submit, terms):
    entry = judged(submit(runs=1), terms)
    assert ("RUNS", UNTIMED, "terra: SINGLE_RUN") in beside_the_usual(entry) and not entry.counts(SPEED, ["terra"])
    entry = judged(submit(), replace(terms, tasks=("rcb", "terra")))
    assert ("COMPLETE", REFUSED, "no result on rcb") in beside_the_usual(entry)


def test_answers_that_were_kept_are_refused(honest, repacked, terms, monkeypatch):
    monkeypatch.setattr("morocco_lib.analysis.summary.kept_answers", lambda *args: {"value": 9.0, "fires": True})
    entry = judged(repacked(honest, lambda step: None), terms)
    assert ("CACHED", REFUSED, "terra: CACHED_ANSWERS") in beside_the_usual(entry)


def test_numbers_that_do_not_follow_and_points_that_were_changed_are_refused(honest, repacked, terms):
    def faster(step):
        complete_runs.edit(step / "bench.json", lambda result: result["speed_per_s"].update(value=5000.0))

    def other(step):
        path = step.parents[3] / "submission.json"
        complete_runs.edit(path, lambda value: value["points"][0].update(batch_size=1))

    for edit, how, check, seen in (
        (faster, False, "DIGESTS", "bench.json: not as in SHA256SUMS"),
        (faster, "digests", "NUMBERS", "speed_per_s.value is 5000.0, rebuilt"),
        (other, "sums", "POINTS", "does not follow"),
    ):
        wrong = judged(repacked(honest, edit, seal=how, name=check), terms)
        assert (wrong.model, wrong.verdict) == (None, "refused")
        assert [c.name for c in wrong.checks] == [check] and seen in wrong.checks[0].seen


def test_labels_that_were_fed_and_other_records_are_refused(honest, repacked, terms):
    def fed(step):  # the stream with labels has another digest
        for path in step.glob("runs/*/workload.json"):
            complete_runs.edit(path, lambda load: load.update(sha256="0" * 64))

    entry = judged(repacked(honest, fed), terms)
    assert [found[:2] for found in beside_the_usual(entry)] == [("LABELS", REFUSED)]
    assert "runs/01: sha256" in beside_the_usual(entry)[0][2]
    entry = judged(honest, replace(terms, records={"terra": "0" * 64}))
    assert ("RECORDS", REFUSED) in [found[:2] for found in beside_the_usual(entry)]
    entry = judged(honest, replace(terms, files={}))
    assert [found[:2] for found in beside_the_usual(entry)] == [("LABELS", MARKED)] and "--data" in beside_the_usual(
        entry
    )[0][2]


def test_another_task_under_the_name_of_one_is_refused(honest, repacked, terms):
    def renamed(step):
        for path in step.rglob("run.json"):
            complete_runs.edit(path, lambda facts: facts.update(task="rcb"))
        complete_runs.reseal(step, task="rcb")

    archive = repacked(honest, renamed)
    entry = judged(archive, replace(terms, tasks=("rcb",), files={"rcb": terms.files["terra"]}))
    assert beside_the_usual(entry) == [
        ("LABELS", REFUSED, "; ".join(f"m/terra/bench-1/runs/0{k}: terra was fed" for k in (1, 2, 3)))
    ]


def test_another_file_under_the_path_of_an_input_is_none_of_its(val, terms, tmp_path):
    archive = submissions.submit(tmp_path, val)
    (tmp_path / "val.jsonl").write_text(val.read_text().replace("x", "y"))
    assert not [
        finding for finding in submission.verify_archive(archive) if finding.what == "inputs" and not finding.ok
    ]


# -- copied noise --------------------------------------------------------------------------------------------------
def copied(factor=1.0, moved_ns=0):
    """Return what makes the second run of the first one, with all times moved or scaled."""

    def edit(step):
        one, two = (step / f"runs/{number:02d}" for number in (1, 2))
        begun = json.loads((two / "run.json").read_text())["started"]
        shutil.rmtree(two)
        shutil.copytree(one, two)
        for name in ("chunks.jsonl", "samples.jsonl"):
            moved = partial(map, lambda line: line | {"t_ns": round(line["t_ns"] * factor) + moved_ns})
            complete_runs.edit_lines(two / name, lambda lines, moved=moved: list(moved(lines)))
        scaled = partial(complete_runs.scaled, share=factor, keep=("period_asked_s",))
        complete_runs.edit(two / "run.json", lambda facts: facts.update(scaled(facts), run=2, started=begun))
        complete_runs.follow(two)

    return edit


@pytest.mark.parametrize("edit", [copied(), copied(1.013), copied(moved_ns=12_345)])
def test_a_run_made_of_another_is_found(honest, repacked, terms, edit):
    entry = judged(repacked(honest, edit), terms)
    (name, outcome, seen), = beside_the_usual(entry)  # fmt: skip
    assert (name, outcome) == ("NOISE", REFUSED) and "runs/01 is" in seen and "runs/02" in seen


def test_the_times_of_another_submission_are_found_but_not_a_newer_one_of_the_same_signer(submit, terms, keys):
    archive = submit("ours")
    first = judged(archive, terms)
    assert judged(archive, terms, [first]).verdict == "marked"  # the same one once more

    def again(entry, **changed):
        return checks._Judged(None, [], terms, [replace(first, **changed)])._noise(entry.noise, entry)

    other = replace(first, id="0" * 12, model="theirs")
    assert again(other).outcome is REFUSED and f"of ours ({first.id})" in again(other).seen
    assert again(replace(other, model="ours", signer="a"), signer="a").outcome is OK
    assert again(replace(other, model="ours", signer="b"), signer="a").outcome is REFUSED
    assert judged(submit("other", seed=2), terms, [first]).verdict == "marked"


def test_the_times_of_another_model_of_one_submission_are_found(val, terms, tmp_path):
    for model in ("one", "two"):
        submissions.bench_step(tmp_path / "out" / model / "terra/bench-1", val, model, like="one")
    submission.pack(tmp_path / "out", tmp_path / "s.zip")
    first, second = checks.judge(tmp_path / "s.zip", terms, [])
    assert beside_the_usual(first) == [] and [found[:2] for found in beside_the_usual(second)] == [("NOISE", REFUSED)]


def test_equal_intervals_are_no_noise_and_few_are_not_judged(honest, repacked, terms):
    def flat(step):
        for run in step.glob("runs/*"):
            complete_runs.edit_lines(run / "chunks.jsonl", steadied)
            complete_runs.follow(run)

    def steadied(lines):
        first_ns, last_ns = lines[0]["t_ns"], lines[-1]["t_ns"]
        return [line | {"t_ns": first_ns + k * ((last_ns - first_ns) // 9)} for k, line in enumerate(lines)]

    entry = judged(repacked(honest, flat), terms)
    assert "repeat to the ns" in {n: s for n, _, s in beside_the_usual(entry)}["NOISE"]
    few = run_folders.run_of(run_folders.steady(40, 10))
    assert noise.intervals(few) == []


def test_honest_runs_are_no_copies_of_each_other():
    generator = random.Random(4)
    work = [generator.uniform(1e6, 9e6) for _ in range(60)]  # ns a batch, the same in each run
    runs = [[round(w * generator.gauss(1, 2e-3) + generator.gauss(0, 2e3)) for w in work] for _ in range(60)]
    assert not any(noise.is_copy(a, b) for k, a in enumerate(runs) for b in runs[:k])
    quick = [[round(generator.gauss(60e3, 1.5e3)) for _ in range(60)] for _ in range(60)]
    assert not any(noise.is_copy(a, b) for k, a in enumerate(quick) for b in quick[:k])
    assert not any(map(noise.is_made_up, [*runs, *quick]))
    shuffled = generator.sample(runs[0][5:], len(runs[0]) - 5)
    assert noise.is_copy(runs[0], shuffled)
