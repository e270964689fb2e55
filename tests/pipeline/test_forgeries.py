"""Forgeries, with every digest made anew: each is found by `verify`, or docs/evidence.md says that it cannot be.

One small plan is written as its steps would leave it: of a program that answers 500 records a second.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from complete_runs import (
    BATCH,
    BEGAN,
    FED_S,
    RATE,
    TERRA,
    at,
    edit,
    edit_lines,
    follow,
    reseal,
    scaled,
    write_bench,
    write_run,
)
from helpers import ROOT, write_records
from run_folders import QUIET

from morocco_lib import data, fileio
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.memory import Memory
from morocco_lib.artifacts.verify import BEFORE, table
from morocco_lib.data import workload
from morocco_lib.pipeline.report_step import report_step
from morocco_lib.pipeline.step_kinds import verify
from morocco_lib.report import tables


# -- a plan as its steps leave it ----------------------------------------------------------------------------------
def begin(folder: Path, kind: str, source: Path) -> steps.Step:
    parameters = {"command": "m", "batch_size": BATCH, "seed": 1}
    return steps.Step.begin(folder, kind, model="m", task="terra", parameters=parameters, inputs={"records": source})


def write_plan(home: Path) -> SimpleNamespace:
    source = write_records(home / "val.jsonl", 40)
    bench, scored, fitted = (home / f"plan/m/terra/{name}" for name in ("bench-1", "eval-1", "train-1"))
    fit = begin(fitted, "train", source)
    right = [TERRA.gold(record)["label"] for record in TERRA.read(source)]
    labels = {label: right.count(label) for label in TERRA.labels}
    known = {"origin": "files", "sha256": fileio.sha256_file(source), "records": 40, "path": str(source)}
    fileio.write_json(
        fitted / "train.json", {"schema": 1, "task": "terra", "model": "m", "seed": 1, "data": known, "labels": labels}
    )
    fit.finish(steps.DONE, 0)
    now_s = write_bench(bench, source)
    (bench / "notebook.html").write_text("<html><body>\n<p>as it ran</p>\n</body></html>")
    reseal(bench)
    step = begin(scored, "eval", source)
    write_run(scored, source, now_s + 5, "eval")
    texts, result = summary.derive_eval(scored)
    (scored / summary.PREDICTIONS).write_text(texts[summary.PREDICTIONS])
    fileio.write_json(scored / summary.SCORE, result)
    step.finish(steps.DONE, 0)
    reseal(scored, started=at(now_s + 4), ended=at(now_s + 9))
    page = report_step(home / "plan")
    return SimpleNamespace(home=home, report=page.parent.relative_to(home))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return write_plan(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def forged(honest, tmp_path):
    """A copy of the plan to be forged: `bench`, `eval`, `train`, `report` and the file of records."""
    home = shutil.copytree(honest.home, tmp_path / "home")
    cell = home / "plan/m/terra"
    reports = {"report": home / honest.report, "source": home / "val.jsonl", "plan": home / "plan"}
    return SimpleNamespace(bench=cell / "bench-1", eval=cell / "eval-1", train=cell / "train-1", **reports)


def test_what_is_honest_verifies_and_what_was_not_checked_is_counted(forged):
    findings = verify(forged.plan)
    assert [finding.seen for finding in findings if not finding.ok] == []
    text = table(findings)
    assert re.fullmatch(
        r"verified: 4 step folders, \d+ digests, \d{3} numbers rebuilt; not checked: 1 training not repeated", text
    )
    assert json.loads((forged.bench / summary.BENCH).read_text())["verdict"] == "VALID"


# -- the tools of a forger -----------------------------------------------------------------------------------------
def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("run.json"))


def timed(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("runs/*/run.json"))


def derive(folder: Path) -> None:
    """Write the results that follow from the forged runs."""
    if (folder / summary.BENCH).exists():
        fileio.write_json(folder / summary.BENCH, summary.derive(folder))
    else:
        texts, result = summary.derive_eval(folder)
        (folder / summary.PREDICTIONS).write_text(texts[summary.PREDICTIONS])
        fileio.write_json(folder / summary.SCORE, result)


def scale(folder: Path, share: float, keep: tuple[str, ...] = ()) -> None:
    """Scale all times of all runs; their sampler's numbers follow."""
    for run in runs(folder):
        for name in ("chunks.jsonl", "samples.jsonl"):
            edit_lines(run / name, lambda lines: scaled(lines, share, keep))
        edit(run / "run.json", lambda facts: facts.update(scaled(facts, share, keep)))
        follow(run)


