"""Containers on a real engine: the seam, what a container can not do, and what is left when something ends badly."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import engine
import pytest
from servers import ROOT

from morocco_lib.artifacts import verify
from morocco_lib.errors import EnvironmentFailure, UsageError
from morocco_lib.runners import engine as engines
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner

pytestmark = pytest.mark.slow

SERVERS = Path(__file__).with_name("servers")
MB = 10**6
ANSWER = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"idx": json.loads(line)["idx"], "label": "entailment"}), flush=True)
"""


@pytest.fixture(scope="module")
def docker(docker_engine):
    with engine.client(docker_engine) as client:
        yield client


@pytest.fixture(scope="module")
def image_of(docker, tiny_image):
    """Build an image of one Python program and return its name."""
    made: dict[str, str] = {}

    def make(text: str, *words: str) -> str:
        key = f"{textwrap.dedent(text)}{words}"
        if key not in made:
            name = f"morocco-tests/program:{len(made)}"
            argv = ["python3", "-I", "-S", "/model/program.py", *map(str, words)]
            made[key] = engine.build(docker, name, {"program.py": textwrap.dedent(text)}, argv)
        return made[key]

    return make


class Heard:
    """What a container said, and how it ended."""

    def __init__(self, image: str, blocks=(), limits: Limits | None = None, words=()):
        self.limits = limits or Limits(timeout_s=30)
        self.out, self.err = bytearray(), bytearray()
        self.began_ns = time.monotonic_ns()
        handle = DockerRunner(image).start(list(words), self.limits)
        self.group = handle.group
        self.seen = converse(
            handle, blocks, self.limits, lambda t, part: self.out.extend(part), lambda t, part: self.err.extend(part)
        )
        self.exit, self.feed = self.seen.exit, self.seen.feed

    @property
    def text(self) -> str:
        return self.out.decode()


def ours(docker) -> list:
    return docker.containers.list(all=True, filters={"label": engines.OWNER}, ignore_removed=True)


@pytest.fixture(autouse=True)
def nothing_is_left(docker):
    yield
    assert [container.status for container in ours(docker)] == []


# -- the seam ------------------------------------------------------------------------------------------------------
def test_records_go_in_answers_come_out_and_the_end_of_input_is_seen(image_of):
    heard = Heard(image_of(ANSWER), [b'{"idx": 1}\n', b'{"idx": 2}\n'], words=["--batch-size", "8"])
    assert [json.loads(line)["idx"] for line in heard.text.splitlines()] == [1, 2]
    assert (heard.exit.code, heard.exit.signal, heard.feed.complete) == (0, None, True)


def test_the_engines_times_lie_within_ours(image_of):
    exit = Heard(image_of("import time; time.sleep(0.3)")).exit
    assert exit.started_ns < exit.engine_started_ns < exit.engine_died_ns
    assert 0.3 < (exit.engine_died_ns - exit.engine_started_ns) / 1e9 < 1.5
    assert exit.ended_ns == exit.engine_died_ns < time.monotonic_ns()


def test_arguments_are_handed_to_the_entry_point(image_of):
    assert Heard(image_of("import sys; print(sys.argv[1:])"), words=["--batch-size", "8"]).text == (
        "['--batch-size', '8']\n"
    )


def test_memory_and_cpu_time_are_those_of_the_container(image_of):
    heard = Heard(
        image_of("""
            import time
            held = bytearray(200 * 10**6)
            for i in range(0, len(held), 4096): held[i] = 1
            end = time.process_time() + 0.5
            while time.process_time() < end: pass
            time.sleep(0.1)
        """)
    )
    assert 200 * MB < heard.exit.peak_bytes < 260 * MB and "last sampled" in heard.exit.peak_source
    assert 0.5 < heard.exit.cpu_s < 1.5


COPY = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer, 1 << 20); sys.stderr.write('x' * 200000)"
PUMP = """
import hashlib, os, resource, sys
from morocco_lib.runners.contract import Limits, converse
from morocco_lib.runners.docker import DockerRunner
fed, got, talk = hashlib.sha256(), hashlib.sha256(), []
def blocks():
    for number in range(1600):
        block = os.urandom(1 << 16)
        fed.update(block)
        yield block
handle = DockerRunner(sys.argv[1]).start([], Limits())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = converse(handle, blocks(), Limits(timeout_s=60), lambda t, part: got.update(part), lambda t, part: talk.append(len(part)))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(seen.feed.bytes_written, fed.hexdigest() == got.hexdigest(), sum(talk), seen.exit.code, grown)
"""


