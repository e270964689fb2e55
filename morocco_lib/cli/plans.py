"""The commands on plans and their results: run, report, verify. Each returns its exit code."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from morocco_lib.cli.arguments import add_output, shard
from morocco_lib.cli.output import messages, put, say, show
from morocco_lib.cli.storage import fetched, remote
from morocco_lib.errors import UsageError
from morocco_lib.fileio import expand
from morocco_lib.monitors.host import usable_cores


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    sub = command(
        "run", run, "run a plan: train, bench, eval and report its models on its tasks",
        "MOROCCO_DATA=path/to/official/folders morocco run params/plans/terra.yaml",
        "morocco run params/plans/demo.yaml --dry-run", "morocco run params/plans/demo.yaml",
    )  # fmt: skip
    option = sub.add_argument
    option("plan", type=expand, metavar="PLAN.yaml")
    where = "plan folder (default outputs/<name>); finished steps in it are kept"
    option("--out", type=expand, metavar="DIR", help=where)
    option("--fresh", action="store_true", help="compute every step anew in a new plan folder, outputs/<plan>-<time>")
    option("--force", action="store_true", help="repeat finished steps; earlier ones are kept as <folder>.1, .2")
    quiet = "exit with 0 also where timed numbers were disturbed by other processes (else 3: run it again)"
    option("--disturbed-ok", action="store_true", help=quiet)
    option("--dry-run", action="store_true", help="list the steps and what would be done")
    part = (
        "of N machines the I-th: whole tasks, so that the models of a task are measured on one machine (docs/nights.md)"
    )
    option("--shard", type=shard, default=(1, 1), metavar="I/N", help=part)
    where = "this machine, or those of a Ray cluster, which get a part each; the report is made here (docs/cluster.md)"
    option("--executor", choices=("local", "ray"), default="local", help=where)
    option("--address", metavar="HOST:PORT", help="of the Ray cluster (default: the one that this machine is in)")
    where = "first fetch finished steps from there, then upload each as it is finished (docs/s3.md)"
    option("--sync", type=remote, metavar="s3://BUCKET/PREFIX", help=where)
    add_output(sub, "print the summary as one JSON object")

    option = command(
        "report", report, "build the page and the tables of folders of results",
        "morocco report outputs/demo", "morocco report outputs/demo bench1 --out page2", "morocco report bench1 --out page1",
        "morocco report outputs/demo --against founding",
    ).add_argument  # fmt: skip
    option("outputs", type=expand, nargs="*", metavar="OUTPUTS", help="several make one report")
    there = "also a folder in a bucket, as `morocco report outputs/demo --from s3://BUCKET/demo`; fetched into outputs/, and kept"
    option("--from", type=remote, action="append", default=[], dest="fetch", metavar="s3://BUCKET/PREFIX", help=there)
    beside = "published numbers to show beside: founding (the original's README) or a JSON file of the same form"
    option("--against", metavar="founding|FILE", help=beside)
    where = "new or empty folder (default OUTPUTS/report-<key>; of several, or with --from, outputs/report-<key>)"
    option("--out", type=expand, metavar="DIR", help=where)

    option = command(
        "verify", verify, "recompute every number and digest of a folder of results",
        "morocco verify outputs/demo", "morocco verify bench1 --json", "morocco verify outputs/demo --again",
    ).add_argument  # fmt: skip
    option("outputs", type=expand, metavar="OUTPUTS", help="a folder, or a submission (.zip)")
    before = "rebuild every number, also what was rebuilt before from the same bytes by the same code"
    option("--again", action="store_true", help=before)
    option(
        "--signed-by",
        type=expand,
        metavar="FILE",
        help="of a submission: one of these allowed signers must have signed it",
    )
    option("--json", action="store_true", help="one JSON object")


def run(args) -> int:
    from morocco_lib import config
    from morocco_lib.artifacts.memory import Memory
    from morocco_lib.pipeline import plan_folder, plan_run, writable_home
    from morocco_lib.pipeline.progress import Progress
    from morocco_lib.pipeline.signals import Signals
    from morocco_lib.pipeline.step_kinds import KINDS
    from morocco_lib.pipeline.step_sync import StepSync

    message, memory = messages(args.quiet), Memory()
    plan = config.load_plan(args.plan, KINDS)
    root = config.find_root(args.plan.resolve().parent) or config.project_root()
    data_dir = os.environ.get(plan_run.DATA_VARIABLE)
    plan_dir = plan_folder.place(plan, root, args.out, args.fresh)
    data_dir = str(expand(data_dir).resolve()) if data_dir else None
    on_ray = args.executor == "ray"
    if on_ray and (not args.sync or args.force or args.fresh or args.shard != (1, 1)):
        rule = "parts meet in a bucket, which keeps what is finished"
        raise UsageError("--executor ray", rule=f"{rule}: with --sync, without --shard, --force and --fresh")
    if args.address and not on_ray:
        raise UsageError(f"--address {args.address}", rule="it is of a Ray cluster", remedy="add --executor ray")
    job = plan_run.PlanRun(plan, root, plan_dir, data_dir, args.force, args.shard, on_ray and not args.dry_run)
    message(f"plan {plan.name}: {job.data_dir} records; results go to {plan_dir}")
    if job.plan.tasks != plan.tasks:
        message(f"part {args.shard[0]} of {args.shard[1]}: {', '.join(job.plan.tasks)}")
    if job.machine.chosen:
        message(job.machine.chosen)
    if args.dry_run:
        return _preview(job)
    if plan_dir.exists() and not plan_dir.is_dir():
        raise UsageError(f"{plan_dir} is a file", remedy="give --out a folder")
    job.check_data()
    elsewhere = _on_cluster(args, job, message) if on_ray else 0
    bar = not args.quiet and sys.stderr.isatty()
    with plan_folder.lock(plan_dir), writable_home.writable(plan_dir), Signals() as signals:
        copy = StepSync(plan_dir, args.sync, job.task_names, message, signals.check) if args.sync else None
        if copy:
            copy.fetch()
        result = job.run(Progress(job.total, message, bar=bar), signals.check, copy.push if copy else lambda: None)
        if copy:
            copy.push()
    with writable_home.writable(plan_dir):  # figures are drawn anew
        return _summary(args, plan_dir, result, memory, copy.error.exit_code if copy and copy.error else elsewhere)


def _on_cluster(args, job, message: Callable[[str], None]) -> int:
    """Run a plan's parts on a Ray cluster; returns the worst exit code."""
    from morocco_lib.pipeline import plan_run, ray_executor

    options = ["--sync", str(args.sync), *["--disturbed-ok"] * args.disturbed_ok, *["--quiet"] * args.quiet]
    parts = {}
    for number, trained in enumerate(job.parts, 1):
        part = f"{number}/{len(job.parts)}"
        out = f"{job.plan_dir}-{part.replace('/', '-of-')}"
        parts[f"part {part} ({trained})"] = ["run", str(args.plan.resolve()), "--shard", part, "--out", out, *options]
    data = {plan_run.DATA_VARIABLE: job.data_dir if os.environ.get(plan_run.DATA_VARIABLE) else ""}
    first = bool(job.model_steps())  # others wait for what it pre-trains
    return ray_executor.run(parts, job.root, message, args.address or "auto", data, first)


