"""The commands on the original's logs: stats and plot. Each returns its exit code."""

from collections.abc import Callable, Sequence

from morocco_lib.cli.output import put, say, show
from morocco_lib.errors import UsageError
from morocco_lib.fileio import expand

LOG = "<model>/<task>/<size>_<batch>_<index>.jsonl, a folder of such, or its .tar.gz"


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    option = command(
        "stats", stats, "speed and GPU memory from logs of the original, its own numbers or corrected ones with flags",
        "morocco stats rubert/terra/*.jsonl", "morocco stats rubert rugpt3-small --original --rule table",
    ).add_argument  # fmt: skip
    option("logs", type=expand, nargs="+", metavar="LOG", help=LOG)
    option("--original", action="store_true", help="the original's numbers, one JSON object a line")
    rules = (
        "with --original: command pools all sizes above 1 and takes no GPU reading for 0 (default); table takes 2000_32"
    )
    option("--rule", choices=("command", "table"), help=rules)
    option("--json", action="store_true", help="one JSON object an operating point")

    option = command(
        "plot", plot, "draw CPU, RAM, GPU usage and GPU RAM over time from logs of the original",
        "morocco plot rubert/terra/2000_32_*.jsonl terra.png", "morocco plot rubert/terra terra.svg",
    ).add_argument  # fmt: skip
    option("logs", type=expand, nargs="+", metavar="LOG", help=LOG)
    option("out", type=expand, metavar="OUT.png", help="new picture; .svg and .pdf too")


def stats(args) -> int:
    from morocco_lib.legacy import logs, stats

    if args.rule and not args.original:
        raise UsageError("--rule without --original", rule="corrected numbers follow one rule", remedy="add --original")
    cells = logs.by_cell(logs.read_all(args.logs))
    if args.original:
        several = len({model for model, _ in cells}) > 1
        found = {cell: stats.original(members, args.rule or "command") for cell, members in cells.items()}
        for (model, task), numbers in found.items():
            of = {"model": model} if several else {}
            show({**of, "task": task, "gpu_ram": numbers.gpu_ram, "rps": numbers.rps})
            if numbers.rps is None:
                say(f"{model} on {task}: no speed, the longer runs took no longer than the single-record runs")
        return 0
    from morocco_lib.legacy.corrected import corrected

    points = [point for (model, task), members in cells.items() for point in corrected(model, task, members)]
    if args.json:
        for point in points:
            show(point.as_dict())
    else:
        put("\n".join([*_table(points), *_flags(points)]))
    return 0


def _table(points: Sequence) -> list[str]:
    from morocco_lib.formatting import sized, text_table

    def text(value: float | None, none: str = "—") -> str:
        return none if value is None else sized(value)

    head = ("model", "task", "size_batch", "records/s", "95 % interval", "original", "x", "GPU RAM", "1 record", "runs")
    rows = [head]
    for p in points:
        times = "—" if p.per_s is None or p.original_per_s is None else f"{p.original_per_s / p.per_s:.2f}"
        interval = "—" if p.low_per_s is None else f"{text(p.low_per_s)} to {text(p.high_per_s, 'any')}"
        memory = ("—" if v is None else f"{v / 2**30:.2f} GiB" for v in (p.gpu_ram_bytes, p.gpu_ram_single_bytes))
        rows.append((
            p.model, p.task, f"{p.input_size}_{p.batch_size}", text(p.per_s, p.reason), interval, text(p.original_per_s),
            times, *memory, f"{p.used}/{p.runs} + {p.used_single}/{p.single}",
        ))  # fmt: skip
    return text_table(rows, right=range(3, len(rows[0]))).splitlines()


def _flags(points: Sequence) -> list[str]:
    from morocco_lib.formatting import counted
    from morocco_lib.legacy.corrected import MEANING, Flag

    found = dict.fromkeys((f.flag, f.file or f"{p.model}/{p.task}", f.seen) for p in points for f in p.findings)
    lines = []
    for flag in Flag:
        if of := [f"  {where}: {seen}" for kind, where, seen in found if kind is flag]:
            noun = "point" if flag in (Flag.MISSING, Flag.ONSET_SHIFT) else "log"
            lines += ["", f"{flag}, {counted(len(of), noun)}: {MEANING[flag]}", *of]
    return lines


def plot(args) -> int:
    from morocco_lib.legacy.plot import plot as draw

    draw(args.logs, args.out)
    put(args.out)
    return 0
