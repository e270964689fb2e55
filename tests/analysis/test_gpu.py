"""Facts and samples of GPUs -> memory and energy of a run."""

import pytest
from run_folders import run_of

from morocco_lib.analysis.gpu import gpu_energy, gpu_ram_bytes, summarise_gpu
from morocco_lib.reasons import Reason


def device(**facts):
    return {"mig_of": None, "idle": {"processes": {}}, "used_by_run": True, "missing": {}, **facts}


def facts_of(*devices, pids_hidden=False):
    return {"source": "nvml", "pids_hidden": pids_hidden, "pids": [2, 20], "devices": list(devices)}


ONE = facts_of(device())
UNUSED = {"used_by_run": False}


def gpu_run(gpu, lines=(), *, seconds=20.0, arrivals=200):
    """Return a run of 2,000 records from 1 s on."""
    arrived = [(1 + seconds * i / (arrivals - 1), 2000 // arrivals) for i in range(arrivals)]
    return run_of(arrived, gpu_samples=lines, gpu=gpu)


def line(t_s, gpu=0, **reading):
    return {"t_ns": int(t_s * 1e9), "gpu": gpu, "processes": {}, "energy_j": None, **reading}


# -- memory --------------------------------------------------------------------------------------------------------
def test_gpu_memory_is_the_peak_of_the_sum_over_pids_and_gpus():
    lines = [
        line(1, 0, processes={"2": 100, "9": 5000}),
        line(1, 1, processes={"20": 50}),
        line(2, 0, processes={"2": 90}),
        line(2, 1, processes={"20": 80, "2": 10}),
        line(3, 0, processes={"2": None}),  # an unknown size spoils its own sample only
        line(3, 1, processes={"20": 900}),
        line(4, 0, processes=None),
        line(4, 1, processes={}),
    ]
    assert gpu_ram_bytes(gpu_run(facts_of(device(), device()), lines)) == 180


NO_PERMISSION = {"idle": {"processes": None}, "missing": {"compute": {"reason": "NO_GPU_PERMISSION", "samples": 3}}}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("NO_GPU", Reason.NO_GPU),
        (facts_of(device(**UNUSED)), Reason.GPU_NOT_USED),
        (facts_of(device(**UNUSED), pids_hidden=True), Reason.GPU_PIDS_HIDDEN),
        (ONE, Reason.GPU_NOT_TOLD),
        (facts_of(device(**UNUSED, **NO_PERMISSION)), Reason.NO_GPU_PERMISSION),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gpu_memory_that_is_unknown_is_none_with_its_reason(facts, reason):
    assert gpu_ram_bytes(gpu_run(facts, [line(1, processes={"2": None})])) is reason


# -- energy --------------------------------------------------------------------------------------------------------
def counter(t_s, watts=250, step_s=0.1):
    return 1000.0 + watts * (t_s // step_s) * step_s


def counted(watts=250, gpu=0, until_s=24, **options):
    return [line(i / 50, gpu, energy_j=counter(i / 50, watts, **options)) for i in range(50 * until_s)]


def test_energy_is_what_the_counter_moved_between_the_first_and_the_last_answer():
    joules, records, method = gpu_energy(gpu_run(ONE, counted()))
    assert joules == pytest.approx(250 * 20, rel=0.01) and records == 1990 and method == "counter"


def test_the_records_of_the_first_answer_are_not_in_it():
    run = gpu_run(ONE, counted())
    run.arrivals[0] = (1.0, 30)
    assert gpu_energy(run)[1] == 1990


def test_between_two_readings_the_counter_is_interpolated():
    lines = [line(t_s, energy_j=100.0 * t_s) for t_s in [0.9, 1.3, *range(2, 21), 22]]
    assert gpu_energy(gpu_run(ONE, lines))[0] == pytest.approx(2000.0)


def test_energy_of_two_gpus_is_their_sum_and_an_unused_one_is_not_in_it():
    gpus = facts_of(device(), device(**UNUSED), device())
    lines = [sample for gpu, watts in enumerate((100, 900, 50)) for sample in counted(watts, gpu)]
    assert gpu_energy(gpu_run(gpus, lines))[0] == pytest.approx(150 * 20, rel=0.01)


def powered(step=1):
    return [line(i / 10, power_w=100 + 10 * i / 10) for i in range(0, 240, step)]


def test_power_is_integrated_where_there_is_no_counter_and_the_result_says_so():
    joules, _, method = gpu_energy(gpu_run(ONE, powered()))
    assert method == "power" and joules == pytest.approx(20 * (110 + 310) / 2, rel=0.001)
    energy = summarise_gpu(ONE, [gpu_run(ONE, powered()), gpu_run(ONE, counted())])["energy_j_per_record"]
    assert energy["method"] == "power" and energy["scope"] == "runs"


@pytest.mark.parametrize(
    ("lines", "options", "reason"),
    [
        (counted(), {"seconds": 9.9}, Reason.BELOW_RESOLUTION),
        (counted(), {"arrivals": 4}, Reason.NO_STREAM),
        (counted(watts=0), {}, Reason.BELOW_RESOLUTION),
        (counted(step_s=2.5), {}, Reason.BELOW_RESOLUTION),  # nine steps
        (counted(until_s=10) + [line(10 + i / 50, energy_j=5.0 + i) for i in range(700)], {}, Reason.NO_ENERGY_COUNTER),
        ([line(i) for i in range(24)], {}, Reason.NO_ENERGY_COUNTER),
        (counted(until_s=10), {}, Reason.NO_SAMPLES),
        (counted()[61:], {}, Reason.NO_SAMPLES),  # from 1.22 s on: more than 1 % later than the first answer
        (counted()[:1040], {}, Reason.NO_SAMPLES),  # to 20.78 s
        (powered(step=11), {}, Reason.NO_SAMPLES),  # with gaps of 1.1 s
        (powered()[:100] + powered()[111:], {}, Reason.NO_SAMPLES),  # with one
    ],
)
def test_energy_that_cannot_be_measured_is_none_with_its_reason(lines, options, reason):
    assert gpu_energy(gpu_run(ONE, lines, **options)) is reason


def test_ten_seconds_ten_steps_and_a_hundredth_at_either_end_are_enough():
    assert gpu_energy(gpu_run(ONE, counted(), seconds=10.0))[2] == "counter"
    assert gpu_energy(gpu_run(ONE, counted(step_s=2.2)))[2] == "counter"
    assert gpu_energy(gpu_run(ONE, counted()[60:1041]))[2] == "counter"  # 1.2 s to 20.8 s
    assert gpu_energy(gpu_run(ONE, powered(step=10)))[2] == "power"


def test_five_arrivals_are_a_stream_and_without_a_gpu_there_is_no_energy():
    assert gpu_energy(gpu_run(ONE, counted(), arrivals=5))[2] == "counter"
    assert gpu_energy(gpu_run("NO_GPU", [])) is Reason.NO_ENERGY_COUNTER


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"mig_of": "GPU-A"}, Reason.NO_ENERGY_COUNTER), (UNUSED, Reason.GPU_NOT_USED)],
)
def test_an_instance_and_an_unused_gpu_have_no_energy(changed, reason):
    assert gpu_energy(gpu_run(facts_of(device(**changed)), counted())) is reason


