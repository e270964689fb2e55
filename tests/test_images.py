"""Images built on a real engine: what is in them, what they share, and that only what keeps the contract gets a name."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import engine
import pytest

from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.images import bases, build
from morocco_lib.models import model_class, weights
from morocco_lib.pipeline import resolve
from morocco_lib.runners import engine as engines
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def docker(docker_engine):
    with engine.client(docker_engine) as client:
        yield client


@pytest.fixture(scope="module")
def val(synthetic_data) -> Path:
    return synthetic_data / "TERRa" / "val.jsonl"


@pytest.fixture(scope="module")
def recipe(fitted, tiny_image) -> build.Recipe:
    return build.Recipe(fitted, "terra", base=tiny_image)


@pytest.fixture(scope="module")
def built(recipe, val) -> engines.Image:
    return build.build(recipe, lambda image: resolve.check_image(image, get_task("terra"), val, Limits(timeout_s=60)))


def passes(image: engines.Image) -> None:
    """Check nothing, for tests of what comes before."""


def config(docker, name: str) -> dict:
    return docker.api.inspect_image(name)["Config"]


def run_in(docker, image: str, code: str) -> str:
    return docker.containers.run(image, ["-c", code], entrypoint="python3", network_mode="none", remove=True).decode()


# -- one image -----------------------------------------------------------------------------------------------------
def test_the_founding_line_works_as_written(built, val, tmp_path, fitted):
    words = ["docker", "run", "--interactive", "--rm", "tfidf-terra", "--batch-size=8"]
    with val.open("rb") as records:
        done = subprocess.run(words, stdin=records, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    argv = [sys.executable, "-m", "morocco_lib", "infer", str(fitted), "--batch-size", "8"]
    with val.open("rb") as records:
        bare = subprocess.run(argv, stdin=records, capture_output=True, check=True)
    assert done.stdout == bare.stdout and len(done.stdout.splitlines()) == len(val.read_text().splitlines())


def test_an_image_says_what_it_is(docker, built, fitted):
    code, labels = steps.code_facts(), config(docker, "tfidf-terra")["Labels"]
    assert labels["org.opencontainers.image.revision"] == (code["commit"] or "")
    assert (
        labels["morocco.model"] == "tfidf" and labels["morocco.task"] == "terra" and labels["morocco.contract"] == "1"
    )
    assert labels["morocco.dirty"] in ("true", "false", "") and len(labels["morocco.weights"]) == 64
    assert built.labels == labels and built.name == "tfidf-terra"


def test_an_image_is_run_by_nobody_through_an_entry_point_in_exec_form(docker, built):
    found = config(docker, "tfidf-terra")
    assert found["User"] == "65532:65532" and not found["Cmd"]
    assert found["Entrypoint"] == ["python3", "-m", "morocco_lib", "infer", "/opt/morocco/weights"]


def test_an_image_holds_what_answers_and_nothing_of_the_kit_and_its_bytecode(docker, built):
    code = """
import importlib.util, json, pathlib
kit = ["jupyterlab", "papermill", "pandas", "matplotlib", "docker", "boto3", "pydantic", "sklearn", "pip"]
opt = pathlib.Path("/opt/morocco")
sources = [p for p in opt.rglob("*.py") if p.name != "compile.py"]
compiled = {p.name.split(".")[0] for p in opt.rglob("*.pyc")}
print(json.dumps({"kit": [n for n in kit if importlib.util.find_spec(n)],
    "have": [n for n in ("numpy", "safetensors", "morocco_lib") if importlib.util.find_spec(n)],
    "share": sum(p.stem in compiled for p in sources) / len(sources)}))
