"""The documentation keeps its promises: links and commands exist, examples work, no code or message is missing."""

import ast
import importlib
import json
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from helpers import ROOT, console_blocks, copy_project, run_as_shown

from morocco_lib import data, reasons, tasks
from morocco_lib.analysis import validity
from morocco_lib.cli.entry import build_parser
from morocco_lib.data import synthetic
from morocco_lib.data.workload import build
from morocco_lib.models import model_class
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.report import figures, points
from morocco_lib.tasks import get_task, task_names

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def fenced(text, language):
    """The contents of every block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def rows(text):
    """The cells of every row of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


# -- links ---------------------------------------------------------------------------------------------------------
def anchors(path):
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@every_page
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_every_page_is_in_the_index():
    linked = set(re.findall(r"\]\(([^)]+\.md)\)", page("README.md")))
    assert linked == {path.name for path in DOCS.glob("*.md")} - {"README.md"}


# -- commands ------------------------------------------------------------------------------------------------------
def parsers():
    """Each verb's options: ("bench",) -> {"--command", ...}; () holds those that stand before the verb."""
    found, stack = {}, [((), build_parser())]
    while stack:
        path, parser = stack.pop()
        found[path] = {option for action in parser._actions for option in action.option_strings}
        for action in parser._actions:
            if isinstance(action.choices, dict):
                stack += [((*path, name), sub) for name, sub in action.choices.items()]
    return found


KNOWN = parsers()


def words_of(text):
    try:
        return shlex.split(text.replace("[", " ").replace("]", " "))
    except ValueError:
        return text.split()


def commands(text):
    """(words after `morocco`) of every command in code, those inside quotes too."""
    code = [*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)]
    code += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for part in code for line in part.replace("\\\n", " ").splitlines()]
    while lines:
        words = words_of(lines.pop())
        lines += [word for word in words if " " in word and "morocco" in word]
        for place, word in enumerate(words):
            module = word == "morocco_lib" and words[place - 1] == "-m"
            if module or re.fullmatch(r"(.*/)?morocco", word):
                rest = words[place + 1 :]
                ends = [n for n, w in enumerate(rest) if w in ("|", ">", "<", "&&", ";", "...")]
                yield rest[: min(ends, default=len(rest))]


@every_page
def test_verbs_and_options_exist(page):
    for words in commands(page.read_text(encoding="utf-8")):
        path = ()
        for word in words:
            if word.startswith("--"):
                option = word.split("=")[0].rstrip(".,:;")
                assert option in KNOWN[path] | {"--"}, (page.name, words, option)
            elif (*path, word) in KNOWN:
                path = (*path, word)
            elif path == () or path == ("data",):
                assert word == "COMMAND", (page.name, words)


# -- reasons and messages ------------------------------------------------------------------------------------------
def test_every_reason_is_explained_and_of_its_kind():
    kinds = {row[0].strip("`"): row for row in rows(page("reading-a-report.md")) if row[0].strip("`").isupper()}
    every_exit = {"oom_killed": True, "left_pids": [1], "pids_refused": 1}
    ends = ({"timed_out": True}, {"timed_out": False, "signal": 9}, {"timed_out": False, "signal": None, "code": 1})
    judged = {reason for end in ends for reason in validity.exit_reasons(every_exit | end)}
    judged |= {*validity.RULE_REASONS.values(), reasons.Reason.INPUT_NOT_READ, reasons.Reason.MACHINE_SLEPT}
    judged |= {reasons.Reason.STDOUT_FLOODED, reasons.Reason.LOG_TRUNCATED, reasons.Reason.DRIFT}
    judged |= {reasons.Reason.CACHED_ANSWERS, reasons.Reason.WORK_SKIPPED, reasons.Reason.EVAL_FLIPS}
    judged.add(reasons.Reason.TIMES_DISAGREE)
    judged |= {reasons.Reason.SAMPLER_GAPS, reasons.Reason.WORKER_KILLED, reasons.Reason.BUSY_MACHINE}
    device = {"used_by_run": True, "lost": True, "slowed_samples": 1, "state_samples": 1}
    other = {"pid": 1, "samples": 9, "peak_bytes": None, "graphics_only": False}
    judged |= set(validity.gpu_reasons({"pids_hidden": False, "devices": [{**device, "others": [other]}]}))
    for reason in reasons.Reason:
        kind = "note" if reason in reasons.NOTES else "INVALID" if reason in judged else "dash"
        kind = "DISTURBED" if reason in reasons.DISTURBANCES else kind
        assert kinds[reason][1] == kind and all(kinds[reason][2:4]), reason
    assert set(kinds) == set(reasons.Reason)


