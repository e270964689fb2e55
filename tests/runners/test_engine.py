"""The Docker Engine without one: what a container is given, whose containers are removed, errors in plain words."""

import hashlib
import json
import os
import struct
from types import SimpleNamespace

import pytest
import requests.exceptions
from docker import errors

from morocco_lib import fileio
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.monitors import procfs
from morocco_lib.monitors.host import host_facts
from morocco_lib.runners import engine
from morocco_lib.runners.contract import Limits
from morocco_lib.runners.docker import DockerRunner, _Frames, _wall_ns


class Api:
    """Keeps what it is asked to make; every start fails with `fault`."""

    def __init__(self, fault="no space left on device"):
        self.fault, self.config, self.options, self.removed = fault, {}, {}, []

    def inspect_image(self, name):
        return {"Id": "sha256:1", "Config": {"Labels": {"a": "b"}}, "RepoDigests": ["x@sha256:2"], "Size": 5}

    def create_host_config(self, **config):
        self.config = config
        return config

    def create_container(self, image, argv, **options):
        self.options = {"image": image, "argv": argv, **options}
        return {"Id": "c1"}

    def attach_socket(self, container, params):
        return SimpleNamespace()

    def start(self, container):
        raise errors.APIError(self.fault, explanation=self.fault)

    def remove_container(self, container, force, v):
        self.removed.append(container)
        if container == "gone":
            raise errors.NotFound("no such container")


@pytest.fixture
def client(monkeypatch, tmp_path):
    found = SimpleNamespace(api=Api())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(engine, "connect", lambda *args: found)
    return found


def test_a_container_gets_its_limits_no_network_and_no_rights(client):
    runner = DockerRunner("x", ("GPU-1",))
    limits = Limits(memory_bytes=123, pids=7, cpus=1.5)
    with pytest.raises(EnvironmentFailure, match="no space left"):
        runner.start(["--batch-size", "8"], limits)
    config = client.api.config
    assert config["network_mode"] == "none" and config["read_only"] and config["cap_drop"] == ["ALL"]
    assert config["security_opt"] == ["no-new-privileges"] and config["init"] and list(config["tmpfs"]) == ["/tmp"]
    assert config["log_config"]["Type"] == "none"
    assert (config["mem_limit"], config["memswap_limit"], config["pids_limit"]) == (123, 123, 7)
    assert config["nano_cpus"] == 1_500_000_000 and config["device_requests"][0]["DeviceIDs"] == ["GPU-1"]
    assert client.api.options["image"] == "sha256:1" and client.api.options["argv"] == ["--batch-size", "8"]
    assert client.api.options["environment"] == {}  # nothing of ours is handed over
    assert client.api.removed == [client.api.options["name"]]  # one that did not start is not left
    assert not list(fileio.state(engine.CONTAINERS).iterdir())


def test_limits_that_were_not_given_are_the_runners_own(client):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert DockerRunner("x").bounded(Limits(9)) == Limits(9, int(memory * 0.8), 4096, float(os.cpu_count()))
    assert DockerRunner("x").bounded(Limits(9, 5, 6, 7)) == Limits(9, 5, 6, 7)


@pytest.mark.parametrize(
    ("fault", "error"), [("unable to find user x", UsageError), ("could not select device driver", EnvironmentFailure)]
)
def test_a_fault_of_the_image_is_wrong_usage_and_others_are_not(client, fault, error):
    client.api.fault = fault
    with pytest.raises(error, match=fault):
        DockerRunner("x").start([], Limits())


def test_gpus_are_given_by_uuid(client):
    with pytest.raises(UsageError, match=r"GPU '0'.*UUID.*nvidia-smi -L"):
        DockerRunner("x", ("0",))


def test_containers_of_dead_owners_are_removed_and_no_others(client):
    boot, pid = host_facts()["boot_id"], os.getpid()
    ticks, here = procfs.start_ticks(pid), {"engine": engine.address(), "host": os.uname().nodename}

    def record(name, **owner):
        owner = {**here, "pid": pid, "start_ticks": ticks, "boot_id": boot, **owner}
        fileio.write_json(fileio.state(engine.CONTAINERS, f"morocco-{name}"), owner)

    ours = engine.new_container()
    kept = fileio.state(engine.CONTAINERS, ours)
    assert fileio.read_json(kept) == {**here, **json.loads(engine.owner_label())}
    (
        record("1-living"),
        record("2-dead", start_ticks=ticks + 1),
        record("3-gone", pid=2**22),
        record("4-rebooted", boot_id="x"),
    )
    record("5-there", pid=2**22, host="x"), record("6-there", pid=2**22, engine="x"), record("7-odd", pid="1")
    dead = ["morocco-2-dead", "morocco-3-gone", "morocco-4-rebooted"]
    assert engine.remove_orphans(client) == dead == client.api.removed
    assert engine.remove_orphans(client) == [] and kept.exists()
    engine.remove_own()
    assert client.api.removed == [*dead, ours] and not kept.exists()


