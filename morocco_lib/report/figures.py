"""Figures: scores over tasks, the disc chart of the original, memory and answers over time with their phases."""

import functools
import importlib.metadata
import io
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from morocco_lib import fileio, formatting
from morocco_lib.analysis.memory import held_bytes
from morocco_lib.analysis.run_files import Run, read_run, readable
from morocco_lib.report import machines

INK, GREY, PALE = "#333333", "#b8b8b8", "#f0f0f0"
COLOURS = (  # told apart by the colour-blind
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6fb0", "#000000"
)  # fmt: skip
POINTS = 300  # of a line: more cannot be seen and makes the page heavy
DISC = 1200.0  # area in points^2 of the largest disc
INLINE = "module://matplotlib_inline.backend_inline"  # what Jupyter itself chooses
COLUMNS = 3  # panels side by side: more are too small to be read on a page
_RC = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "morocco",
    "font.size": 10,
    "axes.edgecolor": GREY,
}


def style():
    """Return pyplot with the style of all figures: of notebooks, of pages and of the original's logs."""
    _settings()
    from matplotlib import pyplot

    return pyplot


def _settings() -> None:
    if "matplotlib" not in sys.modules:  # MPLBACKEND of a cluster would leave notebooks without figures
        os.environ["MPLBACKEND"] = INLINE if "ipykernel" in sys.modules else "agg"
        os.environ["MATPLOTLIBRC"] = os.devnull  # a person's own settings change no figure
    import matplotlib.style

    if "ipykernel" not in sys.modules:
        matplotlib.use("agg", force=False)
    matplotlib.style.use(["default", "seaborn-v0_8-whitegrid", _RC])


@functools.cache
def drawn_with() -> dict[str, str]:
    """Return what decides the bytes of figures and scripts beside the numbers."""
    _settings()  # without pyplot, which takes a second
    from matplotlib import font_manager

    versions = {name: importlib.metadata.version(name) for name in ("matplotlib", "seaborn", "bokeh")}
    script = fileio.sha256_file(Path(__file__).with_name("page.js"))[:12]
    return {**versions, "font": Path(font_manager.findfont(font_manager.FontProperties())).name, "page.js": script}


def colour_of(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return one colour a model, the same in every figure of a report."""
    return {model: COLOURS[k % len(COLOURS)] for k, model in enumerate(sorted({row["model"] for row in rows}))}


def overview(rows: list[dict[str, Any]]):
    """Return the scores as a grid of models and tasks, coloured by how far above the most frequent answer they are.

    None unless there are several tasks and several models. Of a model's operating points on a task the best is shown.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for score, model, task in ((row["score"], row["model"], row["task"]) for row in rows):
        if score["value"] is not None and score["value"] >= best.get((model, task), score)["value"]:
            best[model, task] = score
    models, tasks = (sorted({key[k] for key in best}) for k in (0, 1))
    if len(models) < 2 or len(tasks) < 2:
        return None
    plt = style()
    import pandas
    import seaborn

    def grid(value):
        return pandas.DataFrame(
            [[value(best[m, t]) if (m, t) in best else None for t in tasks] for m in models], models, tasks
        )

    figure, axis = plt.subplots(figsize=(2.8 + 0.95 * len(tasks), 1.3 + 0.5 * len(models)), layout="constrained")
    seaborn.heatmap(
        grid(lambda s: s["value"] - s["majority"]["value"]).astype(float),
        annot=grid(lambda s: s["value"]).astype(float), fmt=".3f", ax=axis, cmap="vlag_r", center=0, vmin=-0.5, vmax=0.5,
        linewidths=1, cbar_kws={"label": "above the most\nfrequent answer", "ticks": [-0.5, 0, 0.5]},
    )  # fmt: skip
    axis.tick_params(axis="x", rotation=0)
    axis.tick_params(axis="y", rotation=0)
    return figure


def disc(rows: list[dict[str, Any]]):
    """Return the disc chart: speed to the right, score upwards, the disc as large as the memory; None without such rows.

    One panel a task, and a group of machines. Bars are 95 % intervals, the dashed line always gives the most frequent answer.
    Invalid and disturbed points are grey, with a rim in the model's colour.
    """
    shown, panels = [], []
    for group in machines.groups(rows):
        found = [row for row in group.rows if None not in (row["score"]["value"], row["speed_per_s"]["value"])]
        shown += found
        panels += [(group.name, task, found) for task in sorted({row["task"] for row in found})]
    if not shown:
        return None
    plt = style()
    figure, axes = _panels(plt, len(panels), 1, 3.6)
    memory, name = _memory(shown)
    held = {row["row"]: m for row, m in zip(shown, memory, strict=True)}
    largest = max(filter(None, memory), default=None)
    colours = colour_of(rows)
    for axis, (machine, task, found) in zip(axes, panels, strict=True):
        here = [(row, held[row["row"]]) for row in found if row["task"] == task]
        bar = here[0][0]["score"]["majority"]["value"]
        axis.axhline(bar, color=INK, linestyle="--", linewidth=1, zorder=1)
        for row, m in here:
            x, y = row["speed_per_s"], row["score"]
            own = colours[row["model"]]
            colour = own if row["verdict"] == "VALID" else GREY
            place, bars = (x["value"], y["value"]), {"xerr": _bars(x), "yerr": _bars(y), "linewidth": 1.2, "capsize": 3}
            axis.errorbar(*place, **bars, color=colour, zorder=2)
            area = DISC * m / largest if m else 30
            axis.scatter(*place, s=area, color=colour, alpha=0.45 if m else 1, edgecolor=own, zorder=3)
            several = sum(r["model"] == row["model"] for r, _ in here) > 1
            marks = [f"≈{row['on']}"] * machines.is_scaled(row) + [str(row["batch_size"])] * several
            if marks:
                axis.annotate(" ".join(marks), place, ha="center", va="center", fontsize=8)
        axis.set_xscale("log")
        speeds = [row["speed_per_s"]["value"] for row, _ in here]
        axis.set_xlim(min(speeds) / 2.5, max(speeds) * 2.5)
        ends = [row["score"].get(end) for row, _ in here for end in ("value", "low", "high")]
        ends = [bar, *(v for v in ends if v is not None)]
        pad = 0.15 * (max(ends) - min(ends) + 0.02)
        axis.set_ylim(min(ends) - pad, max(ends) + pad)
        ticks = (1, 2, 5) if max(speeds) < 30 * min(speeds) else (1,)  # their labels stand side by side
        axis.xaxis.set_major_locator(plt.LogLocator(subs=ticks, numticks=6))
        axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda v, _: formatting.sized(v, 2)))
        axis.xaxis.set_minor_formatter(plt.NullFormatter())
        axis.set(title=f"{machine}: {task}" if machine else task, xlabel="records per second", ylabel="score")
    listed = {row["model"] for row in shown}
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", markersize=9, color=c, alpha=0.6, label=model)
        for model, c in colours.items()
        if model in listed
    ]
    handles.append(plt.Line2D([], [], color=INK, linestyle="--", linewidth=1, label="most frequent answer"))
    title = f"disc area: {name}" + (f", largest {formatting.bytes_text(largest)}" if largest else "")
    if any(row["verdict"] != "VALID" for row in shown):
        title += "; filled grey: INVALID or DISTURBED"
    if any(map(machines.is_scaled, shown)):
        title += "; ≈: speed of another machine, as on M1"
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    return figure


