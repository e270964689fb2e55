"""The original's plot of its logs: four panels over the time since the first sample, a line a log."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from morocco_lib.errors import UsageError
from morocco_lib.legacy import logs

FORMATS = (".png", ".svg", ".pdf")
PANELS = (  # key of a log, title, divisor
    ("cpu_usage", "CPU, cores (CPU time over lifetime)", 1.0),
    ("ram", "RAM, GiB", 2**30),
    ("gpu_usage", "GPU usage, share of time", 1.0),
    ("gpu_ram", "GPU RAM, GiB", 2**30),
)
OWN_COLOUR = 10  # lines; more colours cannot be distinguished


def plot(paths: Sequence[Path], out: Path) -> None:
    """Draw logs into a new picture.

    Raises:
        UsageError: a log cannot be read, or `out` exists already, is in no folder, or has no format of a picture.
    """
    if out.suffix not in FORMATS:
        raise UsageError(
            f"{out} is not a picture", rule=f"a picture ends in {', '.join(FORMATS)}", remedy="give it after the logs"
        )
    if out.exists() or not out.parent.is_dir():
        why = "exists already" if out.exists() else "is in a folder that does not exist"
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
    from matplotlib.figure import Figure  # not pyplot: no window is opened

    drawn = logs.read_all(paths)
    names = ["_".join(map(str, log.size)) for log in drawn]
    if len(drawn) <= OWN_COLOUR:
        names = [f"{log.model}/{log.task}/{name}_{log.index:02d}" for log, name in zip(drawn, names, strict=True)]
    colours = {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(names))}
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    axes = list(figure.subplots(2, 2, sharex=True).flat)
    for axis, (key, title, divisor) in zip(axes, PANELS, strict=True):
        for name, log in zip(names, drawn, strict=True):
            values = [math.nan if value is None else value / divisor for value in log.columns[key]]
            axis.plot(log.seconds(), values, color=colours[name], linewidth=1)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if all(log.first(key) is None for log in drawn):
            axis.text(0.5, 0.5, "no reading", ha="center", transform=axis.transAxes)
    for axis in axes[2:]:
        axis.set_xlabel("s since the first sample")
    for name, colour in colours.items():
        axes[0].plot([], [], color=colour, label=name)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return figure