def facts(folder: Path, change: Callable[[dict], object], where=runs) -> None:
    for run in where(folder):
        edit(run / "run.json", change)


def loads(folder: Path, change: Callable[[dict], object]) -> None:
    for run in runs(folder):
        edit(run / "workload.json", change)


def answer_right(folder: Path) -> None:
    """Invent answers: those that are right, in the chunks as they came."""
    for run in runs(folder):
        load = json.loads((run / "workload.json").read_text())
        printed = [
            json.dumps({"idx": k, **load["gold"][place]} | {"idx": k}).encode() + b"\n"
            for k, place in enumerate(load["order"])
        ]
        (run / "answers.jsonl").write_bytes(b"".join(printed))

        def resize(chunks, printed=printed):
            begin = 0
            for chunk in chunks:
                chunk["bytes"] = len(b"".join(printed[begin : (begin := begin + chunk["lines"])]))

        edit_lines(run / "chunks.jsonl", resize)
        edit(run / "run.json", lambda facts, printed=printed: facts.update(stdout_bytes=sum(map(len, printed))))


# -- what is found -------------------------------------------------------------------------------------------------
FOUND: dict[str, tuple[str, Callable, str]] = {}  # name -> (step, forgery, what of the finding)


def found(step: str, says: str):
    def keep(forgery):
        FOUND[forgery.__name__] = step, forgery, says
        return forgery

    return keep


@found("bench", "sampler.period_asked_s is")
def all_times_by_ten(plan):
    scale(plan.bench, 0.1)
    edit(plan.bench / summary.PROTOCOL, lambda p: p.update(took_s=p["took_s"] / 10))


@found("bench", "the kit takes one every 0.02 s")
def all_times_by_ten_but_the_period(plan):
    scale(plan.bench, 0.1, keep=("period_asked_s",))


@found("bench", "less than 0.1 s after it became quiet")
def all_times_by_ten_with_fewer_samples(plan):
    def thin(samples):
        return [s for k, s in enumerate(samples) if "mark" in s or k % 10 == 0]

    scale(plan.bench, 0.1, keep=("period_asked_s",))
    for run in runs(plan.bench):
        edit_lines(run / "samples.jsonl", thin)
        follow(run)


@found("eval", "CPU seconds within")
def times_of_a_busy_program_by_ten(plan):
    edit_lines(
        plan.eval / "runs/01/samples.jsonl",
        lambda samples: [s.update(cpu_s=s["cpu_s"] * 20 * 10) for s in samples] and None,
    )


@found("bench", "the sample at 'last_answer'")
def answers_come_sooner_after_feeding(plan):
    for run in runs(plan.bench):
        edit_lines(
            run / "chunks.jsonl",
            lambda chunks: (
                [c.update(t_ns=round(FED_S * 1e9 + (c["t_ns"] - FED_S * 1e9) / 10)) for c in chunks] and None
            ),
        )
        follow(run)


@found("bench", "it happened at")
def ready_sooner(plan):
    facts(plan.bench, lambda f: (f["events"][0].update(t_ns=10**8), f["phases"].update(ready_s=0.1)))


@found("bench", "by its events")
def ready_sooner_in_the_phases_alone(plan):
    facts(plan.bench, lambda f: f["phases"].update(ready_s=0.1))


@found("bench", "no process ended then")
def ends_sooner(plan):
    facts(plan.bench, lambda f: f["phases"].update(exit_s=f["phases"]["exit_s"] / 10))


