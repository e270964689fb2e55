"""`morocco sync` against `aws s3 sync`: 2,000 small files and one of 200 MB, up and down, on moto's server on this machine.

    python benchmarks/sync.py AWS [ROUNDS]          AWS: the `aws` of an environment with PyPI's awscli, which pins another botocore

Both are programs that start anew each time, in turn; a round is an upload to a new prefix and a download to a new folder. The
quickest of all rounds counts: what else runs on a machine only adds.
What aws does not do is in our time: the sha256 of each file, before it is sent and after it has come.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import s3

SMALL, SMALL_BYTES, LARGE_BYTES = 2000, 4000, 200_000_000


def seconds(*words: object) -> tuple[float, float]:
    """Run a program; return the seconds it took, and those of the CPU."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(aws: str, rounds: int = 3) -> None:
    programs = {
        "morocco": [sys.executable, "-m", "morocco_lib", "sync", "--quiet"],
        "aws": [aws, "s3", "sync", "--only-show-errors"],
    }
    took: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, s3.running() as server:
        os.environ |= server.env
        here, back = Path(folder) / "here", Path(folder) / "back"
        for number in range(SMALL):
            path = here / f"{number % 20}" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(SMALL_BYTES))
        (here / "weights.safetensors").write_bytes(os.urandom(LARGE_BYTES))
        server.client.create_bucket(Bucket="bench")
        for number in range(rounds):
            for name, words in programs.items():
                prefix = f"s3://bench/{name}-{number}"
                for way, pair in (("up", (here, prefix)), ("down", (prefix, back))):
                    took[name, way].append(seconds(*words, *pair))
                    line = f"round {number + 1}: {name} {way} {took[name, way][-1][0]:.1f} s"
                    print(line, file=sys.stderr, flush=True)
                subprocess.run(["diff", "-r", "-x", "SHA256SUMS", here, back], check=True)
                shutil.rmtree(back)
    size = (SMALL * SMALL_BYTES + LARGE_BYTES) / 1e6
    print("way   morocco   aws       ratio of throughputs   of CPU time")
    for label, ways in (("up", ["up"]), ("down", ["down"]), ("both", ["up", "down"])):
        best = [[sum(min(run[n] for run in took[name, way]) for way in ways) for n in (0, 1)] for name in programs]
        (ours, our_cpu), (theirs, their_cpu) = best
        speeds = "  ".join(f"{len(ways) * size / wall:4.0f} MB/s" for wall in (ours, theirs))
        print(f"{label:4}  {speeds}  {theirs / ours:<21.2f}  {our_cpu / their_cpu:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
