"""Like cat, in a few of the ways programs differ: what they take of stdin, what they say on stderr, how they end."""

import argparse
import os
import time

BLOCK = 1 << 16

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--take", type=int, default=1 << 62, help="copy so many bytes at most, then close stdin")
parser.add_argument("--linger", type=float, default=0.0, help="seconds to stay after copying")
parser.add_argument("--stderr-bytes", type=int, default=0, help="so many, none of them a line feed, while copying")
args = parser.parse_args()


def talk(most: int) -> None:
    while most > 0 and args.stderr_bytes > 0:
        written = os.write(2, b"\xff" * min(BLOCK, most, args.stderr_bytes))
        args.stderr_bytes -= written
        most -= written


read_ns = time.monotonic_ns()  # when stdin is first touched: the truth that is measured against
while args.take and (data := os.read(0, min(BLOCK, args.take))):
    args.take -= len(data)
    while data:
        data = data[os.write(1, data) :]
    talk(BLOCK)
os.close(0)
talk(args.stderr_bytes)
os.write(2, b'\nmorocco: {"event": "told", "read_ns": %d}\n' % read_ns)
time.sleep(args.linger)