@found("bench", "were watched for")
def lives_longer(plan):
    facts(
        plan.bench, lambda f: (f["phases"].update(exit_s=5.0), f.update(ended_processes=[])), lambda f: [f / "runs/03"]
    )


@found("bench", "by the last sample")
def less_cpu_time_in_total(plan):
    facts(plan.bench, lambda f: f.update(cpu_s=f["cpu_s"] / 10))


@found("bench", "CPU seconds that become less")
def less_cpu_time_between_the_answers(plan):
    for run in runs(plan.bench):
        edit_lines(run / "samples.jsonl", lambda samples: samples[-3].update(cpu_s=samples[-3]["cpu_s"] / 2))


@found("bench", "sampler.samples is")
def a_peak_of_memory_left_out(plan):
    for run in runs(plan.bench):
        edit_lines(run / "samples.jsonl", lambda samples: samples[:20] + samples[27:])
        edit(run / "run.json", lambda f: f["sampler"].update(samples=f["sampler"]["samples"] - 8))


@found("bench", "sampler.longest_gap_s is")
def a_peak_of_memory_left_out_and_counted(plan):
    for run in runs(plan.bench):
        edit_lines(run / "samples.jsonl", lambda samples: samples[:5] + samples[12:])
        gap_s = json.loads((run / "run.json").read_text())["sampler"]["longest_gap_s"]
        follow(run)
        edit(run / "run.json", lambda f, gap_s=gap_s: f["sampler"].update(longest_gap_s=gap_s, gaps_s=0.0))


@found("bench", "of which its runs took")
def a_protocol_shorter_than_its_runs(plan):
    edit(plan.bench / summary.PROTOCOL, lambda p: p.update(took_s=p["took_s"] / 10))


@found("bench", "not made between started and ended")
def a_step_shorter_than_its_runs(plan):
    reseal(plan.bench, ended=at(5))


@found("bench", "by the wall clock two runs overlap")
def the_quickest_run_three_times(plan):
    for number in (2, 3):
        shutil.rmtree(plan.bench / f"runs/{number:02d}")
        shutil.copytree(plan.bench / "runs/01", plan.bench / f"runs/{number:02d}")
        edit(plan.bench / f"runs/{number:02d}/run.json", lambda f, number=number: f.update(run=number))


@found("bench", "run is 1, by its step 2")
def a_run_under_another_number(plan):
    shutil.rmtree(plan.bench / "runs/02")
    shutil.copytree(plan.bench / "runs/01", plan.bench / "runs/02")


@found("bench", "2 runs, 3 were asked for")
def the_slowest_run_left_out(plan):
    shutil.rmtree(plan.bench / "runs/03")


@found("bench", "an engine's times or image")
def a_process_as_a_container(plan):
    facts(plan.bench, lambda f: f.update(runner="docker"))


@found("bench", "a bare process is not isolated")
def a_process_as_isolated(plan):
    facts(plan.bench, lambda f: f.update(proven={"memory": True, "isolation": True}))


@found("bench", "chunks.jsonl: its lines do not end where")
def a_steady_stream_of_one_burst(plan):
    for run in timed(plan.bench):
        edit_lines(
            run / "chunks.jsonl",
            lambda chunks: (
                chunks[0].update(bytes=chunks[0]["bytes"] - 5) or chunks[1].update(bytes=chunks[1]["bytes"] + 5)
            ),
        )


@found("bench", "its events are not those of stderr.log")
def another_precision(plan):
    facts(plan.bench, lambda f: f["events"][0].update(precision="fp16"))


@found("bench", "but it was started with")
def another_batch_size(plan):
    facts(plan.bench, lambda f: f.update(batch_size=1))
    edit(plan.bench / summary.PROTOCOL, lambda p: p["asked"].update(batch_size=1))
    reseal(plan.bench, parameters={**steps.read_status(plan.bench)["parameters"], "batch_size": 1})


@found("bench", "its runs differ in argv")
def runs_of_a_quicker_program(plan):
    facts(plan.bench, lambda f: f.update(argv=["quick", *f["argv"][1:]]), lambda f: [f / "runs/02"])


