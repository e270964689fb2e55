"""Numbers with units, estimates with intervals, tables and result summaries as text."""

import itertools
import math
import textwrap
from collections.abc import Container, Sequence
from typing import Any

from morocco_lib.reasons import DISTURBANCES, DISTURBED, INVALID, NOTES, Reason

STOPPED = {  # what ended the timed runs
    "repeats": "as many as requested",
    "precision": "the interval is narrow enough",
    "max_minutes": "the time limit was reached",
}


def sized(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits and separated thousands: 12345.6 -> "12,300"."""
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # 9.996 is 10.0 before its digits are counted
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if decimals == 0:
        step = 10 ** max(0, math.floor(math.log10(abs(value))) + 1 - digits)
        return f"{round(value / step) * step:,}"
    return f"{value:,.{decimals}f}"


def bytes_text(value: float) -> str:
    """Return bytes in MiB or GiB."""
    return f"{sized(value / 2**30)} GiB" if value >= 2**30 else f"{sized(value / 2**20)} MiB"


def seconds_text(value: float) -> str:
    """Return seconds in s or ms."""
    return f"{sized(value)} s" if value >= 1 else f"{sized(value * 1000)} ms"


def score_text(value: float) -> str:
    """Return a score with three decimals, as leaderboards do."""
    return f"{value:.3f}"


def with_interval(estimate: dict[str, Any], text) -> str:
    """Return "value (low to high)", or a dash and the reason, if there is one, when there is no value."""
    if estimate["value"] is None:
        return f"— {estimate.get('reason') or ''}".rstrip()
    if estimate.get("low") is None:
        return text(estimate["value"])
    return f"{text(estimate['value'])} ({text(estimate['low'])} to {text(estimate['high'])})"


def text_table(rows: Sequence[Sequence[str]], widths: Sequence[int] = (), right: Container[int] = ()) -> str:
    """Return rows of cells as aligned text columns.

    Args:
        rows: Cells of each row, the heads first.
        widths: Of the columns, longer cells being wrapped; without them each column is as wide as its longest cell.
        right: Numbers of the columns that are aligned to the right.
    """
    widths = widths or [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [textwrap.wrap(cell, width, break_on_hyphens=False) for cell, width in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            aligned = (
                f"{p:>{w}}" if k in right else f"{p:<{w}}" for k, (p, w) in enumerate(zip(parts, widths, strict=True))
            )
            lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def speed_text(value: float) -> str:
    """Return records a second with four digits."""
    return sized(value, 4)


def reason_lines(reasons: list[str]) -> list[str]:
    """Return one line a reason code: the code, whether it is a note or a disturbance, and what it means."""
    kinds = {**dict.fromkeys(NOTES, " (note)"), **dict.fromkeys(DISTURBANCES, " (disturbance)")}
    return [f"{code}{kinds.get(code, '')}: {Reason(code).meaning}" for code in reasons]


def load_text(load: dict[str, Any]) -> str:
    """Return what other processes do to the machine, as `system_load.look` saw it."""
    names = ", ".join(f"{process['name']} (pid {process['pid']})" for process in load["top"])
    return f"others keep {load['cores']:.1f} of {load['of_cores']} cores busy{': ' * bool(names)}{names}"


def disturbers_text(processes: Sequence[dict[str, Any]]) -> str:
    """Return the processes that disturbed runs, as bench.json lists them in `disturbed_by`."""
    named = [f"{p['name']} (pid {p['pid']}, {p['share']:.0%} of all cores)" for p in processes]
    return f" by {', '.join(named)}" if named else ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def majority_text(score: dict[str, Any]) -> str:
    """Return how a score compares with always giving the most frequent answer."""
    if score["value"] is None:
        return ""
    bar = score["majority"]["value"]
    if score["high"] < bar:
        return f"below the most frequent answer's {score_text(bar)}"
    if score["value"] < bar:
        return f"below, though not clearly, the most frequent answer's {score_text(bar)}"
    if score["low"] <= bar:
        return f"not clearly above the most frequent answer's {score_text(bar)}"
    return f"above the most frequent answer's {score_text(bar)}"


def agreement_text(result: dict[str, Any]) -> str:
    """Return how often answers to the same record differ, between repeats and between batch sizes."""
    parts = [f"{result['flips']['value']} of {result['flips']['compared']} repeated ones differ"]
    if other := result.get("batch_flips"):
        parts.append(f"{other['value']} of {other['compared']} from those at batch {other['against_batch_size']}")
    return "; ".join(parts)


def runner_text(result: dict[str, Any]) -> str:
    """Return what a result was run in, and what that guarantees: `runner` and `proven` of bench.json."""
    proven = result.get("proven")
    if proven is None:
        return result["runner"] or ""
    isolated = "isolated" if proven["isolation"] else "no isolation"
    gold = {True: ", gold hidden", False: ", gold not hidden"}.get(proven.get("gold"), "")
    return f"{result['runner']}: {isolated}{gold}" + ", memory unproven" * (not proven["memory"])


def protocol_lines(result: dict[str, Any]) -> list[str]:
    """Return what was done beside the timed runs, a line each."""
    protocol = result["protocol"]
    lines = []
    if found := protocol.get("conformance"):
        how = "passed" if found["ok"] else f"violated: {', '.join(found['failed'])}"
        warned = f"; warnings: {', '.join(found['warned'])}" if found["warned"] else ""
        lines.append(f"contract: {how}{warned}" + (", checked when built" if found["when"] != "now" else ""))
    if isinstance(idle := protocol.get("idle"), dict):
        lines.append(f"before: other processes kept {idle['cores']:.2f} of {idle['of_cores']} cores busy")
    cold = result["cold_init_s"]
    if cold["value"] is not None:
        lines.append(f"cold starts: {with_interval(cold, seconds_text)}, file caches dropped before each")
    if "predicted_s" in protocol:
        runs, whole = (seconds_text(protocol[name]) for name in ("predicted_s", "took_s"))
        lines.append(f"time: {runs} expected for the timed runs and the look for a cache; everything took {whole}")
    if "stopped_by" in protocol:
        why = STOPPED.get(protocol["stopped_by"], protocol["stopped_by"])
        lines.append(f"{counted(result['repeats'], 'timed run')}: {why}")
    return lines


def bench_lines(result: dict[str, Any]) -> list[str]:
    """Return what a terminal shows of bench.json."""
    score = result["score"]
    synthetic = ", synthetic records" if result["data"]["origin"] == "synthetic" else ""
    speed, cached = result["speed_per_s"], result["kept_answers"]
    rows = [
        ("speed", with_interval(speed, speed_text) + (" records/s" if speed["value"] else "")),
        ("start-up", with_interval(result["init_s"], seconds_text)),
        ("cold", with_interval(result["cold_init_s"], seconds_text)),
        ("memory", with_interval(result["ram_bytes"], bytes_text)),
        ("score", f"{with_interval(score, score_text)}, {majority_text(score)}".rstrip(", ")),
        ("answers", agreement_text(result)),
        (
            "caching",
            with_interval(cached, sized) + (" times as fast on the file's own records" if cached["value"] else ""),
        ),
        ("runner", runner_text(result)),
    ]
    runs = counted(result["repeats"], "run")
    head = f"{result['model']} on {result['task']}: {result['input_size']} records, batch {result['batch_size']}, {runs}{synthetic}"
    lines = [head, *(f"  {name:<9} {text}" for name, text in rows), f"  {'verdict':<9} {result['verdict']}"]
    if result["verdict"] == DISTURBED:
        what = f"speed and start-up were disturbed{disturbers_text(result['disturbed_by'])} and are not to be compared"
        lines.append(f"  {'':<9} {what}; score and memory hold. Run it again when the machine is quiet.")
    dashes = {result[name].get("reason") for name in ("speed_per_s", "init_s", "ram_bytes", "score")} - {None}
    codes = [*result["reasons"], *sorted(dashes - set(result["reasons"]))]
    lines += [f"  {'':<9} {line}" for line in reason_lines(codes)]
    for row in result["per_run"]:
        if row["verdict"] == INVALID:
            ended = f"signal {row['exit']['signal']}" if row["exit"]["signal"] else f"exit code {row['exit']['code']}"
            lines.append(f"  {'':<9} {row['run']}: {ended}; see {row['run']}/stderr.log")
            lines += [f"  {'':<9}   {example}" for example in row["examples"]]
            break  # the others are in bench.json
    return lines
