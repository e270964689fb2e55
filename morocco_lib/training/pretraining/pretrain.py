"""Pre-train one model on a corpus and leave an ordinary transformers folder, and pretrain.json that says how it came about."""

import hashlib
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
import transformers
from accelerate import PartialState
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from morocco_lib import fileio, foreign
from morocco_lib.artifacts import steps
from morocco_lib.config.model import PretrainingParams
from morocco_lib.config.pretraining import RANGE_TEST, SHAPES, SIZES, PretrainRecipe
from morocco_lib.errors import UsageError
from morocco_lib.models.lean_albert.configuration import LeanAlbertConfig
from morocco_lib.models.lean_albert.modeling import LeanAlbertForMaskedLM, LeanAlbertForPreTraining
from morocco_lib.models.transformer.padded import positions_of
from morocco_lib.training import backbones, distributed, heartbeat
from morocco_lib.training.distributed import rank
from morocco_lib.training.fit import PRETRAINED, pretrained_model
from morocco_lib.training.pretraining import corpus, schedules, sparsity
from morocco_lib.training.pretraining.loop import CHECKPOINT, Pretraining, Progress
from morocco_lib.training.pretraining.masking import Masker

if TYPE_CHECKING:
    import pandas as pd

KEY = "key"
TOKENIZER_DOCUMENTS = 100_000  # that a tokenizer is trained on


def model_of(recipe: PretrainRecipe, vocabulary: int, seed: int) -> transformers.PreTrainedModel:
    """Return a BERT, or a lean_albert, with random weights and a masked-language-modelling head."""
    values = recipe.model if isinstance(recipe.model, dict) else dict(zip(SIZES, SHAPES[recipe.model], strict=True))
    rates = {"hidden_dropout_prob": recipe.dropout, "attention_probs_dropout_prob": recipe.dropout}
    transformers.set_seed(seed)
    if values.get("model_type") == LeanAlbertConfig.model_type:
        kind = LeanAlbertForPreTraining if recipe.sentence_order else LeanAlbertForMaskedLM
        return kind(LeanAlbertConfig(**{**rates, **values, "vocab_size": vocabulary}))
    if recipe.sentence_order:
        raise UsageError(
            "a BERT with sentence_order", rule="a lean_albert tells it", remedy="model: {model_type: lean_albert}"
        )
    try:
        config = BertConfig(**{"vocab_size": vocabulary, **rates, **values})
        model = BertForMaskedLM(config)
    except (TypeError, ValueError) as error:
        raise UsageError(f"no BERT can be made of {values}: {error}") from None
    if config.max_position_embeddings < recipe.length:
        raise UsageError(
            f"sequences of {recipe.length} tokens", rule=f"the model has {config.max_position_embeddings} positions"
        )
    return model


def teacher_of(folder: Path, tokenizer_text: str, length: int) -> transformers.PreTrainedModel:
    """Return the model that is learnt from; raises UsageError if it reads other tokens, or fewer."""
    file = folder / "tokenizer.json"
    if not file.is_file() or foreign.read_text(file) != tokenizer_text:
        raise UsageError(f"{folder} has another tokenizer", rule="a teacher reads the tokens of its student")
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False)
    if (positions := positions_of(model)) < length:
        raise UsageError(f"{folder} has {positions} positions", rule=f"sequences have {length}")
    return model


def tokenizer_for(recipe: PretrainRecipe, source: corpus.Source, given: Path | None) -> str:
    """Return the text of a tokenizer.json: the one given (a file, or in a folder), or one trained on the corpus."""
    if given is None:
        documents = corpus.first_documents(source, TOKENIZER_DOCUMENTS)
        return backbones.word_pieces(documents, recipe.vocabulary).to_str(pretty=True)
    path = given / "tokenizer.json" if given.is_dir() else given
    try:
        text = foreign.read_text(path)
        tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises that for whatever is wrong
        raise UsageError(f"{path} is no tokenizer: {error}", remedy="give a tokenizer.json") from None
    return text