@found("bench", "model is 'm', by its step 'large'")
def under_another_name(plan):
    reseal(plan.bench, model="large")


@found("bench", "host is")
def on_another_machine(plan):
    reseal(plan.bench, host={**steps.read_status(plan.bench)["host"], "cpu": "a slow one"})


@found("bench", "quick is False, by status.json True")
def quick_unmarked(plan):
    reseal(plan.bench, parameters={**steps.read_status(plan.bench)["parameters"], "quick": True})


@found("bench", "not quick, but without short")
def without_the_runs_that_show_a_start_up(plan):
    shutil.rmtree(plan.bench / "short")


@found("bench", "not quick, but without cached/unique, cached/repeated")
def without_the_runs_that_show_a_cache(plan):
    shutil.rmtree(plan.bench / "cached")
    edit(plan.bench / summary.PROTOCOL, lambda p: p.pop("cached"))


@found("bench", "first_write_s at")
def fed_later(plan):
    facts(plan.bench, lambda f: f["phases"].update(first_write_s=FED_S + 0.005))


@found("bench", "least_s at")
def fed_before_it_was_to_be(plan):
    facts(plan.bench, lambda f: f["withheld"].update(least_s=5.0))


@found("bench", "by chunks.jsonl, by run.json otherwise")
def answers_come_sooner_in_the_phases_alone(plan):
    facts(plan.bench, lambda f: f["phases"].update(last_answer_s=0.9))


@found("bench", "chunks.jsonl: not in order of time")
def an_answer_that_came_late_moved_forward(plan):
    for run in timed(plan.bench):
        edit_lines(run / "chunks.jsonl", lambda chunks: chunks[-2].update(t_ns=chunks[5]["t_ns"]))


@found("bench", "samples.jsonl: not in order of time")
def samples_of_another_time(plan):
    for run in timed(plan.bench):
        edit_lines(run / "samples.jsonl", lambda samples: samples[-1].update(t_ns=samples[-1]["t_ns"] + 60 * 10**9))


@found("bench", "samples.jsonl ends before the run")
def no_samples_of_the_end(plan):
    for run in timed(plan.bench):
        edit_lines(run / "samples.jsonl", lambda samples: samples[:26])
        follow(run)
        edit(run / "run.json", lambda f: f["sampler"].update(longest_gap_s=0.02, gaps_s=0.0))


def with_gpu(plan, times_ns):
    facts(
        plan.bench,
        lambda f: f.update(gpu={"source": "nvml", "devices": [], "pids": [], "pids_hidden": False, "sampler": None}),
    )
    for run in runs(plan.bench):
        (run / "gpu.jsonl").write_text("".join(json.dumps({"t_ns": t_ns, "gpu": 0}) + "\n" for t_ns in times_ns))


@found("bench", "gpu.jsonl: not in order of time")
def a_gpu_at_another_time(plan):
    with_gpu(plan, [10**8, 2 * 10**8, 60 * 10**9])


@found("bench", "gpu.jsonl: more samples than one every")
def a_gpu_sampled_too_often(plan):
    with_gpu(plan, range(0, 10**8, 10**7))


@found("bench", "100.000 CPU seconds within")
def more_cpu_time_than_cores_have(plan):
    facts(plan.bench, lambda f: f.update(cpu_s=100.0, sampler={**f["sampler"], "source": "proc"}), timed)


def as_container(plan, start_s, die_s):
    engine = {"engine_start_s": start_s, "engine_die_s": die_s}
    facts(plan.bench, lambda f: (f.update(runner="docker", image_digest="sha256:0"), f["phases"].update(engine)))


@found("bench", "by the engine 0.100")
def a_container_that_died_sooner(plan):
    as_container(plan, 0.05, 0.1)


@found("bench", "engine_start_s at")
def a_container_that_started_after_its_end(plan):
    as_container(plan, 9.0, 9.5)


