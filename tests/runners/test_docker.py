"""Containers on a real engine: the interface, what a container cannot do, and what is left when something ends badly."""

import json
import os
import signal
import textwrap
import time
from dataclasses import replace

import engine
import pytest
from helpers import wait_until

from morocco_lib.errors import UsageError
from morocco_lib.monitors import system_load
from morocco_lib.pipeline.step_kinds import verify
from morocco_lib.reasons import Reason
from morocco_lib.runners import docker as docker_module
from morocco_lib.runners import engine as engines
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner

pytestmark = pytest.mark.slow

MB = 10**6
ARGV = ["python3", "-I", "-S"]


class Run:
    """What a container printed, and how it ended."""

    def __init__(self, image: str, blocks=(), limits: Limits | None = None, words=()):
        limits = limits or Limits(timeout_s=30)
        self.out, self.err = bytearray(), bytearray()
        self.handle = DockerRunner(image).start(list(words), limits)
        keep = [lambda t_ns, part, into=into: into.extend(part) for into in (self.out, self.err)]
        self.talk = converse(self.handle, blocks, limits, *keep)
        self.exit = self.talk.exit

    @property
    def text(self) -> str:
        return self.out.decode()


def ours(docker, **filters) -> list:
    return docker.api.containers(all=True, filters={"label": engines.OWNER, **filters})


@pytest.fixture(autouse=True)
def nothing_is_left(docker):
    yield
    assert engine.left_containers(docker) == []


# -- the interface -------------------------------------------------------------------------------------------------
def test_records_go_in_answers_come_out_and_the_engines_times_lie_within_ours(image_of):
    image = image_of("import sys\nprint(sys.argv[1:], flush=True)\n" + engine.ANSWER)
    run = Run(image, [b'{"idx": 1}\n', b'{"idx": 2}\n'], words=["--batch-size", "8"])
    words, *answers = run.text.splitlines()
    assert words == "['--batch-size', '8']" and [json.loads(line)["idx"] for line in answers] == [1, 2]
    exit = run.exit
    assert (exit.code, exit.signal, run.talk.feed.complete) == (0, None, True)
    assert exit.started_ns < exit.engine_started_ns < run.talk.first_answer_ns < exit.engine_died_ns
    assert exit.ended_ns == exit.engine_died_ns < time.monotonic_ns()
    assert (exit.engine_died_ns - exit.engine_started_ns) / 1e9 < 15


def test_memory_and_cpu_time_are_those_of_the_container(image_of):
    run = Run(
        image_of("""
            import time
            held = bytearray(200 * 10**6)
            for i in range(0, len(held), 4096): held[i] = 1
            end = time.process_time() + 0.5
            while time.process_time() < end: pass
            time.sleep(1)
        """)
    )
    name = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}[run.handle.group.version]
    assert 200 * MB < run.exit.peak_bytes < 260 * MB and run.exit.peak_source == f"{name}, last sampled"
    assert 0.5 < run.exit.cpu_s < 1.5


def test_a_container_keeps_to_the_cores_that_we_may_run_on(image_of, monkeypatch):
    image = image_of("import os\nprint(os.sched_getaffinity(0))")
    last = max(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {last})
    assert Run(image).text == f"{{{last}}}\n"


def test_input_that_nobody_reads_frees_the_feeder(image_of):
    run = Run(image_of("print('done')"), (b"x" * 65536 for _ in range(400)))
    assert run.text == "done\n" and run.exit.code == 0 and not run.talk.feed.complete


def test_a_flood_that_nobody_reads_can_be_ended_at_once(image_of):
    handle = DockerRunner(image_of("import sys\nwhile True: sys.stdout.write('x' * 100000)")).start([], Limits())
    for count, _ in enumerate(handle.chunks()):
        if count == 20:
            break
    began = time.monotonic()
    handle.kill()
    assert handle.wait(10).signal == signal.SIGKILL and time.monotonic() - began < 5


