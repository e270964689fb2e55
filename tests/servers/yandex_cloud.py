"""A cloud in this process: the services that `morocco vm` calls, made from the SDK's own protocol classes, over TLS."""

import datetime
import ipaddress
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc.status_pb2 import Status
from yandex.cloud.compute.v1 import image_pb2, image_service_pb2_grpc, instance_pb2, instance_service_pb2_grpc
from yandex.cloud.compute.v1.instance_service_pb2 import ListInstancesResponse
from yandex.cloud.endpoint import api_endpoint_pb2, api_endpoint_service_pb2, api_endpoint_service_pb2_grpc
from yandex.cloud.operation import operation_pb2, operation_service_pb2_grpc
from yandex.cloud.vpc.v1 import network_pb2, network_service_pb2_grpc, subnet_pb2, subnet_service_pb2_grpc
from yandex.cloud.vpc.v1.network_service_pb2 import ListNetworksResponse
from yandex.cloud.vpc.v1.subnet_service_pb2 import ListSubnetsResponse

STATUS = instance_pb2.Instance.Status
TOKEN, FOLDER = "t1.canary-token", "folder-1"


class Cloud:
    """What there is, and what goes wrong.

    `refused` holds what a call answers instead: {"Network.Create": (code, message)}. `failing` is the same for the
    operation that the call begins; `slow` is how often an operation is asked for before it is done.
    """

    def __init__(self):
        self.address, self.refused, self.failing, self.slow = "203.0.113.7", {}, {}, 0
        self.networks, self.subnets, self.instances, self.operations = {}, {}, {}, {}
        self.calls, self.ids, self.requests = [], Counter(), []

    def begin(self, call, context, change):
        """Answer a call that changes something: an operation, done at once or later, that may fail."""
        self.answer(call, context)
        operation = operation_pb2.Operation(id=f"operation-{len(self.operations) + 1}", done=not self.slow)
        if fault := self.failing.get(call):
            operation.error.CopyFrom(Status(code=fault[0].value[0], message=fault[1]))
            operation.ClearField("response") if not fault[2:] else change()  # a third part: it was made all the same
        else:
            operation.response.Pack(change())
        self.operations[operation.id] = [operation, self.slow]
        return operation

    def answer(self, call, context):
        self.calls.append(call)
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "The token is invalid")
        if fault := self.refused.get(call):
            context.abort(*fault)

    def make(self, kind, items, request, **more):
        self.ids[kind.DESCRIPTOR.name] += 1
        item = kind(id=f"{kind.DESCRIPTOR.name.lower()}-{self.ids[kind.DESCRIPTOR.name]}", name=request.name, **more)
        item.labels.update(request.labels)
        items[item.id] = item
        self.requests.append(request)
        return item

    def named(self):
        """The names of all there is."""
        return {k: sorted(i.name for i in getattr(self, k).values()) for k in ("networks", "subnets", "instances")}

    def preempt(self):
        for instance in self.instances.values():
            instance.status = STATUS.STOPPED
            instance.network_interfaces[0].primary_v4_address.ClearField("one_to_one_nat")


def _listed(items, request, context):
    if request.folder_id != FOLDER:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "Permission denied")
    name = re.fullmatch(r'name="([^"]+)"', request.filter)[1]
    return [item for item in items.values() if item.name == name]


class Service:
    def __init__(self, cloud):
        self.cloud = cloud


class Networks(Service, network_service_pb2_grpc.NetworkServiceServicer):
    def List(self, request, context):
        self.cloud.answer("Network.List", context)
        return ListNetworksResponse(networks=_listed(self.cloud.networks, request, context))

    def Create(self, request, context):
        make = self.cloud.make
        return self.cloud.begin(
            "Network.Create", context, lambda: make(network_pb2.Network, self.cloud.networks, request)
        )

    def Delete(self, request, context):
        if any(subnet.network_id == request.network_id for subnet in self.cloud.subnets.values()):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Network is not empty")
        return self.cloud.begin("Network.Delete", context, lambda: self.cloud.networks.pop(request.network_id))


class Subnets(Service, subnet_service_pb2_grpc.SubnetServiceServicer):
    def List(self, request, context):
        self.cloud.answer("Subnet.List", context)
        return ListSubnetsResponse(subnets=_listed(self.cloud.subnets, request, context))

    def Create(self, request, context):
        assert request.network_id in self.cloud.networks and list(request.v4_cidr_blocks) == ["192.168.0.0/24"]
        more = {"network_id": request.network_id, "zone_id": request.zone_id}
        make = self.cloud.make
        return self.cloud.begin(
            "Subnet.Create", context, lambda: make(subnet_pb2.Subnet, self.cloud.subnets, request, **more)
        )

    def Delete(self, request, context):
        if any(i.network_interfaces[0].subnet_id == request.subnet_id for i in self.cloud.instances.values()):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Subnet is in use")
        return self.cloud.begin("Subnet.Delete", context, lambda: self.cloud.subnets.pop(request.subnet_id))


