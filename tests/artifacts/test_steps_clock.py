"""A step folder whose dates come from a clock that was set back."""

from morocco_lib import fileio
from morocco_lib.artifacts import steps, verify


def test_a_step_that_ends_before_it_began_by_the_clock_is_done_and_verifies(tmp_path, monkeypatch):
    dates = iter(["2030-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000Z"])
    monkeypatch.setattr(steps, "now", lambda: next(dates))
    with steps.Step.begin(tmp_path / "step", "check", parameters={}, inputs={}) as step:
        fileio.write_text(step.folder / "note.txt", "kept\n")
    status = steps.read_status(tmp_path / "step")
    assert status["state"] == "done" and status["ended"] < status["started"]
    assert all(finding.ok for finding in verify.verify(tmp_path / "step", {}))
