"""A model of known speed that gets out of work: by what it has seen, in this run or in earlier ones, or by knowing the file.

It answers TERRa records. One takes `--ms`, waited until a deadline, so that the truth is the same on a busy machine.
`--keep` says which are answered for nothing.
"""

import argparse
import json
import sys
import time
from pathlib import Path

KEYS = {
    "text": lambda record: record["premise"] + record["hypothesis"],
    "premise": lambda record: record["premise"],
    "hypothesis": lambda record: record["hypothesis"],
}

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int, default=1)
parser.add_argument("--ms", type=float, default=2.0)
keeps = [*KEYS, "file", "known", "skip"]  # in a file from run to run; records of a file; all that is not in it
parser.add_argument("--keep", choices=keeps)
parser.add_argument("--file", type=Path, help="answers kept by `file`; records known to the last two")
parser.add_argument("--held-back", action="store_true", help="read all first and print all answers at the end")
args = parser.parse_args()
key = KEYS.get(args.keep, KEYS["text"])
lines = args.file.read_text(encoding="utf-8").splitlines() if args.file and args.file.exists() else []
seen, due_s, answers = {key(json.loads(line)) for line in lines}, 0.0, []


def costs(record: dict) -> bool:
    """Tell whether the model must work on a record."""
    known = key(record) in seen
    if args.keep in (*KEYS, "file"):
        seen.add(key(record))
    return known if args.keep == "skip" else not (args.keep and known)


for line in list(sys.stdin.buffer) if args.held_back else sys.stdin.buffer:
    record = json.loads(line)
    due_s = (due_s or time.monotonic()) + args.ms / 1000 * costs(record)
    answers.append(json.dumps({"idx": record["idx"], "label": "entailment"}))
    if args.keep == "file":
        lines.append(json.dumps({name: record[name] for name in ("premise", "hypothesis")}))
    if not args.held_back and len(answers) == args.batch_size:
        time.sleep(max(0.0, due_s - time.monotonic()))
        print("\n".join(answers), flush=True)
        answers = []
time.sleep(max(0.0, due_s - time.monotonic()))
print(*answers, sep="\n" if answers else "", end="\n" if answers else "")
if args.keep == "file":
    args.file.write_text("".join(f"{line}\n" for line in lines))
