"""What the commands on one model do with their parsed arguments; each returns the exit code."""

import signal
import sys
from contextlib import contextmanager
from functools import partial
from operator import eq, itemgetter
from pathlib import Path

from morocco_lib.cli.output import say, show
from morocco_lib.errors import MoroccoError, UsageError


def doctor(args) -> int:
    from morocco_lib import doctor
    from morocco_lib.config import find_root

    findings = doctor.examine(find_root(Path.cwd()))
    if args.json:
        show(doctor.as_dict(findings))
    else:
        print(doctor.table(findings))
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
    from morocco_lib.data import download
    from morocco_lib.tasks import get_task

    sources = download.load_sources(args.sources or download.SOURCES)
    code = 0
    for task in [get_task(name) for name in args.tasks or sources.archives]:
        try:
            for path in download.fetch(task, args.out, sources, timeout_s=args.timeout, say=say):
                print(path, flush=True)
        except MoroccoError as error:  # the other tasks may still come
            say(f"morocco: {error}")
            code = max(code, error.exit_code)
    return code


def train(args) -> int:
    from morocco_lib import config, data
    from morocco_lib.artifacts import steps
    from morocco_lib.tasks import get_task
    from morocco_lib.training import fit as training

    task, root = get_task(get_task(args.task).weights_of), config.find_root(Path.cwd())
    model = config.load_model(args.model)
    if args.recipe:
        if model.kind != config.TRANSFORMER:
            raise UsageError(f"{model.name} has no recipe", rule="recipes are for transformers")
        model = model.model_copy(update={"recipe": config.load_recipe(args.recipe, root)})
    files = {split: data.find_split(args.data, task, split) for split in training.splits(model)}
    plan = training.Plan(model, task.name, files, args.seeds or [args.seed], root or Path.cwd())
    if not training.is_first():  # torchrun: the first process writes the step
        training.fit(plan, args.out)
        return 0
    with steps.Step.begin(
        args.out,
        "train",
        model=model.name,
        task=task.name,
        parameters={"model": model.model_dump(), "seed": plan.seeds[0] if len(plan.seeds) == 1 else plan.seeds},
        inputs=files | training.sources(model, plan.root),
    ) as step:
        result = training.fit(plan, args.out, step.status["key"])
    if args.json:
        show(result)
    else:
        say(f"fitted {model.name} on {result['data']['records']} {task.title} records ({result['data']['origin']})")
        if "val_score" in result:
            low, high = result["val_scores"]
            spread = f", {len(plan.seeds)} seeds from {low:.3f} to {high:.3f}" if len(plan.seeds) > 1 else ""
            say(f"val {result['val_score']:.3f} with seed {result['chosen_seed']}{spread}")
        for warning in result.get("warnings", []):
            say(f"warning: {warning}")
        print(args.out / "weights")
    return 0


def infer(args) -> int:
    from morocco_lib import infer
    from morocco_lib.options import Options

    return infer.main(args.weights, args.task, args.batch_size, Options(args.precision, args.backend))


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
        say(
            f"warning: accepted, but not spelled as in a submission: {', '.join(f'{n} x {name}' for name, n in odd.items())}"
        )
    show(task.score(gold, [checked.predictions[task.key(record)] for record in records]))
    return 0


@contextmanager
def _progress(quiet: bool):
    """Yield the hooks that report progress; on a terminal a line with speed and time left."""
    from morocco_lib.benchmark import Hooks

    if quiet:
        yield Hooks()
    elif not (sys.stderr and sys.stderr.isatty()):
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
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # it has a container to remove
        return Target.of_image(args.image, args.model, limits, tuple(args.gpus or ()))
    if args.gpus:
        raise UsageError(
            "--gpus with --command", rule="a bare process sees every GPU", remedy="set CUDA_VISIBLE_DEVICES"
        )
    return Target.of_command(args.command, args.model, limits)


def check(args) -> int:
    from morocco_lib.benchmark import conformance
    from morocco_lib.runners.contract import Limits
    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    report = conformance.check(
        target_of(args, Limits(args.timeout)), task, args.data, count=args.records, show=args.show,
        progress=(lambda text: None) if args.quiet else say,
    )  # fmt: skip
    if args.json:
        show(report.as_dict())
    else:
        print(report.text())
    return 0 if report.ok else 1


def bench(args) -> int:
    from morocco_lib import benchmark
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
            _progress(args.quiet) as hooks,
        ):
            result = benchmark.bench(
                target, task, args.data, folder, hooks=hooks, batch_size=batch_size, **chosen,
                baseline=made[0] if made else None, single_record=bool(args.original_logs) and not made,
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
        logs = write.write(_loggable_runs(made), args.original_logs)
        say(f"{len(logs)} logs in {args.original_logs}")
    return worst


def _loggable_runs(folders: list[Path]) -> list[Path]:
    """Return the valid runs, of one record and timed: the original's logs have no verdict."""
    from morocco_lib import fileio
    from morocco_lib.analysis import summary
    from morocco_lib.benchmark.protocol import SINGLE_RECORD

    points = [(folder, fileio.read_json(folder / summary.BENCH)) for folder in folders]
    timed = [folder / row["run"] for folder, result in points for row in result["per_run"] if row["verdict"] == "VALID"]
    return [*summary.sound_runs(folders[0] / SINGLE_RECORD), *timed]
