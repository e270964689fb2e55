"""Step folders as one archive that may be signed, and back.

submission.zip   SHA256SUMS        of every other file, as `sha256sum` writes it; its own digest is the submission's id
                 SHA256SUMS.sig    by `ssh-keygen -Y sign`, if it is signed
                 submission.json   the operating points
                 steps/            the step folders of bench and eval
with --original  benches/<model>/<task>/<input size>_<batch size>_<index>.jsonl and preds/<model>/<task>.jsonl
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import morocco_lib
from morocco_lib import fileio, foreign
from morocco_lib.analysis import summary
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import POINT, SCORE, shown_as
from morocco_lib.artifacts.verify import Finding
from morocco_lib.benchmark.protocol import SINGLE_RECORD
from morocco_lib.errors import InvalidResult, Refused, UsageError
from morocco_lib.formatting import counted
from morocco_lib.leaderboard import archive, signature
from morocco_lib.leaderboard.signature import Signer
from morocco_lib.legacy import write as original_logs
from morocco_lib.pipeline.step_kinds import KINDS, verify
from morocco_lib.report.points import collect

SUMS, SIGNATURE, POINTS, STEPS = "SHA256SUMS", "SHA256SUMS.sig", "submission.json", "steps"
BENCHES, PREDICTIONS = "benches", "preds"  # of the founding layout
OF_POINT = ("task", "model", "batch_size", "input_size", "runner", "verdict", "bench_folder", "eval_folder")
ID_DIGITS = 12


# -- packing -------------------------------------------------------------------------------------------------------
def pack(outputs: Path, out: Path, *, key: Path | None = None, original: bool = False) -> list[dict[str, Any]]:
    """Write a submission of the finished bench and eval steps of a folder, and return its operating points.

    Args:
        key: A private key of ssh, or a public one whose other half an agent has; it signs the digests.
        original: Write the founding layout, logs and predictions, instead of step folders.
    Raises:
        UsageError: nothing to pack, or `out` exists.
        InvalidResult: a step does not verify, or is too large.
        EnvironmentFailure: it cannot be written.
    """
    if out.exists():
        raise UsageError(f"{out} exists", rule="a submission is never overwritten", remedy="give -o another name")
    chosen = [folder for folder, status in steps.find_steps(outputs) if _is_packed(status)]
    if not chosen:
        raise UsageError(f"no finished bench or eval in {outputs}", remedy="give outputs/<plan>, or what --out named")
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place, "staged")
        for folder in chosen:
            foreign.check_tree(folder)
            inside = folder.relative_to(outputs) if folder != outputs else folder.resolve().name
            shutil.copytree(folder, staged / STEPS / inside)
        if wrong := [f"{finding.step}: {finding.seen}" for finding in verify(staged / STEPS) if not finding.ok]:
            raise InvalidResult(wrong[0], rule="only what verifies is packed", remedy="run that step again")
        points = points_of(staged / STEPS)
        if original:
            _write_founding_layout(staged, points)
        else:
            fileio.write_json(staged / POINTS, {"schema": 1, "version": morocco_lib.__version__, "points": points})
        fileio.write_text(staged / SUMS, "".join(f"{digest}  {name}\n" for name, digest in digests_of(staged).items()))
        if key:
            signature.sign(staged / SUMS, key)
        packed = Path(place, "packed.zip")
        archive.pack(staged, packed)
        archive.unpack(packed, Path(place, "again"))  # what nobody would take is not handed over
        with fileio.writing(out):
            shutil.move(packed, out)
    return points


def _is_packed(status: dict[str, Any]) -> bool:
    done = status["state"] == steps.DONE and not status.get("retired")
    return done and shown_as(status, KINDS) in (POINT, SCORE)


def points_of(folder: Path) -> list[dict[str, Any]]:
    """Return the operating points of step folders: what each is, and the folders it rests on."""
    rows = collect(folder, KINDS)
    return [{n: row[n] for n in OF_POINT} | {"image_digest": row["measured"].get("image_digest")} for row in rows]


def digests_of(folder: Path) -> dict[str, str]:
    """Return {path within a folder: sha256} of everything in it but the digests themselves and their signature."""
    paths = {path.relative_to(folder).as_posix(): path for path, _ in foreign.tree(folder)}
    return {name: foreign.sha256_file(paths[name]) for name in sorted(paths) if name not in (SUMS, SIGNATURE)}


def _write_founding_layout(staged: Path, points: Sequence[dict[str, Any]]) -> None:
    """Put logs and predictions in the place of step folders."""
    benches = [staged / STEPS / point["bench_folder"] for point in points if point["bench_folder"]]
    ones = [folder / SINGLE_RECORD for folder in benches if (folder / SINGLE_RECORD).is_dir()]
    if not ones:
        raise UsageError(
            "no bench has runs of one record", rule="in the founding layout start-up is the time of such runs",
            remedy="`morocco bench ... --original-logs DIR` makes them",
        )  # fmt: skip
    original_logs.write([run for folder in (*ones, *benches) for run in summary.sound_runs(folder)], staged / BENCHES)
    for point in points:
        if point["eval_folder"]:
            place = original_logs.cell(staged / PREDICTIONS, point["model"], point["task"]).with_suffix(".jsonl")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(staged / STEPS / point["eval_folder"] / summary.PREDICTIONS, place)
    shutil.rmtree(staged / STEPS)


# -- reading -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Submission:
    """An unpacked submission whose digests hold.

    Args:
        folder: Where it was unpacked.
        id: The first digits of the digest of its SHA256SUMS.
        files: How many files it lists.
        signer: Who signed it; None: nobody.
    """

    folder: Path
    id: str
    files: int
    signer: Signer | None


@contextmanager
def unpacked(path: Path, signers: Path | None = None) -> Iterator[Submission]:
    """Unpack a submission into a temporary folder, for as long as it is looked at.

    Args:
        signers: A file of allowed signers.
    Raises:
        Refused: it is no archive that may be unpacked, its digests do not hold, or its signature is wrong.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = set(archive.unpack(path, folder))
        if SUMS not in names:
            raise Refused("DIGESTS", f"there is no {SUMS} in it")
        sums = foreign.read_bytes(folder / SUMS)
        lines = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in sums.decode(errors="replace").splitlines()]
        stated = {line[2]: line[1] for line in lines if line}
        if stated != (actual := digests_of(folder)):
            wrong = sorted(name for name in stated.keys() | actual.keys() if stated.get(name) != actual.get(name))
            raise Refused("DIGESTS", f"{', '.join(wrong[:3])}: not as in {SUMS}")
        signed = signature.signer(folder / SUMS, folder / SIGNATURE, signers) if SIGNATURE in names else None
        yield Submission(folder, hashlib.sha256(sums).hexdigest()[:ID_DIGITS], len(stated), signed)


