"""A program with relatives: a child deaf to SIGTERM, its child, one in a session of its own, and an orphan in another.

Prints their pids as one JSON object, then waits with them, or leaves them behind with `--leave`.
"""

import argparse
import json
import os
import signal
import sys
import time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int)
parser.add_argument("--leave", choices=("pipes-open", "pipes-closed"), help="end, and leave the relatives running")
parser.add_argument("--members", default="deaf,grandchild,own-session,orphan")
parser.add_argument("--settle", type=float, default=0.0, help="seconds between the last birth and the end")
args = parser.parse_args()
told, tell = os.pipe()


def stay(name: str) -> None:
    os.write(tell, json.dumps([name, os.getpid()]).encode() + b"\n")
    if args.leave == "pipes-closed":
        for fd in (0, 1, 2):
            os.close(fd)
    time.sleep(30)
    os._exit(0)


def born(name: str) -> None:
    match name:
        case "deaf" if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if "grandchild" in args.members and os.fork() == 0:
                stay("grandchild")
            stay(name)
        case "own-session" if os.fork() == 0:
            os.setsid()
            stay(name)
        case "orphan" if (parent := os.fork()) == 0:
            os.setsid()
            if os.fork() == 0:
                stay(name)
            time.sleep(args.settle)  # seen for a while with a parent of ours, then without
            os._exit(0)
        case "orphan":
            os.waitpid(parent, 0)


names = args.members.split(",")
for name in names:
    born(name)
pids = dict(json.loads(line) for _, line in zip(names, os.fdopen(told), strict=False))
print(json.dumps({"main": os.getpid(), **pids}), flush=True)
time.sleep(args.settle)
if not args.leave:
    time.sleep(30)
sys.exit(0)