"""
    found = json.loads(run_in(docker, built.id, code))
    assert found["kit"] == [] and found["have"] == ["numpy", "safetensors", "morocco_lib"] and found["share"] > 0.99


def test_an_unchanged_recipe_gives_the_same_image_without_building_or_checking(recipe, built):
    talk: list[str] = []
    again = build.build(recipe, lambda image: pytest.fail("checked again"), talk.append)
    assert again.id == built.id and talk == []


def test_what_breaks_the_contract_gets_no_name_and_the_old_one_stays(docker, recipe, built, tmp_path):
    description = json.loads((recipe.weights / weights.VALUES).read_text())
    broken = tmp_path / "weights"
    shutil.copytree(recipe.weights, broken)
    description["values"]["labels"] = ["yes", "no"]
    (broken / weights.VALUES).write_text(json.dumps(description))
    val = tmp_path / "val.jsonl"
    val.write_text("".join(f'{{"idx": {i}, "premise": "а", "hypothesis": "б"}}\n' for i in range(5)))
    with pytest.raises(InvalidResult, match="breaks the contract"):
        build.build(
            build.Recipe(broken, "terra", base=recipe.base),
            lambda image: resolve.check_image(image, get_task("terra"), val, Limits(timeout_s=60)),
        )
    assert engines.find_image(docker, "tfidf-terra").id == built.id


def test_a_task_answered_by_another_tasks_weights_is_an_image_of_its_own(docker, recipe, built, synthetic_data):
    source = synthetic_data / "LiDiRus" / "LiDiRus.jsonl"
    other = build.build(
        build.Recipe(recipe.weights, "lidirus", base=recipe.base),
        lambda image: resolve.check_image(image, get_task("lidirus"), source, Limits(timeout_s=60)),
    )
    assert other.name == "tfidf-lidirus" and other.id != built.id and other.labels["morocco.task"] == "lidirus"
    layers = [docker.api.inspect_image(image.id)["RootFS"]["Layers"] for image in (built, other)]
    shared = [a for a, b in zip(*layers, strict=False) if a == b]
    assert len(shared) >= len(layers[0]) - 1  # at most the last layer is its own
    with pytest.raises(UsageError, match="answers terra, not rcb"):
        build.build(build.Recipe(recipe.weights, "rcb", base=recipe.base), passes)


def test_a_tag_may_be_chosen_and_its_registry_may_have_a_port(recipe, docker):
    name = "localhost:5000/team/mine:v1"
    assert build.build(build.Recipe(recipe.weights, "terra", recipe.base, name), passes).name == name
    assert docker.images.list(name)
    docker.api.remove_image(name)


def test_secrets_of_the_package_index_are_nowhere_in_an_image(docker, built, recipe, monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://user:canary-7531@127.0.0.1:9/simple")
    docker.api.remove_image(next(t for i in docker.images.list("morocco-packages") for t in i.tags), force=True)
    image = build.build(build.Recipe(recipe.weights, "terra", recipe.base, "canary"), passes)
    said = json.dumps([docker.api.history(image.id), docker.api.inspect_image(image.id)])
    assert "canary-7531" not in said and b"canary-7531" not in b"".join(docker.api.get_image(image.id))


# -- what images share ---------------------------------------------------------------------------------------------
def random_weights(folder: Path, name: str, seed: int) -> Path:
    """Write a weights folder whose arrays are 3 MB of noise."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    values = {"schema": 1, "name": name, "kind": "tfidf", "task": "terra", "trained_on": {}, "values": {}}
    (folder / weights.VALUES).write_text(json.dumps(values))
    save_file({"noise": np.random.default_rng(seed).random(400_000)}, folder / weights.ARRAYS)
    return folder


def test_equal_weights_and_the_packages_are_one_layer_whoever_uses_them(docker, recipe, tmp_path):
    layers = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        image = build.build(build.Recipe(random_weights(tmp_path / name, name, seed), "terra", recipe.base), passes)
        layers.append(docker.api.inspect_image(image.id)["RootFS"]["Layers"])
    a, b, c = layers
    below = next(i for i, (x, y) in enumerate(zip(a, c, strict=False)) if x != y)  # c's weights differ
    assert below >= 3  # base, packages, their bytecode
    assert a[: below + 1] == b[: below + 1] and a != b and a[below] != c[below]


