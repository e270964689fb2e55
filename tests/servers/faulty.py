"""Breaks the contract in one way: faulty.py MODE PIDS [--batch-size N]. Processes that may be left note their pids in PIDS."""

import json
import os
import signal
import sys
import time

mode, pids = sys.argv[1:3]


def note() -> None:
    with open(pids, "a") as file:
        file.write(f"{os.getpid()} ")


def leave_children() -> None:
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            note()
            time.sleep(600)
    time.sleep(0.3)


match mode:
    case "asleep":
        time.sleep(600)
    case "no SIGTERM":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        note()
        time.sleep(600)
    case "children and asleep":
        leave_children()
        time.sleep(600)
    case "endless":
        note()
        while True:
            os.write(1, b'{"idx": 0, "label": "entailment"}\n' + b" " * 4096 + b"\n")

for position, line in enumerate(sys.stdin):
    idx = json.loads(line)["idx"]
    if mode == "exit 3" and position == 20:
        sys.exit(3)
    if mode == "close stdin" and position == 4:
        os.close(0)
        os._exit(0)
    if mode == "garbage":
        os.write(1, b"\x80 loss = 0.1\n")
    else:
        print(json.dumps({"idx": idx, "label": "entailment"}), flush=True)
if mode == "children":
    leave_children()
if mode == "much stderr":
    for _ in range(1000):
        os.write(2, b"x" * 10**6)
os._exit(0)