def test_every_metric_and_task_is_named():
    metrics = {row[0].strip("`"): row[1] for row in rows(page("reading-a-report.md"))}
    for name in task_names():
        assert all(f"`{metric}`" in metrics[name] for metric in get_task(name).metric_names), name


# What makes an environment failure, and which of its arguments is the message. A function whose message is an argument
# of its own (`_refused(archive, what)`) is named here, so that the messages of those who call it are looked at.
MAKERS = {"EnvironmentFailure": 0, "Stalled": 0, "_broken": 1, "_refused": 1, "failure": 1}


def constant_parts(node):
    """The words of a message that are always the same, in order."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    texts = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    return [text.replace("`", "").strip(" ,:;()'\"") for text in texts]


def messages():
    """(place, functions around it, constant parts) of every message with exit code 3."""
    for path in sorted((ROOT / "morocco_lib").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for call in calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
            at = MAKERS.get(name)
            if at is not None and len(call.args) > at:
                around = {f.name for f in functions if f.lineno <= call.lineno <= f.end_lineno}
                yield f"{path.name}:{call.lineno}", around, constant_parts(call.args[at])


def test_every_environment_failure_is_in_troubleshooting():
    lines = page("troubleshooting.md").replace("`", "").splitlines()
    found = list(messages())
    assert len(found) > 20
    for place, around, parts in found:
        words = [part for part in parts if re.search(r"[A-Za-z]{2}", part)]
        if not words:
            assert around & set(MAKERS), f"{place}: name what makes this message in MAKERS"
            continue
        pattern = re.compile(".*".join(re.escape(word) for word in words))
        assert any(pattern.search(line) for line in lines), (place, words)


# -- answers -------------------------------------------------------------------------------------------------------
def answer_forms():
    """(task, lines) of the sections of your-model.md."""
    sections = re.split(r"^### ", page("your-model.md"), flags=re.MULTILINE)[1:]
    return {re.match(r"`(\w+)`", s)[1]: fenced(s.split("\n## ")[0], "jsonl")[0].splitlines() for s in sections}


def record_for(task, folder, answer):
    """A synthetic record with the idx, and as many questions and answers, as the answer has."""
    record = task.strip_labels(data.read_split(folder, task, "val")[1][0])
    if task.name == "muserc":
        questions = []
        for asked, shown in zip(record["passage"]["questions"], answer["passage"]["questions"], strict=False):
            options = zip(asked["answers"], shown["answers"], strict=False)
            answers = [{**option, "idx": form["idx"]} for option, form in options]
            assert len(answers) == len(shown["answers"])
            questions.append({**asked, "idx": shown["idx"], "answers": answers})
        return {**record, "idx": answer["idx"], "passage": {**record["passage"], "questions": questions}}
    return task.reindex(record, int(answer["idx"]))


@pytest.mark.parametrize("name", task_names())
def test_the_answer_forms_shown_are_accepted(name, synthetic_data):
    task, lines = get_task(name), answer_forms()[name]
    for number, line in enumerate(lines):
        answer = json.loads(line)
        record = record_for(task, synthetic_data, answer)
        if name == "rucos":
            answer["label"] = task.entities(record)[0]
        checked = task.check([json.dumps(answer, ensure_ascii=False).encode()], {task.key(record): record}, "shown")
        assert checked.ok, checked.problems
        odd = sum(checked.noncanonical.values())
        assert (odd == 0) == (number == 0), line
        if number == 0 and name != "rucos":
            assert task.format(checked.predictions[task.key(record)]) == line


def test_the_mistakes_shown_lead_to_the_codes_shown():
    task = get_task("terra")
    mistakes = page("your-model.md").split("## Common mistakes")[1].split("What a program does wrong")[0]
    table = [row for row in rows(mistakes) if row[0].startswith("`")]
    assert len(table) >= 8
    for printed, _, code in table:
        counts = task.check([printed[1:-1].encode()], {7: {"idx": 7}}, "shown").counts
        assert code.strip("`") in validity.answer_reasons(counts), printed


def test_the_minimal_program_keeps_the_contract(synthetic_data, tmp_path):
    task, program = get_task("terra"), tmp_path / "my_model.py"
    program.write_text(fenced(page("your-model.md"), "python")[0], encoding="utf-8")
    load = build(task, data.read_split(synthetic_data, task, "val")[1], 10, 1)
    argv = [sys.executable, str(program), "--batch-size", "4"]
    done = subprocess.run(argv, input=b"".join(load.lines()), capture_output=True, timeout=60, check=True)
    assert task.check(done.stdout.splitlines(keepends=True), load, "answers").ok
    assert done.stderr == b'morocco: {"event": "ready"}\n'


# -- the worked task -----------------------------------------------------------------------------------------------
@pytest.fixture
def tone(tmp_path, monkeypatch):
    """The example of adding-a-task.md, its two modules in place."""
    task, generator = fenced(page("adding-a-task.md"), "python")
    for package, source in ((tasks, task), (synthetic, generator)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "tone.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    importlib.invalidate_caches()
    yield get_task("tone")
    for package in (tasks, synthetic):
        sys.modules.pop(f"{package.__name__}.tone", None)
        vars(package).pop("tone", None)


def test_the_worked_task_works(tone, tmp_path):
    tone.validate(json.loads(fenced(page("adding-a-task.md"), "json")[0]))
    folder = tmp_path / "records"
    data.make_synthetic(folder, ["tone"], seed=1)
    train, val = (data.read_split(folder, tone, split)[1] for split in ("train", "val"))
    assert [len(train), len(val)] == [400, 100]
    assert b"label" not in b"".join(build(tone, val, 250, 1).lines())
    gold = [tone.gold(record) for record in val]
    model = model_class("tfidf").fit(tone, train, 1)
    answers = model.answer([tone.strip_labels(record) for record in val])
    lines = [f"{tone.format(answer)}\n".encode() for answer in answers]
    checked = tone.check(lines, {record["idx"]: record for record in val}, "answers")
    assert checked.ok and tone.score(gold, answers)["accuracy"] == pytest.approx(0.9)


# -- figures -------------------------------------------------------------------------------------------------------
def test_the_chart_of_readme_is_drawn_as_charts_are_now(quick_plan):
    def words(svg):
        return {re.sub(r"[\d.,]+ \w+$", "", text) for text in re.findall(r">([^<>]*[a-z]{2}[^<>]*)</text>", svg)}

    drawn = words(figures.svg(figures.disc(points.collect(quick_plan.folder, KINDS))))
    assert {"records per second", "score", "terra", "disc area: peak memory, largest "} < drawn
    assert words((DOCS / "terra.svg").read_text(encoding="utf-8")) == drawn


def test_a_page_is_renewed_by_what_is_printed_and_lost_words_are_named():
    page = "```console\n$ a\nspeed 1 ms\nspeed 2 ms\nreport: outputs/d-1/r-1\n$ b\nspeed 1 ms\ngone\n```\nsee outputs/d-1/r-1, outputs/d-1.\n"
    printed = {"a": "noise\nspeed 7 s\nspeed 8 ms\nreport: outputs/d-2/r-3\n", "b": "speed 9 ms\n"}
    script = runpy.run_path(str(ROOT / "benchmarks/figures.py"))
    text, missing = script["renewed"](page, printed.__getitem__)
    assert text == (
        "```console\n$ a\nspeed 7 s\nspeed 8 ms\nreport: outputs/d-2/r-3\n$ b\nspeed 9 ms\ngone\n```\nsee outputs/d-2/r-3, outputs/d-2.\n"
    )
    assert missing == ["gone"]


# -- README and quick start ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.long
def test_the_commands_of_readme_and_quick_start_run_and_print_what_is_shown(tmp_path):
    pages = [list(console_blocks(path.read_text())) for path in (ROOT / "README.md", DOCS / "quick-start.md")]
    assert [commands[0][0] for commands in pages] == ["make demo"] * 2 and min(map(len, pages)) > 8
    run_as_shown([command for commands in pages for command in commands], copy_project(tmp_path / "morocco"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("glue.md", 6), ("collaborative.md", 4)])
def test_commands_of_a_page_run_and_print_what_is_shown(name, count, tmp_path):
    commands = list(console_blocks(page(name)))
    assert len(commands) == count
    run_as_shown(commands, copy_project(tmp_path / "morocco"))
