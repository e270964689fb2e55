"""A model whose work is real CPU time, proportional to the length of its texts, and the ways to get out of doing it.

It answers TERRa records. A batch costs as many hash rounds as it has texts, times the longest of them, times `--rounds`:
padding costs, and sorting saves it. `--keep` remembers answers: by text, by premise, inside a batch, or in a file of
$TMPDIR; `later` takes from the file only what was there when it started.
"""

import argparse
import functools
import hashlib
import json
import os
import sys
from pathlib import Path

LABELS = ("entailment", "not_entailment")
WINDOW = 4  # batches that `--sort` looks at together

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int, default=1)
parser.add_argument("--rounds", type=float, default=10.0, help="hash rounds a character")
parser.add_argument("--own-rounds", type=int, default=0, help="rounds that every record costs, known or not")
parser.add_argument("--keep", choices=("text", "premise", "batch", "file", "later"))
parser.add_argument("--sort", action="store_true", help="sort by length inside a window of batches")
parser.add_argument("--one-by-one", action="store_true", help="batches of one, whatever is asked for")
parser.add_argument("--unflushed", action="store_true", help="leave flushing to Python's buffer")
parser.add_argument("--held-back", action="store_true", help="print all answers at the end")
parser.add_argument("--ready", action="store_true", help="report readiness")
parser.add_argument("--late-ready", action="store_true", help="report it when the work is done")
args = parser.parse_args()
READY = 'morocco: {"event": "ready"}'
size = 1 if args.one_by_one else args.batch_size


def spend(rounds: float) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", b"text", b"", max(1, int(rounds)))


def model(texts: list[str]) -> list[str]:
    spend(len(texts) * max(map(len, texts)) * args.rounds)
    return [LABELS[len(text) % 2] for text in texts]


@functools.cache
def cached_model(text: str) -> str:
    (label,) = model([text])
    return label


def with_known(texts: list[str], keys: list[str], known: dict[str, str]) -> list[str]:
    """Return the answers to texts; the model sees only those whose key it has not seen."""
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        known.update(zip(new, model(list(new.values())), strict=True))
    return [known[key] for key in keys]


def answer(batch: list[dict]) -> list[str]:
    texts = [f"{record['premise']} {record['hypothesis']}" for record in batch]
    match args.keep:
        case "text":
            labels = [cached_model(text) for text in texts]
        case "premise":
            labels = with_known(texts, [record["premise"] for record in batch], seen)
        case "batch":
            labels = with_known(texts, texts, {})
        case "file":
            labels = with_known(texts, texts, seen)
        case "later":
            labels = with_known(texts, texts, dict(seen))
            learnt.update(zip(texts, labels, strict=True))
        case _:
            labels = model(texts)
    spend(args.own_rounds * len(batch))
    return [json.dumps({"idx": record["idx"], "label": label}) for record, label in zip(batch, labels, strict=True)]


cache = Path(os.environ["TMPDIR"], "answers.json") if args.keep in ("file", "later") else None
seen = json.loads(cache.read_text()) if cache and cache.exists() else {}
learnt = {}
if args.ready:
    print(READY, file=sys.stderr, flush=True)
held, at_end = [], False
while not at_end:
    window = []
    while len(window) < size * (WINDOW if args.sort else 1) and not at_end:
        line = sys.stdin.buffer.readline()
        at_end = not line
        if line:
            window.append(json.loads(line))
    if args.sort:
        window.sort(key=lambda record: len(record["premise"]) + len(record["hypothesis"]))
    for begin in range(0, len(window), size):
        lines = answer(window[begin : begin + size])
        if args.held_back or args.late_ready:
            held += lines
        else:
            print("\n".join(lines), flush=not args.unflushed)
if args.late_ready:
    print(READY, file=sys.stderr, flush=True)
for line in held:
    print(line, flush=args.late_ready)
if cache:
    cache.write_text(json.dumps(seen | learnt))
