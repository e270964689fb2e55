"""Parameters: every file of the project is valid, and a misspelt or impossible one is refused by name."""

import re
import types
from pathlib import Path

import pytest
from helpers import ROOT

from morocco_lib import config
from morocco_lib.config.pretraining import load_pretraining
from morocco_lib.errors import UsageError
from morocco_lib.pipeline import targets
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.runners.contract import Limits

MODEL, TASK = {"name": "tfidf", "kind": "tfidf"}, {"name": "terra"}
PLAN = "name: demo\nmodels: [majority, tfidf]\ntasks: [terra]\n"


def refused(known, values) -> str:
    with pytest.raises(UsageError) as caught:
        config.validate(known, values, "bench.ipynb")
    assert caught.value.exit_code == 2
    return str(caught.value)


# -- files of the project ------------------------------------------------------------------------------------------
FILES = sorted((ROOT / "params").glob("*/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_parameter_file_of_the_project_is_valid(path):
    kind = path.parent.name
    if kind == "plans":
        plan = config.load_plan(path, KINDS)
        assert plan.name == path.stem
        for name in plan.model_names:
            config.load_model(name, ROOT, plan.own)
        for name in plan.tasks:
            config.load_task(name, ROOT)
        config.load_machine(plan.machine, ROOT)
    elif kind == "pretraining":
        assert load_pretraining(path.stem, ROOT).steps > 0
    elif kind == "recipes":
        assert config.load_recipe(path.stem, ROOT).of_task("terra").tasks == {}
    else:
        load = {"models": config.load_model, "tasks": config.load_task, "machines": config.load_machine}[kind]
        assert load(path.stem, ROOT).name == path.stem


# -- unknown names -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("known", "values", "place", "near"),
    [
        ("bench", {"model": MODEL, "task": TASK, "batchsize": 8}, "batchsize", "did you mean 'batch_size'?"),
        ("bench", {"model": MODEL, "task": TASK, "BATCH_SIZE": 8}, "BATCH_SIZE", "did you mean 'batch_size'?"),
        ("bench", {"model": {**MODEL, "Kind": "tfidf"}, "task": TASK}, "model.Kind", "did you mean 'kind'?"),
        ("bench", {"model": {**MODEL, "knd": "tfidf"}, "task": TASK}, "model.knd", "did you mean 'kind'?"),
        ("bench", {"model": MODEL, "task": TASK, "KINDS": {}}, "KINDS", "known: "),
        ("report", {"zzzzzz": 1}, "zzzzzz", "known: out_dir, plan_dir"),
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_known_one_is_named(known, values, place, near):
    assert f"unknown parameter '{place}'; {near}" in refused(KINDS[known].params, values)


def test_everything_wrong_is_listed_at_once():
    message = refused(config.BenchParams, {"task": {"name": "tera"}, "batch_size": 0, "repeats": "x", "sed": 1})
    parts = ("'model' is missing", "mean 'terra'", "'batch_size' is 0: ", "'repeats' is 'x': ", "mean 'seed'")
    assert all(part in message for part in ("bench.ipynb: ", *parts))


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 1.5}, {"input_size": -1}, {"precision": 0}, {"quick": 1}, {"model": "tfidf"},
        {"task": {**TASK, "split": "dev"}}, {"task": {**TASK, "files": {"vall": "a"}}}, {"machine": {"timeout_s": 0}},
        {"machine": {"runner": "rocket"}}, {"model": {**MODEL, "kind": "magic"}}, {"model": {**MODEL, "name": "../up"}},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_values_are_refused_with_their_place(change):
    good = {"model": MODEL, "task": TASK}
    config.validate(config.BenchParams, good, "bench.ipynb")
    assert f"parameter '{next(iter(change))}" in refused(config.BenchParams, {**good, **change})


def test_a_notebooks_globals_are_its_parameters_and_nothing_else():
    started = {"In": [], "Out": {}, "cache": {}, "batch_size": 9}  # by IPython, and by a start-up file of the user's
    shell = types.SimpleNamespace(user_ns_hidden=started)
    names = {
        **started, "model": MODEL, "task": TASK, "batch_size": 4, "_hidden": 1, "config": config,
        "get_ipython": lambda: shell, "Path": Path, "types": types,
    }  # fmt: skip
    p = config.of_notebook(config.BenchParams, "bench", names)
    assert (p.model.kind, p.task.name, p.batch_size, p.repeats) == ("tfidf", "terra", 4, 3)
    with pytest.raises(UsageError, match=r"bench\.ipynb: unknown parameter 'batch_sizes'; did you mean 'batch_size'\?"):
        config.of_notebook(config.BenchParams, "bench", {**names, "batch_sizes": 4})


def test_cells_that_run_again_in_one_kernel_take_what_later_cells_made_for_no_parameter():
    given = {"model": MODEL, "task": TASK, "batch_size": 4}
    later = {**given, "session": object(), "result": {"speed_per_s": 1}, "speeds": [1.0]}
    with pytest.raises(UsageError, match="unknown parameter 'session'"):
        config.of_notebook(config.BenchParams, "bench", later)
    assert config.of_notebook(config.BenchParams, "bench", later | {"repeats": 5}, frozenset(given)).repeats == 5
    with pytest.raises(UsageError, match=r"unknown parameter 'repeat'; did you mean 'repeats'\?.*restart the kernel"):
        config.of_notebook(config.BenchParams, "bench", later | {"repeat": 5}, frozenset(given))


def test_a_machine_gives_the_limits_of_a_run():
    assert targets.limits_of(config.MachineParams(timeout_s=5, memory_bytes=10**9)) == Limits(5.0, 10**9)


@pytest.mark.parametrize(
    ("vm", "words"),
    [
        ({}, "either `host` or `yandex`"),
        ({"host": "box", "yandex": {"zone": "a", "platform": "p", "cores": 1, "memory_gib": 1, "disk_gib": 1, "image": "i"}},
         "either `host` or `yandex`"),
        ({"host": "-oProxyCommand=x"}, "'vm.host'"), ({"host": "a b"}, "'vm.host'"),
        ({"host": "box", "folder": "~/x"}, "'vm.folder'"), ({"host": "box", "torch": "cu99"}, "'vm.torch'"),
        ({"yandex": {}}, "parameter 'vm.yandex.zone' is missing"), ({"hots": "box"}, "did you mean 'host'?"),
    ],
)  # fmt: skip
def test_a_vm_that_cannot_be_reached_is_refused(vm, words):
    assert words in refused(config.MachineParams, {"vm": vm})


def test_where_a_machine_is_changes_no_key_of_a_step():
    assert config.MachineParams(vm={"host": "box"}).model_dump() == config.MachineParams().model_dump()


# -- plans ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def plan(tmp_path):
    """Write a plan and load it."""

    def load(text: str | bytes):
        path = tmp_path / "plan.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return config.load_plan(path, KINDS)

    return load


def test_a_plan_has_defaults_for_all_but_name_models_and_tasks(plan):
    p = plan(PLAN)
    assert (p.models, p.tasks, p.steps) == (
        ["majority", "tfidf"],
        ["terra"],
        ["pretrain", "train", "bench", "eval", "report"],
    )
    assert (p.machine, p.data_dir, p.batch_size, p.repeats, p.overrides) == ("local", "synthetic", 32, 3, [])


def test_a_byte_order_mark_before_a_plan_is_fine(plan):
    assert plan(b"\xef\xbb\xbf" + PLAN.encode()).name == "demo"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAN + "repeat: 3\n", r"unknown parameter 'repeat'; did you mean 'repeats'\?"),
        (PLAN + "overrides: [{modl: tfidf}]\n", r"unknown parameter 'overrides\.0\.modl'; did you mean 'model'\?"),
        ("name: demo\nmodels: [tfidf, majority, tfidf]\ntasks: [terra]\n", r"'models'.*duplicate: tfidf"),
        (PLAN + "steps: [pack]\n", r"no step 'pack'; steps: pretrain, train, bench, eval, report"),
        (PLAN + "seeds: 1-x\n", r"'seeds' is '1-x'"),
        (PLAN + "overrides: [{}, {model: bert}]\n", r"overrides\.1 is for model 'bert'; the plan has majority, tfidf"),
        (PLAN + "overrides: [{model: tfidf, batch_size: 0}]\n", r"'overrides\.0\.batch_size' is 0"),
        (PLAN + "overrides: [{seeds: x}]\n", r"'overrides\.0\.seeds' is 'x'"),
        ("name: demo\nmodels: []\ntasks: [terra]\n", r"'models'"),
        ("name: ../demo\nmodels: [tfidf]\ntasks: [terra]\n", r"'name' is '\.\./demo'"),
        ("name: 2001-99-99\nmodels: [tfidf]\ntasks: [terra]\n", r"is not YAML"),
        (PLAN + "1: 2\n", r"parameter '1'.*Keys should be strings"),
        (PLAN + "models: [tfidf]\n", r"is not YAML: duplicate key 'models' .*line 4"),
        ("- name: demo\n", r"holds no mapping"),
        (PLAN.encode() + b"data_dir: \xff\n", r"is not YAML"),
    ],
)
def test_an_invalid_plan_is_refused(plan, text, message):
    with pytest.raises(UsageError, match=rf"plan\.yaml.*{message}") as caught:
        plan(text)
    assert "\n" not in str(caught.value)