@found("bench", "runs of another input size than 4000")
def fewer_records_than_asked_for(plan):
    edit(plan.bench / summary.PROTOCOL, lambda p: p["asked"].update(input_size=4000))
    reseal(plan.bench, parameters={**steps.read_status(plan.bench)["parameters"], "input_size": 4000})


@found("bench", "quick is True")
def the_protocol_cut_short(plan):
    edit(plan.bench / summary.PROTOCOL, lambda p: p.update(quick=True))
    shutil.rmtree(plan.bench / "short")


@found("bench", "workload.json: gold[")
def right_is_what_was_answered(plan):
    def change(load):
        load["gold"] = [
            {**gold, "label": TERRA.labels[len(r["hypothesis"]) % 2]}
            for gold, r in zip(load["gold"], TERRA.read(plan.source), strict=True)
        ]

    loads(plan.bench, change)


@found("eval", "workload.json: gold[")
def right_is_one_answer_in_an_eval(plan):
    loads(plan.eval, lambda load: load.update(gold=[{**gold, "label": TERRA.labels[0]} for gold in load["gold"]]))


@found("bench", "workload.json: order[")
def another_order(plan):
    loads(plan.bench, lambda load: load["order"].reverse())


@found("bench", "workload.json: source.sample is False")
def a_sample_as_the_official_split(plan):
    loads(plan.bench, lambda load: load["source"].update(sample=False, official_records=40))


@found("bench", "bytes_fed is")
def more_was_fed(plan):
    facts(plan.bench, lambda f: f.update(bytes_fed=10 * f["bytes_fed"]))


@found("bench", "its records are of no file that the step read")
def fed_with_other_records(plan):
    loads(plan.bench, lambda load: load["source"].update(sha256="0" * 64))


@found("train", "data is of no file that the step read")
def trained_on_other_records(plan):
    edit(plan.train / "train.json", lambda result: result["data"].update(sha256="0" * 64))


@found("bench", "exit is 1, by its result 0")
def another_exit(plan):
    reseal(plan.bench, exit=1)


@found("report", "table.csv does not follow from the steps")
def a_number_in_the_table(plan):
    path = plan.report / tables.CSV
    path.write_text(path.read_text().replace(",0.75,", ",0.95,", 1))


@found("report", "report.json does not follow from the steps")
def a_verdict_in_the_json(plan):
    edit(plan.report / "report.json", lambda result: result["measured"][0].update(verdict="INVALID"))


@found("report", "what it shows as results")
def a_number_on_the_page(plan):
    path = plan.report / "report.html"
    path.write_text(path.read_text().replace("0.750", "0.950"))


def on_the_page(plan, shown: str, other: str) -> None:
    path = plan.report / "report.html"
    assert shown in path.read_text()
    path.write_text(path.read_text().replace(shown, other))


@found("report", "report.html: what it shows as")
def a_verdict_on_the_page(plan):
    on_the_page(plan, ">VALID<", ">INVALID<")


@found("report", "report.html: what it shows as")
def a_unit_on_the_page(plan):
    on_the_page(plan, "MiB", "KiB")


@found("report", "report.html: what it shows as")
def a_setting_on_the_page(plan):
    on_the_page(plan, "OMP_NUM_THREADS", "OMP_THREADS")


@found("report", "does not follow from the steps")
def a_second_table_in_front(plan):
    path = plan.report / "report.html"
    path.write_text(
        path.read_text()
        .replace("<h2>Results</h2>", "<p>0.950</p><h2>Results</h2>", 1)
        .replace("</h1>", "</h1><p>first</p>")
    )


@found("report", '<use xlink:href="#a"')
def a_point_in_a_figure(plan):
    path = plan.report / "report.html"
    path.write_text(
        re.sub(r'<use xlink:href="#[^"]+" x="[\d.]+"', '<use xlink:href="#a" x="400"', path.read_text(), count=1)
    )


@found("report", "its trail does not follow from the steps")
def a_step_that_failed_as_done(plan):
    edit(plan.report / "report.json", lambda result: result["trail"][0].update(state="failed"))


