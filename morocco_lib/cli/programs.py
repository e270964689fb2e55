"""The commands on a program, whatever it is: check and bench."""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from morocco_lib.cli.arguments import add_output, add_program, positive, positives, seconds, share, size
from morocco_lib.cli.output import exit_on_sigterm, messages, put, say, show
from morocco_lib.errors import UsageError
from morocco_lib.fileio import expand
from morocco_lib.reasons import EXIT_CODES


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    sub = command(
        "check", check, "check a program against the contract with a few records, before anything is measured",
        "morocco check --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl",
        "morocco check --command 'morocco infer fitted' terra --data records/TERRa/test.jsonl --show 3 --json",
    )  # fmt: skip
    add_program(sub)
    option = sub.add_argument
    option("--data", type=expand, required=True, metavar="FILE", help="JSONL records; labels are never fed")
    count = "records fed; the last batch is not full (default 25)"
    option("--records", type=positive, default=25, metavar="N", help=count)
    option("--show", metavar="IDX", help="show what is fed and answered for this record")
    option("--model", metavar="NAME", help="name in the report (default: the program's)")
    option("--timeout", type=seconds, default=600.0, metavar="S", help="of one start (default 600)")
    add_output(sub)

    sub = command(
        "bench", bench, "measure speed, start-up, memory and score of a program",
        "morocco bench --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl --input-size 2000 --repeats 3 --out bench1",
        "morocco bench --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl --batch-size 1,8 "
        "--input-size 800 --repeats 1 --out bench2 --json",
    )  # fmt: skip
    add_program(sub)
    option = sub.add_argument
    option("--data", type=expand, required=True, metavar="FILE", help="JSONL records; labels are never fed")
    option("--input-size", type=positive, metavar="N", help="records fed in a run (default: ten seconds' work)")
    sizes = "one operating point each (default 32)"
    option("--batch-size", type=positives, default=[32], metavar="B[,B...]", help=sizes)
    runs = "runs of an operating point (default: three or more, to --precision)"
    option("--repeats", type=positive, metavar="R", help=runs)
    narrow = "repeat until the speed's interval is narrower than this share of it (default 0.02)"
    option("--precision", type=share, metavar="P", help=narrow)
    option("--max-minutes", type=seconds, metavar="M", help="make no run that would end later (default 30)")
    alone = "timed runs only: no check, no cold starts, no look for a cache; so is --repeats 1"
    option("--quick", action="store_true", help=alone)
    logs = "add runs of one record, and write all in the original's format"
    option("--original-logs", type=expand, metavar="DIR", help=logs)
    option("--seed", type=int, help="of what runs are fed (default: drawn anew, known to nobody)")
    option("--model", metavar="NAME", help="name in results (default: the program's)")
    option("--timeout", type=seconds, default=3600.0, metavar="S", help="of a run, in seconds (default 3600)")
    option("--memory", type=size, metavar="SIZE", help="memory limit of a run, as 512M or 2G; needs a cgroup")
    option("--pids", type=positive, metavar="N", help="limit of processes and threads (default 4096; containers)")
    option("--cpus", type=seconds, metavar="N", help="limit of CPUs, as 1.5 (default all; containers)")
    option("--out", type=expand, required=True, metavar="DIR", help="new or empty folder")
    add_output(sub, "one JSON object an operating point")


@contextmanager
def _progress(quiet: bool):
    """Yield the hooks that report progress; on a terminal a line with speed and time left."""
    from morocco_lib.benchmark import Hooks

    if quiet:
        yield Hooks()
    elif not sys.stderr.isatty():
        yield Hooks(progress=say)
    else:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread beside a measurement
        form = "{n_fmt} of {total_fmt} records, {rate_fmt}, {remaining} left"
        with tqdm(unit=" records", bar_format=form, leave=False, file=sys.stderr) as bar:

            def expect(total: int) -> None:
                bar.total = total
                bar.unpause()  # the time before the timed runs does not count

            yield Hooks(partial(bar.write, file=sys.stderr), bar.update, expect)


