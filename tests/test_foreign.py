"""What others wrote comes through one gate, and does no harm whatever it is."""

import ast
import gzip
import json
import os
import re
import tarfile

import pytest
from helpers import ROOT

from morocco_lib import foreign
from morocco_lib.artifacts import steps
from morocco_lib.config.schema import read_yaml
from morocco_lib.errors import UsageError
from morocco_lib.legacy import logs
from morocco_lib.models import weights
from morocco_lib.tasks.jsonl import open_lines

# -- nobody else opens ---------------------------------------------------------------------------------------------
READS = {"open", "fdopen", "read_text", "read_bytes", "loads", "load_file", "decompress", "ZipFile", "reads"}
PARSERS = {"json", "yaml", "pickle", "torch", "np", "numpy", "tomllib", "marshal"}  # whose `load` reads, too
OURS = {  # module, or module:function -> why it may
    "foreign.py": "the gate",
    "monitors/": "the kernel's files",
    "runners/process.py": "the kernel's files, and the first bytes of the program that the user names",
    "runners/confined.py": "the kernel's files; of folders of the user's only handles",
    "runners/docker.py:_open_pidfd": "the kernel's file",
    "runners/engine.py:holds_files": "two names of a stream of the engine",
    "cli/entry.py": "/dev/null",
    "doctor.py:ask_torch": "what its own few lines print",
    "cloud/remote.py:_send": "an archive that it writes",
    "cloud/remote.py:_script": "the package's own",
    "cli/images.py:read_credential": "/dev/null",
    "images/build.py:dockerfile": "the package's own",
    "images/build.py:_with_buildkit": "a temporary file of its own",
    "images/registry.py:_settings": "the user's settings of Docker",
    "data/synthetic/_templates.py:load": "the package's own",
    "data/download.py:_unpack": "an archive of known digest; members by size and name",
    "config/schema.py:read_yaml": "the one reader of YAML: bytes from the gate, values counted by it",
    "leaderboard/archive.py": "what it writes, and the gate for archives",
    "legacy/logs.py:_within_archive": "an archive unpacked by the gate",
    "models/lean_albert/checkpoint.py:weights_of": "tensors alone, of a path that the gate has checked",
    "models/weights.py:load": "safetensors, of a path that the gate has checked",
    "models/transformer/model.py:from_folder": "the same",
    "report/interactive.py:scripts": "the package's own, and of its charting library",
    "report/render.py:notebook_html": "nbformat, of a text from the gate",
    "report/bounds.py:json_bound": "json.loads is what it times",
    "artifacts/verify.py:compare": "what it has just dumped",
    "training/swarm.py:_read": "tensors alone, that this user's interrupted peer left",
    "training/trainer.py:last_checkpoint": "what this user's interrupted training left",
    "training/finetune.py:values_of": "what transformers has just returned",
    "training/pretraining/loop.py:_resume": "what this user's interrupted training left",
    "training/pretraining/pretrain.py:_work_folder": "the same",
    "training/pretraining/sparsity.py:load": "safetensors, of a path that the gate has checked",
    "training/seeds.py:_resume": "what this user's interrupted training left",
    "pipeline/kernel_server.py:_become_kernel": "what the plan has just written",
    "pipeline/saved_notebooks.py:scrub": "the project's own notebooks",
}


def is_read(call: ast.Call) -> bool:
    name, owner = getattr(call.func, "attr", getattr(call.func, "id", "")), getattr(call.func, "value", None)
    if getattr(owner, "id", "") == "foreign":
        return False
    modes = [word.value for word in (*call.args, *(k.value for k in call.keywords)) if isinstance(word, ast.Constant)]
    writes = name in ("open", "fdopen") and any(re.fullmatch("[wax]b?[+]?", str(mode)) for mode in modes)
    return (name in READS and not writes) or (name == "load" and getattr(owner, "id", "") in PARSERS)