class Images(Service, image_service_pb2_grpc.ImageServiceServicer):
    def GetLatestByFamily(self, request, context):
        self.cloud.answer("Image.GetLatestByFamily", context)
        if (request.folder_id, request.family) != ("standard-images", "ubuntu-2004-lts-gpu"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Image family {request.family} not found")
        return image_pb2.Image(id="image-1", family=request.family)


class Instances(Service, instance_service_pb2_grpc.InstanceServiceServicer):
    def List(self, request, context):
        self.cloud.answer("Instance.List", context)
        return ListInstancesResponse(instances=_listed(self.cloud.instances, request, context))

    def Create(self, request, context):
        (interface,) = request.network_interface_specs
        assert interface.subnet_id in self.cloud.subnets
        assert request.boot_disk_spec.disk_spec.image_id == "image-1"

        def change():
            made = self.cloud.make(
                instance_pb2.Instance, self.cloud.instances, request, scheduling_policy=request.scheduling_policy,
                network_interfaces=[{"subnet_id": interface.subnet_id}],
            )  # fmt: skip
            return self._run(made)

        return self.cloud.begin("Instance.Create", context, change)

    def Start(self, request, context):
        return self.cloud.begin("Instance.Start", context, lambda: self._run(self.cloud.instances[request.instance_id]))

    def Stop(self, request, context):
        return self.cloud.begin("Instance.Stop", context, lambda: self.cloud.preempt() or instance_pb2.Instance())

    def Delete(self, request, context):
        return self.cloud.begin("Instance.Delete", context, lambda: self.cloud.instances.pop(request.instance_id))

    def _run(self, instance):
        instance.status = STATUS.RUNNING
        instance.network_interfaces[0].primary_v4_address.one_to_one_nat.address = self.cloud.address
        return instance


class Operations(Service, operation_service_pb2_grpc.OperationServiceServicer):
    def Get(self, request, context):
        self.cloud.answer("Operation.Get", context)
        kept = self.cloud.operations[request.operation_id]
        kept[0].done = kept[1] <= 0
        kept[1] -= 1
        return kept[0]


class Endpoints(api_endpoint_service_pb2_grpc.ApiEndpointServiceServicer):
    def __init__(self):
        self.address = ""

    def List(self, request, context):
        ids = ("compute", "vpc", "operation", "iam", "endpoint")
        found = [api_endpoint_pb2.ApiEndpoint(id=name, address=self.address) for name in ids]
        return api_endpoint_service_pb2.ListApiEndpointsResponse(endpoints=found)


@contextmanager
def serving(folder):
    """Serve on the loopback address; yields a function that begins with an empty cloud, and the environment of an account."""
    key, certificate = _certificate()
    (folder / "roots.pem").write_bytes(certificate)
    server, current, endpoints = grpc.server(ThreadPoolExecutor(4)), [], Endpoints()

    class Current:
        def __getattr__(self, name):
            return getattr(current[-1], name)

    for service, servicer in (
        (network_service_pb2_grpc.add_NetworkServiceServicer_to_server, Networks),
        (subnet_service_pb2_grpc.add_SubnetServiceServicer_to_server, Subnets),
        (image_service_pb2_grpc.add_ImageServiceServicer_to_server, Images),
        (instance_service_pb2_grpc.add_InstanceServiceServicer_to_server, Instances),
        (operation_service_pb2_grpc.add_OperationServiceServicer_to_server, Operations),
    ):
        service(servicer(Current()), server)
    api_endpoint_service_pb2_grpc.add_ApiEndpointServiceServicer_to_server(endpoints, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    endpoints.address = f"127.0.0.1:{port}"
    server.start()

    def empty():
        current.append(Cloud())
        return current[-1]

    account = {
        "YC_TOKEN": TOKEN,
        "YC_FOLDER_ID": FOLDER,
        "YC_ENDPOINT": endpoints.address,
        "YC_SERVICE_ACCOUNT_KEY_FILE": "",
    }
    try:
        yield empty, account | {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(folder / "roots.pem")}
    finally:
        server.stop(0)


def _certificate():
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cloud")]),
    )
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - day).not_valid_after(now + day).add_extension(place, False)
        .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        signed.public_bytes(pem),
    )
