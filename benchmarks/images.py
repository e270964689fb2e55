"""What many images cost: disk against the sum of what differs, a further task against a naive build, an unchanged one.

    python benchmarks/images.py [BASE] [WEIGHT_MB]          needs an engine that holds nothing of ours; DOCKER_HOST names it

Nine weights folders of which two are equal, each an image; then a further task on known weights and an unchanged rebuild,
five times each, medians; the check of the contract is left out of every time. A naive build is one Dockerfile that copies
packages, program and weights and compiles them, for each task anew.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from morocco_lib.images import bases, build
from morocco_lib.models import weights
from morocco_lib.runners import engine

NAIVE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG WHICH
ENV WHICH=${WHICH}
COPY packages /opt/packages
COPY code /opt/code
COPY weights /opt/weights
RUN ["python3", "-c", "import compileall; compileall.compile_dir('/opt', quiet=2)"]
"""


def noise(folder: Path, name: str, seed: int, size: int) -> Path:
    """Write a weights folder of `size` bytes that nothing can compress."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    values = {"schema": 1, "name": name, "kind": "tfidf", "task": "terra", "trained_on": {}, "values": {}}
    (folder / weights.VALUES).write_text(json.dumps(values))
    save_file({"noise": np.random.default_rng(seed).integers(0, 255, size, "uint8")}, folder / weights.ARRAYS)
    return folder


def built(folder: Path, task: str, base: str, tag: str = "") -> float:
    began = time.monotonic()
    build.build(build.Recipe(folder, task, base, tag), lambda image: None, print)
    return time.monotonic() - began


def naive(client, folder: Path, base: str, number: int) -> float:
    """Build in the naive way and return the seconds."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as context:
        packages = Path(name)
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", name]
        began = time.monotonic()
        subprocess.run([*install, *bases.requirements(("infer",))], check=True)
        with tarfile.open(fileobj=context, mode="w") as tar:
            text = NAIVE.encode()
            info = tarfile.TarInfo("Dockerfile")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
            for target, source in (("packages", packages), ("code/morocco_lib", build.PACKAGE), ("weights", folder)):
                tar.add(source, target)
        context.seek(0)
        arguments = {"BASE_IMAGE": base, "WHICH": str(number)}
        for line in client.api.build(
            fileobj=context, custom_context=True, decode=True, buildargs=arguments, tag=f"naive:{number}", nocache=True
        ):
            if "error" in line:
                raise SystemExit(line["error"])
        return time.monotonic() - began


def used(client) -> int:
    return client.api.df()["LayersSize"]


def main(base: str = bases.DEBIAN, weight_mb: int = 100) -> None:
    client = engine.connect()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        size = weight_mb * 10**6
        if base == bases.DEBIAN:
            base = bases.debian_base(client, print)
        models = [noise(root / f"m{n}", f"m{n}", max(n, 1), size) for n in range(9)]  # m0 and m1 hold equal arrays
        before = used(client)
        built(noise(root / "small", "small", 99, 10), "terra", base)
        common = used(client)
        for folder in models:
            built(folder, "terra", base)
        total = used(client)
        apart = common + sum((f / weights.ARRAYS).stat().st_size for f in models[1:])
        print(f"base and packages {common / 1e6:9.1f} MB (the base alone {before / 1e6:.1f})")
        print(
            f"nine images       {total / 1e6:9.1f} MB, {total / apart:.3f} of base + packages + eight distinct weights"
        )
        further, unchanged, naively = [], [], []
        for number in range(5):
            further.append(built(models[number + 2], "lidirus", base))
            unchanged.append(built(models[number + 2], "lidirus", base))
            naively.append(naive(client, models[number + 2], base, number))
        middle = statistics.median
        print(f"naive build       {middle(naively):9.2f} s")
        print(f"a further task    {middle(further):9.2f} s, {middle(further) / middle(naively):.3f} of it")
        print(f"unchanged         {middle(unchanged):9.2f} s")


if __name__ == "__main__":
    os.environ.setdefault("DOCKER_HOST", "unix:///var/run/docker.sock")
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
