"""A transformer with a linear head, answering records: sorted by length in windows, no padding where that can be."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.inputs import Reader, Template
from morocco_lib.models.transformer.packed import ENCODERS, Packed
from morocco_lib.models.transformer.padded import Padded, body_of, hidden_size
from morocco_lib.models.transformer.sequences import Engine, Tokens
from morocco_lib.options import Options
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.form import TextPair
from morocco_lib.tasks.jsonl import Record

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WINDOW_BATCHES = 16  # sequences sorted together: so many batches, at first fewer, for answers to come soon
WINDOW_CHARACTERS = 1 << 20  # ... or so much text, whichever is reached first: bounds memory
STEP_TOKENS = {"cpu": 2048, "cuda": 32768}  # computed with at once


@dataclass(frozen=True)
class Window:
    """Records answered together: their sequences, in the records' order."""

    records: list[Record]
    sequences: list[list[Tokens]]


class Transformer:
    """A fitted model.

    Args:
        values: What `model.json` holds: config (the body's, as transformers writes it), pooling, max_length, template,
            labels.
        body: The body's weights by transformers' names.
        head: `weight` (outputs, features) and `bias` (outputs,).
        tokenizer: The text of `tokenizer.json`.
        options: Precision and backend; see `Options`.
    Raises:
        ValueError: the parts do not fit each other or the task.
    """

    kind = "transformer"

    def __init__(self, task: Task, values: dict[str, Any], body: dict, head: dict, tokenizer: str, options=None):
        options = options or Options()
        self.task, self.values, self.options = task, values, options
        self.head = head_of(task)
        if values["labels"] != [str(label) for label in task.labels]:
            raise ValueError(f"labels {', '.join(values['labels']) or 'none'} do not fit {task.title}")
        self.weight, self.bias = head["weight"].float(), head["bias"].float()
        if self.weight.shape[0] != self.head.outputs or self.bias.shape != (self.head.outputs,):
            raise ValueError(f"a head of {tuple(self.weight.shape)} does not give {self.head.outputs} logits")
        self.tokenizer_text = tokenizer
        self.causal = is_causal(values["config"])
        template = Template.of(values["template"])
        pieces = Tokenizer.from_str(tokenizer)
        ids = (0, pieces.get_vocab_size() - 1, *template.start, *template.middle, *template.end)
        if min(ids) < 0 or max(ids) >= values["config"]["vocab_size"]:
            size = values["config"]["vocab_size"]
            raise ValueError(f"ids from {min(ids)} to {max(ids)} do not fit a vocabulary of {size}")
        self.reader = Reader(pieces, template, values["max_length"], self.causal)
        self.device = device_of(options)
        self.engine = make_engine(values, body, options, self.device)
        width = self.head.width(hidden_size(values["config"]))
        if self.weight.shape[1] != width:
            raise ValueError(
                f"a head over {self.weight.shape[1]} features does not fit {task.title}, which takes {width}"
            )
        self.weight, self.bias = self.weight.to(self.device), self.bias.to(self.device)
        self.step_tokens = STEP_TOKENS[self.device.type]

    def __repr__(self) -> str:
        return f"<Transformer of {self.task.title}: {self.values['config']['model_type']}, {self.options.precision}>"

    @property
    def reported(self) -> dict[str, str]:
        """What the program says of its operating point."""
        return {"precision": self.options.precision, "backend": self.options.backend, "device": self.device.type}

    @property
    def truncated(self) -> int:
        """Sequences that were cut to `max_length` so far."""
        return self.reader.truncated

    @classmethod
    def from_folder(cls, task: Task, values: dict, folder: Path, options=None) -> "Transformer":
        from safetensors.torch import load_file

        from morocco_lib.models.weights import ARRAYS, TOKENIZER

        tensors = load_file(folder / ARRAYS)
        body, head = (
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            for prefix in ("body.", "head.")
        )
        try:
            text = (folder / TOKENIZER).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot read {folder / TOKENIZER}: {error.strerror}", remedy="train it again") from None
        return cls(task, values, body, head, text, options)

    # -- answering -----------------------------------------------------------------------------------------------
    def answer(self, records: Sequence[Record], batch_size: int = 32) -> list[Prediction]:
        """Return one prediction a record, in order."""
        return [prediction for window in self.stream(records, batch_size) for prediction in window]

    def stream(self, records: Iterable[Record], batch_size: int) -> Iterator[list[Prediction]]:
        """Yield the predictions for records window by window, in order.

        The first window is one batch, each next one twice as large until it is `WINDOW_BATCHES`; it is read and tokenised
        while one is computed with.

        Args:
            batch_size: Sequences computed with at once at most.
        """
        windows = self._windows(records, batch_size)
        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(next, windows, None)
            while (window := upcoming.result()) is not None:
                upcoming = pool.submit(next, windows, None)
                yield self._answers(window, batch_size)

    def _windows(self, records: Iterable[Record], batch_size: int) -> Iterator[Window]:
        held: list[Record] = []
        asked: list[list[TextPair]] = []
        count = characters = 0
        sequences = batch_size
        for record in records:
            parts = self.task.parts(record)
            held.append(record)
            asked.append(parts)
            count += len(parts)
            characters += sum(len(part.first) + len(part.second or "") for part in parts)
            if count >= sequences or characters >= WINDOW_CHARACTERS:
                yield Window(held, self.reader(asked))
                held, asked, count, characters = [], [], 0, 0
                sequences = min(2 * sequences, batch_size * WINDOW_BATCHES)
        if held:
            yield Window(held, self.reader(asked))

    def _answers(self, window: Window, batch_size: int) -> list[Prediction]:
        sizes = [len(sequences) for sequences in window.sequences]
        logits = self.logits([one for sequences in window.sequences for one in sequences], batch_size).split(sizes)
        return [
            self.head.predict(record, one) for record, one in zip(window.records, logits, strict=True)
        ]  # fmt: skip

    def logits(self, sequences: Sequence[Tokens], batch_size: int) -> torch.Tensor:
        """Return logits on the CPU, shape (sequences, outputs), in the order of the sequences."""
        result = torch.empty(len(sequences), self.head.outputs)
        with torch.inference_mode():
            for places in batches(sequences, batch_size, self.step_tokens):
                result[places] = self._step([sequences[place] for place in places]).cpu()
        if not result.isfinite().all():
            bad = int((~result.isfinite()).any(1).sum())
            raise InvalidResult(
                f"the logits of {bad} of {len(sequences)} sequences are not finite",
                rule="an answer is read from finite logits",
                remedy=f"compute in fp32 instead of {self.options.precision}"
                if self.options.precision != "fp32"
                else "train it again with a lower learning_rate",
            )
        return result

    def _step(self, batch: list[Tokens]) -> torch.Tensor:
        try:
            return functional.linear(self.head.inputs(self.engine.features(batch)), self.weight, self.bias)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
        half = len(batch) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.step_tokens = max(sum(len(one.ids) for one in batch[:half]), 1)
        message = f"out of memory with {len(batch)} sequences; at most {self.step_tokens} tokens at once from here on"
        print(message, file=sys.stderr, flush=True)
        return torch.cat([self._step(batch[:half]), self._step(batch[half:])])


