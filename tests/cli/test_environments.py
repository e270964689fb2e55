"""Odd environments: no home, no terminal, odd locales, closed streams, other users. It works or names the reason."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from helpers import QUIET, ROOT

from morocco_lib.artifacts import steps
from morocco_lib.errors import EnvironmentFailure
from morocco_lib.pipeline import notebook_runner

UID = 12345  # of nobody in /etc/passwd
MOROCCO = [sys.executable, "-m", "morocco_lib"]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NO_HOME = {"HOME": "/nonexistent/home"}
ENVIRONMENTS = {
    "nothing": {},
    "no programs": {"PATH": "/nonexistent"},
    "LANG not installed": {"LANG": "ru_RU.KOI8-R"},
    "ASCII": {**ASCII, "PYTHONIOENCODING": "ascii"},
    "TZ nonsense": {"TZ": "nonsense"},
    "home a file": {"HOME": "/etc/passwd"},
    "no temporary folder": {"TMPDIR": "/nonexistent/tmp"},
    "as in images": {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"},
    "optimised": {"PYTHONOPTIMIZE": "2", "PYTHONSAFEPATH": "1"},
}
PLANS = {"tiny": ("train", "bench", "eval", "report"), "bench": ("bench", "report")}  # name -> steps


# -- the surroundings ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def place():
    """A folder that everybody may enter, and this user alone may write."""
    with tempfile.TemporaryDirectory(prefix="morocco-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def project(place):
    """A copy of the project, without git, in a folder with spaces and Cyrillic letters."""
    root = place / "мой проект с пробелами" / "morocco"
    for name in ("morocco_lib", "notebooks", "params"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "outputs").mkdir()
    for name, made in PLANS.items():
        (root / f"params/plans/{name}.yaml").write_text(
            f"name: {name}\nmodels: [tfidf]\ntasks: [terra]\nsteps: [{', '.join(made)}]\n"
            "input_size: 300\nrepeats: 2\nquick: true\n"
        )
    program = (ROOT / "docs/example_model.py").read_text(encoding="utf-8")
    (root / "модель.py").write_text(program.replace("in sys.stdin:", "in sys.stdin.buffer:"), encoding="utf-8")
    subprocess.run(["chmod", "-R", "a+rX", root.parent], check=True)
    return root


@pytest.fixture(scope="module")
def program(project):
    """Run `morocco ARGS...` with no variables but those given, no terminal, in the project; returns bytes as UTF-8."""

    def run(*args, through=(), input=None, cwd=project, **changes) -> subprocess.CompletedProcess:
        variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{QUIET}:{project}"} | changes
        argv = [*through, *MOROCCO, *map(str, args)]
        options = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            argv, cwd=cwd, env=variables, capture_output=True, timeout=280, start_new_session=True, **options
        )
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def made(project, program, place):
    """A folder with records, weights and a finished bench, all made by the program."""
    folder = place / "сделано"
    sizes = ("--input-size", 60, "--repeats", 2, "--quick")
    bench = ("--data", folder / "записи/TERRa/val.jsonl", *sizes, "--out", folder / "b")
    for args in (
        ("data", "synthetic", "terra", "--out", folder / "записи"),
        ("train", "majority", "terra", "--data", folder / "записи", "--out", folder / "fit"),
        ("bench", "--command", f"'{sys.executable}' модель.py", "terra", *bench),
    ):
        done = program(*args)
        assert done.returncode == 0, done.stderr
    infer = program("infer", folder / "fit", input=(folder / "записи/TERRa/val.jsonl").read_bytes())
    (folder / "preds.jsonl").write_text(infer.stdout, encoding="utf-8")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    return folder


@functools.cache
def alone(*mounts: str) -> tuple[str, ...]:
    """Return the words that give a program mounts of its own, made by shell commands; skips where that is refused."""
    words = ("unshare", "--mount", "sh", "-ec", "\n".join((*mounts, 'exec "$@"')), "sh")
    if os.geteuid() or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("needs root and the right to mount")
    return words


def another_user(place: Path, *mounts: str) -> tuple[str, ...]:
    """Return the words that run a program as a user without rights, name and home; skips where that cannot be done."""
    closed = next((f for f in reversed(Path(sys.base_prefix).parents) if not f.stat().st_mode & 0o001), None)
    opened = []
    if closed:  # an interpreter below /root: the mounts of this program alone show it and nothing else there
        keep = place / "interpreter"
        keep.mkdir(exist_ok=True)
        base = sys.base_prefix
        opened = [f"mount --bind '{base}' '{keep}'", f"mount -t tmpfs -o mode=755 tmpfs '{closed}'"]
        opened += [f"mkdir -p '{base}'", f"mount --bind '{keep}' '{base}'"]
    user = ("/usr/bin/setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups")
    words = (*alone(*opened, *mounts), *user)
    seen = subprocess.run([*words, sys.executable, "-c", "import numpy"], capture_output=True)
    if seen.returncode:
        pytest.skip(f"user {UID} cannot run {sys.executable}")
    return words


@pytest.fixture
def theirs(place):
    """A folder that the other user may write."""
    folder = Path(tempfile.mkdtemp(dir=place, prefix="выход "))
    os.chown(folder, UID, UID) if os.geteuid() == 0 else None
    yield folder
    shutil.rmtree(folder)


# -- variables -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variables", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_a_result_is_written_and_named_with_any_variables(program, tmp_path, variables):
    out = tmp_path / "записи с пробелом"
    done = program("data", "synthetic", "rwsd", "--out", out, **variables)
    names = [out / "RWSD" / f"{split}.jsonl" for split in ("train", "val", "test")]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(path) for path in (*names, out / "SYNTHETIC.md")]


def test_infer_eval_bench_verify_and_doctor_work_where_streams_are_ascii(program, made, tmp_path):
    variables, val = {"PYTHONIOENCODING": "ascii", **NO_HOME}, made / "записи/TERRa/val.jsonl"
    infer = program("infer", made / "fit", input=val.read_bytes(), **variables)
    assert (infer.returncode, infer.stderr) == (0, 'morocco: {"event": "ready"}\n')
    (tmp_path / "ответы.jsonl").write_text(infer.stdout, encoding="utf-8")
    done = program("eval", "terra", tmp_path / "ответы.jsonl", val, **variables)
    assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", {"accuracy": 0.5})
    args = ("--data", val, "--input-size", "60", "--repeats", "1", "--out", tmp_path / "мера", "--json")
    done = program("bench", "--command", f"'{sys.executable}' модель.py", "terra", *args, **variables)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["verdict"], result["model"]) == ("VALID", "модель")
    assert program("verify", tmp_path / "мера", **variables).stdout.startswith("verified: 1 step folder")
    found = json.loads(program("doctor", "--json", **variables).stdout)
    assert all(set(f) == {"what", "ok", "seen", "why", "remedy"} for f in found["findings"])


def koi8(tmp_path):
    done = subprocess.run(["localedef", "-i", "ru_RU", "-f", "KOI8-R", tmp_path / "ru_RU.KOI8-R"], capture_output=True)
    if done.returncode:
        pytest.skip("localedef cannot make the locale ru_RU.KOI8-R")
    return {"LC_ALL": "ru_RU.KOI8-R", "LOCPATH": str(tmp_path)}


@pytest.mark.parametrize("encoding", ["ascii", "koi8-r"])
def test_where_names_are_not_utf_8_a_result_is_refused_before_it_is_begun(program, made, tmp_path, encoding):
    variables = koi8(tmp_path) if encoding == "koi8-r" else ASCII
    args = ("train", "majority", "terra", "--data", made / "записи", "--out")
    done = program(*args, tmp_path / "веса", **variables)
    shown = str(tmp_path / "веса").encode().decode(encoding if encoding != "ascii" else "utf-8")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"morocco: names of files are read as {encoding} here: {shown}; results name them in UTF-8; "
        "`export PYTHONUTF8=1`\n"
    )
    assert not (tmp_path / "веса").exists()
    done = program(*args, tmp_path / "веса", **variables, PYTHONUTF8="1") if encoding == "koi8-r" else None
    assert done is None or (done.returncode, done.stdout) == (0, f"{tmp_path / 'веса'}/weights\n")


def test_a_name_that_is_not_utf_8_is_refused_and_nothing_is_made(program, made, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + "/веса".encode("koi8-r"))
    done = program("train", "majority", "terra", "--data", made / "записи", "--out", folder, PYTHONUTF8="1")
    assert (done.returncode, done.stdout) == (2, "")
    shown = tmp_path / ("\ufffd" * 4)
    assert done.stderr == f"morocco: {shown} is not UTF-8; results name their files; rename it\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variables", [{"MPLBACKEND": "nonsense", "HOME": "/etc/passwd"}, {"MPLCONFIGDIR": "/etc/passwd"}]
)
def test_a_report_is_drawn_and_nothing_is_reported(program, made, tmp_path, variables):
    variables = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)} | variables
    done = program("report", made / "b", "--out", tmp_path / "стр", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'стр'}/report.html\n", "")
    assert (tmp_path / "стр/report.html").read_text(encoding="utf-8").count("<figure>") == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"стр", ".config", ".cache"}  # nothing temporary is left


# -- streams and folders -------------------------------------------------------------------------------------------
PRINTING = {"help": ["--help"], "a result": ["eval", "terra", "preds.jsonl", "записи/TERRa/val.jsonl"]}
printing = pytest.mark.parametrize("args", PRINTING.values(), ids=PRINTING)


@printing
def test_a_pipe_that_closes_early_ends_it_silently(project, made, args):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{QUIET}:{project}"}
    done = subprocess.run([*MOROCCO, *args], cwd=made, env=environment, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@printing
def test_a_full_disk_behind_stdout_is_reported(program, made, args):
    done = program(*args, through=("sh", "-c", 'exec "$@" > /dev/full', "sh"), cwd=made)
    assert done.returncode == 3
    assert "No space left on device" in done.stderr and "stdout" in done.stderr
    assert done.stderr.startswith("morocco: ") and done.stderr.count("\n") == 1


@printing
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(program, made, args, closed):
    done = program(*args, through=("sh", "-c", f'exec "$@" {closed}', "sh"), cwd=made)
    assert done.returncode == 0
    if closed == "2>&-":
        assert done.stdout == program(*args, cwd=made).stdout
    elif "2" in closed:
        assert (done.stdout, done.stderr) == ("", "")


def test_a_current_folder_that_is_gone_is_named(program, made, tmp_path):
    through = ("sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh")
    for args in (("doctor",), ("data", "synthetic", "terra", "--out", "x")):
        done = program(*args, through=through, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "morocco: the current folder was removed; change into another one\n"
    done = program("verify", made / "b", through=through, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("verified: ")


@pytest.mark.parametrize(("mask", "files", "folders"), [("077", 0o600, 0o700), ("002", 0o664, 0o775)])
def test_results_are_as_open_as_the_umask_says(program, made, tmp_path, mask, files, folders):
    out, through = tmp_path / "веса", ("sh", "-c", f'umask {mask}; exec "$@"', "sh")
    done = program("train", "majority", "terra", "--data", made / "записи", "--out", out, through=through)
    assert done.returncode == 0
    modes = {p.stat().st_mode & 0o777 for p in out.rglob("*") if p.is_file()}
    assert modes == {files} and {p.stat().st_mode & 0o777 for p in (out, out / "weights")} == {folders}


# -- another user, other mounts ------------------------------------------------------------------------------------
@pytest.mark.parametrize("home", [{}, {"HOME": "/root"}], ids=["no home", "home of root"])
def test_a_user_without_name_and_home_makes_a_report_and_nothing_is_reported(program, made, place, theirs, home):
    through = another_user(place)
    done = program("report", made / "b", "--out", theirs / "стр", through=through, **home)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{theirs / 'стр'}/report.html\n", "")
    done = program("verify", made / "b", through=through, **home)
    assert done.returncode == 0


def test_a_folder_that_may_not_be_written_is_named(program, made, place):
    through = another_user(place)
    done = program("train", "majority", "terra", "--data", made / "записи", "--out", made / "нов", through=through)
    assert done.returncode == 3
    assert done.stderr == f"morocco: cannot write {made / 'нов'}: Permission denied; free or choose another disk\n"
    done = program("run", "params/plans/tiny.yaml", through=through)
    assert done.returncode == 3
    assert done.stderr.endswith("/outputs/tiny: Permission denied; choose another folder with --out\n")


@pytest.mark.slow
def test_a_plan_needs_no_network_not_even_the_loopback_address(program, theirs):
    if os.geteuid() or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("needs root and the right to unshare the network")
    done = program("run", "params/plans/tiny.yaml", "--out", theirs / "план", through=("unshare", "--net"))
    assert done.returncode == 0, done.stderr


def test_a_kernel_that_does_not_answer_is_a_failure_of_the_environment(monkeypatch, tmp_path):
    def silent(*args, **options):
        raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr("papermill.execute_notebook", silent)
    with pytest.raises(EnvironmentFailure) as failure:
        notebook_runner._papermill(
            ROOT / "notebooks/train.ipynb", tmp_path / "notebook.ipynb", {}, tmp_path, lambda: None
        )
    assert failure.value.exit_code == 3
    assert str(failure.value) == (
        f"the kernel did not start: Kernel didn't respond in 60 seconds; read {tmp_path}/kernel.log, then run the plan again"
    )


def without(folder: str) -> tuple[str, ...]:
    """Return the words that run a program for which an empty disk covers a folder."""
    return alone(f"mount -t tmpfs -o ro tmpfs {folder}")


@pytest.mark.parametrize("folder", ["/proc", "/sys"])
def test_a_bench_is_valid_where_the_kernel_shows_little(program, made, tmp_path, folder):
    args = ("--data", made / "записи/TERRa/val.jsonl", "--input-size", "60", "--repeats", "2", "--quick", "--json")
    command = f"'{sys.executable}' модель.py"
    done = program("bench", "--command", command, "terra", *args, "--out", tmp_path / "b", through=without(folder))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "VALID" and result["score"]["value"] > 0.3
    measured = result["ram_bytes"]["value"]
    assert measured is None and result["ram_bytes"]["reason"] if folder == "/proc" else measured > 2**20


# -- whole plans ---------------------------------------------------------------------------------------------------
def whole_plan(program, out, name="tiny", through=(), **variables):
    """Run a plan and return its progress; it is valid, its notebooks show their figures and nothing else."""
    folders = 1 + len(PLANS[name])  # synthetic records, too
    done = program("run", f"params/plans/{name}.yaml", "--out", out, through=through, **variables)
    assert done.returncode == 0, done.stderr
    head, row, *_, verified, page = done.stdout.splitlines()
    assert head.split()[:3] == ["task", "model", "score"]
    assert row.split()[:3] == ["terra", "tfidf", "0.800"] and row.endswith("VALID")
    assert verified.startswith(f"verified: {folders} step folders") and Path(page.removeprefix("report: ")).is_file()
    shown = [
        output
        for path in out.rglob("notebook.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
    ]
    assert not [o.text for o in shown if o.get("name") == "stderr"]
    (result,) = (json.loads(path.read_text()) for path in out.glob("tfidf/terra/bench-*/bench.json"))
    disc = all(result[name]["value"] for name in ("speed_per_s", "ram_bytes"))  # noise may have left no speed
    assert sum("image/png" in o.get("data", {}) for o in shown) == 1 + disc
    status = [status for _, status in steps.find_steps(out)]
    assert len(status) == folders and {(s["state"], s["exit"], s["code"]["commit"]) for s in status} == {
        ("done", 0, None)
    }
    assert program("verify", out, through=through, **variables).returncode == 0
    return done.stderr.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("temporary", "plan"), [(True, "bench"), (False, "tiny")], ids=["/tmp", "no /tmp"])
def test_a_user_without_rights_home_and_git_runs_a_whole_plan(program, place, theirs, temporary, plan):
    # All that may be written is the folder named by --out, and /tmp where there is one.
    closed = ("mount --bind '{0}' /mnt", "mount -t tmpfs tmpfs {1}", "mkdir -p '{0}'", "mount --move /mnt '{0}'")
    closed = [line.format(place, place.parent) for line in closed]
    closed += [f"mount -o remount,ro {place.parent}", "mount -t tmpfs -o ro tmpfs /var/tmp"]
    if not temporary and (place.parent != Path("/tmp") or Path(sys.prefix).is_relative_to("/tmp")):
        pytest.skip("the temporary folder is not /tmp, or the interpreter lies in it")
    through = another_user(place, *(() if temporary else closed))
    variables = {"LANG": "C", "PATH": "/nonexistent", "TZ": "nonsense", "MPLBACKEND": "TkAgg"}
    variables |= {} if temporary else {"HOME": "/"}
    through = ("/usr/bin/env", "PATH=/usr/sbin:/usr/bin:/bin", *through)
    first, *progress = whole_plan(program, theirs / "план", plan, through, **variables)
    assert first == f"plan {plan}: synthetic records; results go to {theirs / 'план'}"
    assert [line.split("] ")[1].rpartition(" in ")[0] for line in progress] == [
        *(f"{step} tfidf terra: done" for step in PLANS[plan][:-1]), "report: done"
    ]  # fmt: skip
    assert not list((theirs / "план").glob(".morocco-home-*"))


@pytest.mark.slow
def test_what_a_user_configured_for_himself_changes_no_plan(program, tmp_path):
    kernel = {"argv": ["/bin/false", "{connection_file}"], "display_name": "of another Python", "language": "python"}
    files = {
        ".ipython/profile_default/startup/00-mine.py": "cache, batch_size, display = {}, 7, None",
        ".ipython/profile_default/ipython_config.py": "c.InteractiveShell.ast_node_interactivity = 'all'",
        ".config/matplotlib/matplotlibrc": "savefig.dpi: nonsense\nfigure.figsize: 1, 1\n",
        ".jupyter/jupyter_config.py": "raise ValueError('read')",
        ".jupyter/jupyter_nbconvert_config.py": "raise ValueError('read')",
        "share/jupyter/kernels/python3/kernel.json": json.dumps(kernel),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "socks5://127.0.0.1:9")
    variables = {"HOME": str(tmp_path), "JUPYTER_PATH": str(tmp_path / "share/jupyter"), **proxies}
    plan, *progress = whole_plan(program, tmp_path / "out", **variables)
    assert plan.startswith("plan tiny: ") and [line.split(": ")[1][:5] for line in progress] == ["done "] * 4
    (bench,) = (status for _, status in steps.find_steps(tmp_path / "out") if status["step"] == "bench")
    assert bench["parameters"]["batch_size"] == 32  # and not that of the startup file


@pytest.mark.slow
def test_a_whole_plan_is_valid_without_proc_and_what_is_not_known_is_reported(program, theirs):
    whole_plan(program, theirs / "план", "bench", without("/proc"), HOME=str(theirs))
    page = next((theirs / "план").rglob("bench-*/notebook.html")).read_text(encoding="utf-8")
    assert "unknown CPU" in page and "unknown memory" in page
