"""The original's plot of its logs: four panels over the time since the first sample, a line a log."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from morocco_lib.errors import UsageError
from morocco_lib.legacy import files, logs

FORMATS = (".png", ".svg", ".pdf")
PANELS = (  # column of a log, title, divisor
    (1, "CPU, cores (CPU time over lifetime)", 1.0),
    (2, "RAM, GiB", 2**30),
    (3, "GPU usage, share of time", 1.0),
    (4, "GPU RAM, GiB", 2**30),
)
OWN_COLOUR = 10  # lines; more colours are not told apart


def plot(paths: Sequence[Path], out: Path) -> None:
    """Draw logs into a new picture.

    Raises:
        UsageError: a log cannot be read, or `out` is there already, lies nowhere, or is no kind of picture.
    """
    if out.suffix not in FORMATS:
        raise UsageError(
            f"{out} is no picture", rule=f"a picture ends in {', '.join(FORMATS)}", remedy="give it after the logs"
        )
    if out.exists() or not out.parent.is_dir():
        why = "is there already" if out.exists() else "lies in no folder"
        raise UsageError(f"{out} {why}", rule="a result is never overwritten", remedy="give another name")
    figure = draw(paths)
    unfinished = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        figure.savefig(unfinished, format=out.suffix[1:], dpi=120)
        unfinished.rename(out)
    finally:
        unfinished.unlink(missing_ok=True)


def draw(paths: Sequence[Path]):
    """Return the figure of logs: CPU, RAM, GPU usage and GPU RAM over the seconds since the first sample.

    Up to ten logs have a colour each; of more, those of one input size and batch size share one.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing is to be shown

    drawn = [(place, logs.series(place, file)) for place, file in files.walk(paths)]
    own = len(drawn) <= OWN_COLOUR
    names = [_name(place) if own else f"{place.input_size}_{place.batch_size}" for place, _ in drawn]
    colours = {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(names))}
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    axes = list(figure.subplots(2, 2, sharex=True).flat)
    for axis, (column, title, divisor) in zip(axes, PANELS, strict=True):
        any_reading = False
        for name, (_, columns) in zip(names, drawn, strict=True):
            values = [math.nan if v is None else v / divisor for v in columns[column]]
            any_reading = any_reading or not all(map(math.isnan, values))
            axis.plot(columns[0], values, color=colours[name], linewidth=1)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if not any_reading:
            axis.text(0.5, 0.5, "no reading", ha="center", transform=axis.transAxes)
    for axis in axes[2:]:
        axis.set_xlabel("s since the first sample")
    for name, colour in colours.items():
        axes[0].plot([], [], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _name(place: files.Place) -> str:
    return f"{place.model}/{place.task}/{place.input_size}_{place.batch_size}_{place.index:02d}"
