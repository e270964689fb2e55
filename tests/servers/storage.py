"""Touches so many pages of memory, writes and reads so many bytes of a file, then stays for a while; answers nothing."""

import argparse
import mmap
import os
import sys
import tempfile
import time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--batch-size", type=int)
parser.add_argument("--folder", help="where the file is made; it must lie on a disk")
parser.add_argument("--pages", type=int, default=0, help="of 4 KiB, each taken by a fault of its own")
parser.add_argument("--write", type=int, default=0, help="bytes")
parser.add_argument("--read", type=int, default=0, help="bytes, of what was written and is out of the cache")
parser.add_argument("--map", type=int, default=0, help="pages of the file to fault in, each from the disk")
args = parser.parse_args()
PAGE = mmap.PAGESIZE

sys.stdin.buffer.read()
if args.pages:
    held = mmap.mmap(-1, args.pages * PAGE)
    held.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(held), PAGE):
        held[at] = 1
if args.write:
    with tempfile.TemporaryFile(dir=args.folder) as file:
        file.write(os.urandom(args.write))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if args.read:
            os.pread(file.fileno(), args.read, 0)
        if args.map:
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            pages.madvise(mmap.MADV_RANDOM)
            total = sum(pages[at * PAGE * 16] for at in range(args.map))
        time.sleep(0.8)
else:
    time.sleep(0.8)
