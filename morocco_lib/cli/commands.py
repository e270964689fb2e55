"""The commands on records and models: doctor, data, train, infer, eval. Each returns its exit code."""

from collections.abc import Callable
from operator import eq, itemgetter
from pathlib import Path

from morocco_lib.cli.arguments import positive, seconds, seeds
from morocco_lib.cli.output import put, say, show
from morocco_lib.errors import EnvironmentFailure, MoroccoError, UsageError
from morocco_lib.fileio import expand
from morocco_lib.options import BACKENDS, INFERENCE_PRECISIONS


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    option = command(
        "doctor", doctor, "what can be measured here, why not the rest, and how to enable it",
        "morocco doctor", "morocco doctor --json",
    ).add_argument  # fmt: skip
    option("--json", action="store_true", help="one JSON object")

    kinds = command(
        "data", None, "records to work on",
        "morocco data synthetic --out records", "morocco data fetch --out russian-superglue",
    ).add_subparsers(dest="kind", metavar="KIND", required=True)  # fmt: skip
    option = command(
        "synthetic", synthetic, "write synthetic records in the official layout; a tenth of the labels is wrong on purpose",
        "morocco data synthetic --out records", "morocco data synthetic terra --seed 2 --out records2", among=kinds,
    ).add_argument  # fmt: skip
    option("tasks", nargs="*", metavar="TASK", help="default: all tasks")
    option("--seed", type=int, default=1)
    option("--records", type=positive, metavar="N", help="of each train split (default 150 to 2000, by task)")
    option("--out", type=expand, required=True, metavar="DIR", help="new or empty folder")

    option = command(
        "fetch", fetch, "download the official archives, check their digests and unpack them",
        "morocco data fetch --out russian-superglue", "morocco data fetch terra rcb --out russian-superglue", among=kinds,
    ).add_argument  # fmt: skip
    option("tasks", nargs="*", metavar="TASK", help="default: all tasks")
    option("--out", type=expand, required=True, metavar="DIR", help="folder; tasks fetched before are kept")
    option("--sources", type=expand, metavar="FILE", help="YAML with other addresses and digests")
    option("--timeout", type=seconds, default=3600.0, metavar="S", help="of a download, in seconds (default 3600)")

    option = command(
        "records", records, "print an official file as the JSON Lines that a program is fed",
        "morocco data records terra records/TERRa/val.jsonl > fed.jsonl",
        "morocco data records terra records/TERRa/train.jsonl --labels > labelled.jsonl", among=kinds,
    ).add_argument  # fmt: skip
    option("task", metavar="TASK")
    option("file", type=expand, metavar="FILE", help="JSONL, or a table as published")
    option("--labels", action="store_true", help="with the labels")

    option = command(
        "texts", texts, "print the texts of train splits, a line each and each once: a corpus to pre-train on",
        "morocco data texts terra rucola --data records > corpus.txt",
        "morocco data texts rwsd --data records", among=kinds,
    ).add_argument  # fmt: skip
    option("tasks", nargs="+", metavar="TASK")
    option("--data", type=expand, required=True, metavar="DIR", help="folder in the official layout")

    option = command(
        "train", train, "fit a model on a task's train split", "morocco train tfidf terra --data records --out fitted",
        "morocco train majority terra --data records --out fitted-majority --json",
    ).add_argument  # fmt: skip
    names = "majority, tfidf, a name in params/models, a folder that transformers reads, or a hub id"
    option("model", metavar="MODEL", help=names)
    option("task", metavar="TASK")
    option("--data", type=expand, required=True, metavar="DIR", help="folder in the official layout")
    option("--out", type=expand, required=True, metavar="DIR", help="new or empty folder; gets weights/ and train.json")
    option("--seed", type=int, default=1)
    option("--seeds", type=seeds, metavar="A-B", help="train a transformer with each, as 1-5; the best by val is kept")
    option("--recipe", metavar="NAME", help="how a transformer is trained: one of params/recipes, or a file")
    option("--json", action="store_true", help="print train.json")

    option = command(
        "pretrain", pretrain, "train an encoder with random weights on text by masked language modelling",
        "morocco pretrain tiny-short --corpus corpus.txt --out pretrained",
        "morocco pretrain tiny-short --corpus records/TERRa/*.jsonl --field premise --tokenizer pretrained/model --out pretrained2",
    ).add_argument  # fmt: skip
    option("recipe", metavar="RECIPE", help="a name in params/pretraining, or a file")
    what = "text (a document a line), JSON Lines, either as .gz, or folders that `datasets` saved"
    option("--corpus", type=expand, required=True, nargs="+", metavar="FILE", help=what)
    option("--field", default="text", metavar="KEY", help="of the documents in JSON Lines and data sets (default text)")
    option(
        "--tokenizer",
        type=expand,
        metavar="FILE",
        help="tokenizer.json, or its folder (default: one is trained on the corpus)",
    )
    option("--seed", type=int, default=1)
    option(
        "--out", type=expand, required=True, metavar="DIR", help="new or empty folder; gets model/ and pretrain.json"
    )
    option("--json", action="store_true", help="print pretrain.json")

    option = command(
        "infer", infer, "answer JSONL records on stdin with JSONL predictions on stdout",
        "morocco infer fitted < records/TERRa/val.jsonl",
        "morocco infer fitted terra --batch-size 8 < records/TERRa/test.jsonl > preds.jsonl",
    ).add_argument  # fmt: skip
    option("weights", type=expand, metavar="WEIGHTS", help="folder that `morocco train` made")
    option("task", nargs="?", metavar="TASK", help="refuse weights of another task")
    option("--batch-size", type=positive, default=32, metavar="N", help="records answered together (default 32)")
    described = "of a transformer's computations (default fp32); int8: of its weights, by openvino"
    option("--precision", choices=INFERENCE_PRECISIONS, default="fp32", help=described)
    option("--backend", choices=BACKENDS, default="torch", help="what runs a transformer (default torch)")

    option = command(
        "eval", evaluate, "score a file of predictions", "morocco eval terra preds.jsonl records/TERRa/val.jsonl",
        "morocco infer fitted < records/TERRa/val.jsonl | morocco eval terra /dev/stdin records/TERRa/val.jsonl",
    ).add_argument  # fmt: skip
    option("task", metavar="TASK")
    option(
        "predictions", type=expand, metavar="PREDS", help="JSONL, one prediction a record, or the table of a submission"
    )
    option("gold", type=expand, metavar="GOLD", help="the labelled records: JSONL, or as published")
    option(
        "--submission",
        type=expand,
        metavar="FILE",
        help="write the table of the task's leaderboard; GOLD may lack labels",
    )
    option("--original", action="store_true", help="the original's lenient rules, to compare with its figures")


