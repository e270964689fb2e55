"""A transformer with a head, answering records: sorted by length in windows, no padding where that can be."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from morocco_lib import foreign
from morocco_lib.errors import EnvironmentFailure, InvalidResult, UsageError
from morocco_lib.models.transformer.heads import head_of
from morocco_lib.models.transformer.inputs import Reader, Template
from morocco_lib.models.transformer.layers import layers_of, load_layers
from morocco_lib.models.transformer.packed import ENCODERS, Packed
from morocco_lib.models.transformer.packing import groups
from morocco_lib.models.transformer.padded import Padded, backbone_of
from morocco_lib.models.transformer.sequences import Backend, EncodedSequence
from morocco_lib.options import LINEAR, POOLINGS, Options
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.form import TextPair
from morocco_lib.tasks.jsonl import Record

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WINDOW_BATCHES = 16  # sequences sorted together: so many batches, at first fewer, for answers to come soon
WINDOW_CHARACTERS = 1 << 20  # ... or so much text, whichever is reached first: bounds memory
STEP_TOKENS = {"cpu": 2048, "cuda": 32768}  # computed with at once
SPARSE_STEP_TOKENS = 512  # more do not stay in the cache while the columns of a sparse weight are gone through
Window = tuple[list[Record], list[list[EncodedSequence]]]  # records answered together, and the sequences of each


class Transformer:
    """A fitted model.

    Args:
        values: What `model.json` holds: config (the backbone's, as transformers writes it), pooling, max_length, template,
            labels, and head where it is not `linear`.
        tensors: The weights by their names in `model.safetensors`: `body.` before transformers' own name; `head.` before those
            of the layers.
        tokenizer: The text of `tokenizer.json`.
        options: Precision and backend; see `Options`.
    Raises:
        ValueError: the parts do not fit each other or the task.
    """

    kind = "transformer"

    def __init__(
        self,
        task: Task,
        values: dict[str, Any],
        tensors: Mapping[str, torch.Tensor],
        tokenizer: str,
        options: Options | None = None,
    ):
        options = options or Options()
        self.task, self.values, self.options = task, values, options
        self.head = head_of(task)
        if values["pooling"] not in POOLINGS:
            raise ValueError(f"no pooling {values['pooling']!r}; there are {', '.join(POOLINGS)}")
        if values["labels"] != [str(label) for label in task.labels]:
            raise ValueError(f"labels {', '.join(values['labels']) or 'none'} do not fit {task.title}")
        self.tokenizer_text = tokenizer
        self.causal = is_causal(values["config"])
        template = Template.of(values["template"])
        pieces = Tokenizer.from_str(tokenizer)
        ids = (0, pieces.get_vocab_size() - 1, *template.start, *template.middle, *template.end)
        if min(ids) < 0 or max(ids) >= values["config"]["vocab_size"]:
            size = values["config"]["vocab_size"]
            raise ValueError(f"ids from {min(ids)} to {max(ids)} do not fit a vocabulary of {size}")
        mark = layers_of(name := values.get("head", LINEAR), self.head).mark
        self.reader = Reader(pieces, template, values["max_length"], self.causal, mark)
        self.device = device_of(options)
        self.backend = make_backend(values, backbone_weights(tensors), options, self.device)
        self.layers = load_layers(name, self.head, self.backend.hidden, tensors).to(self.device)
        self.step_tokens = SPARSE_STEP_TOKENS if options.backend == "sparse" else STEP_TOKENS[self.device.type]

    def __repr__(self) -> str:
        return f"<Transformer of {self.task.title}: {self.values['config']['model_type']}, {self.options.precision}>"

    @property
    def operating_point(self) -> dict[str, str | int]:
        """What the program reports when it is ready."""
        point = {"precision": self.options.precision, "backend": self.options.backend, "device": self.device.type}
        return point | {"threads": torch.get_num_threads()}

    @property
    def truncated(self) -> int:
        """Sequences truncated to `max_length` so far."""
        return self.reader.truncated

    @classmethod
    def from_folder(cls, task: Task, values: dict, folder: Path, options=None) -> "Transformer":
        from safetensors.torch import load_file

        from morocco_lib.models.weights import ARRAYS, TOKENIZER

        try:
            tokenizer = foreign.read_text(folder / TOKENIZER, within=folder)
        except OSError as error:
            raise UsageError(f"cannot read {folder / TOKENIZER}: {error.strerror}", remedy="train it again") from None
        return cls(task, values, load_file(folder / ARRAYS), tokenizer, options)

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
        read: list[list[TextPair]] = []
        count = characters = 0
        sequences = batch_size
        for record in records:
            parts = self.task.parts(record)
            held.append(record)
            read.append(parts)
            count += len(parts)
            characters += sum(len(part.first) + len(part.second or "") for part in parts)
            if count >= sequences or characters >= WINDOW_CHARACTERS:
                yield held, self.reader(read)
                held, read, count, characters = [], [], 0, 0
                sequences = min(2 * sequences, batch_size * WINDOW_BATCHES)
        if held:
            yield held, self.reader(read)

    def _answers(self, window: Window, batch_size: int) -> list[Prediction]:
        records, sequences = window
        logits = self.logits(list(chain.from_iterable(sequences)), batch_size).split(list(map(len, sequences)))
        return [self.head.predict(record, one) for record, one in zip(records, logits, strict=True)]

    def logits(self, sequences: Sequence[EncodedSequence], batch_size: int) -> torch.Tensor:
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

    def _step(self, batch: list[EncodedSequence]) -> torch.Tensor:
        try:
            return self.layers(self.backend.features(batch))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
        half = len(batch) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.step_tokens = max(sum(len(one.ids) for one in batch[:half]), 1)
        warning = f"out of memory with {len(batch)} sequences; at most {self.step_tokens} tokens at once from here on"
        print(warning, file=sys.stderr, flush=True)
        return torch.cat([self._step(batch[:half]), self._step(batch[half:])])


def out_of_memory(error: BaseException) -> bool:
    """Tell whether torch ran out of memory; on the CPU that is a RuntimeError that names the allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def batches(sequences: Sequence[EncodedSequence], batch_size: int, tokens: int) -> list[list[int]]:
    """Return the places of sequences to compute with together: like lengths, longest first.

    Sequences that share leading tokens with their neighbours stay beside them, in one batch where they fit into one.
    """
    units = sorted((group for _, group in groups(sequences)), key=lambda group: -len(sequences[group[0]].ids))
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


# -- backends ------------------------------------------------------------------------------------------------------
def backbone_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the backbone's of a weights folder's tensors, by transformers' names."""
    return {name.removeprefix("body."): tensor for name, tensor in tensors.items() if name.startswith("body.")}


def is_causal(config: dict[str, Any]) -> bool:
    """Tell whether a backbone is a decoder: each token sees those before it, as transformers' table of architectures says."""
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


def make_backend(values: dict, backbone: dict, options: Options, device: torch.device) -> Backend:
    """Return what computes with a backbone: without padding where the architecture is known to us, else through transformers."""
    config = values["config"]
    if options.backend == "openvino":
        from morocco_lib.models.transformer.openvino import OpenVINO

        return OpenVINO(config, backbone, values["pooling"], options.precision)
    if options.precision not in DTYPES:
        raise UsageError(
            f"the backend {options.backend} does not compute in {options.precision}", remedy="use --backend openvino"
        )
    dtype = DTYPES[options.precision]
    if Packed.supports(config):
        backend = Packed(config, backbone, values["pooling"], dtype=dtype, device=device)
    elif config["model_type"] == "lean_albert":
        from morocco_lib.models.lean_albert.packed import PackedLean

        backend = PackedLean(backbone_of(config, backbone).to(device, dtype), values["pooling"])
    else:
        backend = Padded(backbone_of(config, backbone).to(device, dtype), values["pooling"], share=is_causal(config))
    if options.backend == "sparse":
        from morocco_lib.models.transformer.sparse import compress

        compress(backend, options.precision)
    return backend
