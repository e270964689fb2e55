"""A VM in Yandex Cloud through its SDK: what is missing is made, and what was begun in vain is taken back.

Whatever is made carries the label `morocco`; nothing else is ever deleted.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to stderr on its own; read when it is imported
import grpc
import yandexcloud
from google.protobuf.json_format import MessageToDict
from yandex.cloud.compute.v1 import image_service_pb2 as images
from yandex.cloud.compute.v1 import image_service_pb2_grpc, instance_pb2, instance_service_pb2_grpc
from yandex.cloud.compute.v1 import instance_service_pb2 as instances
from yandex.cloud.vpc.v1 import network_pb2, network_service_pb2_grpc, subnet_pb2, subnet_service_pb2_grpc
from yandex.cloud.vpc.v1 import network_service_pb2 as networks
from yandex.cloud.vpc.v1 import subnet_service_pb2 as subnets

from morocco_lib import fileio
from morocco_lib.config.machine import YandexParams
from morocco_lib.errors import EnvironmentFailure, MoroccoError, UsageError

LABEL = "morocco"
CALL_S, OPERATION_S, POLL_S = 60.0, 900.0, 1.0
TOKEN, KEY_FILE, FOLDER, ENDPOINT = "YC_TOKEN", "YC_SERVICE_ACCOUNT_KEY_FILE", "YC_FOLDER_ID", "YC_ENDPOINT"
STATUS = instance_pb2.Instance.Status
REMEDIES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "ask for a higher quota in the cloud's console, or for a smaller machine",
    grpc.StatusCode.UNAUTHENTICATED: f"a token lives for 12 hours at most: export {TOKEN}=$(yc iam create-token)",
    grpc.StatusCode.PERMISSION_DENIED: "the account needs the roles compute.editor, vpc.admin and compute.images.user",
    grpc.StatusCode.NOT_FOUND: f"look at the names in the machine file, and at {FOLDER}",
    grpc.StatusCode.INVALID_ARGUMENT: "correct the machine file",
}


@dataclass(frozen=True)
class Kind:
    """What can be made: its noun, its service and its requests."""

    noun: str
    made: Callable[[], Any]
    stub: Callable
    list: Callable
    delete: Callable[[str], Any]


NETWORK = Kind(
    "network", network_pb2.Network, network_service_pb2_grpc.NetworkServiceStub, networks.ListNetworksRequest,
    lambda made: networks.DeleteNetworkRequest(network_id=made),
)  # fmt: skip
SUBNET = Kind(
    "subnet", subnet_pb2.Subnet, subnet_service_pb2_grpc.SubnetServiceStub, subnets.ListSubnetsRequest,
    lambda made: subnets.DeleteSubnetRequest(subnet_id=made),
)  # fmt: skip
INSTANCE = Kind(
    "instance", instance_pb2.Instance, instance_service_pb2_grpc.InstanceServiceStub, instances.ListInstancesRequest,
    lambda made: instances.DeleteInstanceRequest(instance_id=made),
)  # fmt: skip


class CloudFailure(EnvironmentFailure):
    """The cloud refused or did not answer; `code` is what it said."""

    def __init__(self, what: str, code: grpc.StatusCode, message: str):
        self.code = code
        said = " ".join(f"{code.name}: {message}".split())[:500]
        super().__init__(f"could not {what}: {said}", remedy=REMEDIES.get(code, "run the command again"))


# -- requests ------------------------------------------------------------------------------------------------------
def create_network(vm: YandexParams, name: str, folder: str) -> networks.CreateNetworkRequest:
    return networks.CreateNetworkRequest(folder_id=folder, name=vm.network, labels={LABEL: name})


def create_subnet(vm: YandexParams, name: str, folder: str, network: str) -> subnets.CreateSubnetRequest:
    where = {"network_id": network, "zone_id": vm.zone, "v4_cidr_blocks": [vm.range]}
    return subnets.CreateSubnetRequest(folder_id=folder, name=vm.subnet, labels={LABEL: name}, **where)


def create_instance(
    vm: YandexParams, name: str, folder: str, subnet: str, image: str
) -> instances.CreateInstanceRequest:
    """Return the request for the VM; raises UsageError if there is no public key."""
    user = {"name": vm.user, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL", "groups": "sudo"}
    init = {
        "users": [user | {"ssh_authorized_keys": [public_key(vm.ssh_key)]}],
        "bootcmd": [["systemd-run", f"--on-active={vm.max_hours}h", "systemctl", "poweroff"]],  # run at every start
    }
    disk = {"type_id": vm.disk_type, "size": vm.disk_gib * 2**30, "image_id": image}
    address = {"one_to_one_nat_spec": {"ip_version": instance_pb2.IPV4}}
    return instances.CreateInstanceRequest(
        folder_id=folder, name=name, labels={LABEL: name}, zone_id=vm.zone, platform_id=vm.platform,
        resources_spec={"cores": vm.cores, "memory": vm.memory_gib * 2**30, "gpus": vm.gpus},
        boot_disk_spec={"auto_delete": True, "disk_spec": disk},
        network_interface_specs=[{"subnet_id": subnet, "primary_v4_address_spec": address}],
        scheduling_policy={"preemptible": vm.preemptible},
        metadata={"user-data": f"#cloud-config\n{json.dumps(init)}\n"},
    )  # fmt: skip


def requests(vm: YandexParams, name: str) -> list[dict[str, Any]]:
    """Return what `create` sends, ids of what is not there yet in angle brackets."""
    folder = os.environ.get(FOLDER) or "<folder>"
    made = (
        create_network(vm, name, folder),
        create_subnet(vm, name, folder, f"<network {vm.network}>"),
        create_instance(vm, name, folder, f"<subnet {vm.subnet}>", f"<image {vm.image}>"),
    )
    return [{type(request).__name__: MessageToDict(request)} for request in made]


def public_key(path: str) -> str:
    """Return the public key in a file; a private one is refused."""
    file = fileio.expand(path)
    try:
        key = file.read_text().strip()
    except (OSError, ValueError):
        raise UsageError(f"no public key in {file}", remedy="ssh-keygen makes one; the machine file names it") from None
    if not re.fullmatch(r"(ssh|ecdsa|sk)-[^\n]+", key):
        raise UsageError(f"{file} is no public key of ssh", remedy="name the file that ends in .pub")
    return key


# -- the account ---------------------------------------------------------------------------------------------------
def connect() -> tuple[yandexcloud.SDK, str]:
    """Return the SDK and the folder's id, both from the environment; raises UsageError."""
    token, file, folder, endpoint = (os.environ.get(name) for name in (TOKEN, KEY_FILE, FOLDER, ENDPOINT))
    if not folder or not (token or file):
        raise UsageError(
            "no account: set "
            + " and ".join([FOLDER] * (not folder) + [f"{TOKEN} or {KEY_FILE}"] * (not (token or file))),
            remedy=f"export {FOLDER}=$(yc config get folder-id) {TOKEN}=$(yc iam create-token)",
        )
    account: dict[str, Any] = {"iam_token": token} if token else {"service_account_key": _read_key(file)}
    try:
        return yandexcloud.SDK(**account, **({"endpoint": endpoint} if endpoint else {})), folder
    except RuntimeError as error:
        raise UsageError(f"{file}: {error}", remedy="yc iam key create writes a key file") from None


