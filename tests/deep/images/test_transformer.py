"""A transformer whose architecture is the kit's own, in an image with torch and transformers from the package index."""

import json
import subprocess
import sys

import engine
import pytest
import yaml

from morocco_lib.pipeline.step_kinds import verify

pytestmark = pytest.mark.slow
SIZES = {"vocab_size": 4000, "embedding_size": 32, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
MODEL = {
    "name": "hasty-albert",
    "kind": "transformer",
    "scratch": {"model_type": "lean_albert", "num_attention_heads": 4, **SIZES},
    "recipe": {"epochs": 0.2, "max_length": 64},
}


def test_a_transformer_in_an_image_answers_as_its_process_does(synthetic_data, docker, tiny_image, tmp_path):
    pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
    project = engine.Project(tmp_path / "contained")
    (project.root / "params/models/hasty-albert.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    code, talk = project.run("torch", models=["hasty-albert"], input_size=300, repeats=1)
    assert code == 0, talk
    outputs = project.root / "outputs/torch"
    (bench,) = outputs.glob("hasty-albert/terra/bench-*/bench.json")
    result = json.loads(bench.read_text())
    assert (result["verdict"], result["runner"], result["score"]["value"] > 0) == ("VALID", "docker", True)
    assert (result["precision"], result["backend"], result["device"]) == ("fp32", "torch", "cpu")
    (trained,) = outputs.glob("hasty-albert/terra/train-*")
    bare = [sys.executable, "-m", "morocco_lib", "infer", str(trained)]
    val, answers = synthetic_data / "TERRa" / "val.jsonl", []
    for argv in (["docker", "run", "-i", "--rm", "hasty-albert-terra"], bare):
        with val.open("rb") as records:
            answers.append(subprocess.run(argv, stdin=records, capture_output=True, check=True).stdout)
    assert answers[0] == answers[1] and answers[0].count(b"\n") == val.read_bytes().count(b"\n")
    assert all(finding.ok for finding in verify(outputs)) and engine.left_containers(docker) == []
