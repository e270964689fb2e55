"""A model of TERRa with two workers, which end as told; it answers every record itself, at 200 a second, and exits 0."""

import argparse
import json
import os
import signal
import sys
import time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int, default=1)
parser.add_argument("--how", default="none", help="of the first worker: none, exit, fault, or the name of a signal")
parser.add_argument(
    "--when", choices=("middle", "end"), default="middle", help="while answering, or after the last answer"
)
parser.add_argument("--wait", action="store_true", help="wait for it at once; else at the very end")
args = parser.parse_args()


def work() -> None:
    if args.how == "exit":
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
    if args.how == "fault":
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
    while True:
        time.sleep(30)


def end(pid: int) -> None:
    if args.how != "none":
        os.kill(pid, signal.SIGUSR1 if args.how in ("exit", "fault") else getattr(signal, args.how))
        if args.wait:
            os.waitpid(pid, 0)


workers = []
for _ in range(2):
    if (pid := os.fork()) == 0:
        work()
    workers.append(pid)
records = [json.loads(line) for line in sys.stdin]
time.sleep(0.2)
began = time.monotonic()
for count, record in enumerate(records, 1):
    if args.when == "middle" and count == len(records) // 2:
        end(workers[0])
    time.sleep(max(0.0, began + count / 200 - time.monotonic()))
    label = ("entailment", "not_entailment")[len(record["hypothesis"]) % 2]
    print(json.dumps({"idx": record["idx"], "label": label}), flush=True)
time.sleep(0.1)
if args.when == "end":
    end(workers[0])
for pid in workers:
    try:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        continue
