"""How large runs are that are drawn, calibrated, or look for a cache."""

import pytest

from morocco_lib.benchmark import extent


@pytest.mark.parametrize(
    ("per_s", "batch_size", "records", "most", "size"),
    [
        (800.4, 8, 600, 9000, 600),  # the file, as it takes 0.75 s
        (800.4, 8, 6000, 9000, 801),  # a second
        (800.4, 8, 60, 9000, 401),  # half a second
        (30.0, 8, 60, 9000, 80),  # ten batches
        (9e5, 32, 60, 2000, 2000),
        (1.0, 32, 60, 100, 100),
        (None, 8, 60, 2000, 2000),
    ],
)
def test_a_run_that_looks_for_a_cache_is_of_the_file_if_that_is_half_a_second_to_a_second(
    per_s, batch_size, records, most, size
):
    assert extent.probe_size(per_s, batch_size, records, most) == size


def test_where_only_whole_runs_tell_the_work_is_longer_than_the_first_use():
    assert extent.probe_size(100.0, 8, 60, 5000, first_use_s=3.0) == 600
    assert extent.probe_size(100.0, 8, 60, 5000, first_use_s=0.1) == 80


def test_drawn_sizes_are_whole_batches_where_there_are_several():
    sizes = {extent.drawn(800, 8, (0.25, 0.5)) for _ in range(200)}
    assert len(sizes) > 10 and all(size % 8 == 0 and 200 <= size <= 400 for size in sizes)
    assert {extent.drawn(20, 8, (0.25, 0.5)) for _ in range(200)} == {5, 6, 7, 8, 9, 10}