def functions(tree: ast.AST, name: str = ""):
    """Yield (name of the innermost function around it, call)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield name, node
        yield from functions(node, node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else name)


def test_nothing_but_the_gate_opens_what_others_wrote():
    used = set()
    for path in sorted((ROOT / "morocco_lib").rglob("*.py")):
        module = path.relative_to(ROOT / "morocco_lib").as_posix()
        for function, call in functions(ast.parse(path.read_text())):
            if is_read(call):
                names = {module, f"{module.split('/')[0]}/", f"{module}:{function}"} & OURS.keys()
                assert names, f"{module}, line {call.lineno}: read it through foreign.py: {ast.unparse(call)}"
                used |= names
    assert used == OURS.keys()


# -- files ---------------------------------------------------------------------------------------------------------
def fifo(path):
    os.mkfifo(path)


def link(path):
    path.symlink_to("/etc/hostname")


def zeros(path):
    path.symlink_to("/dev/zero")


def huge(path):
    with path.open("wb") as file:
        file.truncate(foreign.FILE_BYTES + 1)


@pytest.mark.parametrize("make", [fifo, zeros, huge])
@pytest.mark.parametrize(
    "read",
    [foreign.read_bytes, foreign.sha256_file, foreign.read_json, read_yaml, lambda path: open_lines(path).__enter__()],
)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make, read):
    make(tmp_path / "odd.jsonl")
    with pytest.raises(UsageError, match=r"odd\.jsonl"):
        read(tmp_path / "odd.jsonl")


@pytest.mark.parametrize("make", [link, zeros])
def test_a_link_is_followed_where_the_user_names_it_and_not_inside_a_folder(tmp_path, make):
    (tmp_path / "folder/in").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (tmp_path / "folder/linked").symlink_to(tmp_path / "folder/in")
    (tmp_path / "folder/in/file").write_text("f")
    (tmp_path / "given").symlink_to(tmp_path / "folder")
    make(tmp_path / "folder/in/out")
    assert foreign.read_text(tmp_path / "given/in/file") == foreign.read_text(
        tmp_path / "given/in/file", tmp_path / "given"
    )
    for name in ("in/out", "linked/file", "../secret", "in/../in/file"):
        with pytest.raises(UsageError, match="is a link"):
            foreign.opened(tmp_path / "folder" / name, tmp_path / "folder")
    with pytest.raises(ValueError, match="not in the subpath"):
        foreign.opened("/etc/hostname", tmp_path)
    with pytest.raises(FileNotFoundError):
        foreign.opened(tmp_path / "folder/none", tmp_path / "folder")


def test_a_pipe_of_the_shell_is_read(tmp_path):
    read, write = os.pipe()
    os.write(write, b"{}\n")
    os.close(write)
    with open_lines(tmp_path.__class__(f"/dev/fd/{read}")) as lines:
        assert list(lines) == [b"{}\n"]
    os.close(read)


def test_what_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "UNPACKED_LEAST", 1 << 20)
    bomb = tmp_path / "val.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"\n" * (2 << 20)))
    with pytest.raises(UsageError, match="unpacks to more than"), open_lines(bomb) as lines:
        for _ in lines:
            pass
    (tmp_path / "logs.tar.gz").write_bytes(bomb.read_bytes())
    with pytest.raises(UsageError, match="unpacks to more than"):
        logs.read_all([tmp_path / "logs.tar.gz"])


@pytest.fixture
def deep(tmp_path):
    """A folder 1,200 deep; pytest could not remove it."""
    folders = [tmp_path / "d"]
    for _ in range(1200):
        folders.append(folders[-1] / "d")
    for folder in folders:
        folder.mkdir()
    yield folders[0]
    for folder in reversed(folders):
        folder.rmdir()


def test_a_folder_of_others_is_walked_however_deep_and_no_link_is_followed(deep):
    (deep.parent / "up").symlink_to(deep)
    assert list(foreign.tree(deep.parent)) == [(deep.parent / "up", False)]
    with pytest.raises(UsageError, match="folders below each other"):
        steps.find_files(deep, steps.STATUS)


# -- JSON and YAML -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[" * 100_000, "broken JSON"), (b"[" * 100 + b"]" * 100, "nested more than 64 deep"), (b'{"a": NaN}', "NaN is not JSON"),
        (b"[-Infinity]", "is not JSON"), (b"1e999", "no 64-bit number"), (b"9" * 5000, "broken JSON"), (b"9" * 20, "no 64-bit number"),
        (b"-9223372036854775808", "no 64-bit number"), (b'{"a": 1, "a": 2}', "duplicate key 'a'"), (b'"\\ud800"', "half a character"),
        (b"\xff", "not UTF-8"), (b"", "broken JSON"),
    ],
    ids=range(12),
)  # fmt: skip
def test_json_of_others_is_refused_in_words(tmp_path, raw, words):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(UsageError, match=words):
        foreign.read_json(tmp_path / "a.json")


def test_json_of_others_is_read():
    assert foreign.parse(b'{"a": [-9223372036854775807, 1.5e300, "\\ud83d\\ude00"]}') == {
        "a": [-(2**63 - 1), 1.5e300, "😀"]
    }


@pytest.mark.parametrize(
    "text",
    [
        "b0: &b0 [1, 2, 3]\n" + "".join(f"b{k}: &b{k} [{', '.join([f'*b{k - 1}'] * 10)}]\n" for k in range(1, 9)),
        "a: &a [*a]\n", "a: " + "[" * 200_000, "#" * (2 << 20), "a: " + "{b: " * 100 + "}" * 100, "? [a]\n: 1\n", "!!python/object:os.system {}\n",
        "a: !!binary x\n", "a: !!int x\n", "a: !!timestamp x\n", "a: !!float x\n",
    ],
    ids=["laughs", "circle", "deep", "large", "nested", "list as key", "object", "binary", "int", "timestamp", "float"],
)  # fmt: skip
def test_yaml_of_others_is_refused_in_words(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"a\.yaml is (not YAML|larger)"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "it.a is absent"), ({"a": "x"}, "it.a is 'x', not float"), ({"a": 1, "b": ["x", 1]}, r"it.b\[1\] is 1, not str"),
        ({"a": 1, "c": {"x": None}}, "it.c.x is None, not int"), ([], "it is "), ({"a": 1, "b": 1}, "it.b is 1"),
    ],
)  # fmt: skip
def test_a_value_of_another_shape_is_named(value, words):
    shape = {"a": float, "b?": ([str], None), "c?": {str: int}}
    foreign.fits({"a": 1, "b": None, "c": {"x": 1}, "d": object}, shape)
    foreign.fits({"a": 1.5, "b": []}, shape)
    with pytest.raises(ValueError, match=words):
        foreign.fits(value, shape)


# -- folders of others ---------------------------------------------------------------------------------------------
def test_a_link_in_a_weights_folder_is_packed_into_no_image(fitted, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for name in (weights.VALUES, weights.ARRAYS, weights.TOKENIZER):
        folder = tmp_path / name
        folder.mkdir()
        for path in weights.files(fitted):
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(fitted / name if name == weights.VALUES else tmp_path / "secret")
        for use in (weights.files, weights.load):
            with pytest.raises(UsageError, match=f"{name} is a link"):
                use(folder)
    (tmp_path / "step").mkdir()
    (tmp_path / "step/weights").symlink_to(fitted)
    with pytest.raises(UsageError, match="weights is a link"):
        weights.files(tmp_path / "step")
    (tmp_path / "given").symlink_to(fitted)
    assert len(weights.files(tmp_path / "given")) == 2


def test_a_linked_folder_among_logs_is_refused_and_not_walked(tmp_path):
    folder = tmp_path / "m/t"
    folder.mkdir(parents=True)
    (folder / "2_1_01.jsonl").write_text(json.dumps(dict.fromkeys(logs.KEYS, 1.0)) + "\n")
    for name in "abc":
        (folder / name).symlink_to(tmp_path / "m")
        (tmp_path / "m" / name).symlink_to(folder)
    with pytest.raises(UsageError, match=r"cannot read .*/m/a: Is a directory"):
        logs.read_all([tmp_path / "m"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_files_of_an_archive_are_logs(tmp_path, kind):
    with tarfile.open(tmp_path / "logs.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("m/t/2_1_01.jsonl")
        info.type, info.linkname = kind, "m/t/2_1_01.jsonl"
        tar.addfile(info)
    with pytest.raises(UsageError, match="is no file"):
        logs.read_all([tmp_path / "logs.tar.gz"])


# -- shown ---------------------------------------------------------------------------------------------------------
def test_what_would_steer_a_terminal_is_written_out(main, tmp_path):
    evil = "\x1b[2J\x9b31m\u202e\rVALID\x00"
    assert foreign.shown(f"a{evil}\tя\n") == "a\\u001b[2J\\u009b31m\\u202e\\u000dVALID\\u0000\tя\n"
    assert json.loads(foreign.shown(json.dumps(evil, ensure_ascii=False))) == evil
    done = main("eval", "terra", "nothing", f"{tmp_path}/{evil[:-1]}")
    assert (
        done.returncode == 2 and "\x1b" not in done.stderr and "\x9b" not in done.stderr and "u001b[2J" in done.stderr
    )


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_text_of_others(text):
    assert foreign.cell(text) == f"'{text}"
    assert (foreign.cell(-1.5), foreign.cell("a=1"), foreign.cell(None)) == (-1.5, "a=1", None)