def target_of(args, limits):
    """Return the program of --image or --command with its runner and limits."""
    from morocco_lib.benchmark import Target

    if args.image:
        exit_on_sigterm()  # there is a container to remove
        return Target.of_image(args.image, args.model, limits, tuple(args.gpus or ()), tuple(args.env))
    if args.gpus:
        raise UsageError(
            "--gpus with --command", rule="a bare process sees every GPU", remedy="set CUDA_VISIBLE_DEVICES"
        )
    return Target.of_command(args.command, args.model, limits, env=tuple(args.env))


def check(args) -> int:
    from morocco_lib.benchmark import conformance
    from morocco_lib.runners.contract import Limits
    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    report = conformance.check(
        target_of(args, Limits(args.timeout)), task, args.data, count=args.records, show=args.show,
        progress=messages(args.quiet),
    )  # fmt: skip
    if args.json:
        show(report.as_dict())
    else:
        put(report.text())
    return 0 if report.ok else 1


def bench(args) -> int:
    from morocco_lib import benchmark, formatting
    from morocco_lib.artifacts import steps
    from morocco_lib.runners.contract import Limits
    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    if args.repeats and (args.precision or args.max_minutes):
        raise UsageError(
            "--repeats with --precision or --max-minutes",
            rule="the number of runs is fixed or found, not both",
            remedy="give one of them",
        )
    target = target_of(args, Limits(args.timeout, args.memory, args.pids, args.cpus))
    program = target.program
    several = len(args.batch_size) > 1
    if several:
        steps.check_empty(args.out)
    if args.original_logs:
        from morocco_lib.legacy import write

        if write.cell(args.original_logs, program.model, task.name).exists():
            raise UsageError(
                f"{args.original_logs} has logs of {program.model} on {task.name}", rule="a result is never overwritten",
                remedy="give --original-logs another folder",
            )  # fmt: skip
    task.read(args.data)  # before anything is written
    chosen = {"input_size": args.input_size, "repeats": args.repeats, "seed": args.seed, "quick": args.quick}
    chosen |= {name: getattr(args, name) for name in ("precision", "max_minutes") if getattr(args, name) is not None}
    made, codes = [], []
    for batch_size in args.batch_size:
        folder = args.out / f"batch-{batch_size}" if several else args.out
        parameters = {"image": program.image_digest} if args.image else {"command": args.command}
        parameters |= {"batch_size": batch_size, **chosen, **({"env": args.env} if args.env else {})}
        names = {"model": program.model, "task": task.name}
        step = steps.Step.begin(folder, "bench", **names, parameters=parameters, inputs={"data": args.data})
        with step, _progress(args.quiet) as hooks:
            result = benchmark.bench(
                target, task, args.data, folder, hooks=hooks, batch_size=batch_size, **chosen,
                baseline=made[0] if made else None, single_record=bool(args.original_logs) and not made,
            )  # fmt: skip
            codes.append(EXIT_CODES[result["verdict"]])
            step.finish(steps.DONE, codes[-1])
        made.append(folder)
        if args.json:
            show(result)
        else:
            put("\n".join(formatting.bench_lines(result)))
    if args.original_logs:
        logs = write.write(_loggable_runs(made), args.original_logs)
        say(f"{len(logs)} logs in {args.original_logs}")
    return max(codes)


def _loggable_runs(folders: list[Path]) -> list[Path]:
    """Return the valid runs, of one record and timed: the original's logs have no verdict."""
    from morocco_lib import fileio
    from morocco_lib.analysis import summary
    from morocco_lib.benchmark.protocol import SINGLE_RECORD

    points = [(folder, fileio.read_json(folder / summary.BENCH)) for folder in folders]
    timed = [folder / row["run"] for folder, result in points for row in result["per_run"] if row["verdict"] == "VALID"]
    return [*summary.sound_runs(folders[0] / SINGLE_RECORD), *timed]