@found("report", "it was made at another time")
def made_earlier(plan):
    edit(plan.report / "report.json", lambda result: result.update(made=at(-1000)))


@found("report", "is not the notebook of its step")
def another_notebook_beside_the_page(plan):
    (path,) = (plan.report / "notebooks").iterdir()
    path.write_text(path.read_text().replace("as it ran", "0.950"))


@found("report", "which was set aside")
def a_result_that_was_set_aside(plan):
    reseal(plan.bench, retired=at(0))


def only(folder: Path, plan_dir: Path) -> list[str]:
    """Return the failures of one step folder, everything sealed: nothing but its own files tells."""
    reseal(folder)
    if folder.name.startswith("report"):
        names = steps.read_status(folder)["inputs"]
        reseal(folder, inputs={name: fileio.sha256_file(folder / name) for name in names})
    return [f.seen for f in verify(folder) if not f.ok]


@pytest.mark.parametrize("name", FOUND)
def test_a_forgery_is_found(name, forged):
    step, forgery, says = FOUND[name]
    folder = getattr(forged, step)
    forgery(forged)
    if step in ("bench", "eval"):
        derive(folder)
    wrong = only(folder, forged.plan)
    assert any(says in seen for seen in wrong), wrong


@pytest.mark.parametrize(
    ("step", "name", "place"), [("bench", summary.BENCH, "speed_per_s"), ("eval", summary.SCORE, "score")]
)
def test_a_result_that_does_not_follow_is_found_whatever_its_folder_is_called(step, name, place, forged):
    folder = getattr(forged, step)
    edit(folder / name, lambda result: result[place].update(value=9.0))
    folder = folder.rename(folder.with_name("llama-3.1"))
    assert any(f"{place}.value is 9.0, rebuilt" in seen for seen in only(folder, forged.plan))
    status = steps.read_status(folder)
    folder = folder.rename(folder.with_name(f"{step}-{status['key']}.1"))
    assert any(f"{place}.value is 9.0, rebuilt" in seen for seen in only(folder, forged.plan))


# -- what is not checked is counted --------------------------------------------------------------------------------
def said(folder: Path) -> str:
    findings = verify(folder)
    assert [f.seen for f in findings if not f.ok] == []
    return table(findings)


def test_records_that_are_not_here_are_counted(forged):
    right_is_what_was_answered(forged)
    derive(forged.bench)
    digest = fileio.sha256_file(forged.source)
    reseal(forged.bench, inputs={"../../../../gone.jsonl": digest})
    text = said(forged.bench)
    assert "gone.jsonl not here" in text and text.endswith("not checked: 12 runs not held against the data")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": "failed", "exit": 1}, "1 step that failed"),
        ({"retired": at(0)}, "1 step set aside"),
        ({"step": "bench2"}, "1 step without numbers to rebuild"),
    ],
)  # fmt: skip
def test_a_step_whose_state_hides_its_numbers_is_not_called_verified(changes, says, forged):
    edit(forged.bench / summary.BENCH, lambda result: result["speed_per_s"].update(value=9.0))
    reseal(forged.bench, **changes)
    text = said(forged.bench).splitlines()[-1]
    assert text.startswith("digests hold, nothing was rebuilt: ") and text.endswith(f"not checked: {says}")


def test_a_result_left_out_of_a_report_is_counted(forged):
    extra = shutil.copytree(forged.eval, forged.plan / "other/terra/eval-1")
    reseal(extra)
    assert "1 step left out of a report: other/terra/eval-1" in said(forged.plan)


def test_a_report_without_its_steps_is_not_called_verified(forged):
    shutil.rmtree(forged.train)
    text = said(forged.report).splitlines()[-1]
    assert text.startswith("digests hold, nothing was rebuilt") and "1 report not held against its steps" in text


