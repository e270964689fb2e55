"""Reports of several machines: speeds are compared across two of them through what was measured on both, or not at all."""

import csv
import io
import json
import math
import random
import re
import shutil

import complete_runs
import pytest
from complete_runs import write_bench

from morocco_lib.artifacts import steps, storage
from morocco_lib.artifacts.bucket import Remote
from morocco_lib.monitors.host import host_facts
from morocco_lib.pipeline.step_kinds import KINDS, verify
from morocco_lib.report import figures, grids, interactive, machines, points, tables
from morocco_lib.report.averages import averaged

FAST, SLOW = "Fast CPU", "Slow CPU"


@pytest.fixture(scope="module")
def made(tmp_path_factory, val):
    """Two plan folders as two machines left them: `both` and `only-fast` on the one, `both` and `only-slow` on the other."""
    home, chance = tmp_path_factory.mktemp("machines"), random.Random(1)
    with pytest.MonkeyPatch.context() as patch:
        for cpu, factor in ((FAST, 2.0), (SLOW, 1.0)):
            host, plan = {**host_facts(), "cpu": cpu}, home / cpu.split()[0].lower()
            for module in (steps, complete_runs):
                patch.setattr(module, "host_facts", lambda host=host: host)
            for model, rate in (("both", 300.0), (f"only-{plan.name}", 250.0)):
                weights = home / f"{model}/model.json"
                weights.parent.mkdir(exist_ok=True)
                weights.write_text(json.dumps(model))
                options = {"rate": factor * rate, "model": model, "chance": chance, "weights": weights}
                write_bench(plan / f"{model}/terra/bench-1", val, **options)
    return home


@pytest.fixture(scope="module")
def joined(main, made, tmp_path_factory):
    """(what `morocco report` of both folders returned, the folder of its page)."""
    out = tmp_path_factory.mktemp("joined") / "page"
    return main("report", made / "fast", made / "slow", "--out", out), out


@pytest.fixture(scope="module")
def apart(main, made, tmp_path_factory):
    """The same without what was measured on both."""
    home = tmp_path_factory.mktemp("apart")
    for name in ("fast", "slow"):
        shutil.copytree(made / name / f"only-{name}", home / name / f"only-{name}")
    out = home / "page"
    return main("report", home / "fast", home / "slow", "--out", out), out


def text_of(folder):
    """What a person reads of a page."""
    text = (folder / "report.html").read_text()
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)).split())


def views(folder):
    text = (folder / "report.html").read_text()
    return json.loads(re.search(r'id="points">(.*?)</script>', text)[1])


# -- joined ----------------------------------------------------------------------------------------------------------
def test_an_anchor_joins_two_machines_and_its_ratio_is_shown(joined):
    done, out = joined
    assert (done.returncode, done.stdout) == (0, f"{out / 'report.html'}\n"), done.stderr
    first, second = json.loads((out / "report.json").read_text())["machines"]
    assert (first["name"], first["points"], first["ratios"]) == ("M1", 2, {})
    ratio = second["ratios"]["CPU"]
    assert {FAST, SLOW} == {machine["text"].split(",")[0] for machine in (first, second)}
    assert ratio["value"] == pytest.approx(0.5 if SLOW in second["text"] else 2, rel=0.01)
    assert 0 < math.log(ratio["high"] / ratio["low"]) < 0.1 and ratio["low"] < ratio["value"] < ratio["high"]
    (anchor,) = ratio["anchors"]
    assert (anchor["model"], anchor["task"], anchor["batch_size"]) == ("both", "terra", complete_runs.BATCH)
    shown = machines.ratio_text(ratio)
    assert f"{shown} on the CPU both on terra, batch 8" in text_of(out) and "No anchor" not in text_of(out)
    assert f"divided by {shown} and marked ≈" in done.stderr and "warning" not in done.stderr


