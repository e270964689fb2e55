"""A VM in Yandex Cloud through its SDK: what is missing is made, and what was begun in vain is taken back.

Whatever is made carries the label `morocco`; nothing else is ever deleted.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to stderr on its own; read when it is imported
import grpc
import yandexcloud
from yandex.cloud.compute.v1 import image_service_pb2 as images
from yandex.cloud.compute.v1 import instance_service_pb2 as instances
from yandex.cloud.compute.v1.image_service_pb2_grpc import ImageServiceStub
from yandex.cloud.compute.v1.instance_pb2 import IPV4, Instance
from yandex.cloud.compute.v1.instance_service_pb2_grpc import InstanceServiceStub
from yandex.cloud.vpc.v1 import network_service_pb2 as networks
from yandex.cloud.vpc.v1 import subnet_service_pb2 as subnets
from yandex.cloud.vpc.v1.network_pb2 import Network
from yandex.cloud.vpc.v1.network_service_pb2_grpc import NetworkServiceStub
from yandex.cloud.vpc.v1.subnet_pb2 import Subnet
from yandex.cloud.vpc.v1.subnet_service_pb2_grpc import SubnetServiceStub

from morocco_lib import fileio, foreign
from morocco_lib.config.machine import YandexParams
from morocco_lib.errors import EnvironmentFailure, MoroccoError, UsageError

LABEL = "morocco"
CALL_S, OPERATION_S, POLL_S = 60.0, 900.0, 1.0
TOKEN, KEY_FILE, FOLDER, ENDPOINT = "YC_TOKEN", "YC_SERVICE_ACCOUNT_KEY_FILE", "YC_FOLDER_ID", "YC_ENDPOINT"
REMEDIES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "ask for a higher quota in the cloud's console, or for a smaller machine",
    grpc.StatusCode.UNAUTHENTICATED: f"a token lives for 12 hours at most: export {TOKEN}=$(yc iam create-token)",
    grpc.StatusCode.PERMISSION_DENIED: "the account needs the roles compute.editor, vpc.admin and compute.images.user",
    grpc.StatusCode.NOT_FOUND: f"look at the names in the machine file, and at {FOLDER}",
    grpc.StatusCode.INVALID_ARGUMENT: "correct the machine file",
}


class Kind(NamedTuple):
    """What can be made: its noun, its message, its service, and two of the requests."""

    noun: str
    made: Callable[[], Any]
    stub: Callable
    list: Callable
    delete: Callable


# fmt: off
NETWORK = Kind("network", Network, NetworkServiceStub, networks.ListNetworksRequest, networks.DeleteNetworkRequest)
SUBNET = Kind("subnet", Subnet, SubnetServiceStub, subnets.ListSubnetsRequest, subnets.DeleteSubnetRequest)
INSTANCE = Kind("instance", Instance, InstanceServiceStub, instances.ListInstancesRequest, instances.DeleteInstanceRequest)
# fmt: on


class CloudFailure(EnvironmentFailure):
    """The cloud refused or did not answer; `code` is what it said."""

    def __init__(self, what: str, code: grpc.StatusCode, message: str):
        self.code = code
        said = " ".join(f"{code.name}: {message}".split())[:500]
        super().__init__(f"could not {what}: {said}", remedy=REMEDIES.get(code, "run the command again"))


# -- the account ---------------------------------------------------------------------------------------------------
def public_key(path: str) -> str:
    """Return the public key in a file; a private one is refused."""
    file = fileio.expand(path)
    try:
        key = foreign.read_text(file).strip()
    except (OSError, ValueError):
        raise UsageError(f"no public key in {file}", remedy="ssh-keygen makes one; the machine file names it") from None
    if not re.fullmatch(r"(ssh|ecdsa|sk)-[^\n]+", key):
        raise UsageError(f"{file} is no public key of ssh", remedy="name the file that ends in .pub")
    return key


def connect() -> tuple[yandexcloud.SDK, str]:
    """Return the SDK and the folder's id, both from the environment; raises UsageError."""
    token, file, folder, endpoint = (os.environ.get(name) for name in (TOKEN, KEY_FILE, FOLDER, ENDPOINT))
    if not folder or not (token or file):
        raise UsageError(
            f"no account: set {FOLDER}, and {TOKEN} or {KEY_FILE}",
            remedy=f"export {FOLDER}=$(yc config get folder-id) {TOKEN}=$(yc iam create-token)",
        )
    account: dict[str, Any] = {"iam_token": token} if token else {"service_account_key": _read_key(file)}
    try:
        return yandexcloud.SDK(**account, endpoint=endpoint or None), folder
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
        elif instance.status == Instance.STOPPED:
            self._run(f"start {self.name}", INSTANCE, "Start", instances.StartInstanceRequest(instance_id=instance.id))
        return self.address()[0]

    def _make(self) -> None:
        vm, ours = self.vm, {"folder_id": self.folder, "labels": {LABEL: self.name}}
        key = public_key(vm.ssh_key)  # before anything is made, as the image
        with _calls(f"find the image {vm.image}"):
            wanted = images.GetImageLatestByFamilyRequest(folder_id=vm.image_folder, family=vm.image)
            image = self.sdk.client(ImageServiceStub).GetLatestByFamily(wanted, timeout=CALL_S)
        with ExitStack() as undo:
            network = self._ensure(undo, NETWORK, networks.CreateNetworkRequest(**ours, name=vm.network))
            place = {"network_id": network.id, "zone_id": vm.zone, "v4_cidr_blocks": [vm.range]}
            subnet = self._ensure(undo, SUBNET, subnets.CreateSubnetRequest(**ours, name=vm.subnet, **place))
            self._ensure(undo, INSTANCE, self._wanted(ours, key, subnet.id, image.id))
            undo.pop_all()

    def _wanted(self, ours: dict[str, Any], key: str, subnet: str, image: str) -> instances.CreateInstanceRequest:
        vm = self.vm
        user = {"name": vm.user, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL", "groups": "sudo"}
        init = {
            "users": [user | {"ssh_authorized_keys": [key]}],
            "bootcmd": [["systemd-run", f"--on-active={vm.max_hours}h", "systemctl", "poweroff"]],  # at every start
        }
        disk = {"type_id": vm.disk_type, "size": vm.disk_gib * 2**30, "image_id": image}
        address = {"one_to_one_nat_spec": {"ip_version": IPV4}}
        return instances.CreateInstanceRequest(
            **ours, name=self.name, zone_id=vm.zone, platform_id=vm.platform,
            resources_spec={"cores": vm.cores, "memory": vm.memory_gib * 2**30, "gpus": vm.gpus},
            boot_disk_spec={"auto_delete": True, "disk_spec": disk},
            network_interface_specs=[{"subnet_id": subnet, "primary_v4_address_spec": address}],
            scheduling_policy={"preemptible": vm.preemptible},
            metadata={"user-data": f"#cloud-config\n{json.dumps(init)}\n"},
        )  # fmt: skip

    def _ensure(self, undo: ExitStack, kind: Kind, request: Any) -> Any:
        if found := self._find(kind, request.name):
            return found
        undo.callback(self._take_back, kind, request.name)  # before: it may come into being after an interruption
        made = kind.made()
        self._run(f"make the {kind.noun} {request.name}", kind, "Create", request).Unpack(made)
        return made

    def _take_back(self, kind: Kind, name: str) -> None:
        try:
            self._remove(kind, name)
        except MoroccoError as error:
            left = f"the {kind.noun} {name} may be left, and billed; run `morocco vm delete {self.name} --apply`"
            self.say(f"warning: {error}\nwarning: {left}")

    def stop(self) -> None:
        """Stop the VM; its disk stays, and is billed."""
        instance = self._instance()
        if instance.status != Instance.STOPPED:
            self._run(f"stop {self.name}", INSTANCE, "Stop", instances.StopInstanceRequest(instance_id=instance.id))

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
            request = kind.delete(**{f"{kind.noun}_id": found.id})
            self._run(f"delete the {kind.noun} {name}", kind, "Delete", request)
        except CloudFailure as error:
            if kind is INSTANCE or error.code is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            self.say(f"kept: the {kind.noun} {name}, which something else uses")

    def address(self) -> tuple[str, str]:
        """Return the public address of the running VM, and its id; raises EnvironmentFailure."""
        instance = self._instance()
        if instance.status != Instance.RUNNING:
            status = Instance.Status.Name(instance.status)
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
            request = kind.list(folder_id=self.folder, filter=f'name="{name}"')
            listed = self.sdk.client(kind.stub).List(request, timeout=CALL_S)
        return next((item for item in getattr(listed, f"{kind.noun}s") if item.name == name), None)

    def _run(self, what: str, kind: Kind, method: str, request: Any) -> Any:
        """Do what takes a while, wait for its end, and return the response."""
        with _calls(what):
            operation = getattr(self.sdk.client(kind.stub), method)(request, timeout=CALL_S)
            waiter = self.sdk.waiter(operation.id, timeout=OPERATION_S)
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
