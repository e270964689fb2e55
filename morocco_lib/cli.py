"""The verbs. Results go to stdout, talk to stderr; exit 0 valid, 1 invalid, 2 wrong usage, 3 the environment failed."""

import argparse
import json
import os
import sys
from pathlib import Path

import morocco_lib
from morocco_lib.errors import MoroccoError, UsageError


def say(text: str) -> None:
    """Print talk."""
    if sys.stderr is not None:  # closed: print would fall back to stdout
        print(text, file=sys.stderr, flush=True)


def show(value) -> None:
    """Print a result as one JSON object."""
    print(json.dumps(value, ensure_ascii=False))


def drop_stdout() -> None:
    """Give up what is still to be written, or the interpreter complains when it flushes at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- verbs ---------------------------------------------------------------------------------------------------------
def doctor(args) -> int:
    from morocco_lib import doctor as room
    from morocco_lib.params import find_root

    findings = room.examine(find_root(Path.cwd()))
    print(room.as_json(findings) if args.json else room.table(findings))
    return 0


def synthetic(args) -> int:
    from morocco_lib import data
    from morocco_lib.tasks import task_names

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(
            f"{args.out} is not an empty folder", rule="a result is never overwritten", remedy="give --out a new folder"
        )
    for path in data.make_synthetic(args.out, args.tasks or task_names(), args.seed):
        print(path)
    return 0


def train(args) -> int:
    from morocco_lib import data, params, steps, train
    from morocco_lib.tasks import get_task

    task = get_task(get_task(args.task).weights_of)
    model = params.load_model(args.model)
    path = data.find_split(args.data, task, "train")
    plan = train.Plan(model.name, model.kind, task.name, path, args.seed)
    with steps.Step.begin(
        args.out,
        "train",
        model=model.name,
        task=task.name,
        parameters={"model": model.model_dump(), "seed": args.seed},
        inputs={"train": path},
    ):
        result = train.fit(plan, args.out)
    if args.json:
        show(result)
    else:
        say(f"fitted {model.name} on {result['data']['records']} {task.title} records ({result['data']['origin']})")
        print(args.out / "weights")
    return 0


def infer(args) -> int:
    from morocco_lib.infer import main as run

    return run(args.weights, args.task, args.batch_size)


def evaluate(args) -> int:
    from morocco_lib.tasks import get_task
    from morocco_lib.tasks.base import check_file

    task = get_task(args.task)
    records = task.read(args.gold)
    gold = [task.gold(record) for record in records]
    if None in gold:
        raise UsageError(
            f"{gold.count(None)} of {len(gold)} records in {args.gold} have no label",
            rule="a score needs gold labels",
            remedy="give the labelled file",
        )
    checked = check_file(task, args.predictions, records)
    if not checked.ok:
        raise checked.error()
    show(task.score(gold, [checked.predictions[g["idx"]] for g in gold]))
    return 0


def bench(args) -> int:
    from morocco_lib import bench, steps
    from morocco_lib.runners.contract import Limits
    from morocco_lib.runners.process import ProcessRunner
    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    program = bench.command(args.command, args.model)
    limits = Limits(args.timeout, args.memory)
    several = len(args.batch_size) > 1
    if several and args.out.exists() and any(args.out.iterdir()):
        raise UsageError(
            f"{args.out} is not empty", rule="a result is never overwritten", remedy="give --out a new folder"
        )
    task.read(args.data)  # before anything is written
    worst = 0
    for batch_size in args.batch_size:
        folder = args.out / f"batch-{batch_size}" if several else args.out
        parameters = {
            "command": args.command,
            "input_size": args.input_size,
            "batch_size": batch_size,
            "repeats": args.repeats,
            "seed": args.seed,
        }
        with steps.Step.begin(
            folder, "bench", model=program.model, task=task.name, parameters=parameters, inputs={"data": args.data}
        ) as step:
            result = bench.bench(
                program, task, args.data, ProcessRunner(), limits, folder,
                input_size=args.input_size, batch_size=batch_size, repeats=args.repeats, seed=args.seed, progress=say,
            )  # fmt: skip
            code = 0 if result["verdict"] == "VALID" else 1
            step.finish(steps.DONE, code)
        worst = max(worst, code)
        if args.json:
            show(result)
        else:
            from morocco_lib.report.words import bench_lines

            print("\n".join(bench_lines(result)))
    return worst


def run(args) -> int:
    from morocco_lib import pipeline

    return pipeline.main(args, say, show)


def report(args) -> int:
    from morocco_lib.report import build

    result = build.report_step(args.outputs, args.out)
    print(result)
    return 0


def verify(args) -> int:
    from morocco_lib import verify as room

    findings = room.verify(args.outputs)
    if args.json:
        show(room.as_dict(findings))
    else:
        print(room.table(findings))
    return 0 if all(f.ok for f in findings) else 1


# -- the command line ----------------------------------------------------------------------------------------------
def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1 or str(value) != text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def positives(text: str) -> list[int]:
    values = [positive(part) for part in text.split(",")]
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names a batch size twice")
    return values


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="morocco",
        description="How good, how fast and how big is a text model? Measured, with evidence you can check.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="try: morocco doctor\n     morocco run params/plans/demo.yaml",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"morocco {morocco_lib.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name, handler, text, *examples):
        sub = verbs.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog="try: " + "\n     ".join(examples),
        )  # fmt: skip
        sub.set_defaults(handler=handler)
        return sub

    sub = verb(
        "doctor",
        doctor,
        "what can be measured here, why not the rest, the remedy",
        "morocco doctor",
        "morocco doctor --json",
    )
    sub.add_argument("--json", action="store_true", help="one JSON object")

    sub = verbs.add_parser(
        "data", help="records to work on", description="Records to work on.", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="try: morocco data synthetic --out records\n     morocco data synthetic terra --seed 2 --out records2",
    )  # fmt: skip
    kinds = sub.add_subparsers(dest="kind", metavar="KIND", required=True)
    sub = kinds.add_parser(
        "synthetic", help="write synthetic records",
        description="Write synthetic records in the official layout; 10 % of the labels are wrong on purpose.",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog="try: morocco data synthetic --out records\n     morocco data synthetic terra --seed 2 --out records2",
    )  # fmt: skip
    sub.set_defaults(handler=synthetic)
    sub.add_argument("tasks", nargs="*", metavar="TASK", help="default: all tasks")
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")

    sub = verb(
        "train", train, "fit a model on a task's train split", "morocco train tfidf terra --data records --out fitted",
        "morocco train majority terra --data records --out fitted-majority --json",
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL", help="majority, tfidf, or a name in params/models")
    sub.add_argument("task", metavar="TASK")
    sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder in the official layout")
    sub.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="new or empty folder; gets weights/ and train.json"
    )
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument("--json", action="store_true", help="print train.json")

    sub = verb(
        "infer", infer, "answer JSONL records on stdin with JSONL predictions on stdout",
        "morocco infer fitted < records/TERRa/val.jsonl",
        "morocco infer fitted terra --batch-size 8 < records/TERRa/test.jsonl > preds.jsonl",
    )  # fmt: skip
    sub.add_argument("weights", type=Path, metavar="WEIGHTS", help="folder that `morocco train` made")
    sub.add_argument("task", nargs="?", metavar="TASK", help="refuse weights of another task")
    sub.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="records answered together (default 32)"
    )

    sub = verb(
        "eval", evaluate, "score a file of predictions", "morocco eval terra preds.jsonl records/TERRa/val.jsonl",
        "morocco infer fitted < records/TERRa/val.jsonl | morocco eval terra /dev/stdin records/TERRa/val.jsonl",
    )  # fmt: skip
    sub.add_argument("task", metavar="TASK")
    sub.add_argument("predictions", type=Path, metavar="PREDS", help="JSONL, one prediction a record")
    sub.add_argument("gold", type=Path, metavar="GOLD", help="JSONL, the labelled records")

    sub = verb(
        "bench", bench, "measure speed, start-up, memory and score of a program",
        "morocco bench --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl --input-size 2000 --batch-size 32 --out bench1",
        "morocco bench --command 'morocco infer fitted' terra --data records/TERRa/val.jsonl --input-size 2000 --batch-size 1,8 --out bench2 --json",
    )  # fmt: skip
    sub.add_argument(
        "--command",
        required=True,
        metavar="CMD",
        help="one string, split like a shell would but given no shell; `--batch-size N` is appended",
    )
    sub.add_argument("task", metavar="TASK")
    sub.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="JSONL records; labels are stripped before feeding"
    )
    sub.add_argument(
        "--input-size", type=positive, default=2000, metavar="N", help="records fed in a run (default 2000)"
    )
    sub.add_argument(
        "--batch-size", type=positives, default=[32], metavar="B[,B...]", help="one operating point each (default 32)"
    )
    sub.add_argument("--repeats", type=positive, default=3, metavar="R", help="runs of an operating point (default 3)")
    sub.add_argument("--seed", type=int, default=1, help="of the order records are fed in (default 1)")
    sub.add_argument("--model", metavar="NAME", help="name in results (default: the program's)")
    sub.add_argument(
        "--timeout", type=seconds, default=3600.0, metavar="S", help="seconds a run may take (default 3600)"
    )
    sub.add_argument(
        "--memory", type=positive, metavar="BYTES", help="memory limit of a run; needs a cgroup of its own"
    )
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    sub.add_argument("--json", action="store_true", help="one JSON object an operating point")

    sub = verb(
        "run", run, "run a plan: train, bench, eval and report its models on its tasks",
        "MOROCCO_DATA=path/to/official/folders morocco run params/plans/terra.yaml",
        "morocco run params/plans/demo.yaml --dry-run", "morocco run params/plans/demo.yaml",
    )  # fmt: skip
    sub.add_argument("plan", type=Path, metavar="PLAN.yaml")
    sub.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="plan folder (default outputs/<plan's name>); finished steps in it are kept",
    )
    sub.add_argument(
        "--fresh", action="store_true", help="compute every step anew in a new plan folder, outputs/<plan>-<time>"
    )
    sub.add_argument(
        "--force", action="store_true", help="repeat finished steps; earlier ones are kept as <folder>.1, .2"
    )
    sub.add_argument("--dry-run", action="store_true", help="list the steps and what would be done")
    sub.add_argument("--json", action="store_true", help="print the summary as one JSON object")

    sub = verb(
        "report",
        report,
        "build the page and the tables of a folder of results",
        "morocco report outputs/demo",
        "morocco report bench1 --out page1",
    )
    sub.add_argument("outputs", type=Path, metavar="OUTPUTS")
    sub.add_argument("--out", type=Path, metavar="DIR", help="new or empty folder (default OUTPUTS/report-<key>)")

    sub = verb(
        "verify",
        verify,
        "recompute every number and digest of a folder of results",
        "morocco verify outputs/demo",
        "morocco verify bench1 --json",
    )
    sub.add_argument("outputs", type=Path, metavar="OUTPUTS")
    sub.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # The handler of every message a user sees; a traceback is for those who ask for it.
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.verb is None:
        parser.print_help()
        return 0
    try:
        code = args.handler(args)
        sys.stdout.flush()
        return code
    except MoroccoError as error:
        if args.debug:
            raise
        say(f"morocco: {error}")
        return error.exit_code
    except BrokenPipeError:
        drop_stdout()
        return 128 + 13
    except KeyboardInterrupt:
        say("morocco: interrupted; what was finished is kept")
        return 130
    except ModuleNotFoundError as error:
        if args.debug:
            raise
        say(
            f"morocco: {error.name} is not installed; this verb needs the kit; "
            "run `make setup`, or pip install 'morocco-lib[kit]'"
        )
        return 3
    except OSError as error:
        if args.debug:
            raise
        say(f"morocco: {error}; the system refused this; mend what it names and run again")
        drop_stdout()
        return 3
    except Exception as error:
        if args.debug:
            raise
        say(
            f"morocco: {type(error).__name__}: {error}; this should not happen; "
            f"run `morocco --debug {' '.join(argv)}` and report what it prints"
        )
        return 3