def test_speeds_are_shown_as_measured_and_compared_as_on_the_first_machine(made, joined):
    _, out = joined
    (view,) = views(out)
    assert view["name"] == "M1, M2: terra" and len(view["points"]) == 4
    rows = points.collect(made, KINDS)
    (other,) = (row for row in rows if row["on"] == "M2" and row["model"] != "both")
    ratio = machines.machines(rows)[1].ratios["CPU"]["value"]
    (point,) = (p for p in view["points"] if p["model"] == other["model"])
    assert point["speed"][0] == pytest.approx(other["speed_per_s"]["value"] / ratio, rel=1e-4) and point["on"] == "M2"
    low, high = (other["speed_per_s"][end] / ratio for end in ("low", "high"))
    assert point["speed"][1] < low and high < point["speed"][2]  # the ratio is not known exactly
    measured, scaled = (machines.formatting.speed_text(v) for v in (other["speed_per_s"]["value"], point["speed"][0]))
    (cell,) = re.findall(
        rf"<td data-value=\"([\d.]+)\">[^\n]*{measured}</a>[^\n]*≈ {scaled} \(.*? on M1</small>",
        (out / "report.html").read_text(),
    )
    assert float(cell) == pytest.approx(point["speed"][0], rel=1e-4)
    with (out / "table.csv").open() as file:
        listed = {row["model"]: row for row in csv.DictReader(file) if row["model"] != "both"}
    assert float(listed[other["model"]]["speed_per_s"]) == other["speed_per_s"]["value"]
    assert listed[other["model"]]["machine"] == f"M2: {other['machine']}"


def test_a_speed_of_another_machine_is_marked_in_figure_and_grid(made):
    rows = points.collect(made, KINDS)
    drawing = figures.svg(figures.disc(rows))
    assert drawing.count("≈M2") == 2 and "speed of another machine, as on M1" in drawing
    (group,) = machines.groups(rows)
    cells = [
        c
        for grid in grids.grids([*group.rows, {**group.rows[0], "task": "rcb"}])
        for _, line in grid.lines
        for c in line
        if c
    ]
    assert any(c["text"].startswith("≈") and c["title"].endswith("measured on M2") for c in cells)


def test_start_up_of_another_machine_takes_no_part_in_an_order(joined):
    text = (joined[1] / "report.html").read_text()
    lines = [line.split("</tr>")[0] for line in text.split('id="results"')[1].split("</table>")[0].split("<tr")]
    values = {
        re.search(r"on (M\d)<", line)[1]: re.findall(r'data-value="(.*?)"', line) for line in lines if "on M" in line
    }
    assert values["M1"][2] and not values["M2"][2] and all(values["M2"][k] for k in (0, 1, 3))


def test_a_report_of_several_folders_verifies_and_a_changed_ratio_does_not(made, joined, tmp_path):
    _, out = joined
    assert [f.seen for f in verify(out) if not f.ok] == []
    home = shutil.copytree(made, tmp_path / "home")
    page = shutil.copytree(out, home / "page")
    status = steps.read_status(page)
    place = {name: (out / name).resolve().relative_to(made) for name in status["inputs"]}
    inputs = {f"../{place[name]}": digest for name, digest in status["inputs"].items()}
    result = json.loads((page / "report.json").read_text()) | {"plan_dir": ".."}
    result["machines"][1]["ratios"]["CPU"]["value"] *= 1.5
    (page / "report.json").write_text(json.dumps(result))
    complete_runs.reseal(page, inputs=inputs)
    assert any("report.json does not follow from the steps" in f.seen for f in verify(page))