def test_a_plan_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*missing\.yaml"):
        config.load_plan(tmp_path / "missing.yaml", KINDS)


# -- files by name -------------------------------------------------------------------------------------------------
@pytest.fixture
def project(tmp_path):
    """A project with a params folder, and a way to write files into it."""
    for mark in config.ROOT_MARKS:
        (tmp_path / mark).mkdir()

    def put(name: str, text: str) -> Path:
        path = tmp_path / "params" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path

    return put


def test_a_model_file_names_a_model_of_a_known_kind(project):
    root = project("models/mine.yaml", "model: {name: mine, kind: tfidf}\n")
    assert config.load_model("mine", root) == config.ModelParams(name="mine", kind="tfidf")
    assert config.load_model("majority", root).kind == "majority"  # without a file: a kind of the kit
    with pytest.raises(UsageError, match=r"no model 'tfidff'.*did you mean 'tfidf'\?"):
        config.load_model("tfidff", root)
    with pytest.raises(
        UsageError,
        match=r"no model 'MINE'; models: majority, mine, tfidf; or a hub id, or a folder; did you mean 'mine'\?",
    ):
        config.load_model("MINE", root)


def test_a_model_file_may_be_a_program(project, monkeypatch):
    root = project("models/mine.yaml", "model: {name: mine, command: python3 a.py, cwd: sub, env: [TOKEN]}\n")
    mine = config.load_model("mine", root)
    assert (mine.kind, mine.command, mine.cwd, mine.env) == (config.PROGRAM, "python3 a.py", "sub", ["TOKEN"])
    assert config.ModelParams(**mine.model_dump()) == mine
    with pytest.raises(UsageError, match=r"mine: TOKEN not set"):
        targets.target_from_program(mine, config.MachineParams(), root)
    monkeypatch.setenv("TOKEN", "given")
    assert targets.target_from_program(mine, config.MachineParams(), root).runner.environment["TOKEN"] == "given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mine\nkind: tfidf\n", r"has the keys name, kind; one top-level key, model:"),
        ("model:\n", r"'name' is missing"),
        ("model: {name: a}\n", r"a model has a kind, or either command or image"),
        ("model: {name: a, command: b, image: c}\n", r"a model has a kind, or either command or image"),
        ("model: {name: a, kind: tfidf, command: b}\n", r"command: for a program, which has no kind"),
        ("model: {name: a, image: c, cwd: d}\n", r"cwd: of a command"),
        ("model: {name: a, command: b, recipe: c}\n", r"recipe: for transformers only"),
        (
            "model: {name: a, kind: transformer, source: b, precision: int8}\n",
            r"precision int8: with backend openvino only",
        ),
        ("model: [a]\n", r"mine\.yaml: .* is \['a'\]: Input should be a valid dictionary"),
    ],
)
def test_an_invalid_model_file_is_refused(project, text, message):
    with pytest.raises(UsageError, match=message):
        config.load_model("mine", project("models/mine.yaml", text))


