"""Submissions as nobody should send them: each case, drawn by its number, breaks one rule, and is to be refused by name."""

import hashlib
import io
import json
import random
import resource
import stat
import struct
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest import mock

from morocco_lib import fileio
from morocco_lib.artifacts import steps
from morocco_lib.leaderboard import checks
from morocco_lib.leaderboard.entry import Outcome
from morocco_lib.leaderboard.submission import SUMS

Files = dict[str, bytes]
UTF8, ENCRYPTED = 0x800, 0x1


def read(path) -> Files:
    with zipfile.ZipFile(path) as box:
        return {name: box.read(name) for name in box.namelist()}


def packed(files: Files, odd: list[tuple[zipfile.ZipInfo, bytes]] = ()) -> bytes:
    """Return an archive of files, and of odd members after them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as box, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there already
        for name, raw in files.items():
            box.writestr(zipfile.ZipInfo(name), raw)
        for info, raw in odd:
            box.writestr(info, raw, info.compress_type)
    return out.getvalue()


def resealed(files: Files) -> Files:
    """Return files with the digests that they would have if they had always been so."""
    files = dict(files)
    for path in [name for name in files if name.endswith(f"/{steps.STATUS}")]:
        folder = path.removesuffix(steps.STATUS)
        inside = {n.removeprefix(folder): raw for n, raw in files.items() if n.startswith(folder) and n != path}
        status = json.loads(files[path]) | {
            "outputs": {n: hashlib.sha256(inside[n]).hexdigest() for n in sorted(inside)}
        }
        files[path] = fileio.dump(steps.seal(status)).encode()
    return with_sums(files)


def with_sums(files: Files) -> Files:
    names = sorted(set(files) - {SUMS})
    return files | {SUMS: "".join(f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n" for n in names).encode()}


# -- archives ------------------------------------------------------------------------------------------------------
def added(rng, files: Files, name: str, raw=b"x", mode=stat.S_IFREG | 0o644, **fields) -> bytes:
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr = name, mode << 16
    for field, value in fields.items():
        setattr(info, field, value)
    return packed(files, [(info, raw)])


def traversal(rng, files):
    up = "../" * rng.randint(1, 9)
    return added(
        rng, files, rng.choice([f"{up}out", f"steps/{up}out", f"/tmp/{rng.random()}", "..", "steps/..", "//out"])
    )


def odd_name(rng, files):
    names = [
        "a\\..\\b",
        "a\x1b[2J",
        "a\u202eb",
        "./a",
        "a//b",
        "a/./b",
        "d/" * 20 + "a",
        "a" * 300,
        "a\nb",
        "\x7f",
        "\ufeffa",
    ]
    if rng.random() < 0.2:  # bytes of a name that are no UTF-8, and say they are
        return added(rng, files, "nöme").replace("nöme".encode(), b"n\xff\xfeme")
    if rng.random() < 0.2:  # and do not say so
        return added(rng, files, "nam").replace(b"nam", b"n\xf6m")
    return added(rng, files, rng.choice(names))


def link(rng, files):
    kinds = [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR]
    name = rng.choice(["a", rng.choice(sorted(files)) + "2"])
    return added(rng, files, name, b"/etc/passwd", rng.choice(kinds) | 0o777, create_system=rng.choice([0, 3]))


@cache
def _zeros(size: int) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo("zeros")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, bytes(size)


def _contents(name: str, count: int) -> bytes:
    """Return an archive of one member, whose table of contents lists it many times."""
    raw = packed({name: b""})
    start, end = raw.index(b"PK\1\2"), raw.rindex(b"PK\5\6")
    record = raw[start:end]
    return (
        raw[:start]
        + record * count
        + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(record) * count, start, 0)
    )


@cache
def _bombs() -> list[bytes]:
    many, long = _contents("a", 50_001), _contents("a/" * 120 + "b", 30_000)
    large = packed({}, [_zeros(70 << 20)])
    three = [(zipfile.ZipInfo(f"z{k}"), bytes(20 << 20)) for k in range(3)]
    for info, _ in three:
        info.compress_type = zipfile.ZIP_DEFLATED
    return [many, long, large, packed({}, three)]


def bomb(rng, files):
    return rng.choice(_bombs())


def overlapping(rng, files):
    """Members that share their bytes: small in the archive, large outside."""
    raw, count = packed({f"{k:03d}": bytes(1000) for k in range(40)}), 0
    end = raw.rindex(b"PK\5\6")
    at = start = struct.unpack("<L", raw[end + 16 : end + 20])[0]
    while raw[at : at + 4] == b"PK\1\2":
        raw, count = raw[: at + 42] + bytes(4) + raw[at + 46 :], count + 1
        at += 46 + 3
    assert count == 40 and start
    return raw


def double_name(rng, files):
    name = rng.choice(sorted(files))
    other = rng.choice([name, name.upper(), name.swapcase(), f"{name}/in", name.split("/")[0] if "/" in name else name])
    return added(rng, files, other)


def encoded(rng, files):
    raw = bytearray(added(rng, files, "enc", b"y" * 50))
    at = raw.rindex(b"PK\1\2")
    if rng.random() < 0.5:
        raw[at + 8] |= ENCRYPTED
    else:
        raw[at + 10] = rng.choice([1, 6, 9, 12, 14, 97, 99])
    return bytes(raw)


def truncated(rng, files):
    raw = packed(files)
    return raw[: rng.randrange(len(raw))]


def lengthened(rng, files):
    raw = packed(files)
    return rng.choice(
        [raw + rng.randbytes(rng.randint(1, 70)), raw[:-2] + b"\5\0hello", rng.randbytes(500), b"", raw[:-22]]
    )


def damaged(rng, files):
    """A byte of a file in the archive is another."""
    raw = bytearray(packed(files))
    name = rng.choice(sorted(name for name, content in files.items() if content))
    with zipfile.ZipFile(io.BytesIO(raw)) as box:
        info = box.getinfo(name)
    raw[info.header_offset + 30 + len(name) + rng.randrange(info.file_size)] ^= rng.randint(1, 255)
    return bytes(raw)


def lying(rng, files):
    """The table of contents gives another size, place or name than the file has."""
    raw = bytearray(packed(files))
    at = rng.choice([k for k in range(len(raw)) if raw[k : k + 4] == b"PK\1\2"])
    place = rng.choice([24, 42, 46])
    raw[at + place] ^= 1 << rng.randrange(7)
    return bytes(raw)


def zip64(rng, files):
    raw = packed(files)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, len(raw) - 22, 1)
    return raw[:-22] + locator + raw[-22:]


# -- digests -------------------------------------------------------------------------------------------------------
def sums(rng, files):
    lines = files[SUMS].splitlines(keepends=True)
    at = rng.randrange(len(lines))
    digest, name = lines[at].split(b"  ")
    there = rng.choice(
        [
            b"",
            b"\xff\n",
            b"0" * 64 + b"  " + name,
            digest + b" *" + name,
            digest + b"  ../" + name,
            digest[:-1] + b"  " + name,
        ]
    )
    if rng.random() < 0.1:
        return packed({n: raw for n, raw in files.items() if n != SUMS})
    return packed(files | {SUMS: b"".join([*lines[:at], there, *lines[at + 1 :]])})


def unlisted(rng, files):
    files = dict(files)
    if rng.random() < 0.5:
        files[rng.choice(["more", "steps/more", "steps/m/terra/bench-1/more"])] = b""
    else:
        del files[rng.choice(sorted(set(files) - {SUMS}))]
    return packed(files)


def signature(rng, files):
    good = b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n"
    return packed(files | {f"{SUMS}.sig": rng.choice([b"", b"\0", good, rng.randbytes(200), good * 1000])})


# -- files of a step -----------------------------------------------------------------------------------------------
JSON = ("run.json", "workload.json", "bench.json", "protocol.json", "submission.json", "chunks.jsonl", "samples.jsonl")


def place_of(rng, files, names=JSON) -> str:
    return rng.choice(sorted(name for name in files if name.rsplit("/", 1)[-1] in names))


def with_value(rng, files, text: bytes) -> bytes:
    """Put a value into an object of a file, and make every digest anew."""
    name = place_of(rng, files)
    opens = [k for k, byte in enumerate(files[name]) if byte == ord("{") and files[name][k + 1 : k + 2] != b"}"]
    at = rng.choice(opens) + 1
    changed = files[name][:at] + b'"odd": ' + text + b", " + files[name][at:]
    return packed(resealed(files | {name: changed}))


def bad_utf8(rng, files):
    return with_value(rng, files, rng.choice([b'"\xff"', b'"\xc3("', b'"\xed\xa0\x80"', b'"\\ud800"']))


def no_number(rng, files):
    return with_value(rng, files, rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 400]))


def deep(rng, files):
    depth = rng.choice([70, 1000, 100_000])
    return with_value(rng, files, rng.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth]))


def double_key(rng, files):
    return with_value(rng, files, b'1, "odd": 2')


def broken(rng, files):
    name = place_of(rng, files)
    raw = files[name]
    at = rng.randrange(1, len(raw) - 2)
    changed = rng.choice([raw[:at], b"", b"[]", b"null", b"1", raw[:at] + b"\0" + raw[at:], raw + b"{", b"\0" * 100])
    return packed(resealed(files | {name: changed}))


def backwards(rng, files):
    """Times in another order than they come in."""
    several = {name: raw for name, raw in files.items() if raw.count(b"t_ns") > 1}
    name = place_of(rng, several, ("chunks.jsonl", "samples.jsonl"))
    lines = files[name].splitlines(keepends=True)
    a, b = rng.sample([k for k, line in enumerate(lines) if b"t_ns" in line], 2)
    lines[a], lines[b] = lines[b], lines[a]
    return packed(resealed(files | {name: b"".join(lines)}))


def gone(rng, files):
    lost = place_of(rng, files)
    return packed(resealed({name: raw for name, raw in files.items() if name != lost}))


def status(rng, files):
    """A status that is none, with sums that hold."""
    (name,) = (name for name in files if name.endswith(f"/{steps.STATUS}"))
    value = json.loads(files[name])
    key = rng.choice(["schema", "state", "outputs", "inputs", "owner", "key", "step", "model", "code"])
    value[key] = rng.choice([None, [], {"a": [1]}, "\x1b", "x" * 300, -1])
    sealed = steps.seal(value) if rng.random() < 0.5 else value
    return packed(with_sums(files | {name: fileio.dump(sealed).encode()}))


IN_STEP = {"NUMBERS", "READABLE", "POINTS"}  # what verify, or a reader, says of a file
KINDS: dict[Callable, set[str]] = {  # and the names that it may be refused by
    traversal: {"TRAVERSAL"}, odd_name: {"ODD_NAME"}, link: {"LINK"}, bomb: {"TOO_LARGE"}, overlapping: {"DAMAGED"},
    double_name: {"DOUBLE_NAME"}, encoded: {"ENCODED"}, truncated: {"DAMAGED"}, lengthened: {"DAMAGED"}, damaged: {"DAMAGED"},
    lying: {"DAMAGED", "ODD_NAME", "TRAVERSAL"}, zip64: {"TOO_LARGE"}, sums: {"DIGESTS"}, unlisted: {"DIGESTS"}, signature: {"SIGNATURE"},
    bad_utf8: IN_STEP, no_number: IN_STEP, deep: IN_STEP, double_key: IN_STEP, broken: IN_STEP, backwards: {"CLOCKS", *IN_STEP}, gone: IN_STEP,
    status: IN_STEP,
}  # fmt: skip
CASE_S, MORE_BYTES = 10, 300 << 20


def check_refused(numbers, files: Files, place: Path, terms) -> None:
    """Judge cases: each is refused by a name of its kind, soon, in little memory, and leaves nothing anywhere."""
    unpacked_in = place / "deep/er/tmp"
    unpacked_in.mkdir(parents=True)
    archive, peak = place / "case.zip", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with mock.patch.object(tempfile, "tempdir", str(unpacked_in)):
        for number in numbers:
            kind = list(KINDS)[number % len(KINDS)]
            archive.write_bytes(kind(random.Random(f"archive/{number}"), files))
            began = time.monotonic()
            entries = checks.judge(archive, terms, [])
            assert time.monotonic() - began < CASE_S, (number, kind)
            assert entries and all(entry.verdict == "refused" for entry in entries), (number, kind, entries)
            refused = [check for entry in entries for check in entry.of(Outcome.REFUSED)]
            assert all(check.name in KINDS[kind] and check.seen for check in refused), (number, kind, refused)
            assert [path for path in place.rglob("*") if not path.is_dir()] == [archive], (number, kind)
            assert not any(unpacked_in.iterdir()), (number, kind)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10 < MORE_BYTES
