"""What each verb does with its parsed arguments: results to stdout, talk to stderr, the exit code back."""

import json
import signal
import sys
from contextlib import contextmanager
from functools import partial
from operator import eq, itemgetter
from pathlib import Path

from morocco_lib.errors import MoroccoError, UsageError


def say(text: str) -> None:
    """Print talk."""
    if sys.stderr is not None:  # closed: print would fall back to stdout
        print(text, file=sys.stderr, flush=True)


def show(value) -> None:
    """Print a result as one JSON object."""
    print(json.dumps(value, ensure_ascii=False))


def doctor(args) -> int:
    from morocco_lib import doctor as room
    from morocco_lib.config import find_root

    findings = room.examine(find_root(Path.cwd()))
    if args.json:
        show(room.as_dict(findings))
    else:
        print(room.table(findings))
    return 0


def synthetic(args) -> int:
    from morocco_lib import data
    from morocco_lib.tasks import task_names

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(
            f"{args.out} is not an empty folder", rule="a result is never overwritten", remedy="give --out a new folder"
        )
    for path in data.make_synthetic(args.out, args.tasks or task_names(), args.seed, args.records or 0):
        print(path)
    return 0


def fetch(args) -> int:
    from morocco_lib.data import fetch as room
    from morocco_lib.tasks import get_task

    sources = room.load_sources(args.sources or room.SOURCES)
    code = 0
    for task in [get_task(name) for name in args.tasks or sources.archives]:
        try:
            for path in room.fetch(task, args.out, sources, timeout_s=args.timeout, say=say):
                print(path, flush=True)
        except MoroccoError as error:  # the other tasks may still come
            say(f"morocco: {error}")
            code = max(code, error.exit_code)
    return code


def train(args) -> int:
    from morocco_lib import config, data
    from morocco_lib.artifacts import steps
    from morocco_lib.tasks import get_task
    from morocco_lib.training import fit as train

    task, root = get_task(get_task(args.task).weights_of), config.find_root(Path.cwd())
    model = config.load_model(args.model)
    if args.recipe:
        if model.kind != config.TRANSFORMER:
            raise UsageError(f"{model.name} has no recipe", rule="recipes are for transformers")
        model = model.model_copy(update={"recipe": config.load_recipe(args.recipe, root)})
    files = {split: data.find_split(args.data, task, split) for split in train.splits(model)}
    plan = train.Plan(model, task.name, files, args.seeds or [args.seed], root or Path.cwd())
    if not train.is_first():  # torchrun: another process keeps the step
        train.fit(plan, args.out)
        return 0
    with steps.Step.begin(
        args.out,
        "train",
        model=model.name,
        task=task.name,
        parameters={"model": model.model_dump(), "seed": plan.seeds[0] if len(plan.seeds) == 1 else plan.seeds},
        inputs=files | train.sources(model, plan.root),
    ) as step:
        result = train.fit(plan, args.out, step.status["key"])
    if args.json:
        show(result)
    else:
        say(f"fitted {model.name} on {result['data']['records']} {task.title} records ({result['data']['origin']})")
        if "val_score" in result:
            low, high = result["val_scores"]
            spread = f", {len(plan.seeds)} seeds from {low:.3f} to {high:.3f}" if len(plan.seeds) > 1 else ""
            say(f"val {result['val_score']:.3f} with seed {result['chosen_seed']}{spread}")
        for warning in result.get("warnings", []):
            say(f"mind: {warning}")
        print(args.out / "weights")
    return 0


def infer(args) -> int:
    from morocco_lib.infer import main as run
    from morocco_lib.options import Options

    return run(args.weights, args.task, args.batch_size, Options(args.precision, args.backend))


def evaluate(args) -> int:
    from morocco_lib.tasks import get_task
    from morocco_lib.tasks.base import check_file
    from morocco_lib.tasks.jsonl import read_objects

    task = get_task(args.task)
    records = task.read(args.gold)
    gold = [task.gold(record) for record in records]
    if None in gold:
        raise UsageError(
            f"{gold.count(None)} of {len(gold)} records in {args.gold} have no label",
            rule="a score needs gold labels",
            remedy="give the labelled file",
        )
    if args.original:
        from morocco_lib.legacy.scoring import score_file

        show(score_file(task, args.predictions, records))
        return 0
    checked = check_file(task, args.predictions, records)
    if not checked.ok:
        raise checked.error()
    if args.predictions.is_file() and all(map(eq, records, map(itemgetter(1), read_objects(args.predictions)))):
        raise UsageError(
            f"{args.predictions} holds the labelled records themselves", rule="predictions are answers of a model",
            remedy="name the file of predictions first, then the labelled records",
        )  # fmt: skip
    if odd := {name: count for name, count in checked.noncanonical.items() if count}:
        say(f"accepted though not spelt as in a submission: {', '.join(f'{n} x {name}' for name, n in odd.items())}")
    show(task.score(gold, [checked.predictions[task.key(record)] for record in records]))
    return 0


