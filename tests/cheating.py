"""Programs that get out of work by what they know of their input, measured: `tests/servers/cached.py`."""

from pathlib import Path

from helpers import write_records
from run_folders import TERRA
from servers import server

from morocco_lib.benchmark import protocol
from morocco_lib.benchmark.target import Program, Target
from morocco_lib.runners.process import ProcessRunner

RECORDS = 60


def measured(folder: Path, keep: str | None, *options: str, ms: float = 2.0, **settings) -> dict:
    """Return bench.json of a program that takes `ms` a record, on twice the records that the file holds."""
    source, out = write_records(folder / "val.jsonl", RECORDS, premise_chars=120), folder / "out"
    out.mkdir()
    argv = server("cached", "--ms", ms, *options)
    if keep:
        argv += ["--keep", keep]
    if keep in ("file", "known", "skip"):
        # A file that it may write; a copy of the records, as theirs are hidden from it where we are root.
        (kept := folder / "elsewhere").mkdir()
        (kept / "kept.jsonl").write_bytes(b"" if keep == "file" else source.read_bytes())
        (kept / "kept.jsonl").chmod(0o666)
        argv += ["--file", str(kept / "kept.jsonl")]
    settings = {"batch_size": 4, "input_size": 2 * RECORDS, "repeats": 3, **settings}
    return protocol.bench(Target(Program(argv, "m", checked=True), ProcessRunner()), TERRA, source, out, **settings)