# -- side by side ----------------------------------------------------------------------------------------------------
def test_without_an_anchor_machines_stand_side_by_side_with_a_warning(apart):
    done, out = apart
    assert done.returncode == 0 and "warning: no anchor joins M2 to M1" in done.stderr
    text = (out / "report.html").read_text()
    assert "No anchor joins M2 to M1" in text_of(out) and machines.RULE in text_of(out)
    tables_here = re.findall(r'<table id="(results[-\d]*)">(.*?)</table>', text, re.DOTALL)
    assert [(name, "only-fast" in t, "only-slow" in t) for name, t in tables_here] in (
        [("results", True, False), ("results-2", False, True)], [("results", False, True), ("results-2", True, False)]
    )  # fmt: skip
    found = views(out)
    assert [view["name"] for view in found] == ["M1: terra", "M2: terra"]
    assert [[p["front"] for p in view["points"]] for view in found] == [[1.0], [1.0]] and "≈" not in text
    assert [machine["ratios"] for machine in json.loads((out / "report.json").read_text())["machines"]] == [{}, {}]
    assert text_of(out).count("Good, fast, small") == 1


def test_a_figure_never_mixes_machines_that_nothing_joins(apart):
    rows = points.collect(apart[1].parent, KINDS)
    assert [axis.get_title() for axis in figures.disc(rows).axes] == ["M1: terra", "M2: terra"]


def test_one_folder_of_two_machines_is_told_apart_too(main, apart):
    done = main("report", apart[1].parent, "--out", apart[1].parent / "again")
    assert "warning: no anchor joins M2 to M1" in done.stderr
    assert views(apart[1].parent / "again") == views(apart[1])


def test_a_page_of_one_machine_says_nothing_of_several(main, made, tmp_path):
    done = main("report", made / "fast", "--out", tmp_path / "page")
    text = text_of(tmp_path / "page")
    assert (done.returncode, done.stderr) == (0, "") and "M1" not in text and "Fast CPU" in text
    assert "machine" not in next(csv.reader(io.StringIO((tmp_path / "page/table.csv").read_text())))
    assert "machines" not in json.loads((tmp_path / "page/report.json").read_text())


# -- what an anchor is -----------------------------------------------------------------------------------------------
def row(machine, model="m", speed=100.0, half=0.01, scope="runs", **changed):
    measured = {
        "weights_sha256": model,
        "argv": ["m", f"/{machine}/weights"],
        "settings": {},
        **changed.pop("measured", {}),
    }
    ends = {"low": speed * (1 - half), "high": speed * (1 + half)} if half else {"low": None, "high": None}
    return {
        "machine": machine, "model": model, "task": "terra", "batch_size": 8, "verdict": "VALID", "measured": measured,
        "data": {"sha256": "1"}, "speed_per_s": {"value": speed, "scope": scope, **ends},
        "gpu_ram_bytes": {"value": None, "reason": "NO_GPU"}, **changed,
    }  # fmt: skip


ON_GPU = {"gpu_ram_bytes": {"value": 1.0}}


@pytest.mark.parametrize(
    ("changed", "joins"),
    [
        ({}, True),
        ({"measured": {"argv": ["m", "/elsewhere/weights"]}}, True),
        ({"measured": {"argv": ["m", "/slow/weights", "--fast"]}}, False),
        ({"measured": {"weights_sha256": "other"}}, False),
        ({"measured": {"weights_sha256": None}}, False),
        ({"measured": {"image_digest": "sha256:1"}}, False),
        ({"measured": {"precision": "bf16"}}, False),
        ({"measured": {"settings": {"limit_cpus": 2}}}, False),
        ({"batch_size": 16}, False),
        ({"task": "rcb"}, False),
        ({"data": {"sha256": "2"}}, False),
        ({"verdict": "DISTURBED"}, False),
        ({"half": None}, False),
        ({"scope": "run"}, False),
        (ON_GPU, False),
    ],
    ids=str,
)
def test_an_anchor_is_one_program_at_one_operating_point(changed, joins):
    rows = [row("fast", speed=200.0), row("slow", **changed), row("slow", "other")]
    assert [bool(machine.ratios) for machine in machines.machines(rows)] == [False, joins]


