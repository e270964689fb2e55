"""Rows of several machines: speeds are compared on one machine, and across two by the ratio of what was measured on both."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from morocco_lib import formatting
from morocco_lib.reasons import VALID, Reason

CPU, GPU = "CPU", "GPU"
RULE = (
    "An anchor is an operating point that is VALID over several runs on each: the same image, or the same weights and arguments, "
    "on the same records at the same batch size, precision and limits."
)


class Machine(NamedTuple):
    """A machine that rows were timed on.

    Args:
        name: M1, M2, ...; M1 is the one that the others are compared with.
        text: Processor, cores, memory, GPUs, kernel.
        points: How many operating points were timed there.
        ratios: CPU or GPU -> {"value", "low", "high", "anchors"}: its speed over that of M1, of programs that compute there;
            empty where the two are not compared. An anchor: task, model, batch_size, speed_per_s, on_m1, and the ratio.
    """

    name: str
    text: str
    points: int
    ratios: dict[str, dict[str, Any]]


class Group(NamedTuple):
    """Rows that are compared with each other: of one machine, or joined by anchors.

    Args:
        name: The machines; "" where there is only one.
        rows: Copies, each with `row`, its place in the report. Of another machine than the first: `speed_per_s` as on the
            first, `measured_speed` as it was measured, and the `ratio` between them.
    """

    name: str
    rows: list[dict[str, Any]]


def text_of(host: Mapping[str, Any], gpu: Any) -> str:
    """Return what identifies a machine, from the facts that a status or run.json holds of it and of its GPUs."""
    memory, devices = host.get("memory_bytes"), gpu["devices"] if isinstance(gpu, Mapping) else []
    parts = [host.get("cpu") or "unknown CPU", f"{host.get('cores')} cores"]
    parts += [f"{memory / 2**30:.0f} GiB"] if isinstance(memory, int) else []
    parts += [f"{count} x {name}" for name, count in sorted(Counter(str(d.get("name")) for d in devices).items())]
    return f"{', '.join(map(str, parts))}, Linux {host.get('kernel')}"[:300]


def machines(rows: Sequence[dict[str, Any]]) -> list[Machine]:
    """Return the machines that the rows were timed on, M1 first, then those that anchors join to it; none if all are of one."""
    timed: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["speed_per_s"]["value"] is not None:
            timed.setdefault(row.get("machine") or "", []).append(row)
    if len(timed) < 2:
        return []
    joined = {text: {t: _joined(timed[text], timed[t]) for t in timed if t != text} for text in timed}
    first = max(timed, key=lambda text: (sum(map(bool, joined[text].values())), len(timed[text]), text))
    others = sorted(joined[first], key=lambda text: (not joined[first][text], text))
    found = [(first, {}), *((text, joined[first][text]) for text in others)]
    return [Machine(f"M{n}", text, len(timed[text]), ratios) for n, (text, ratios) in enumerate(found, 1)]


def _joined(base: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the ratios by which all of a machine's rows can be compared with those of another; empty without an anchor."""
    ours, theirs = ({key: row for row in found if (key := _anchor_key(row))} for found in (rows, base))
    ratios = {}
    for kind in {_kind(row) for row in rows}:
        shared = [(ours[key], theirs[key]) for key in ours if key in theirs and _kind(ours[key]) == kind]
        if not shared:
            return {}
        ratios[kind] = _ratio(shared)
    return ratios


def _kind(row: dict[str, Any]) -> str:
    return CPU if row["gpu_ram_bytes"].get("reason") in (Reason.NO_GPU, Reason.GPU_NOT_USED) else GPU


def _anchor_key(row: dict[str, Any]) -> tuple | None:
    """Return what two rows of one program at one operating point have in common; None for a row that can be no anchor."""
    measured, records = row["measured"], (row["data"] or {}).get("sha256")
    image, weights = measured.get("image_digest"), measured.get("weights_sha256")
    known = _has_interval(row["speed_per_s"]) and row["speed_per_s"].get("scope") == "runs"
    if row["verdict"] != VALID or not known or not records or not (image or weights):
        return None
    argv = measured.get("argv") or []
    words = argv if image else [Path(word).name for word in argv]  # each machine has its own folders
    limits = [(measured.get("settings") or {}).get(f"limit_{name}") for name in ("cpus", "memory_bytes")]
    computed = [measured.get("precision"), measured.get("backend"), row["batch_size"], _kind(row)]
    return row["task"], records, image or weights, *words, *limits, *computed


def _ratio(shared: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Return the ratio of speeds for a program that was not measured on both: the geometric mean over the anchors.

    The interval of one anchor is that of its two speeds. That of several also holds how far programs differ: it is Student's t
    for another one.
    """
    from scipy.special import stdtrit

    logs, halves, anchors, n = [], [], [], len(shared)
    for here, there in shared:
        a, b = here["speed_per_s"], there["speed_per_s"]
        logs.append(math.log(a["value"] / b["value"]))
        halves.append(math.hypot(_half(a), _half(b)))
        named = {name: here[name] for name in ("task", "model", "batch_size")}
        anchors.append({**named, "speed_per_s": a["value"], "on_m1": b["value"], **_exp(logs[-1], halves[-1])})
    half = math.hypot(*halves) / n
    if n > 1:
        half = math.hypot(half, float(stdtrit(n - 1, 0.975)) * stdev(logs) * math.sqrt(1 + 1 / n))
    return {**_exp(fmean(logs), half), "anchors": anchors}


def _has_interval(e: dict[str, Any]) -> bool:
    return all(e.get(end) for end in ("value", "low", "high"))


def _half(e: dict[str, Any]) -> float:
    """Return half of the interval of the logarithm of a speed."""
    return math.log(e["high"] / e["low"]) / 2


def _exp(value: float, half: float) -> dict[str, float]:
    ends = {"value": value, "low": value - half, "high": value + half}
    return {name: float(f"{math.exp(end):.6g}") for name, end in ends.items()}  # libraries differ in the last bits


def named(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with `on`, the name of their machine, or "" where all were timed on one."""
    found = machines(rows)
    names = {machine.text: machine.name for machine in found}
    return [{**row, "on": names.get(row.get("machine") or "", found[0].name) if found else ""} for row in rows]


def groups(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Return the rows by what may be compared: all of one machine, and of those that are joined to it; see `Group`."""
    numbered, found = [{**row, "row": k} for k, row in enumerate(named(rows))], machines(rows)
    joined = Group(", ".join(m.name for m in found if m is found[0] or m.ratios), [])
    alone = {m.name: Group(m.name, []) for m in found[1:] if not m.ratios}
    ratios = {m.name: m.ratios for m in found}
    for row in numbered:
        alone.get(row["on"], joined).rows.append(scaled(row, ratios.get(row["on"], {}).get(_kind(row))))
    return [joined, *alone.values()]


def scaled(row: dict[str, Any], ratio: dict[str, Any] | None) -> dict[str, Any]:
    """Return a row with its speed as on M1, by the ratio of its machine; itself without one."""
    speed = row["speed_per_s"]
    if ratio is None or speed["value"] is None:
        return row
    value, ends = speed["value"] / ratio["value"], {"low": None, "high": None}
    if _has_interval(speed):
        factor = math.exp(math.hypot(_half(speed), _half(ratio)))
        ends = {"low": value / factor, "high": value * factor}
    return {**row, "speed_per_s": {**speed, "value": value, **ends}, "measured_speed": speed, "ratio": ratio}


def scaled_text(row: dict[str, Any]) -> str:
    """Return the speed of a row of a group as on M1, which says so; "" for one that was measured there."""
    return f"≈ {formatting.with_interval(row['speed_per_s'], formatting.speed_text)} on M1" if is_scaled(row) else ""


def is_scaled(row: dict[str, Any]) -> bool:
    """Tell whether the speed of a row of a group was measured on another machine than the first."""
    return "measured_speed" in row


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what machines the rows are of, and how they are joined or that they are not; none if all are of one."""
    found, texts = machines(rows), []
    for machine in found:
        text = f"{machine.name}: {machine.text}; {formatting.counted(machine.points, 'operating point')}."
        for kind, ratio in sorted(machine.ratios.items()):
            text += (
                f" Where its speeds on the {kind} are compared with those of M1 they are divided by {ratio_text(ratio)} and "
                f"marked ≈; anchored by {', '.join(map(anchor_text, ratio['anchors']))}."
            )
        texts.append(text)
    if apart := [machine.name for machine in found[1:] if not machine.ratios]:
        texts.append(
            f"warning: no anchor joins {', '.join(apart)} to M1, so no speed of theirs is compared with one of another machine. {RULE}"
        )
    return texts


def ratio_text(ratio: dict[str, Any]) -> str:
    """Return a ratio of speeds with its interval."""
    return formatting.with_interval(ratio, lambda value: f"{value:.3g}")


def anchor_text(anchor: dict[str, Any]) -> str:
    """Return what an anchor is, and its two speeds."""
    here, there = (formatting.speed_text(anchor[name]) for name in ("speed_per_s", "on_m1"))
    return f"{anchor['model']} on {anchor['task']}, batch {anchor['batch_size']} ({here} records/s, {there} on M1)"
