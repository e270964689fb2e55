"""A VM in Yandex Cloud: what is asked for, what a refusal leaves behind, and that nothing of others is touched."""

import json
import os
import re
import shlex
import subprocess
import sys

import founding
import grpc
import pytest
from helpers import ROOT, environment
from servers.yandex_cloud import FOLDER, STATUS, TOKEN
from yandex.cloud.compute.v1 import instance_pb2
from yandex.cloud.vpc.v1 import network_pb2, subnet_pb2

NAME = "yandex-v100"
QUOTA = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota limit compute.instanceGpus.count exceeded")
NOTHING = {"networks": [], "subnets": [], "instances": []}
ALL = {"networks": ["default"], "subnets": ["default"], "instances": [NAME]}


@pytest.fixture
def vm(main, project):
    """Run `morocco vm VERB yandex-v100 ...` in a project; whatever is printed holds no token."""

    def run(verb, *options, code=0, env=None):
        done = main("vm", verb, NAME, *options, cwd=project, env=env)
        assert done.returncode == code, done.stderr
        assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr and "a bug" not in done.stderr
        return done

    return run


# -- what is asked for ---------------------------------------------------------------------------------------------
def test_the_founding_machine_is_made_and_all_of_it_deleted(vm, cloud):
    assert vm("create", "--apply").stdout == f"{cloud.address}\n"
    assert cloud.named() == ALL
    network, subnet, instance = cloud.requests
    assert (subnet.network_id, subnet.zone_id, list(subnet.v4_cidr_blocks)) == (
        "network-1",
        "ru-central1-a",
        ["192.168.0.0/24"],
    )
    assert (instance.zone_id, instance.platform_id) == ("ru-central1-a", "gpu-standard-v1")
    size = instance.resources_spec
    assert (size.cores, size.memory, size.gpus) == (8, 96 * 2**30, 1) and instance.scheduling_policy.preemptible
    disk = instance.boot_disk_spec
    assert disk.auto_delete and (disk.disk_spec.size, disk.disk_spec.type_id) == (500 * 2**30, "network-hdd")
    assert (
        instance.network_interface_specs[0].primary_v4_address_spec.one_to_one_nat_spec.ip_version == instance_pb2.IPV4
    )
    head, text = instance.metadata["user-data"].split("\n", 1)
    init = json.loads(text)
    assert head == "#cloud-config" and init["bootcmd"] == [["systemd-run", "--on-active=24h", "systemctl", "poweroff"]]
    assert [(u["name"], u["ssh_authorized_keys"]) for u in init["users"]] == [("yc-user", ["ssh-ed25519 AAAA me@here"])]
    assert all(request.labels == {"morocco": NAME} for request in (network, subnet, instance))
    vm("delete", "--apply")
    assert cloud.named() == NOTHING


def test_a_second_create_makes_nothing(vm, cloud):
    vm("create", "--apply")
    made = len(cloud.requests)
    assert vm("create", "--apply").stdout == f"{cloud.address}\n"
    assert len(cloud.requests) == made


@pytest.mark.parametrize("verb", ["create", "stop", "delete", "ssh", "setup", "lab"])
def test_without_apply_nothing_is_asked_of_the_cloud_and_no_account_is_needed(vm, cloud, verb):
    done = vm(verb, env={"YC_TOKEN": "", "YC_FOLDER_ID": "", "YC_ENDPOINT": "127.0.0.1:1"})
    assert done.stdout and "nothing was done; add --apply" in done.stderr and cloud.calls == []


def test_the_plan_says_what_is_made_and_billed(vm):
    plan = vm("create").stdout
    for words in (
        "8 cores, 96 GiB of memory, 1 GPU (gpu-standard-v1), preemptible",
        "disk of 500 GiB",
        "billed",
        "24 hours",
    ):
        assert words in plan


def test_the_commands_in_help_work(main, cloud, project):
    (project / "records").mkdir()
    for path in ((), *((verb,) for verb in ("create", "stop", "delete", "ssh", "setup", "lab"))):
        for line in main("vm", *path, "--help").stdout.splitlines()[-2:]:
            words = shlex.split(line.removeprefix("try:"))[1:]
            done = main(*words, cwd=project)
            assert done.returncode == 0 and done.stdout + done.stderr, (line, done.stderr)
    assert [call for call in cloud.calls if call.startswith("Instance.") and not call.endswith("List")] == [
        "Instance.Create", "Instance.Stop", "Instance.Delete",
    ]  # fmt: skip


def test_the_commands_of_the_pages_work(main, cloud, project):
    pages = (ROOT / "docs/vm.md", founding.PAGE)
    page = "\n".join(path.read_text() for path in pages).replace("\\|", "|")
    (project / "records").mkdir()
    typed = dict.fromkeys(re.findall(r"morocco (vm [^`#\n|]*yandex-v100[^`#\n|]*)", page))
    assert len(typed) >= 9
    for line in typed:
        words = shlex.split(line)
        if words[1] in ("ssh", "setup", "lab"):  # done in test_remote.py
            words.remove("--apply")
        assert main(*words, cwd=project).returncode == 0, line
    assert {"Instance.Create", "Instance.Delete"} < set(cloud.calls)


# -- what a refusal leaves behind ----------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["Network.Create", "Subnet.Create", "Instance.Create"])
@pytest.mark.parametrize("how", ["refused", "failing", "failing, made all the same"])
def test_a_refusal_by_quota_is_told_and_leaves_nothing(vm, cloud, where, how):
    name, _, made = how.partition(",")
    getattr(cloud, name)[where] = (*QUOTA, *([True] if made else []))
    done = vm("create", "--apply", code=3)
    assert "instanceGpus.count exceeded" in done.stderr and "quota" in done.stderr and done.stdout == ""
    assert cloud.named() == NOTHING


def test_an_interruption_leaves_nothing(vm, cloud, monkeypatch):
    def interrupted(seconds):
        if cloud.instances:  # its operation is still on its way
            raise KeyboardInterrupt

    cloud.slow = 1
    monkeypatch.setattr("time.sleep", interrupted)
    assert "interrupted" in vm("create", "--apply", code=130).stderr and cloud.calls.count("Instance.Create") == 1
    assert cloud.named() == NOTHING


def test_what_could_not_be_taken_back_is_told(vm, cloud):
    cloud.refused["Instance.Create"] = QUOTA
    cloud.refused["Subnet.Delete"] = (grpc.StatusCode.UNAVAILABLE, "try later")
    done = vm("create", "--apply", code=3)
    assert f"warning: the subnet default may be left, and billed; run `morocco vm delete {NAME} --apply`" in done.stderr
    cloud.refused.clear()
    vm("delete", "--apply")
    assert cloud.named() == NOTHING


def test_an_operation_that_never_ends_is_given_up(vm, cloud, monkeypatch):
    monkeypatch.setattr("morocco_lib.cloud.yandex.OPERATION_S", 0.05)
    cloud.slow = 10**6
    done = vm("create", "--apply", code=3)
    assert "could not make the network default: DEADLINE_EXCEEDED: not done after" in done.stderr
    assert "may be left" in done.stderr


# -- what others made ----------------------------------------------------------------------------------------------
@pytest.fixture
def others_network(cloud):
    cloud.networks["n"] = network_pb2.Network(id="n", name="default")
    cloud.subnets["s"] = subnet_pb2.Subnet(id="s", name="default", network_id="n", zone_id="ru-central1-a")


def test_a_network_that_was_there_is_used_and_kept(vm, cloud, others_network):
    cloud.refused["Instance.Create"] = QUOTA
    vm("create", "--apply", code=3)
    assert cloud.named() == {**ALL, "instances": []}
    cloud.refused.clear()
    vm("create", "--apply")
    assert cloud.requests[0].network_interface_specs[0].subnet_id == "s" and len(cloud.requests) == 1
    done = vm("delete", "--apply")
    assert "kept: the network default, which was there before" in done.stderr
    assert cloud.named() == {**ALL, "instances": []}


def test_a_network_that_something_else_uses_is_kept(vm, cloud):
    vm("create", "--apply")
    other = cloud.instances["other"] = instance_pb2.Instance(id="other", name="other")
    other.network_interfaces.add(subnet_id="subnet-1")
    assert "kept: the subnet default, which something else uses" in vm("delete", "--apply").stderr
    assert cloud.named() == {**ALL, "instances": ["other"]}


def test_a_vm_of_others_is_not_deleted(vm, cloud, others_network):
    cloud.instances["i"] = instance_pb2.Instance(id="i", name=NAME)
    assert f"{NAME} was not made by `morocco vm create`" in vm("delete", "--apply", code=2).stderr
    assert cloud.named() == ALL


# -- the life of a VM ----------------------------------------------------------------------------------------------
def test_a_preempted_vm_is_named_and_started_again(vm, cloud):
    vm("create", "--apply")
    cloud.preempt()
    for verb in ("ssh", "setup", "lab"):
        done = vm(verb, "--apply", code=3)
        assert (
            f"{NAME} is STOPPED; a preemptible VM may be stopped at any time; start it: morocco vm create"
            in done.stderr
        )
    cloud.address = "203.0.113.8"
    assert vm("create", "--apply").stdout == "203.0.113.8\n"
    assert cloud.calls.count("Instance.Create") == 1


def test_a_vm_that_is_preempted_while_it_is_made_is_told(vm, cloud):
    cloud.failing["Instance.Create"] = (grpc.StatusCode.ABORTED, "Instance was preempted", True)
    done = vm("create", "--apply", code=3)
    assert "ABORTED: Instance was preempted; run the command again" in done.stderr and cloud.named() == NOTHING


def test_a_stopped_vm_keeps_its_disk_and_that_is_told(vm, cloud):
    vm("create", "--apply")
    done = vm("stop", "--apply")
    assert "the disk of 500 GiB stays, and is billed, until `morocco vm delete yandex-v100 --apply`" in done.stderr
    assert next(iter(cloud.instances.values())).status == STATUS.STOPPED
    vm("stop", "--apply")
    assert cloud.calls.count("Instance.Stop") == 1


@pytest.mark.parametrize("verb", ["stop", "ssh", "setup", "lab"])
def test_without_a_vm_the_command_that_makes_it_is_named(vm, cloud, verb):
    assert f"no VM {NAME} in the folder; morocco vm create {NAME} --apply" in vm(verb, "--apply", code=2).stderr


# -- accounts, keys and networks that do not work ------------------------------------------------------------------
def test_an_account_is_asked_for(vm, cloud):
    assert (
        "set YC_FOLDER_ID, and YC_TOKEN or"
        in vm("create", "--apply", code=2, env={"YC_TOKEN": "", "YC_FOLDER_ID": ""}).stderr
    )
    assert "set YC_FOLDER_ID, and YC_TOKEN or" in vm("create", "--apply", code=2, env={"YC_TOKEN": ""}).stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"YC_TOKEN": "t1.old-canary"}, "UNAUTHENTICATED: The token is invalid; a token lives for 12 hours"),
        ({"YC_FOLDER_ID": "other"}, "PERMISSION_DENIED"),
        ({"YC_ENDPOINT": "127.0.0.1:1"}, "UNAVAILABLE"),
    ],
    ids=["token", "folder", "network"],
)
def test_an_account_or_a_network_that_does_not_work_is_told(vm, cloud, env, words):
    done = vm("create", "--apply", code=3, env=env)
    assert words in done.stderr and "canary" not in done.stderr and cloud.named() == NOTHING


def test_an_unknown_image_or_a_missing_key_is_told_before_anything_is_made(vm, cloud, project):
    path = project / f"params/machines/{NAME}.yaml"
    text = path.read_text()
    path.write_text(text.replace("ubuntu-2004-lts-gpu", "ubuntu-1804"))
    assert "NOT_FOUND: Image family ubuntu-1804 not found" in vm("create", "--apply", code=3).stderr
    path.write_text(text.replace("key.pub", "none.pub"))
    assert "no public key" in vm("create", "--apply", code=2).stderr
    (project / "key.pub").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\ncanary\n")
    path.write_text(text)
    done = vm("create", "--apply", code=2)
    assert "is no public key of ssh" in done.stderr and "canary" not in done.stderr
    assert not any(call.endswith(".Create") for call in cloud.calls)


def test_a_key_file_that_others_may_read_or_that_is_none_is_refused(vm, cloud, tmp_path):
    key = tmp_path / "key.json"
    key.write_text('{"id": "canary"}')
    env = {"YC_TOKEN": "", "YC_SERVICE_ACCOUNT_KEY_FILE": str(key)}
    os.chmod(key, 0o644)
    assert f"others may read {key}" in vm("create", "--apply", code=2, env=env).stderr
    os.chmod(key, 0o600)
    done = vm("create", "--apply", code=2, env=env)
    assert "Invalid Service Account Key" in done.stderr and "canary" not in done.stderr


def test_only_a_machine_in_the_cloud_is_made(vm, main, project):
    (project / "params/machines/box.yaml").write_text("machine:\n  name: box\n  vm:\n    host: box\n")
    (project / "params/machines/plain.yaml").write_text("machine:\n  name: plain\n")
    for verb in ("create", "stop", "delete"):
        done = main("vm", verb, "box", cwd=project)
        assert done.returncode == 2 and "box is a machine that is there" in done.stderr
    assert "machine plain has no `vm`" in main("vm", "ssh", "plain", cwd=project).stderr
    assert main("vm", "ssh", "box", "--command", "ls -l", cwd=project).stdout.endswith(" box 'ls -l'\n")


def test_the_library_and_its_help_load_nothing_of_the_cloud():
    code = "import sys, morocco_lib, morocco_lib.cli.entry as e; e.build_parser(); print({'grpc', 'yandex', 'yandexcloud'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_the_folder_of_the_account_is_the_one_in_the_environment(vm, cloud):
    vm("create", "--apply")
    assert {request.folder_id for request in cloud.requests} == {FOLDER}