def test_energy_and_memory_have_an_interval_between_runs():
    runs = []
    for watts in (240, 250, 260):
        runs.append(gpu_run(ONE, [{**sample, "processes": {"2": 5}} for sample in counted(watts, step_s=0.02)]))
    result = summarise_gpu(ONE, runs)
    energy, ram = result["energy_j_per_record"], result["gpu_ram_bytes"]
    assert energy["value"] == pytest.approx(250 * 20 / 1990, rel=0.01) and energy["scope"] == "runs"
    assert energy["low"] < energy["value"] < energy["high"] and energy["method"] == "counter"
    assert ram == {"value": 5.0, "low": 5.0, "high": 5.0, "method": "nvml", "scope": "runs"}


def test_one_run_without_energy_leaves_the_point_without_it():
    runs = [gpu_run(ONE, counted()), gpu_run(ONE, counted(), arrivals=4)]
    assert summarise_gpu(ONE, runs)["energy_j_per_record"] == {"value": None, "reason": Reason.NO_STREAM}
    assert summarise_gpu(ONE, [])["energy_j_per_record"] == {"value": None, "reason": Reason.NO_VALID_RUN}


def test_without_a_gpu_its_code_is_the_reason():
    assert summarise_gpu("GPU_NOT_SAMPLED", []) == {
        "gpu_ram_bytes": {"value": None, "reason": "GPU_NOT_SAMPLED"},
        "energy_j_per_record": {"value": None, "reason": Reason.NO_ENERGY_COUNTER},
    }