def test_a_task_without_a_file_has_its_defaults_and_an_unknown_one_is_refused(project):
    root = project("tasks/other.yaml", "task: {name: terra, split: test, files: {test: my/test.jsonl}}\n")
    assert config.load_task("terra", root) == config.TaskParams(name="terra", split="val")
    assert config.load_task("other", root).files == {"test": "my/test.jsonl"}
    with pytest.raises(UsageError, match=r"no task 'tera'"):
        config.load_task("tera", root)


def test_a_machine_without_a_file_is_refused(project):
    root = project("machines/local.yaml", "machine: {timeout_s: 5}\n")
    assert config.load_machine("local", root).timeout_s == 5
    with pytest.raises(UsageError, match=r"no machine .moon. in .*machines: local"):
        config.load_machine("moon", root)


def test_the_project_is_found_upwards_and_paths_count_from_it(project, tmp_path):
    root = project("models/mine.yaml", "")
    below = root / "notebooks" / "deep" / "er"
    below.mkdir(parents=True)
    assert config.find_root(below) == config.project_root(below) == root.resolve()
    assert config.resolve("outputs/x", root) == root.resolve() / "outputs/x"
    assert config.resolve("/somewhere", root) == Path("/somewhere")
    with pytest.raises(UsageError, match="no project found"):
        config.project_root(root.parent)


def test_paths_are_read_as_people_write_them(project, monkeypatch):
    root = project("models/mine.yaml", "")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    assert config.resolve("~/x", root) == Path("/home/me/x")
    assert config.resolve("$DATA/x", root) == config.resolve("${DATA}/x", root) == Path("/data/x")
    assert config.resolve("price-5$", root) == root.resolve() / "price-5$"
    with pytest.raises(UsageError, match=r"\$NOWHERE/x: the variable \$NOWHERE is not set; set it"):
        config.resolve("$NOWHERE/x", root)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"epochs": -1}, "bench.ipynb: parameter 'recipe.epochs' is -1: Input should be greater than 0"),
        ({"epochz": 1}, "bench.ipynb: unknown parameter 'recipe.epochz'; did you mean 'epochs'?"),
    ],
)
def test_a_recipe_in_a_model_file_is_refused_by_what_the_user_wrote(recipe, message):
    values = {"name": "m", "kind": "transformer", "source": "a/b", "recipe": recipe}
    assert refused(config.ModelParams, values) == message


