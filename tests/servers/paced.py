"""A model of known speed: answers TERRa records at `--rate` records a second, each batch when its last record is due.

Paced by deadlines, so a late answer does not make the later ones late: the truth is the rate whatever the machine does.
The label it gives is decided by the length of the hypothesis, so tests know the score as well.

With `--starts` its last line on stderr is JSON: `number`, which start of a series this was; `cold`, whether it was a slow
one; `init_s`, seconds from the making of the process (by the kernel's note, to 10 ms) to readiness; `per_s`, the rate less
the share that the last answer came too late; `held_bytes`.
"""

import argparse
import json
import os
import queue
import random
import signal
import sys
import threading
import time

FAULTY = 3  # the position of the record that faults strike
FAULTS = ["missing", "duplicate", "exit-3", "sigkill", "hang", "refuse-labels"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--init", type=float, default=0.0, help="seconds before the first record can be answered")
    parser.add_argument("--late-stdin", action="store_true", help="touch stdin only after the start-up")
    parser.add_argument("--unflushed", action="store_true", help="leave flushing to Python's buffer")
    parser.add_argument("--held-back", action="store_true", help="print all answers at the end")
    parser.add_argument("--no-ready", action="store_true", help="do not report readiness")
    parser.add_argument("--spread", type=float, default=0.0, help="a record's seconds vary by +- this share, uniformly")
    parser.add_argument("--memory-mib", type=int, default=0, help="held from the start to the end")
    parser.add_argument(
        "--cold-share", type=float, default=0.0, help="of starts, whose start-up takes 1.5 times as long"
    )
    parser.add_argument("--starts", help="a file that counts the starts of a series")
    parser.add_argument("--seed", default="0", help="with the number of the start it decides all that varies")
    parser.add_argument("--fault", choices=FAULTS)
    return parser.parse_args()


def number_of_start(path: str | None) -> int:
    """Return how many starts the series has had with this one; 1 without a file that counts them."""
    if path is None:
        return 1
    with open(path, "ab") as file:
        file.write(b".")
        return file.tell()


def age_s() -> float:
    """Return the seconds since the kernel made this process."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def answers_for(record: dict, position: int, fault: str | None) -> list[str]:
    label = ("entailment", "not_entailment")[len(record["hypothesis"]) % 2]
    times = {"missing": 0, "duplicate": 2}.get(fault, 1) if position == FAULTY else 1
    return [json.dumps({"idx": record["idx"], "label": label})] * times


def main() -> int:
    args = parse_args()
    started = time.monotonic() - (age_s() if args.starts else 0.0)
    number = number_of_start(args.starts)
    chance = random.Random(f"{args.seed}/{number}")
    cold = chance.random() < args.cold_share
    ballast = b"\1" * (args.memory_mib << 20)
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read_stdin() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read_stdin, daemon=True)
    if not args.late_stdin:
        reader.start()
    time.sleep(max(0.0, started + args.init * (1.5 if cold else 1.0) - time.monotonic()))
    init_s = time.monotonic() - started
    if not args.no_ready:
        print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)
    if args.late_stdin:
        reader.start()

    held, position, begin, due_s, at_end = [], 0, None, 0.0, False
    while not at_end:
        batch = []
        while len(batch) < args.batch_size and not at_end:
            line = lines.get()
            at_end = line is None
            if not at_end:
                if args.fault == "refuse-labels" and b"label" in line:
                    return 9
                batch.append(json.loads(line))
        begin = begin or time.monotonic()
        out = [
            text for offset, record in enumerate(batch) for text in answers_for(record, position + offset, args.fault)
        ]
        position += len(batch)
        due_s += sum(1 + args.spread * chance.uniform(-1, 1) for _ in batch) / args.rate
        time.sleep(max(0.0, begin + due_s - time.monotonic()))
        if args.held_back:
            held += out
            continue
        for text in out:
            print(text)
        if not args.unflushed:
            sys.stdout.flush()
        if args.fault == "sigkill" and position > FAULTY:
            os.kill(os.getpid(), signal.SIGKILL)
    for text in held:
        print(text)
    sys.stdout.flush()
    if args.starts:
        truth = {"number": number, "cold": cold, "init_s": round(init_s, 3), "held_bytes": len(ballast)}
        truth["per_s"] = args.rate * min(1.0, due_s / (time.monotonic() - begin))
        print(json.dumps(truth), file=sys.stderr, flush=True)
    if args.fault == "hang":
        time.sleep(3600)
    return 3 if args.fault == "exit-3" else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the reader may still wait for input, and Python would not end with it