def doctor(args) -> int:
    from morocco_lib import doctor
    from morocco_lib.config import find_root

    findings = doctor.examine(find_root(Path.cwd()))
    if args.json:
        show(doctor.as_dict(findings))
    else:
        put(doctor.table(findings))
    return 0


def synthetic(args) -> int:
    from morocco_lib import data
    from morocco_lib.artifacts import steps

    steps.check_empty(args.out)
    for path in data.make_synthetic(args.out, args.tasks or data.generator_names(), args.seed, args.records or 0):
        put(path)
    return 0


def records(args) -> int:
    import json

    from morocco_lib.tasks import get_task

    task = get_task(args.task)
    for record in task.read(args.file):
        put(json.dumps(record if args.labels else task.strip_labels(record), ensure_ascii=False))
    return 0


def texts(args) -> int:
    from morocco_lib import data
    from morocco_lib.tasks import get_task

    known = set()
    for task in map(get_task, args.tasks):
        for record in task.read(data.find_split(args.data, task, "train")):
            for part in task.parts(record):
                for text in filter(None, (part.first, part.second)):
                    if (line := " ".join(text.split())) not in known:
                        known.add(line)
                        put(line)
    return 0


def fetch(args) -> int:
    from morocco_lib.data import download
    from morocco_lib.tasks import get_task

    sources = download.load_sources(args.sources or download.SOURCES)
    code = 0
    for task in [get_task(name) for name in args.tasks or sources.archives]:
        try:
            for path in download.fetch(task, args.out, sources, timeout_s=args.timeout, say=say):
                put(path, flush=True)
        except MoroccoError as error:  # the other tasks may still come
            say(f"morocco: {error}")
            code = max(code, error.exit_code)
    return code