def out_of_memory(error: BaseException) -> bool:
    """Tell whether torch ran out of memory; on the CPU that is a RuntimeError that names the allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def batches(sequences: Sequence[Tokens], batch_size: int, tokens: int) -> list[list[int]]:
    """Return the places of sequences to compute with together: like lengths, longest first.

    Sequences that share leading tokens with their neighbours stay beside them, in one batch where they fit into one.
    """
    units: list[list[int]] = []
    for place, one in enumerate(sequences):
        before = sequences[place - 1] if place else None
        if one.shared and before is not None and before.shared == one.shared and _common(before, one):
            units[-1].append(place)
        else:
            units.append([place])
    units.sort(key=lambda unit: -len(sequences[unit[0]].ids))
    made: list[list[int]] = []
    cost = 0
    for unit in units:
        sizes = [len(sequences[place].ids) - (sequences[place].shared if k else 0) for k, place in enumerate(unit)]
        whole = len(unit) <= batch_size and sum(sizes) <= tokens
        if whole and made and (len(made[-1]) + len(unit) > batch_size or cost + sum(sizes) > tokens):
            made.append([])
            cost = 0
        for place, size in zip(unit, sizes, strict=True):
            one = sequences[place]
            if not made or len(made[-1]) >= batch_size or cost + size > tokens:
                made.append([])
                cost, size = 0, len(one.ids)
            made[-1].append(place)
            cost += size
    return made


def _common(one: Tokens, other: Tokens) -> bool:
    return one.ids[: one.shared] == other.ids[: other.shared]


# -- engines -------------------------------------------------------------------------------------------------------
def is_causal(config: dict[str, Any]) -> bool:
    """Tell whether a body is a decoder: each token sees those before it, as transformers' table of architectures says."""
    kind = config["model_type"]
    if config.get("is_decoder") or kind == "gpt2":
        return True
    if kind in ENCODERS:
        return False
    from transformers.models.auto import modeling_auto as table

    return kind in table.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in table.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def device_of(options: Options) -> torch.device:
    """Return where to compute: the first GPU that is shown to this process, else the CPU.

    Raises:
        EnvironmentFailure: the installed torch was not built for that GPU.
    """
    if options.backend != "torch" or not torch.cuda.is_available():
        return torch.device("cpu")
    check_capability(torch.cuda.get_device_capability(), torch.cuda.get_arch_list(), torch.cuda.get_device_name())
    return torch.device("cuda")


def check_capability(capability: tuple[int, int], built_for: Sequence[str], name: str) -> None:
    """Refuse a GPU that the installed torch has no code for.

    Args:
        capability: Of the device: (7, 0) for a V100.
        built_for: As `torch.cuda.get_arch_list()` gives it: sm_80, compute_90.
    Raises:
        EnvironmentFailure: neither code for this generation nor any that it could translate.
    """
    wanted = capability[0] * 10 + capability[1]
    kinds = [(arch.partition("_")[0], int("".join(filter(str.isdigit, arch)))) for arch in built_for]
    same = any(kind == "sm" and number // 10 == capability[0] and number <= wanted for kind, number in kinds)
    if not same and not any(kind == "compute" and number <= wanted for kind, number in kinds):
        raise EnvironmentFailure(
            f"{name} is of generation sm_{wanted}; this torch has code for {', '.join(built_for) or 'none'}",
            rule="a GPU needs a torch that was built for its generation",
            remedy="`make setup-torch TORCH_VARIANT=cu126` installs one that still serves sm_50 to sm_90",
        )


def make_engine(values: dict, body: dict, options: Options, device: torch.device) -> Engine:
    """Return what computes with a body: without padding where the architecture is known to us, else through transformers."""
    config, dtype = values["config"], DTYPES[options.precision]
    if options.backend == "openvino":
        from morocco_lib.models.transformer.openvino import OpenVINO

        return OpenVINO(config, body, values["pooling"], options.precision)
    if Packed.supports(config):
        return Packed(config, body, values["pooling"], dtype=dtype, device=device)
    return Padded(body_of(config, body).to(device, dtype), values["pooling"], share=is_causal(config))