def test_an_anchor_on_the_processor_says_nothing_of_programs_on_the_gpu():
    rows = [row("fast", speed=200.0), row("slow"), row("fast", "x", **ON_GPU), row("slow", "y", **ON_GPU)]
    assert [bool(machine.ratios) for machine in machines.machines(rows)] == [False, False]
    rows += [row("fast", "large", 900.0, **ON_GPU), row("slow", "large", **ON_GPU)]
    (_, other) = machines.machines(rows)
    assert {kind: round(ratio["value"], 6) for kind, ratio in other.ratios.items()} in (
        {"CPU": 2, "GPU": 9},
        {"CPU": 0.5, "GPU": 0.111111},
    )


def test_a_machine_is_its_processor_cores_memory_gpus_and_kernel():
    host = {"cpu": "Xeon", "cores": 8, "memory_bytes": 96 << 30, "kernel": "5.4", "hostname": "gpu", "boot_id": "1"}
    gpus = {"devices": [{"name": "V100"}, {"name": "V100"}]}
    assert machines.text_of(host, gpus) == "Xeon, 8 cores, 96 GiB, 2 x V100, Linux 5.4"
    assert machines.text_of({**host, "memory_bytes": None, "cpu": None}, "NO_GPU") == "unknown CPU, 8 cores, Linux 5.4"


def test_several_anchors_show_how_far_programs_differ():
    rows = [row("a", name, speed) for name, speed in (("x", 200.0), ("y", 240.0), ("z", 100.0))]
    rows += [row("b", name) for name in ("x", "y")]
    assert machines.machines(rows)[0].text == "a"  # of which more was measured
    ratio = machines.machines(rows)[1].ratios["CPU"]
    assert ratio["value"] == pytest.approx(1 / math.sqrt(2.0 * 2.4), rel=1e-5) and len(ratio["anchors"]) == 2
    own = math.log(1.01 / 0.99) / 2
    spread = 12.7062 * math.log(1.2) / math.sqrt(2) * math.sqrt(1.5)  # Student's t with one degree of freedom
    assert math.log(ratio["high"] / ratio["value"]) == pytest.approx(math.hypot(own, spread), rel=1e-4)


def test_a_third_machine_without_an_anchor_stays_apart():
    rows = [row("a"), row("b", speed=50.0), row("c", "other")]
    first, second = machines.groups(rows)
    assert ([r["machine"] for r in first.rows], first.name) == (["a", "b"], "M1, M2")
    assert ([r["machine"] for r in second.rows], second.name, second.rows[0]["row"]) == (["c"], "M3", 2)
    assert [r["speed_per_s"]["value"] for r in first.rows] in ([100, 100], [50, 50])


def test_the_error_of_a_ratio_does_not_shrink_in_a_mean_over_tasks():
    rows = [row("a", half=0.2), row("b", speed=50.0), *(row("a", f"other {k}") for k in range(5))]
    rows += [row("b", "n", task=task) for task in ("rcb", "terra", "rwsd", "parus")]
    rows = [{**r, "score": {"value": 0.5}, "ram_bytes": {"value": 1}} for r in rows]
    (group,), ratio = machines.groups(rows), machines.machines(rows)[1].ratios["CPU"]
    tasks, (point,) = averaged([r for r in group.rows if r["model"] == "n"])
    assert (
        len(tasks) == 4 and machines.is_scaled(point) and point["speed_per_s"]["value"] == pytest.approx(200, rel=0.001)
    )
    assert point["speed_per_s"]["high"] / point["speed_per_s"]["value"] > ratio["high"] / ratio["value"] > 1.2


def test_totals_and_settings_are_of_one_machine():
    rows = machines.named(
        [row("a", measured={"settings": {"governor": "x"}}), row("b", "n", measured={"settings": {"governor": "y"}})]
    )
    assert tables.settings_lines(rows) == []
    rows = [{**r, "score": {"value": 0.5}, "on": r["on"]} for r in rows]
    assert {total["on"] for total in tables.totals(rows)} == {"M1", "M2"}


