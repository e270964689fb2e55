"""The public API: what `import morocco_lib` exports, without importing anything heavy, and that `help()` is enough to use it."""

import enum
import inspect
import subprocess
import sys

import pytest
from helpers import ROOT

import morocco_lib

NAMES = [
    "DockerRunner", "EnvironmentFailure", "Hooks", "InvalidResult", "Limits", "MoroccoError", "ProcessRunner", "Program",
    "Reason", "Target", "UsageError", "bench", "check", "evaluate", "fit", "get_task", "start_session", "task_names", "verify",
]  # fmt: skip
HEAVY = ("torch", "pandas", "matplotlib", "sklearn", "scipy", "docker", "numpy", "pydantic", "yaml", "papermill")


def test_exactly_the_listed_names_are_exported():
    assert [*NAMES, "__version__"] == sorted(morocco_lib.__all__, key=lambda name: (name[0] == "_", name))
    assert dir(morocco_lib) == sorted(morocco_lib.__all__)
    with pytest.raises(AttributeError, match=r"no public name 'benches'; it has .*\bbench\b"):
        morocco_lib.benches  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_argument_and_what_is_returned(name):
    public = getattr(morocco_lib, name)
    text = inspect.getdoc(public) or ""
    assert text.splitlines()[0].endswith((".", ":"))
    if inspect.isclass(public) and issubclass(public, Exception | enum.Enum):
        return
    parameters = [p for p in inspect.signature(public).parameters.values() if p.kind != p.VAR_KEYWORD]
    missing = [p.name for p in parameters if p.name not in text]
    assert not missing and (inspect.isclass(public) or "Return" in text or "return" in text.splitlines()[0]), missing


@pytest.mark.parametrize(
    "code",
    [
        "import morocco_lib",
        "import morocco_lib.cli.entry as cli\ntry: cli.main(['bench', '--help'])\nexcept SystemExit: pass",
        "import morocco_lib.cli.entry as cli\ncli.main(['eval', 'terra', 'missing', 'missing'])",
    ],
    ids=["import", "help", "eval"],
)
def test_nothing_heavy_is_imported_before_it_is_used(code):
    code += f"\nimport sys; print('heavy:', *sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "heavy:"