def test_figures_drawn_with_something_else_are_counted_and_the_rest_is_compared(forged):
    edit(forged.report / "report.json", lambda result: result["drawn_with"].update(matplotlib="0.1"))
    reseal(forged.report)
    assert re.search(r"not checked: .*2 figures not drawn anew", said(forged.report))
    a_second_table_in_front(forged)
    assert only(forged.report, forged.plan) != []


def test_a_page_of_before_says_nothing_of_isolation_and_verifies(forged):
    for folder in (forged.bench, forged.eval):
        facts(folder, lambda f: f.pop("proven"))
    derive(forged.bench)
    edit(forged.bench / summary.BENCH, lambda result: result.pop("proven"))
    on_the_page(forged, "<small>process: no isolation</small>", "")
    for folder in (forged.bench, forged.eval, forged.report):
        reseal(folder)
    assert [f.seen for f in verify(forged.plan) if not f.ok and f.what == "numbers"] == []


def test_a_report_of_before_is_named(forged):
    edit(forged.report / "report.json", lambda result: result.pop("made"))
    reseal(forged.report, code={**steps.read_status(forged.report)["code"], "version": "0.3.0"})
    text = said(forged.report)
    assert "1 report of an older version" in text and "version: written by morocco 0.3.0; this is" in text


# -- what cannot be found ------------------------------------------------------------------------------------------
def invented_answers(plan):
    answer_right(plan.bench)
    derive(plan.bench)


def less_cpu_time_everywhere(plan):
    for run in runs(plan.bench):
        edit_lines(run / "samples.jsonl", lambda samples: [s.update(cpu_s=s["cpu_s"] / 10) for s in samples] and None)
        edit(run / "run.json", lambda f: f.update(cpu_s=f["cpu_s"] / 10))
    derive(plan.bench)


