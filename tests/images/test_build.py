"""Images built on a real engine: what is in them, what they share, and that only what keeps the contract gets a name."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import engine
import founding
import pytest
from helpers import own_pip_settings, write_wheel

from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.images import bases, build
from morocco_lib.models import weights
from morocco_lib.pipeline.targets import check_image
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

ROOT = Path(__file__).resolve().parents[2]
TERRA = get_task("terra")


@pytest.fixture(scope="session")
def val(synthetic_data) -> Path:
    return synthetic_data / "TERRa" / "val.jsonl"


@pytest.fixture(scope="session")
def recipe(fitted, tiny_image) -> build.Recipe:
    return build.Recipe(fitted, "terra", base=tiny_image)


@pytest.fixture(scope="session")
def checked(val):
    return lambda image: check_image(image, TERRA, val, Limits(timeout_s=60))


@pytest.fixture(scope="session")
def built(recipe, checked):
    return build.build(recipe, checked, print)


def make(weights_folder, base, name="", task="terra", **options):
    """Build an image without checking it."""
    recipe = build.Recipe(weights_folder, task, base, name, **options)
    return build.build(recipe, lambda image: None, lambda text: None)


def layers(docker, image) -> list[str]:
    return docker.api.inspect_image(image.id)["RootFS"]["Layers"]


# -- what is in an image -------------------------------------------------------------------------------------------
def key_of(files) -> str:
    return build._Stage("task", {}, build.digests(files)).key


def test_an_edit_of_what_answers_makes_other_images_and_an_edit_of_the_report_does_not(tmp_path, monkeypatch):
    package = tmp_path / "morocco_lib"
    shutil.copytree(build.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build, "PACKAGE", package)
    before = key_of(build.library())
    for name in ("report/tables.py", "cli/entry.py", "images/build.py"):
        (package / name).write_text("1\n")
    (package / "report/new.py").write_text("1\n")
    assert key_of(build.library()) == before
    (package / "models/majority.py").write_text("1\n")
    assert key_of(build.library()) != before
    before = key_of(build.library())
    (package / "models/transformer/packing.py").write_text("1\n")  # also in packages below
    assert key_of(build.library()) != before


def test_what_answers_imports_nothing_that_an_image_does_not_hold():
    inside = {name.removeprefix("code/").removesuffix(".py").replace("/", ".") for name in build.library()}
    inside |= {name.removesuffix(".__init__") for name in inside}
    for path in build.library().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "morocco_lib":
                own = [f"{node.module}.{alias.name}" for alias in node.names if node.module == "morocco_lib"]
                assert set(own or [node.module]) <= inside, (path, node.module)


@pytest.mark.slow
def test_the_command_of_the_contract_works_as_written(built, val, fitted):
    with val.open("rb") as records:
        argv = ["docker", "run", "--interactive", "--rm", "tfidf-terra", "--batch-size=8"]
        done = subprocess.run(argv, stdin=records, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b'morocco: {"event": "ready"}\n'
    with val.open("rb") as records:
        argv = [sys.executable, "-m", "morocco_lib", "infer", str(fitted), "--batch-size", "8"]
        bare = subprocess.run(argv, stdin=records, capture_output=True, check=True)
    assert done.stdout == bare.stdout and done.stdout.count(b"\n") == val.read_bytes().count(b"\n")


@pytest.mark.slow
def test_an_image_refuses_what_morocco_infer_refuses(built):
    for options, given, expected in ((["--batch=8"], b"", b"unrecognized arguments"), ([], b"{}\n", b"stdin, line 1")):
        argv = ["docker", "run", "--interactive", "--rm", "tfidf-terra", *options]
        done = subprocess.run(argv, input=given, capture_output=True)
        assert done.returncode == 2 and expected in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.slow
def test_an_image_has_labels_and_is_run_by_nobody_in_exec_form(docker, built):
    found = docker.api.inspect_image("tfidf-terra")["Config"]
    assert found["User"] == "65532:65532" and not found["Cmd"]
    assert found["Entrypoint"] == ["python3", "-m", "morocco_lib.infer", "/opt/morocco/weights"]
    labels = found["Labels"]
    assert (labels["morocco.model"], labels["morocco.task"], labels["morocco.contract"]) == ("tfidf", "terra", "1")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert labels["org.opencontainers.image.revision"] == head and labels["morocco.dirty"] in ("true", "false", "")
    assert len(labels["morocco.weights"]) == 64 and built.labels == labels and built.name == "tfidf-terra"


@pytest.mark.slow
def test_an_image_holds_bytecode_and_nothing_of_the_kit(docker, built):
    code = """