# -- builders, bases -----------------------------------------------------------------------------------------------
def test_buildkit_builds_what_the_engine_builds(docker, recipe, built, monkeypatch, tmp_path, val):
    # A `docker` program without BuildKit may come first on PATH.
    places = [Path(p) for p in ("/usr/bin", *os.environ["PATH"].split(":")) if (Path(p) / "docker").exists()]
    able = [p for p in places if _has_buildkit(p / "docker")]
    if not able and not os.environ.get("MOROCCO_STRICT"):
        pytest.skip("no `docker` program with BuildKit")
    monkeypatch.setenv("PATH", f"{able[0]}:{os.environ['PATH']}")
    other = shutil.copytree(recipe.weights, tmp_path / "weights")
    description = json.loads((other / weights.VALUES).read_text()) | {"name": "kit"}
    (other / weights.VALUES).write_text(json.dumps(description, ensure_ascii=False))
    image = build.build(
        build.Recipe(other, "terra", recipe.base, "by-buildkit", buildkit=True),
        lambda image: resolve.check_image(image, get_task("terra"), val, Limits(timeout_s=60)),
    )
    assert config(docker, image.id)["Entrypoint"] == config(docker, built.id)["Entrypoint"]
    assert image.labels["morocco.model"] == "kit"


def _has_buildkit(program: Path) -> bool:
    env = {**os.environ, "DOCKER_BUILDKIT": "1"}
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        text = b"FROM scratch\nLABEL a=b\n"
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return not subprocess.run(
        [program, "build", "-q", "-"], input=context.getvalue(), env=env, capture_output=True
    ).returncode


def test_a_base_that_cannot_be_had_names_the_ways_out(recipe):
    with pytest.raises(EnvironmentFailure, match=r"no\.such\.registry/python.*--base debian"):
        build.build(build.Recipe(recipe.weights, "terra", "no.such.registry/python:3"), passes)


def test_a_base_without_python_is_wrong_usage(docker, recipe):
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    docker.api.import_image_from_data(empty.getvalue(), "morocco-tests/empty", "1")
    with pytest.raises(UsageError, match=r"morocco-tests/empty:1 does not run Python"):
        build.build(build.Recipe(recipe.weights, "terra", "morocco-tests/empty:1"), passes)


def test_a_package_index_that_fails_is_an_environment_failure(docker, recipe, monkeypatch):
    monkeypatch.setattr(bases, "requirements", lambda extras: ["no-such-package-of-ours==1.0"])
    with pytest.raises(EnvironmentFailure, match=r"cannot install no-such-package-of-ours==1\.0.*package index"):
        build.build(recipe, passes)


def test_requirements_are_those_of_the_extras_alone():
    assert [line.split("==")[0] for line in bases.requirements(("infer",))] == ["numpy", "safetensors"]
    both = {line.split("==")[0] for line in bases.requirements(("infer", "torch"))}
    assert both == {"accelerate", "numpy", "safetensors", "tokenizers", "torch", "transformers"}


def test_a_base_from_the_distributions_packages_carries_a_model(docker, fitted, val):
    if shutil.which("debootstrap") is None and not os.environ.get("MOROCCO_STRICT"):
        pytest.skip("debootstrap is not installed")
    talk: list[str] = []
    image = build.build(
        build.Recipe(fitted, "terra", bases.DEBIAN, "on-debian"),
        lambda image: resolve.check_image(image, get_task("terra"), val, Limits(timeout_s=60)),
        talk.append,
    )
    assert any("making a base" in line for line in talk)
    assert "Debian" in run_in(docker, image.id, "print(open('/etc/os-release').read())")
    talk.clear()
    build.build(build.Recipe(fitted, "terra", bases.DEBIAN, "on-debian-again"), passes, talk.append)
    assert talk == ["building on-debian-again", "checking on-debian-again"]  # the base and the packages are there


def test_two_kinds_of_model_share_everything_but_their_weights(docker, recipe, built, synthetic_data, tmp_path, val):
    task = get_task("terra")
    model = model_class("majority").fit(task, task.read(val), 1)
    weights.save(model, task, tmp_path / "weights", name="majority", trained_on={"sha256": "ab" * 32})
    image = build.build(build.Recipe(tmp_path / "weights", "terra", recipe.base), passes)
    assert image.name == "majority-terra" and image.labels["morocco.data"] == "ab" * 32
    ours = docker.api.inspect_image(image.id)["RootFS"]["Layers"]
    assert ours[:3] == docker.api.inspect_image(built.id)["RootFS"]["Layers"][:3]


