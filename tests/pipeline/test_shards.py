"""A plan in parts: each task with all its models in one, nothing twice, and together the whole."""

import pytest
from helpers import ROOT

from morocco_lib import config
from morocco_lib.artifacts import steps
from morocco_lib.errors import UsageError
from morocco_lib.pipeline import plan_run
from morocco_lib.pipeline.plan_run import PlanRun
from morocco_lib.pipeline.ray_executor import cores_of_part
from morocco_lib.pipeline.step_kinds import KINDS
from morocco_lib.reasons import DISTURBED, EXIT_CODES

PLAN = config.load_plan(ROOT / "params/plans/tfidf.yaml", KINDS)


def part(number, count, folder):
    return PlanRun(PLAN, ROOT, folder, shard=(number, count))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_together_are_the_plan_and_a_task_is_in_one(count, tmp_path):
    parts = [part(number, count, tmp_path) for number in range(1, count + 1)]
    assert sorted(task for one in parts for task in one.plan.tasks) == sorted(PLAN.tasks)
    assert all(
        {m for m, t in one.cells() if t == task} == {"majority", "tfidf"} for one in parts for task in one.plan.tasks
    )
    (with_terra,) = (one for one in parts if "terra" in one.plan.tasks)
    assert "lidirus" in with_terra.plan.tasks  # is answered by what is trained on TERRa
    assert all(one.task_names == {*one.plan.tasks} for one in parts)
    assert max(len(one.plan.tasks) for one in parts) <= -(-len(PLAN.tasks) // count) + 1


def test_steps_of_a_part_are_those_of_the_whole(tmp_path, synthetic_data):
    def trainings(shard):
        job = PlanRun(PLAN.model_copy(update={"overrides": []}), ROOT, tmp_path, str(synthetic_data), shard=shard)
        return {step.folder for step in job.preview() if step.step == "train" and step.folder}

    assert trainings((1, 2)) | trainings((2, 2)) == trainings((1, 1)) and not trainings((1, 2)) & trainings((2, 2))


def test_more_parts_than_trainings_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"part 3 of 9.*trains on 8"):
        part(3, 9, tmp_path)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/", "a/b", "1/2/3"])
def test_what_is_no_part_is_refused(main, text, tmp_path):
    done = main("run", ROOT / "params/plans/demo.yaml", "--shard", text, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2 and "as 1/3, 2/3 and 3/3" in done.stderr


def test_a_part_lists_its_steps_alone(main, tmp_path):
    done = main(
        "run", ROOT / "params/plans/demo.yaml", "--shard", "2/3", "--dry-run", "--out", tmp_path / "out", cwd=ROOT
    )
    assert done.returncode == 0 and "part 2 of 3: muserc" in done.stderr, done.stderr
    assert "tfidf muserc" in done.stdout and "rwsd" not in done.stdout and "terra" not in done.stdout


# -- parts on a cluster --------------------------------------------------------------------------------------------
def test_what_other_machines_finished_is_kept_and_nothing_else_is_run_here(tmp_path, synthetic_data, monkeypatch):
    monkeypatch.setattr(plan_run.seeds_table, "write", lambda *_: None)  # it reads what a training has written
    plan = PLAN.model_copy(update={"tasks": ["terra"], "overrides": [], "steps": ["train"]})
    here, gathering = (PlanRun(plan, ROOT, tmp_path, str(synthetic_data), elsewhere=there) for there in (False, True))
    folder = gathering.preview()[0].folder
    steps.Step.begin(folder, "train", parameters={}, inputs={}).finish(steps.DONE, EXIT_CODES[DISTURBED])
    assert here.preview()[0].state == "to do"  # it is repeated
    result = gathering.run(lambda *_: None)
    assert [(step.model, step.state, step.exit) for step in result.steps] == [
        ("majority", "kept", 3),
        ("tfidf", "failed", 1),
    ]
    assert "its part has not finished it" in result.steps[1].error and not list(tmp_path.rglob("*.ipynb"))


def test_a_part_has_to_do_with_what_its_models_are_trained_on(tmp_path):
    lidirus = PLAN.model_copy(update={"tasks": ["lidirus", "rcb"], "overrides": []})
    assert PlanRun(lidirus, ROOT, tmp_path, shard=(1, 2)).task_names == {"lidirus", "terra"}


def test_a_part_makes_no_report(tmp_path):
    assert [kind.name for kind in part(1, 1, tmp_path).plan_steps()] == ["report"] and not part(
        1, 2, tmp_path
    ).plan_steps()


@pytest.mark.parametrize("options", [[], ["--shard", "1/2"], ["--force"], ["--fresh"]])
def test_a_cluster_needs_a_bucket_and_makes_its_own_parts(main, options, tmp_path):
    bucket = ["--sync", "s3://bucket/plan"] if options else []
    done = main("run", ROOT / "params/plans/demo.yaml", "--executor", "ray", *bucket, *options, cwd=tmp_path)
    assert done.returncode == 2 and "with --sync, without --shard, --force and --fresh" in done.stderr


def test_an_address_is_of_a_cluster(main, tmp_path):
    done = main("run", ROOT / "params/plans/demo.yaml", "--address", "head:6379", cwd=tmp_path)
    assert done.returncode == 2 and "add --executor ray" in done.stderr


def test_parts_on_one_machine_share_its_cores_and_none_a_core(tmp_path):
    for cpu in range(8):  # two sockets of two cores, of which each has the threads n and n + 4
        (tmp_path / f"cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}/topology/physical_package_id").write_text(f"{cpu % 2}\n")
        (tmp_path / f"cpu{cpu}/topology/core_id").write_text(f"{cpu // 2 % 2}\n")
    assert [cores_of_part(range(8), n, 2, tmp_path) for n in range(2)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [cores_of_part(range(8), n, 3, tmp_path) for n in range(3)] == [[0, 4], [2, 6], [1, 3, 5, 7]]
    assert [cores_of_part(range(8), n, 5, tmp_path) for n in range(5)] == [[*range(8)]] * 5
    assert [cores_of_part([2, 3, 7], n, 2, tmp_path / "unknown") for n in range(2)] == [[2], [3, 7]]