def _panels(plt, count: int, high: int, height: float, **options):
    # So many panels, each of `high` axes one above the other, in lines of at most COLUMNS; returned panel by panel.
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    figure, axes = plt.subplots(
        lines * high, columns, figsize=(2.4 + 3.8 * columns, height * lines + 0.7), squeeze=False, layout="constrained", **options
    )  # fmt: skip
    panels = [axes[line * high : line * high + high, column] for line in range(lines) for column in range(columns)]
    for panel in panels[count:]:
        for axis in panel:
            axis.set_visible(False)
    return figure, [panel if high > 1 else panel[0] for panel in panels[:count]]


def _memory(rows) -> tuple[list[float | None], str]:
    gpu = [row["gpu_ram_bytes"]["value"] for row in rows]
    if any(gpu):
        return gpu, "peak GPU memory"
    return [row["ram_bytes"]["value"] for row in rows], "peak memory"


def _bars(e: dict[str, Any]):
    return None if e.get("low") is None else [[max(0, e["value"] - e["low"])], [max(0, e["high"] - e["value"])]]


def traces(folders: list[tuple[str, Path]]):
    """Return memory and answers over time, a panel a run, for (name, runs/NN folder) pairs; None without any."""
    runs = [(name, read_run(folder)) for name, folder in folders]
    runs = [(name, run) for name, run in runs if run.samples]
    if not runs:
        return None
    with readable(runs[0][1].folder.parent):
        return _traces(runs)


def _traces(runs: list[tuple[str, Run]]):
    figure, panels = _panels(style(), len(runs), 2, 4.0, height_ratios=(3, 2) * -(-len(runs) // COLUMNS))
    heights = []
    for (upper, lower), (name, run) in zip(panels, runs, strict=True):
        _phases(upper, lower, run)
        memory = [held_bytes(s) / 2**20 for s in run.samples]
        times, memory = _thin([s["t_ns"] / 1e9 for s in run.samples], memory)
        heights.append(max(memory))
        upper.plot(times, memory, color=COLOURS[0], linewidth=1.6)
        upper.set(title=name, ylabel="memory, MiB")
        counts = [0, *itertools.accumulate(n for _, n in run.arrivals)]
        starts = [run.arrivals[0][0] if run.arrivals else 0] + [t for t, _ in run.arrivals]
        lower.step(*_thin(starts, counts), where="post", color=COLOURS[1], linewidth=1.6)
        lower.set(xlabel="seconds since start", ylabel="answers", ylim=(0, None))
        for axis in (upper, lower):
            axis.set_xlim(0, run.facts["phases"]["exit_s"])
    for upper, _ in panels:
        upper.set_ylim(0, max(heights) * 1.25 + 1)  # one scale: what needs more is higher
    return figure


def _phases(upper, lower, run: Run) -> None:
    phases = run.facts["phases"]
    ready = phases["ready_s"] if phases["ready_s"] is not None else phases["first_answer_s"]
    last, whole = phases["last_answer_s"], phases["exit_s"]
    spans = [(0, ready, "start-up", PALE), (ready, last, "answering", "#fdebd3"), (last, whole, "exit", PALE)]
    for begin, end, name, colour in spans:
        if begin is None or end is None or end <= begin:
            continue
        for axis in (upper, lower):
            axis.axvspan(begin, end, color=colour, zorder=0, linewidth=0)
        if end - begin > 0.14 * whole:  # a name needs room
            middle, form = (begin + end) / 2, {"ha": "center", "va": "top", "fontsize": 8, "color": INK}
            upper.annotate(name, (middle, 0.97), xycoords=("data", "axes fraction"), **form)


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