@contextmanager
def _counter(quiet: bool):
    """Give what `bench.bench` tells its progress to: on a terminal a line with speed and time left."""
    if quiet:
        yield {}
    elif not (sys.stderr and sys.stderr.isatty()):
        yield {"progress": say}
    else:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread beside a measurement
        form = "{n_fmt} of {total_fmt} records, {rate_fmt}, {remaining} left"
        with tqdm(unit=" records", bar_format=form, leave=False, file=sys.stderr) as bar:

            def expect(total: int) -> None:
                bar.total = total
                bar.unpause()  # what came before the timed runs is no time of theirs

            yield {"progress": partial(bar.write, file=sys.stderr), "watch": bar.update, "expect": expect}


def program_and_runner(args):
    """Return what --image or --command names, and what runs it."""
    from morocco_lib.benchmark import protocol as bench

    if args.image:
        from morocco_lib.runners.docker import DockerRunner

        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # it has a container to remove
        runner = DockerRunner(args.image, tuple(args.gpus or ()))
        return bench.contained(runner.image, args.model), runner
    from morocco_lib.runners.process import ProcessRunner

    if args.gpus:
        raise UsageError(
            "--gpus with --command", rule="a bare process sees every GPU", remedy="set CUDA_VISIBLE_DEVICES"
        )
    return bench.command(args.command, args.model), ProcessRunner()


def check(args) -> int:
    from morocco_lib.benchmark import conformance
    from morocco_lib.runners.contract import Limits
    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    program, runner = program_and_runner(args)
    report = conformance.check(
        program, task, args.data, runner, Limits(args.timeout), count=args.records, show=args.show,
        progress=(lambda text: None) if args.quiet else say,
    )  # fmt: skip
    if args.json:
        show(report.as_dict())
    else:
        print(report.text())
    return 0 if report.ok else 1


def bench(args) -> int:
    from morocco_lib.artifacts import steps
    from morocco_lib.benchmark import protocol as bench
    from morocco_lib.runners.contract import Limits
    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    if args.repeats and (args.precision or args.max_minutes):
        raise UsageError(
            "--repeats with --precision or --max-minutes",
            rule="the count is fixed, or found",
            remedy="give one of them",
        )
    program, runner = program_and_runner(args)
    limits = Limits(args.timeout, args.memory, args.pids, args.cpus)
    several = len(args.batch_size) > 1
    if several and args.out.exists() and any(args.out.iterdir()):
        raise UsageError(
            f"{args.out} is not empty", rule="a result is never overwritten", remedy="give --out a new folder"
        )
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
    worst, made = 0, []
    for batch_size in args.batch_size:
        folder = args.out / f"batch-{batch_size}" if several else args.out
        parameters = {
            **({"image": program.image_digest} if args.image else {"command": args.command}),
            "batch_size": batch_size,
            **chosen,
        }
        with (
            steps.Step.begin(
                folder, "bench", model=program.model, task=task.name, parameters=parameters, inputs={"data": args.data}
            ) as step,
            _counter(args.quiet) as told,
        ):
            result = bench.bench(
                program, task, args.data, runner, limits, folder, batch_size=batch_size, **chosen, **told,
                against=made[0] if made else None, ones=bool(args.original_logs) and not made,
            )  # fmt: skip
            code = 0 if result["verdict"] == "VALID" else 1
            step.finish(steps.DONE, code)
        made.append(folder)
        worst = max(worst, code)
        if args.json:
            show(result)
        else:
            from morocco_lib.formatting import bench_lines

            print("\n".join(bench_lines(result)))
    if args.original_logs:
        logs = write.write(_worth_a_log(made), args.original_logs)
        say(f"{len(logs)} logs in {args.original_logs}")
    return worst


def _worth_a_log(folders: list[Path]) -> list[Path]:
    """Return the runs of one record and the timed runs that ended well: a log has no room for a verdict."""
    from morocco_lib import fileio
    from morocco_lib.analysis import summary
    from morocco_lib.benchmark.protocol import ONES

    points = [(folder, fileio.read_json(folder / summary.BENCH)) for folder in folders]
    timed = [folder / row["run"] for folder, result in points for row in result["per_run"] if row["verdict"] == "VALID"]
    return [*summary.sound_runs(folders[0] / ONES), *timed]


def run(args) -> int:
    from morocco_lib.pipeline import plan_run

    return plan_run.main(args, (lambda text: None) if args.quiet else say, show)


def report(args) -> int:
    from morocco_lib.pipeline import writable_home
    from morocco_lib.report import build

    with writable_home.lent(args.outputs):
        print(build.report_step(args.outputs, args.out))
    return 0


def verify(args) -> int:
    from morocco_lib.artifacts import verify as room

    findings = room.verify(args.outputs)
    if args.json:
        show(room.as_dict(findings))
    else:
        print(room.table(findings))
    return 0 if all(f.ok for f in findings) else 1
