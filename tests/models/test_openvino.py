"""OpenVINO's features equal torch's, in the precision that was requested."""
# ruff: noqa: E402 (what may be missing is skipped before it is imported)

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers, whose module is converted")
pytest.importorskip("openvino", reason="needs the openvino extra")

from architectures import (
    SIZES,
    WORDS,
    check_that_openvino_computes_as_torch,
    group,
    make,
    sequences,
    untrained,
)
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel

from morocco_lib import data
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer.openvino import OpenVINO, check_precision, runtime
from morocco_lib.models.transformer.packed import Packed
from morocco_lib.models.transformer.padded import Padded
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.tasks import get_task


@pytest.fixture(scope="module")
def bert():
    """A compiled BERT."""
    config, module = make("bert")
    return OpenVINO(config, module.state_dict(), "first", "fp32")


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "camembert", "electra-narrow", "gpt2-inner"])
def test_features_equal_those_of_torch(name):
    """Each embedding, activation and order of layers once; tests/deep has the other configurations."""
    check_that_openvino_computes_as_torch(name)


def test_features_outlast_the_next_batch(bert):
    first = bert.features(sequences([12, 5]))
    kept = first.clone()
    bert.features(sequences([12, 5], seed=3))
    assert torch.equal(first, kept)


def test_shared_tokens_do_not_change_features():
    config, module = make("gpt2")
    batch = group(20, [3, 1, 9])
    wanted = Packed(config, module.state_dict(), "last").features(batch)
    found = OpenVINO(config, module.state_dict(), "last", "fp32").features(batch)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bert", "gpt2-inner"])
def test_weights_in_int8_change_features_a_little(name):
    config, module = make(name)
    batch = sequences([12, 5, 30])
    wanted, found = (
        OpenVINO(config, module.state_dict(), "mean", precision).features(batch) for precision in ("fp32", "int8")
    )
    error = float((found - wanted).norm() / wanted.norm())
    assert 1e-4 < error < 0.05


def by_transformers(kind, **sizes):
    return AutoModel.from_config(AutoConfig.for_model(kind, **{"vocab_size": WORDS, **sizes})).eval()


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}),
        ("albert", {**SIZES, "embedding_size": 16}),  # tells a first text from a second
        ("modernbert", {**SIZES, "local_attention": 8, "pad_token_id": 0}),  # the last layer's window alone is local
    ],
)
def test_what_only_transformers_knows_is_computed_too(kind, sizes):
    module = by_transformers(kind, **sizes)
    batch = sequences([7, 40, 1, 23, 40], spans=2)
    found = OpenVINO(module.config.to_dict(), module.state_dict(), "mean", "fp32").features(batch)
    torch.testing.assert_close(found, Padded(module, "mean").features(batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("fnet", SIZES),  # mixes all tokens, padding included
        ("modernbert", {**SIZES, "num_hidden_layers": 4, "pad_token_id": 0}),  # no numbers beyond the first window
    ],
)
def test_an_architecture_whose_answers_padding_would_change_is_refused(kind, sizes):
    module = by_transformers(kind, **sizes)
    with pytest.raises(UsageError, match=f"OpenVINO does not compute a {kind} correctly.*--backend torch"):
        OpenVINO(module.config.to_dict(), module.state_dict(), "mean", "fp32")


@pytest.mark.slow  # tracing its loop over tokens
def test_an_architecture_that_it_does_not_compute_is_refused():
    module = by_transformers("mamba", hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(UsageError, match=r"OpenVINO does not compute a mamba .*use --backend torch"):
        OpenVINO(module.config.to_dict(), module.state_dict(), "last", "fp32")


def test_a_sequence_that_is_too_long_is_refused(bert):
    with pytest.raises(ValueError, match="65 tokens"):
        bert.features([EncodedSequence([7] * 65, 65)])


def test_another_precision_than_requested_is_refused(bert):
    check_precision(bert.precision, "fp32")
    with pytest.raises(EnvironmentFailure, match="bf16 on this CPU where fp32"):
        check_precision("bf16", "fp32")


def test_threads_are_as_many_as_torchs_and_not_pinned(bert):
    assert bert.compiled.get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()
    assert bert.compiled.get_property("ENABLE_CPU_PINNING") is False


@pytest.fixture(scope="module")
def fitted(synthetic_data, tmp_path_factory):
    """Return (weights folder of a BERT that was never trained, lines of RUSSE records)."""
    folder, task = tmp_path_factory.mktemp("openvino") / "weights", get_task("russe")
    records = data.read_split(synthetic_data, task, "val")[1][:40]
    model = untrained({"model_type": "bert", **SIZES}, task, records)
    weights.save(model, task, folder, name="bert", trained_on={})
    return folder, "".join(json.dumps(task.strip_labels(record)) + "\n" for record in records)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_infer_answers_as_with_torch_and_imports_neither_transformers_nor_telemetry(fitted, main, precision):
    code = "import sys; from morocco_lib.cli.entry import main; code = main(sys.argv[1:])\n"
    code += "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    argv = [sys.executable, "-c", code, "infer", str(fitted[0]), "--backend", "openvino", "--precision", precision]
    found = subprocess.run(argv, input=fitted[1], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    lines, by_torch = found.stdout.splitlines(), main("infer", fitted[0], input=fitted[1]).stdout.splitlines()
    same = sum(a == b for a, b in zip(lines, by_torch, strict=True))
    assert len(lines) == 40 and same >= (40 if precision == "fp32" else 38)
    assert {json.loads(line)["label"] for line in lines} == {"true", "false"}
    *_, ready, imported = found.stderr.splitlines()
    event = json.loads(ready.removeprefix("morocco: "))
    assert event == {"event": "ready", "precision": precision, "backend": "openvino", "device": "cpu", "threads": 1}
    assert "openvino" in imported.split() and "transformers" not in imported.split()  # of a known architecture
    assert not [name for name in imported.split() if name.startswith("openvino_telemetry.")]


def test_int8_is_refused_by_the_backend_that_does_not_compute_in_it(fitted, main):
    found = main("infer", fitted[0], "--precision", "int8")
    assert (
        found.returncode == 2 and "the backend torch does not compute in int8; use --backend openvino" in found.stderr
    )


@pytest.mark.parametrize("name", ["openvino", "nncf"])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentFailure, match=rf"{name} is not installed.*make setup-torch"):
        runtime(name)