import importlib.util, json, pathlib
kit = ["jupyterlab", "papermill", "pandas", "matplotlib", "docker", "boto3", "pydantic", "sklearn", "pip"]
opt = pathlib.Path("/opt/morocco")
sources, compiled = list(opt.rglob("*.py")), {p.name.split(".")[0] for p in opt.rglob("*.pyc")}
print(json.dumps({"kit": [n for n in kit if importlib.util.find_spec(n)],
    "library": sorted(p.stem for p in (opt / "code/morocco_lib").glob("[a-z]*")),
    "compiled": sum(p.stem in compiled for p in sources) / len(sources)}))
"""
    command = {"entrypoint": "python3", "network_mode": "none", "remove": True}
    found = json.loads(docker.containers.run(built.id, ["-c", code], **command))
    assert found["kit"] == [] and found["compiled"] > 0.99
    assert found["library"] == ["errors", "foreign", "infer", "models", "options", "tasks"]


@pytest.mark.slow
def test_secrets_of_the_package_index_are_nowhere_in_an_image(docker, built, recipe, monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://user:canary-7531@127.0.0.1:9/simple")
    monkeypatch.setattr(bases, "requirements", lambda extras: ["safetensors==0.8.0"])  # another set of packages
    image = make(recipe.weights, recipe.base, "canary")
    printed = json.dumps([docker.api.history(image.id), docker.api.inspect_image(image.id)])
    assert "canary-7531" not in printed and b"canary-7531" not in b"".join(docker.api.get_image(image.id))


# -- what is built -------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_unchanged_recipe_gives_the_same_image_without_building_or_checking(recipe, built, monkeypatch):
    talk: list[str] = []
    monkeypatch.setattr(steps, "code_facts", lambda: {"version": "0", "commit": "another", "dirty": True})
    again = build.build(recipe, lambda image: pytest.fail("checked again"), talk.append)
    assert again.id == built.id and talk == []


@pytest.mark.slow
def test_what_breaks_the_contract_gets_no_name_and_the_old_one_stays(docker, recipe, built, checked, tmp_path):
    broken = shutil.copytree(recipe.weights, tmp_path / "weights")
    description = json.loads((broken / weights.VALUES).read_text())
    description["values"]["labels"] = ["yes", "no"]
    (broken / weights.VALUES).write_text(json.dumps(description))
    with pytest.raises(InvalidResult, match="breaks the contract"):
        build.build(build.Recipe(broken, "terra", recipe.base), checked, print)
    assert docker.images.get("tfidf-terra").id == built.id


@pytest.mark.slow
def test_images_share_packages_and_equal_weights_whatever_task_is_asked(docker, recipe, built, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    def noise(name, seed, task="terra"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        values = {"schema": 1, "name": name, "kind": "tfidf", "task": "terra", "trained_on": {}, "values": {}}
        (folder / weights.VALUES).write_text(json.dumps(values))
        save_file({"noise": np.random.default_rng(seed).random(400_000)}, folder / weights.ARRAYS)
        return make(folder, recipe.base, task=task)

    first, other = noise("a", 1), noise("a", 1, "lidirus")
    assert other.name == "a-lidirus" and other.id != first.id and other.labels["morocco.task"] == "lidirus"
    assert layers(docker, other)[:-1] == layers(docker, first)[:-1]
    a, b, c = (layers(docker, image) for image in (first, noise("b", 1), noise("c", 2)))
    below = next(i for i, (x, y) in enumerate(zip(a, c, strict=True)) if x != y)  # c's weights differ
    assert below >= 3 and a[:below] == layers(docker, built)[:below]  # base, packages, their bytecode
    assert a[: below + 1] == b[: below + 1] and a != b and a[below] != c[below]


@pytest.mark.slow
def test_a_tag_may_be_chosen_and_its_registry_may_have_a_port(recipe, built, docker):
    name = "localhost:5000/team/mine:v1"
    assert make(recipe.weights, recipe.base, name).name == name
    assert docker.images.list(name)
    docker.api.remove_image(name)


@pytest.mark.slow
def test_buildkit_builds_what_the_engine_builds(docker, recipe, built, monkeypatch, tmp_path):
    # A `docker` program without BuildKit may come first on PATH.
    context = io.BytesIO()
    build.write_context(context, "FROM scratch\nLABEL a=b\n", {})
    env = os.environ | {"DOCKER_BUILDKIT": "1"}
    for folder in ("/usr/bin", *os.environ["PATH"].split(":")):
        argv = [f"{folder}/docker", "build", "-q", "-"]
        if (
            Path(argv[0]).exists()
            and not subprocess.run(argv, input=context.getvalue(), env=env, capture_output=True).returncode
        ):
            break
    else:
        if os.environ.get("MOROCCO_STRICT"):
            pytest.fail("no `docker` program with BuildKit")
        pytest.skip("no `docker` program with BuildKit")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    other = shutil.copytree(recipe.weights, tmp_path / "weights")
    description = json.loads((other / weights.VALUES).read_text()) | {"name": "kit"}
    (other / weights.VALUES).write_text(json.dumps(description, ensure_ascii=False))
    image = make(other, recipe.base, "by-buildkit", buildkit=True)
    configs = [docker.api.inspect_image(i.id)["Config"] for i in (image, built)]
    assert configs[0]["Entrypoint"] == configs[1]["Entrypoint"] and image.labels["morocco.model"] == "kit"


# -- bases ---------------------------------------------------------------------------------------------------------
def test_requirements_are_those_of_the_extras_alone():
    assert [line.split("==")[0] for line in bases.requirements(("infer",))] == ["numpy", "safetensors"]
    both = {line.split("==")[0] for line in bases.requirements(("infer", "torch"))}
    assert both == {"accelerate", "numpy", "safetensors", "tokenizers", "torch", "transformers"}


def test_a_persons_own_pip_settings_do_not_say_where_packages_of_images_go(tmp_path, monkeypatch):
    write_wheel(tmp_path / "wheels", "canary")
    for name, value in own_pip_settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    bases.install(["canary"], "3.11", tmp_path / "packages")
    assert (tmp_path / "packages/canary.py").is_file() and not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_base_that_cannot_be_had_names_the_ways_out(recipe):
    with pytest.raises(EnvironmentFailure, match=r"no\.such\.registry/python.*--base debian"):
        make(recipe.weights, "no.such.registry/python:3")


@pytest.mark.slow
def test_a_base_without_python_is_wrong_usage(docker, recipe):
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    docker.api.import_image_from_data(empty.getvalue(), "morocco-tests/empty", "1")
    with pytest.raises(UsageError, match=r"morocco-tests/empty:1 does not run Python"):
        make(recipe.weights, "morocco-tests/empty:1")
    assert engine.left_containers(docker) == []


@pytest.mark.slow
def test_a_package_index_that_fails_is_an_environment_failure(recipe, monkeypatch):
    monkeypatch.setattr(bases, "requirements", lambda extras: ["no-such-package-of-ours==1.0"])
    with pytest.raises(EnvironmentFailure, match=r"cannot install no-such-package-of-ours==1\.0.*package index"):
        make(recipe.weights, recipe.base)


# -- the command, and as documented --------------------------------------------------------------------------------
def test_trained_models_answer_all_tasks_that_take_their_weights(tmp_path):
    found = {("tfidf", "terra"): tmp_path, ("majority", "rcb"): tmp_path}
    assert build.answered_by(found) == [("majority", "rcb"), ("tfidf", "lidirus"), ("tfidf", "terra")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tfidf"], "give MODEL and TASK, or --all"),
        (["tfidf", "rcb", "--weights", "WEIGHTS"], "answers terra, not rcb"),
        (["majority", "terra", "--weights", "WEIGHTS"], "holds tfidf, not majority"),
        (["tfidf", "terra", "--outputs", "EMPTY"], "no tfidf trained for terra below"),
        (["--all", "--outputs", "EMPTY"], "no trained model below"),
        (["tfidf", "terra", "--weights", "EMPTY"], "no model in"),
    ],
)
def test_what_cannot_be_built_is_wrong_usage(main, fitted, tmp_path, words, message):
    done = main("build", *[{"WEIGHTS": str(fitted), "EMPTY": str(tmp_path)}.get(word, word) for word in words])
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.slow
def test_a_folder_may_be_named_instead_of_a_model(main, built, recipe):
    done = main("build", recipe.weights.parent, "terra", "--base", recipe.base, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"image": "tfidf-terra", "id": built.id, "bytes": built.size_bytes}


@pytest.mark.slow
def test_the_commands_in_the_help_of_build_work(main, built, fitted, tiny_image, synthetic_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = ("train", "majority", "terra", "--data", synthetic_data, "--out", "outputs/demo/majority/terra/train-1")
    assert main(*train).returncode == 0
    (tmp_path / "fitted").symlink_to(fitted)
    text = main("build", "--help").stdout
    lines = [line.removeprefix("try:").strip() for line in text[text.index("try:") :].splitlines()]
    printed = [main(*line.split()[1:], "--base", tiny_image) for line in lines]  # the last --base counts
    assert [done.returncode for done in printed] == [0, 0], printed
    assert [done.stdout.split() for done in printed] == [["tfidf-terra"], ["majority-lidirus", "majority-terra"]]


@pytest.mark.slow
def test_the_founding_commands_work_as_typed(main, built, fitted, tiny_image, synthetic_data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/public").symlink_to(synthetic_data)
    (tmp_path / "exps/tfidf").mkdir(parents=True)
    (tmp_path / "exps/tfidf/terra").symlink_to(fitted)
    train = ("train", "majority", "terra", "--data", synthetic_data)
    assert main(*train, "--out", tmp_path / "outputs/russian-superglue/majority/terra/train-1").returncode == 0
    commands = [c for row in founding.rows("engine") for c in row.commands if c.startswith(("morocco b", "docker run"))]
    assert [command.split()[1] for command in commands] == ["build", "build", "build", "run", "bench", "run"]
    for command in commands:
        more = ("--base", tiny_image) if " build " in command else ()
        done = founding.typed(command, main, tmp_path, *more)
        assert done.returncode == 0, (command, done.stderr)
    for name in ("preds.jsonl", "pred.jsonl"):
        assert len((tmp_path / name).read_text().splitlines()) == 300
    logs = {path.name for path in (tmp_path / "benches").rglob("*.jsonl")}
    assert logs == {f"{size}_{k:02d}.jsonl" for size in ("1_1", "2000_32") for k in range(1, 6)}


@pytest.mark.slow
def test_a_model_that_answers_with_numbers_is_built_checked_and_measured(main, tiny_image, synthetic_data, tmp_path):
    assert main("train", "tfidf", "stsb", "--data", synthetic_data, "--out", tmp_path / "fitted").returncode == 0
    done = main("build", tmp_path / "fitted", "stsb", "--base", tiny_image)
    assert done.returncode == 0 and done.stdout.split() == ["tfidf-stsb"], done.stderr
    records = synthetic_data / "STS-B" / "dev.jsonl"
    sizes = ("--input-size", "2000", "--batch-size", "32", "--repeats", "1", "--quick")
    done = main(
        "bench", "--image", "tfidf-stsb", "stsb", "--data", records, *sizes, "--out", tmp_path / "bench", "--json"
    )
    assert done.returncode in (0, 3), done.stderr  # 3: beside load
    assert json.loads(done.stdout)["score"]["metrics"].keys() == {"pearson", "spearman"}
