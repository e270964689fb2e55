"""GPU memory, energy and verdicts from written facts and samples."""

import pytest

from morocco_lib.analysis import gpu as estimate_gpu
from morocco_lib.analysis.gpu import gpu_energy, gpu_ram_bytes
from morocco_lib.analysis.run_files import Run
from morocco_lib.analysis.validity import gpu_reasons
from morocco_lib.reasons import Reason


def device(**facts):
    idle = {"processes": {}}
    known = {"uuid": "GPU-0", "mig_of": None, "idle": idle, "used_by_run": True, "others": [], "lost": False}
    return {**known, "state_samples": 100, "slowed_samples": 0, "calls": {}, "missing": {}, **facts}


def facts_of(*devices, pids_hidden=False, pids=(2, 20)):
    return {"source": "nvml", "pids_hidden": pids_hidden, "pids": list(pids), "devices": list(devices)}


def test_more_than_1_percent_slowed_samples_are_too_many():
    assert gpu_reasons(facts_of(device(slowed_samples=1))) == []
    assert gpu_reasons(facts_of(device(slowed_samples=2))) == [Reason.GPU_THROTTLED]
    assert gpu_reasons(facts_of(device(slowed_samples=9, used_by_run=False), device())) == []
    hidden = device(slowed_samples=9, used_by_run=False)
    assert gpu_reasons(facts_of(hidden, pids_hidden=True)) == [Reason.GPU_THROTTLED]


def test_others_count_where_the_run_is_and_more_than_for_a_moment():
    other = {"pid": 9, "samples": 2, "peak_bytes": 5, "graphics_only": False}
    assert gpu_reasons(facts_of(device(others=[other]))) == [Reason.OTHER_GPU_PROCESS]
    assert gpu_reasons(facts_of(device(others=[other | {"samples": 1}]))) == []
    assert gpu_reasons(facts_of(device(used_by_run=False, others=[other]), device())) == []
    assert gpu_reasons(facts_of(device(others=[other | {"graphics_only": True}]))) == [Reason.DISPLAY_ON_GPU]
    assert gpu_reasons("NO_GPU") == []


