"""The contenders of `benchmarks/inference.py` and `gpu.py`, each a process that loads one model and answers on request.

    python benchmarks/contenders.py NAME FOLDER

Reads a file of records a line from stdin and prints the seconds that answering them took, with the labels and logits of
the first time a file is asked for. Records lie in memory before the clock starts, answers after it; tokenising counts.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from morocco_lib.models import weights
from morocco_lib.models.transformer.model import Transformer, backbone_weights
from morocco_lib.models.transformer.padded import Padded, backbone_of
from morocco_lib.models.transformer.sequences import EncodedSequence
from morocco_lib.options import Options
from morocco_lib.tasks import get_task
from morocco_lib.tasks.jsonl import Record

THREADS, BATCH = 2, 32
INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
Answer = Callable[[list[Record]], torch.Tensor]  # records -> logits of their sequences


def ours(options: Options, shares: bool = True, pads: bool = False) -> Callable[[Path], Answer]:
    """The kit's own program, from records to predictions; with padded batches if it `pads`."""

    def load(folder: Path) -> Answer:
        model, _ = weights.load(folder, options=options)
        compute, found = model.logits, []
        if pads:
            model.backend = Padded(reference_backbone(model, folder).to(model.device), model.values["pooling"])

        def logits(sequences: list[EncodedSequence], batch_size: int) -> torch.Tensor:
            some = sequences if shares else [replace(one, shared=0) for one in sequences]
            found.append(compute(some, batch_size))
            return found[-1]

        model.logits = logits

        def answer(records: list[Record]) -> torch.Tensor:
            found.clear()
            model.answer(records, BATCH)
            return torch.cat(found)

        return answer

    return load


def fixed(folder: Path) -> Answer:
    """transformers' forward on batches in the order of the records, padded to the longest."""
    model, task = weights.load(folder)
    backend = Padded(reference_backbone(model, folder).to(model.device), model.values["pooling"])

    def batch(records: list[Record]) -> torch.Tensor:
        sequences: list[EncodedSequence] = [one for (one,) in model.reader([task.parts(r) for r in records])]
        return model.layers(backend.features(sequences))

    def answer(records: list[Record]) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([batch(records[first : first + BATCH]) for first in range(0, len(records), BATCH)]).cpu()

    return answer


def reference_backbone(model: Transformer, folder: Path) -> torch.nn.Module:
    """Return transformers' own module of a weights folder."""
    from safetensors.torch import load_file

    return backbone_of(model.values["config"], backbone_weights(load_file(folder / weights.ARRAYS)))


class First(torch.nn.Module):
    """In place of BERT's pooler: the first token as it is, as the kit's head sees it."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden[:, 0]


def cross_encoder(folder: Path) -> Answer:
    """sentence-transformers with the same weights, written as it reads them."""
    import tempfile

    import tokenizers
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    model, task = weights.load(folder)
    config = BertConfig(**model.values["config"] | {"num_labels": len(task.labels)})
    theirs = BertForSequenceClassification(config)
    theirs.bert.load_state_dict(reference_backbone(model, folder).state_dict(), strict=False)
    theirs.classifier.load_state_dict(model.layers.state_dict())
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = tokenizers.Tokenizer.from_str(model.tokenizer_text)
    with tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        named = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=INPUTS, **names)
        named.save_pretrained(place)
        encoder = CrossEncoder(place, max_length=model.values["max_length"], device="cpu")
    encoder.model.bert.pooler = First()

    def answer(records: list[Record]) -> torch.Tensor:
        parts = [part for record in records for part in task.parts(record)]
        pairs = [(part.first, part.second) for part in parts]
        return encoder.predict(pairs, batch_size=BATCH, activation_fn=torch.nn.Identity(), convert_to_tensor=True)

    return answer


CONTENDERS: dict[str, Callable[[Path], Answer]] = {
    "fixed order": fixed,
    "CrossEncoder": cross_encoder,
    "OpenVINO f32": ours(Options(backend="openvino")),
    "OpenVINO int8": ours(Options("int8", "openvino")),
    "OpenVINO bf16": ours(Options("bf16", "openvino")),
    "morocco fp32": ours(Options()),
    "morocco bf16": ours(Options(precision="bf16")),
    "recomputed": ours(Options(), shares=False),
    "like lengths, padded": ours(Options(), pads=True),
}


def labels_of(model: Transformer, records: list[Record], logits: torch.Tensor) -> list:
    """Return the flat list of answers that the logits of all sequences stand for; an entity's place, where it is one."""
    task, parts = model.task, [len(model.task.parts(record)) for record in records]
    found = [(r, model.head.predict(r, one)) for r, one in zip(records, logits.split(parts), strict=True)]
    if task.labels:
        return [label for _, prediction in found for label in task.labels_in(prediction)]
    return [model.task.candidates(record).index(prediction["label"]) for record, prediction in found]


def lengths_of(model: Transformer, records: list[Record]) -> list[int]:
    """Return the tokens of every sequence."""
    parts = [model.task.parts(record) for record in records]
    return [len(one.ids) for sequences in model.reader(parts) for one in sequences]


def main(name: str, folder: Path) -> None:
    torch.set_num_threads(THREADS)
    answer = CONTENDERS[name](folder)
    task = get_task(weights.describe(folder)["task"])
    known: dict[str, list[Record]] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in map(str.strip, sys.stdin):
        first = line not in known
        if first:
            known[line] = [task.strip_labels(record) for record in task.read(Path(line))]
        began = time.perf_counter()
        logits = answer(known[line])
        reply = {"seconds": time.perf_counter() - began}
        if torch.cuda.is_available():
            reply["allocated_bytes"] = torch.cuda.max_memory_allocated()
            reply["reserved_bytes"] = torch.cuda.max_memory_reserved()
        if first:
            model, _ = weights.load(folder)
            reply |= {"labels": labels_of(model, known[line], logits), "logits": logits.tolist()}
            reply |= {"lengths": lengths_of(model, known[line]), "truncated": model.truncated}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