# -- what it cannot do ---------------------------------------------------------------------------------------------
def test_a_container_has_no_network_no_rights_and_writes_to_tmp_only(image_of):
    run = Run(
        image_of("""
            import json, os, socket
            def tried(what):
                try:
                    what()
                except OSError as error:
                    return error.strerror
                return "done"
            def connect():
                socket.create_connection(("93.184.216.34", 80), 2)
            def write(path):
                return lambda: open(path, "w").write("x")
            status = dict(line.split(":", 1) for line in open("/proc/self/status"))
            print(json.dumps({
                "network": tried(connect), "interfaces": [name for _, name in socket.if_nameindex()],
                "root": tried(write("/file")), "tmp": tried(write("/tmp/file")), "model": tried(write("/model/file")),
                "mount": tried(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0))),
                "caps": [status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd")], "nnp": status["NoNewPrivs"].strip(),
            }))
        """)
    )
    found = json.loads(run.text)
    assert found["network"] == "Network is unreachable" and found["interfaces"] == ["lo"]
    assert found["root"] == found["model"] == "Read-only file system" and found["tmp"] == "done"
    assert found["mount"] == "Operation not permitted"
    assert found["caps"] == ["0" * 16] * 3 and found["nnp"] == "1"


FILLS = """
    import os
    held = 0
    try:
        with open("/data/file", "wb", buffering=0) as file:
            while held < 2 * 10**9: held += file.write(bytes(2**20))
    except OSError as error:
        print(error.strerror)
    print(held, os.path.exists("/data/kept"))
"""


@pytest.fixture(scope="module")
def with_volume(docker, tiny_image):
    """An image whose program fills a volume that it declares."""
    files = {"program.py": textwrap.dedent(FILLS)}
    return engine.build(docker, "morocco-tests/volume", files, [*ARGV, "/model/program.py"], extra='VOLUME ["/data"]')


def test_a_volume_is_limited_memory_that_counts_and_nothing_is_left_on_the_disk(docker, with_volume):
    run = Run(with_volume)
    words = run.text.split()
    assert (
        words[:4] == ["No", "space", "left", "on"]
        and 500 * MB < int(words[-2]) < 540 * MB < run.exit.peak_bytes + 40 * MB
    )
    assert run.exit.disk_mounts == () and not docker.api.volumes()["Volumes"]


@pytest.mark.parametrize("local", [True, False], ids=["tried", "as-the-engine-reports"])
def test_a_mount_that_may_be_written_is_found(with_volume, monkeypatch, local):
    if not local:
        monkeypatch.setattr(docker_module, "_open_pidfd", lambda pid, container: None)
    runner = DockerRunner(with_volume)
    runner.image = replace(runner.image, volumes=())  # so the engine makes one
    handle = runner.start([], Limits(timeout_s=30))
    handle.kill()
    assert handle.wait(20).disk_mounts == ("/data",)


def test_an_image_with_files_in_a_volume_is_refused(docker, tiny_image):
    extra = 'COPY model /data\nVOLUME ["/data"]'
    image = engine.build(docker, "morocco-tests/kept", {"program.py": "pass"}, [*ARGV, "/data/program.py"], extra=extra)
    with pytest.raises(UsageError, match=r"declares VOLUME /data and holds files there"):
        DockerRunner(image).start([], Limits())


def test_a_thousand_processes_are_refused_and_counted(image_of):
    text = """
        import os, time
        made = refused = 0
        for _ in range(1000):
            try:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
            except OSError:
                refused += 1
        time.sleep(1)
        print(made, refused)
    """
    run = Run(image_of(text), limits=Limits(timeout_s=60, pids=64))
    made, refused = map(int, run.text.split())
    assert made < 64 and made + refused == 1000 and run.exit.pids_refused == refused


def test_out_of_memory_is_told_apart_from_other_ends_also_in_a_child(image_of):
    child = """
        import os, time
        if os.fork() == 0:
            held = bytearray(10**10)
            for i in range(0, 10**10, 4096): held[i] = 1
        os.wait()
        time.sleep(0.1)
    """
    run = Run(image_of(child), limits=Limits(timeout_s=60, memory_bytes=100 * MB))
    assert run.exit.oom_killed and run.exit.code == 0


@pytest.mark.parametrize(
    ("text", "code", "ended_by"),
    [("raise SystemExit(3)", 3, None), ("import os; os.kill(os.getpid(), 15)", None, 15)],
)
def test_exit_code_and_signal_are_told_apart(image_of, text, code, ended_by):
    exit = Run(image_of(text)).exit
    assert (exit.code, exit.signal, exit.oom_killed) == (code, ended_by, False)


