"""A body of known size: holds memory or burns CPU time, in itself or in a child, and answers nothing."""

import argparse
import os
import sys
import time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int)
parser.add_argument("--mb", type=int, default=0, help="megabytes (10^6) of anonymous memory to hold")
parser.add_argument("--hold", type=float, default=0.0, help="seconds to hold them")
parser.add_argument("--burn", type=float, default=0.0, help="seconds of CPU time to use")
parser.add_argument("--in-child", action="store_true")
args = parser.parse_args()


def live() -> None:
    block = b"\x01" * (args.mb * 10**6)  # written, not only reserved
    time.sleep(args.hold)
    begin = time.process_time()
    while time.process_time() - begin < args.burn:
        pass
    del block


sys.stdin.buffer.read()
if args.in_child:
    pid = os.fork()
    if pid == 0:
        live()
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(0.1)  # outlive the child: what it used must stay counted, and be counted once
else:
    live()