def _read_key(name: str | None) -> Any:
    file = fileio.expand(name or "")
    if file.is_file() and file.stat().st_mode & 0o077:
        raise UsageError(f"others may read {file}", rule="it holds a secret", remedy=f"chmod 600 {file}")
    return fileio.read_json(file)


@contextmanager
def _calls(what: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise CloudFailure(what, error.code(), error.details() or "") from None


# -- the VM --------------------------------------------------------------------------------------------------------
class Yandex:
    """One VM and the network it needs.

    Args:
        name: Of the machine file, and of the VM.
        say: Called with a line for whatever was done.
    """

    def __init__(self, name: str, vm: YandexParams, say: Callable[[str], None]):
        self.name, self.vm, self.say = name, vm, say
        self.sdk, self.folder = connect()

    def create(self) -> str:
        """Make what is missing, or start what is stopped, and return the address.

        Raises:
            EnvironmentFailure: nothing was made then, or what is left over was said.
        """
        instance = self._find(INSTANCE, self.name)
        if instance is None:
            self._make()
        elif instance.status == STATUS.STOPPED:
            self._run(
                f"start {self.name}",
                self.sdk.client(INSTANCE.stub).Start,
                instances.StartInstanceRequest(instance_id=instance.id),
            )
        return self.address()[0]

    def _make(self) -> None:
        vm, made_for = self.vm, (self.vm, self.name, self.folder)
        public_key(vm.ssh_key)  # before anything is made, as with the image
        with _calls(f"find the image {vm.image}"):
            wanted = images.GetImageLatestByFamilyRequest(folder_id=vm.image_folder, family=vm.image)
            image = self.sdk.client(image_service_pb2_grpc.ImageServiceStub).GetLatestByFamily(wanted, timeout=CALL_S)
        with ExitStack() as undo:
            network = self._ensure(undo, NETWORK, vm.network, lambda: create_network(*made_for))
            subnet = self._ensure(undo, SUBNET, vm.subnet, lambda: create_subnet(*made_for, network.id))
            self._ensure(undo, INSTANCE, self.name, lambda: create_instance(*made_for, subnet.id, image.id))
            undo.pop_all()

    def _ensure(self, undo: ExitStack, kind: Kind, name: str, request: Callable[[], Any]) -> Any:
        if found := self._find(kind, name):
            return found
        undo.callback(self._take_back, kind, name)  # before: it may come into being after an interruption
        made = kind.made()
        self._run(f"make the {kind.noun} {name}", self.sdk.client(kind.stub).Create, request()).Unpack(made)
        return made

    def _take_back(self, kind: Kind, name: str) -> None:
        try:
            self._remove(kind, name)
        except MoroccoError as error:
            self.say(f"warning: {error}")
            self.say(
                f"warning: the {kind.noun} {name} may be left, and billed; run `morocco vm delete {self.name} --apply`"
            )

    def stop(self) -> None:
        """Stop the VM; its disk stays, and is billed."""
        instance = self._instance()
        if instance.status != STATUS.STOPPED:
            request = instances.StopInstanceRequest(instance_id=instance.id)
            self._run(f"stop {self.name}", self.sdk.client(INSTANCE.stub).Stop, request)

    def delete(self) -> None:
        """Delete the VM with its disk, then the subnet and the network if they were made here and nothing uses them."""
        instance = self._find(INSTANCE, self.name)
        if instance and LABEL not in instance.labels:
            raise UsageError(
                f"{self.name} was not made by `morocco vm create`", remedy=f"yc compute instance delete {self.name}"
            )
        for kind, name in ((INSTANCE, self.name), (SUBNET, self.vm.subnet), (NETWORK, self.vm.network)):
            self._remove(kind, name)

    def _remove(self, kind: Kind, name: str) -> None:
        found = self._find(kind, name)
        if found is None:
            return
        if LABEL not in found.labels:
            self.say(f"kept: the {kind.noun} {name}, which was there before")
            return
        try:
            self._run(f"delete the {kind.noun} {name}", self.sdk.client(kind.stub).Delete, kind.delete(found.id))
        except CloudFailure as error:
            if kind is INSTANCE or error.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            self.say(f"kept: the {kind.noun} {name}, which something else uses")

    def address(self) -> tuple[str, str]:
        """Return the public address of the running VM, and its id; raises EnvironmentFailure."""
        instance = self._instance()
        if instance.status != STATUS.RUNNING:
            status = STATUS.Name(instance.status)
            why = "a preemptible VM may be stopped at any time" if instance.scheduling_policy.preemptible else ""
            raise EnvironmentFailure(
                f"{self.name} is {status}", rule=why, remedy=f"start it: morocco vm create {self.name} --apply"
            )
        for interface in instance.network_interfaces:
            if found := interface.primary_v4_address.one_to_one_nat.address:
                return found, instance.id
        raise EnvironmentFailure(f"{self.name} has no public address", remedy="delete it and create it again")

    def _instance(self) -> Any:
        if found := self._find(INSTANCE, self.name):
            return found
        raise UsageError(f"no VM {self.name} in the folder", remedy=f"morocco vm create {self.name} --apply")

    def _find(self, kind: Kind, name: str) -> Any | None:
        with _calls(f"look for the {kind.noun} {name}"):
            listed = self.sdk.client(kind.stub).List(
                kind.list(folder_id=self.folder, filter=f'name="{name}"'), timeout=CALL_S
            )
        return next((item for item in getattr(listed, f"{kind.noun}s") if item.name == name), None)

    def _run(self, what: str, call: Callable, request: Any) -> Any:
        """Do what takes a while, wait for its end, and return the response."""
        with _calls(what):
            waiter = self.sdk.waiter(call(request, timeout=CALL_S).id, timeout=OPERATION_S)
            for _ in waiter:
                time.sleep(POLL_S)
            done = waiter.operation
        if not done.done:
            raise CloudFailure(what, grpc.StatusCode.DEADLINE_EXCEEDED, f"not done after {OPERATION_S:.0f} s")
        if done.error.code:
            codes = {code.value[0]: code for code in grpc.StatusCode}
            raise CloudFailure(what, codes.get(done.error.code, grpc.StatusCode.UNKNOWN), done.error.message)
        self.say(f"done: {what}")
        return done.response