@dataclass
class Job:
    """A pre-training that is prepared: corpus read, model made. `minibatch` shows what is hidden, `run` trains.

    Attributes:
        tokenizer: The text of its tokenizer.json.
        digests: Of corpus and tokenizer.
        began: By the monotonic clock, and in CPU seconds.
    """

    loop: Pretraining
    source: corpus.Source
    tokenizer: str
    folder: Path
    digests: dict[str, str]
    began: tuple[float, float]

    def minibatch(self, rows: int = 4) -> "pd.DataFrame":
        """Return sequences of the first update as a model sees them, hidden tokens in place, and the share that is told."""
        import pandas as pd

        numbers, stream = (values[:rows] for values in self.loop.places(0))
        batch = self.loop.masker(self.loop.train.part(numbers), stream, self.loop.seed)
        reader = tokenizers.Tokenizer.from_str(self.tokenizer)
        shares = batch.hidden.sum(1) / (batch.attention.sum(1) - 2)
        texts = [reader.decode(ids, skip_special_tokens=False) for ids in batch.ids.tolist()]
        return pd.DataFrame({"told": [f"{share:.1%}" for share in shares], "text": texts})

    def run(self) -> dict[str, Any]:
        """Train, write `model/` and pretrain.json into the folder, and return what the latter holds; raises InvalidResult.

        A range test leaves no model.
        """
        began = time.monotonic()
        progress = self.loop.run()
        return self.finish(progress, time.monotonic() - began)

    def finish(self, progress: Progress, trained_s: float, over: bool = True) -> dict[str, Any]:
        """Write the model as it is, and pretrain.json; the checkpoint is removed after the last time."""
        job, recipe, model = self.loop, self.loop.recipe, self.loop.model
        off, backbone, last = (
            job.masks.weights_off() if job.masks else 0,
            sparsity.count(model.base_model),
            progress.evaluations[-1],
        )
        result = {
            "schema": 1,
            "recipe": recipe.model_dump(),
            "seed": job.seed,
            "corpus": {
                "files": [str(path) for path in self.source.files], "sha256": self.digests["corpus"],
                "sequences": len(job.train), "held_back": len(job.val),
            },
            "tokenizer": {"sha256": self.digests["tokenizer"], "tokens": model.config.vocab_size},
            "weights": {
                "backbone": backbone, "whole": sparsity.count(model), "off": off, "sparsity": off / backbone,
                "density": job.masks.density() if job.masks else {},
            },
            "updates": progress.step,
            "loss": last["loss"],
            "perplexity": last["perplexity"],
            "masked": progress.hidden / progress.tokens,
            "tokens": progress.tokens,
            "evaluations": progress.evaluations,
            "tokens_per_s": progress.tokens / trained_s,
            "wall_s": time.monotonic() - self.began[0],
            "cpu_s": time.process_time() - self.began[1],
            "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "processes": distributed.world(),
            "threads": torch.get_num_threads(),
            **({"range_test": schedules.suggest(progress.evaluations)} if recipe.schedule == RANGE_TEST else {}),
        }  # fmt: skip
        if rank() == 0:
            if recipe.schedule != RANGE_TEST:
                self._write_model(pretrained_model(self.folder))
            fileio.write_json(self.folder / PRETRAINED, result)
            if over:
                shutil.rmtree(job.folder)
        return result

    def _write_model(self, place: Path) -> None:
        with backbones.silent():
            self.loop.model.save_pretrained(place)
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(self.tokenizer),
            **{f"{name}_token": token for name, token in backbones.WORDPIECE.items()},
        )
        made.save_pretrained(place)
        fileio.write_text(place / "tokenizer.json", self.tokenizer)  # byte for byte: a student's is held against it
        if self.loop.masks:
            self.loop.masks.save(place)


def prepare(given: PretrainingParams, root: Path, folder: Path, *, seed: int = 1, say=print) -> Job:
    """Return a pre-training whose corpus is read and whose model is made.

    While it works, `<folder>.checkpoints/` beside the folder holds its last checkpoint; an interrupted attempt at the same is
    gone on with.

    Args:
        given: Its recipe read: see `config.with_recipe`.
        root: Relative paths count from here.
        folder: An existing folder.
    Raises:
        UsageError: the corpus, the tokenizer or the teacher cannot be used.
    """
    began = time.monotonic(), time.process_time()
    distributed.join()
    recipe, source = (
        given.recipe,
        corpus.Source(tuple(root / fileio.expand(name) for name in given.corpus), given.field),
    )
    text = tokenizer_for(recipe, source, root / fileio.expand(given.tokenizer) if given.tokenizer else None)
    form = corpus.PAIRS if recipe.sentence_order else corpus.LINES if recipe.by_line else corpus.PACKED
    sequences = corpus.encode(source, text, recipe.length, fileio.state("corpus"), form)
    train, val = corpus.split(sequences, recipe.validation)
    model = model_of(recipe, tokenizers.Tokenizer.from_str(text).get_vocab_size(), seed)
    teacher = teacher_of(root / fileio.expand(recipe.distill.teacher), text, recipe.length) if recipe.distill else None
    masker = Masker(text, recipe.masked, recipe.whole_words)
    digests = {"corpus": source.digest(), "tokenizer": hashlib.sha256(text.encode()).hexdigest()}
    same = {"recipe": recipe.model_dump(), "seed": seed, "checkpoint": CHECKPOINT}
    work = _work_folder(folder, steps.make_key("pretrain", same, digests), say)
    loop = Pretraining(recipe, model, masker, train, val, work, seed=seed, teacher=teacher, say=say)
    return Job(loop, source, text, folder, digests, began)


def _work_folder(folder: Path, key: str, say: Callable[[str], None]) -> Path:
    """Return where checkpoints are; those of another training are set aside."""
    work = heartbeat.work_folder(folder)
    if rank() == 0:
        if work.is_dir() and (not (work / KEY).is_file() or (work / KEY).read_text() != key):
            say(f"{work} is of another training; set aside as {steps.retire(work).name}")
        work.mkdir(parents=True, exist_ok=True)
        (work / KEY).write_text(key)
    PartialState().wait_for_everyone()
    return work