def test_a_container_is_none_of_ours_for_its_label(client):
    dead = json.dumps({"pid": 2**22, "start_ticks": 1, "boot_id": host_facts()["boot_id"]})
    theirs = SimpleNamespace(id="theirs", status="exited", labels={engine.OWNER: dead})
    client.containers = SimpleNamespace(list=lambda **options: [theirs])
    client.api.containers = lambda **options: [{"Id": "theirs"}]
    assert engine.remove_orphans(client) == [] and engine.remove_own() is None and client.api.removed == []


def test_without_a_place_for_records_a_container_is_still_ours(client, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    name = engine.new_container()
    assert engine.remove_orphans(client) == []
    engine.remove_own()
    assert client.api.removed == [name]


def test_an_image_is_found_by_name_or_not_held(client):
    assert engine.held(client, "x") == engine.Image("x", "sha256:1", "x@sha256:2", {"a": "b"}, 5)

    def missing(name):
        raise errors.ImageNotFound("no such image", explanation="no such image: x")

    client.api.inspect_image = missing
    assert engine.held(client, "x") is None
    with pytest.raises(UsageError, match=r"no such image: x.*morocco build"):
        engine.find_image(client, "x")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errors.APIError("x", explanation="no space left on device"), "docker system df"),
        (errors.APIError("x", explanation="could not select device driver"), "NVIDIA container toolkit"),
        (errors.DockerException("Error: PermissionError(13, 'Permission denied')"), "usermod -aG docker"),
        (errors.DockerException("Error: FileNotFoundError(2)"), "systemctl start docker"),
        (requests.exceptions.ReadTimeout("timed out"), "rerun the command"),
        (errors.APIError("x", explanation="odd"), "docker info"),
    ],
)
def test_errors_of_the_engine_have_their_remedies(error, remedy):
    with pytest.raises(EnvironmentFailure, match="cannot start it") as caught, engine.engine_errors("start it"):
        raise error
    assert remedy in caught.value.remedy


def test_no_engine_is_a_failure_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(EnvironmentFailure, match="cannot reach the Docker Engine: No such file"):
        engine.connect(1)


@pytest.mark.parametrize("step", [1, 9, 1000])
def test_frames_are_split_wherever_they_are_cut(step):
    frames = [(1, b"one\n"), (2, b"log"), (1, b""), (1, b"two\n"), (1, b"three\n")]
    data = b"".join(struct.pack(">BxxxL", kind, len(text)) + text for kind, text in frames)
    split, found = _Frames(), {"stdout": b"", "stderr": b""}
    for at in range(0, len(data), step):
        for stream, part in split.split(data[at : at + step]):
            found[stream] += part
    assert found == {"stdout": b"one\ntwo\nthree\n", "stderr": b"log"}


def test_the_engines_times_are_read_to_the_microsecond():
    assert _wall_ns("1970-01-01T00:00:01.798815937Z") == 1_798_815_000
    assert _wall_ns("1970-01-01T00:01:00Z") == 60 * 10**9 and _wall_ns("1970-01-01T00:00:00.5Z") == 5 * 10**8


# -- which engine --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["currentContext", "DOCKER_CONTEXT"])
def test_the_engine_is_the_one_that_the_docker_command_would_use(by, tmp_path, monkeypatch):
    socket = f"unix://{tmp_path / 'mine.sock'}"
    meta = tmp_path / "contexts/meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    described = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": {"Host": socket, "SkipTLSVerify": False}}}
    (meta / "meta.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"} if by == "currentContext" else {}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    if by == "DOCKER_CONTEXT":
        assert engine.address() == "unix:///var/run/docker.sock"
        monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    assert engine.address() == socket
    with pytest.raises(EnvironmentFailure, match="cannot reach the Docker Engine: No such file"):
        engine.connect(5)
    monkeypatch.setenv("DOCKER_HOST", "unix:///elsewhere.sock")
    assert engine.address() == "unix:///elsewhere.sock"
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(UsageError, match="Docker has no context 'gone'"):
        engine.connect(5)