def test_one_that_never_ends_is_killed_when_its_time_is_over(image_of):
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(60)"
    run = Run(image_of(text), limits=Limits(timeout_s=1.0))
    assert run.talk.timed_out and run.exit.signal == signal.SIGKILL
    assert 1.0 < (run.exit.ended_ns - run.handle.started_ns) / 1e9 < 8


def test_the_limits_that_hold_are_those_of_the_cgroup(image_of):
    text = "import time; time.sleep(60)"
    handle = DockerRunner(image_of(text)).start([], Limits(memory_bytes=123 * 2**20, pids=77))
    limit = "memory.limit_in_bytes" if handle.group.version == 1 else "memory.max"
    assert int((handle.cgroup / limit).read_text()) == 123 * 2**20
    assert len(handle.pids()) >= 2 and handle.pid in handle.pids()  # init and the program
    handle.kill()
    handle.wait(20)


# -- the command line ----------------------------------------------------------------------------------------------
def test_a_bench_of_an_image_is_valid_names_its_digest_and_verifies(
    main, image_of, synthetic_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(system_load, "others", lambda *args, **options: Reason.MACHINE_NOT_TOLD)  # of no interest here
    image, data = image_of(engine.PACED, "--rate", 500), synthetic_data / "TERRa" / "val.jsonl"
    sizes = ("--input-size", 200, "--batch-size", 4, "--repeats", 2, "--quick")
    done = main(*engine.bench_words(image, data, tmp_path / "out", *sizes))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "VALID" and result["runner"] == "docker"
    assert result["proven"] == {"memory": True, "isolation": True} and "UNPROVEN" not in result["reasons"]
    assert result["image_digest"] == engines.find_image(engines.connect(), image).id
    assert result["ram_bytes"]["value"] > MB and result["speed_per_s"]["value"] == pytest.approx(500, rel=0.2)
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["argv"] == ["--batch-size", "4"] and facts["limits"]["pids"] == 4096
    phases = facts["phases"]
    assert 0 < phases["engine_start_s"] < phases["ready_s"] < phases["last_answer_s"] < phases["engine_die_s"]
    assert all(finding.ok for finding in verify(tmp_path / "out"))


def test_a_bench_that_is_ended_leaves_no_container(docker, sleeper):
    sleeper.terminate()
    assert sleeper.wait(20) == 143
    assert ours(docker) == []


def test_what_a_killed_morocco_left_is_removed_by_the_next_start(docker, sleeper, image_of):
    sleeper.kill()
    sleeper.wait(10)
    assert len(ours(docker)) == 1
    living = DockerRunner(image_of("import time; time.sleep(1)"))
    assert ours(docker) == []
    handle = living.start([], Limits())
    DockerRunner(living.image.id)  # what lives is not removed
    assert handle.wait(20).code == 0


@pytest.fixture
def sleeper(docker, image_of, synthetic_data, tmp_path):
    """A bench whose container sleeps for ever, ended with the test."""
    image = image_of("import time\nwhile True: time.sleep(60)")
    words = engine.bench_words(image, synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out")
    with engine.start_morocco(*words) as program:
        assert wait_until(lambda: ours(docker, status="running"), 20)
        yield program
        program.kill()


# -- what cannot be started ----------------------------------------------------------------------------------------
def test_an_unknown_image_is_wrong_usage(docker_engine):
    with pytest.raises(UsageError, match=r"no-such-image.*morocco build"):
        DockerRunner("no-such-image")


def test_an_entry_point_that_is_not_there_is_named(docker, tiny_image):
    run = Run(engine.build(docker, "morocco-tests/nothing", {"a": "b"}, ["/no/such/program"]))
    assert run.exit.code == 127 and b"/no/such/program failed: No such file" in run.err


def test_an_image_that_cannot_be_started_is_named(docker, tiny_image):
    image = engine.build(docker, "morocco-tests/nobody", {"a": "b"}, ["python3"], extra="USER nobody-here")
    with pytest.raises(UsageError, match=r"cannot be started: .*nobody-here"):
        DockerRunner(image).start([], Limits())