def test_100_mb_in_and_out_come_whole_and_memory_stays_flat(image_of):
    done = subprocess.run(
        [sys.executable, "-c", PUMP, image_of(COPY)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    fed, same, talk, code, grown_kib = done.stdout.split()
    assert (fed, same, talk, code) == (str(1600 << 16), "True", "200000", "0")
    assert int(grown_kib) < 20_000


def test_input_that_nobody_reads_frees_the_feeder(image_of):
    heard = Heard(image_of("print('done')"), (b"x" * 65536 for _ in range(400)))
    assert heard.text == "done\n" and heard.exit.code == 0 and not heard.feed.complete


def test_a_flood_that_nobody_reads_can_be_ended_at_once(image_of):
    handle = DockerRunner(image_of("import sys\nwhile True: sys.stdout.write('x' * 100000)")).start([], Limits())
    for count, _ in enumerate(handle.chunks()):
        if count == 20:
            break
    began = time.monotonic()
    handle.kill()
    assert handle.wait(10).signal == signal.SIGKILL and time.monotonic() - began < 5


# -- what it can not do --------------------------------------------------------------------------------------------
def test_a_container_has_no_network_no_rights_and_writes_to_tmp_only(image_of):
    heard = Heard(
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
    found = json.loads(heard.text)
    assert found["network"] == "Network is unreachable" and found["interfaces"] == ["lo"]
    assert found["root"] == found["model"] == "Read-only file system" and found["tmp"] == "done"
    assert found["mount"] == "Operation not permitted"
    assert found["caps"] == ["0" * 16] * 3 and found["nnp"] == "1"


def test_ten_thousand_processes_are_refused_and_counted(image_of):
    text = """
        import os, time
        made = refused = 0
        for _ in range(10000):
            try:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
            except OSError:
                refused += 1
        time.sleep(0.1)
        print(made, refused)
    """
    heard = Heard(image_of(text), limits=Limits(timeout_s=60, pids=64))
    made, refused = map(int, heard.text.split())
    assert made < 64 and made + refused == 10000 and heard.exit.pids_refused == refused


def test_want_of_memory_is_told_apart_from_other_ends(image_of):
    greedy = "held = bytearray(10**10)\nfor i in range(0, 10**10, 4096): held[i] = 1"
    heard = Heard(image_of(greedy), limits=Limits(timeout_s=60, memory_bytes=100 * MB))
    assert heard.exit.oom_killed and heard.exit.signal == signal.SIGKILL
    child = f"""
        import os, time
        if os.fork() == 0:
            {greedy.replace(chr(10), chr(10) + " " * 12)}
        os.wait()
        time.sleep(0.1)
    """
    heard = Heard(image_of(child), limits=Limits(timeout_s=60, memory_bytes=100 * MB))
    assert heard.exit.oom_killed and heard.exit.code == 0


@pytest.mark.parametrize(
    ("text", "code", "ended_by"),
    [
        ("raise SystemExit(3)", 3, None),
        ("import os; os.kill(os.getpid(), 11)", None, 11),
        ("import os; os.kill(os.getpid(), 15)", None, 15),
    ],
)
def test_exit_code_and_signal_are_told(image_of, text, code, ended_by):
    exit = Heard(image_of(text)).exit
    assert (exit.code, exit.signal, exit.oom_killed) == (code, ended_by, False)


@pytest.mark.parametrize("text", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_one_that_sleeps_for_ever_is_ended_by_the_time_limit(image_of, text):
    heard = Heard(image_of(f"{text}\nimport time\nwhile True: time.sleep(60)"), limits=Limits(timeout_s=1.5))
    assert heard.seen.timed_out and heard.exit.signal == signal.SIGKILL
    assert 1.5 < (heard.exit.ended_ns - heard.began_ns) / 1e9 < 8


def test_the_limits_that_hold_are_those_of_the_cgroup(image_of):
    text = "import time; time.sleep(0.5)"
    handle = DockerRunner(image_of(text)).start([], Limits(memory_bytes=123 * 2**20, pids=77))
    limit = "memory.limit_in_bytes" if handle.group.version == 1 else "memory.max"
    assert int((handle.cgroup / limit).read_text()) == 123 * 2**20
    assert len(handle.pids()) >= 2 and handle.pid in handle.pids()  # init and the program
    handle.wait(20)


# -- the command line ----------------------------------------------------------------------------------------------
def paced(image_of, *words) -> str:
    return image_of((SERVERS / "paced.py").read_text(), *words)


def bench_words(image, data, out, *options) -> list[str]:
    return [*map(str, ["bench", "--image", image, "terra", "--data", data, "--out", out, *options]), "--json"]


def test_a_bench_of_an_image_is_valid_names_its_digest_and_verifies(main, image_of, synthetic_data, tmp_path):
    image, data = paced(image_of, "--rate", 500), synthetic_data / "TERRa" / "val.jsonl"
    done = main(
        *bench_words(image, data, tmp_path / "out", "--input-size", 200, "--batch-size", 4, "--repeats", 2, "--quick")
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "VALID" and result["runner"] == "docker"
    assert result["image_digest"] == engines.find_image(engines.connect(), image).id
    assert result["ram_bytes"]["value"] > MB and result["speed_per_s"]["value"] == pytest.approx(500, rel=0.02)
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["argv"] == ["--batch-size", "4"] and facts["limits"]["pids"] == 4096
    phases = facts["phases"]
    assert 0 < phases["engine_start_s"] < phases["ready_s"] < phases["last_answer_s"] < phases["engine_die_s"]
    assert all(finding.ok for finding in verify.verify(tmp_path / "out"))


def test_a_program_is_as_fast_in_a_container_as_bare(main, image_of, synthetic_data, tmp_path):
    data = synthetic_data / "TERRa" / "val.jsonl"
    speeds, words = {}, ["--rate", "400", "--init", "0.3"]
    bare = f"{sys.executable} -I -S {SERVERS / 'paced.py'} {' '.join(words)}"
    for name, what in (("image", paced(image_of, *words)), ("command", bare)):
        sizes = ("--input-size", 800, "--batch-size", 8, "--repeats", 3, "--quick")
        done = main("bench", f"--{name}", what, "terra", "--data", data, "--out", tmp_path / name, *sizes, "--json")
        speeds[name] = json.loads(done.stdout)["speed_per_s"]["value"]
    assert speeds["image"] == pytest.approx(speeds["command"], rel=0.02)
    assert speeds["image"] == pytest.approx(400, rel=0.02)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_ended_leaves_no_container(docker, sleeper, by):
    wait_for(lambda: [c for c in ours(docker) if c.status == "running"])
    sleeper.send_signal(by)
    assert sleeper.wait(20) in (130, 143)
    assert ours(docker) == []


def test_what_a_killed_morocco_left_is_swept_by_the_next_start(docker, sleeper, image_of):
    wait_for(lambda: [c for c in ours(docker) if c.status == "running"])
    sleeper.kill()
    sleeper.wait(10)
    assert len(ours(docker)) == 1
    living = DockerRunner(image_of("import time; time.sleep(1)"))
    assert ours(docker) == []
    handle = living.start([], Limits())
    DockerRunner(living.image.id)  # what lives is not swept
    assert handle.wait(20).code == 0


@pytest.fixture
def sleeper(image_of, synthetic_data, tmp_path):
    """A bench of a container that sleeps for ever, ended with the test."""
    image = image_of("import time\nwhile True: time.sleep(60)")
    words = bench_words(image, synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out")
    program = subprocess.Popen(
        [sys.executable, "-m", "morocco_lib", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield program
    program.kill()
    program.wait(10)


def wait_for(condition, seconds=20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_flood_on_stderr_is_cut_and_counted(main, image_of, synthetic_data, tmp_path):
    flood = f"import sys\nfor _ in range(300): sys.stderr.write('x' * 99999 + chr(10))\n{ANSWER}"
    words = bench_words(image_of(flood), synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out", "--repeats", 1)
    assert json.loads(main(*words).stdout)["verdict"] == "VALID"
    facts = json.loads((tmp_path / "out/runs/01/run.json").read_text())
    assert facts["stderr_bytes"] == 300 * 100_000
    assert (tmp_path / "out/runs/01/stderr.log").stat().st_size <= 10 * 2**20


FORKS = """
import os, time
for _ in range(10000):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        pass
"""
ESCAPES = {
    "network": ("import urllib.request\nurllib.request.urlopen('http://example.org/')", "NON_ZERO_EXIT", "URLError"),
    "root": ("open('/model/cache', 'w')", "NON_ZERO_EXIT", "Read-only file system"),
    "rights": ("import os\nos.setuid(0)\nos.chroot('/tmp')", "NON_ZERO_EXIT", "Operation not permitted"),
    "forks": (FORKS, "PIDS_REFUSED", ""),
    "memory": ("held = bytearray(10**10)\nfor i in range(0, 10**10, 4096): held[i] = 1", "OUT_OF_MEMORY", ""),
    "sleep": ("import time\ntime.sleep(600)", "TIMEOUT", ""),
}


@pytest.mark.parametrize("what", ESCAPES)
def test_the_result_says_what_a_container_tried(main, image_of, synthetic_data, tmp_path, what):
    code, reason, said = ESCAPES[what]
    limits = ("--memory", "100M", "--pids", 64, "--timeout", 4, "--repeats", 1, "--input-size", 20)
    words = bench_words(image_of(code + ANSWER), synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out", *limits)
    result = json.loads(main(*words).stdout)
    assert reason in result["reasons"], result
    assert said in (tmp_path / "out/runs/01/stderr.log").read_text()
    assert result["verdict"] == ("VALID" if what == "forks" else "INVALID")


# -- what cannot be started ----------------------------------------------------------------------------------------
def test_an_unknown_image_is_wrong_usage(docker_engine):
    with pytest.raises(UsageError, match=r"no-such-image.*morocco build"):
        DockerRunner("no-such-image")


def test_an_entry_point_that_is_not_there_is_named(docker, tiny_image):
    heard = Heard(engine.build(docker, "morocco-tests/nothing", {"a": "b"}, ["/no/such/program"]))
    assert heard.exit.code == 127 and b"/no/such/program failed: No such file" in heard.err


def test_an_image_that_cannot_be_started_is_named(docker, tiny_image):
    image = engine.build(docker, "morocco-tests/nobody", {"a": "b"}, ["python3"], extra="USER nobody-here")
    with pytest.raises(UsageError, match=r"cannot be started: .*nobody-here"):
        DockerRunner(image).start([], Limits())


def test_without_an_engine_the_remedy_is_named(main, monkeypatch, synthetic_data, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    done = main(*bench_words("any", synthetic_data / "TERRa" / "val.jsonl", tmp_path / "out"))
    assert done.returncode == 3 and "cannot reach the Docker Engine" in done.stderr
    assert "systemctl start docker" in done.stderr and not (tmp_path / "out").exists()


def test_gpus_are_named_by_uuid_and_need_the_nvidia_runtime(image_of):
    image = image_of(ANSWER)
    with pytest.raises(UsageError, match=r"GPU '0'.*UUID.*nvidia-smi -L"):
        DockerRunner(image, ("0",))
    with pytest.raises(EnvironmentFailure, match=r"could not select device driver.*NVIDIA container toolkit"):
        DockerRunner(image, ("GPU-1234abcd",)).start([], Limits())


@pytest.fixture
def short():
    """A folder of a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mt-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_a_gpu_reaches_the_container_by_its_uuid(tmp_path, short, monkeypatch):
    hook = tmp_path / "bin" / "nvidia-container-runtime-hook"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ncat > /dev/null\n")
    hook.chmod(0o755)
    path = f"{hook.parent}:{os.environ['PATH']}"
    with engine.running(short / "gpu", path) as address, engine.client(address) as client:
        monkeypatch.setenv("DOCKER_HOST", address)
        engine.tiny_image(client)
        program = {"program.py": "import os; print(os.environ.get('NVIDIA_VISIBLE_DEVICES'))"}
        image = engine.build(client, "sees", program, ["python3", "/model/program.py"])
        assert run_text(DockerRunner(image, ("GPU-1234abcd",))) == "GPU-1234abcd\n"
        assert run_text(DockerRunner(image)) == "None\n"


def run_text(runner: DockerRunner) -> str:
    out = bytearray()
    limits = Limits(timeout_s=30)
    converse(runner.start([], limits), [], limits, lambda t, part: out.extend(part), lambda t, part: None)
    return out.decode()


# -- an engine that goes away --------------------------------------------------------------------------------------
def test_an_engine_that_stops_in_the_middle_keeps_finished_runs_and_exits_3(
    monkeypatch, synthetic_data, short, tmp_path
):
    address, daemon = engine.start(short / "stops")
    monkeypatch.setenv("DOCKER_HOST", address)
    try:
        with engine.client(address) as client:
            engine.tiny_image(client)
            program = {"program.py": (SERVERS / "paced.py").read_text()}
            words = ["python3", "-I", "-S", "/model/program.py", "--rate", "40"]
            engine.build(client, "slow", program, words)
        out = tmp_path / "out"
        argv = bench_words(
            "slow", synthetic_data / "TERRa" / "val.jsonl", out, "--input-size", 80, "--repeats", 3, "--quick"
        )
        bench = subprocess.Popen(
            [sys.executable, "-m", "morocco_lib", *argv],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: (out / "runs/01/run.json").exists(), 60)
        time.sleep(1.0)
        engine.stop(daemon)
        _, talk = bench.communicate(timeout=60)
        assert bench.returncode == 3 and "Traceback" not in talk, talk
        assert "engine" in talk
        assert (out / "runs/01/run.json").exists() and not (out / "runs/03").exists()
        assert json.loads((out / "status.json").read_text())["state"] == "failed"
    finally:
        engine.stop(daemon)
    address, daemon = engine.start(short / "stops")  # comes up again with what it held
    try:
        assert engines.find_image(engines.connect(), "slow").name == "slow"
    finally:
        engine.stop(daemon)
