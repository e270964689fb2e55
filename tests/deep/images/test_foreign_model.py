"""The Dockerfile that docs/containers.md shows packs somebody else's model."""

import importlib.util
import io
import json
import pickle
import sysconfig
import tarfile
from pathlib import Path

import engine
import pytest
from helpers import ROOT

from morocco_lib.tasks import get_task

pytestmark = pytest.mark.slow
SLIM = "python:3.11-slim-bookworm"
CARRIED = ("pip", "sklearn", "scipy", "numpy", "joblib", "cloudpickle", "threadpoolctl", "narwhals")


def make_slim_image(client) -> None:
    """Stand in for the public image of this name: the tiny one, with pip, and scikit-learn as if pip had installed it."""
    installed, library = Path(importlib.util.find_spec("numpy").origin).parents[1], sysconfig.get_path("stdlib")
    context = io.BytesIO()
    dockerfile = (
        f"FROM {engine.tiny_image(client)}\nCOPY carried {library}/site-packages\nCOPY pip /usr/local/bin/pip\n"
    )
    pip = "#!/usr/local/bin/python3\nfrom pip._internal.cli.main import main\nraise SystemExit(main())\n"
    with tarfile.open(fileobj=context, mode="w") as tar:
        engine.add(tar, "Dockerfile", dockerfile.encode())
        engine.add(tar, "pip", pip.encode(), 0o755)
        patterns = ["scikit_learn*", *(n + end for n in CARRIED for end in ("", ".py", ".libs", "-*.dist-info"))]
        for path in (path for pattern in patterns for path in installed.glob(pattern)):
            tar.add(path, f"carried/{path.name}", filter=lambda info: None if "/tests/" in info.name else info)
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=SLIM, rm=True, forcerm=True)


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


def test_a_foreign_model_is_packed_in_five_lines_of_dockerfile(docker, main, synthetic_data, tmp_path):
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
    make_slim_image(docker)
    docker.images.build(path=str(tmp_path), tag="my-model", rm=True)
    done = main("check", "--image", "my-model", "terra", "--data", val)
    assert done.returncode == 0 and "PASS: my-model on terra" in done.stdout, done.stdout
    size = ("--input-size", 200, "--repeats", 1, "--json")
    done = main("bench", "--image", "my-model", "terra", "--data", val, "--out", tmp_path / "out", *size)
    result = json.loads(done.stdout)
    assert (result["verdict"], result["model"]) == ("VALID", "my-model") and result["score"]["value"] > 0.4