def train(args) -> int:
    from morocco_lib import config, data
    from morocco_lib.artifacts import steps
    from morocco_lib.tasks import get_task
    from morocco_lib.training import fit as training

    task, root = get_task(get_task(args.task).trained_on), config.find_root(Path.cwd())
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
    parameters = {"model": model.model_dump(), "seed": plan.seeds[0] if len(plan.seeds) == 1 else plan.seeds}
    inputs, names = files | training.sources(model, plan.root), {"model": model.name, "task": task.name}
    with steps.Step.begin(args.out, "train", **names, parameters=parameters, inputs=inputs):
        result = training.fit(plan, args.out)
    if args.json:
        show(result)
    else:
        say(f"fitted {model.name} on {result['data']['records']} {task.title} records ({result['data']['origin']})")
        if "val_score" in result:
            low, high = result["val_scores"]
            spread = f", {len(plan.seeds)} seeds from {low:.3f} to {high:.3f}" if len(plan.seeds) > 1 else ""
            say(f"val {result['val_score']:.3f} with seed {result['chosen_seed']}{spread}")
        if "chosen" in result:
            chosen = result["chosen"]
            say(f"val {chosen['score']:.3f} with C {chosen['c']:g}, the best of {len(result['grid'])} fits")
        for warning in result.get("warnings", []):
            say(f"warning: {warning}")
        put(args.out / "weights")
    return 0


def pretrain(args) -> int:
    from morocco_lib import config
    from morocco_lib.artifacts import steps
    from morocco_lib.config.model import PretrainingParams
    from morocco_lib.config.pretraining import load_pretraining
    from morocco_lib.training.fit import is_first, pretrained_model

    try:
        from morocco_lib.training.pretraining.pretrain import prepare
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(f"{error.name} is not installed", remedy="run `make setup-torch`") from None
    given = PretrainingParams(
        recipe=load_pretraining(args.recipe, config.find_root(Path.cwd())), corpus=list(map(str, args.corpus)), field=args.field,
        tokenizer=str(args.tokenizer or ""),
    )  # fmt: skip
    if not is_first():
        prepare(given, Path.cwd(), args.out, seed=args.seed, say=lambda text: None).run()
        return 0
    inputs = {f"corpus/{number}": path for number, path in enumerate(args.corpus, start=1) if path.is_file()}
    parameters = given.model_dump() | {"seed": args.seed}
    with steps.Step.begin(args.out, "pretrain", parameters=parameters, inputs=inputs):
        result = prepare(given, Path.cwd(), args.out, seed=args.seed, say=say).run()
    if found := result.get("range_test"):
        say(
            f"suggested maximum of the learning rate: {found['suggested']:.2g}"
            if found["suggested"]
            else found["reason"]
        )
    show(result) if args.json else put(pretrained_model(args.out) if "range_test" not in result else args.out)
    return 0


def infer(args) -> int:
    from morocco_lib import infer
    from morocco_lib.options import Options

    return infer.main(args.weights, args.task, args.batch_size, Options(args.precision, args.backend))


def evaluate(args) -> int:
    from morocco_lib.tasks import get_task
    from morocco_lib.tasks.checking import check_file, submission_text
    from morocco_lib.tasks.jsonl import is_jsonl, read_objects

    task = get_task(args.task)
    records = task.read(args.gold)
    gold = [task.gold(record) for record in records]
    if args.submission and not task.submissions:
        raise UsageError(f"{task.title} has no table", rule="a submission of it is a file of JSON Lines")
    if None in gold and not args.submission:
        raise UsageError(
            f"{gold.count(None)} of {len(gold)} records in {args.gold} have no label, record {gold.index(None) + 1} first",
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
    if (
        args.predictions.is_file()
        and is_jsonl(args.predictions)
        and all(map(eq, records, map(itemgetter(1), read_objects(args.predictions))))
    ):
        raise UsageError(
            f"{args.predictions} holds the labelled records themselves", rule="predictions are answers of a model",
            remedy="name the file of predictions first, then the labelled records",
        )  # fmt: skip
    if odd := [f"{count} x {name}" for name, count in checked.noncanonical.items() if count]:
        say(f"warning: accepted, but not spelled as in a submission: {', '.join(odd)}")
    predictions = [checked.predictions[task.key(record)] for record in records]
    if args.submission:
        args.submission.write_text(submission_text(task, predictions))
        say(f"{args.submission}: {len(predictions)} rows for {task.title}'s leaderboard ({task.submissions[0].file})")
    if None not in gold:
        show(task.score(gold, predictions))
    return 0
