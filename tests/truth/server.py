"""A TERRa model whose start-up, speed and memory are known, whatever the machine does.

It reads no more of a record than its idx, the last key, so it has next to nothing to do, and sleeps until deadlines,
counted from its own start and then from readiness, so that lateness does not add up. Its last line on stderr
is JSON: `number`, which start of a series this was; `cold`, whether it was a slow one; `init_s`, seconds from the making
of the process (by the kernel's note, to 10 ms) until the first record could be answered; `per_s`, the rate asked for, less
what the machine kept it from: the share that the last answer came too late; `held_bytes`.
"""

import argparse
import itertools
import json
import os
import queue
import random
import sys
import threading
import time

ANSWER = b'{"idx": %s, "label": "entailment"}\n'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--init", type=float, default=0.0, help="seconds of a warm start-up")
    parser.add_argument("--rate", type=float, default=1000.0, help="records/s, in the mean where they vary")
    parser.add_argument("--spread", type=float, default=0.0, help="a record's seconds vary by +- this share, uniformly")
    parser.add_argument("--memory-mib", type=int, default=0, help="held from the start to the end")
    parser.add_argument("--flush", choices=["batch", "buffer", "end"], default="batch")
    parser.add_argument("--no-ready", action="store_true", help="do not tell readiness")
    parser.add_argument("--late-stdin", action="store_true", help="touch stdin only after the start-up")
    parser.add_argument("--cold-share", type=float, default=0.0, help="of starts, which take x1.5")
    parser.add_argument("--starts", help="a file that counts the starts of a series")
    parser.add_argument("--seed", default="0", help="of what varies; with the number of the start it decides all")
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


def main() -> None:
    args = parse_args()
    number = number_of_start(args.starts)
    chance = random.Random(f"{args.seed}/{number}")
    cold = chance.random() < args.cold_share
    ballast = b"\1" * (args.memory_mib << 20)
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read_stdin() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read_stdin, daemon=True)
    if not args.late_stdin:
        reader.start()
    time.sleep(max(0.0, args.init * (1.5 if cold else 1.0) - age_s()))
    init_s = age_s()
    if not args.no_ready:
        print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)
    if args.late_stdin:
        reader.start()

    begun, due_s, held = time.monotonic(), 0.0, []
    fed = iter(lines.get, None)
    while batch := list(itertools.islice(fed, args.batch_size)):
        due_s += sum(1 + args.spread * chance.uniform(-1, 1) for _ in batch) / args.rate
        text = b"".join(ANSWER % line.rstrip(b"}\r\n").rpartition(b" ")[2] for line in batch)
        time.sleep(max(0.0, begun + due_s - time.monotonic()))
        if args.flush == "end":
            held.append(text)
            continue
        sys.stdout.buffer.write(text)
        if args.flush == "batch":
            sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(held))
    sys.stdout.flush()
    truth = {"number": number, "cold": cold, "init_s": round(init_s, 3), "held_bytes": len(ballast)}
    truth["per_s"] = args.rate * min(1.0, due_s / (time.monotonic() - begun))
    print(json.dumps(truth), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