# -- as documented -------------------------------------------------------------------------------------------------
FOREIGN = """
import argparse, json, pickle, sys

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=32)
parser.parse_args()
with open("/model/model.pkl", "rb") as file:
    vectorizer, classifier = pickle.load(file)
records = [json.loads(line) for line in sys.stdin]
texts = [record["premise"] + " " + record["hypothesis"] for record in records]
if texts:
    for record, label in zip(records, classifier.predict(vectorizer.transform(texts))):
        print(json.dumps({"idx": record["idx"], "label": label}))
"""


def test_a_foreign_model_is_packed_in_five_lines_of_dockerfile(docker, main, synthetic_data, val, tmp_path):
    """In the style of the original's TF-IDF container: a pickle of scikit-learn, all of stdin read first, all answers last."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    page = (Path(__file__).parents[1] / "docs/containers.md").read_text()
    dockerfile = page.split("```dockerfile\n")[1].split("```")[0]
    assert len(dockerfile.strip().splitlines()) == 5
    engine.slim_image(docker)
    train = get_task("terra").read(synthetic_data / "TERRa" / "train.jsonl")
    vectorizer, classifier = TfidfVectorizer(), LogisticRegression()
    classifier.fit(
        vectorizer.fit_transform([f"{r['premise']} {r['hypothesis']}" for r in train]), [r["label"] for r in train]
    )
    (tmp_path / "Dockerfile").write_text(dockerfile)
    (tmp_path / "main.py").write_text(FOREIGN)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps((vectorizer, classifier)))
    docker.images.build(path=str(tmp_path), tag="my-model", rm=True)
    done = main("check", "--image", "my-model", "terra", "--data", val)
    assert done.returncode == 0 and "PASS: my-model on terra" in done.stdout, done.stdout
    sizes = ("--input-size", 200, "--repeats", 1, "--json")
    done = main("bench", "--image", "my-model", "terra", "--data", val, "--out", tmp_path / "out", *sizes)
    result = json.loads(done.stdout)
    assert (result["verdict"], result["model"]) == ("VALID", "my-model") and result["score"]["value"] > 0.4


def test_a_folder_may_be_named_instead_of_a_model(main, docker, built, recipe):
    done = main("build", recipe.weights.parent, "terra", "--base", recipe.base, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"image": "tfidf-terra", "id": built.id, "bytes": built.size_bytes}


def test_the_commands_in_the_help_of_build_work(docker, main, fitted, synthetic_data, tmp_path, monkeypatch):
    engine.slim_image(docker)
    monkeypatch.chdir(tmp_path)
    done = main(
        "train",
        "majority",
        "terra",
        "--data",
        synthetic_data,
        "--out",
        tmp_path / "outputs/demo/majority/terra/train-1",
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "fitted").symlink_to(fitted)
    text = main("build", "--help").stdout
    lines = [line.removeprefix("try:").strip() for line in text[text.index("try:") :].splitlines()]
    printed = [main(*line.split()[1:]) for line in lines]
    assert [done.returncode for done in printed] == [0, 0], printed
    assert [done.stdout.split() for done in printed] == [["tfidf-terra"], ["majority-lidirus", "majority-terra"]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tfidf"], 2, "give MODEL and TASK, or --all"),
        (["tfidf", "rcb", "--weights", "WEIGHTS"], 2, "answers terra, not rcb"),
        (["majority", "terra", "--weights", "WEIGHTS"], 2, "holds tfidf, not majority"),
        (["tfidf", "terra", "--outputs", "EMPTY"], 2, "no tfidf trained for terra below"),
        (["--all", "--outputs", "EMPTY"], 2, "no trained model below"),
        (["tfidf", "terra", "--weights", "EMPTY"], 2, "no model in"),
    ],
)
def test_what_cannot_be_built_is_wrong_usage(main, fitted, tmp_path, docker_engine, words, code, said):
    done = main("build", *[{"WEIGHTS": str(fitted), "EMPTY": str(tmp_path)}.get(word, word) for word in words])
    assert done.returncode == code and said in done.stderr
