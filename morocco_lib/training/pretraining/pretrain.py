"""Pre-train one model on a corpus and leave an ordinary transformers folder, and pretrain.json that says how it came about."""

import hashlib
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from accelerate import PartialState
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from morocco_lib import fileio, foreign
from morocco_lib.artifacts import steps
from morocco_lib.config.pretraining import SHAPES, PretrainRecipe
from morocco_lib.errors import UsageError
from morocco_lib.training import backbones, distributed, seeds
from morocco_lib.training.distributed import rank
from morocco_lib.training.pretraining import corpus, sparsity
from morocco_lib.training.pretraining.loop import Pretraining
from morocco_lib.training.pretraining.masking import Masker

RESULT, MODEL, KEY = "pretrain.json", "model", "key"
TOKENIZER_DOCUMENTS = 100_000  # that a tokenizer is trained on


def model_of(recipe: PretrainRecipe, vocabulary: int, seed: int) -> transformers.PreTrainedModel:
    """Return a BERT with random weights and a masked-language-modelling head."""
    if isinstance(recipe.model, dict):
        values = dict(recipe.model)
    else:
        names = (
            "num_attention_heads",
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "max_position_embeddings",
        )
        values = dict(zip(names, SHAPES[recipe.model], strict=True))
    rates = {"hidden_dropout_prob": recipe.dropout, "attention_probs_dropout_prob": recipe.dropout}
    transformers.set_seed(seed)
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


def teacher_of(folder: str, tokenizer_text: str, length: int) -> transformers.PreTrainedModel:
    """Return the model that is learnt from; raises UsageError if it reads other tokens, or fewer."""
    path = fileio.expand(folder)
    if not (path / "tokenizer.json").is_file() or foreign.read_text(path / "tokenizer.json") != tokenizer_text:
        raise UsageError(f"{folder} has another tokenizer", rule="a teacher reads the tokens of its student")
    model = AutoModelForMaskedLM.from_pretrained(path, trust_remote_code=False)
    if model.config.max_position_embeddings < length:
        raise UsageError(
            f"{folder} has {model.config.max_position_embeddings} positions", rule=f"sequences have {length}"
        )
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


def pretrain(
    recipe: PretrainRecipe,
    source: corpus.Source,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    seed: int = 1,
    say=print,
) -> dict[str, Any]:
    """Pre-train and write `model/` and pretrain.json into a folder; an interrupted attempt at the same is gone on with.

    While it works, `<folder>.checkpoints/` beside the folder holds its last checkpoint.

    Returns:
        What pretrain.json holds.
    Raises:
        UsageError: the corpus, the tokenizer or the teacher cannot be used.
        InvalidResult: the loss was not finite.
    """
    began, cpu_began = time.monotonic(), time.process_time()
    distributed.join()
    text = tokenizer_for(recipe, source, tokenizer)
    sequences = corpus.encode(source, text, recipe.length, fileio.state("corpus"), by_line=recipe.by_line)
    train, val = corpus.split(sequences, recipe.validation)
    model = model_of(recipe, tokenizers.Tokenizer.from_str(text).get_vocab_size(), seed)
    teacher = teacher_of(recipe.distill.teacher, text, recipe.length) if recipe.distill else None
    masker = Masker(text, recipe.masked, recipe.whole_words)
    digests = {"corpus": source.digest(), "tokenizer": hashlib.sha256(text.encode()).hexdigest()}
    work = _work_folder(folder, steps.make_key("pretrain", {"recipe": recipe.model_dump(), "seed": seed}, digests), say)
    job = Pretraining(recipe, model, masker, train, val, work, seed=seed, teacher=teacher, say=say)
    prepared = time.monotonic()
    progress = job.run()
    trained_s = time.monotonic() - prepared
    last = progress.evaluations[-1]
    off = job.masks.weights_off() if job.masks else 0
    result = {
        "schema": 1,
        "recipe": recipe.model_dump(),
        "seed": seed,
        "corpus": {"files": [str(path) for path in source.files], "sha256": digests["corpus"], "sequences": len(train), "held_back": len(val)},
        "tokenizer": {"sha256": digests["tokenizer"], "tokens": model.config.vocab_size},
        "weights": {
            "backbone": sparsity.count(model.base_model), "whole": sparsity.count(model), "off": off,
            "sparsity": off / sparsity.count(model.base_model), "density": job.masks.density() if job.masks else {},
        },
        "updates": progress.step,
        "loss": last["loss"],
        "perplexity": last["perplexity"],
        "masked": progress.hidden / progress.tokens,
        "tokens": progress.tokens,
        "evaluations": progress.evaluations,
        "tokens_per_s": progress.tokens / trained_s,
        "wall_s": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu_began,
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    if rank() == 0:
        place = folder / MODEL
        model.save_pretrained(place)
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(text),
            **{f"{name}_token": token for name, token in backbones.WORDPIECE.items()},
        )
        made.save_pretrained(place)
        fileio.write_text(place / "tokenizer.json", text)  # byte for byte: it is what a student's is held against
        if job.masks:
            job.masks.save(place)
        fileio.write_json(folder / RESULT, result)
        shutil.rmtree(work)
    return result


def _work_folder(folder: Path, key: str, say: Callable[[str], None]) -> Path:
    """Return where checkpoints are; those of another training are set aside."""
    work = seeds.work_folder(folder)
    if rank() == 0:
        if work.is_dir() and (not (work / KEY).is_file() or (work / KEY).read_text() != key):
            say(f"{work} is of another training; set aside as {steps.retire(work).name}")
        work.mkdir(parents=True, exist_ok=True)
        (work / KEY).write_text(key)
    PartialState().wait_for_everyone()
    return work
