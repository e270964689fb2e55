"""A program that holds memory in ways that are none of its own, and answers nothing.

It holds --mb megabytes (10^6) for --hold seconds: as a `file` that it maps, as one that it `writes` through a mapping, as
`unwritten` pages of a file, as a file in `memory` that it does not map; the same file in each of four processes (`shared`), or
a quarter of it in each (`divided`); or in a helper that leaves parent, session and cgroup (`helper`).
"""

import argparse
import mmap
import os
import sys
import time
from contextlib import suppress

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int)
parser.add_argument("--mb", type=int, default=60)
parser.add_argument("--hold", type=float, default=0.6)
parser.add_argument("--file", help="of --mb megabytes, on a disk")
parser.add_argument("--leave", action="store_true", help="leave the helper running")
parser.add_argument("way", choices=("file", "writes", "unwritten", "memory", "shared", "divided", "helper", "none"))
args = parser.parse_args()
SIZE = args.mb * 10**6 // (16 * mmap.PAGESIZE) * 16 * mmap.PAGESIZE
CHUNK = b"\x01" * 2**20


def map_file(begin: int = 0, size: int = SIZE) -> mmap.mmap:
    fd = os.open(args.file, os.O_RDONLY)
    mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ, offset=begin)
    sum(mapped[at] for at in range(0, size, mmap.PAGESIZE))
    return mapped


def write(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.unlink(path)
    for _ in range(SIZE // len(CHUNK)):
        os.write(fd, CHUNK)
    return fd


def leave_group() -> None:
    with open("/proc/self/cgroup") as lines:
        names = [line.split(":")[1] for line in lines if "morocco-" in line]
    for name in names:  # the group of the whole machine, where only root may go
        with suppress(PermissionError), open(f"/sys/fs/cgroup/{name}/cgroup.procs", "w") as group:
            group.write(str(os.getpid()))


sys.stdin.buffer.read()
match args.way:
    case "file":
        held = map_file()
    case "writes":
        fd = os.open(f"{args.file}.written", os.O_RDWR | os.O_CREAT)
        os.unlink(f"{args.file}.written")
        os.truncate(fd, SIZE)
        held = mmap.mmap(fd, SIZE)
        for at in range(0, SIZE, mmap.PAGESIZE):
            held[at] = 1
    case "unwritten":
        held = write(f"{args.file}.written")
    case "memory":
        held = write(f"/dev/shm/holder-{os.getpid()}")
    case "shared" | "divided":
        for number in range(4):
            if os.fork() == 0:
                held = map_file() if args.way == "shared" else map_file(number * SIZE // 4, SIZE // 4)
                time.sleep(args.hold)
                os._exit(0)
    case "helper":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                leave_group()
                for fd in (0, 1, 2):
                    os.close(fd)
                held = b"\x01" * SIZE
                time.sleep(60 if args.leave else args.hold)
            os._exit(0)
        os.wait()
if not args.leave:
    time.sleep(args.hold + 0.2)
time.sleep(args.hold if args.leave else 0.2)