# -- recipes of pre-training ---------------------------------------------------------------------------------------
def pretraining(folder, **recipes):
    (folder / "params/pretraining").mkdir(parents=True)
    for name, text in recipes.items():
        (folder / f"params/pretraining/{name}.yaml").write_text(f"pretraining: {text}\n")
    return folder


def test_a_recipe_that_extends_another_changes_what_it_names_at_every_depth(tmp_path):
    root = pretraining(
        tmp_path,
        above="{steps: 7, sparsity: {level: 0.5, what: encoder}, rigl: {share: 0.2, every: 9}}",
        below="{extends: above, sparsity: {level: 0.8}, rigl: {every: 4}}",
        dense="{extends: below, sparsity: null, rigl: null}",
    )
    below = load_pretraining("below", root)
    assert (below.steps, below.sparsity.level, below.sparsity.what) == (7, 0.8, "encoder")
    assert (below.rigl.share, below.rigl.every) == (0.2, 4)
    dense = load_pretraining("dense", root)
    assert (dense.steps, dense.sparsity, dense.rigl) == (7, None, None)


@pytest.mark.parametrize(
    ("level", "rule"),
    [
        ("1.5", "Input should be less than 1"),
        ("half", "Input should be a valid number, unable to parse string as a number"),
        ("{a.weight: 2}", "Input should be less than 1"),
        ("[0.5]", "Input should be a valid number"),
    ],
)
def test_a_value_that_may_be_of_two_types_is_refused_by_the_rule_of_its_own(tmp_path, level, rule):
    root = pretraining(tmp_path, wrong=f"{{steps: 7, sparsity: {{level: {level}}}}}")
    with pytest.raises(UsageError) as refusal:
        load_pretraining("wrong", root)
    (place, *_), text = re.findall(r"parameter '(\S+)' is", str(refusal.value)), str(refusal.value)
    assert place.removesuffix(".a.weight") == "sparsity.level" and rule in text
    assert text.count("Input should") == 1 + (level == "[0.5]")  # a list is neither


def test_a_model_of_a_plan_extends_others_and_changes_parts_of_their_recipes(tmp_path):
    root = pretraining(tmp_path, above="{steps: 7, sparsity: {level: 0.5}}", other="{steps: 9, sparsity: {level: 0.9}}")
    (root / "params/models").mkdir()
    (root / "params/models/filed.yaml").write_text(
        "model: {name: filed, kind: transformer, pretraining: {recipe: above, corpus: [a.txt], seeds: 1-3}}\n"
    )
    own = {
        "one": {"name": "one", "extends": "filed", "pretraining": {"recipe": {"sparsity": {"what": "encoder"}}}},
        "two": {"name": "two", "extends": "one", "pretraining": {"recipe": "other"}},
        "lost": {"name": "lost", "extends": "nobody"},
    }
    one, two = (config.load_model(name, root, own) for name in ("one", "two"))
    assert (one.name, one.pretraining.corpus, one.pretraining.seeds) == ("one", ["a.txt"], "1-3")
    assert (one.pretraining.recipe.steps, one.pretraining.recipe.sparsity.level) == (7, 0.5)
    assert one.pretraining.recipe.sparsity.what == two.pretraining.recipe.sparsity.what == "encoder"
    assert (two.pretraining.recipe.steps, two.pretraining.recipe.sparsity.level) == (9, 0.9)
    own["two"]["pretraining"]["recipe"] = {"sparsity": {"level": "half"}}
    with pytest.raises(UsageError, match=r"parameter 'pretraining\.recipe\.sparsity\.level' is 'half'"):
        config.load_model("two", root, own)
    with pytest.raises(UsageError, match="no model 'nobody' to extend"):
        config.load_model("lost", root, own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{extends: one}", "one -> one; nothing extends itself"),
        ("{extends: tiny}", "no recipe 'tiny'; recipes in .*: one"),
        ("{step: 5}", "unknown parameter 'step'; did you mean 'steps'"),
        ("{rigl: {}}", "rigl moves the weights of a sparse model"),
        ("{gradual: {level: 0.5}, sparsity: {level: 0.5}}", "gradual pruning begins dense"),
    ],
)
def test_an_impossible_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        load_pretraining("one", pretraining(tmp_path, one=text))