def make_run(gpu, lines=(), *, seconds=20.0, records=2000, arrivals=200) -> Run:
    arrived = [(1 + seconds * i / (arrivals - 1), records // arrivals) for i in range(arrivals)]
    return Run(None, {"gpu": gpu, "phases": {"ready_s": 1.0, "exit_s": 2 + seconds}}, arrived, [], list(lines))


def line(t_s, gpu=0, **reading):
    return {"t_ns": int(t_s * 1e9), "gpu": gpu, "processes": {}, "energy_j": None, **reading}


def test_gpu_memory_is_the_peak_of_the_sum_over_pids_and_gpus():
    lines = [
        line(1, 0, processes={"2": 100, "9": 5000}),
        line(1, 1, processes={"20": 50}),
        line(2, 0, processes={"2": 90}),
        line(2, 1, processes={"20": 80, "2": 10}),
        line(3, 0, processes={"2": None}),  # a size that was not told spoils its own sample only
        line(3, 1, processes={"20": 900}),
        line(4, 0, processes=None),
        line(4, 1, processes={}),
    ]
    assert gpu_ram_bytes(make_run(facts_of(device(), device()), lines)) == 180


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("NO_GPU", Reason.NO_GPU),
        (facts_of(device(used_by_run=False)), Reason.GPU_NOT_USED),
        (facts_of(device(used_by_run=False), pids_hidden=True), Reason.GPU_PIDS_HIDDEN),
        (facts_of(device()), Reason.GPU_NOT_TOLD),
        (
            facts_of(
                device(
                    used_by_run=False,
                    idle={"processes": None},
                    missing={"compute": {"reason": "NO_GPU_PERMISSION", "samples": 3}},
                )
            ),
            Reason.NO_GPU_PERMISSION,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gpu_memory_that_was_not_seen_is_none_with_its_reason(facts, reason):
    assert gpu_ram_bytes(make_run(facts, [line(1, processes={"2": None})])) is reason


def counter(t_s, watts=250, step_s=0.1):
    return 1000.0 + watts * (t_s // step_s) * step_s


def test_energy_is_what_the_counter_moved_between_the_first_and_the_last_answer():
    lines = [line(i / 50, energy_j=counter(i / 50)) for i in range(1200)]
    joules, records, method = gpu_energy(make_run(facts_of(device()), lines))
    assert joules == pytest.approx(250 * 20, rel=0.01) and records == 1990 and method == "counter"


def test_energy_of_two_gpus_is_their_sum_and_an_unused_one_is_not_in_it():
    gpus = facts_of(device(), device(used_by_run=False), device())
    lines = [
        line(i / 50, gpu, energy_j=counter(i / 50, watts))
        for i in range(1200)
        for gpu, watts in enumerate((100, 900, 50))
    ]
    assert gpu_energy(make_run(gpus, lines))[0] == pytest.approx(150 * 20, rel=0.01)


def test_power_is_integrated_where_there_is_no_counter_and_the_result_says_so():
    lines = [line(i / 10, power_w=100 + 10 * i / 10) for i in range(240)]
    joules, _, method = gpu_energy(make_run(facts_of(device()), lines))
    assert method == "power" and joules == pytest.approx(20 * (110 + 310) / 2, rel=0.001)
    found = estimate_gpu.summarise_gpu(facts_of(device()), [make_run(facts_of(device()), lines)])["energy_j_per_record"]
    assert found["method"] == "power" and found["scope"] == "run" and found["low"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seconds": 9.9}, Reason.BELOW_RESOLUTION),
        ({"arrivals": 4}, Reason.NO_STREAM),
        ({"energy": lambda t: 1000.0}, Reason.BELOW_RESOLUTION),
        ({"energy": lambda t: counter(t, step_s=4)}, Reason.BELOW_RESOLUTION),
        ({"energy": lambda t: counter(t) if t < 10 else 5.0 + t}, Reason.NO_ENERGY_COUNTER),
        ({"energy": lambda t: None}, Reason.NO_ENERGY_COUNTER),
        ({"until": 10}, Reason.NO_SAMPLES),
        ({"mig_of": "GPU-A"}, Reason.NO_ENERGY_COUNTER),
        ({"used_by_run": False}, Reason.GPU_NOT_USED),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_energy_that_cannot_be_had_is_none_with_its_reason(change, reason):
    change = dict(change)
    energy, until = change.pop("energy", counter), change.pop("until", 24)
    lines = [line(i / 50, energy_j=energy(i / 50)) for i in range(until * 50)]
    shape = {name: change.pop(name) for name in ("seconds", "arrivals") if name in change}
    assert gpu_energy(make_run(facts_of(device(**change)), lines, **shape)) is reason


def test_energy_has_an_interval_between_runs():
    gpu = facts_of(device())
    runs = [
        make_run(gpu, [line(i / 50, energy_j=counter(i / 50, watts, 0.02), processes={"2": 5}) for i in range(1200)])
        for watts in (240, 250, 260)
    ]
    found = estimate_gpu.summarise_gpu(gpu, runs)
    energy, ram = found["energy_j_per_record"], found["gpu_ram_bytes"]
    assert energy["value"] == pytest.approx(250 * 20 / 1990, rel=0.01) and energy["scope"] == "runs"
    assert energy["low"] < energy["value"] < energy["high"] and energy["method"] == "counter"
    assert ram == {"value": 5.0, "low": 5.0, "high": 5.0, "method": "nvml", "scope": "runs"}


def test_a_lost_gpu_is_a_reason():
    assert gpu_reasons(facts_of(device(lost=True), device())) == [Reason.GPU_LOST]