# -- several folders and buckets -------------------------------------------------------------------------------------
def test_a_copy_of_a_step_is_shown_once(main, made, tmp_path):
    copy = shutil.copytree(made / "fast", tmp_path / "copy")
    assert main("report", made / "fast", copy, "--out", tmp_path / "page").returncode == 0
    assert json.loads((tmp_path / "page/report.json").read_text())["rows"] == 2


def test_a_folder_without_results_among_several_is_named(main, made, tmp_path):
    (tmp_path / "empty").mkdir()
    done = main("report", made / "fast", tmp_path / "empty", "--out", tmp_path / "page")
    assert done.returncode == 2 and f"no result in {tmp_path / 'empty'}" in done.stderr
    assert main("report", cwd=tmp_path).returncode == 2 and not (tmp_path / "page").exists()


@pytest.fixture
def there(bucket, tmp_path, val):
    """A plan folder of one short bench, and the name of its copy in a bucket."""
    plan = tmp_path / "night"
    write_bench(plan / "m/terra/bench-1", val, repeats=1)
    storage.sync(plan, Remote.parse(f"s3://{bucket}/nights/1"))
    return plan, f"s3://{bucket}/nights/1"


def test_a_folder_in_a_bucket_is_fetched_kept_and_reported_with_others(main, made, there, bucket, tmp_path):
    (plan, name), home = there, tmp_path / "home"
    home.mkdir()
    done = main("report", made / "fast", "--from", name, cwd=home)
    assert done.returncode == 0, done.stderr
    kept = home / f"outputs/s3+{bucket}+nights+1"
    assert f"{name} is in {kept}" in done.stderr and "warning: no anchor joins" in done.stderr
    step = kept / "m/terra/bench-1"
    assert steps.digest_outputs(step) == steps.digest_outputs(plan / "m/terra/bench-1")
    (page,) = (home / "outputs").glob("report-*/report.html")
    assert done.stdout == f"{page}\n" and [f.seen for f in verify(home / "outputs") if not f.ok] == []
    # A step that was repeated there leaves nothing of its first attempt here; what else is in the folder stays.
    (step / "runs/09").mkdir()
    (step / "runs/09/run.json").write_text("of an earlier attempt")
    (kept / "note").write_text("mine")
    assert main("report", "--from", name, "--out", home / "again", cwd=home).returncode == 0
    assert not (step / "runs/09/run.json").exists() and (kept / "note").read_text() == "mine"
    assert json.loads((home / "again/report.json").read_text())["rows"] == 1


def test_what_is_damaged_in_a_bucket_is_not_reported(main, there, bucket, tmp_path, s3_server):
    s3_server.client.delete_object(Bucket=bucket, Key="nights/1/m/terra/bench-1/runs/01/answers.jsonl")
    done = main("report", "--from", there[1], "--out", tmp_path / "page", cwd=tmp_path)
    assert done.returncode == 1 and "answers.jsonl is in SHA256SUMS and not there" in done.stderr
    assert not (tmp_path / "page").exists()
    done = main("report", "--from", f"s3://{bucket}/nothing", cwd=tmp_path)
    assert done.returncode == 2 and f"no step folder in s3://{bucket}/nothing" in done.stderr


def test_views_of_rows_hold_one_machine_or_joined_ones(apart):
    found = interactive.views(points.collect(apart[1].parent, KINDS))
    assert [len(view["points"]) for view in found] == [1, 1]


def test_a_page_of_two_machines_sorts_by_comparable_speeds_and_fits_a_narrow_screen(joined, opened):
    page = opened(joined[1] / "report.html", viewport={"width": 375, "height": 700})
    shown = page.locator("#results tbody tr:not([hidden]) td:nth-child(2)")
    page.get_by_role("button", name="records/s", exact=True).click()  # as measured only-fast would stand second
    assert [name.split()[0] for name in shown.all_inner_texts()[:2]] == ["both", "both"]
    page.fill("#filter", "M2")
    assert [name.split()[0] for name in shown.all_inner_texts()] == ["both", "only-fast"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
