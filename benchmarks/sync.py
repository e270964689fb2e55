"""`morocco sync` against `aws s3 sync`: 2,000 small files and one of 200 MB, up and down, on moto's server on this machine.

    python benchmarks/sync.py AWS [ROUNDS]          AWS: the `aws` of an environment with PyPI's awscli, which pins another botocore

Both are programs that start anew each time, in turn; a round is an upload to a new prefix and a download to a new folder. The
quickest of all rounds counts: what else runs on a machine only adds.
What aws does not do is in our time: the sha256 of each file, before it is sent and after it has come.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import s3

SMALL, SMALL_BYTES, LARGE_BYTES = 2000, 4000, 200_000_000


def seconds(*words: object) -> float:
    began = time.monotonic()
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main(aws: str, rounds: int = 3) -> None:
    programs = {
        "morocco": [sys.executable, "-m", "morocco_lib", "sync", "--quiet"],
        "aws": [aws, "s3", "sync", "--only-show-errors"],
    }
    took: dict[tuple[str, str], list[float]] = {}
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
                up, down = seconds(*words, here, prefix), seconds(*words, prefix, back)
                subprocess.run(["diff", "-r", "-x", "SHA256SUMS", here, back], check=True)
                shutil.rmtree(back)
                for item in ("up", up), ("down", down):
                    took.setdefault((name, item[0]), []).append(item[1])
                print(f"round {number + 1}: {name} up {up:.1f} s, down {down:.1f} s", file=sys.stderr, flush=True)
    size = (SMALL * SMALL_BYTES + LARGE_BYTES) / 1e6
    print("way   morocco   aws       ratio of throughputs")
    for way in ("up", "down"):
        ours, theirs = (min(took[name, way]) for name in programs)
        print(f"{way:4}  {size / ours:4.0f} MB/s  {size / theirs:4.0f} MB/s  {theirs / ours:.2f}")
    ours, theirs = (min(took[name, "up"]) + min(took[name, "down"]) for name in programs)
    print(f"both  {2 * size / ours:4.0f} MB/s  {2 * size / theirs:4.0f} MB/s  {theirs / ours:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
