"""Images made here are known by a record of ours, not by their labels and names."""

from types import SimpleNamespace

import pytest

from morocco_lib.images import build, records
from morocco_lib.runners import engine

STAGES = [build._Stage("model", {}, "x"), build._Stage("task", {}, "x", {"a": "b"})]


@pytest.fixture
def held(tmp_path, monkeypatch):
    """The images that an engine holds: name or id -> id."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    images: dict[str, str] = {}
    known = lambda client, name: SimpleNamespace(id=images[name]) if name in images else None  # noqa: E731
    monkeypatch.setattr(engine, "held", known)
    return images


@pytest.mark.parametrize("stage", STAGES, ids=["by its name", "by its id"])
def test_only_an_image_that_was_made_here_is_used_again(held, stage):
    name = stage.tag or "sha256:ours"
    held[name] = "sha256:theirs" if stage.tag else "sha256:ours"
    assert build._held(None, stage) is None  # none was made here, whatever bears its name
    records.remember(stage.key, "sha256:other-engine")
    records.remember(stage.key, "sha256:ours")
    assert build._held(None, stage) == (None if stage.tag else name)
    held[name] = "sha256:ours"
    assert build._held(None, stage) == name
    held.clear()
    assert build._held(None, stage) is None
    held[stage.tag or "sha256:other-engine"] = "sha256:other-engine"
    assert build._held(None, stage)


def test_without_a_place_for_records_an_image_is_made_again(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    records.remember("key", "sha256:ours")
    assert records.made("key") == []
