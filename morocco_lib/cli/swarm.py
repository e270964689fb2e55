"""The commands of pre-training by many machines: swarm peer, trainer, status. Each returns its exit code."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from morocco_lib.cli.arguments import positive
from morocco_lib.cli.output import exit_on_sigterm, put, say, show
from morocco_lib.cli.storage import remote
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.fileio import expand


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    verbs = command(
        "swarm", None, "pre-train one model by many machines that come and go (docs/collaborative.md)",
        "morocco swarm status --run demo --peers ADDRESS",
        "morocco swarm trainer ruleanalbert-small --run demo --corpus corpus.txt --tokenizer tokenizer.json --peers ADDRESS",
    ).add_subparsers(dest="verb", metavar="VERB", required=True)  # fmt: skip

    def verb(name: str, handler: Callable, text: str, *examples: str) -> Callable:
        option = command(name, handler, text, *examples, among=verbs).add_argument
        option("--run", required=True, metavar="NAME", help="a name that all machines of the run give")
        peers = "addresses that peers printed (default: none, this is the first)"
        option("--peers", nargs="+", default=[], metavar="ADDRESS", help=peers)
        secret = "a file that holds a secret all machines share; without it anybody may take part"
        option("--key", type=expand, metavar="FILE", help=secret)
        return option

    def member(option: Callable) -> None:
        option("recipe", metavar="RECIPE", help="a name in params/pretraining, or a file; the same for all machines")
        option("--corpus", type=expand, required=True, nargs="+", metavar="FILE", help="as of `morocco pretrain`")
        option(
            "--field", default="text", metavar="KEY", help="of the documents in JSON Lines and data sets (default text)"
        )
        option(
            "--tokenizer", type=expand, required=True, metavar="FILE", help="tokenizer.json, the same for all machines"
        )
        option("--seed", type=int, default=1, help="of the first weights, the same for all machines (default 1)")
        where = "address to listen on, as /ip4/0.0.0.0/tcp/31337 (default: any port, for this machine alone)"
        option("--listen", nargs="+", default=[], metavar="ADDRESS", help=where)
        option(
            "--announce",
            nargs="+",
            default=[],
            metavar="ADDRESS",
            help="where others reach it (default: what it listens on)",
        )
        speed = (
            "of the network; shares of the averaging are dealt out by it (default: measured to the first of --peers)"
        )
        option("--bandwidth", type=float, metavar="MBIT_S", help=speed)
        option(
            "--matchmaking",
            type=float,
            default=15.0,
            metavar="S",
            help="wait so long for others to average with (default 15)",
        )

    option = verb(
        "peer", peer, "be found by others, help in averaging and keep checkpoints, without a GPU",
        "morocco swarm peer ruleanalbert-small --run demo --corpus corpus.txt --tokenizer tokenizer.json --out kept",
        "morocco swarm peer ruleanalbert-small --run demo --corpus corpus.txt --tokenizer tokenizer.json --out kept "
        "--listen /ip4/0.0.0.0/tcp/31337",
    )  # fmt: skip
    member(option)
    option(
        "--out",
        type=expand,
        required=True,
        metavar="DIR",
        help="gets model/ and pretrain.json; an interrupted run goes on",
    )
    option("--every", type=positive, default=100, metavar="N", help="updates between checkpoints (default 100)")
    option("--sync", type=remote, metavar="s3://BUCKET/PREFIX", help="upload each checkpoint there")
    option = verb(
        "trainer", trainer, "compute gradients until all updates are made",
        "morocco swarm trainer ruleanalbert-small --run demo --corpus corpus.txt --tokenizer tokenizer.json --peers ADDRESS",
        "morocco swarm trainer ruleanalbert-small --run demo --corpus corpus.txt --tokenizer tokenizer.json --peers ADDRESS --client",
    )  # fmt: skip
    member(option)
    option("--client", action="store_true", help="behind a firewall: nobody connects to it, others average for it")
    at_once = "computed with at once, a second's to ten seconds' work (default 8)"
    option("--sequences", type=positive, default=8, metavar="N", help=at_once)
    option = verb(
        "status", status, "what every trainer last said of itself",
        "morocco swarm status --run demo --peers ADDRESS", "morocco swarm status --run demo --peers ADDRESS --json",
    )  # fmt: skip
    option("--json", action="store_true", help="one JSON object")


def peer(args) -> int:
    from morocco_lib.artifacts import storage

    if (args.out / "pretrain.json").is_file() and not args.out.with_name(f"{args.out.name}.checkpoints").is_dir():
        raise UsageError(
            f"{args.out} holds a finished model", rule="a result is never overwritten", remedy="give another --out"
        )
    args.out.mkdir(parents=True, exist_ok=True)

    def upload(folder: Path) -> None:
        try:
            if args.sync:
                storage.sync(folder, args.sync)
        except EnvironmentFailure as error:  # the run goes on, and the next checkpoint is tried
            say(f"not uploaded: {error}")

    with _joined(args) as here:
        say("others join with --peers " + " ".join(here.addresses()))
        _swarm().assist(_job(args, args.out), here, say, every=args.every, kept=upload)
    put(args.out / "model")
    return 0


def trainer(args) -> int:
    with tempfile.TemporaryDirectory() as folder, _joined(args) as here:
        job = _job(args, Path(folder, "trainer"))
        added = _swarm().train(job, here, args.sequences, say)
    put(f"{added} sequences added to {args.run}")
    return 0


def status(args) -> int:
    import pandas as pd

    if not args.peers:
        raise UsageError("a status of nobody", rule="it is asked of a peer", remedy="give --peers an address")
    swarm = _swarm()
    with swarm.Peer(_membership(args, client=True)) as here:
        rows = here.status()
        if args.json:
            show({"schema": 1, "run": args.run, "kept": here.kept(), "trainers": rows})
        else:
            put(
                pd.DataFrame(rows).round(2).to_string(index=False)
                if rows
                else "no trainer has said anything in ten minutes"
            )
    return 0


def _swarm():
    try:
        from morocco_lib.training import swarm
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(f"{error.name} is not installed", remedy="run `make setup-torch`") from None
    return swarm


def _joined(args):
    exit_on_sigterm()  # peers are told goodbye
    place = {"listen": tuple(args.listen), "announce": tuple(args.announce), "matchmaking_s": args.matchmaking}
    return _swarm().Peer(_membership(args, bandwidth=args.bandwidth, client=getattr(args, "client", False), **place))


def _membership(args, **more):
    from morocco_lib import foreign

    key = foreign.read_text(args.key).strip().encode() if args.key else None
    if key == b"":
        raise UsageError(f"{args.key} is empty", rule="it holds a secret")
    return _swarm().Membership(args.run, tuple(args.peers), key=key, **more)


def _job(args, folder: Path):
    from morocco_lib import config
    from morocco_lib.config.model import PretrainingParams
    from morocco_lib.config.pretraining import load_pretraining
    from morocco_lib.training.pretraining.pretrain import prepare

    folder.mkdir(exist_ok=True)
    given = PretrainingParams(
        recipe=load_pretraining(args.recipe, config.find_root(Path.cwd())), corpus=list(map(str, args.corpus)), field=args.field,
        tokenizer=str(args.tokenizer),
    )  # fmt: skip
    return prepare(given, Path.cwd(), folder, seed=args.seed, say=say)
