"""A model of TERRa with two workers, of which the first ends half way; it answers every record itself, at 200 a second, and exits 0."""

import argparse
import json
import os
import signal
import sys
import time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int, default=1)
parser.add_argument("--how", required=True, help="the first worker ends: exit, fault, or the name of a signal")
args = parser.parse_args()


def work() -> None:
    if args.how == "exit":
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
    if args.how == "fault":
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it
    while True:
        time.sleep(30)


workers = []
for _ in range(2):
    if (pid := os.fork()) == 0:
        work()
    workers.append(pid)
records = [json.loads(line) for line in sys.stdin]
time.sleep(0.2)
began = time.monotonic()
for count, record in enumerate(records, 1):
    if count == len(records) // 2:
        os.kill(workers[0], signal.SIGUSR1 if args.how in ("exit", "fault") else getattr(signal, args.how))
    time.sleep(max(0.0, began + count / 200 - time.monotonic()))
    label = ("entailment", "not_entailment")[len(record["hypothesis"]) % 2]
    print(json.dumps({"idx": record["idx"], "label": label}), flush=True)
time.sleep(0.1)
for pid in workers:
    try:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        continue
