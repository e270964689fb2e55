"""A base made from Debian's packages; the Dockerfile that docs/containers.md shows."""

import json
import os
import pickle
import shutil
from pathlib import Path

import engine
import pytest

from morocco_lib.images import bases, build
from morocco_lib.pipeline.targets import check_image
from morocco_lib.runners.contract import Limits
from morocco_lib.tasks import get_task

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


def test_a_base_from_the_distributions_packages_carries_a_model(docker_engine, fitted, synthetic_data):
    if shutil.which("debootstrap") is None and not os.environ.get("MOROCCO_STRICT"):
        pytest.skip("debootstrap is not installed")
    val, talk = synthetic_data / "TERRa/val.jsonl", []
    image = build.build(
        build.Recipe(fitted, "terra", bases.DEBIAN, "on-debian"),
        lambda image: check_image(image, get_task("terra"), val, Limits(timeout_s=60)),
        talk.append,
    )
    assert any("making a base" in line for line in talk)
    with engine.client(docker_engine) as client:
        command = {"entrypoint": "cat", "network_mode": "none", "remove": True}
        assert b"Debian" in client.containers.run(image.id, ["/etc/os-release"], **command)
    talk.clear()
    build.build(build.Recipe(fitted, "terra", bases.DEBIAN, "again"), lambda image: None, talk.append)
    assert talk == ["building again", "checking again"]  # the base and the packages are there


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


def test_a_foreign_model_is_packed_in_five_lines_of_dockerfile(docker_engine, main, synthetic_data, tmp_path):
    """In the style of the original's TF-IDF container: a pickle of scikit-learn, all of stdin read first, all answers last."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    dockerfile = (ROOT / "docs/containers.md").read_text().split("```dockerfile\n")[1].split("```")[0]
    assert len(dockerfile.strip().splitlines()) == 5
    val = synthetic_data / "TERRa/val.jsonl"
    train = get_task("terra").read(synthetic_data / "TERRa" / "train.jsonl")
    vectorizer, classifier = TfidfVectorizer(), LogisticRegression()
    texts = vectorizer.fit_transform([f"{r['premise']} {r['hypothesis']}" for r in train])
    classifier.fit(texts, [r["label"] for r in train])
    (tmp_path / "Dockerfile").write_text(dockerfile)
    (tmp_path / "main.py").write_text(FOREIGN)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps((vectorizer, classifier)))
    with engine.client(docker_engine) as client:
        engine.slim_image(client)
        client.images.build(path=str(tmp_path), tag="my-model", rm=True)
    done = main("check", "--image", "my-model", "terra", "--data", val)
    assert done.returncode == 0 and "PASS: my-model on terra" in done.stdout, done.stdout
    size = ("--input-size", 200, "--repeats", 1, "--json")
    done = main("bench", "--image", "my-model", "terra", "--data", val, "--out", tmp_path / "out", *size)
    result = json.loads(done.stdout)
    assert (result["verdict"], result["model"]) == ("VALID", "my-model") and result["score"]["value"] > 0.4
