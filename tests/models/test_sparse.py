"""The backend sparse: layers with many zeros are kept as CSR, and the answers are torch's."""
# ruff: noqa: E402 (what may be missing is skipped before it is imported)

import json

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from architectures import SIZES, WORDS, group, make, sequences, untrained
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModel

from morocco_lib import data
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer.model import make_backend
from morocco_lib.options import POOLINGS, Options
from morocco_lib.tasks import get_task

CPU = torch.device("cpu")


def thinned(named, share=0.7, only=""):
    """Set a share of the weights of linear layers to zero."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in named:
        if weight.dim() == 2 and "embedding" not in name and only in name:
            weight.data *= torch.rand(weight.shape, generator=generator) >= share


def layouts(backend):
    return [getattr(layer, name)[0].layout for layer in backend.layers for name in ("inputs", "output", "up", "down")]


@pytest.mark.parametrize("name", ["bert", "camembert", "gpt2"])
def test_features_equal_those_of_torch(name):
    config, module = make(name)
    thinned(module.named_parameters())
    values, batch = {"config": config}, [*sequences([7, 40, 1, 23, 7], 1), *group(20, [3, 1, 9], ((0, 2),))]
    for pooling in POOLINGS:
        plain, sparse = (
            make_backend({**values, "pooling": pooling}, module.state_dict(), Options(backend=backend), CPU)
            for backend in ("torch", "sparse")
        )
        assert set(layouts(sparse)) == {torch.sparse_csr} and set(layouts(plain)) == {torch.strided}
        torch.testing.assert_close(sparse.features(batch), plain.features(batch), atol=2e-5, rtol=0)


def test_features_of_other_architectures_equal_those_of_torch():
    config = AutoConfig.for_model("distilbert", dim=48, hidden_dim=80, n_layers=2, n_heads=4, vocab_size=WORDS)
    module = AutoModel.from_config(config).eval()
    thinned(module.named_parameters())
    values = {"config": config.to_dict(), "pooling": "mean"}
    plain, sparse = (
        make_backend(values, module.state_dict(), Options(backend=name), CPU) for name in ("torch", "sparse")
    )
    kept = {type(layer).__name__ for layer in sparse.model.modules() if isinstance(layer, torch.nn.Linear)}
    assert kept == {"SparseLinear"}
    batch = sequences([7, 40, 1, 23, 7], 1)
    torch.testing.assert_close(sparse.features(batch), plain.features(batch), atol=2e-5, rtol=0)


def test_layers_with_few_zeros_stay_dense():
    config, module = make("bert")
    thinned(module.named_parameters(), only="intermediate")
    thinned(module.named_parameters(), 0.3, only="attention")
    sparse = make_backend({"config": config, "pooling": "first"}, module.state_dict(), Options(backend="sparse"), CPU)
    assert layouts(sparse) == [torch.strided, torch.strided, torch.sparse_csr, torch.strided] * len(sparse.layers)


def test_a_model_without_zeros_another_precision_and_a_torch_without_mkl_are_refused(monkeypatch):
    config, module = make("bert")
    values = {"config": config, "pooling": "first"}

    def refused(error, precision="fp32"):
        with pytest.raises(error) as caught:
            make_backend(values, module.state_dict(), Options(precision, "sparse"), CPU)
        return str(caught.value)

    assert "at most 0.0% of a linear layer's weights are zero" in (message := refused(UsageError))
    assert "--backend torch" in message
    assert "does not compute in bf16" in refused(UsageError, "bf16")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert "built without MKL" in refused(EnvironmentFailure)


def test_infer_answers_as_with_torch(synthetic_data, tmp_path, main):
    task = get_task("russe")
    records = data.read_split(synthetic_data, task, "val")[1][:40]
    model = untrained({"model_type": "bert", **SIZES}, task, records)
    thinned(model.tensors.items(), only="layer")
    weights.save(model, task, tmp_path / "weights", name="bert", trained_on={})
    lines = "".join(json.dumps(task.strip_labels(record)) + "\n" for record in records)
    found = main("infer", tmp_path / "weights", "--backend", "sparse", input=lines)
    assert found.stdout == main("infer", tmp_path / "weights", input=lines).stdout and found.stdout.count("\n") == 40
    (ready,) = found.stderr.splitlines()
    assert json.loads(ready.removeprefix("morocco: "))["backend"] == "sparse"