def signature_text(signer: Signer | None) -> str:
    """Return who signed, and what that does not prove."""
    if signer is None:
        return (
            "not signed: the digests show that nothing was changed since it was packed, not who packed it, "
            "nor that it was ever measured"
        )
    who = f"signed by {signer.name}" if signer.name else "signed by a key that nobody vouches for"
    return f"{who} ({signer.key}): who holds that key packed this, and answers for how it was measured"


def verify_archive(path: Path, signers: Path | None = None) -> list[Finding]:
    """Return the findings for a submission: archive, signature, and every step in it.

    Args:
        signers: A file of allowed signers: one of them must have signed.
    """
    try:
        with unpacked(path, signers) as found:
            ok = signers is None or (found.signer is not None and found.signer.name is not None)
            findings = [
                Finding(path.name, "archive", True, f"{counted(found.files, 'digest')} of {SUMS} hold"),
                Finding(path.name, "signature", ok, signature_text(found.signer)),
            ]
            return findings + (findings_of(found.folder) if (found.folder / STEPS).is_dir() else [])
    except Refused as error:
        return [Finding(path.name, "archive", False, str(error))]


def findings_of(folder: Path) -> list[Finding]:
    """Return what `verify` finds in an unpacked submission, and if that is good, whether its operating points follow."""
    # What lies here under the path of an input is another file than was read there.
    findings = [finding for finding in verify(folder / STEPS) if finding.ok or finding.what != "inputs"]
    if all(finding.ok for finding in findings):
        stated = (folder / POINTS).is_file() and fileio.read_json(folder / POINTS, shape={"points": list})["points"]
        if not stated or stated != points_of(folder / STEPS):
            findings.append(Finding(POINTS, "points", False, "it does not follow from the steps, or these give none"))
    return findings
