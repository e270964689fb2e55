"""Figures: the disc chart of the original, and memory and answers over time with their phases."""

import io
from pathlib import Path
from typing import Any

from morocco_lib import estimate
from morocco_lib.report import words

INK, GREY = "#333333", "#b8b8b8"
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f6fb0",
    "#000000",
)  # told apart by the colour-blind
POINTS = 300  # of a line: more cannot be seen and makes the page heavy
DISC = 1200.0  # area in points^2 of the largest disc


def _style():
    import matplotlib
    import seaborn

    matplotlib.use("agg", force=False) if not _in_kernel() else None
    seaborn.set_theme(
        style="whitegrid",
        rc={"svg.fonttype": "none", "svg.hashsalt": "morocco", "font.size": 10, "axes.edgecolor": GREY},
    )
    import matplotlib.pyplot as plt

    return plt


def _in_kernel() -> bool:
    import sys

    return "ipykernel" in sys.modules


def colour_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return one colour a model, the same in every figure of a report."""
    return {model: COLOURS[k % len(COLOURS)] for k, model in enumerate(sorted({row["model"] for row in rows}))}


def disc(rows: list[dict[str, Any]]):
    """Return the disc chart: speed to the right, score upwards, the disc as large as the memory; None without such rows.

    One panel a task. Bars are 95 % intervals, the dashed line always gives the most frequent answer. Invalid points are grey.
    """
    shown = [row for row in rows if row["score"]["value"] is not None and row["speed_per_s"]["value"] is not None]
    if not shown:
        return None
    plt = _style()
    tasks = sorted({row["task"] for row in shown})
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(2.6 + 4.2 * columns, 3.9 * lines), squeeze=False, layout="constrained"
    )
    memory, name = _memory(shown)
    largest = max(filter(None, memory), default=None)
    colours = colour_of(rows)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = [(row, m) for row, m in zip(shown, memory, strict=True) if row["task"] == task]
        bar = here[0][0]["score"]["majority"]["value"]
        axis.axhline(bar, color=INK, linestyle="--", linewidth=1, zorder=1)
        for row, m in here:
            x, y = row["speed_per_s"], row["score"]
            colour = colours[row["model"]] if row["verdict"] == "VALID" else GREY
            axis.errorbar(
                x["value"], y["value"], xerr=_bars(x), yerr=_bars(y), color=colour, linewidth=1.2, capsize=3, zorder=2
            )
            area = DISC * m / largest if m else 30
            axis.scatter(
                x["value"], y["value"], s=area, color=colour, alpha=0.45 if m else 1, edgecolor=colour, zorder=3
            )
            label = row["model"] + (
                f", batch {row['batch_size']}" if sum(r["model"] == row["model"] for r, _ in here) > 1 else ""
            )
            offset = (area**0.5) / 2 + 4
            text = f"{label}\n{words.bytes_text(m)}" if m else label
            axis.annotate(
                text,
                (x["value"], y["value"]),
                xytext=(offset, offset * 0.6),
                textcoords="offset points",
                fontsize=8.5,
                color=INK,
                zorder=4,
            )
        axis.set_xscale("log")
        speeds = [row["speed_per_s"]["value"] for row, _ in here]
        axis.set_xlim(min(speeds) / 2.5, max(speeds) * 5)
        ends = [v for row, _ in here for v in (row["score"]["low"], row["score"]["high"])] + [bar]
        pad = 0.12 * (max(ends) - min(ends) + 0.02)
        axis.set_ylim(min(ends) - pad, max(ends) + 2 * pad)
        axis.annotate(
            "most frequent answer",
            (0.99, bar),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=INK,
        )
        axis.xaxis.set_major_locator(plt.LogLocator(subs=(1, 2, 5), numticks=6))
        axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda v, _: words.sized(v, 2)))
        axis.xaxis.set_minor_formatter(plt.NullFormatter())
        axis.set(title=task, xlabel="records per second", ylabel="score")
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    figure.supxlabel(f"disc area: {name}", fontsize=9, color=INK)
    return figure


def _memory(rows) -> tuple[list[float | None], str]:
    gpu = [row["gpu_ram_bytes"]["value"] for row in rows]
    if any(gpu):
        return gpu, "peak GPU memory"
    return [row["ram_bytes"]["value"] for row in rows], "peak memory (anonymous and shared, whole process tree)"


def _bars(e: dict[str, Any]):
    return None if e.get("low") is None else [[max(0, e["value"] - e["low"])], [max(0, e["high"] - e["value"])]]


def traces(folders: list[tuple[str, Path]]):
    """Return memory and answers over time, a column a run, for (name, runs/NN folder) pairs; None without any."""
    runs = [(name, estimate.read_run(folder)) for name, folder in folders]
    runs = [(name, run) for name, run in runs if run.samples]
    if not runs:
        return None
    plt = _style()
    figure, axes = plt.subplots(
        2,
        len(runs),
        figsize=(2.2 + 4.4 * len(runs), 4.4),
        squeeze=False,
        sharex="col",
        height_ratios=(3, 2),
        layout="constrained",
    )
    for column, (name, run) in enumerate(runs):
        upper, lower = axes[:, column]
        _phases(upper, lower, run)
        times, memory = _thin(
            [s["t_ns"] / 1e9 for s in run.samples], [(s["anon_bytes"] + s["shmem_bytes"]) / 2**20 for s in run.samples]
        )
        upper.plot(times, memory, color=COLOURS[0], linewidth=1.6)
        upper.set(title=name, ylim=(0, max(memory) * 1.25 + 1))
        done, counts = 0, [0]
        for _, n in run.arrivals:
            done += n
            counts.append(done)
        starts = [run.arrivals[0][0] if run.arrivals else 0] + [t for t, _ in run.arrivals]
        lower.step(*_thin(starts, counts), where="post", color=COLOURS[1], linewidth=1.6)
        lower.set(xlabel="seconds since start", xlim=(0, None), ylim=(0, None))
    axes[0, 0].set_ylabel("memory, MiB")
    axes[1, 0].set_ylabel("answers")
    return figure


def _phases(upper, lower, run: estimate.Run) -> None:
    phases = run.facts["phases"]
    ready = phases["ready_s"] if phases["ready_s"] is not None else phases["first_answer_s"]
    spans = [
        (0, ready, "start-up", "#f0f0f0"),
        (ready, phases["last_answer_s"], "answering", "#fdebd3"),
        (phases["last_answer_s"], phases["exit_s"], "exit", "#f0f0f0"),
    ]
    whole = phases["exit_s"]
    for begin, end, name, colour in spans:
        if begin is None or end is None or end <= begin:
            continue
        for axis in (upper, lower):
            axis.axvspan(begin, end, color=colour, zorder=0, linewidth=0)
        if end - begin > 0.14 * whole:  # a name needs room
            upper.annotate(
                name,
                ((begin + end) / 2, 0.97),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="top",
                fontsize=8,
                color=INK,
            )


def _thin(xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    # Of each stretch its lowest and highest point stay, so that no spike is lost.
    if len(xs) <= POINTS:
        return xs, ys
    size = -(-2 * len(xs) // POINTS)
    keep = {0, len(xs) - 1}
    for begin in range(0, len(xs), size):
        stretch = range(begin, min(begin + size, len(xs)))
        keep |= {min(stretch, key=ys.__getitem__), max(stretch, key=ys.__getitem__)}
    order = sorted(keep)
    return [xs[k] for k in order], [ys[k] for k in order]


def svg(figure) -> str:
    """Return a figure as SVG to be put into a page, the same bytes for the same numbers, and close it."""
    import matplotlib.pyplot as plt

    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