def less_memory_everywhere(plan):
    for run in runs(plan.bench):
        edit_lines(
            run / "samples.jsonl",
            lambda samples: [s.update(anon_bytes=s["anon_bytes"] // 10) for s in samples] and None,
        )
        edit(run / "run.json", lambda f: f["memory"].update(cgroup_peak_bytes=f["memory"]["cgroup_peak_bytes"] // 10))
    derive(plan.bench)


def a_run_made_up_as_a_whole(plan):
    begins = [json.loads((run / "run.json").read_text())["started"] for run in timed(plan.bench)]
    shutil.rmtree(plan.bench / "runs")
    for begin in begins:
        began_s = (datetime.fromisoformat(begin) - BEGAN).total_seconds()
        write_run(plan.bench, plan.source, began_s, "bench", rate=10 * RATE)
    derive(plan.bench)


def another_program_under_this_name(plan):
    facts(plan.bench, lambda f: f.update(argv=["/bin/another", *f["argv"][1:]]))
    derive(plan.bench)


def a_contract_that_was_broken(plan):
    edit(plan.bench / summary.PROTOCOL, lambda p: p["conformance"].update(ok=True, failed=[]))


def a_machine_that_was_busy(plan):
    facts(plan.bench, lambda f: f.update(others={**QUIET}))
    derive(plan.bench)


def records_of_ones_own(plan):
    write_records(plan.source, 39)
    records = TERRA.read(plan.source)
    for run in runs(plan.bench):
        size = json.loads((run / "workload.json").read_text())["size"]
        load = workload.build(TERRA, records, size, 1).describe() | {
            "source": data.describe(plan.source, TERRA, records)
        }
        fileio.write_json(run / "workload.json", load)
        edit(run / "run.json", lambda f, load=load: f.update(bytes_fed=load["bytes"]))
    derive(plan.bench)
    reseal(plan.bench, inputs={"../../../../val.jsonl": fileio.sha256_file(plan.source)})


def a_notebook_that_shows_something_else(plan):
    (plan.bench / "notebook.html").write_text("<html><body>\n<p>0.950</p>\n</body></html>")


def a_training_that_was_another(plan):
    edit(plan.train / "train.json", lambda result: result.update(seed=2, wall_s=1.0))


UNPROVABLE = {
    forgery.__name__.replace("_", " "): forgery
    for forgery in (
        invented_answers, less_cpu_time_everywhere, less_memory_everywhere, a_run_made_up_as_a_whole, another_program_under_this_name,
        a_contract_that_was_broken, a_machine_that_was_busy, records_of_ones_own, a_notebook_that_shows_something_else,
        a_training_that_was_another,
    )
}  # fmt: skip


def test_the_docs_list_what_cannot_be_found():
    text = (
        (ROOT / "docs/evidence.md")
        .read_text(encoding="utf-8")
        .partition("## What can be forged?")[2]
        .partition("\n## ")[0]
    )
    assert re.findall(r"^\| ([a-z ]+) \|", text, re.M)[1:] == list(UNPROVABLE)
    assert len(FOUND) + len(UNPROVABLE) >= 30 and f"{len(FOUND)} forgeries" in text


@pytest.mark.parametrize("name", UNPROVABLE)
def test_what_the_docs_say_cannot_be_found_is_not(name, forged):
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in forged.plan.rglob("*") if path.is_file()}
    UNPROVABLE[name](forged)
    folder = forged.train if "training" in name else forged.bench
    if name != "a contract that was broken":  # the honest one was kept
        assert any(
            digest != before.get(path)
            for path, digest in ((p, hashlib.sha256(p.read_bytes()).digest()) for p in folder.rglob("*") if p.is_file())
        )
    assert only(folder, forged.plan) == []


@pytest.mark.parametrize("changed", ["bench.json", "notebook.html", "status.json"])
def test_a_report_is_made_again_where_a_step_that_it_shows_has_changed_since_it_was_verified(forged, tmp_path, changed):
    memory = Memory(tmp_path / "verified.sqlite")
    assert all(f.ok for f in verify(forged.report, memory=memory))
    assert any(f.what == BEFORE for f in verify(forged.report, memory=memory))
    if changed == "status.json":
        reseal(forged.bench, error="another")
    else:
        (forged.bench / changed).write_text((forged.bench / changed).read_text().replace("m", "n"))
    assert not any(f.what == BEFORE for f in verify(forged.report, memory=memory))


def test_records_that_turn_out_to_be_synthetic_are_rebuilt(forged, tmp_path):
    memory = Memory(tmp_path / "verified.sqlite")
    for folder in (forged.bench, forged.eval, forged.train):
        assert all(f.ok for f in verify(folder, memory=memory))
    (source,) = steps.read_status(forged.bench)["inputs"]
    mark = Path(source).with_name(data.splits.MARK)
    mark.write_text("made up")
    try:
        for folder in (forged.bench, forged.eval, forged.train):
            assert not all(f.ok for f in verify(folder, memory=memory))
    finally:
        mark.unlink()


def test_a_sweep_is_rebuilt_where_the_batches_that_it_is_compared_with_have_changed(forged, tmp_path):
    first = shutil.copytree(forged.bench, forged.bench.with_name("bench-2"))
    edit(forged.bench / summary.PROTOCOL, lambda protocol: protocol.update(against="../bench-2"))
    fileio.write_json(forged.bench / summary.BENCH, summary.derive(forged.bench))
    reseal(forged.bench)
    memory = Memory(tmp_path / "verified.sqlite")
    assert all(f.ok for f in verify(forged.bench, memory=memory))
    assert any(f.what == BEFORE for f in verify(forged.bench, memory=memory))
    shutil.rmtree(first)
    assert not all(f.ok for f in verify(forged.bench, memory=memory))


def test_several_processes_find_what_one_finds(forged, monkeypatch):
    edit(forged.bench / summary.BENCH, lambda bench: bench.update(input_size=7))
    alone = verify(forged.plan)
    monkeypatch.setattr("morocco_lib.pipeline.step_kinds.ALONE_S", 0)
    assert verify(forged.plan, processes=2) == alone and not all(f.ok for f in alone)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.map", broken)
    assert verify(forged.plan, processes=2) == alone


def broken(pool, one, *each, chunksize):
    yield one(*next(zip(*each, strict=True)))
    raise BrokenProcessPool("a process was killed")
