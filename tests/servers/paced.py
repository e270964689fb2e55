"""A model of known speed: answers TERRa records at `--rate` records a second, each batch when its last record is due.

Paced by deadlines, so a late answer does not make the later ones late: the truth is the rate whatever the machine does.
The label it gives is decided by the length of the hypothesis, so tests know the score as well.
"""

import argparse
import json
import os
import queue
import signal
import sys
import threading
import time

FAULTY = 3  # the position of the record that faults strike
FAULTS = [
    *("missing", "duplicate", "unknown-idx", "wrong-idx", "label", "broken", "garbage", "flip"),
    *("exit-3", "sigkill", "hang", "leave-child", "refuse-labels"),
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--init", type=float, default=0.0, help="seconds before the first record can be answered")
    parser.add_argument("--late-stdin", action="store_true", help="touch stdin only after the start-up")
    parser.add_argument("--unflushed", action="store_true", help="leave flushing to Python's buffer")
    parser.add_argument("--held-back", action="store_true", help="print all answers at the end")
    parser.add_argument("--no-ready", action="store_true", help="do not tell readiness")
    parser.add_argument("--fault", choices=FAULTS)
    return parser.parse_args()


def answers_for(record: dict, position: int, fault: str | None, seen: set[str]) -> list[str]:
    label = ("entailment", "not_entailment")[len(record["hypothesis"]) % 2]
    if fault == "flip" and record["premise"] in seen:
        label = "not_entailment" if label == "entailment" else "entailment"
    seen.add(record["premise"])
    answer = {"idx": record["idx"], "label": label}
    if position == FAULTY:
        match fault:
            case "missing":
                return []
            case "duplicate":
                return [json.dumps(answer)] * 2
            case "unknown-idx":
                answer["idx"] = 10**6
            case "wrong-idx":
                answer["idx"] = str(answer["idx"])
            case "label":
                answer["label"] = "maybe"
            case "broken":
                return [json.dumps(answer)[:-4]]
            case "garbage":
                return ["Loading weights: 100 %", json.dumps(answer)]
    return [json.dumps(answer)]


def main() -> int:
    args = parse_args()
    started = time.monotonic()
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read_stdin() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read_stdin, daemon=True)
    if not args.late_stdin:
        reader.start()
    time.sleep(max(0.0, started + args.init - time.monotonic()))
    if not args.no_ready:
        print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)
    if args.late_stdin:
        reader.start()

    held, seen = [], set()
    position, begin, at_end = 0, None, False
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
            text
            for offset, record in enumerate(batch)
            for text in answers_for(record, position + offset, args.fault, seen)
        ]
        position += len(batch)
        time.sleep(max(0.0, begin + position / args.rate - time.monotonic()))
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
    if args.fault == "hang":
        time.sleep(3600)
    if args.fault == "leave-child" and os.fork() == 0:
        os.setsid()
        os.closerange(0, 3)
        time.sleep(3600)
    return 3 if args.fault == "exit-3" else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the reader may still wait for input, and Python would not end with it
