"""The folder of a plan that is started anew."""

from datetime import UTC, datetime

from morocco_lib import config
from morocco_lib.pipeline import plan_run


def test_a_fresh_plan_gets_a_folder_of_its_own_though_the_clock_was_set_back(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    monkeypatch.setattr(plan_run, "datetime", Stopped)
    plan = config.PlanParams(name="small", tasks=["terra"], models=["majority"])
    made = []
    for _ in range(3):
        made.append(plan_run.plan_folder(plan, tmp_path, None, fresh=True))
        made[-1].mkdir(parents=True)
    assert [folder.name for folder in made] == [f"small-20260102-030405{end}" for end in ("", "-2", "-3")]
