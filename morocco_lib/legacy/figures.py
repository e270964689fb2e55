"""Figures of the original's logs read again: speeds, what was lost of the start-up, cold starts, GPU memory."""

from collections.abc import Sequence
from statistics import median

from morocco_lib.legacy.compare import Cell, lost, starts
from morocco_lib.legacy.corrected import Flag
from morocco_lib.report.figures import COLOURS, GREY, INK, _style

ONE, MANY, OTHER = COLOURS[0], COLOURS[1], COLOURS[2]
FIRST_S = 12.0  # shown of RAM: libraries are loaded by then
WIDE = 10.5  # inches


def _grid(plt, count: int, columns: int, height: float, **options):
    columns = min(columns, count)
    lines = -(-count // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(WIDE, height * lines + 0.8), squeeze=False, layout="constrained", **options
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def speeds(cells: Sequence[Cell]):
    """Return published and corrected speeds with their 95 % intervals, a panel a task, the fastest published on top."""
    plt = _style()
    tasks = sorted({cell.task for cell in cells})
    figure, axes = _grid(plt, len(tasks), 3, 0.6 + 0.28 * len({cell.model for cell in cells}))
    for axis, task in zip(axes, tasks, strict=True):
        here = sorted((c for c in cells if c.task == task), key=lambda c: c.published.rps or 0)
        for row, cell in enumerate(here):
            corrected = (cell.point.per_s, (cell.point.low_per_s, cell.point.high_per_s))
            told = [(corrected, MANY, "o", -0.13), ((cell.published.rps, cell.published_interval), INK, "D", 0.17)]
            for (value, (low, high)), colour, marker, up in told:
                if value is None:
                    continue
                axis.plot(value, row + up, marker, color=colour, markersize=5, zorder=3)
                if low is not None:
                    end = high if high is not None else 1e9  # beyond any axis
                    axis.plot((low, end), (row + up,) * 2, color=colour, linewidth=1.6, alpha=0.55, zorder=2)
        shown = [v for c in here for v in (c.published.rps, c.point.per_s, c.point.high_per_s) if v is not None]
        axis.set_xlim(0, 1.2 * max(shown, default=1))
        axis.set_ylim(-0.6, len(here) - 0.4)
        axis.set_yticks(range(len(here)), [cell.model for cell in here])
        axis.set_title(task, loc="left", fontsize=10)
        axis.grid(visible=False, axis="y")
    kinds = (
        (MANY, "o", "corrected, 95 % interval"),
        (INK, "D", "published, 95 % interval of its own runs, drawn again"),
    )
    handles = [plt.Line2D([], [], color=c, marker=m, markersize=5, label=name) for c, m, name in kinds]
    figure.supxlabel("records per second", fontsize=10)
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def inflation(cells: Sequence[Cell]):
    """Return how far the published speed is above the corrected one, against the time that the work took.

    The line is what the median loss of start-up, taken off that time, makes of it. None without any corrected speed.
    """
    told = [(cell, lost(cell)) for cell in cells if cell.inflation]
    if not told:
        return None
    plt = _style()
    figure, axis = plt.subplots(figsize=(WIDE, 4.4), layout="constrained")
    work = {id(cell): cell.point.input_size / cell.point.per_s for cell, _ in told}
    loss_s = median(found.gpu_s for _, found in told)
    span = [loss_s * 1.1 * (max(work.values()) / loss_s) ** (k / 200) for k in range(201)]
    axis.plot(span, [s / (s - loss_s) for s in span], color=GREY, linewidth=1.5, zorder=1, label=f"{loss_s:.1f} s lost")
    for k, model in enumerate(sorted({cell.model for cell, _ in told})):
        here = [cell for cell, _ in told if cell.model == model]
        xs, ys = [work[id(cell)] for cell in here], [cell.inflation for cell in here]
        axis.plot(xs, ys, "osD^vP"[k % 6], color=COLOURS[k % len(COLOURS)], label=model, markersize=6, zorder=3)
        for cell, x in zip(here, xs, strict=True):
            if cell.point.low_per_s is not None and cell.point.high_per_s is not None:
                ends = [cell.published.rps / v for v in (cell.point.high_per_s, cell.point.low_per_s)]
                axis.plot((x, x), ends, color=COLOURS[k % len(COLOURS)], alpha=0.5, zorder=2)
    most = max((cell for cell, _ in told), key=lambda cell: cell.inflation)
    axis.annotate(
        f"{most.model}, {most.task}", (work[id(most)], most.inflation), xytext=(10, 0), textcoords="offset points", va="center"
    )  # fmt: skip
    axis.set_xscale("log")
    axis.set_ylim(0.9, 1.25 * most.inflation)
    axis.axhline(1, color=INK, linewidth=1, linestyle="--")
    axis.set(xlabel="seconds that the corrected speed takes for all records", ylabel="published / corrected")
    axis.xaxis.set_major_formatter(plt.FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axis.legend(frameon=False)
    return figure


def onset(cells: Sequence[Cell]):
    """Return what the first samples saw: RAM and GPU memory of the most inflated cell's runs, and the onset of all runs.

    None without any corrected speed.
    """
    most = max((cell for cell in cells if cell.inflation), key=lambda cell: cell.inflation, default=None)
    if most is None:
        return None
    plt = _style()
    figure, (ram, gpu, every) = plt.subplots(1, 3, figsize=(WIDE, 3.9), layout="constrained")
    highest = 0.0
    for runs, colour in ((most.good_ones, ONE), (most.good, MANY)):
        for run in runs:
            seconds, _, rams, _, held = run.columns
            for axis, values, unit in ((ram, rams, 2**20), (gpu, held, 2**30)):
                ys = [float("nan") if v is None else v / unit for v in values]
                axis.plot(seconds, ys, color=colour, linewidth=1.3, alpha=0.8)
            early = (v for s, v in zip(seconds, rams, strict=True) if v is not None and s < FIRST_S)
            highest = max(highest, *early, 0.0)
    ram.set(xlim=(-0.3, FIRST_S), ylim=(0, 1.05 * highest / 2**20), ylabel="RAM, MiB")
    gpu.set(ylabel="GPU memory, GiB", xlim=(0, None))
    handles = []
    names = ("one record", f"{most.point.input_size:,} records", "other sizes")
    for which, (colour, name) in enumerate(zip((ONE, MANY, OTHER), names, strict=True)):
        dots = []
        for cell, found in ((cell, lost(cell)) for cell in cells):
            for run in (cell.ones, cell.longer, cell.others)[which]:
                begun = run.begins_with("ram"), run.log.onset_s
                if found and None not in begun and not cell.has(Flag.COLD, run):
                    dots.append((begun[0] / 2**20, begun[1] - found.onset_one_s))
        if dots:
            handles += every.plot(*zip(*dots, strict=True), "o", color=colour, markersize=4, alpha=0.5, label=name)
    every.axhline(0, color=INK, linewidth=1, linestyle="--")
    every.set(xscale="log", xlabel="RAM in the first sample, MiB")
    every.set_ylabel("first GPU sample, s later than\nthe cell's one-record runs")
    every.xaxis.set_major_formatter(plt.FuncFormatter(lambda v, _: f"{v:g}"))
    every.set_title("all but cold runs", loc="left", fontsize=10)
    for axis in (ram, gpu):
        axis.set_title(f"{most.model}, {most.task}", loc="left", fontsize=10)
        axis.set_xlabel("seconds since the first sample")
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


def cold(cells: Sequence[Cell]):
    """Return the one-record runs' total times over the fastest of their cell, cold starts marked, a column a model."""
    plt = _style()
    models = sorted({cell.model for cell in cells})
    figure, axis = plt.subplots(figsize=(WIDE, 3.8), layout="constrained")
    for column, model in enumerate(models):
        here = [cell for cell in cells if cell.model == model]
        for number, cell in enumerate(here):
            x = column + 0.7 * ((number + 0.5) / len(here) - 0.5)
            for run, times in zip(cell.ones, starts(cell).times_fastest, strict=True):
                axis.plot(x, times, "o", color=MANY if cell.has(Flag.COLD, run) else ONE, markersize=5, alpha=0.7)
    for colour, name in ((ONE, "warm"), (MANY, "cold")):
        axis.plot([], [], "o", color=colour, label=name)
    axis.set_xticks(range(len(models)), models)
    axis.grid(visible=False, axis="x")
    axis.set(ylabel="total time / fastest of the cell", ylim=(0.9, None))
    axis.legend(frameon=False)
    return figure


def memory(cells: Sequence[Cell]):
    """Return GPU memory with one record, as published, and at the point of the speed: a panel a model, a line a task."""
    plt = _style()
    models = sorted({cell.model for cell in cells})
    tasks = sorted({cell.task for cell in cells}, reverse=True)
    figure, axes = _grid(plt, len(models), 2, 0.6 + 0.22 * len(tasks), sharex=True)
    size = f"{cells[0].point.input_size:,} records, batch {cells[0].point.batch_size}: that of the speed"
    for axis, model in zip(axes, models, strict=True):
        for cell in (c for c in cells if c.model == model):
            row, ends = tasks.index(cell.task), (cell.point.gpu_ram_one_bytes, cell.point.gpu_ram_bytes)
            if None in ends:
                continue
            gib = [value / 2**30 for value in ends]
            axis.plot(gib, (row, row), color=GREY, linewidth=1.5, zorder=1)
            for value, colour, marker in zip(gib, (INK, MANY), "Do", strict=True):
                axis.plot(value, row, marker, color=colour, markersize=6, zorder=2)
        axis.set_yticks(range(len(tasks)), tasks)
        axis.grid(visible=False, axis="y")
        axis.set_title(model, loc="left", fontsize=10)
    axes[0].set_xlim(0, None)  # of all
    figure.supxlabel("GPU memory, GiB", fontsize=10)
    handles = [
        plt.Line2D([], [], color=c, marker=m, linestyle="", label=name)
        for c, m, name in ((INK, "D", "one record: as published"), (MANY, "o", size))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure
