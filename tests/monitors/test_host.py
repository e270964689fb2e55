"""Facts about the machine, recorded and unknown ones."""

from servers.trees import plant

from morocco_lib.monitors import host


def test_the_cgroup_version_is_that_which_accounts_for_memory(tmp_path):
    root = plant(tmp_path / "cg", {"memory/x": "", "cpuacct/x": "", "user.slice/x": ""})
    for text, version in (("4:memory:/\n3:cpuacct:/\n0::/\n", "v1"), ("0::/user.slice\n", "v2"), ("", None)):
        assert host.host_facts(plant(tmp_path / "proc", {"self/cgroup": text}), root)["cgroup"] == version


def test_host_facts_are_none_where_unknown(tmp_path):
    names = "hostname kernel machine cpu cores memory_bytes python boot_id clocksource cgroup"
    unknown = host.host_facts(tmp_path / "none", tmp_path, tmp_path / "none")
    assert set(unknown) == set(names.split())
    assert [unknown[name] for name in ("cpu", "memory_bytes", "boot_id", "clocksource", "cgroup")] == [None] * 5
    files = {"meminfo": "MemTotal:       16777216 kB\n", "cpuinfo": "processor\t: 0\nmodel name\t: Fake CPU @ 2 GHz\n"}
    known = host.host_facts(plant(tmp_path, files | {"sys/kernel/random/boot_id": "1b2c\n", "clock": "tsc\n"}))
    assert (known["cpu"], known["memory_bytes"], known["boot_id"]) == ("Fake CPU @ 2 GHz", 2**34, "1b2c")
    assert known["cores"] >= 1


def test_what_decides_speed_is_what_is_set_and_nothing_secret(tmp_path):
    governor = plant(tmp_path, {"governor": "powersave\n"}) / "governor"
    environment = {"OMP_NUM_THREADS": "2", "TOKEN": "secret", "CUDA_VISIBLE_DEVICES": ""}
    found = host.speed_settings(environment, governor)
    assert found == {
        "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "", "cores": host.usable_cores(), "governor": "powersave"
    }  # fmt: skip
    assert host.speed_settings({}, tmp_path / "none")["governor"] is None
