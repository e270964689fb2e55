"""A model of TERRa that keeps the contract, or breaks one rule of it: `--fault NAME`. One file, the standard library only."""

import json
import os
import random
import select
import socket
import sys
import time

fault = sys.argv[sys.argv.index("--fault") + 1] if "--fault" in sys.argv else None
rest = [word for word in sys.argv[1:] if word not in ("--fault", fault)]
if fault == "no-option" and rest:
    sys.exit(f"usage: contract.py\ncontract.py: error: unrecognized arguments: {' '.join(rest)}")
batch_size = int(rest[rest.index("--batch-size") + 1]) if "--batch-size" in rest else 1
if fault == "one-by-one":
    batch_size = 1
LABELS = ("entailment", "not_entailment")
count, last = 0, 0  # records answered; length of the last one


def label_of(record, batch):
    global last
    length, before = len(record["hypothesis"]), last
    last = length
    match fault:
        case "needs-label":
            return record["label"]
        case "hopes-for-label":
            return record.get("label")
        case "by-batch-size":
            length += batch_size == 3
        case "by-neighbours":  # as padding that is not masked
            length = max(len(other["hypothesis"]) for other in batch)
        case "by-idx":
            length = record["idx"]
        case "by-history":
            length += before
        case "by-chance":
            length = random.getrandbits(1)
        case "rare-batch":
            length += batch_size == 3 and count == 4
    return LABELS[length % 2]


def lines_of(record, batch):
    answer = {"idx": record["idx"], "label": label_of(record, batch)}
    if fault == "counts-lines":
        answer["idx"] = count
    if count == 3:
        match fault:
            case "missing":
                return b""
            case "duplicate":
                return (json.dumps(answer) + "\n").encode() * 2
            case "text-idx":
                answer["idx"] = str(answer["idx"])
            case "label":
                answer["label"] = "maybe \x1b[31m"
            case "latin-1":
                return json.dumps({**answer, "why": "café"}, ensure_ascii=False).encode("latin-1") + b"\n"
            case "broken":
                return json.dumps(answer)[:-4].encode() + b"\n"
            case "progress":
                return b"\r 12 %|##      |\n" + json.dumps(answer).encode() + b"\n"
    return (json.dumps(answer) + "\n").encode()


def flush(batch):
    global count
    out = []
    for record in batch:
        out.append(lines_of(record, batch))
        count += 1
    sys.stdout.buffer.write(b"".join(out))
    if fault != "held":
        sys.stdout.flush()
    batch.clear()


match fault:
    case "network":
        socket.create_connection(("weights.example.org", 443), timeout=5)
    case "network-for-ever":
        while True:
            print("Temporary failure in name resolution, trying again", file=sys.stderr, flush=True)
            time.sleep(0.2)
    case "writes":
        with open("/model-cache.json", "w") as file:
            file.write("{}")
    case "writes-tmp":
        with open("/tmp/model-cache.json", "w") as file:
            file.write("{}")
    case "banner":
        print("Loading weights \x1b[32mdone\x1b[0m", flush=True)
    case "ascii":
        sys.stdin.reconfigure(encoding="ascii")
    case "talks":
        print("\n".join(f"\x1b[2Jstep {n}\tloaded {'x' * 500}" for n in range(5000)), file=sys.stderr, flush=True)
    case "crash-at-1" if batch_size == 1:
        sys.exit("IndexError: too many indices for tensor of dimension 0")
    case "impatient" if not select.select([0], [], [], 0.1)[0]:
        sys.exit(0)
    case "child":
        if os.fork() == 0:
            os.setsid()
            os.closerange(0, 3)
            time.sleep(30)
            os._exit(0)
    case "flood":
        while True:
            sys.stdout.write("all work and no play\n" * 10_000)
    case "segfault":
        os.kill(os.getpid(), 11)
if fault != "no-ready":
    print('morocco: {"event": "ready"}', file=sys.stderr, flush=True)

if fault in ("sorted", "held"):  # with all in hand
    records = [json.loads(line) for line in sys.stdin]
    if fault == "sorted":
        records.sort(key=lambda record: (len(record["hypothesis"]), record["premise"], record["hypothesis"]))
    while records:
        flush(records[:batch_size])
        del records[:batch_size]
else:
    batch, read = [], 0
    for line in sys.stdin:
        if fault == "wants-line-feed" and not line.endswith("\n"):
            continue
        batch.append(json.loads(line))
        read += 1
        if len(batch) == batch_size:
            flush(batch)
        if fault == "dies" and read == 12:
            os._exit(7)
    if batch and fault != "swallows":
        flush(batch)
    if fault == "wants-records" and not read:
        sys.exit("ValueError: need at least one array to concatenate")
sys.stdout.flush()
if fault in ("never-ends", "never-ends-without-records") and (count or fault != "never-ends"):
    time.sleep(3600)
sys.exit(0)
