"""Real programs under the cache probe: `tests/servers/cached.py`, run on three pairs."""

import json
from pathlib import Path

from run_folders import TERRA
from servers import server

from morocco_lib.analysis.caching import PAIRS
from morocco_lib.benchmark import cache_probe
from morocco_lib.benchmark.run import RunSeries
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.benchmark.withholding import Withholding
from morocco_lib.data import synthetic
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.process import ProcessRunner


def probe(folder: Path, *options, size: int, pilot: bool = False) -> tuple[list[Path], list[Path]]:
    """Run the program with these options; return the folders of its runs on unique and on repeated texts.

    Args:
        size: Records of a run.
        pilot: Repeated texts are fed once before.
    """
    target = Target(Program(server("cached", *options), "cached"), ProcessRunner(), Limits(timeout_s=60))
    source, records = folder / "val.jsonl", synthetic.records("terra", "val", 60, 1)
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    runs = {"pilot": [], "unique": [], "repeated": []}

    def run(kind: str, load) -> None:
        with RunSeries(
            target, load, source, folder, batch_size=8, withheld=Withholding(10.0, ready="--ready" in options)
        ) as series:
            runs[kind].append(series.run(folder / kind, kind))

    if pilot:
        run("pilot", cache_probe.workloads(TERRA, records, 40, 7)["repeated"])
    for pair in range(1, PAIRS + 1):
        for kind, load in cache_probe.workloads(TERRA, records, size, 7, pair).items():
            run(kind, load)
    return runs["unique"], runs["repeated"]
