"""The commands on a machine somewhere else: vm create, stop, delete, ssh, setup, lab. Each returns its exit code."""

import shlex
from collections.abc import Callable
from pathlib import Path

from morocco_lib.cli.arguments import positive
from morocco_lib.cli.output import exit_on_sigterm, put, say
from morocco_lib.errors import UsageError
from morocco_lib.fileio import expand
from morocco_lib.formatting import counted


def add(command: Callable) -> None:
    """Add the commands; see `entry.build_parser`."""
    verbs = command(
        "vm", None, "a VM in the cloud, or a machine that ssh reaches: each prints what it would do, and does it with --apply",
        "morocco vm create yandex-v100", "morocco vm ssh yandex-v100",
    ).add_subparsers(dest="verb", metavar="VERB", required=True)  # fmt: skip

    def verb(name: str, handler: Callable, text: str, *examples: str) -> Callable:
        examples = examples or (f"morocco vm {name} yandex-v100 --apply",)
        sub = command(name, handler, text, f"morocco vm {name} yandex-v100", *examples, among=verbs)
        sub.add_argument("name", metavar="NAME", help="a file of params/machines that has a `vm`")
        sub.add_argument("--apply", action="store_true", help="do it; without, it is only printed")
        return sub.add_argument

    verb("create", create, "make the VM and what it needs, or start it if it is stopped")
    verb("stop", stop, "stop the VM; its disk stays and is billed")
    verb("delete", delete, "delete the VM, its disk and its network")
    option = verb("ssh", ssh, "log in", "morocco vm ssh yandex-v100 --command nvidia-smi")
    option("--command", default="", metavar="CMD", help="run this there instead; one string, for the shell there")
    option = verb(
        "setup",
        setup,
        "copy the project, install it and run its doctor there",
        "morocco vm setup yandex-v100 --data records",
    )
    option("--data", type=expand, metavar="DIR", help="copy this folder of records to ~/data, too")
    option = verb("lab", lab, "open JupyterLab there through a tunnel", "morocco vm lab yandex-v100 --port 8890")
    option("--port", type=positive, default=8888, help="of this machine's loopback address (default 8888)")


def create(args) -> int:
    vm = _yandex(args)
    kind = "preemptible, stopped after 24 hours at most" if vm.preemptible else "not preemptible"
    steps = [
        f"network {vm.network}, subnet {vm.subnet} ({vm.range}, {vm.zone}): made if they are not there",
        f"VM {args.name}: {vm.cores} cores, {vm.memory_gib} GiB of memory, {counted(vm.gpus, 'GPU')} ({vm.platform}), {kind}",
        f"  disk of {vm.disk_gib} GiB ({vm.disk_type}), newest image of {vm.image}, a public address",
        f"  {vm.user} logs in with {vm.ssh_key}; it powers itself off {vm.max_hours} hours after a start",
        f"billed from then on; the disk also while it is stopped, until `morocco vm delete {args.name} --apply`",
    ]
    if _planned(args, *steps):
        return 0
    exit_on_sigterm()  # what was begun is taken back
    put(_cloud(args).create())
    say(steps[-1].replace("from then on", "from now on"))
    say(f"next: morocco vm setup {args.name} --apply")
    return 0


def stop(args) -> int:
    left = f"the disk of {_yandex(args).disk_gib} GiB stays, and is billed"
    if not _planned(args, f"stop VM {args.name}; {left}"):
        _cloud(args).stop()
        say(f"{left}, until `morocco vm delete {args.name} --apply`")
    return 0


def delete(args) -> int:
    vm = _yandex(args)
    lost = f"delete VM {args.name} and its disk of {vm.disk_gib} GiB with all that is on it"
    if not _planned(args, lost, f"delete subnet {vm.subnet} and network {vm.network}, if made here and not in use"):
        _cloud(args).delete()
    return 0


def ssh(args) -> int:
    from morocco_lib.cloud import remote

    argv = _ssh(args)
    if _planned(args, shlex.join([*argv, *([args.command] if args.command else [])])):
        return 0
    return remote.command(argv, args.command)


def setup(args) -> int:
    from morocco_lib import config
    from morocco_lib.cloud import remote

    vm, argv = _vm(args), _ssh(args)
    if args.data and not args.data.is_dir():
        raise UsageError(f"no folder {args.data}", remedy="give the folder of records")
    steps = [f"copy the project to {argv[-1]}:{vm.folder}, without what git ignores"]
    steps += [f"copy {args.data} to ~/data"] * bool(args.data)
    steps.append(f"install it there, {f'torch: {vm.torch}' if vm.torch else 'without torch'}, and run `morocco doctor`")
    if not _planned(args, *steps):
        remote.setup(argv, vm, config.project_root(), args.data, say)
    return 0


def lab(args) -> int:
    from morocco_lib.cloud import remote

    argv = _ssh(args)
    if not _planned(args, f"start JupyterLab on {argv[-1]} unless it runs, and open a tunnel to 127.0.0.1:{args.port}"):
        exit_on_sigterm()  # the tunnel ends, too
        remote.lab(argv, _vm(args), args.port, say, lambda address: put(address, flush=True))
    return 0


# -- shared --------------------------------------------------------------------------------------------------------
def _planned(args, *steps: str) -> bool:
    """Print the steps unless they are to be done, and return whether they were printed."""
    if not args.apply:
        for step in steps:
            put(step)
        say("nothing was done; add --apply to do it")
    return not args.apply


def _vm(args):
    from morocco_lib import config

    if vm := config.load_machine(args.name, config.project_root(Path.cwd())).vm:
        return vm
    raise UsageError(f"machine {args.name} has no `vm`", remedy="see docs/vm.md")


def _yandex(args):
    if found := _vm(args).yandex:
        return found
    raise UsageError(
        f"{args.name} is a machine that is there", rule="only a VM with `yandex` is made, stopped and deleted"
    )


def _cloud(args):
    from morocco_lib.cloud.yandex import Yandex

    return Yandex(args.name, _yandex(args), say)


def _ssh(args) -> list[str]:
    """Return the ssh command; the cloud is asked for the address when something is to be done."""
    from morocco_lib.cloud import remote

    vm = _vm(args)
    return remote.ssh(vm, *(_cloud(args).address() if args.apply and vm.yandex else ("ADDRESS",)))
