"""Figures of the original's logs read again: speeds, and what was lost of the start-up."""

from collections.abc import Iterable, Sequence
from statistics import median

from morocco_lib.legacy.compare import Cell
from morocco_lib.report.figures import COLOURS, GREY, INK, style

SINGLE, MANY = COLOURS[0], COLOURS[1]
MARKERS = "osD^vP"
FIRST_S = 12.0  # shown of RAM: libraries are loaded by then
WIDE = 10.5  # inches
COLUMNS = 3  # panels side by side


def _models(cells: Iterable[Cell]) -> dict[str, tuple[str, str]]:
    """Return the colour and marker of each model, the same in all figures."""
    names = sorted({cell.model for cell in cells})
    return {name: (COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]) for k, name in enumerate(names)}


def speeds(cells: Sequence[Cell]):
    """Return published and corrected speeds with their 95 % intervals, a panel a task, the fastest published on top."""
    plt = style()
    tasks = sorted({cell.task for cell in cells})
    columns = min(COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    height = lines * (0.6 + 0.28 * len(_models(cells))) + 0.8
    figure, axes = plt.subplots(lines, columns, figsize=(WIDE, height), squeeze=False, layout="constrained")
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis, task in zip(axes.flat, tasks, strict=False):
        here = sorted((c for c in cells if c.task == task), key=lambda c: c.published.rps or 0)
        for row, cell in enumerate(here):
            corrected = (cell.point.low_per_s, cell.point.high_per_s)
            _bar(axis, row - 0.13, cell.point.per_s, corrected, MANY, "o")
            _bar(axis, row + 0.17, cell.published.rps, cell.published_interval, INK, "D")
        shown = [v for c in here for v in (c.published.rps, c.point.per_s, c.point.high_per_s) if v is not None]
        axis.set(xlim=(0, 1.2 * max(shown, default=1)), ylim=(-0.6, len(here) - 0.4))
        axis.set_yticks(range(len(here)), [cell.model for cell in here])
        axis.set_title(task, loc="left", fontsize=10)
        axis.grid(visible=False, axis="y")
    figure.supxlabel("records per second", fontsize=10)
    names = (
        (MANY, "o", "corrected, 95 % interval"),
        (INK, "D", "published, 95 % interval by bootstrap of the same runs"),
    )
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, markersize=5, label=text) for colour, marker, text in names
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _bar(axis, height: float, value: float | None, interval, colour: str, marker: str) -> None:
    if value is None:
        return
    low, high = interval
    if low is not None:
        end = 1e9 if high is None else high  # beyond any axis
        axis.plot((low, end), (height, height), color=colour, linewidth=1.6, alpha=0.55, zorder=2)
    axis.plot(value, height, marker, color=colour, markersize=5, zorder=3)


def first_samples(cells: Sequence[Cell]):
    """Return RAM and GPU memory over time of the unflagged runs of the cell whose published speed is most too high.

    None without any corrected speed.
    """
    most = max((cell for cell in cells if cell.inflation), key=lambda cell: cell.inflation, default=None)
    if most is None:
        return None
    plt = style()
    figure, (ram, gpu) = plt.subplots(1, 2, figsize=(WIDE, 3.9), layout="constrained")
    for runs, colour, name in (
        (most.good_single, SINGLE, "one record"),
        (most.good, MANY, f"{most.point.input_size:,} records"),
    ):
        ram.plot([], [], color=colour, label=name)
        for log in runs:
            early = [k for k, second in enumerate(log.seconds()) if second < FIRST_S]
            _line(ram, log, "ram", 2**20, colour, early)
            _line(gpu, log, "gpu_ram", 2**30, colour, range(log.samples))
    ram.set(xlim=(-0.3, FIRST_S), ylim=(0, None), ylabel="RAM, MiB")
    gpu.set(xlim=(0, None), ylim=(0, None), ylabel="GPU memory, GiB")
    for axis in (ram, gpu):
        axis.set_title(f"{most.model}, {most.task}", loc="left", fontsize=10)
        axis.set_xlabel("seconds since the first sample")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _line(axis, log, key: str, unit: float, colour: str, samples: Iterable[int]) -> None:
    seconds, values = log.seconds(), log.columns[key]
    points = [(seconds[k], float("nan") if values[k] is None else values[k] / unit) for k in samples]
    axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.3, alpha=0.8)


def inflation(cells: Sequence[Cell]):
    """Return how far the published speed is above the corrected one, against the time that the work took.

    The line is what the median loss of start-up, taken off that time, makes of it. None without any corrected speed.
    """
    known = [cell for cell in cells if cell.inflation]
    if not known:
        return None
    plt = style()
    figure, axis = plt.subplots(figsize=(WIDE, 4.4), layout="constrained")
    work_s = {id(cell): cell.point.input_size / cell.point.per_s for cell in known}
    loss_s = median(cell.point.onset_shift_s for cell in known)
    most = max(known, key=lambda cell: cell.inflation)
    span = [loss_s * 1.1 * (max(work_s.values()) / loss_s) ** (k / 200) for k in range(201)] if loss_s > 0 else []
    axis.plot(span, [s / (s - loss_s) for s in span], color=GREY, linewidth=1.5, zorder=1, label=f"{loss_s:.1f} s lost")
    for model, (colour, marker) in _models(known).items():
        here = [cell for cell in known if cell.model == model]
        xs = [work_s[id(cell)] for cell in here]
        axis.plot(xs, [cell.inflation for cell in here], marker, color=colour, label=model, markersize=6, zorder=3)
        for cell, x in zip(here, xs, strict=True):
            if cell.point.low_per_s is not None and cell.point.high_per_s is not None:
                ends = [cell.published.rps / v for v in (cell.point.high_per_s, cell.point.low_per_s)]
                axis.plot((x, x), ends, color=colour, alpha=0.5, zorder=2)
    at = (work_s[id(most)], most.inflation)
    axis.annotate(f"{most.model}, {most.task}", at, xytext=(10, 0), textcoords="offset points", va="center")
    axis.axhline(1, color=INK, linewidth=1, linestyle="--")
    axis.set(xscale="log", ylim=(0.9, 1.25 * most.inflation), ylabel="published / corrected")
    axis.set_xlabel("seconds that all records take at the corrected speed")
    axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axis.xaxis.set_minor_formatter(plt.NullFormatter())
    axis.legend(frameon=False)
    return figure