def _preview(job) -> int:
    from morocco_lib.pipeline import cost_preview

    listed, plan = job.preview(), job.plan
    width = max(6, *(len(s.step) for s in listed))
    for s in listed:
        cells = [s.state.ljust(6), s.step.ljust(width), f"{s.model or ''} {s.task or ''}".strip(), s.error or ""]
        put("  ".join(cells).rstrip())
    minutes = None if plan.repeats else plan.max_minutes
    for line in cost_preview.lines(job.models, job.plan_dir, listed, minutes, job.root):
        put(line)
    return max((s.exit for s in listed), default=0)


def _summary(args, plan_dir: Path, result, memory, exit_code: int = 0) -> int:
    from morocco_lib.artifacts import verify as verification
    from morocco_lib.config import from_root
    from morocco_lib.pipeline.progress import DONE, KEPT
    from morocco_lib.pipeline.step_kinds import KINDS, verify
    from morocco_lib.report import points, tables

    rows = points.collect(plan_dir, KINDS)
    new = {s.folder.resolve() for s in result.steps if s.folder and s.state == DONE}
    findings = verify(plan_dir, new, memory, usable_cores())
    broken = [f for f in findings if not f.ok]
    code = max(result.exit_but_disturbed if args.disturbed_ok else result.exit, 1 if broken else 0, exit_code)
    if args.json:
        listed = [{**s.__dict__, "folder": str(s.folder) if s.folder else None} for s in result.steps]
        page = str(result.page) if result.page else None
        summary = {"schema": 1, "plan_dir": str(plan_dir), "exit": code, "report": page, "verified": not broken}
        show({**summary, "steps": listed, "rows": rows})
        return code
    put(tables.text_table(rows))
    for line in tables.remarks(rows):
        put(f"- {line}")
    put(verification.table(findings))
    if any(s.state == KEPT for s in result.steps):
        put(
            f"kept steps: digests checked; `morocco verify {from_root(plan_dir, Path.cwd())}` rebuilds their numbers too"
        )
    if result.page:
        put(f"report: {from_root(result.page, Path.cwd())}")
    return code


def report(args) -> int:
    from morocco_lib import config
    from morocco_lib.legacy import published
    from morocco_lib.pipeline import writable_home
    from morocco_lib.pipeline.report_step import report_step

    if not args.outputs and not args.fetch:
        raise UsageError("nothing to report", rule="OUTPUTS or --from", remedy="give outputs/<plan>")
    numbers = published.read(args.against) if args.against else None
    outputs = (config.find_root(Path.cwd()) or Path.cwd()) / "outputs"
    first, *others = [*args.outputs, *(fetched(one, outputs) for one in args.fetch)]
    home = outputs if others or args.fetch else None
    with writable_home.writable(first):
        put(report_step(first, args.out, numbers, also=others, home=home, say=say))
    return 0


def verify(args) -> int:
    from morocco_lib.artifacts.memory import Memory
    from morocco_lib.artifacts.verify import as_dict, table
    from morocco_lib.pipeline import writable_home
    from morocco_lib.pipeline.step_kinds import verify

    if args.outputs.suffix == ".zip":
        from morocco_lib.leaderboard import submission

        with writable_home.writable(args.outputs.parent):
            findings = submission.verify_archive(args.outputs, args.signed_by)
    elif args.signed_by:
        raise UsageError("--signed-by with a folder", rule="what is signed is a submission", remedy="give its .zip")
    else:
        with writable_home.writable(args.outputs):  # figures are drawn anew
            findings = verify(args.outputs, memory=Memory(anew=args.again), processes=usable_cores())
    if args.json:
        show(as_dict(findings))
    else:
        archive = [f for f in findings if f.ok and f.what in ("archive", "signature")]  # which no step folder is
        for finding in archive:
            put(finding.seen)
        put(table([f for f in findings if f not in archive]))
    return 0 if all(f.ok for f in findings) else 1
