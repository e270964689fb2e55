"""How fast pre-training is, and what its parts cost: python benchmarks/pretraining.py

BERT tiny (4.12 million weights, 28,996 of vocabulary) on synthetic sentences in sequences of 128 tokens. Each contender is a
process of its own with two threads; one computes at a time, in rotating order. In a round RigL makes 100 updates, in which it moves
weights once, the others a quarter, the Trainer a tenth of them; a first, short round is not counted. Medians of the time of an update,
and ratios of medians with the lowest and highest of single rounds.

    bare        twenty lines of torch: hides single tokens at random, logits of hidden tokens alone
    Trainer     transformers' Trainer and DataCollatorForLanguageModeling with whole words; logits of all tokens
    dense, sparse, RigL, KD
                the kit's loop, its evaluations and checkpoints left out: 80 % off, their places moved, learning from a teacher
    teacher     forward passes of that teacher alone, over batches that were made before

All have the same batch, AdamW (fused), clipped gradients and dropout. Memory is the peak of each process.
Exits with 1 if a bar is missed.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

LENGTH, VOCABULARY, SEED = 128, 28996, 1
EVERY = 100  # updates between two moves of RigL
PARTS = {"RigL": 1.0, "Trainer": 0.1}  # of the updates of a round; the others' is `PART`
PART = 0.25
RECIPES = {"dense": "tiny", "sparse": "tiny-sparse", "RigL": "tiny-sparse-rigl", "KD": "tiny"}
NAMES = ["bare", "Trainer", *RECIPES, "teacher"]
BARS = [  # contender, what it is held against, at least so many times as fast
    ("dense", ("bare",), 0.95),
    ("sparse", ("dense",), 0.95),
    ("RigL", ("dense",), 0.90),
    ("KD", ("dense", "teacher"), 1 / 1.10),
    ("sparse", ("Trainer",), 0.95),
    ("RigL", ("Trainer",), 0.90),
    ("KD", ("Trainer", "teacher"), 1 / 1.10),
]


# -- a contender, in its process -----------------------------------------------------------------------------------
class Turns:
    """Tells how long so many updates took, each time it is asked to."""

    def __init__(self):
        self.left, self.began = 0, None  # the second by wall clock and CPU time

    def update(self) -> None:
        """Called before each update; waits where it is another's turn."""
        if not self.left:
            if self.began:
                reply(wall=time.perf_counter() - self.began[0], cpu=time.process_time() - self.began[1])
            self.left = int(next(sys.stdin, "") or sys.exit())
            self.began = time.perf_counter(), time.process_time()
        self.left -= 1


def reply(**values) -> None:
    """Print values and the process's peak of memory; unlike getrusage's it does not begin with that of the parent."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({**values, "peak_bytes": int(peak.split()[1]) * 1024}), flush=True)


def bare(job, turns: Turns) -> None:
    import torch
    from torch.nn import functional

    model, masker = job.model.train(), job.masker
    ids = torch.from_numpy(job.train.ids.astype("int64"))
    special, mask = torch.from_numpy(masker.special), masker.mask
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": job.recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=job.recipe.learning_rate, fused=True)
    for step in itertools.count():
        turns.update()
        for group in optimizer.param_groups:
            group["lr"] = job.recipe.learning_rate * min(1, step / job.recipe.warmup)
        batch = ids[torch.randint(len(ids), (job.recipe.batch_size,))]
        hidden = (torch.rand(batch.shape) < job.recipe.masked) & ~special[batch]
        labels, fate = batch[hidden], torch.rand(int(hidden.sum()))
        shown = torch.where(fate < 0.8, mask, labels)
        batch[hidden] = torch.where(fate >= 0.9, torch.randint(len(special), fate.shape), shown)
        states = model.bert(input_ids=batch).last_hidden_state
        loss = functional.cross_entropy(model.cls(states[hidden]), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job.recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def trainer(job, turns: Turns, tokenizer: str, folder: Path) -> None:
    import numpy as np
    import transformers
    from tokenizers import Tokenizer

    class Wait(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            turns.update()

    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    reader = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer), **named)
    records = []
    for ids in np.array(job.train.ids):
        begins = 2 * np.arange(LENGTH)  # words have a space between them, pieces of one have none
        ends = begins + 1 + np.append(job.masker.continues[ids[1:]], False)
        special = job.masker.special[ids].astype(int)
        records.append({"input_ids": ids, "offset_mapping": np.c_[begins, ends], "special_tokens_mask": special})
    recipe = job.recipe
    transformers.Trainer(
        model=job.model,
        args=transformers.TrainingArguments(
            output_dir=str(folder), max_steps=recipe.steps, per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate, warmup_steps=recipe.warmup, weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm, optim="adamw_torch_fused", remove_unused_columns=False, use_cpu=True,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        ),
        train_dataset=records,
        data_collator=transformers.DataCollatorForLanguageModeling(
            reader, mlm_probability=recipe.masked, whole_word_mask=True
        ),
        callbacks=[Wait()],
    ).train()  # fmt: skip


def ours(job, turns: Turns) -> None:
    from morocco_lib.training.pretraining.loop import keep_freed_memory

    keep_freed_memory()  # as `run` does
    for step in itertools.count():
        turns.update()
        job._update(step)


def teacher(job, turns: Turns) -> None:
    import torch

    batches = itertools.cycle([job._batches(step)[0] for step in range(EVERY)])
    with torch.no_grad():
        while True:
            turns.update()
            batch = next(batches)
            job.teacher(batch)


def contend(name: str, work: Path, batch_size: int) -> None:
    """Make updates of one contender when asked to, until the standard input ends."""
    import numpy as np
    import torch

    from morocco_lib.config.pretraining import load_pretraining
    from morocco_lib.training.pretraining import corpus, loop
    from morocco_lib.training.pretraining.masking import Masker
    from morocco_lib.training.pretraining.pretrain import model_of

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tokenizer = (work / "tokenizer.json").read_text(encoding="utf-8")
    train, val = corpus.split(corpus.encode(corpus.Source((work / "text.txt",)), tokenizer, LENGTH, work), 0.05)
    recipe = load_pretraining(RECIPES.get(name, "tiny"), Path(__file__).parents[1])
    learns = {"distill": {"teacher": "as large as the student"}} if name in ("KD", "teacher") else {}
    recipe = type(recipe)(**{**recipe.model_dump(), "batch_size": batch_size, **learns})
    make = [model_of(recipe, VOCABULARY, seed) for seed in (SEED, *([SEED + 1] if learns else []))]
    job = loop.Pretraining(
        recipe, make[0], Masker(tokenizer), train, val, work / name, seed=SEED, teacher=make[1] if learns else None
    )
    job.wrapped.train()
    np.random.seed(SEED), torch.manual_seed(SEED)
    if name == "Trainer":
        trainer(job, Turns(), tokenizer, work / "trainer")
    else:
        {"bare": bare, "teacher": teacher}.get(name, ours)(job, Turns())


# -- the race ------------------------------------------------------------------------------------------------------
def written(work: Path, sentences: int) -> None:
    """Write text and tokenizer."""
    from morocco_lib.data import synthetic
    from morocco_lib.training import backbones

    lines = [record["sentence"] for record in synthetic.records("rucola", "train", sentences, SEED)]
    (work / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (work / "tokenizer.json").write_text(backbones.word_pieces(lines, VOCABULARY).to_str(), encoding="utf-8")


class Contender:
    """A process that makes updates on request."""

    def __init__(self, name: str, work: Path, args):
        argv = [
            sys.executable,
            __file__,
            "--contender",
            name,
            "--work",
            str(work),
            "--batch-size",
            str(args.batch_size),
        ]
        env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false"}
        self.name = name
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def ask(self, updates: int) -> dict:
        print(updates, file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def raced(work: Path, args, say: Callable[[str], None]) -> dict[str, list[dict]]:
    """Return what each contender replied in each round, seconds as those of an update."""
    contenders = [Contender(name, work, args) for name in NAMES]
    try:
        for one in contenders:
            one.ask(args.warmup)
        replies: dict[str, list[dict]] = {name: [] for name in NAMES}
        for number in range(args.rounds):
            first = number % len(contenders)
            for one in contenders[first:] + contenders[:first]:
                updates = round(PARTS.get(one.name, PART) * args.updates)
                reply = one.ask(updates)
                replies[one.name].append({**reply, "seconds": reply[args.clock] / updates})
            say(f"round {number + 1} of {args.rounds}")
        return replies
    finally:
        for one in contenders:
            one.end()


def judged(replies: dict[str, list[dict]]) -> list[dict]:
    """Return each bar: what was measured, the extremes of single rounds, and whether it holds."""
    seconds = {name: [reply["seconds"] for reply in each] for name, each in replies.items()}
    found = []
    for name, others, least in BARS:
        against = [sum(parts) for parts in zip(*(seconds[other] for other in others), strict=True)]
        rounds = [b / a for a, b in zip(seconds[name], against, strict=True)]
        value = sum(median(seconds[other]) for other in others) / median(seconds[name])
        found.append({
            "of": f"{name} / {' + '.join(others)}", "value": value, "low": min(rounds), "high": max(rounds),
            "least": least, "passed": value >= least,
        })  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=EVERY, help=f"of RigL in a round (default {EVERY})")
    parser.add_argument("--warmup", type=int, default=5, help="updates that are not counted (default 5)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where the machine is not quiet")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.work, args.batch_size)
        return 0
    with tempfile.TemporaryDirectory() as work:
        written(Path(work), args.sentences)
        replies = raced(Path(work), args, lambda text: print(text, file=sys.stderr, flush=True))
    bars = judged(replies)
    if args.json:
        print(json.dumps({"bars": bars, "replies": replies}))
        return int(not all(bar["passed"] for bar in bars))
    print(f"{'':<10}{'tokens/s':>10}{'ms an update':>15}{'peak MiB':>11}")
    for name, each in replies.items():
        taken, peak = median(one["seconds"] for one in each), max(one["peak_bytes"] for one in each)
        tokens = args.batch_size * LENGTH / taken
        print(f"{name:<10}{tokens:>10,.0f}{1000 * taken:>15.1f}{peak / 2**20:>11.0f}")
    print(f"\n{'times as fast':<24}{'':>8}   single rounds")
    for bar in bars:
        spread = f"{bar['low']:.3f} to {bar['high']:.3f}"
        verdict = "PASS" if bar["passed"] else "FAIL"
        print(f"{bar['of']:<24}{bar['value']:>8.3f}   {spread:<16}  >= {bar['least']:.3f}  {verdict}")
    return int(not all(bar["passed"] for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
